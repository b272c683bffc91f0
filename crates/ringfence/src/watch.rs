//! The policy file is watched: edited, it takes effect after its diff and
//! whoever's file it is are on record, like `policy apply` (ruling 27).
//!
//! By looking every other second: no library, and it works on any file system.
//! Only a change of the file's text counts, once the file has rested from one
//! look to the next, so that a half-written file is not read. A file that is
//! not valid, or not the operator's, changes nothing; it is told once and shows
//! in `ringfence_policy_file_refused` until it is mended.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::cli::Failure;
use crate::installation::Installation;
use crate::serve::Stopping;

const EVERY: Duration = Duration::from_secs(2);
/// No policy file is larger; one that is would be read every other second.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What a look at the file found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    len: u64,
    inode: u64,
}

/// A file and what was last seen of it.
struct Watch {
    file: PathBuf,
    /// The text that was judged last, whatever came of it.
    seen: Option<String>,
    /// The file at the look before; nothing while it is not there.
    before: Option<Stamp>,
    /// The file whose text was judged last.
    judged: Option<Stamp>,
}

/// Watches until the server stops.
pub async fn run(installation: &Installation, mut stopping: Stopping) {
    let policy = &installation.config().policy;
    if !policy.watch {
        return;
    }
    let mut watch = Watch::new(installation.dir().join(&policy.file));
    metrics::gauge!("ringfence_policy_file_refused").set(0.0);
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.stopped() => return,
        }
        let Some(text) = watch.edited() else { continue };
        let ended = tokio::select! {
            ended = installation.put_file_in_force(&watch.file, &text) => ended,
            () = stopping.stopped() => return,
        };
        tell(&watch, &ended.map(drop));
    }
}

fn tell(watch: &Watch, ended: &Result<(), Failure>) {
    metrics::gauge!("ringfence_policy_file_refused").set(f64::from(u8::from(ended.is_err())));
    if let Err(failure) = ended {
        metrics::counter!("ringfence_policy_file_refusals_total").increment(1);
        let next = failure.next.as_deref().unwrap_or("mend it; `ringfence policy check` says what is wrong");
        tracing::error!(file = %watch.file.display(), next, "the policy file was edited and is not put in force: {failure}");
    }
}

impl Watch {
    /// What lies there now was put in force by the start.
    fn new(file: PathBuf) -> Self {
        let seen = std::fs::read_to_string(&file).ok();
        Self { file, seen, before: None, judged: None }
    }

    /// The text, if it is another one than was seen last, and at rest.
    fn edited(&mut self) -> Option<String> {
        let now = stamp(&self.file);
        let rests = now.is_some() && now == self.before;
        self.before = now;
        let now = now.filter(|now| rests && self.judged != Some(*now) && now.len <= BYTES_MAX)?;
        let text = String::from_utf8_lossy(&std::fs::read(&self.file).ok()?).into_owned();
        self.judged = Some(now);
        if self.seen.as_ref() == Some(&text) {
            return None;
        }
        self.seen = Some(text.clone());
        Some(text)
    }
}

fn stamp(file: &std::path::Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(file).ok()?;
    Some(Stamp { modified: meta.modified().ok()?, len: meta.len(), inode: meta.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_judged_once_per_text_and_only_at_rest() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("policy.cedar");
        let write = |text: &str| std::fs::write(&file, text).expect("written");
        write("one");
        let mut watch = Watch::new(file.clone());
        assert_eq!((watch.edited(), watch.edited()), (None, None), "what was there at start");
        write("one and two");
        assert_eq!(watch.edited(), None, "it may still be written");
        write("one, two and three");
        assert_eq!(watch.edited(), None);
        assert_eq!(watch.edited().as_deref(), Some("one, two and three"));
        assert_eq!((watch.edited(), watch.edited()), (None, None), "once");
        std::fs::remove_file(&file).expect("removed");
        assert_eq!((watch.edited(), watch.edited()), (None, None), "gone changes nothing");
        write("one, two and three");
        assert_eq!((watch.edited(), watch.edited()), (None, None), "and back with the same text");
        write("one");
        assert_eq!(watch.edited(), None);
        assert_eq!(watch.edited().as_deref(), Some("one"), "the first text again is a change too");
    }
}
