//! Object tags: they live in the head, and one of them is the label.

use ringfence_access::permit::{Read, Write};
use ringfence_access::{Ask, Permit};
use ringfence_format::names::SiteId;
use ringfence_format::record::Seq;
use ringfence_format::redo::{Pairs, Version};
use ringfence_store::NewHead;

use super::copy::TRIES;
use super::raise::Raise;
use super::{Act, Refused, Wanted};

impl Act {
    /// The tags of an object.
    pub async fn tags(&self, wanted: &Wanted) -> Result<(std::sync::Arc<Version>, Seq), Refused> {
        let (_, version, permit): (_, _, Permit<Read>) = self.find("s3:GetObjectTagging", wanted)?;
        let seq = self.record(permit).await?.index();
        Ok((version, seq))
    }

    /// Replaces the tags of an object, and with them perhaps its label, by a
    /// new head beside every copy.
    ///
    /// For a label that the sites it lies at may not hold, it is sealed again
    /// elsewhere and erased there before this returns; where that cannot be
    /// done it is refused (409) with the reason, and nothing changed.
    pub async fn tag(
        &self,
        op: &'static str,
        wanted: &Wanted,
        tags: Pairs,
    ) -> Result<(std::sync::Arc<Version>, Seq), Refused> {
        for _ in 1..TRIES {
            match self.tag_once(op, wanted, tags.clone()).await {
                Err(refused) if refused.is_race() => {}
                done => return done,
            }
        }
        self.tag_once(op, wanted, tags).await
    }

    async fn tag_once(
        &self,
        op: &'static str,
        wanted: &Wanted,
        tags: Pairs,
    ) -> Result<(std::sync::Arc<Version>, Seq), Refused> {
        let bucket = self.bucket(&wanted.bucket)?;
        let key = Self::key(&wanted.key)?;
        let located = self.at.catalog().locate(&bucket.id, &key, wanted.version)?;
        let labelled = self.labelled(&bucket, &key, &tags)?;
        let ask = Ask::on_object(op, &bucket, &key, &labelled.label);
        let Some(version) = located.filter(|version| !version.delete_marker) else {
            let _may: Permit<Write> = self.may(ask)?;
            return Err(Refused::new("NoSuchKey", "the object does not exist"));
        };
        let object = self.identity(&bucket, version.uid);
        let ask = ask.version(object.clone());
        let permit: Permit<Write> = self.may(ask.clone())?;
        self.may_lower(&ask, &labelled.label, &labelled.inherited, Some(&version.label), &[])
            .map_err(Refused::denied)?;
        self.settle_erasure(&version).await?;
        let allowed = self.at.engine.allowed_sites(&bucket, &labelled.label);
        let sites = version.copies.iter().map(|copy| &copy.site);
        let leaves: Vec<SiteId> = sites.filter(|site| !allowed.contains(site)).cloned().collect();
        if !leaves.is_empty() {
            let raise = Raise { op, bucket: &bucket, version: &version, labelled, tags, leaves };
            return self.raise(raise, permit).await;
        }
        let head = version.head.as_ref().ok_or_else(|| Refused::new("MethodNotAllowed", "it has no tags"))?;
        let sealer = self.at.vault.resume_sealer(&permit, object, head)?.next_head();
        let new = Version {
            tags: tags.clone(),
            label: labelled.label.clone(),
            label_source: labelled.source,
            head: Some(sealer.head_info()),
            ..(*version).clone()
        };
        let sealed = sealer.seal_head(&new, &bucket)?;
        let heads = self.at.store.put_new_heads(&version, sealed).await?;
        let lower = (labelled.label.clone(), labelled.inherited.clone(), None);
        let authority = self.write_authority(permit, ask, lower);
        let head =
            NewHead { heads, head: sealer.head_info(), label: labelled.label, label_source: labelled.source, tags };
        let seq = self.at.store.rehead(authority, head).await?.index();
        Ok((version, seq))
    }
}
