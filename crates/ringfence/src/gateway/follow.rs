//! Following the log of home: each checkpoint is believed only as a
//! continuation of the one that was pinned, and everything in between is read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use ringfence_db::clock::Clock;
use ringfence_format::checkpoint::Checkpoint;
use ringfence_format::names::Realm;
use ringfence_format::session::{KeySet, Revocations, SignedManifest};
use ringfence_format::tile::TILE_WIDTH;

use super::fresh::{Freshness, Limits, Standing};
use super::home::{self, Home, Relation};
use super::known::{Known, News, Store};
use super::sound;
use super::trust::{Believed, Trust};
use crate::alarm::AlarmKind;

/// More entries at once are read only after hash tiles proved that the tree is
/// a continuation.
const JUMP: u64 = 64 * 1024;

/// Everything a token is judged by.
pub struct View {
    /// From the log.
    pub known: Known,
    /// The revocations in force.
    pub revoked: Revocations,
    /// Keys of the manifests in force.
    pub keys: KeySet,
    /// Realms whose manifest in force is not here, with its number.
    pub missing: BTreeMap<Realm, u64>,
    /// The manifests in force.
    manifests: Vec<SignedManifest>,
}

impl View {
    /// A manifest is in force if the log names it as its realm's newest.
    fn new(known: Known, trust: &Trust, kept: &[SignedManifest]) -> Self {
        let (mut manifests, mut missing) = (vec![], BTreeMap::new());
        let kept = kept.iter().filter(|manifest| trust.has_root_of(manifest));
        let candidates: Vec<_> = trust.manifests().chain(kept).map(|it| (it.manifest.sha256(), it)).collect();
        for (realm, (_, leaf)) in &known.leaves {
            let found = candidates.iter().find(|(hash, it)| *hash == leaf.sha256 && it.manifest.realm == *realm);
            match found {
                Some((_, found)) => manifests.push((*found).clone()),
                None => drop(missing.insert(realm.clone(), leaf.seq)),
            }
        }
        // A key that two manifests list is nobody's.
        let keys = KeySet::new(manifests.iter().map(|signed: &SignedManifest| &signed.manifest));
        Self { revoked: known.revoked(), known, keys, missing, manifests }
    }
}

/// Why a checkpoint was not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFollowed {
    /// Home cannot be reached, or serves nothing that could be believed.
    #[error("{0}")]
    Home(String),
    /// It is not signed by the log, or by too few witnesses.
    #[error("home's checkpoint is not believed: {0}")]
    Unsigned(String),
    /// It is older than the one pinned.
    #[error("home shows an older checkpoint of {shown} records: {pinned} are pinned")]
    Older {
        /// Its size.
        shown: u64,
        /// That of the pinned one.
        pinned: u64,
    },
    /// The log signed two histories.
    #[error("two histories of one log, both signed: {shown} records that do not continue the {pinned} pinned ones")]
    Fork {
        /// Size of the other history.
        shown: u64,
        /// That of the pinned one.
        pinned: u64,
    },
    /// It cannot be kept here.
    #[error("the pinned checkpoint cannot be kept: {0}")]
    State(String),
}

/// A gateway's knowledge, and how it comes by it.
pub struct Follower {
    home: Box<dyn Home>,
    store: Store,
    clock: Arc<dyn Clock>,
    trust: ArcSwap<Trust>,
    view: ArcSwap<View>,
    fresh: Mutex<Freshness>,
    limits: Limits,
}

impl Follower {
    /// Of what a directory holds.
    ///
    /// # Errors
    /// What it holds cannot be used.
    pub fn new(
        trust: Trust,
        home: Box<dyn Home>,
        store: Store,
        clock: Arc<dyn Clock>,
        limits: Limits,
    ) -> Result<Self, String> {
        let (known, kept) = store.load(&trust)?;
        let view = ArcSwap::from_pointee(View::new(known, &trust, &kept));
        let trust = ArcSwap::from_pointee(trust);
        Ok(Self { home, store, clock, trust, view, fresh: Mutex::default(), limits })
    }

    /// What is believed.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    /// What tokens are judged by.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// In Unix seconds.
    pub fn now_s(&self) -> u64 {
        self.clock.now_us() / 1_000_000
    }

    /// Whether what is known may still be relied on.
    pub fn standing(&self) -> Standing {
        self.freshness().standing(self.limits, Instant::now(), self.now_s())
    }

    /// How old what is known is, in seconds.
    pub fn age_s(&self) -> Option<f64> {
        self.freshness().age(Instant::now(), self.now_s()).map(|age| age.as_secs_f64())
    }

    fn freshness(&self) -> Freshness {
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Believes by another trust file from here on.
    ///
    /// # Errors
    /// It names another log: that is another gateway.
    pub fn retrust(&self, trust: Trust) -> Result<(), String> {
        if trust.log() != self.trust.load().log() {
            return Err("it names another log: start another gateway for it, with a state of its own".to_owned());
        }
        let old = self.view();
        let view = View::new(old.known.clone(), &trust, &old.manifests);
        self.trust.store(Arc::new(trust));
        self.view.store(Arc::new(view));
        Ok(())
    }

    /// Reads what home publishes now, and takes it up if it continues what is
    /// pinned. One call at a time.
    ///
    /// # Errors
    /// Nothing was taken up, and nothing is fresher than before.
    pub async fn step(&self) -> Result<(), NotFollowed> {
        let (asked, asked_s) = (Instant::now(), self.now_s());
        let trust = self.trust.load_full();
        let published = home::note(&*self.home, "checkpoint").await.map_err(NotFollowed::Home)?;
        let shown = trust.signed(&published).map_err(NotFollowed::Unsigned)?;
        if trust.asks_witnesses() {
            // Nobody may have cosigned it yet, but the log did sign it.
            self.check_fork(&shown, &published, shown.size).await?;
        }
        let note = match trust.asks_witnesses() {
            true => home::note(&*self.home, "checkpoint.cosigned").await.map_err(NotFollowed::Home)?,
            false => published,
        };
        let Believed { checkpoint, vouched_s } = trust.believe(&note).map_err(NotFollowed::Unsigned)?;
        self.advance(checkpoint, note, shown.size).await?;
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner).note(asked, asked_s, vouched_s);
        Ok(())
    }

