//! The locks of one file, and the WAL's index, among connections of one
//! process; what the unix VFS keeps in `fcntl` locks and a mapped `-shm` file.

use std::cell::UnsafeCell;

/// Lock levels of a database file (<https://www.sqlite.org/lockingv3.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    None,
    Shared,
    Reserved,
    Pending,
    Exclusive,
}

impl Level {
    pub(super) fn from_code(code: i32) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Shared,
            2 => Self::Reserved,
            3 => Self::Pending,
            _ => Self::Exclusive,
        }
    }
}

/// Who holds a database file.
#[derive(Debug, Default)]
pub(super) struct FileLock {
    shared: usize,
    reserved: bool,
    pending: bool,
    exclusive: bool,
}

impl FileLock {
    /// Raises the lock of a connection from `held` to `wanted`; `false` is busy.
    pub(super) fn raise(&mut self, held: &mut Level, wanted: Level) -> bool {
        if wanted <= *held {
            return true;
        }
        if *held == Level::None {
            if self.pending || self.exclusive {
                return false;
            }
            self.shared += 1;
            *held = Level::Shared;
        }
        if wanted == Level::Reserved && *held < Level::Reserved {
            if self.reserved {
                return false;
            }
            self.reserved = true;
            *held = Level::Reserved;
        }
        if wanted == Level::Exclusive {
            if *held < Level::Pending {
                if self.pending || (self.reserved && *held < Level::Reserved) {
                    return false;
                }
                self.pending = true;
                self.reserved = true;
                *held = Level::Pending;
            }
            if self.shared > 1 {
                return false;
            }
            self.exclusive = true;
            *held = Level::Exclusive;
        }
        true
    }

    /// Lowers it to `Shared` or `None`.
    pub(super) fn lower(&mut self, held: &mut Level, wanted: Level) {
        if *held > Level::Shared && wanted <= Level::Shared {
            self.exclusive &= *held != Level::Exclusive;
            self.pending &= *held < Level::Pending;
            self.reserved = false;
            *held = Level::Shared;
        }
        if *held == Level::Shared && wanted == Level::None {
            self.shared -= 1;
            *held = Level::None;
        }
    }

    pub(super) fn is_reserved(&self) -> bool {
        self.reserved
    }
}

/// Locks of the WAL's index.
pub(super) const SLOTS: usize = 8;

/// One region of the index. SQLite reads and writes it through a pointer, from
/// several threads, under the locks of the slots and its own barriers.
type Region = Box<[UnsafeCell<u64>]>;

/// The WAL's index and its locks.
#[derive(Default)]
pub(super) struct Shm {
    regions: Vec<Region>,
    shared: [usize; SLOTS],
    exclusive: [bool; SLOTS],
    connections: usize,
}

/// What one connection holds of an index.
#[derive(Debug, Default)]
pub(super) struct ShmHeld {
    shared: [bool; SLOTS],
    exclusive: [bool; SLOTS],
}

impl Shm {
    pub(super) fn join(&mut self) {
        self.connections += 1;
    }

    /// Ends one connection; whether it was the last.
    pub(super) fn leave(&mut self, held: &mut ShmHeld) -> bool {
        self.unlock(held, 0..SLOTS);
        self.connections -= 1;
        self.connections == 0
    }

    /// The address of a region, made of zeros if `extend`.
    pub(super) fn region(&mut self, index: usize, bytes: usize, extend: bool) -> Option<*mut u64> {
        while self.regions.len() <= index && extend {
            self.regions.push((0..bytes.div_ceil(8)).map(|_| UnsafeCell::new(0)).collect());
        }
        self.regions.get(index).and_then(|region| region.first()).map(UnsafeCell::get)
    }

    /// Takes slots; `false` is busy, and nothing was taken.
    pub(super) fn lock(&mut self, held: &mut ShmHeld, slots: std::ops::Range<usize>, exclusive: bool) -> bool {
        for slot in slots.clone() {
            let others = self.shared[slot] - usize::from(held.shared[slot]);
            let busy = self.exclusive[slot] && !held.exclusive[slot];
            if busy || (exclusive && others > 0) {
                return false;
            }
        }
        for slot in slots {
            if exclusive {
                (self.exclusive[slot], held.exclusive[slot]) = (true, true);
            } else if !held.shared[slot] {
                self.shared[slot] += 1;
                held.shared[slot] = true;
            }
        }
        true
    }

    /// Gives slots back.
    pub(super) fn unlock(&mut self, held: &mut ShmHeld, slots: std::ops::Range<usize>) {
        for slot in slots {
            if std::mem::take(&mut held.exclusive[slot]) {
                self.exclusive[slot] = false;
            }
            if std::mem::take(&mut held.shared[slot]) {
                self.shared[slot] -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_and_an_exclusive_lock_waits_for_readers() {
        let mut lock = FileLock::default();
        let (mut a, mut b) = (Level::None, Level::None);
        assert!(lock.raise(&mut a, Level::Shared) && lock.raise(&mut b, Level::Shared));
        assert!(lock.raise(&mut a, Level::Reserved) && !lock.raise(&mut b, Level::Reserved));
        assert!(!lock.raise(&mut a, Level::Exclusive), "b still reads");
        let mut c = Level::None;
        assert!(!lock.raise(&mut c, Level::Shared), "no new reader while one waits for the file");
        lock.lower(&mut b, Level::None);
        assert!(lock.raise(&mut a, Level::Exclusive));
        lock.lower(&mut a, Level::None);
        assert!(lock.raise(&mut c, Level::Exclusive));
    }

    #[test]
    fn slots_are_shared_by_readers_or_held_by_one() {
        let mut shm = Shm::default();
        let (mut a, mut b) = (ShmHeld::default(), ShmHeld::default());
        shm.join();
        shm.join();
        assert!(shm.lock(&mut a, 3..4, false) && shm.lock(&mut b, 3..4, false));
        assert!(!shm.lock(&mut a, 2..5, true), "b shares slot 3");
        assert!(shm.lock(&mut b, 2..3, true), "nothing was taken by the attempt");
        assert!(!shm.leave(&mut b) && shm.lock(&mut a, 4..8, true) && shm.leave(&mut a));
    }
}
