//! Which witnesses must cosign: the last set in the log that the realm's root
//! signed and that follows the one before (ruling 24). Only where they are
//! asked stands in the configuration.

use std::sync::Arc;

use ringfence_access::manifests::Roots;
use ringfence_access::permit::{Administer, Permit};
use ringfence_format::leaf::{PublicEntry, WITNESS_SET};
use ringfence_format::names::Realm;
use ringfence_format::record::{Record, TimeUs};
use ringfence_format::session::PublicKey;
use ringfence_format::witness::{SignedWitnessSet, WitnessSet};
use ringfence_log::{Class, Entry, Log, LogError};
use tokio::sync::{Mutex, mpsc};

use super::client::{self, Asked, Event};
use crate::alarm::{Alarm, AlarmKind};
use crate::cli::{Failure, Kind};
use crate::config::Config;
use crate::installation::Installation;
use crate::serve::Stopping;

/// The set in force; changes wait for each other.
#[derive(Debug, Default)]
pub struct InForce(Mutex<Option<WitnessSet>>);

/// The last set in the log that counts.
fn last_set(log: &Log, realm: &Realm, roots: &Roots) -> Result<Option<WitnessSet>, LogError> {
    let mut last = None;
    for entry in log.read_public(0) {
        let (seq, public) = entry?;
        if public.kind != WITNESS_SET {
            continue;
        }
        let read = SignedWitnessSet::from_bytes(&public.bytes).map_err(|e| e.to_string());
        let checked = read.and_then(|signed| check(&signed, realm, roots, last.as_ref()).map(|()| signed.set));
        match checked {
            Ok(set) => last = Some(set),
            // The one before stays in force: a set that anybody could put
            // there would be worth nothing.
            Err(why) => tracing::error!("record #{seq} is no set of witnesses that counts: {why}"),
        }
    }
    Ok(last)
}

fn quorum(set: Option<&WitnessSet>) -> Result<Option<ringfence_format::witness::Quorum>, Failure> {
    set.map_or(Ok(None), |set| set.quorum().map_err(|e| Failure::new(Kind::Wrong, e)))
}

/// Whether a set may follow the last one.
fn check(signed: &SignedWitnessSet, realm: &Realm, roots: &Roots, last: Option<&WitnessSet>) -> Result<(), String> {
    let by_root = |root: &PublicKey| match root {
        PublicKey::Ed25519(public) => signed.is_signed_by(public),
        PublicKey::P384(_) => false,
    };
    if signed.set.realm != *realm || !roots.iter().any(|root| by_root(&root.public)) {
        return Err(format!("the root of realm `{realm}` has not signed it"));
    }
    signed.set.quorum().map_err(|e| e.to_string())?;
    signed.set.follows(last).map_err(|e| e.to_string())
}

/// The record that puts a set in force.
struct Setting {
    permit: Permit<Administer>,
    public: PublicEntry,
}

impl Entry for Setting {
    fn to_record(&self, now_us: TimeUs) -> Record {
        Record { public: Some(self.public.clone()), ..self.permit.to_record(now_us) }
    }
    fn class(&self) -> Class {
        self.permit.class()
    }
    fn deadline_us(&self) -> Option<TimeUs> {
        self.permit.deadline_us()
    }
}

impl Installation {
    /// Reads from the log's public entries who must cosign, and tells the log.
    ///
    /// # Errors
    /// The log's public entries are not what was signed.
    pub(crate) async fn take_up_witnesses(&self) -> Result<(), Failure> {
        let (log, realm, roots) = (self.log().clone(), self.realm.clone(), self.authority().roots(&self.realm));
        let read = tokio::task::spawn_blocking(move || last_set(&log, &realm, &roots)).await;
        let last = read.map_err(Failure::internal)??;
        self.log().set_quorum(quorum(last.as_ref())?);
        *self.witnesses.0.lock().await = last;
        Ok(())
    }

    /// The set in force.
    pub async fn witness_set(&self) -> Option<WitnessSet> {
        self.witnesses.0.lock().await.clone()
    }

