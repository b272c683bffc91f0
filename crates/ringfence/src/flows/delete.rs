//! Delete: decide → record and commit in one step → answer; the bytes are
//! erased after a grace for readers.

use ringfence_access::permit::Delete;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::{Label, ObjectKey};
use ringfence_format::record::Seq;
use ringfence_format::redo::Bucket;
use ringfence_store::{Authority, DeleteTarget, Deleted, Outcome, Standing, VersionRef};

use super::copy::TRIES;
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
    ///
    /// What is taken away is decided by its label when it is taken away: if
    /// another version came meanwhile, that one is asked about.
    pub async fn delete(&self, bucket: &str, target: Target) -> Result<Seq, Refused> {
        for _ in 1..TRIES {
            match self.delete_once(bucket, &target).await {
                Err(refused) if refused.is_race() => {}
                done => return done,
            }
        }
        self.delete_once(bucket, &target).await
    }

    async fn delete_once(&self, bucket: &str, target: &Target) -> Result<Seq, Refused> {
        let bucket = self.bucket(bucket)?;
        let key = Self::key(&target.key)?;
        let (permit, label) = self.may_delete("s3:DeleteObject", &bucket, &key, target)?;
        if target.version == Some(Err(())) {
            return Ok(self.record(permit).await?.index());
        }
        let target =
            DeleteTarget { key, version: version(target), if_match: target.if_match.clone(), label: Some(label) };
        let committed = self.at.store.delete_versions(self.renewed(permit), bucket.id, vec![target]).await?;
        Ok(committed.index())
    }

    /// Takes many away: one record with all names, one step; what policy or a
    /// condition keeps is told per key.
    pub async fn delete_many(&self, bucket: &str, targets: Vec<Target>) -> Result<(Vec<Gone>, Seq), Refused> {
        let mut gone: Vec<Option<Gone>> = targets.iter().map(|_| None).collect();
        let mut seq = None;
        for round in 1..=TRIES {
            let open: Vec<usize> = (0..targets.len()).filter(|i| gone[*i].is_none()).collect();
            let asked: Vec<&Target> = open.iter().map(|i| &targets[*i]).collect();
            let (done, at) = match self.delete_round(bucket, &asked).await {
                // The policies changed meanwhile: each key is asked about again.
                Err(refused) if refused.denial.is_some() && round < TRIES => {
                    let _on_record = self.settle("s3:DeleteObjects", refused).await?;
                    continue;
                }
                done => done?,
            };
            seq.get_or_insert(at);
            for (i, done) in open.into_iter().zip(done) {
                let again = round < TRIES && matches!(&done, Err(refused) if refused.is_race());
                gone[i] = (!again).then_some(done);
            }
            if gone.iter().all(Option::is_some) {
                break;
            }
        }
        let seq =
            seq.ok_or_else(|| Refused::inside("InternalError", "internal error", "no round of a delete ended"))?;
        Ok((gone.into_iter().map(|gone| gone.unwrap_or(Ok(()))).collect(), seq))
    }

    /// Decides each key, then takes away in one step those that may go.
    async fn delete_round(&self, bucket: &str, targets: &[&Target]) -> Result<(Vec<Gone>, Seq), Refused> {
        let bucket = self.bucket(bucket)?;
        let mut gone: Vec<Option<Gone>> = Vec::with_capacity(targets.len());
        let mut asked = Vec::new();
        let mut asks = Vec::new();
        for target in targets {
            gone.push(match self.deletable(&bucket, target).await {
                Ok(Some((target, ask))) => {
                    asked.push(target);
                    asks.push(ask);
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
        let (done, seq) = self.delete_asked(&bucket, permit, asked, asks).await?;
        let mut done = done.into_iter();
        let gone = gone.into_iter().map(|known| known.or_else(|| done.next()).unwrap_or(Ok(())));
        Ok((gone.collect(), seq))
    }

    /// The permit for the bucket, renewed by the commit thread; if the policies
    /// changed since, each key is decided again with it.
    fn renewed_with(&self, permit: Permit<Delete>, asks: Vec<Ask>) -> Authority<Delete> {
        let act = self.clone();
        Authority::anew(move |_: &Standing<'_>| {
            if permit.policy_epoch() != act.at.engine.epoch() {
                for ask in asks {
                    let _may: Permit<Delete> = act.at.engine.decide(&act.caller, ask, act.now_us())?;
                }
            }
            act.at.engine.renew(permit, &act.at.keys, act.now_us()).map_err(Box::new)
        })
    }

    /// One by one would be one record each; a single conflict is not the
    /// error of all, unless it is the only target.
    async fn delete_asked(
        &self,
        bucket: &Bucket,
        permit: Permit<Delete>,
        asked: Vec<DeleteTarget>,
        asks: Vec<Ask>,
    ) -> Result<(Vec<Gone>, Seq), Refused> {
        if asked.is_empty() {
            return Ok((Vec::new(), self.record(permit).await?.index()));
        }
        let alone = asked.len() == 1;
        match self.at.store.delete_versions(self.renewed_with(permit, asks), bucket.id, asked).await {
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
    async fn deletable(&self, bucket: &Bucket, target: &Target) -> Result<Option<(DeleteTarget, Ask)>, Refused> {
        let key = Self::key(&target.key)?;
        match self.may_delete("s3:DeleteObjects", bucket, &key, target) {
            Ok(_) if target.version == Some(Err(())) => Ok(None),
            Ok((_, label)) => {
                let ask = Ask::on_object("s3:DeleteObjects", bucket, &key, &label);
                let if_match = target.if_match.clone();
                Ok(Some((DeleteTarget { key, version: version(target), if_match, label: Some(label) }, ask)))
            }
            Err(refused) => Err(self.settle("s3:DeleteObjects", refused).await?),
        }
    }

    fn may_delete(
        &self,
        op: &'static str,
        bucket: &Bucket,
        key: &ObjectKey,
        target: &Target,
    ) -> Result<(Permit<Delete>, Label), Refused> {
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
        Ok((self.may(ask)?, label))
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
