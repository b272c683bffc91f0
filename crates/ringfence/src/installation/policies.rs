//! Which policies are in force, over restarts.
//!
//! `policy.cedar` is what the operator edits; `policy.in-force.cedar` is a copy
//! of what is in force. What counts is the record: an epoch and the SHA-256 of
//! policies, labels, sites and placement tables together. A start that finds
//! another valid set (the file or the configuration was edited meanwhile) puts
//! it on record under the next epoch, with its diff and with whose file it is;
//! one that finds an invalid file refuses. A running server does the same with
//! a file that is edited ([`crate::watch`]).

use std::path::Path;
use std::sync::Arc;

use ringfence_access::caller::{self, PeerCredential};
use ringfence_access::permit::Administer;
use ringfence_access::policy::{DEFAULT_POLICIES, Engine, PolicyErrors, PolicySet, PolicyText};
use ringfence_access::{Ask, Permit, Setting};
use ringfence_db::clock::Clock;
use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_format::record::Seq;
use ringfence_log::Log;
use ringfence_store::Store;

use super::{Installation, cannot, sites};
use crate::cli::{Failure, Kind};
use crate::config::Config;
use crate::retention::time;

/// The copy of the policies in force.
pub const IN_FORCE: &str = "policy.in-force.cedar";

/// Starts the engine with the policies of this directory.
pub(super) async fn start(
    dir: &Path,
    config: &Config,
    store: &Store,
    log: &Log,
    clock: &dyn Clock,
) -> Result<Engine, Failure> {
    let setting = Arc::new(sites::setting(config)?);
    let file = dir.join(&config.policy.file);
    if !file.exists() {
        let text = std::fs::read(dir.join(IN_FORCE)).unwrap_or_else(|_| DEFAULT_POLICIES.as_bytes().to_vec());
        write(&file, &text)?;
    }
    let text = std::fs::read_to_string(&file).map_err(|e| cannot(&format!("read `{}`", file.display()), e))?;
    let set = read_set(&setting, &file, &text).map_err(|errors| {
        Failure::new(Kind::Configuration, &errors).next(format!(
            "mend the file, or bring back what was in force: cp {} {}",
            dir.join(IN_FORCE).display(),
            file.display()
        ))
    })?;
    let failed = |e: &dyn std::fmt::Display| Failure::new(Kind::Unavailable, e);
    let epoch = store.catalog().policy_epoch().map_err(|e| failed(&e))?;
    let sha256 = store.catalog().policy_sha256().map_err(|e| failed(&e))?;
    let epoch = match epoch {
        Some(epoch) if sha256 == Some(set.sha256()) => epoch,
        Some(before) => {
            // Who changed it is decided on by what was in force, like any change.
            let old = in_force(&setting, dir);
            let mut diff = old.as_ref().map_or_else(|| whole(&set), |old| set.diff(old));
            if old.as_ref().is_some_and(|old| Some(old.sha256()) != sha256) {
                // The same texts under another configuration than was recorded.
                diff.push_str("~ labels, sites or placement tables\n");
            }
            let deciding = match old {
                Some(old) => Engine::new(old, before),
                None => Engine::new(read_set(&setting, &file, &text).map_err(|e| failed(&e))?, before),
            };
            let edited = Edited::of(&file)?;
            let detail = format!("found at start: {edited}\n{diff}");
            let permit = permit(&deciding, log, clock, edited.owner, detail).await?;
            let recorded = store.put_policy(Some(permit.into()), before + 1, set.sha256()).await?;
            let (epoch, record) = (before + 1, recorded.index());
            tracing::info!(
                epoch,
                record,
                "policies put in force: they or the configuration changed since the last start"
            );
            epoch
        }
        None => {
            drop(store.put_policy(None, 1, set.sha256()).await?);
            1
        }
    };
    let copy = dir.join(IN_FORCE);
    if std::fs::read_to_string(&copy).ok().as_deref() != Some(&text) {
        write(&copy, text.as_bytes())?;
    }
    Ok(Engine::new(set, epoch))
}

/// What was in force by the copy of it, if that can still be read under the
/// configuration of now. A label or site it names may be gone.
fn in_force(setting: &Arc<Setting>, dir: &Path) -> Option<PolicySet> {
    let file = dir.join(IN_FORCE);
    let text = std::fs::read_to_string(&file).ok()?;
    read_set(setting, &file, &text).ok()
}

/// In place of a diff, where nothing is there to compare with.
fn whole(set: &PolicySet) -> String {
    let mut lines = String::from("what was in force before cannot be read under this configuration; now in force:\n");
    for policy in set.policies() {
        let text = policy.text.split_whitespace().collect::<Vec<_>>().join(" ");
        lines.push_str(&format!("+ {}: {text}\n", policy.id));
    }
    lines
}

/// Who edited a policy file, as far as the file system tells.
#[derive(Clone, Debug)]
pub struct Edited {
    name: String,
    /// The user the file belongs to.
    pub owner: u32,
    modified_us: u64,
}