    async fn advance(&self, next: Checkpoint, note: String, served: u64) -> Result<(), NotFollowed> {
        let view = self.view();
        if let Some((pinned, _)) = &view.known.pinned {
            if *pinned == next && view.known.is_complete() {
                return Ok(());
            }
            if next.size <= pinned.size && *pinned != next || next.size - pinned.size > JUMP {
                self.check_fork(&next, &note, served).await?;
            }
            if next.size < pinned.size {
                return Err(NotFollowed::Older { shown: next.size, pinned: pinned.size });
            }
        }
        let news = match self.read(&view.known, &next, served).await {
            Ok(news) => news,
            Err(why) => {
                self.check_fork(&next, &note, served).await?;
                return Err(NotFollowed::Home(why));
            }
        };
        let mut known = view.known.clone();
        let rolled_back = known.take(news, next, note, self.now_s());
        let next = View::new(known, &self.trust.load(), &view.manifests);
        self.store.keep(&next.known, &next.manifests).map_err(NotFollowed::State)?;
        self.view.store(Arc::new(next));
        for (index, leaf) in rolled_back {
            let detail = format!("record #{index} brings back manifest #{} of realm `{}`", leaf.seq, leaf.realm);
            sound(AlarmKind::ManifestRollback, &detail);
        }
        Ok(())
    }

    /// Every entry up to `next`. That they lead to its root, and on the way to
    /// the root that is pinned, proves both that none is left out and that the
    /// one tree continues the other (RFC 9162, section 2.1.4).
    async fn read(&self, known: &Known, next: &Checkpoint, served: u64) -> Result<News, String> {
        let mut news = known.news();
        let pinned = known.pinned.as_ref().map(|(pinned, _)| pinned);
        while news.edge.size() < next.size {
            let index = news.edge.size() / TILE_WIDTH;
            let skip = (news.edge.size() % TILE_WIDTH) as usize;
            let entries = home::bundle(&*self.home, index, next.size, served.max(next.size)).await?;
            for entry in &entries[skip..] {
                news.push(entry)?;
                check_root(&news, pinned)?;
            }
        }
        check_root(&news, Some(next))?;
        Ok(news)
    }

    /// Whether this checkpoint, which the log signed, is of another history
    /// than the pinned one. Where that cannot be told, something else refuses it.
    async fn check_fork(&self, shown: &Checkpoint, note: &str, served: u64) -> Result<(), NotFollowed> {
        let view = self.view();
        let Some((pinned, pinned_note)) = &view.known.pinned else { return Ok(()) };
        if !matches!(home::relate(&*self.home, pinned, shown, served).await, Ok(Relation::Fork)) {
            return Ok(());
        }
        match self.store.keep_fork(pinned_note, shown, note) {
            Ok(false) => {}
            kept => {
                let detail = format!(
                    "the log `{}` signed {} records that do not continue the {} pinned ones; both notes {}",
                    shown.origin,
                    shown.size,
                    pinned.size,
                    kept.err().map_or("are kept".to_owned(), |why| format!("could not be kept: {why}")),
                );
                sound(AlarmKind::LogFork, &detail);
            }
        }
        Err(NotFollowed::Fork { shown: shown.size, pinned: pinned.size })
    }
}

fn check_root(news: &News, at: Option<&Checkpoint>) -> Result<(), String> {
    match at.filter(|at| at.size == news.edge.size()) {
        Some(at) if at.root != news.edge.root() => {
            Err("the entries that home serves do not lead to the root it signed".to_owned())
        }
        _ => Ok(()),
    }
}

/// A trust file on the disk, read again when it changes.
pub struct TrustFile {
    path: PathBuf,
    read: Option<SystemTime>,
}

impl TrustFile {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read or is not understood.
    pub fn open(path: PathBuf) -> Result<(Self, Trust), String> {
        let mut file = Self { path, read: None };
        let trust = file.changed()?.ok_or("it has no time of change")?;
        Ok((file, trust))
    }

    /// What it says, if it changed since it was read.
    ///
    /// # Errors
    /// It cannot be read or is not understood; told once for each change.
    pub fn changed(&mut self) -> Result<Option<Trust>, String> {
        let failed = |e: std::io::Error| format!("`{}`: {e}", self.path.display());
        let modified = std::fs::metadata(&self.path).and_then(|it| it.modified()).map_err(failed)?;
        if self.read == Some(modified) {
            return Ok(None);
        }
        self.read = Some(modified);
        let text = std::fs::read_to_string(&self.path).map_err(failed)?;
        Trust::parse(&text).map(Some).map_err(|why| format!("`{}`: {why}", self.path.display()))
    }
}
