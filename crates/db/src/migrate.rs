//! Numbered migrations: a file says which schema it has, and is brought to the
//! one this release knows, one step per transaction.
//!
//! A step that was released is never edited; a change is a new step. A crash
//! leaves the file at the last complete step.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::sqlite::DbError;

/// One step of a schema's history.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// The schema version the file has afterwards: 1, 2, 3 … without gaps.
    pub to: u32,
    /// The statements that lead there.
    pub sql: &'static str,
}

/// Brings `connection` to the last of `migrations`.
///
/// # Errors
/// [`DbError::Newer`] where the file is beyond them.
pub(crate) fn run(path: &Path, connection: &mut Connection, migrations: &[Migration]) -> Result<(), DbError> {
    let sort = |error| DbError::sort(path, error);
    let known = u32::try_from(migrations.len()).expect("fewer than 4 billion migrations");
    connection
        .execute_batch(
            "CREATE TABLE IF NOT EXISTS schema_version(version INTEGER PRIMARY KEY, applied_unix_s INTEGER NOT NULL)",
        )
        .map_err(sort)?;
    let found = version(connection).map_err(sort)?;
    if found > known {
        return Err(DbError::Newer { path: path.to_owned(), found, known });
    }
    for (migration, number) in migrations.iter().zip(1..) {
        assert_eq!(migration.to, number, "migrations are numbered from 1 without gaps");
        if number > found {
            step(connection, migration).map_err(sort)?;
        }
    }
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("SELECT coalesce(max(version), 0) FROM schema_version", [], |row| row.get(0))
}

fn step(connection: &mut Connection, migration: &Migration) -> rusqlite::Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(migration.sql)?;
    tx.execute("INSERT INTO schema_version VALUES(?1, unixepoch())", [migration.to])?;
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sqlite::Sqlite;

    const HISTORY: &[Migration] = &[
        Migration { to: 1, sql: "CREATE TABLE a(x INTEGER)" },
        Migration { to: 2, sql: "ALTER TABLE a ADD COLUMN y INTEGER; UPDATE a SET y = x + 1" },
    ];

    #[test]
    fn an_old_file_keeps_its_rows_through_each_step() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        let (_db, writer) = Sqlite::open(&path, &HISTORY[..1]).expect("old release");
        writer.execute("INSERT INTO a VALUES(41)", []).expect("insert");
        drop(writer);
        for _ in 0..2 {
            let (_db, writer) = Sqlite::open(&path, HISTORY).expect("new release");
            let y: i64 = writer.query_row("SELECT y FROM a", [], |r| r.get(0)).expect("row");
            assert_eq!(y, 42);
        }
    }

    #[test]
    fn a_file_of_a_newer_release_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        drop(Sqlite::open(&path, HISTORY).expect("new release"));
        let error = Sqlite::open(&path, &HISTORY[..1]).expect_err("old release");
        assert!(matches!(error, DbError::Newer { found: 2, known: 1, .. }), "{error}");
        drop(Sqlite::open(&path, HISTORY).expect("still opens"));
    }

    #[test]
    fn a_step_that_fails_leaves_the_step_before_it() {
        let broken = [HISTORY[0], Migration { to: 2, sql: "CREATE TABLE b(x); CREATE TABLE b(x)" }];
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("a.db");
        assert!(Sqlite::open(&path, &broken).is_err());
        let (_db, writer) = Sqlite::open(&path, HISTORY).expect("the right step still applies");
        assert_eq!(version(&writer).expect("version"), 2);
    }
}
