//! Buckets: make, take away, tell about, tag.

use std::sync::Arc;

use ringfence_access::permit::{Delete, List, Read, Write};
use ringfence_access::{Ask, Permit};
use ringfence_format::names::{BucketName, SiteId};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Bucket, Pairs};
use ringfence_store::CommitError;

use super::list::names_digest;
use super::{Act, Refused};

/// A bucket to be made.
#[derive(Clone, Debug)]
pub struct NewBucket {
    /// Its name.
    pub name: String,
    /// A site that everything in it must lie at.
    pub location: Option<String>,
    /// Its tags.
    pub tags: Pairs,
}

/// Constraints that ask for no particular site (ruling 9).
const NOWHERE: [&str; 2] = ["", "us-east-1"];

impl Act {
    /// Makes a bucket, pinned to a site if its location names one.
    pub async fn create_bucket(&self, new: NewBucket) -> Result<Seq, Refused> {
        let name = BucketName::parse(&new.name).map_err(|why| Refused::new("InvalidBucketName", why.to_string()))?;
        let pin = new.location.filter(|place| !NOWHERE.contains(&place.as_str())).map(|place| self.pin(&place));
        self.at.labels.check_tags(&new.tags).map_err(|why| Refused::new("InvalidTag", why.to_string()))?;
        let bucket = Bucket {
            id: self.at.store.new_bucket(),
            name,
            tenant: self.caller.tenant().clone(),
            created_ms: self.now_ms(),
            pin: pin.transpose()?,
            tags: new.tags,
        };
        let permit: Permit<Write> = self.may(self.on_bucket("s3:CreateBucket", &bucket))?;
        match self.at.store.create_bucket(self.renewed(permit), bucket).await {
            Ok(committed) => Ok(committed.index()),
            Err(CommitError::Conflict(ringfence_store::Conflict::BucketExists { owner }))
                if owner == *self.caller.tenant() =>
            {
                Err(Refused::new("BucketAlreadyOwnedByYou", "the bucket exists and is yours"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn pin(&self, place: &str) -> Result<SiteId, Refused> {
        let known = SiteId::parse(place).ok().filter(|site| self.at.store.site(site).is_some());
        known.ok_or_else(|| {
            Refused::new("InvalidLocationConstraint", "the location constraint is no site of this installation")
        })
    }

    /// Takes an empty bucket away.
    pub async fn delete_bucket(&self, name: &str) -> Result<Seq, Refused> {
        let bucket = self.bucket(name)?;
        let permit: Permit<Delete> = self.may(self.on_bucket("s3:DeleteBucket", &bucket))?;
        Ok(self.at.store.delete_bucket(self.renewed(permit), bucket.id).await?.index())
    }

    /// Says whether it is there and may be seen; the answer is the bucket.
    pub async fn see_bucket(&self, op: &'static str, name: &str) -> Result<(Arc<Bucket>, Seq), Refused> {
        let bucket = self.bucket(name)?;
        let permit: Permit<Read> = self.may(self.on_bucket(op, &bucket))?;
        Ok((bucket, self.record(permit).await?.index()))
    }

    /// The caller's buckets by name.
    pub async fn list_buckets(
        &self,
        prefix: &str,
        after: &str,
        max: usize,
    ) -> Result<(Vec<Arc<Bucket>>, bool, Seq), Refused> {
        let mut buckets = self.at.catalog().buckets_of(self.caller.tenant());
        buckets.retain(|bucket| bucket.name.as_str().starts_with(prefix) && bucket.name.as_str() > after);
        let more = buckets.len() > max;
        buckets.truncate(max);
        let names: Vec<&str> = buckets.iter().map(|bucket| bucket.name.as_str()).collect();
        let ask = Ask::on_tenant("s3:ListBuckets", self.caller.tenant()).record(|resource| {
            resource.count = Some(names.len() as u64);
            resource.names_sha256 = Some(names_digest(names.iter().copied()));
        });
        let permit: Permit<List> = self.may(ask)?;
        let seq = self.record(permit).await?.index();
        Ok((buckets, more, seq))
    }

    /// Replaces a bucket's tags. Its label tag governs new versions at once;
    /// lowering it needs its own permission.
    pub async fn tag_bucket(&self, op: &'static str, name: &str, tags: Pairs) -> Result<Seq, Refused> {
        let was = self.bucket(name)?;
        self.at.labels.check_tags(&tags).map_err(|why| Refused::new("InvalidTag", why.to_string()))?;
        let now = Bucket { tags, ..(*was).clone() };
        let (before, after) = (self.bucket_label(&was), self.bucket_label(&now));
        let ask = self.on_bucket(op, &now);
        let permit: Permit<Write> = self.may(ask.clone())?;
        self.may_lower(&ask, &after, &after, Some(&before), &[]).map_err(Refused::denied)?;
        Ok(self.at.store.update_bucket(self.renewed(permit), (*was).clone(), now).await?.index())
    }
}
