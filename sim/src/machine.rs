//! The machine: its disks, the public site, the clock, and what goes wrong.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_db::clock::{Clock, ManualClock};
use ringfence_db::disk::Disk;
use ringfence_db::disk::sim::{Effect, Fault, SimDisk, Step};

use crate::chance::Chance;
use crate::cloud::Cloud;
use crate::vfs;

/// The year 2033.
pub const START_US: u64 = 2_000_000_000_000_000;

/// Which disk: log, catalogue and the site `home` share one; the site `second`
/// has its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Log, catalogue, `home`.
    Main,
    /// `second`.
    Second,
}

/// A promise of the disk that is broken on purpose, to see whether the checks
/// notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Syncs of the log's files say they succeeded and do nothing.
    LogSyncLies,
    /// Syncs of the site `home` and of its directories do the same.
    SiteSyncLies,
    /// The public site acknowledges writes and keeps nothing.
    CloudForgets,
    /// The public site holds plaintext.
    CloudHoldsPlaintext,
    /// The main disk is replaced by an older copy of itself at a restart.
    DiskRolledBack,
}

/// What happens to a disk next.
#[derive(Debug, Default)]
struct Plan {
    /// The machine stops before this effect.
    stop_before: Option<u64>,
    /// This effect fails, if it is on a path that begins so.
    fail: Option<(u64, PathBuf, Fault)>,
    lies: Option<PathBuf>,
}

struct Slot {
    disk: SimDisk,
    plan: Arc<Mutex<Plan>>,
}

/// The machine over all its lives.
pub struct Machine {
    name: String,
    /// Where SQLite finds the main disk in this life.
    mount: String,
    main: Slot,
    second: Slot,
    stopped: Arc<AtomicBool>,
    /// Faults that struck.
    pub struck: Arc<AtomicU64>,
    /// The simulated time.
    pub clock: Arc<ManualClock>,
    /// The public site's service.
    pub cloud: Cloud,
    /// The keyring's directory, on the real disk.
    pub keys: tempfile::TempDir,
    sabotage: Option<Sabotage>,
    older: Option<SimDisk>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        vfs::unmount(&self.mount);
    }
}

