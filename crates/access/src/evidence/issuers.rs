//! The issuers and their keys, as long as a process lives.
//!
//! Per issuer one key set in memory. It is fetched when there is none, when it
//! is older than [`FRESH_S`], and when a token names a `kid` it does not have;
//! one flight at a time, with growing pauses between flights that brought
//! nothing, so that neither a provider that is down nor made-up `kid`s become a
//! storm. A provider that is down does not stop its users at once: a set may be
//! used until it is [`STALE_S_MAX`] old. What a flight brings takes effect
//! after its difference is on record.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use futures::lock::Mutex;
use ringfence_format::names::{Principal, Realm, Tenant};

use super::issuer::{BadIssuer, IssuerEntry, check};
use super::jwks::{JWKS_BYTES_MAX, Jwk, Jwks};
use super::reason::Reason;
use super::token::{IssuerChosen, Untrusted, VerifiedEvidence};
use crate::strict::Json;

/// Bytes of a discovery document.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Seconds after which keys are fetched again: so long is a key good that its
/// issuer has withdrawn.
const FRESH_S: u64 = 15 * 60;
/// Seconds after which keys are not used any more, if the issuer cannot be asked.
const STALE_S_MAX: u64 = 4 * 3600;
/// Seconds between two flights, at first and at most.
const PAUSE_S: (u64, u64) = (5, 300);

/// Something that takes its time.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A document could not be fetched; why, for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotFetched(pub String);

/// A change of keys could not be put on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRecorded;

/// What this module asks of the world.
pub trait Surroundings: Send + Sync {
    /// The body of `GET url`, status 200, not redirected, at most `max` bytes.
    fn get<'a>(&'a self, url: &'a str, max: usize) -> Pending<'a, Result<Vec<u8>, NotFetched>>;

    /// Puts a change of an issuer's keys on record. The keys take effect only
    /// after that.
    fn keys_changed<'a>(&'a self, change: &'a KeyChange) -> Pending<'a, Result<(), NotRecorded>>;

    /// An issuer cannot be asked, or its documents are not acceptable.
    fn failed(&self, issuer: &IssuerEntry, why: &str);
}

/// The keys of an issuer are others than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyChange {
    /// Whose.
    pub issuer: Principal,
    /// In which realm.
    pub realm: Realm,
    /// For which tenant.
    pub tenant: Tenant,
    /// RFC 7638 thumbprints that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Whether these are the first this process sees: what was before is not
    /// known here.
    pub first: bool,
    /// Of the new keys, those that an issuer of another realm or tenant serves
    /// too: refused in both unless pinned.
    pub shared: Vec<String>,
}

/// A token that is no evidence.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why, for the record.
    pub reason: Reason,
    /// The entry its unverified `iss` named.
    pub issuer: Option<Arc<IssuerEntry>>,
    /// Whether its signature was found to be by a key of that issuer, so that
    /// it is one subject's token and not anybody's.
    pub authentic: bool,
}

/// All issuers. Share it by `Arc`.
pub struct Issuers {
    known: Vec<Known>,
    surroundings: Arc<dyn Surroundings>,
}

struct Known {
    entry: Arc<IssuerEntry>,
    keys: ArcSwapOption<Held>,
    /// One flight at a time; what the last ones came to.
    flights: Mutex<Flights>,
    /// When the keys in use were last confirmed, in seconds since 1970.
    confirmed_s: AtomicU64,
}

struct Held {
    /// Those that may be used: pinned ones, where there are pins.
    keys: Jwks,
    /// Thumbprints of all that are served.
    served: Vec<String>,
}

/// What the last flights of one issuer came to.
#[derive(Default)]
struct Flights {
    /// When the last one ended, in seconds since 1970.
    last_s: Option<u64>,
    /// How many in a row brought nothing that was asked for.
    vain: u32,
    /// Why the last one failed, if it did.
    failure: Option<Reason>,
}

impl Flights {
    /// Whether another may start. A clock that was set back starts it anew.
    fn may_start(&self, now_s: u64) -> bool {
        let pause = PAUSE_S.0.saturating_mul(1 << self.vain.min(16)).min(PAUSE_S.1);
        self.last_s.is_none_or(|last| now_s < last || now_s - last >= pause)
    }
}

