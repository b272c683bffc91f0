//! What lies between the crates above and a disk: SQLite and its migrations, durable files, and the
//! clock.

pub mod clock;
pub mod disk;
pub mod migrate;
pub mod sqlite;

pub use migrate::Migration;
pub use rusqlite;
pub use sqlite::{DbError, Reader, Sqlite};