impl Edited {
    /// Of this file. One that others may write says nothing of who did.
    ///
    /// # Errors
    /// The file cannot be looked at, or more than its owner may write it.
    pub fn of(file: &Path) -> Result<Self, Failure> {
        use std::os::unix::fs::MetadataExt;
        let meta = std::fs::metadata(file).map_err(|e| cannot(&format!("read `{}`", file.display()), e))?;
        if meta.mode() & 0o022 != 0 {
            return Err(Failure::new(Kind::Refused, format!("others than its owner may write `{}`", file.display()))
                .next("chmod go-w it, look at what it says, and put it in force with `ringfence policy apply`"));
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let nanos = meta.mtime().saturating_mul(1_000_000).saturating_add(meta.mtime_nsec() / 1000);
        Ok(Self { name, owner: meta.uid(), modified_us: u64::try_from(nanos).unwrap_or(0) })
    }
}

impl std::fmt::Display for Edited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` of user {}, modified {}", self.name, self.owner, time(self.modified_us))
    }
}

/// The permit of whoever owns an edited file: the operator, decided by the
/// policies in force. A refusal is recorded.
async fn permit(
    engine: &Engine,
    log: &Log,
    clock: &dyn Clock,
    owner: u32,
    detail: String,
) -> Result<Permit<Administer>, Failure> {
    let own = rustix::process::geteuid().as_raw();
    let refused = |why: &str| Failure::new(Kind::Refused, format!("the edited policy file is not put in force: {why}"));
    let caller = match caller::operator(PeerCredential::from_so_peercred(owner), own) {
        Ok(caller) => caller,
        Err(stranger) => {
            drop(log.record(stranger).await?);
            return Err(refused("it belongs to neither the user the server runs as nor root"));
        }
    };
    let ask = Ask::on_installation("admin:PolicyApply").record(|resource| resource.detail = Some(detail));
    match engine.decide::<Administer>(&caller, ask, clock.now_us()) {
        Ok(permit) => Ok(permit),
        Err(denial) => {
            let why = denial.reason().to_owned();
            drop(log.record(denial).await?);
            Err(refused(&why).next("bring back what was in force, or let the operator administer"))
        }
    }
}

impl Installation {
    /// Puts a set in force: its record with diff and actor, then the engine,
    /// then the files. To be called while [`changing_policies`](Self::changing_policies)
    /// is held. The epoch, and the record.
    ///
    /// # Errors
    /// What was in force stays. Where only a file could not be written, the
    /// set is in force and the error says so.
    pub async fn put_in_force(
        &self,
        permit: Permit<Administer>,
        set: PolicySet,
        text: &str,
    ) -> Result<(u64, Seq), Failure> {
        let engine = self.engine();
        let recorded = self.store().put_policy(Some(permit.into()), engine.epoch() + 1, set.sha256()).await?;
        let epoch = engine.adopt_recorded(set, &recorded).map_err(|e| Failure::new(Kind::Unavailable, e))?;
        metrics::gauge!("ringfence_policy_epoch").set(epoch as f64);
        tracing::info!(epoch, record = recorded.index(), "policies put in force");
        keep_policies(self.dir(), self.config(), text)?;
        Ok((epoch, recorded.index()))
    }

    /// Puts an edited policy file in force, by the rules of `policy apply`.
    /// Nothing where it is in force already.
    ///
    /// # Errors
    /// What was in force stays, and why.
    pub async fn put_file_in_force(&self, file: &Path, text: &str) -> Result<Option<(u64, Seq)>, Failure> {
        let _one_at_a_time = self.changing_policies().await;
        let engine = self.engine();
        let setting = engine.set().setting().clone();
        let set = read_set(&setting, file, text).map_err(|e| Failure::new(Kind::Configuration, e))?;
        if set.sha256() == engine.set().sha256() {
            return Ok(None);
        }
        let edited = Edited::of(file)?;
        let detail = format!("found in the watched file: {edited}\n{}", set.diff(&engine.set()));
        let permit = permit(engine, self.log(), self.clock(), edited.owner, detail).await?;
        self.put_in_force(permit, set, text).await.map(Some)
    }
}

/// A policy set from the text of a file.
///
/// # Errors
/// Each thing that is wrong, with its line.
pub fn read_set(setting: &Arc<Setting>, file: &Path, text: &str) -> Result<PolicySet, PolicyErrors> {
    let provider = PolicyText { name: file.display().to_string(), text: text.to_owned() };
    PolicySet::load(setting.clone(), &provider, &[])
}

/// Keeps what was put in force, for the next start: the operator's file and
/// the copy.
///
/// # Errors
/// It is in force all the same; the next start finds the older text.
fn keep_policies(dir: &Path, config: &Config, text: &str) -> Result<(), Failure> {
    write(&dir.join(IN_FORCE), text.as_bytes())?;
    write(&dir.join(&config.policy.file), text.as_bytes())
}

/// Replaces a file, durably.
fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    RealDisk.replace(file, bytes, Durable::Yes).map_err(|e| cannot(&format!("write `{}`", file.display()), e))
}
