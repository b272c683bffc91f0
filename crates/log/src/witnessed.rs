//! Receipts, and what witnesses said of the log's checkpoints.
//!
//! The log asks nobody itself: a collector outside shows published checkpoints
//! to witnesses and hands back their cosignatures ([`Log::add_cosignatures`]).
//! Here they are checked, gathered until the quorum in force is met, and kept
//! in `DIR/log/checkpoint.cosigned`. A receipt names the newest checkpoint that
//! met it, so whoever takes one asks no longer whether this log has another
//! face.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringfence_db::disk::{Disk, Durable};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::leaf::Hash;
use ringfence_format::proof;
use ringfence_format::record::Seq;
use ringfence_format::session::{PathHash, Receipt};
use ringfence_format::tile::leaf_hash;
use ringfence_format::witness::{Cosigned, Quorum};
use tokio::sync::watch;

use crate::error::{During, LogError};
use crate::inner::{Inner, held};
use crate::log::{Log, Run};
use crate::publish::{TileReader, Tiles};

/// Checkpoints for which cosignatures are gathered at one time.
const GATHERED_MAX: usize = 16;

/// A checkpoint that met the quorum in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// The signed note with its cosignatures.
    pub note: String,
    /// What it says, and who cosigned it when.
    pub cosigned: Cosigned,
    /// Up to when the quorum vouches for it, in Unix seconds.
    pub vouched_until_s: u64,
}

impl Witnessed {
    /// How many records it covers.
    pub fn size(&self) -> Seq {
        self.cosigned.checkpoint.size
    }
}

/// What an open log knows of its witnesses.
pub(crate) struct Witnesses {
    state: Mutex<State>,
    /// One writer of the file at a time.
    keeping: Mutex<()>,
    /// Counts what may let a receipt be given, or a witness be asked.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    quorum: Option<Arc<Quorum>>,
    best: Option<Arc<Witnessed>>,
    /// The note that was kept on the disk, until a quorum judges it.
    kept: Option<String>,
    /// By size: the log's own note, and its witnesses' lines.
    gathered: BTreeMap<Seq, (String, Lines)>,
    /// Why a witness did not cosign when it was last asked.
    failures: BTreeMap<String, String>,
    /// Sizes of checkpoints that receipts wait for, with how many.
    wanted: BTreeMap<Seq, usize>,
}

/// The latest line of each witness by its name, with the time in it.
type Lines = BTreeMap<String, (u64, String)>;

impl Witnesses {
    pub(crate) fn new(kept: Option<String>) -> Self {
        let state = Mutex::new(State { kept, ..State::default() });
        Self { state, keeping: Mutex::default(), news: watch::Sender::new(0) }
    }

    /// Something changed that somebody may wait for.
    pub(crate) fn tell(&self) {
        self.news.send_modify(|n| *n = n.wrapping_add(1));
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("checkpoint.cosigned")
}

/// The cosigned checkpoint that was kept, if there is one that can be read.
pub(crate) fn read_kept(disk: &dyn Disk, dir: &Path, key: &VerifierKey) -> Option<(Checkpoint, String)> {
    let note = String::from_utf8(disk.read(&file(dir)).ok()?).ok()?;
    match verify(&note, key) {
        Ok(checkpoint) => Some((checkpoint, note)),
        Err(why) => {
            tracing::warn!(%why, "the cosigned checkpoint that was kept is not used; witnesses are asked again");
            None
        }
    }
}

impl Inner {
    /// What was cosigned was signed by this log, so its tree must still be ours.
    pub(crate) fn check_kept(&self, kept: &Checkpoint) -> Result<(), LogError> {
        let size = self.published().checkpoint.size;
        if kept.size > size {
            // Where tiles cannot be written now, records say how many there are.
            let what = format!("missing, though witnesses cosigned a checkpoint of {} records", kept.size);
            return if kept.size > self.durable() { Err(LogError::Broken { index: size, what }) } else { Ok(()) };
        }
        match self.root_at(kept.size)? == kept.root {
            true => Ok(()),
            false => Err(LogError::Broken { index: 0, what: "or a later one is not what witnesses cosigned".into() }),
        }
    }

