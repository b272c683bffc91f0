//! Delete: decide → record and commit in one step → answer; the bytes are
//! erased after a grace for readers.

use ringfence_access::permit::Delete;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::ObjectKey;
use ringfence_format::record::Seq;
use ringfence_format::redo::Bucket;
use ringfence_store::{DeleteTarget, Deleted, Outcome, VersionRef};

use super::{Act, Refused};

/// One object of a delete.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its key.
    pub key: String,
    /// Which version; `Err` where the client named none that can exist.
    pub version: Option<Result<VersionRef, ()>>,
    /// `If-Match`, without quotes.
    pub if_match: Option<String>,
}

/// What became of one object of a bulk delete.
pub type Gone = Result<(), Refused>;

impl Act {
    /// Takes one object away. There being none is success.
    pub async fn delete(&self, bucket: &str, target: Target) -> Result<Seq, Refused> {
        let bucket = self.bucket(bucket)?;
        let key = Self::key(&target.key)?;
        let permit = self.may_delete("s3:DeleteObject", &bucket, &key, &target)?;
        if target.version == Some(Err(())) {
            return Ok(self.record(permit).await?.index());
        }
        let target = DeleteTarget { key, version: version(&target), if_match: target.if_match };
        let committed = self.at.store.delete_versions(self.renewed(permit), bucket.id, vec![target]).await?;
        Ok(committed.index())
    }

    /// Takes many away: one record with all names, one step; what policy or a
    /// condition keeps is told per key.
    pub async fn delete_many(&self, bucket: &str, targets: Vec<Target>) -> Result<(Vec<Gone>, Seq), Refused> {
        let bucket = self.bucket(bucket)?;
        let mut gone: Vec<Option<Gone>> = Vec::with_capacity(targets.len());
        let mut asked = Vec::new();
        for target in &targets {
            gone.push(match self.deletable(&bucket, target).await {
                Ok(Some(target)) => {
                    asked.push(target);
                    None
                }
                Ok(None) => Some(Ok(())),
                Err(refused) => Some(Err(refused)),
            });
        }
        let names: Vec<String> = asked.iter().map(|target| target.key.to_string()).collect();
        let ask = self.on_bucket("s3:DeleteObjects", &bucket).record(|resource| {
            resource.count = Some(names.len() as u64);
            resource.names = names;
        });
        let permit: Permit<Delete> = self.may(ask)?;
        let (done, seq) = self.delete_asked(&bucket, permit, asked).await?;
        let mut done = done.into_iter();
        let gone = gone.into_iter().map(|known| known.or_else(|| done.next()).unwrap_or(Ok(())));
        Ok((gone.collect(), seq))
    }

    /// One by one would be one record each; a single conflict is not the
    /// error of all, unless it is the only target.
    async fn delete_asked(
        &self,
        bucket: &Bucket,
        permit: Permit<Delete>,
        asked: Vec<DeleteTarget>,
    ) -> Result<(Vec<Gone>, Seq), Refused> {
        if asked.is_empty() {
            return Ok((Vec::new(), self.record(permit).await?.index()));
        }
        let alone = asked.len() == 1;
        match self.at.store.delete_versions(self.renewed(permit), bucket.id, asked).await {
            Ok(committed) => {
                let seq = committed.index();
                let Outcome::Deleted(each) = committed.outcome() else { return Ok((Vec::new(), seq)) };
                let each = each.iter().map(|deleted| match deleted {
                    Deleted::Gone { .. } | Deleted::Absent { .. } => Ok(()),
                    Deleted::Kept { why, .. } => Err(Refused::from(why.clone())),
                });
                Ok((each.collect(), seq))
            }
            Err(ringfence_store::CommitError::Conflict(why)) if alone => {
                let refused = self.settle("s3:DeleteObjects", Refused::from(why)).await?;
                let seq = refused.recorded.unwrap_or_default();
                Ok((vec![Err(refused)], seq))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A target that may be deleted; `None` where there is nothing to do. A
    /// denial is put on record here: it is the answer for its key.
    async fn deletable(&self, bucket: &Bucket, target: &Target) -> Result<Option<DeleteTarget>, Refused> {
        let key = Self::key(&target.key)?;
        match self.may_delete("s3:DeleteObjects", bucket, &key, target) {
            Ok(_) if target.version == Some(Err(())) => Ok(None),
            Ok(_) => Ok(Some(DeleteTarget { key, version: version(target), if_match: target.if_match.clone() })),
            Err(refused) => Err(self.settle("s3:DeleteObjects", refused).await?),
        }
    }

    fn may_delete(
        &self,
        op: &'static str,
        bucket: &Bucket,
        key: &ObjectKey,
        target: &Target,
    ) -> Result<Permit<Delete>, Refused> {
        // Without the catalogue's word on its label nothing is decided.
        let found = self.at.catalog().locate(&bucket.id, key, version(target))?;
        let inherited = || self.at.labels.effective(&bucket.tenant, &bucket.name, &bucket.tags, key, &Vec::new());
        let label = match &found {
            Some(version) => version.label.clone(),
            None => inherited().map_or_else(|_| self.bucket_label(bucket), |labelled| labelled.label),
        };
        let mut ask = Ask::on_object(op, bucket, key, &label);
        if let Some(version) = &found {
            ask = ask.version(self.identity(bucket, version.uid));
        }
        self.may(ask)
    }

    /// Puts a refusal on record that does not end its request.
    async fn settle(&self, op: &'static str, mut refused: Refused) -> Result<Refused, Refused> {
        let seq = match refused.denial.take() {
            Some(denial) => self.record(*denial).await?.index(),
            None => {
                let entry = super::Unrecorded {
                    subject: self.caller.subject(Some(self.caller.tenant())),
                    op,
                    resource: ringfence_format::record::Resource::default(),
                    status: 0,
                    code: refused.code.to_owned(),
                    reason: refused.reason.clone(),
                    of: None,
                };
                self.record(entry).await?.index()
            }
        };
        refused.recorded = Some(seq);
        Ok(refused)
    }
}

fn version(target: &Target) -> Option<VersionRef> {
    target.version.and_then(Result::ok)
}
