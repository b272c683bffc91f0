//! What the evidence rules ask of the world: documents by HTTP, and the log.

use std::sync::Arc;

use ringfence_access::evidence::{IssuerEntry, KeyChange, NotFetched, NotRecorded, Pending, Surroundings};
use ringfence_format::record::{Core, Op, Record, Resource, Subject, TimeUs};
use ringfence_log::{Class, Entry, Log};

use super::fetch::Fetcher;

/// The operation under which changes of an issuer's keys are on record.
pub const KEYS_CHANGED: &str = "system:IssuerKeysChanged";

/// The world of a running installation.
pub struct World {
    fetcher: Fetcher,
    log: Arc<Log>,
}

impl World {
    /// Records go to this log.
    pub fn new(log: Arc<Log>) -> Self {
        Self { fetcher: Fetcher::default(), log }
    }
}

impl Surroundings for World {
    fn get<'a>(&'a self, url: &'a str, max: usize) -> Pending<'a, Result<Vec<u8>, NotFetched>> {
        Box::pin(self.fetcher.get(url, max))
    }

    fn keys_changed<'a>(&'a self, change: &'a KeyChange) -> Pending<'a, Result<(), NotRecorded>> {
        Box::pin(async move {
            let entry = Changed(change.clone());
            tracing::warn!(issuer = %change.issuer, "{}", entry.detail());
            metrics::counter!("ringfence_issuer_key_changes").increment(1);
            match self.log.record(entry).await {
                Ok(_recorded) => Ok(()),
                Err(error) => {
                    tracing::error!("keys of issuer `{}` are not taken: {error}", change.issuer);
                    Err(NotRecorded)
                }
            }
        })
    }

    fn failed(&self, issuer: &IssuerEntry, why: &str) {
        tracing::warn!(issuer = %issuer.name, "its keys cannot be had: {why}");
        metrics::counter!("ringfence_issuer_failures").increment(1);
    }
}

/// Goes on record before the keys take effect.
#[derive(Debug)]
struct Changed(KeyChange);

impl Changed {
    fn detail(&self) -> String {
        let KeyChange { issuer, realm, tenant, added, removed, first, shared } = &self.0;
        let list = |what: &str, keys: &[String]| match keys {
            [] => String::new(),
            keys => format!("; {what}: {}", keys.join(", ")),
        };
        let how = if *first { "the first keys seen of" } else { "other keys than before of" };
        let shared = list("shared with another scope and refused unless pinned", shared);
        let whose = format!("issuer `{issuer}` of tenant `{tenant}`, realm `{realm}`");
        format!("{how} {whose}{}{}{shared}", list("added", added), list("removed", removed))
    }
}

impl Entry for Changed {
    fn class(&self) -> Class {
        Class::Reserved
    }

    fn to_record(&self, now_us: TimeUs) -> Record {
        Record {
            core: Core { time_us: now_us, op: Op(KEYS_CHANGED.to_owned()), ..Core::default() },
            // Of the control plane: the tenant may not have been added yet.
            subject: Subject::default(),
            resource: Resource { detail: Some(self.detail()), ..Resource::default() },
            redo: None,
        }
    }
}