    fn root_at(&self, size: Seq) -> Result<Hash, LogError> {
        let published = self.published();
        proof::root(&mut TileReader { inner: self, edge: &published.edge, unwritten: &Tiles::new() }, size)
    }

    /// The checkpoint that a receipt is given under.
    fn believed(&self) -> Option<(Checkpoint, String)> {
        let state = held(&self.witnesses.state);
        if state.quorum.is_some() {
            return state.best.as_ref().map(|best| (best.cosigned.checkpoint.clone(), best.note.clone()));
        }
        drop(state);
        let published = self.published();
        (!published.note.is_empty()).then(|| (published.checkpoint.clone(), published.note.clone()))
    }

    /// A receipt, if a checkpoint that is believed covers the record already.
    fn receipt_now(&self, index: Seq) -> Result<Option<Receipt>, LogError> {
        let Some((checkpoint, note)) = self.believed().filter(|(c, _)| c.size > index) else { return Ok(None) };
        let entry = self.sealed(index)?.entry();
        let published = self.published();
        let mut nodes = TileReader { inner: self, edge: &published.edge, unwritten: &Tiles::new() };
        let path = proof::inclusion(&mut nodes, index, checkpoint.size)?;
        if !proof::verify_inclusion(&leaf_hash(&entry), index, checkpoint.size, &checkpoint.root, &path) {
            return Err(LogError::Broken { index, what: "different from what was signed".into() });
        }
        let path = path.into_iter().map(PathHash).collect();
        Ok(Some(Receipt { index, entry: entry.to_vec(), path, checkpoint: note }))
    }

    /// Why a receipt could not be given in time.
    fn no_receipt(&self, index: Seq) -> LogError {
        if self.published().checkpoint.size <= index {
            let why = held(&self.fresh).error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
            return LogError::NotPublished { seq: index, why };
        }
        let state = held(&self.witnesses.state);
        let (k, n) = state.quorum.as_ref().map_or((0, 0), |q| (q.k(), q.witnesses().len()));
        let signed = |name: &str| {
            let mut covering = state.gathered.range(index + 1..);
            covering.any(|(_, (_, lines))| lines.contains_key(name))
        };
        let silent = |name: &str| match (signed(name), state.failures.get(name)) {
            (true, _) => None,
            (false, Some(why)) => Some((name.to_owned(), why.clone())),
            (false, None) => Some((name.to_owned(), "has not answered".to_owned())),
        };
        let witnesses = state.quorum.iter().flat_map(|q| q.witnesses());
        let why = witnesses.filter_map(|w| silent(w.name())).collect();
        LogError::QuorumLost { seq: index, k, n, why }
    }

    /// Asks for a checkpoint over everything that is durable now. Who asks
    /// while one is being made is served by the next, all together.
    fn publish_soon(&self) {
        held(&self.fresh).asked += 1;
        self.published_wake.notify_all();
    }

    fn gather(&self, note: &str) -> Result<bool, LogError> {
        let path = || file(&self.dir);
        let checkpoint = verify(note, &self.key).map_err(|why| LogError::Checkpoint { path: path(), why })?;
        let size = self.published().checkpoint.size;
        if checkpoint.size > size {
            return Err(LogError::NoRecord { seq: checkpoint.size, size });
        }
        if self.root_at(checkpoint.size)? != checkpoint.root {
            let what = "not what a checkpoint says that this log's key signed".to_owned();
            return Err(LogError::Broken { index: checkpoint.size, what });
        }
        let state = &mut *held(&self.witnesses.state);
        let Some(quorum) = state.quorum.clone() else { return Ok(false) };
        let (own, lines) = split(note);
        let slot = state.gathered.entry(checkpoint.size).or_insert_with(|| (own.to_owned(), BTreeMap::new()));
        for witness in quorum.witnesses() {
            // A line of theirs that is not their cosignature is none.
            let cosigned = |line: String| Some((witness.cosigned(&format!("{own}{line}")).ok()??, line));
            let Some(latest) = lines.iter().filter_map(|line| cosigned(format!("{line}\n"))).max() else { continue };
            let kept = slot.1.entry(witness.name().to_owned()).or_default();
            if latest.0 > kept.0 {
                *kept = latest;
            }
            state.failures.remove(witness.name());
        }
        let merged = slot.1.values().fold(slot.0.clone(), |note, (_, line)| note + line);
        while state.gathered.len() > GATHERED_MAX {
            state.gathered.pop_first();
        }
        let Some(met) = judge(&quorum, &merged, &self.key) else { return Ok(false) };
        Ok(state.take(met))
    }

