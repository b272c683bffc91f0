//! The flows: what is done with a request, in the words of the architecture.
//!
//! Each reads top-down: decide → place → seal → store → record and commit, or
//! locate → decide → record beside fetch → open. None names anything of HTTP;
//! [`crate::s3`] turns bytes into their arguments and their results into
//! bytes. A flow that refuses returns a [`Refused`]; the wire puts it on
//! record before it answers.

mod begin;
mod bucket;
mod copy;
mod delete;
mod digest;
mod get;
pub mod issue;
mod list;
mod multipart;
mod put;
mod raise;
mod refused;
mod tagging;

pub use begin::About;
pub use bucket::NewBucket;
pub use copy::{CopyTo, Directive, PartFrom, SourceRef};
pub use delete::Target;
pub use digest::{ALGORITHMS, Algorithm, Digests, Sums, combine};
pub use get::{Preconditions, Reading, Span, Wanted};
pub use multipart::{CompletedPart, NewUpload, UploadRef};
pub use put::{NewObject, Plain, Put};
pub use refused::{Refused, Unrecorded};

use std::sync::Arc;

use ringfence_access::labels::{Above, Labelled};
use ringfence_access::permit::{Action, LowerLabel};
use ringfence_access::{Ask, Caller, Permit};
use ringfence_format::names::{BucketName, Label, ObjectKey, ObjectVersion, VersionUid};
use ringfence_format::redo::{Bucket, Pairs, Version};
use ringfence_log::{Entry, Recorded};
use ringfence_store::{Authority, Standing};

use crate::installation::Installation;

/// One caller's request under way.
#[derive(Clone)]
pub struct Act {
    /// Everything there is.
    pub at: Arc<Installation>,
    /// Who asks; shared with the commit thread, which decides again.
    pub caller: Arc<Caller>,
}

impl Act {
    fn now_us(&self) -> u64 {
        self.at.clock.now_us()
    }

    fn now_ms(&self) -> u64 {
        self.now_us() / 1000
    }

    /// The bucket of that name, whoever owns it: policy decides next.
    fn bucket(&self, name: &str) -> Result<Arc<Bucket>, Refused> {
        let name = BucketName::parse(name).map_err(|why| Refused::new("NoSuchBucket", why.to_string()))?;
        let found = self.at.catalog().bucket_by_name(&name);
        found.ok_or_else(|| Refused::new("NoSuchBucket", "the bucket does not exist"))
    }

    fn key(key: &str) -> Result<ObjectKey, Refused> {
        ObjectKey::parse(key).map_err(|_| Refused::new("KeyTooLongError", "a key has 1 to 1024 bytes"))
    }

    /// Policy's answer, as a permit or a refusal that carries the denial.
    fn may<A: Action>(&self, ask: Ask) -> Result<Permit<A>, Refused> {
        self.at.engine.decide(&self.caller, ask, self.now_us()).map_err(|denial| Refused::denied(denial.into()))
    }

    /// Puts an entry on record.
    async fn record<T: Entry + Send + 'static>(&self, entry: T) -> Result<Recorded<T>, Refused> {
        self.at.log.record(entry).await.map_err(Refused::from)
    }

    /// The label an object of this key and these tags has in this bucket.
    fn labelled(&self, bucket: &Bucket, key: &ObjectKey, tags: &Pairs) -> Result<Labelled, Refused> {
        let labelled = self.at.labels.effective(&bucket.tenant, &bucket.name, &bucket.tags, key, tags);
        labelled.map_err(|unknown| Refused::new("InvalidTag", unknown.to_string()))
    }

    /// The label an object without a tag of its own has in this bucket.
    fn inherited(&self, bucket: &Bucket, key: &ObjectKey) -> Label {
        let labelled = self.at.labels.effective(&bucket.tenant, &bucket.name, &bucket.tags, key, &Vec::new());
        labelled.map_or_else(|_| self.at.labels.labels().strictest().clone(), |labelled| labelled.inherited)
    }

    /// The label for decisions about the bucket itself.
    fn bucket_label(&self, bucket: &Bucket) -> Label {
        self.at.labels.of_bucket(&bucket.tenant, &bucket.name, &bucket.tags)
    }

    fn on_bucket(&self, op: &'static str, bucket: &Bucket) -> Ask {
        Ask::on_bucket(op, bucket, &self.bucket_label(bucket))
    }

    fn identity(&self, bucket: &Bucket, version: VersionUid) -> ObjectVersion {
        ObjectVersion {
            realm: self.at.realm_of(&bucket.tenant),
            tenant: bucket.tenant.clone(),
            bucket: bucket.id,
            version,
        }
    }

    /// Every label that `new` is lower than needs its own permission.
    fn may_lower(
        &self,
        ask: &Ask,
        new: &Label,
        inherited: &Label,
        replaced: Option<&Label>,
        sources: &[&Label],
    ) -> Result<(), Box<ringfence_access::Denial>> {
        for (above, from) in self.at.labels.lowerings(new, inherited, replaced, sources) {
            let detail = match above {
                Above::Inherited => "below the label it inherits",
                Above::Replaced => "below the label of the version it replaces",
                Above::Source => "below the label of what it was copied from",
            };
            let ask = ask.clone().lowering_from(&from).record(|r| r.detail = Some(detail.to_owned()));
            let _permit: Permit<LowerLabel> = self.at.engine.decide(&self.caller, ask, self.now_us())?;
        }
        Ok(())
    }

    /// A permit that the commit thread renews: key and policies are asked
    /// again as late as possible, and that answer is the one on record
    /// (ruling 2).
    fn renewed<A: Action>(&self, permit: Permit<A>) -> Authority<A> {
        let act = self.clone();
        Authority::anew(move |_: &Standing<'_>| {
            act.at.engine.renew(permit, &act.at.keys, act.now_us()).map_err(Box::new)
        })
    }
}

/// The version as S3 names it.
pub fn version_name(version: &Version) -> String {
    if version.null_version { "null".to_owned() } else { version.uid.to_string() }
}
