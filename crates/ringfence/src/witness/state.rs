//! What a witness must never forget: its key, and for each log the newest
//! checkpoint that it cosigned.
//!
//! INVARIANT: a checkpoint is durable here before its cosignature leaves, and
//! replaces only one that it extends. So there are no two histories of one log
//! that both bear this witness's name, whenever it is killed.
//!
//! `DIR/key`              the private key, made once, mode 0600
//! `DIR/origins`          logs of which there is a checkpoint; grows only
//! `DIR/logs/<SHA-256>`   the newest checkpoint that was cosigned of one log
//! `DIR/forks/…`          notes that contradict each other, both signed
//! `DIR/lock`             held while a process uses this directory
//!
//! A file that is missing or damaged stops the start: a witness that began anew
//! under the same key would sign whatever it is shown.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ringfence_db::disk::{Disk, Durable, LockGuard};
use ringfence_format::checkpoint::{BadCheckpoint, Checkpoint, VerifierKey, verify, verify_note};
use ringfence_format::leaf::Hash;
use ringfence_format::proof::verify_consistency;
use ringfence_format::tile::empty_root;
use ringfence_format::witness::{WitnessKey, message};
use zeroize::Zeroizing;

use super::request::AddCheckpoint;

/// Contradictions that are kept; whoever can sign with a log's key could make
/// any number of them.
const FORKS_MAX: usize = 256;

/// Why a witness does not start.
#[derive(Debug, thiserror::Error)]
pub enum BadState {
    /// A file operation failed.
    #[error("cannot {what} `{path}`: {why}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// Another process has it.
    #[error("the state in `{0}` is used by another process")]
    InUse(PathBuf),
    /// It is not what a witness left.
    #[error("`{path}` {what}: this witness does not begin anew under a key that has signed")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// There is no key yet and no name for one, or another name.
    #[error("{0}")]
    Name(String),
}

/// Why a checkpoint is not cosigned; with the HTTP status that says so.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// 400.
    Malformed(String),
    /// 404: this log is not watched.
    UnknownOrigin,
    /// 403: no key of this log signed it.
    Unsigned(String),
    /// 409: the witness has seen a checkpoint of this size.
    OldSize(u64),
    /// 409: the same size with another root.
    Fork,
    /// 422: it does not extend what the witness has seen.
    BadProof,
    /// 503: what is on the disk is not known any more; a restart looks.
    Broken,
}

/// A witness with its state, held by this process.
pub struct State {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    name: WitnessKey,
    key: Ed25519KeyPair,
    logs: HashMap<String, Watched>,
    /// Logs listed in `DIR/origins`.
    origins: Mutex<BTreeSet<String>>,
    _held: Box<dyn LockGuard>,
}

struct Watched {
    keys: Vec<VerifierKey>,
    /// Locked from the comparison to the cosignature: one at a time.
    standing: Mutex<Standing>,
}

#[derive(Default)]
struct Standing {
    latest: Option<(Checkpoint, String)>,
    /// A write failed: what is on the disk is not known.
    broken: bool,
}