impl Issuers {
    /// These issuers; nothing is fetched yet.
    ///
    /// # Errors
    /// The first entry that cannot be one.
    pub fn new(entries: Vec<IssuerEntry>, surroundings: Arc<dyn Surroundings>) -> Result<Self, BadIssuer> {
        check(&entries)?;
        let known = |entry: IssuerEntry| Known {
            entry: Arc::new(entry),
            keys: ArcSwapOption::empty(),
            flights: Mutex::default(),
            confirmed_s: AtomicU64::new(0),
        };
        Ok(Self { known: entries.into_iter().map(known).collect(), surroundings })
    }

    /// The entries.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = &IssuerEntry> {
        self.known.iter().map(|known| &*known.entry)
    }

    /// Whether a token obeys every evidence rule. `now_s` is seconds since 1970.
    ///
    /// # Errors
    /// The first rule it breaks, and whose token it says it is.
    pub async fn verify(&self, token: &str, now_s: u64) -> Result<VerifiedEvidence, Refused> {
        let nobodys = |reason| Refused { reason, issuer: None, authentic: false };
        let untrusted = Untrusted::parse(token).map_err(nobodys)?;
        let chosen = untrusted
            .issued_by(|iss| self.known.iter().find(|known| known.entry.url == iss).map(|known| known.entry.clone()))
            .map_err(|(reason, issuer)| Refused { reason, issuer, authentic: false })?;
        let issuer = chosen.issuer().clone();
        let refused = |reason| Refused { reason, issuer: Some(issuer.clone()), authentic: false };
        let known = self.known.iter().find(|known| known.entry.name == issuer.name);
        let known = known.ok_or_else(|| refused(Reason::UnknownIssuer))?;
        let held = self.keys_for(known, &chosen, now_s).await.map_err(refused)?;
        let key = held.keys.choose(chosen.kid(), chosen.algorithm()).map_err(refused)?;
        if self.shared(known, key) {
            return Err(refused(Reason::KeyShared));
        }
        let verified = chosen.verify(key, now_s);
        verified.map_err(|reason| Refused { authentic: reason != Reason::Signature, ..refused(reason) })
    }

    /// Fetches what is missing or old, for a start and a timer.
    pub async fn refresh(&self, now_s: u64) {
        for known in &self.known {
            if !known.is_fresh(now_s) {
                // Whoever brings a token is told what is wrong.
                let _ = self.flight(known, now_s, |held| held.is_some() && known.is_fresh(now_s)).await;
            }
        }
    }

    /// Keys that are not too old, and have the token's `kid` if the issuer has it.
    async fn keys_for(&self, known: &Known, token: &IssuerChosen<'_>, now_s: u64) -> Result<Arc<Held>, Reason> {
        let has = |held: &Held| {
            !matches!(held.keys.choose(token.kid(), token.algorithm()), Err(Reason::UnknownKey | Reason::AmbiguousKey))
        };
        let answers = |held: Option<&Held>| held.is_some_and(has) && known.is_fresh(now_s);
        let held = known.keys.load_full();
        if answers(held.as_deref()) {
            return held.ok_or(Reason::Unreachable);
        }
        let failure = self.flight(known, now_s, answers).await;
        let held = known.keys.load_full().filter(|_| known.is_usable(now_s));
        held.ok_or_else(|| failure.unwrap_or(Reason::Unreachable))
    }

    /// Fetches keys once, if nobody has meanwhile and the pause is over; the
    /// reason of the last failure.
    async fn flight(&self, known: &Known, now_s: u64, enough: impl Fn(Option<&Held>) -> bool) -> Option<Reason> {
        let mut flights = known.flights.lock().await;
        if enough(known.keys.load().as_deref()) {
            return None;
        }
        if !flights.may_start(now_s) {
            return flights.failure;
        }
        // Said before the flight: one that is given up by its caller counts.
        flights.last_s = Some(now_s);
        flights.vain = flights.vain.saturating_add(1);
        let failure = match self.fetch(&known.entry).await {
            Ok(keys) => self.take(known, keys, now_s).await.err(),
            Err((reason, why)) => {
                self.surroundings.failed(&known.entry, &why);
                Some(reason)
            }
        };
        if enough(known.keys.load().as_deref()) {
            flights.vain = 0;
        }
        flights.failure = failure;
        failure
    }

    /// The keys an issuer serves now.
    async fn fetch(&self, entry: &IssuerEntry) -> Result<Jwks, (Reason, String)> {
        let bad = |why: String| (Reason::BadDocuments, why);
        let unreachable = |error: NotFetched| (Reason::Unreachable, error.0);
        let jwks_uri = match &entry.jwks_uri {
            Some(uri) => entry.may_fetch(uri).ok_or_else(|| bad("`jwks_uri` may not be fetched".to_owned()))?,
            None => {
                let document = self.surroundings.get(&entry.discovery(), DOCUMENT_BYTES_MAX).await;
                let document = document.map_err(unreachable)?;
                keys_of_document(entry, &document).map_err(|why| bad(why.to_owned()))?
            }
        };
        let bytes = self.surroundings.get(jwks_uri.as_str(), JWKS_BYTES_MAX).await.map_err(unreachable)?;
        Jwks::parse(&bytes).map_err(|error| bad(error.to_string()))
    }

    /// Puts keys in force, after their difference is on record.
    async fn take(&self, known: &Known, keys: Jwks, now_s: u64) -> Result<(), Reason> {
        let served: Vec<String> = keys.thumbprints().into_iter().map(str::to_owned).collect();
        let before = known.keys.load_full();
        let had = before.as_deref().map_or(&[][..], |held| &held.served);
        let missing_in = |list: &[String], other: &[String]| -> Vec<String> {
            list.iter().filter(|one| !other.contains(one)).cloned().collect()
        };
        let (added, removed) = (missing_in(&served, had), missing_in(had, &served));
        if before.is_none() || !added.is_empty() || !removed.is_empty() {
            let shared = added.iter().filter(|t| self.served_elsewhere(known, t)).cloned().collect();
            let change = KeyChange {
                issuer: known.entry.name.clone(),
                realm: known.entry.realm.clone(),
                tenant: known.entry.tenant.clone(),
                added,
                removed,
                first: before.is_none(),
                shared,
            };
            self.surroundings.keys_changed(&change).await.map_err(|_| Reason::NotRecorded)?;
        }
        known.keys.store(Some(Arc::new(Held { keys: keys.pinned(&known.entry.pins), served })));
        known.confirmed_s.store(now_s, Ordering::Release);
        Ok(())
    }

    /// Whether a key is served in another scope too. Its entry's pins, written
    /// by the operator, say whose it is; without them it is nobody's.
    fn shared(&self, known: &Known, key: &Jwk) -> bool {
        known.entry.pins.is_empty() && self.served_elsewhere(known, key.thumbprint())
    }

    fn served_elsewhere(&self, known: &Known, thumbprint: &str) -> bool {
        let others = self.known.iter().filter(|other| other.entry.scope() != known.entry.scope());
        others.into_iter().any(|other| {
            other.entry.pins.iter().any(|pin| pin == thumbprint)
                || other.keys.load().as_deref().is_some_and(|held| held.served.iter().any(|t| t == thumbprint))
        })
    }
}

