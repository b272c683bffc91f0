//! A disk in memory that keeps the contract of [`Disk`] and not one bit more.
//!
//! What was not synced may survive a crash, or not, or in part: each sector
//! of a write on its own, each directory up to any of its changes. Faults are
//! decided effect by effect by a script of the test. Everything random comes
//! from the seed given to [`SimDisk::crash`], so a failure can be repeated.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{DirEntry, Disk, DiskFile, EntryKind, LockGuard, Space};

/// Bytes that are written whole or not at all.
const SECTOR: usize = 512;

/// A disk in memory; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// Something that would change the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counts all effects on this disk, from 1.
    pub number: u64,
    /// What it is.
    pub effect: Effect,
    /// On which file or directory.
    pub path: PathBuf,
}

/// See [`Step::effect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is the operation of its name
pub enum Effect {
    CreateDir,
    Create,
    Write,
    SetLen,
    Sync,
    SyncDir,
    Rename,
    Link,
    Unlink,
    RemoveDir,
    PunchHole,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing happened.
    Fails(ErrorKind),
    /// It fails, and happened all the same.
    FailsButHappens(ErrorKind),
    /// It says it succeeded, and did nothing (a sync that lies).
    Lies,
    /// The machine stops before it; every later operation fails too.
    Stops,
}

type Script = Box<dyn FnMut(&Step) -> Option<Fault> + Send>;

struct State {
    nodes: HashMap<u64, Node>,
    next_node: u64,
    names: Names,
    durable_names: Names,
    /// Per directory, what was changed since it was synced, in order.
    name_changes: BTreeMap<PathBuf, Vec<NameChange>>,
    steps: u64,
    script: Script,
    running: Running,
    capacity: u64,
    locked: HashSet<u64>,
    now_us: u64,
}

type Names = BTreeMap<PathBuf, Name>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Dir,
    File(u64),
}

impl Name {
    fn file(&self) -> Option<u64> {
        match self {
            Name::File(number) => Some(*number),
            Name::Dir => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Running {
    Yes,
    Stopped,
}

#[derive(Clone)]
enum NameChange {
    Set(PathBuf, Name),
    Gone(PathBuf),
    Moved(PathBuf, PathBuf, Name),
}

#[derive(Default)]
struct Node {
    content: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<DataChange>,
    path: PathBuf,
    modified_us: u64,
}

#[derive(Clone)]
enum DataChange {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Hole(usize, usize),
}

/// Extends with zeros. Copied, not filled: an unoptimised build fills byte by
/// byte.
fn grow(content: &mut Vec<u8>, len: usize) {
    let missing = len.saturating_sub(content.len());
    content.extend_from_slice(&vec![0; missing]);
}

impl DataChange {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            DataChange::Write(at, bytes) => {
                grow(content, at + bytes.len());
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            DataChange::SetLen(len) => {
                content.truncate(*len);
                grow(content, *len);
            }
            DataChange::Hole(at, len) => {
                let end = content.len().min(at + len);
                content[(*at).min(end)..end].fill(0);
            }
        }
    }

    /// What a crash leaves of a change that was not synced.
    fn survive(self, chance: &mut Chance) -> Vec<DataChange> {
        match (self, chance.below(3)) {
            (_, 0) => Vec::new(),
            (DataChange::Write(at, bytes), 1) => {
                // Sectors are aligned to the disk, not to the write.
                let mut kept = Vec::new();
                let mut begin = 0;
                while begin < bytes.len() {
                    let end = bytes.len().min((at + begin) / SECTOR * SECTOR + SECTOR - at);
                    if chance.below(2) == 1 {
                        kept.push(DataChange::Write(at + begin, bytes[begin..end].to_vec()));
                    }
                    begin = end;
                }
                kept
            }
            (whole, _) => vec![whole],
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Set(path, name) => drop(names.insert(path.clone(), *name)),
            NameChange::Gone(path) => drop(names.remove(path)),
            NameChange::Moved(from, to, name) => {
                names.remove(from);
                names.insert(to.clone(), *name);
            }
        }
    }
}

/// Repeatable chance (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without faults.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State::new(HashMap::new(), Names::new()))))
    }

