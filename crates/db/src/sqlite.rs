//! SQLite as the catalogue needs it: one writer, any number of readers, and a
//! file that survives every crash short of a lying disk.
//!
//! The file is in WAL mode with `synchronous=NORMAL`: a commit costs no sync
//! of its own, a crash of the machine may lose the latest commits and never
//! the consistency of the file (<https://www.sqlite.org/wal.html>, "2.3
//! Performance Considerations"). Whoever needs those latest commits keeps them
//! elsewhere; the catalogue replays them from the log
//! (docs/decisions/record-is-the-redo.md).

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::migrate::{self, Migration};

/// Prepared statements kept with each connection.
const STATEMENTS_CACHED: usize = 64;
/// Idle readers kept for reuse; more may exist for a moment under load.
const READERS_IDLE_MAX: usize = 16;
/// How long a connection waits for another process that holds the file, such
/// as an operator's `sqlite3` shell taking a copy.
const BUSY: Duration = Duration::from_secs(5);

/// Why the database could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The disk that holds the database is full: free space, then retry.
    #[error("the disk that holds `{}` is full: free some space", .0.display())]
    Full(PathBuf),
    /// Another process holds the file.
    #[error("`{}` is in use by another process: stop it, or wait until it has finished", .0.display())]
    Busy(PathBuf),
    /// The file was written by a newer release.
    #[error("`{}` has schema version {found}, this release knows up to {known}: start it with the release that wrote it, or a newer one", .path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The highest version this release knows.
        known: u32,
    },
    /// The file is damaged.
    #[error("`{}` is damaged ({found}): move it away and run `ringfence recover`", .path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        found: String,
    },
    /// Anything else SQLite reports.
    #[error("database `{}`: {error}", .path.display())]
    Other {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        #[source]
        error: rusqlite::Error,
    },
}

impl DbError {
    /// Sorts an error of SQLite by what the caller can do about it.
    pub fn sort(path: &Path, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(Code::DiskFull) => Self::Full(path),
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => Self::Busy(path),
            Some(Code::DatabaseCorrupt | Code::NotADatabase) => Self::Damaged { path, found: error.to_string() },
            _ => Self::Other { path, error },
        }
    }
}

/// A database file: the one writer is taken out at start, readers are lent.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Sqlite {
    /// Opens or creates the file, brings its schema up to date and returns it
    /// together with its only writer.
    ///
    /// # Errors
    /// [`DbError::Newer`] where a newer release wrote the file,
    /// [`DbError::Damaged`] where it is not a database.
    pub fn open(path: &Path, migrations: &[Migration]) -> Result<(Self, Connection), DbError> {
        let sort = |error| DbError::sort(path, error);
        let mut writer = Connection::open(path).map_err(sort)?;
        prepare(&writer).map_err(sort)?;
        // Only a fresh file takes the page size; an old one keeps its own.
        writer.pragma_update(None, "page_size", 4096).map_err(sort)?;
        writer.pragma_update(None, "journal_mode", "WAL").map_err(sort)?;
        writer.pragma_update(None, "synchronous", "NORMAL").map_err(sort)?;
        migrate::run(path, &mut writer, migrations)?;
        Ok((Self { path: path.to_owned(), idle: Mutex::new(Vec::new()) }, writer))
    }

    /// Lends a read-only connection; it goes back to the pool when dropped.
    ///
    /// # Errors
    /// Whatever SQLite says on opening one more connection.
    pub fn reader(&self) -> Result<Reader<'_>, DbError> {
        let idle = self.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.open_reader()?,
        };
        Ok(Reader { connection: Some(connection), home: self })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sorts an error of SQLite on this file.
    pub fn sort(&self, error: rusqlite::Error) -> DbError {
        DbError::sort(&self.path, error)
    }

    /// SQLite's own check of the whole file: reads every page.
    ///
    /// # Errors
    /// [`DbError::Damaged`] with the first finding.
    pub fn check(&self) -> Result<(), DbError> {
        let reader = self.reader()?;
        let found: String =
            reader.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(|error| self.sort(error))?;
        match found.as_str() {
            "ok" => Ok(()),
            _ => Err(DbError::Damaged { path: self.path.clone(), found }),
        }
    }

    /// Writes a consistent copy of the database to `target` while it is in
    /// use. The copy is complete, synced and in no need of a WAL file.
    ///
    /// # Errors
    /// Whatever SQLite or the target's disk says; a target that exists is
    /// refused by SQLite ("table already exists") only if it is a database, so
    /// callers pass a fresh name.
    pub fn back_up(&self, target: &Path) -> Result<(), DbError> {
        let sort = |error| DbError::sort(target, error);
        let reader = self.reader()?;
        let mut copy = Connection::open(target).map_err(sort)?;
        let backup = rusqlite::backup::Backup::new(&reader, &mut copy).map_err(sort)?;
        // All pages in one step: one read transaction, so a busy writer cannot
        // make the copy start over for ever.
        if !matches!(backup.step(-1).map_err(sort)?, rusqlite::backup::StepResult::Done) {
            return Err(DbError::Busy(self.path.clone()));
        }
        drop(backup);
        copy.pragma_update(None, "journal_mode", "DELETE").map_err(sort)?;
        copy.close().map_err(|(_, error)| sort(error))
    }

    fn open_reader(&self) -> Result<Connection, DbError> {
        let sort = |error| self.sort(error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(sort)?;
        prepare(&connection).map_err(sort)?;
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        // A panic while pushing or popping leaves the vector whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every connection needs, whether it reads or writes.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // One plan for a statement, whatever is bound to it: without this SQLite
    // prepares a cached statement anew at each execution, to look whether the
    // new values would like another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    // 4 MiB each: the kernel's page cache serves the rest. No mmap: an I/O error
    // must be an error, not a signal that kills the process.
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.pragma_update(None, "temp_store", "FILE")
}

/// A lent read-only connection.
#[derive(Debug)]
pub struct Reader<'a> {
    connection: Option<Connection>,
    home: &'a Sqlite,
}