impl State {
    /// Takes the state in `dir`, which the first start makes; `name` is the
    /// name of its key, needed then. Watches `logs`.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, name: Option<&str>, logs: Vec<VerifierKey>) -> Result<Self, BadState> {
        disk.create_dir_all(&dir.join("logs")).map_err(io("make", &dir.join("logs")))?;
        let held = lock(disk.as_ref(), dir)?;
        let (name, key) = key(disk.as_ref(), dir, name)?;
        let origins = read_origins(disk.as_ref(), dir)?;
        let mut watched: HashMap<String, Watched> = HashMap::new();
        for log in logs {
            let slot = watched.entry(log.name().to_owned());
            slot.or_insert_with(|| Watched { keys: Vec::new(), standing: Mutex::default() }).keys.push(log);
        }
        // Those that are not watched any more are looked at too: they may be again.
        for origin in origins.iter().chain(watched.keys()).cloned().collect::<BTreeSet<_>>() {
            let latest = read_latest(disk.as_ref(), dir, &origin)?;
            if latest.is_none() && origins.contains(&origin) {
                return Err(damaged(&latest_path(dir, &origin), "is missing"));
            }
            if let Some(watched) = watched.get(&origin) {
                standing(watched).latest = latest;
            }
        }
        let dir = dir.to_owned();
        Ok(Self { disk, dir, name, key, logs: watched, origins: Mutex::new(origins), _held: held })
    }

    /// The key that its cosignatures verify under.
    pub fn verifier_key(&self) -> &WitnessKey {
        &self.name
    }

    /// The size of the newest checkpoint that it cosigned of a log it watches.
    #[cfg(test)]
    pub fn seen(&self, origin: &str) -> Option<u64> {
        let latest = |standing: &Standing| standing.latest.as_ref().map_or(0, |(latest, _)| latest.size);
        self.logs.get(origin).map(|watched| latest(&standing(watched)))
    }

    /// Cosigns a checkpoint if it extends the last one: the line to answer
    /// with. Blocks; requests for one log wait for each other. `now_s` is
    /// asked when it is signed.
    pub fn add(&self, asked: &AddCheckpoint, now_s: impl Fn() -> u64) -> Result<String, Refused> {
        let origin = asked.note.split('\n').next().unwrap_or_default();
        let watched = self.logs.get(origin).ok_or(Refused::UnknownOrigin)?;
        let (own, checkpoint) = believe(&asked.note, &watched.keys)?;
        if asked.old > checkpoint.size {
            return Err(Refused::Malformed("the old size is above that of the checkpoint".to_owned()));
        }
        let standing = &mut *standing(watched);
        if standing.broken {
            return Err(Refused::Broken);
        }
        let extends = self.extends(standing, asked, &checkpoint, &own);
        if extends? == Extends::Grown {
            // Durable before the cosignature leaves. A crash after this leaves a
            // checkpoint that nobody has our word for, which is no harm.
            self.keep(&checkpoint.origin, &own).map_err(|error| {
                standing.broken = true;
                tracing::error!(%error, "the witness's state cannot be written: nothing is cosigned until a restart");
                Refused::Broken
            })?;
            standing.latest = Some((checkpoint, own.clone()));
        }
        let text = &own[..=own.rfind("\n\n").unwrap_or(0)];
        let time_s = now_s();
        let signature = self.key.sign(message(time_s, text).as_bytes());
        let signature = signature.as_ref().try_into().map_err(|_| Refused::Broken)?;
        Ok(self.name.line(time_s, signature))
    }

    /// upholds the INVARIANT: what passes extends the latest checkpoint.
    fn extends(
        &self,
        standing: &Standing,
        asked: &AddCheckpoint,
        next: &Checkpoint,
        own: &str,
    ) -> Result<Extends, Refused> {
        let (latest_size, latest_root) = match &standing.latest {
            Some((latest, _)) => (latest.size, latest.root),
            None => (0, empty_root()),
        };
        if let Some((latest, note)) =
            standing.latest.as_ref().filter(|(l, _)| l.size == next.size && l.root != next.root)
        {
            tracing::error!(
                origin = latest.origin,
                size = latest.size,
                "LOG_FORK: the log signed two different trees of the same size; both notes are kept"
            );
            self.keep_fork(next, note, own);
        }
        if asked.old != latest_size {
            return Err(Refused::OldSize(latest_size));
        }
        if standing.latest.is_some() && next.size == latest_size {
            if next.root != latest_root {
                return Err(Refused::Fork);
            }
            return if asked.proof.is_empty() { Ok(Extends::Same) } else { Err(Refused::BadProof) };
        }
        let empty_is_empty = next.size > 0 || next.root == empty_root();
        if !empty_is_empty || !verify_consistency(latest_size, &latest_root, next.size, &next.root, &asked.proof) {
            tracing::warn!(
                origin = next.origin,
                size = next.size,
                "a checkpoint without a proof that it extends the last"
            );
            return Err(Refused::BadProof);
        }
        Ok(Extends::Grown)
    }

    fn keep(&self, origin: &str, note: &str) -> std::io::Result<()> {
        let path = latest_path(&self.dir, origin);
        self.disk.replace(&path, sealed(LATEST, note).as_bytes(), Durable::Yes)?;
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if !origins.contains(origin) {
            let mut grown = origins.clone();
            grown.insert(origin.to_owned());
            let text: String = grown.iter().map(|origin| format!("{origin}\n")).collect();
            self.disk.replace(&self.dir.join("origins"), sealed(ORIGINS, &text).as_bytes(), Durable::Yes)?;
            *origins = grown;
        }
        Ok(())
    }

    /// Keeps two notes that contradict each other. What cannot be kept is told
    /// all the same.
    fn keep_fork(&self, next: &Checkpoint, first: &str, second: &str) {
        let dir = self.dir.join("forks");
        let root = &hex::encode(next.root)[..16];
        let path = dir.join(format!("{}-{}-{root}", &name_of(&next.origin)[..16], next.size));
        let kept = || {
            self.disk.create_dir_all(&dir)?;
            if self.disk.list(&dir)?.len() >= FORKS_MAX {
                return Ok(());
            }
            let file = self.disk.create(&path)?;
            file.write_at(0, format!("{first}\n{second}").as_bytes())?;
            file.sync_data()?;
            self.disk.sync_dir(&dir)
        };
        match kept() {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                tracing::error!("the contradicting notes cannot be kept: {e}\n{first}\n{second}");
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Extends {
    /// The same tree again: only the time is new.
    Same,
    Grown,
}

fn standing(watched: &Watched) -> std::sync::MutexGuard<'_, Standing> {
    watched.standing.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The note with the signature of one of these keys alone, and what it says.
/// Signatures by others are ignored, one of these keys that does not verify
/// refuses the note (C2SP signed-note).
fn believe(note: &str, keys: &[VerifierKey]) -> Result<(String, Checkpoint), Refused> {
    let mut signed_by = None;
    for key in keys {
        match verify_note(note, key) {
            Ok(_) => signed_by = signed_by.or(Some(key)),
            Err(BadCheckpoint::Unsigned(_)) => {}
            Err(why @ BadCheckpoint::Syntax(_)) => return Err(Refused::Malformed(why.to_string())),
            Err(why) => return Err(Refused::Unsigned(why.to_string())),
        }
    }
    let key = signed_by.ok_or_else(|| Refused::Unsigned("no key of this log signed the checkpoint".to_owned()))?;
    let checkpoint = verify(note, key).map_err(|why| Refused::Malformed(why.to_string()))?;
    let signatures = note.rfind("\n\n").map_or(note.len(), |at| at + 2);
    let own = |line: &str| Some(format!("{}{line}\n", &note[..signatures])).filter(|own| verify(own, key).is_ok());
    let own = note[signatures..].lines().find_map(own);
    Ok((own.ok_or_else(|| Refused::Malformed("no signature of its own".to_owned()))?, checkpoint))
}

// --- files ------------------------------------------------------------------

const LATEST: &str = "ringfence witness checkpoint 0";
const ORIGINS: &str = "ringfence witness origins 0";

/// What it is, the SHA-256 of the rest, and the rest.
fn sealed(what: &str, text: &str) -> String {
    format!("{what} {}\n{text}", sha256(text.as_bytes()))
}

fn unsealed<'a>(what: &str, bytes: &'a [u8]) -> Option<&'a str> {
    let (head, text) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    (head == format!("{what} {}", sha256(text.as_bytes()))).then_some(text)
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn name_of(origin: &str) -> String {
    sha256(origin.as_bytes())
}

fn latest_path(dir: &Path, origin: &str) -> PathBuf {
    dir.join("logs").join(name_of(origin))
}

fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BadState {
    let path = path.to_owned();
    move |why| BadState::Io { what, path, why }
}

fn damaged(path: &Path, what: &'static str) -> BadState {
    BadState::Damaged { path: path.to_owned(), what }
}

/// The bytes of a file, or nothing where there is none.
fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, BadState> {
    match disk.read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io("read", path)(e)),
    }
}

