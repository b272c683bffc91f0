//! SQLite's checkpoints, away from the commit thread: they sync, and a commit
//! should not wait for that.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use ringfence_db::rusqlite::Connection;

/// How often the WAL file is looked at.
const EVERY: Duration = Duration::from_millis(500);
/// A WAL file smaller than this is left alone.
const WAL_BYTES_MIN: u64 = 4 * 1024 * 1024;

/// The thread that copies committed pages from the WAL into the file.
pub(crate) struct Checkpointer {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(crate) fn start(path: &Path) -> std::io::Result<Self> {
        let path = path.to_owned();
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new().name("checkpoint".to_owned()).spawn(move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(EVERY) {
                if let Err(error) = checkpoint(&path) {
                    // The commit thread does it itself once the WAL is large.
                    tracing::warn!("`{}` is not checkpointed: {error}", path.display());
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked_already_reported = thread.join();
        }
    }
}

/// Opened for each round, so that it never holds an old snapshot. PASSIVE
/// takes what is committed and waits for nobody.
fn checkpoint(path: &Path) -> ringfence_db::rusqlite::Result<()> {
    let mut wal = PathBuf::from(path).into_os_string();
    wal.push("-wal");
    let large = std::fs::metadata(&wal).is_ok_and(|file| file.len() >= WAL_BYTES_MIN);
    if !large {
        return Ok(());
    }
    let connection = Connection::open(path)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
