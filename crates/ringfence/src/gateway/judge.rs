//! INVARIANT 6 — whether a token of purpose `api` is a session at this gateway.

use std::sync::Arc;
use std::time::Duration;

use ringfence_format::names::{Realm, SiteId};
use ringfence_format::session::{Issued, Purpose, Refusal, SessionToken, Signed, Verified};
use ringfence_format::tile::leaf_hash;
use tokio::sync::{Notify, watch};

use super::follow::{Follower, View};
use super::fresh::Standing;
use super::sound;
use super::trust::Trust;
use crate::alarm::AlarmKind;

/// A session that lives longer than this, in seconds, reaches no restricted
/// data: home issues none that could.
pub const RESTRICTED_LIFETIME_S_MAX: u64 = 15 * 60;
/// How long a token that is newer than the pinned checkpoint waits for the next.
const CATCH_UP: Duration = Duration::from_secs(3);

/// Why a token opens nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token itself is to blame.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What is known is older than F_max, or nothing is known yet.
    #[error("nothing is served: home was not heard of for too long")]
    Stale,
    /// What is known is older than F, and the session may reach restricted data.
    #[error("sessions that may reach restricted data are not served: home was not heard of lately")]
    Ageing,
    /// The manifest in force is not in the trust file.
    #[error("the trust file lacks manifest #{seq} of realm `{realm}`, which is in force")]
    NoManifest {
        /// Whose.
        realm: Realm,
        /// Its number.
        seq: u64,
    },
    /// It was issued after the checkpoint that is pinned, and home shows no later one.
    #[error("issued after everything that is known here")]
    NotKnownYet,
}

impl Denied {
    /// Whether the gateway cannot tell now, and the token may be good.
    pub fn is_temporary(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// Judges tokens by what a follower knows.
pub struct Judge {
    /// What is known.
    pub follower: Arc<Follower>,
    site: SiteId,
    /// Asks for the next checkpoint before its time.
    poke: Arc<Notify>,
    /// Counts checkpoints that were followed.
    followed: watch::Receiver<u64>,
}

impl Judge {
    /// Of the gateway at a site. `followed` counts the steps that succeeded,
    /// `poke` asks for one now.
    pub fn new(follower: Arc<Follower>, site: SiteId, poke: Arc<Notify>, followed: watch::Receiver<u64>) -> Self {
        Self { follower, site, poke, followed }
    }

    /// Signed in its scope, in the log, admitted, in time, not revoked, and
    /// what is known of revocations is young enough.
    ///
    /// # Errors
    /// The first reason against it; where it shows a key in other hands, the
    /// alarm was raised.
    pub async fn judge(&self, text: &str) -> Result<Verified, Denied> {
        let judged = self.verify(text).await;
        if let Err((Denied::Refused(refusal), Some(token))) = &judged {
            alarm_of(refusal, token);
        }
        judged.map_err(|(denied, _)| denied)
    }

    async fn verify(&self, text: &str) -> Result<Verified, (Denied, Option<Box<SessionToken>>)> {
        if self.follower.standing() == Standing::Stale {
            return Err((Denied::Stale, None));
        }
        let token = SessionToken::parse(text).map_err(|bad| (Denied::Refused(bad.into()), None))?;
        let known = Box::new(token.clone());
        let mut view = self.follower.view();
        self.verify_signed(token, &mut view).await.map_err(|denied| (denied, Some(known)))
    }

    async fn verify_signed(&self, token: SessionToken, view: &mut Arc<View>) -> Result<Verified, Denied> {
        let realm = token.claimed().realm.clone();
        if let Some(seq) = view.missing.get(&realm) {
            return Err(Denied::NoManifest { realm, seq: *seq });
        }
        let claims = token.claimed().clone();
        let signed = token.check_signature(&view.keys, Purpose::Api, &self.site, self.follower.now_s())?;
        let verified = self.check_issued(signed, view).await?;
        // Asked last: a receipt may have waited for the next checkpoint.
        match self.follower.standing() {
            Standing::Fresh => Ok(verified),
            Standing::Ageing if claims.until_s - claims.issued_s > RESTRICTED_LIFETIME_S_MAX => Ok(verified),
            Standing::Ageing => Err(Denied::Ageing),
            Standing::Stale => Err(Denied::Stale),
        }
    }

    /// Every entry up to the pinned checkpoint was read here, so what stands
    /// at an index is known; the receipt only says where to look.
    async fn check_issued(&self, signed: Signed, view: &mut Arc<View>) -> Result<Verified, Denied> {
        let not = |why: &str| Denied::Refused(Refusal::NotIssued(why.to_owned()));
        let Some(receipt) = signed.receipt().cloned() else { return Err(not("no receipt is stapled to it")) };
        if receipt.index >= view.known.edge.size() {
            *view = self.catch_up(receipt.index).await;
        }
        if receipt.index >= view.known.edge.size() {
            let claimed = self.trust().believe(&receipt.checkpoint).ok();
            return Err(match claimed.is_some_and(|believed| believed.checkpoint.size > receipt.index) {
                true => Denied::NotKnownYet,
                false => not("the log has no such record, and nobody signed that it has"),
            });
        }
        match view.known.issued.get(&receipt.index) {
            Some((hash, _)) if *hash == leaf_hash(&receipt.entry) => {
                Ok(signed.check_issued(Issued::Entry(&receipt.entry), &view.keys, &view.revoked)?)
            }
            Some(_) => Err(not("the leaf at its index is another one")),
            None => Err(not("no session that lives was issued at its index")),
        }
    }

    fn trust(&self) -> Arc<Trust> {
        self.follower.trust()
    }

    /// Waits for a checkpoint that covers `index`.
    async fn catch_up(&self, index: u64) -> Arc<View> {
        let mut followed = self.followed.clone();
        followed.mark_unchanged();
        let covered = async {
            loop {
                let view = self.follower.view();
                if index < view.known.edge.size() {
                    return view;
                }
                self.poke.notify_one();
                if followed.changed().await.is_err() {
                    return view;
                }
            }
        };
        tokio::time::timeout(CATCH_UP, covered).await.unwrap_or_else(|_| self.follower.view())
    }
}

/// Raises what must not go unseen.
fn alarm_of(refusal: &Refusal, token: &SessionToken) {
    let kind = match refusal {
        Refusal::NotIssued(_) => AlarmKind::SigValidNotIssued,
        Refusal::KeyOutsideScope { .. } | Refusal::KeySites(_) => AlarmKind::KeyOutsideScope,
        Refusal::RetiredKey { .. } => AlarmKind::RetiredKey,
        _ => return,
    };
    let detail = format!(
        "{refusal}; key {}, session {}, token {}",
        token.kid(),
        hex::encode(token.claimed().session),
        hex::encode(token.sha256())
    );
    sound(kind, &detail);
}
