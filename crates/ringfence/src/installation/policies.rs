//! Which policies are in force, over restarts.
//!
//! `policy.cedar` is what the operator edits; `policy.in-force.cedar` is a copy
//! of what is in force. What counts is the record: an epoch and the SHA-256 of
//! policies, labels, sites and placement tables together. A start that finds
//! another valid set (the file or the configuration was edited meanwhile) puts
//! it on record under the next epoch; one that finds an invalid file refuses.

use std::path::Path;
use std::sync::Arc;

use ringfence_access::Setting;
use ringfence_access::policy::{DEFAULT_POLICIES, Engine, PolicyErrors, PolicySet, PolicyText};
use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_store::Store;

use super::{cannot, sites};
use crate::cli::{Failure, Kind};
use crate::config::Config;

/// The copy of the policies in force.
pub const IN_FORCE: &str = "policy.in-force.cedar";

/// Starts the engine with the policies of this directory.
pub(super) async fn start(dir: &Path, config: &Config, store: &Store) -> Result<Engine, Failure> {
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
        before => {
            let epoch = before.map_or(1, |epoch| epoch + 1);
            let recorded = store.put_policy(None, epoch, set.sha256()).await;
            drop(recorded.map_err(|e| failed(&e))?);
            if before.is_some() {
                tracing::info!(epoch, "policies put in force: they or the configuration changed since the last start");
            }
            epoch
        }
    };
    let copy = dir.join(IN_FORCE);
    if std::fs::read_to_string(&copy).ok().as_deref() != Some(&text) {
        write(&copy, text.as_bytes())?;
    }
    Ok(Engine::new(set, epoch))
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
pub fn keep_policies(dir: &Path, config: &Config, text: &str) -> Result<(), Failure> {
    write(&dir.join(IN_FORCE), text.as_bytes())?;
    write(&dir.join(&config.policy.file), text.as_bytes())
}

/// Replaces a file, durably.
fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    RealDisk.replace(file, bytes, Durable::Yes).map_err(|e| cannot(&format!("write `{}`", file.display()), e))
}