impl Known {
    fn is_fresh(&self, now_s: u64) -> bool {
        self.age_s(now_s).is_some_and(|age| age < FRESH_S)
    }
    fn is_usable(&self, now_s: u64) -> bool {
        self.age_s(now_s).is_some_and(|age| age < STALE_S_MAX)
    }
    /// `None` without keys; keys from the future are as old as can be.
    fn age_s(&self, now_s: u64) -> Option<u64> {
        self.keys.load().as_ref()?;
        Some(now_s.checked_sub(self.confirmed_s.load(Ordering::Acquire)).unwrap_or(u64::MAX))
    }
}

/// Where a discovery document says the keys are (OpenID Connect Discovery 1.0,
/// section 4.3): it must be this issuer's own, and so must the place.
fn keys_of_document(entry: &IssuerEntry, bytes: &[u8]) -> Result<url::Url, &'static str> {
    let document = Json::parse(bytes).ok_or("the discovery document is not JSON, or a member stands twice")?;
    if document.get("issuer").and_then(Json::text) != Some(entry.url.as_str()) {
        return Err("the discovery document is another issuer's");
    }
    let uri = document.get("jwks_uri").and_then(Json::text).ok_or("the discovery document names no keys")?;
    entry.same_origin(uri).ok_or("the keys are not at the issuer's own origin: set `jwks_uri` if they should be")
}