    /// As what most callers take.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Decides from now on what becomes of each step.
    pub fn script(&self, script: impl FnMut(&Step) -> Option<Fault> + Send + 'static) {
        self.state().script = Box::new(script);
    }

    /// The machine stops before effect `n` of this disk.
    pub fn stop_before(&self, n: u64) {
        self.script(move |step| (step.number >= n).then_some(Fault::Stops));
    }

    /// How many bytes all files may have together.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity = bytes;
    }

    /// How many bytes they have.
    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// What files that change from now on say of when they were changed,
    /// microseconds since the epoch; 0 (not known) until this is called.
    pub fn set_time_us(&self, now_us: u64) {
        self.state().now_us = now_us;
    }

    /// How many effects there were.
    pub fn effects(&self) -> u64 {
        self.state().steps
    }

    /// The machine stops and starts again: another disk, with what survived.
    /// This one stays stopped.
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut state = self.state();
        state.running = Running::Stopped;
        let mut chance = Chance(seed);
        let mut names = state.durable_names.clone();
        for changes in state.name_changes.values() {
            let kept = chance.below(changes.len() as u64 + 1) as usize;
            changes[..kept].iter().for_each(|change| change.apply(&mut names));
        }
        let dirs: HashSet<PathBuf> = names.iter().filter(|(_, n)| **n == Name::Dir).map(|(p, _)| p.clone()).collect();
        names.retain(|path, _| path.ancestors().skip(1).all(|up| is_root(up) || dirs.contains(up)));
        let mut nodes = HashMap::new();
        // In the order of their numbers, so that one seed is one outcome.
        let mut numbers: Vec<u64> = state.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let node = &state.nodes[&number];
            let mut content = node.durable.clone();
            for change in node.pending.iter().cloned().flat_map(|c| c.survive(&mut chance)) {
                change.apply(&mut content);
            }
            let (path, modified_us) = (node.path.clone(), node.modified_us);
            let node = Node { durable: content.clone(), content, pending: Vec::new(), path, modified_us };
            nodes.insert(number, node);
        }
        // Nobody has a nameless file open any more.
        let named: HashSet<u64> = names.values().filter_map(Name::file).collect();
        nodes.retain(|number, _| named.contains(number));
        let mut after = State::new(nodes, names);
        after.next_node = state.next_node;
        after.capacity = state.capacity;
        after.now_us = state.now_us;
        SimDisk(Arc::new(Mutex::new(after)))
    }

    /// The process ends and starts again on a machine that kept running:
    /// everything written is there, synced or not. Locks are gone.
    pub fn kill(&self) -> SimDisk {
        let after = self.duplicate();
        self.state().running = Running::Stopped;
        after
    }

    /// The same disk once more, as if copied; this one goes on.
    pub fn duplicate(&self) -> SimDisk {
        let state = self.state();
        let copy = |node: &Node| Node {
            content: node.content.clone(),
            durable: node.durable.clone(),
            pending: node.pending.clone(),
            path: node.path.clone(),
            modified_us: node.modified_us,
        };
        let nodes = state.nodes.iter().map(|(number, node)| (*number, copy(node))).collect();
        let mut after = State::new(nodes, state.durable_names.clone());
        after.names = state.names.clone();
        after.name_changes = state.name_changes.clone();
        after.next_node = state.next_node;
        after.capacity = state.capacity;
        after.now_us = state.now_us;
        SimDisk(Arc::new(Mutex::new(after)))
    }

    /// Every file there is, with its content, for oracles and tampering.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let state = self.state();
        let file = |(path, name): (&PathBuf, &Name)| match name {
            Name::File(node) => Some((path.clone(), state.nodes[node].content.clone())),
            Name::Dir => None,
        };
        state.names.iter().filter_map(file).collect()
    }

    /// Changes a file behind everybody's back, durably.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let Some(Name::File(number)) = state.names.get(path).copied() else {
            panic!("`{}` is not there to be tampered with", path.display())
        };
        let node = state.nodes.get_mut(&number).expect("a name has a node");
        change(&mut node.content);
        node.durable = node.content.clone();
        node.pending.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One effect, unless the script says otherwise.
    fn step<T: Default>(
        &self,
        effect: Effect,
        path: &Path,
        act: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.state();
        state.must_run()?;
        state.steps += 1;
        let step = Step { number: state.steps, effect, path: path.to_owned() };
        match (state.script)(&step) {
            None => act(&mut state),
            Some(Fault::Fails(kind)) => Err(kind.into()),
            Some(Fault::FailsButHappens(kind)) => act(&mut state).and(Err(kind.into())),
            Some(Fault::Lies) => Ok(T::default()),
            Some(Fault::Stops) => {
                state.running = Running::Stopped;
                Err(stopped())
            }
        }
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> io::Result<T>) -> io::Result<T> {
        let state = self.state();
        state.must_run()?;
        look(&state)
    }

    fn handle(&self, number: u64) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), node: number })
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

