//! A history: operations, faults and crashes drawn from one seed.

use std::collections::VecDeque;
use std::path::Path;

use ringfence_db::disk::{Disk, Durable};
use ringfence_db::rusqlite::Connection;
use ringfence_log::Run;
use ringfence_store::{Conflict, SweepError, SweepMode};

use crate::act::{Private, Told};
use crate::chance::Chance;
use crate::check;
use crate::cloud::{WEATHER, Weather};
use crate::life::{Life, Setup, Upkeep, rebuild};
use crate::machine::{Machine, Sabotage, Which, draw_fault};
use crate::oracle::Oracle;

/// Which history.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Operations.
    pub steps: u64,
    /// A promise to break, so that a check fails.
    pub sabotage: Option<Sabotage>,
    /// Prints every operation.
    pub verbose: bool,
}

/// What came of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations.
    pub steps: u64,
    /// Changes that were acknowledged.
    pub acknowledged: u64,
    /// Changes that failed and did not happen.
    pub failed: u64,
    /// Changes that nobody knew of until the next start.
    pub unknown: u64,
    /// Reads that gave out every byte.
    pub reads: u64,
    /// Reads that failed.
    pub unread: u64,
    /// Power cuts.
    pub crashes: u64,
    /// Ends of the process alone, in order or not.
    pub ends: u64,
    /// Catalogues rebuilt, and brought back from an older copy.
    pub rebuilt: u64,
    /// Disk faults that struck.
    pub disk_faults: u64,
    /// Requests of the public site that met bad weather.
    pub weather: u64,
    /// Full checks of everything.
    pub checks: u64,
    /// Records in the log at the end.
    pub records: u64,
}

impl Report {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.reads += other.reads;
        self.unread += other.unread;
        self.crashes += other.crashes;
        self.ends += other.ends;
        self.rebuilt += other.rebuilt;
        self.disk_faults += other.disk_faults;
        self.weather += other.weather;
        self.checks += other.checks;
        self.records += other.records;
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} steps: {} changes acknowledged, {} failed, {} unknown until a start; {} reads, {} unreadable; \
             {} crashes, {} other ends, {} catalogues rebuilt or brought back; {} disk faults, {} bad answers of the \
             public site; {} records, {} full checks",
            self.steps,
            self.acknowledged,
            self.failed,
            self.unknown,
            self.reads,
            self.unread,
            self.crashes,
            self.ends,
            self.rebuilt,
            self.disk_faults,
            self.weather,
            self.records,
            self.checks
        )
    }
}

/// A history in which something was not as promised.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Its seed.
    pub seed: u64,
    /// After which operation.
    pub step: u64,
    /// What was not so.
    pub why: String,
    /// The last operations before it.
    pub trace: Vec<String>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.trace {
            writeln!(f, "  {line}")?;
        }
        write!(f, "seed {}, step {}: {}", self.seed, self.step, self.why)
    }
}

/// Operations kept for the report of a violation.
const TRACE: usize = 60;
/// Longer than any write of a history lasts.
const SWEEP_GRACE_MS: u64 = 60_000;

/// Runs one history to its end.
///
/// # Errors
/// The first thing that is not as promised.
pub fn run(options: Options) -> Result<Report, Box<Violation>> {
    // One thread runs the requests and one what blocks: as much of the order
    // as can be had comes from the seed.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    let runtime = runtime.expect("a runtime starts");
    let outcome = runtime.block_on(async {
        let mut history = match History::begin(options).await {
            Ok(history) => history,
            Err(why) => return Err(Violation { seed: options.seed, step: 0, why, trace: Vec::new() }),
        };
        match history.play(options.steps).await {
            Ok(()) => Ok(history.report()),
            Err(why) => {
                let History { step, trace, .. } = &history;
                Err(Violation { seed: options.seed, step: *step, why, trace: trace.iter().cloned().collect() })
            }
        }
    });
    runtime.shutdown_background();
    outcome.map_err(Box::new)
}