    /// Writes the best checkpoint down, so that a start has one at once.
    fn keep_best(&self) -> Result<(), LogError> {
        let _one_at_a_time = held(&self.witnesses.keeping);
        let Some(best) = held(&self.witnesses.state).best.clone() else { return Ok(()) };
        let path = file(&self.dir);
        self.disk.replace(&path, best.note.as_bytes(), Durable::Yes).during("replace", &path)
    }
}

impl State {
    /// Takes a checkpoint that met the quorum, if it says more than the best.
    fn take(&mut self, met: Witnessed) -> bool {
        let says = |w: &Witnessed| (w.size(), w.vouched_until_s, w.cosigned.by.len());
        let more = self.best.as_ref().is_none_or(|best| says(&met) > says(best));
        if more {
            metrics::gauge!("ringfence_log_witnessed_records").set(met.size() as f64);
            metrics::gauge!("ringfence_log_vouched_until_seconds").set(met.vouched_until_s as f64);
            self.best = Some(Arc::new(met));
        }
        more
    }
}

fn judge(quorum: &Quorum, note: &str, key: &VerifierKey) -> Option<Witnessed> {
    let cosigned = quorum.met_by(note, key).ok()?;
    let vouched_until_s = cosigned.vouched_until(quorum.k())?;
    Some(Witnessed { note: note.to_owned(), cosigned, vouched_until_s })
}

/// A note up to its first signature, which is the log's own, and the others.
fn split(note: &str) -> (&str, Vec<&str>) {
    let signatures = note.rfind("\n\n").map_or(note.len(), |at| at + 2);
    let own_end = note[signatures..].find('\n').map_or(note.len(), |at| signatures + at + 1);
    (&note[..own_end], note[own_end..].lines().collect())
}

/// While it lives, a checkpoint of this size is wanted.
struct Waiting<'a> {
    inner: &'a Inner,
    size: Seq,
}

impl<'a> Waiting<'a> {
    fn new(inner: &'a Inner, size: Seq) -> Self {
        *held(&inner.witnesses.state).wanted.entry(size).or_default() += 1;
        inner.witnesses.tell();
        Self { inner, size }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let wanted = &mut held(&self.inner.witnesses.state).wanted;
        if let Some(count) = wanted.get_mut(&self.size) {
            *count -= 1;
            if *count == 0 {
                wanted.remove(&self.size);
            }
        }
    }
}

impl Log {
    /// Proves to outsiders that a record is in the log: its entry, and its way
    /// to the newest checkpoint that meets the quorum in force, or that is
    /// published where there is none. Waits for one that covers the record,
    /// `wait` at most; it is published at once, together with what others wait
    /// for.
    ///
    /// # Errors
    /// [`LogError::QuorumLost`] names the witnesses that did not cosign in time.
    pub async fn receipt(&self, index: Seq, wait: Duration) -> Result<Receipt, LogError> {
        let size = self.durable_size();
        if index >= size {
            return Err(LogError::NoRecord { seq: index, size });
        }
        let deadline = tokio::time::Instant::now() + wait;
        let mut news = self.news();
        let _waiting = Waiting::new(&self.inner, index + 1);
        if self.published_size() <= index {
            match self.inner.options.run {
                Run::Threads => self.inner.publish_soon(),
                Run::Stepped => self.publish()?,
            }
        }
        loop {
            news.mark_unchanged();
            let inner = self.inner.clone();
            let looked = tokio::task::spawn_blocking(move || inner.receipt_now(index)).await;
            let looked = looked.map_err(|_| LogError::Failed("a receipt could not be made".into()))?;
            if let Some(receipt) = looked? {
                return Ok(receipt);
            }
            self.health()?;
            match tokio::time::timeout_at(deadline, news.changed()).await {
                Ok(_) => {}
                Err(_) => return Err(self.inner.no_receipt(index)),
            }
        }
    }