fn lock(disk: &dyn Disk, dir: &Path) -> Result<Box<dyn LockGuard>, BadState> {
    let path = dir.join("lock");
    match disk.create(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(io("make", &path)(e)),
        _ => {}
    }
    disk.lock(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => BadState::InUse(dir.to_owned()),
        _ => io("lock", &path)(e),
    })
}

/// The key, made where nothing was ever signed.
fn key(disk: &dyn Disk, dir: &Path, name: Option<&str>) -> Result<(WitnessKey, Ed25519KeyPair), BadState> {
    let path = dir.join("key");
    let Some(text) = read(disk, &path)?.map(Zeroizing::new) else {
        let name = name.ok_or_else(|| {
            BadState::Name("a new witness needs a name: `--name witness.example/one`, a URL without its scheme".into())
        })?;
        return new_key(disk, dir, name);
    };
    let seed = std::str::from_utf8(&text).ok().and_then(parse_key);
    let (found, seed) = seed.ok_or_else(|| damaged(&path, "is not a witness's key"))?;
    if let Some(name) = name.filter(|name| *name != found) {
        return Err(BadState::Name(format!("the key in `{}` is that of `{found}`, not of `{name}`", path.display())));
    }
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| damaged(&path, "is not a witness's key"))?;
    named(&found, &pair).map(|name| (name, pair))
}