/// A history under way.
pub(crate) struct History {
    pub(crate) machine: Machine,
    pub(crate) life: Option<Life>,
    pub(crate) oracle: Oracle,
    pub(crate) chance: Chance,
    pub(crate) private: Private,
    pub(crate) report: Report,
    setup: Setup,
    step: u64,
    /// Nothing has gone wrong in this life so far, as far as we made it.
    pub(crate) calm: bool,
    /// The main disk is full until this step.
    full_until: Option<u64>,
    /// An older copy of the catalogue.
    backup: Option<Vec<u8>>,
    trace: VecDeque<String>,
    sabotage: Option<Sabotage>,
    /// Several requests at once, and the log's own threads.
    pub(crate) loose: bool,
    /// Every operation is done.
    finishing: bool,
    verbose: bool,
}

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Crash,
    Kill,
    Close,
}

impl History {
    async fn begin(options: Options) -> Result<Self, String> {
        let mut chance = Chance::new(options.seed);
        let machine = Machine::new(options.sabotage).await.map_err(|e| e.to_string())?;
        let public_copies = 1 + usize::from(chance.one_in(2));
        // One in four histories runs with the log's own threads and with
        // several requests at once; it does not repeat exactly.
        let loose = options.seed % 4 == 3;
        let run = if loose { Run::Threads } else { Run::Stepped };
        let setup = Setup { public_copies, run };
        let life = Life::open(&machine, setup, &mut chance).await?;
        life.first_start().await?;
        Ok(Self {
            machine,
            life: Some(life),
            oracle: Oracle::default(),
            chance,
            private: Private::default(),
            report: Report::default(),
            setup,
            step: 0,
            calm: true,
            full_until: None,
            backup: None,
            trace: VecDeque::new(),
            sabotage: options.sabotage,
            loose,
            finishing: false,
            verbose: options.verbose,
        })
    }

    fn report(&self) -> Report {
        Report {
            steps: self.step,
            disk_faults: self.machine.struck.load(std::sync::atomic::Ordering::Relaxed),
            weather: self.machine.cloud.struck(),
            records: self.life().log.durable_size(),
            ..self.report
        }
    }

    pub(crate) fn life(&self) -> &Life {
        self.life.as_ref().expect("there is one between two restarts")
    }

    pub(crate) fn say(&mut self, line: String) {
        if self.verbose {
            println!("  {}: {line}", self.step);
        }
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{}: {line}", self.step));
    }

    async fn play(&mut self, steps: u64) -> Result<(), String> {
        for step in 1..=steps {
            self.step = step;
            if step == steps / 4 && self.sabotage.is_some() {
                self.machine.begin_sabotage();
            }
            self.pass_time();
            self.trouble();
            self.operation().await?;
            let private = std::mem::take(&mut *self.private.borrow_mut());
            self.oracle.private.extend(private);
            if self.machine.has_stopped() || self.life().log.health().is_err() {
                let end = if self.machine.has_stopped() || self.chance.one_in(2) { End::Crash } else { End::Kill };
                self.restart(end).await?;
            }
        }
        self.finishing = true;
        self.restart(End::Crash).await?;
        self.restart(End::Close).await
    }

    fn pass_time(&mut self) {
        let by_us = match self.chance.below(60) {
            0 => 7 * 60 * 1_000_000,
            1 => 3 * 3600 * 1_000_000,
            _ => 10_000 + self.chance.below(2_000_000),
        };
        self.machine.advance_us(by_us);
        if self.full_until.is_some_and(|until| self.step >= until) {
            self.machine.disk(Which::Main).set_capacity(1 << 40);
            self.full_until = None;
        }
    }

