//! What is known of one request while it is answered.

use std::sync::{Arc, OnceLock};

use ringfence_access::Caller;
use ringfence_access::caller::{Origin, Unauthenticated};
use ringfence_format::names::{BucketName, KeyId, ObjectKey};
use ringfence_format::record::{Resource, Seq};

use crate::sessions::Live;

/// Travels with a request as an extension; the outer layer keeps the other end.
pub(super) struct Scope {
    origin: Origin,
    claimed_key: Option<KeyId>,
    live: Option<Arc<Live>>,
    caller: OnceLock<Arc<Caller>>,
    refused: OnceLock<Unauthenticated>,
    op: OnceLock<&'static str>,
    bucket: OnceLock<Option<BucketName>>,
    key: OnceLock<Option<ObjectKey>>,
    recorded: OnceLock<Seq>,
}

impl Scope {
    /// `live` is the session whose token came with the request, verified.
    pub(super) fn of(origin: Origin, claimed_key: Option<KeyId>, live: Option<Arc<Live>>) -> Self {
        Self {
            origin,
            claimed_key,
            live,
            caller: OnceLock::new(),
            refused: OnceLock::new(),
            op: OnceLock::new(),
            bucket: OnceLock::new(),
            key: OnceLock::new(),
            recorded: OnceLock::new(),
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }
    pub(super) fn claimed_key(&self) -> Option<&KeyId> {
        self.claimed_key.as_ref()
    }
    pub(super) fn live(&self) -> Option<&Arc<Live>> {
        self.live.as_ref()
    }
    pub(super) fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.get()
    }
    pub(super) fn refused(&self) -> Option<Unauthenticated> {
        self.refused.get().cloned()
    }
    pub(super) fn recorded(&self) -> Option<Seq> {
        self.recorded.get().copied()
    }
    pub(super) fn op(&self) -> &'static str {
        self.op.get().copied().unwrap_or("s3:Authenticate")
    }
    pub(super) fn resource(&self) -> Resource {
        let bucket = self.bucket.get().cloned().flatten();
        Resource { bucket, key: self.key.get().cloned().flatten(), ..Resource::default() }
    }

    pub(super) fn asks(&self, op: &'static str, bucket: Option<&str>, key: Option<&str>) {
        let _ = self.op.set(op);
        let _ = self.bucket.set(bucket.and_then(|name| BucketName::parse(name).ok()));
        let _ = self.key.set(key.and_then(|key| ObjectKey::parse(key).ok()));
    }
    pub(super) fn is(&self, caller: Caller) {
        let _ = self.caller.set(Arc::new(caller));
    }
    pub(super) fn is_refused(&self, refused: Unauthenticated) {
        let _ = self.refused.set(refused);
    }
    /// Where the answer is on record. The first word stands: the record that
    /// released data, not one that came after it.
    pub(super) fn is_recorded(&self, seq: Seq) {
        let _ = self.recorded.set(seq);
    }
}