impl Machine {
    /// A new machine with empty disks.
    pub async fn new(sabotage: Option<Sabotage>) -> std::io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let clock = Arc::new(ManualClock::new(START_US));
        let slot = || Slot { disk: SimDisk::new(), plan: Arc::default() };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut machine = Self {
            name: "data".to_owned(),
            mount: format!("machine-{number}-life-0"),
            main: slot(),
            second: slot(),
            stopped: Arc::default(),
            struck: Arc::default(),
            cloud: Cloud::start(clock.clone()).await?,
            clock,
            keys: tempfile::tempdir()?,
            sabotage,
            older: None,
        };
        machine.plug_in();
        machine.main.disk.create_dir_all(&machine.dir())?;
        Ok(machine)
    }

    /// Where log, catalogue and `home` lie, on the main disk.
    pub fn dir(&self) -> PathBuf {
        Path::new("/").join(&self.name)
    }

    /// The catalogue's file, as SQLite finds it in this life.
    pub fn catalogue(&self) -> PathBuf {
        self.in_sqlite("catalogue.db")
    }

    /// A file of [`Self::dir`], as SQLite finds it in this life.
    pub fn in_sqlite(&self, name: &str) -> PathBuf {
        Path::new("/").join(&self.mount).join(name)
    }

    /// A disk as it is now.
    pub fn disk(&self, which: Which) -> &SimDisk {
        match which {
            Which::Main => &self.main.disk,
            Which::Second => &self.second.disk,
        }
    }

    /// Lets time pass.
    pub fn advance_us(&self, by_us: u64) {
        self.clock.advance_us(by_us);
        for slot in [&self.main, &self.second] {
            slot.disk.set_time_us(self.clock.now_us());
        }
    }

    /// Whether the machine has stopped at the effect it was to stop before.
    pub fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// The machine stops before the `n`th effect from now on a disk.
    pub fn stop_in(&self, which: Which, n: u64) {
        let slot = self.slot(which);
        plan(&slot.plan).stop_before = Some(slot.disk.effects() + n);
    }

    /// The first effect from the `n`th from now on that is below `path` fails so.
    pub fn fail_in(&self, which: Which, n: u64, path: &Path, fault: Fault) {
        let slot = self.slot(which);
        plan(&slot.plan).fail = Some((slot.disk.effects() + n, path.to_owned(), fault));
    }

    /// Nothing goes wrong from now on, but for sabotage.
    pub fn calm(&self) {
        for slot in [&self.main, &self.second] {
            let mut plan = plan(&slot.plan);
            (plan.stop_before, plan.fail) = (None, None);
            slot.disk.set_capacity(1 << 40);
        }
        self.cloud.calm();
    }

    /// Begins to break the promise it was made to break.
    pub fn begin_sabotage(&mut self) {
        match self.sabotage {
            Some(Sabotage::LogSyncLies) => plan(&self.main.plan).lies = Some(self.dir().join("log/records")),
            Some(Sabotage::SiteSyncLies) => plan(&self.main.plan).lies = Some(self.dir().join("home")),
            Some(Sabotage::CloudForgets) => self.cloud.forget_writes(),
            Some(Sabotage::CloudHoldsPlaintext) => self.cloud.plant("left", &crate::oracle::MARK.repeat(3)),
            Some(Sabotage::DiskRolledBack) => self.older = Some(self.main.disk.duplicate()),
            None => {}
        }
    }

    /// Power is cut: every disk keeps what `chance` leaves of what was not synced.
    pub fn crash(&mut self, chance: &mut Chance) {
        self.main.disk = self.main.disk.crash(chance.number());
        self.second.disk = self.second.disk.crash(chance.number());
        self.restart();
    }

    /// The process ends; everything written is there.
    pub fn kill(&mut self) {
        self.main.disk = self.main.disk.kill();
        self.second.disk = self.second.disk.kill();
        self.restart();
    }

    fn restart(&mut self) {
        if let Some(older) = self.older.take() {
            self.main.disk = older;
        }
        self.stopped.store(false, Ordering::SeqCst);
        vfs::unmount(&self.mount);
        let (machine, life) = self.mount.rsplit_once('-').expect("it ends in the life's number");
        let life: u64 = life.parse().expect("a number");
        self.mount = format!("{machine}-{}", life + 1);
        self.plug_in();
    }

    fn slot(&self, which: Which) -> &Slot {
        match which {
            Which::Main => &self.main,
            Which::Second => &self.second,
        }
    }

    fn plug_in(&mut self) {
        vfs::mount(&self.mount, self.main.disk.clone(), &self.dir());
        for slot in [&self.main, &self.second] {
            {
                let mut plan = plan(&slot.plan);
                (plan.stop_before, plan.fail) = (None, None);
            }
            slot.disk.set_time_us(self.clock.now_us());
            let (plan_of, stopped, struck) = (slot.plan.clone(), self.stopped.clone(), self.struck.clone());
            slot.disk.script(move |step| strike(&mut plan(&plan_of), &stopped, &struck, step));
        }
    }
}

fn plan(plan: &Mutex<Plan>) -> std::sync::MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

fn strike(plan: &mut Plan, stopped: &AtomicBool, struck: &AtomicU64, step: &Step) -> Option<Fault> {
    if plan.stop_before.is_some_and(|n| step.number >= n) {
        stopped.store(true, Ordering::SeqCst);
    }
    // All disks of a machine stop at once.
    if stopped.load(Ordering::SeqCst) {
        return Some(Fault::Stops);
    }
    let is_sync = matches!(step.effect, Effect::Sync | Effect::SyncDir);
    if is_sync && plan.lies.as_ref().is_some_and(|path| step.path.starts_with(path)) {
        return Some(Fault::Lies);
    }
    let due = plan.fail.as_ref().is_some_and(|(n, path, _)| step.number >= *n && step.path.starts_with(path));
    if !due {
        return None;
    }
    struck.fetch_add(1, Ordering::Relaxed);
    plan.fail.take().map(|(_, _, fault)| fault)
}

/// A disk fault drawn by chance.
pub fn draw_fault(chance: &mut Chance) -> Fault {
    let kind = if chance.one_in(3) { ErrorKind::StorageFull } else { ErrorKind::Other };
    if chance.one_in(2) { Fault::Fails(kind) } else { Fault::FailsButHappens(kind) }
}