fn new_key(disk: &dyn Disk, dir: &Path, name: &str) -> Result<(WitnessKey, Ed25519KeyPair), BadState> {
    let path = dir.join("key");
    let has_state = disk.list(&dir.join("logs")).map_err(io("list", dir))?.iter().any(|f| !f.name.ends_with(".tmp"));
    // A first start that was cut off left an empty list, and nothing signed.
    let origins = read(disk, &dir.join("origins"))?;
    if has_state || origins.is_some_and(|bytes| unsealed(ORIGINS, &bytes) != Some("")) {
        return Err(damaged(&path, "is missing, though there are checkpoints that it signed"));
    }
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut *seed).map_err(|_| BadState::Name("the system gives no random numbers".into()))?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).expect("an Ed25519 seed is any 32 bytes");
    let public = named(name, &pair)?;
    let mut body = Zeroizing::new(vec![4]);
    body.extend_from_slice(&*seed);
    let text = Zeroizing::new(format!("PRIVATE+KEY+{name}+{}+{}\n", hex::encode(public.id()), BASE64.encode(&*body)));
    // The list first: a key without it has lost its state.
    disk.replace(&dir.join("origins"), sealed(ORIGINS, "").as_bytes(), Durable::Yes).map_err(io("write", dir))?;
    disk.replace(&path, text.as_bytes(), Durable::Yes).map_err(io("write", &path))?;
    Ok((public, pair))
}

fn named(name: &str, pair: &Ed25519KeyPair) -> Result<WitnessKey, BadState> {
    let public: Hash = pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
    WitnessKey::new(name, public).map_err(|_| BadState::Name(format!("`{name}` is no name: no spaces, no plus sign")))
}

/// `PRIVATE+KEY+name+id+base64(type ‖ seed)`, as Go's note package writes it.
fn parse_key(text: &str) -> Option<(String, Zeroizing<[u8; 32]>)> {
    let rest = text.strip_suffix('\n')?.strip_prefix("PRIVATE+KEY+")?;
    let (name, rest) = rest.split_once('+')?;
    let (id, body) = rest.split_once('+')?;
    let body = Zeroizing::new(BASE64.decode(body).ok()?);
    let (kind, seed) = body.split_first()?;
    let seed: Zeroizing<[u8; 32]> = Zeroizing::new(seed.try_into().ok()?);
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).ok()?;
    let right = *kind == 4 && named(name, &pair).is_ok_and(|key| hex::encode(key.id()) == id);
    right.then(|| (name.to_owned(), seed))
}

fn read_origins(disk: &dyn Disk, dir: &Path) -> Result<BTreeSet<String>, BadState> {
    let path = dir.join("origins");
    let bytes = read(disk, &path)?.ok_or_else(|| damaged(&path, "is missing"))?;
    let text = unsealed(ORIGINS, &bytes).ok_or_else(|| damaged(&path, "is damaged"))?;
    Ok(text.lines().map(ToOwned::to_owned).collect())
}

fn read_latest(disk: &dyn Disk, dir: &Path, origin: &str) -> Result<Option<(Checkpoint, String)>, BadState> {
    let path = latest_path(dir, origin);
    let Some(bytes) = read(disk, &path)? else { return Ok(None) };
    let note = unsealed(LATEST, &bytes).ok_or_else(|| damaged(&path, "is damaged"))?;
    let text = note.rfind("\n\n").map(|at| &note[..=at]);
    let checkpoint = text.and_then(|text| Checkpoint::from_text(text).ok()).filter(|c| c.origin == origin);
    let checkpoint = checkpoint.ok_or_else(|| damaged(&path, "is damaged"))?;
    Ok(Some((checkpoint, note.to_owned())))
}