    /// The set that would come next, for the realm's root to sign.
    pub async fn next_witness_set(&self, k: u32, witnesses: Vec<String>) -> Result<WitnessSet, Failure> {
        let last = self.witness_set().await;
        let set = WitnessSet {
            version: 0,
            realm: self.realm.clone(),
            seq: last.as_ref().map_or(1, |last| last.seq + 1),
            previous: last.as_ref().map(WitnessSet::sha256),
            k,
            witnesses,
            made_s: self.clock().now_us() / 1_000_000,
        };
        set.quorum().map_err(|e| Failure::new(Kind::Usage, e))?;
        Ok(set)
    }

    /// Signs a set with the development root.
    ///
    /// # Errors
    /// The root is offline.
    pub fn sign_witness_set(&self, set: WitnessSet) -> Result<SignedWitnessSet, Failure> {
        let signature = self.vault().sign_root_change(&self.realm, &set.to_be_signed());
        let signature = signature.map_err(|e| {
            Failure::new(Kind::Unavailable, e)
                .next("write the set with `--request FILE`, have the root sign it, and give it with `--signed FILE`")
        })?;
        Ok(SignedWitnessSet { set, signature })
    }

    /// Puts a set in force: recorded with its public entry first. The position
    /// of its record.
    pub async fn set_witnesses(&self, permit: Permit<Administer>, signed: SignedWitnessSet) -> Result<u64, Failure> {
        let mut last = self.witnesses.0.lock().await;
        let roots = self.authority().roots(&self.realm);
        check(&signed, &self.realm, &roots, last.as_ref()).map_err(|why| Failure::new(Kind::Wrong, why))?;
        let quorum = quorum(Some(&signed.set))?;
        let public = PublicEntry { kind: WITNESS_SET, bytes: signed.to_bytes() };
        let recorded = self.log().record(Setting { permit, public }).await?;
        self.log().set_quorum(quorum);
        let lowered = last.as_ref().is_some_and(|last| signed.set.lowers(last));
        let was = last.as_ref().map_or_else(|| "none".to_owned(), |l| format!("{} of {}", l.k, l.witnesses.len()));
        let now = format!("{} of {}", signed.set.k, signed.set.witnesses.len());
        *last = Some(signed.set);
        drop(last);
        if lowered {
            let detail = format!("the quorum of witnesses was {was} and is {now}");
            self.raise(AlarmKind::QuorumLowered, detail, Some(recorded.index())).await;
        }
        Ok(recorded.index())
    }

    async fn raise(&self, kind: AlarmKind, detail: String, of: Option<u64>) {
        self.alarms().raise(Alarm { kind, realm: Some(self.realm.clone()), tenant: None, detail, of }).await;
    }
}

/// The witnesses of the configuration.
///
/// # Errors
/// A key or URL that cannot be read; the configuration was checked before.
pub fn configured(config: &Config) -> Result<Vec<Asked>, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Configuration, format!("`[[witness]]`: {e}"));
    let asked = config.witness.iter().map(|witness| {
        let key = witness.key.parse().map_err(|e| wrong(&e))?;
        Ok(Asked { key, url: witness.url.parse().map_err(|e| wrong(&e))? })
    });
    asked.collect()
}

/// Asks the witnesses until the server stops, and raises what must be heard.
pub async fn run(installation: Arc<Installation>, stopping: Stopping) {
    let asked = match configured(installation.config()) {
        Ok(asked) => asked,
        Err(failure) => return tracing::error!("witnesses are not asked: {failure}"),
    };
    let (events, mut heard) = mpsc::channel(16);
    let collecting = client::collect(installation.log().clone(), asked, events, stopping);
    let raising = async {
        while let Some(event) = heard.recv().await {
            match event {
                Event::Fork(why) => installation.raise(AlarmKind::LogFork, why, None).await,
                Event::QuorumLost(why) => installation.raise(AlarmKind::QuorumLost, why, None).await,
                Event::QuorumBack => tracing::info!("the quorum of witnesses is back"),
            }
        }
    };
    tokio::join!(collecting, raising);
}
