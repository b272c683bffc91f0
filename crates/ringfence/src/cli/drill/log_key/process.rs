//! Children of the drill, and the folder they live in.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::super::idp::random_bytes;
use crate::cli::Failure;

/// How long a child may take to be ready.
const READY: Duration = Duration::from_secs(20);

/// A folder that is removed with all that is in it.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one, of this user alone.
    pub fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("ringfence-drill-{}", hex::encode(&random_bytes()[..8])));
        std::fs::create_dir(&path).map_err(Failure::internal)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A process of this same program; it ends when this is dropped.
pub struct Child(std::process::Child);

impl Child {
    /// Starts `ringfence ARGUMENTS… STATE --json` and reads the line it prints
    /// when it is ready.
    pub async fn start(arguments: &[&str], state: &Path) -> Result<(Self, Value), Failure> {
        let program = std::env::current_exe().map_err(Failure::internal)?;
        let mut command = Command::new(program);
        command.args(arguments).arg(state).arg("--json").env("RINGFENCE_TRACE", "off");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let what = arguments.first().copied().unwrap_or_default().to_owned();
        let failed =
            |why: &dyn std::fmt::Display| Failure::internal(format!("`ringfence {what}` did not start: {why}"));
        let mut child = Self(command.spawn().map_err(|e| failed(&e))?);
        let stdout = child.0.stdout.take().ok_or_else(|| failed(&"no output"))?;
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).map(|_| line)
        });
        // A child that is given up is ended, and with it the read.
        let read = tokio::time::timeout(READY, read).await.map_err(|_| failed(&"it is not ready in time"))?;
        let line = read.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        let ready = serde_json::from_str(&line).map_err(|_| failed(&"it ended"))?;
        Ok((child, ready))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
