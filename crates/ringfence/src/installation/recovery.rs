//! `ringfence recover`: a lost catalogue, rebuilt from log, sites and keys.
//!
//! Crash-safe by a marker: while `recovering` lies in the data directory no
//! server starts, and the next `recover` begins anew.

use std::path::Path;
use std::sync::Arc;

use ringfence_access::caller::{self, PeerCredential};
use ringfence_access::permit::Administer;
use ringfence_access::policy::{DEFAULT_POLICIES, Engine};
use ringfence_access::{Ask, Permit};
use ringfence_db::clock::{Clock, SystemClock};
use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_log::{Log, Recorded};
use ringfence_store::{RecoverFrom, RecoverReport};

use super::{CATALOG, DataDir, Installation, Options, cannot, policies, sites};
use crate::cli::{Failure, Kind};
use crate::config::Config;
use crate::upkeep::Upkeep;

/// Lies in the data directory while a recovery is under way.
const MARKER: &str = "recovering";

/// Rebuilds the catalogue of a data directory no server runs on. Recorded
/// before any head is opened, as everything that opens something is.
///
/// # Errors
/// What is in the way. Nothing at a site was changed.
pub async fn recover(path: &Path, progress: impl FnMut(&RecoverReport) + Send) -> Result<RecoverReport, Failure> {
    let dir = DataDir::take(path)?;
    if !dir.path().join(crate::config::FILE).exists() && !ringfence_vault::Vault::exists(dir.path()) {
        return Err(Failure::new(Kind::Usage, format!("no installation in `{}`", dir.path().display()))
            .next("name its directory with `--data DIR`"));
    }
    let config = Installation::configure(&dir)?;
    let path = dir.path();
    forget_unfinished(path)?;
    if path.join(CATALOG).exists() {
        return Err(Failure::new(Kind::Usage, format!("the catalogue `{}` is there", path.join(CATALOG).display()))
            .next("if it is damaged, move it and its `-wal` and `-shm` files away first"));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let vault = Arc::new(super::open_vault(path, &config, Options::default())?);
    let id = super::installation_id(&vault)?;
    let log = Arc::new(super::open_log(path, &config, &vault, &clock)?);
    let had_log = log.durable_size() > 0;
    let sites: Vec<_> = sites::open(path, &config, id)?.into_iter().map(Arc::new).collect();
    let because = record(path, &config, &log, &*clock).await?;
    mark(path)?;
    let heads = Upkeep { vault, because };
    let from = RecoverFrom {
        installation: id,
        // A log that was just begun knows nothing of what was there before.
        log: had_log.then_some(&*log),
        sites: &sites,
        heads: &heads,
        clock: &*clock,
    };
    let report = ringfence_store::recover(&path.join(CATALOG), from, progress).await;
    let report = report.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    unmark(path)?;
    log.close().map_err(|e| cannot("close the log", e))?;
    Ok(report)
}

/// The operator's act, decided by the policies that were in force last. The
/// epoch is not known without the catalogue: 0.
async fn record(
    path: &Path,
    config: &Config,
    log: &Log,
    clock: &dyn Clock,
) -> Result<Recorded<Permit<Administer>>, Failure> {
    let setting = Arc::new(sites::setting(config)?);
    let file = path.join(policies::IN_FORCE);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| DEFAULT_POLICIES.to_owned());
    let set = policies::read_set(&setting, &file, &text).map_err(|e| Failure::new(Kind::Configuration, e))?;
    let own = rustix::process::geteuid().as_raw();
    let operator = caller::operator(PeerCredential::from_so_peercred(own), own);
    let operator = operator.map_err(|_| Failure::internal("this process is not its own user"))?;
    let ask = Ask::on_installation("admin:Recover");
    match Engine::new(set, 0).decide::<Administer>(&operator, ask, clock.now_us()) {
        Ok(permit) => log.record(permit).await.map_err(|e| cannot("record the recovery", e)),
        Err(denial) => {
            let reason = denial.reason().to_owned();
            drop(log.record(denial).await.map_err(|e| cannot("record a refusal", e))?);
            Err(Failure::new(Kind::Refused, format!("policy refuses it: {reason}")))
        }
    }
}

/// A server does not start on half a catalogue.
pub(super) fn refuse_unfinished(path: &Path) -> Result<(), Failure> {
    if !path.join(MARKER).exists() {
        return Ok(());
    }
    Err(Failure::new(Kind::Unavailable, "a recovery was cut off, and the catalogue is not complete")
        .next(format!("run it again: ringfence recover --data {}", path.display())))
}

fn mark(path: &Path) -> Result<(), Failure> {
    RealDisk.replace(&path.join(MARKER), b"", Durable::Yes).map_err(|e| cannot("mark the recovery as begun", e))
}

fn unmark(path: &Path) -> Result<(), Failure> {
    let done = RealDisk.unlink(&path.join(MARKER)).and_then(|()| RealDisk.sync_dir(path));
    done.map_err(|e| cannot("mark the recovery as done", e))
}

/// Takes away what a recovery that was cut off left.
fn forget_unfinished(path: &Path) -> Result<(), Failure> {
    if !path.join(MARKER).exists() {
        return Ok(());
    }
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::remove_file(path.join(format!("{CATALOG}{suffix}"))) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot("begin the recovery anew", e)),
            _ => {}
        }
    }
    Ok(())
}
