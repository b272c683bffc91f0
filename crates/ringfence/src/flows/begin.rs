//! The beginning that every new version shares, however its bytes come: label
//! → decide → place → a data key.

use std::sync::Arc;

use ringfence_access::permit::Write;
use ringfence_access::{Ask, Permit, Placement};
use ringfence_format::names::Label;
use ringfence_format::redo::{Bucket, Pairs, Version};
use ringfence_store::{Authority, Conditions};
use ringfence_vault::Sealer;

use super::put::early;
use super::{Act, Refused};

/// What an object is to be like.
#[derive(Clone, Debug)]
pub struct About {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its tags, the label tag among them if it has one.
    pub tags: Pairs,
    /// Content headers, lower-case names.
    pub headers: Pairs,
    /// User metadata, names without prefix.
    pub metadata: Pairs,
}

/// A new version that may be written, at sites it may lie at.
pub(super) struct Begun {
    pub(super) bucket: Arc<Bucket>,
    /// Without what its bytes will tell: size, digests, parts.
    pub(super) version: Version,
    pub(super) placement: Placement,
    pub(super) sealer: Sealer,
    pub(super) permit: Permit<Write>,
    ask: Ask,
    inherited: Label,
}

impl Act {
    /// Before the body is read. Conditions are looked at now to spare the
    /// client an upload in vain, and decided at the commit. `source` is the
    /// label of what it is copied from.
    pub(super) fn begin(
        &self,
        op: &'static str,
        about: About,
        conditions: &Conditions,
        source: Option<&Label>,
    ) -> Result<Begun, Refused> {
        let bucket = self.bucket(&about.bucket)?;
        let key = Self::key(&about.key)?;
        let labelled = self.labelled(&bucket, &key, &about.tags)?;
        let object = self.identity(&bucket, self.at.store.new_version());
        let ask = Ask::on_object(op, &bucket, &key, &labelled.label).version(object.clone());

        let permit: Permit<Write> = self.may(ask.clone())?;
        let current = self.at.catalog().locate(&bucket.id, &key, None)?;
        let replaced = current.as_ref().map(|version| &version.label);
        let sources: Vec<&Label> = source.into_iter().collect();
        self.may_lower(&ask, &labelled.label, &labelled.inherited, replaced, &sources).map_err(Refused::denied)?;
        early(conditions, current.as_deref())?;

        // P1 holds from the first byte.
        let (placement, permit) = self.place(permit, ask.clone(), object.clone())?;
        let sealer = self.at.vault.sealer(&permit, object)?;
        let version = Version {
            bucket: bucket.id,
            key,
            uid: sealer.object().version,
            null_version: true,
            delete_marker: false,
            created_ms: self.now_ms(),
            size: 0,
            etag: String::new(),
            label: labelled.label,
            label_source: labelled.source,
            tags: about.tags,
            headers: about.headers,
            metadata: about.metadata,
            checksums: Vec::new(),
            parts: Vec::new(),
            head: Some(sealer.head_info()),
            copies: Vec::new(),
            placed_by: placement.policy_ids().to_vec(),
            policy_epoch: placement.policy_epoch(),
            retention: None,
            legal_hold: false,
        };
        Ok(Begun { bucket, version, placement, sealer, permit, ask, inherited: labelled.inherited })
    }

    /// What the commit thread asks: everything again, against what is there by
    /// then.
    pub(super) fn authority(&self, begun: Begun, source: Option<Label>) -> (Authority<Write>, Placement) {
        let lower = (begun.version.label, begun.inherited, source);
        (self.write_authority(begun.permit, begun.ask, lower), begun.placement)
    }
}