    /// What goes wrong in the next operations.
    fn trouble(&mut self) {
        let which = if self.chance.one_in(5) { Which::Second } else { Which::Main };
        if self.chance.one_in(45) {
            let below = ["", "log", "log/records", "catalogue.db", "catalogue.db-wal", "home", "second"];
            let below = self.chance.pick(&below).copied().unwrap_or_default();
            let path = self.machine.dir().join(below);
            let path = if below.is_empty() { Path::new("/").to_owned() } else { path };
            let (after, fault) = (1 + self.chance.below(12), draw_fault(&mut self.chance));
            self.machine.fail_in(which, after, &path, fault);
            self.say(format!("a fault is due at {which:?} below `{below}`: {fault:?} after {after}"));
            self.calm = false;
        }
        if self.chance.one_in(25) {
            let weather = self.chance.pick(WEATHER).copied().unwrap_or(Weather::Down);
            let slow = weather == Weather::Slow;
            // It costs real time.
            if !slow || self.chance.one_in(20) {
                let strikes = if slow { 1 } else { 1 + self.chance.below(5) };
                self.machine.cloud.set_weather(weather, strikes);
                self.say(format!("the public site is {weather:?} for {strikes}"));
                self.calm = false;
            }
        }
        if self.chance.one_in(150) {
            let disk = self.machine.disk(Which::Main);
            disk.set_capacity(disk.used() + self.chance.below(300_000));
            self.full_until = Some(self.step + 2 + self.chance.below(10));
            self.say("the main disk is nearly full".to_owned());
            self.calm = false;
        }
        if self.chance.one_in(60) {
            let after = 1 + self.chance.below(80);
            self.machine.stop_in(which, after);
            self.say(format!("power will be cut at {which:?} after {after} effects"));
            self.calm = false;
        }
    }

    /// Counts what came of a change.
    ///
    /// # Errors
    /// It failed, and nothing had gone wrong.
    pub(crate) fn count(&mut self, what: &str, told: &Told) -> Result<(), String> {
        self.say(format!("{what}: {told:?}"));
        match told {
            Told::Done(_) | Told::Recorded(_) => self.report.acknowledged += 1,
            Told::Conflict(Conflict::NotTheSameObject | Conflict::PolicyChanged | Conflict::Stale) => {
                return Err(format!("{what} conflicts without a reason: {told:?}"));
            }
            Told::Conflict(_) => self.report.failed += 1,
            Told::Failed(why) => {
                self.report.failed += 1;
                if self.calm && !why.contains("busy") && !why.contains("`cloud`") {
                    return Err(format!("{what} failed and nothing had gone wrong: {why}"));
                }
            }
            Told::Unknown(_) => self.report.unknown += 1,
        }
        Ok(())
    }

    /// Ends this life, starts the next one, and checks everything.
    async fn restart(&mut self, end: End) -> Result<(), String> {
        self.say(format!("the process ends: {end:?}"));
        self.end(end).await;
        self.start().await
    }

    async fn end(&mut self, end: End) {
        if let Some(life) = self.life.take() {
            if end == End::Close {
                // What it could not finish is found by the next start.
                let _ended = life.close().await;
            } else {
                drop(life);
            }
        }
        if end == End::Crash {
            self.report.crashes += 1;
            self.machine.crash(&mut self.chance);
        } else {
            self.report.ends += 1;
            self.machine.kill();
        }
    }

    async fn start(&mut self) -> Result<(), String> {
        self.machine.calm();
        self.full_until = None;
        if self.chance.one_in(4) {
            let after = 1 + self.chance.below(150);
            self.machine.stop_in(Which::Main, after);
            self.say(format!("power will be cut in the start, after {after} effects"));
        }
        loop {
            match Life::open(&self.machine, self.setup, &mut self.chance).await {
                Ok(life) => {
                    self.life = Some(life);
                    break;
                }
                Err(why) if self.machine.has_stopped() => {
                    self.say(format!("power was cut in the start: {why}"));
                    self.report.crashes += 1;
                    self.machine.crash(&mut self.chance);
                }
                Err(why) => return Err(format!("it does not start: {why}")),
            }
        }
        if self.machine.has_stopped() {
            // It opened with its last effect.
            self.life = None;
            self.report.crashes += 1;
            self.machine.crash(&mut self.chance);
            return Box::pin(self.start()).await;
        }
        self.machine.calm();
        self.calm = true;
        self.check().await
    }

    /// Everything is as callers were told.
    async fn check(&mut self) -> Result<(), String> {
        self.report.checks += 1;
        let deep = self.finishing || self.report.checks.is_multiple_of(3);
        let Self { machine, life, oracle, .. } = self;
        let life = life.as_ref().expect("opened right before");
        check::everything(machine, life, oracle, deep).await
    }