impl Deref for Reader<'_> {
    type Target = Connection;
    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("taken only on drop")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let mut idle = self.home.lock();
        if idle.len() < READERS_IDLE_MAX {
            idle.push(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &[Migration] = &[Migration { to: 1, sql: "CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)" }];

    #[test]
    fn a_copy_taken_in_use_is_complete_and_sound() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (db, writer) = Sqlite::open(&dir.path().join("a.db"), ONE).expect("open");
        for i in 0..1000 {
            writer.execute("INSERT INTO t VALUES(?1, randomblob(100))", [i]).expect("insert");
        }
        let copy = dir.path().join("copy.db");
        db.back_up(&copy).expect("copy");
        writer.execute("DELETE FROM t", []).expect("delete");
        let (copy, _writer) = Sqlite::open(&copy, ONE).expect("open copy");
        copy.check().expect("sound");
        let n: i64 =
            copy.reader().expect("reader").query_row("SELECT count(*) FROM t", [], |r| r.get(0)).expect("count");
        assert_eq!(n, 1000);
    }

    #[test]
    fn a_reader_sees_a_commit_at_once_and_cannot_write() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (db, writer) = Sqlite::open(&dir.path().join("a.db"), ONE).expect("open");
        let reader = db.reader().expect("reader");
        for i in 0..3_i64 {
            writer.execute("INSERT INTO t VALUES(?1, x'')", [i]).expect("insert");
            let n: i64 = reader.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).expect("count");
            assert_eq!(n, i + 1);
        }
        assert!(reader.execute("DELETE FROM t", []).is_err());
    }

    #[test]
    fn a_file_that_is_no_database_is_named_as_damaged() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        std::fs::write(&path, vec![b'x'; 8192]).expect("write");
        let error = Sqlite::open(&path, ONE).expect_err("refused");
        assert!(matches!(error, DbError::Damaged { .. }), "{error}");
    }

    #[test]
    fn a_damaged_page_is_found_by_the_check() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        {
            let (_db, writer) = Sqlite::open(&path, ONE).expect("open");
            for i in 0..2000 {
                writer.execute("INSERT INTO t VALUES(?1, randomblob(100))", [i]).expect("insert");
            }
        }
        let mut bytes = std::fs::read(&path).expect("read");
        let middle = bytes.len() / 2 / 4096 * 4096;
        bytes[middle..middle + 64].fill(0xff);
        std::fs::write(&path, bytes).expect("write");
        let (db, _writer) = Sqlite::open(&path, ONE).expect("opens: the damage is further in");
        assert!(db.check().is_err());
    }
}
