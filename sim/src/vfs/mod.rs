//! SQLite on a simulated disk.
//!
//! [`mount`] puts a [`SimDisk`] in place of the file system below one
//! directory; every connection that SQLite opens there reads, writes and syncs
//! that disk, and meets its faults and crashes. What SQLite keeps in shared
//! memory (the WAL's index) and its locks live with the mount: a restart of the
//! machine or the process begins them anew, as on a real one.
//!
//! Files without a name (temporary tables) are kept in memory and have no
//! faults.

mod files;
mod locks;
mod table;

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ringfence_db::disk::sim::SimDisk;

use self::locks::{FileLock, Shm};

/// A disk as the connections of one life of a machine see it.
pub(crate) struct Mount {
    disk: SimDisk,
    root: PathBuf,
    locks: Mutex<HashMap<PathBuf, Arc<Mutex<FileLock>>>>,
    shms: Mutex<HashMap<PathBuf, Arc<Mutex<Shm>>>>,
}

fn mounts() -> MutexGuard<'static, HashMap<String, Arc<Mount>>> {
    static MOUNTS: OnceLock<Mutex<HashMap<String, Arc<Mount>>>> = OnceLock::new();
    held(MOUNTS.get_or_init(Mutex::default))
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts what is below `root` on `disk` in place of everything below `/name`.
/// Each life of a process takes a name of its own: what a connection of an
/// earlier life still does by name must not reach this one.
///
/// From the first call on, SQLite in this process opens simulated files only.
pub fn mount(name: &str, disk: SimDisk, root: &Path) {
    table::register();
    let mount = Mount { disk, root: root.to_owned(), locks: Mutex::default(), shms: Mutex::default() };
    mounts().insert(name.to_owned(), Arc::new(mount));
}

/// Takes a mount away.
pub fn unmount(name: &str) {
    mounts().remove(name);
}

/// The mount of a path, and the path on its disk.
fn mount_of(path: &Path) -> Option<(Arc<Mount>, PathBuf)> {
    let mut parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mount = mounts().get(parts.next()?.to_str()?).cloned()?;
    let below = parts.fold(mount.root.clone(), |path, part| path.join(part));
    Some((mount, below))
}

impl Mount {
    fn lock_of(&self, path: &Path) -> Arc<Mutex<FileLock>> {
        held(&self.locks).entry(path.to_owned()).or_default().clone()
    }

    fn shm_of(&self, path: &Path) -> Arc<Mutex<Shm>> {
        held(&self.shms).entry(path.to_owned()).or_default().clone()
    }

    /// The last connection is gone: the next begins with an empty index.
    fn forget_shm(&self, path: &Path) {
        held(&self.shms).remove(path);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ringfence_db::disk::Disk;
    use ringfence_db::disk::sim::{Effect, Fault, SimDisk};
    use ringfence_db::rusqlite::Connection;
    use ringfence_db::{Migration, Sqlite};

    use super::*;

    const ONE: &[Migration] = &[Migration { to: 1, sql: "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)" }];

    fn fresh(name: &str) -> (SimDisk, PathBuf) {
        let disk = SimDisk::new();
        let dir = Path::new("/").join(name);
        disk.create_dir_all(&dir).expect("made");
        mount(name, disk.clone(), &dir);
        (disk, dir.join("a.db"))
    }

    fn count(db: &Connection) -> i64 {
        db.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counted")
    }

    #[test]
    fn readers_see_commits_and_the_file_is_on_the_simulated_disk() {
        let (disk, path) = fresh("vfs-read");
        let (db, writer) = Sqlite::open(&path, ONE).expect("open");
        let reader = db.reader().expect("reader");
        for i in 0..300_i64 {
            writer.execute("INSERT INTO t VALUES(?1, randomblob(2000))", [i]).expect("insert");
            assert_eq!(count(&reader), i + 1);
        }
        assert!(
            disk.files().iter().any(|(file, bytes)| *file == path.with_extension("db-wal") && bytes.len() > 500_000)
        );
        assert!(!path.exists(), "nothing is on the machine's own disk");
        drop(reader);
        db.check().expect("sound");
    }

    /// WAL mode under `synchronous=NORMAL`: a crash may lose commits, never
    /// the consistency of the file; what a checkpoint synced stays.
    #[test]
    fn a_crash_anywhere_leaves_a_sound_file_and_a_prefix_of_the_commits() {
        for seed in 0..60_u64 {
            let name = format!("vfs-crash-{seed}");
            let (disk, path) = fresh(&name);
            disk.stop_before(60 + seed * 7);
            let mut committed = 0;
            if let Ok((_db, writer)) = Sqlite::open(&path, ONE) {
                for i in 0..60_i64 {
                    if writer.execute("INSERT INTO t VALUES(?1, randomblob(3000))", [i]).is_err() {
                        break;
                    }
                    committed = i + 1;
                    if i % 9 == 8 {
                        let _ = writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
                    }
                }
            }
            mount(&name, disk.crash(seed), path.parent().expect("a directory"));
            let (db, writer) = Sqlite::open(&path, ONE).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            db.check().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let n = count(&writer);
            let largest: i64 = writer.query_row("SELECT coalesce(max(a), -1) FROM t", [], |r| r.get(0)).expect("max");
            assert!(n == largest + 1 && n <= committed + 1, "seed {seed}: {n} rows, largest {largest}");
        }
    }

    #[test]
    fn a_failing_or_full_disk_is_an_error_that_passes() {
        let (disk, path) = fresh("vfs-fail");
        let (db, writer) = Sqlite::open(&path, ONE).expect("open");
        disk.set_capacity(disk.used());
        let full = writer.execute("INSERT INTO t VALUES(1, randomblob(9000))", []).expect_err("full");
        assert!(matches!(db.sort(full), ringfence_db::DbError::Full(_)));
        disk.set_capacity(1 << 40);
        disk.script(|step| (step.effect == Effect::Write).then_some(Fault::Fails(std::io::ErrorKind::Other)));
        assert!(writer.execute("INSERT INTO t VALUES(1, randomblob(9000))", []).is_err());
        disk.script(|_| None);
        writer.execute("INSERT INTO t VALUES(1, randomblob(9000))", []).expect("it works again");
        assert_eq!(count(&writer), 1);
    }
}