    /// The catalogue is lost, and rebuilt from the log.
    pub(crate) async fn rebuild(&mut self) -> Result<(), String> {
        self.machine.calm();
        let whole = self.life().store.settle().await.is_ok();
        let before = if whole { Some(check::dump(&self.life().store)?) } else { None };
        self.say("the catalogue is lost".to_owned());
        self.end(End::Close).await;
        if self.chance.one_in(3) {
            let after = 1 + self.chance.below(200);
            self.machine.stop_in(Which::Main, after);
        }
        loop {
            let lost = self.lose_catalogue().map_err(|e| e.to_string());
            let rebuilt = match lost {
                Ok(()) => rebuild(&self.machine, self.setup).await,
                Err(why) => Err(why),
            };
            match rebuilt {
                Ok(report) if !self.machine.has_stopped() => {
                    if !report.from_log || report.unconfirmed > 0 {
                        return Err(format!("the log was not enough to rebuild from: {report:?}"));
                    }
                    break;
                }
                Ok(_) => {}
                Err(_) if self.machine.has_stopped() => {}
                Err(why) => return Err(format!("the catalogue is not rebuilt: {why}")),
            }
            self.report.crashes += 1;
            self.machine.crash(&mut self.chance);
        }
        self.report.rebuilt += 1;
        self.machine.kill();
        self.start().await?;
        let after = check::dump(&self.life().store)?;
        if let Some(before) = before
            && before != after
        {
            let first = before.iter().zip(&after).find(|(a, b)| a != b);
            return Err(format!("the rebuilt catalogue differs from the lost one: {first:?}"));
        }
        self.sweep(SweepMode::DryRun).await?;
        self.sweep(SweepMode::EraseRecovered).await
    }

    fn lose_catalogue(&self) -> std::io::Result<()> {
        let disk = self.machine.disk(Which::Main);
        for ending in ["", "-wal", "-journal"] {
            let mut path = self.machine.dir().join("catalogue.db").into_os_string();
            path.push(ending);
            match disk.unlink(Path::new(&path)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        disk.sync_dir(&self.machine.dir())
    }

    /// Copies the catalogue while it is in use, onto a tape.
    pub(crate) fn back_up(&mut self) {
        let (path, disk) = (self.machine.dir().join("copy.db"), self.machine.disk(Which::Main));
        let _absent = disk.unlink(&path);
        if self.life().store.catalog().back_up(&self.machine.in_sqlite("copy.db")).is_ok() {
            self.backup = disk.read(&path).ok();
        }
        let _absent = self.machine.disk(Which::Main).unlink(&path);
    }

    /// The older copy takes the catalogue's place.
    pub(crate) async fn bring_back(&mut self) -> Result<(), String> {
        let Some(backup) = self.backup.clone() else { return Ok(()) };
        self.machine.calm();
        self.say("an older copy of the catalogue is brought back".to_owned());
        self.end(End::Close).await;
        self.lose_catalogue().map_err(|e| e.to_string())?;
        let disk = self.machine.disk(Which::Main);
        disk.replace(&self.machine.dir().join("catalogue.db"), &backup, Durable::Yes).map_err(|e| e.to_string())?;
        self.report.rebuilt += 1;
        self.start().await
    }

    pub(crate) async fn sweep(&mut self, mode: SweepMode) -> Result<(), String> {
        let life = self.life();
        let Ok(because) = life.because("system:Sweep").await else { return Ok(()) };
        let keys = Upkeep { vault: life.vault.clone(), because };
        let swept = life.store.sweep(mode, SWEEP_GRACE_MS, &keys).await;
        if matches!(swept, Err(SweepError::NotConfirmed)) && mode == SweepMode::Erase {
            // A power cut can undo the confirmation: it is asked for again.
            self.say("the recovery is confirmed again".to_owned());
            Box::pin(self.sweep(SweepMode::DryRun)).await?;
            return Box::pin(self.sweep(SweepMode::EraseRecovered)).await;
        }
        let line = match swept {
            Ok(report) => format!("{mode:?}: {report:?}"),
            Err(error) if self.calm => return Err(format!("the sweep failed: {error}")),
            Err(error) => format!("{mode:?}: {error}"),
        };
        self.say(line);
        Ok(())
    }

    /// What the checkpointer's thread does when the WAL has grown.
    pub(crate) fn checkpoint_wal(&mut self) {
        let done = Connection::open(self.machine.catalogue())
            .and_then(|db| db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        self.say(format!("the WAL is checkpointed: {done:?}"));
    }
}