fn is_root(path: &Path) -> bool {
    path == Path::new("/") || path == Path::new("")
}

impl State {
    fn new(nodes: HashMap<u64, Node>, names: Names) -> Self {
        Self {
            nodes,
            next_node: 1,
            durable_names: names.clone(),
            names,
            name_changes: BTreeMap::new(),
            steps: 0,
            script: Box::new(|_| None),
            running: Running::Yes,
            capacity: 1 << 40,
            locked: HashSet::new(),
            now_us: 0,
        }
    }

    fn must_run(&self) -> io::Result<()> {
        if self.running == Running::Yes { Ok(()) } else { Err(stopped()) }
    }

    fn used(&self) -> u64 {
        let files = self.names.values().filter_map(|n| if let Name::File(node) = n { Some(*node) } else { None });
        files.collect::<HashSet<u64>>().iter().map(|n| self.nodes[n].content.len() as u64).sum()
    }

    fn grow(&self, from: usize, to: usize) -> io::Result<()> {
        let more = to.saturating_sub(from) as u64;
        if more > 0 && self.used() + more > self.capacity { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Name::File(number)) => Ok(*number),
            Some(Name::Dir) => Err(ErrorKind::IsADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        is_root(path) || self.names.get(path) == Some(&Name::Dir)
    }

    fn change_name(&mut self, at: &Path, change: NameChange) -> io::Result<()> {
        let dir = at.parent().unwrap_or(Path::new("/")).to_owned();
        if !self.is_dir(&dir) {
            return Err(ErrorKind::NotFound.into());
        }
        change.apply(&mut self.names);
        self.name_changes.entry(dir).or_default().push(change);
        Ok(())
    }

    fn free_name(&self, path: &Path) -> io::Result<()> {
        if self.names.contains_key(path) { Err(ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    fn change_data(&mut self, number: u64, change: DataChange) {
        let node = self.nodes.get_mut(&number).expect("an open file has a node");
        node.modified_us = self.now_us;
        change.apply(&mut node.content);
        node.pending.push(change);
    }

    fn sync_names(&mut self, dir: &Path) {
        for change in self.name_changes.remove(dir).unwrap_or_default() {
            change.apply(&mut self.durable_names);
        }
    }
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().collect();
        for dir in missing.into_iter().rev() {
            if self.look(|state| Ok(state.is_dir(dir)))? {
                continue;
            }
            self.step(Effect::CreateDir, dir, |state| {
                state.change_name(dir, NameChange::Set(dir.to_owned(), Name::Dir))
            })?;
            self.sync_dir(dir.parent().unwrap_or(Path::new("/")))?;
        }
        Ok(())
    }

    fn create_dirs(&self, path: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = path.ancestors().collect();
        for dir in missing.into_iter().rev() {
            if self.look(|state| Ok(state.is_dir(dir)))? {
                continue;
            }
            self.step(Effect::CreateDir, dir, |state| {
                state.change_name(dir, NameChange::Set(dir.to_owned(), Name::Dir))
            })?;
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let number = self.step(Effect::Create, path, |state| {
            state.free_name(path)?;
            let number = state.next_node;
            state.change_name(path, NameChange::Set(path.to_owned(), Name::File(number)))?;
            state.next_node += 1;
            state.nodes.insert(number, Node { path: path.to_owned(), modified_us: state.now_us, ..Node::default() });
            Ok(number)
        })?;
        Ok(self.handle(number))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.handle(self.look(|state| state.file(path))?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Effect::Rename, to, |state| {
            let name = Name::File(state.file(from)?);
            state.change_name(to, NameChange::Moved(from.to_owned(), to.to_owned(), name))
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(Effect::Link, to, |state| {
            let name = Name::File(state.file(from)?);
            state.free_name(to)?;
            state.change_name(to, NameChange::Set(to.to_owned(), name))
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step(Effect::Unlink, path, |state| {
            state.file(path)?;
            state.change_name(path, NameChange::Gone(path.to_owned()))
        })
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Effect::RemoveDir, path, |state| {
            if !state.is_dir(path) {
                return Err(ErrorKind::NotFound.into());
            }
            if state.names.keys().any(|name| name.parent() == Some(path)) {
                return Err(ErrorKind::DirectoryNotEmpty.into());
            }
            state.change_name(path, NameChange::Gone(path.to_owned()))
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.look(|state| {
            if !state.is_dir(path) {
                return Err(ErrorKind::NotFound.into());
            }
            let inside = state.names.iter().filter(|(name, _)| name.parent() == Some(path));
            let entry = |(name, what): (&PathBuf, &Name)| {
                let name = name.file_name()?.to_str()?.to_owned();
                let (kind, len, modified_us) = match what {
                    Name::Dir => (EntryKind::Dir, 0, 0),
                    Name::File(node) => {
                        let node = &state.nodes[node];
                        (EntryKind::File, node.content.len() as u64, node.modified_us)
                    }
                };
                Some(DirEntry { name, kind, len, modified_us })
            };
            Ok(inside.filter_map(entry).collect())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.step(Effect::SyncDir, path, |state| {
            state.sync_names(path);
            Ok(())
        })
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        self.look(|state| Ok(Space { total: state.capacity, free: state.capacity.saturating_sub(state.used()) }))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn LockGuard>> {
        let mut state = self.state();
        state.must_run()?;
        let node = state.file(path)?;
        if !state.locked.insert(node) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { disk: self.clone(), node }))
    }
}

struct SimLock {
    disk: SimDisk,
    node: u64,
}

impl LockGuard for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state().locked.remove(&self.node);
    }
}

struct SimFile {
    disk: SimDisk,
    node: u64,
}

impl SimFile {
    fn path(&self) -> PathBuf {
        self.disk.state().nodes[&self.node].path.clone()
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.step(Effect::Sync, &self.path(), |state| {
            let node = state.nodes.get_mut(&self.node).expect("an open file has a node");
            let pending = std::mem::take(&mut node.pending);
            pending.iter().for_each(|change| change.apply(&mut node.durable));
            Ok(())
        })
    }
}

fn to_usize(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| ErrorKind::InvalidInput.into())
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let at = to_usize(offset)?;
        self.disk.look(|state| {
            let content = &state.nodes[&self.node].content;
            let rest = content.get(at..).unwrap_or_default();
            let n = rest.len().min(buffer.len());
            buffer[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = to_usize(offset)?;
        self.disk.step(Effect::Write, &self.path(), |state| {
            state.grow(state.nodes[&self.node].content.len(), at + bytes.len())?;
            state.change_data(self.node, DataChange::Write(at, bytes.to_vec()));
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = to_usize(len)?;
        self.disk.step(Effect::SetLen, &self.path(), |state| {
            state.grow(state.nodes[&self.node].content.len(), len)?;
            state.change_data(self.node, DataChange::SetLen(len));
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.look(|state| Ok(state.nodes[&self.node].content.len() as u64))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let (at, len) = (to_usize(offset)?, to_usize(len)?);
        self.disk.step(Effect::PunchHole, &self.path(), |state| {
            state.change_data(self.node, DataChange::Hole(at, len));
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Durable, RealDisk};

    fn write(disk: &dyn Disk, path: &str, bytes: &[u8]) -> Box<dyn DiskFile> {
        let file = disk.create(Path::new(path)).unwrap();
        file.write_at(0, bytes).unwrap();
        file
    }

    #[test]
    fn what_was_synced_survives_and_what_was_not_may_not() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let file = write(&disk, "/d/synced", b"old");
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_at(0, b"new").unwrap();
        write(&disk, "/d/lost", b"x");
        let (mut old, mut new, mut lost) = (0, 0, 0);
        for seed in 0..100 {
            let after = disk.crash(seed);
            match after.read(Path::new("/d/synced")).unwrap().as_slice() {
                b"old" => old += 1,
                b"new" => new += 1,
                other => panic!("{other:?}"),
            }
            lost += u32::from(after.read(Path::new("/d/lost")).is_err());
        }
        assert!(old > 10 && new > 10 && lost > 10 && lost < 90);
    }

    #[test]
    fn writes_are_torn_at_sectors() {
        let disk = SimDisk::new();
        let file = write(&disk, "/f", &[0; 4096]);
        file.sync_data().unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        file.write_at(100, &[1; 3000]).unwrap();
        let torn = (0..50).any(|seed| {
            let bytes = disk.crash(seed).read(Path::new("/f")).unwrap();
            let sectors: Vec<bool> = bytes.chunks(SECTOR).map(|s| s.contains(&1)).collect();
            sectors[..6].contains(&true) && sectors[..6].contains(&false)
        });
        assert!(torn);
    }

    #[test]
    fn faults_happen_where_the_script_says() {
        let disk = SimDisk::new();
        disk.script(|step| (step.effect == Effect::Sync).then_some(Fault::FailsButHappens(ErrorKind::Other)));
        let file = write(&disk, "/f", b"x");
        disk.sync_dir(Path::new("/")).unwrap();
        assert!(file.sync_data().is_err());
        assert!((0..20).all(|seed| disk.crash(seed).read(Path::new("/f")).unwrap() == b"x"));
        assert!(file.len().is_err(), "a stopped machine answers nothing");
    }

    #[test]
    fn a_full_disk_takes_no_more_but_lets_files_be_rewritten() {
        let disk = SimDisk::new();
        disk.set_capacity(10);
        let file = write(&disk, "/f", &[0; 8]);
        assert_eq!(file.write_at(8, &[0; 3]).unwrap_err().kind(), ErrorKind::StorageFull);
        file.write_at(0, &[1; 8]).unwrap();
    }

    /// The same acts on both disks give the same answers.
    #[test]
    fn the_simulated_disk_answers_as_the_real_one_does() {
        let temp = tempfile::tempdir().unwrap();
        let answers = |disk: &dyn Disk, root: &Path| {
            let at = |name: &str| root.join(name);
            let mut said = Vec::new();
            let mut kind = |result: io::Result<()>| said.push(result.map_err(|e| e.kind()));
            kind(disk.create_dir_all(&at("a/b")));
            kind(disk.create(&at("a/f")).and_then(|f| f.write_at(3, b"xyz")));
            kind(disk.create(&at("a/f")).map(drop));
            kind(disk.create(&at("none/f")).map(drop));
            kind(disk.link(&at("a/f"), &at("a/g")));
            kind(disk.link(&at("a/f"), &at("a/g")));
            kind(disk.open(&at("a/f")).and_then(|f| f.set_len(5)));
            kind(disk.replace(&at("a/h"), b"whole", Durable::Yes));
            kind(disk.rename(&at("a/h"), &at("a/g")));
            kind(disk.unlink(&at("a/none")));
            kind(disk.remove_dir(&at("a")));
            kind(disk.remove_dir(&at("a/b")));
            let files = ["a/f", "a/g"].map(|name| disk.read(&at(name)).unwrap());
            let listed = disk.list(&at("a")).unwrap().into_iter().map(|e| (e.name, e.kind, e.len));
            (said, files, listed.collect::<Vec<_>>())
        };
        let sim = SimDisk::new();
        assert_eq!(answers(&RealDisk, temp.path()), answers(&sim, Path::new("/")));
    }

    #[test]
    fn a_lock_is_held_once() {
        let temp = tempfile::tempdir().unwrap();
        let sim = SimDisk::new();
        for (disk, path) in [(&RealDisk as &dyn Disk, temp.path().join("l")), (&sim, PathBuf::from("/l"))] {
            drop(disk.create(&path).unwrap());
            let held = disk.lock(&path).unwrap();
            assert_eq!(disk.lock(&path).err().unwrap().kind(), ErrorKind::WouldBlock);
            drop(held);
            assert!(disk.lock(&path).is_ok());
        }
    }
}