    /// Sets who must cosign, as the signed set in force says; nobody for `None`.
    /// What was cosigned before counts if it meets this quorum too.
    pub fn set_quorum(&self, quorum: Option<Quorum>) {
        let state = &mut *held(&self.inner.witnesses.state);
        let old = state.best.take().map(|best| best.note.clone()).or_else(|| state.kept.take());
        state.quorum = quorum.map(Arc::new);
        (state.gathered, state.failures) = (BTreeMap::new(), BTreeMap::new());
        if let (Some(quorum), Some(note)) = (&state.quorum, &old) {
            state.best = judge(quorum, note, &self.inner.key).map(Arc::new);
        }
        if state.best.is_none() {
            // A later set may accept it.
            state.kept = old;
        }
        self.inner.witnesses.tell();
    }

    /// Who must cosign.
    pub fn quorum(&self) -> Option<Arc<Quorum>> {
        held(&self.inner.witnesses.state).quorum.clone()
    }

    /// The newest checkpoint that met the quorum in force.
    pub fn witnessed(&self) -> Option<Arc<Witnessed>> {
        held(&self.inner.witnesses.state).best.clone()
    }

    /// Changes whenever a checkpoint was published or cosigned, a receipt is
    /// waited for, or the quorum in force changed.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.inner.witnesses.news.subscribe()
    }

    /// The size of checkpoint that receipts wait for, if any do.
    pub fn wanted(&self) -> Option<Seq> {
        held(&self.inner.witnesses.state).wanted.last_key_value().map(|(size, _)| *size)
    }

    /// The published checkpoint and its signed note, for witnesses. Nothing
    /// while the first one cannot be written.
    pub fn published(&self) -> Option<(Checkpoint, String)> {
        let published = self.inner.published();
        (!published.note.is_empty()).then(|| (published.checkpoint.clone(), published.note.clone()))
    }

    /// Proves that the tree of the first `size` records extends that of the
    /// first `earlier`; `size` is at most the published one.
    pub fn consistency_between(&self, earlier: Seq, size: Seq) -> Result<Vec<Hash>, LogError> {
        let published = self.inner.published();
        let most = published.checkpoint.size;
        if earlier > size || size > most {
            return Err(LogError::NoRecord { seq: earlier.max(size), size: most });
        }
        if earlier == 0 || earlier == size {
            return Ok(Vec::new());
        }
        let mut nodes = TileReader { inner: &self.inner, edge: &published.edge, unwritten: &Tiles::new() };
        proof::consistency(&mut nodes, earlier, size)
    }

    /// Takes a published checkpoint with cosignatures under it. Those of the
    /// quorum's witnesses count, each once; others are left out. Whether this
    /// made it the newest that meets the quorum; then it is durable. Blocks.
    ///
    /// # Errors
    /// [`LogError::Broken`] where this log's key signed a tree that is not
    /// this one: somebody else signs with it, or the log was set back.
    pub fn add_cosignatures(&self, note: &str) -> Result<bool, LogError> {
        let met = self.inner.gather(note)?;
        if met {
            self.inner.witnesses.tell();
            self.inner.keep_best()?;
        }
        Ok(met)
    }

    /// Says why a witness did not cosign when it was asked.
    pub fn witness_failed(&self, name: &str, why: &str) {
        held(&self.inner.witnesses.state).failures.insert(name.to_owned(), why.to_owned());
    }

    /// Why witnesses did not cosign when they were last asked, by name.
    pub fn witness_failures(&self) -> BTreeMap<String, String> {
        held(&self.inner.witnesses.state).failures.clone()
    }
}
