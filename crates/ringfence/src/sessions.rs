//! Sessions at this gateway: a token is judged once, and remembered until
//! anything changes that it was judged by.

use std::sync::Arc;

use quick_cache::sync::Cache;
use ringfence_access::caller::{AuthnReason, Origin, Unauthenticated};
use ringfence_access::keys::KeyState;
use ringfence_access::session::Rule;
use ringfence_access::{Narrowing, Rights, Roles, Session};
use ringfence_format::leaf::{Hash, sha256};
use ringfence_format::names::{KeyId, Realm, SiteId, Tenant};
use ringfence_format::record::Seq;
use ringfence_format::session::{
    BadSession, Claims, Issued, KeySet, Purpose, Refusal, SESSION_TOKEN_BYTES_MAX, SessionToken, Verified,
};
use ringfence_log::LogError;
use ringfence_vault::{SecretText, VaultError};
use zeroize::Zeroizing;

use crate::alarm::{Alarm, AlarmKind};
use crate::flows::issue::BETWEEN_POLICIES;
use crate::installation::Installation;

/// Tokens that are remembered at a time; one more is judged again each time it
/// is shown.
const REMEMBERED_MAX: usize = 64 * 1024;

/// The sessions that this gateway has judged.
pub struct Sessions {
    gateway: SiteId,
    remembered: Cache<Hash, Remembered>,
}

/// What a token was found to be, and by what: under other keys or roles it is
/// judged again. Revocations are asked for each request.
#[derive(Clone)]
struct Remembered {
    keys: Arc<KeySet>,
    roles: Arc<Roles>,
    /// The earlier end of token and key.
    until_s: u64,
    live: Arc<Live>,
}

/// A session that may be served now, and the secret of its key.
pub struct Live {
    /// The session.
    pub session: Arc<Session>,
    /// Signs its requests (SigV4), for purpose `sts-session`; derived, never
    /// stored.
    pub secret: Option<SecretText>,
}

impl Live {
    /// The id of the key that requests are signed with.
    pub fn key_id(&self) -> Option<KeyId> {
        KeyId::parse(&self.session.claims().confirmation).ok()
    }
}

impl Sessions {
    /// Of the gateway at a site.
    pub fn at(gateway: SiteId) -> Self {
        Self { gateway, remembered: Cache::new(REMEMBERED_MAX) }
    }

    /// The site that this gateway stands at.
    pub fn gateway(&self) -> &SiteId {
        &self.gateway
    }

    fn recall(&self, key: &Hash, keys: &Arc<KeySet>, roles: &Arc<Roles>, now_s: u64) -> Option<Arc<Live>> {
        let found = self.remembered.get(key)?;
        let same = Arc::ptr_eq(&found.keys, keys) && Arc::ptr_eq(&found.roles, roles);
        (same && now_s < found.until_s).then_some(found.live)
    }
}

impl Installation {
    /// INVARIANT 6 — judges a session token for this gateway: signed in its
    /// scope, in the log, admitted, in time, not revoked, its role configured.
    ///
    /// # Errors
    /// The refusal, to be recorded. Where it shows a key of ours in other
    /// hands, the alarm is on record before this returns, whatever becomes of
    /// the request (ruling 23).
    pub async fn judge(&self, text: &str, purpose: Purpose, origin: &Origin) -> Result<Arc<Live>, Unauthenticated> {
        let now_s = self.clock.now_us() / 1_000_000;
        if text.len() > SESSION_TOKEN_BYTES_MAX {
            let refusal = Refusal::Malformed(BadSession::TooLong);
            return Err(Unauthenticated::of_token(refusal, None, None, origin.clone()));
        }
        let name = remembered_as(text, purpose);
        let (keys, roles) = (Arc::clone(&self.authority().keys()), self.roles());
        if let Some(live) = self.sessions.recall(&name, &keys, &roles, now_s) {
            return Ok(live);
        }
        let token = SessionToken::parse(text);
        let token = token.map_err(|bad| Unauthenticated::of_token(bad.into(), None, None, origin.clone()))?;
        let verified = match self.verify(token.clone(), &keys, purpose, now_s) {
            Ok(verified) => verified,
            Err(refusal) => {
                self.sound(&token, &refusal).await;
                return Err(Unauthenticated::of_token(refusal, Some(&token), None, origin.clone()));
            }
        };
        let live = self
            .live(verified, &roles)
            .map_err(|reason| Unauthenticated::of_session(reason, token.claimed(), None, origin.clone()))?;
        let claims = live.session.claims();
        let key = keys.find(&claims.scope(), live.session.verified().kid());
        let until_s = claims.until_s.min(key.map_or(0, |key| key.until_s));
        let live = Arc::new(live);
        self.sessions.remembered.insert(name, Remembered { keys, roles, until_s, live: live.clone() });
        Ok(live)
    }

    fn verify(&self, token: SessionToken, keys: &KeySet, purpose: Purpose, now_s: u64) -> Result<Verified, Refusal> {
        let signed = token.check_signature(keys, purpose, self.sessions.gateway(), now_s)?;
        // This gateway holds the log itself: what stands there counts, not
        // what the receipt says of it.
        let index = signed.receipt().map(|receipt| receipt.index);
        let entry = match index.map(|index| self.log.entry(index)) {
            None => return Err(Refusal::NotIssued("no receipt is stapled to it".to_owned())),
            Some(Err(error)) => return Err(Refusal::NotIssued(error.to_string())),
            Some(Ok(entry)) => entry,
        };
        signed.check_issued(Issued::Entry(&entry), keys, &self.authority().revocations())
    }

    /// With what its role has now, and the secret of its key.
    fn live(&self, verified: Verified, roles: &Roles) -> Result<Live, AuthnReason> {
        let claims = verified.claims();
        let rights = self.rights_of(roles, claims, verified.policy()).ok_or(AuthnReason::NoRole)?;
        let signs = claims.purpose == Purpose::StsSession;
        let secret = signs.then(|| self.secret_of(claims)).transpose().map_err(|error| {
            tracing::error!("the secret of a session cannot be derived: {error}");
            AuthnReason::NoRole
        })?;
        Ok(Live { session: Session::new(verified, rights), secret })
    }

    /// Raises what must not go unseen.
    async fn sound(&self, token: &SessionToken, refusal: &Refusal) {
        let kind = match refusal {
            Refusal::NotIssued(_) => AlarmKind::SigValidNotIssued,
            Refusal::KeyOutsideScope { .. } | Refusal::KeySites(_) => AlarmKind::KeyOutsideScope,
            Refusal::RetiredKey { .. } => AlarmKind::RetiredKey,
            _ => return,
        };
        let claims = token.claimed();
        let known = self.catalog().tenant(&claims.tenant).is_some_and(|row| row.realm == claims.realm);
        let detail = format!(
            "{refusal}; key {}, session {}, principal {}, role {}, token {}",
            token.kid(),
            hex::encode(claims.session),
            claims.principal,
            claims.role,
            hex::encode(token.sha256())
        );
        let (realm, tenant) = (Some(claims.realm.clone()), Some(claims.tenant.clone()).filter(|_| known));
        self.alarms.raise(Alarm { kind, realm, tenant, detail, of: None }).await;
    }
}

impl Installation {
    /// Alone if it names a key or session that exists, else with others of its
    /// minute and network.
    ///
    /// # Errors
    /// It could not be recorded: nothing may be answered.
    pub async fn record_refused(&self, refused: Unauthenticated) -> Result<Option<Seq>, LogError> {
        if refused.identified() {
            return Ok(Some(self.log.record(refused).await?.index()));
        }
        self.noise.count(&refused, self.clock.now_us());
        Ok(None)
    }
}

/// Nothing but the very same token for the same purpose is recalled.
fn remembered_as(text: &str, purpose: Purpose) -> Hash {
    sha256(&[purpose.as_str().as_bytes(), &[0], text.as_bytes()].concat())
}

/// What a session's role and policies leave, and what its key signs with.
impl Installation {
    /// The secret of a session's key.
    ///
    /// # Errors
    /// The tenant has no keys here.
    pub fn secret_of(&self, claims: &Claims) -> Result<SecretText, VaultError> {
        let key = KeyId::parse(&claims.confirmation).map_err(|_| VaultError::UnknownKekId)?;
        self.vault.session_secret(&claims.realm, &claims.tenant, &key, &claims.session)
    }

    /// The rights of a role as it is configured now, narrowed by the policies
    /// stapled to the token, and by the role of the session it comes from.
    fn rights_of(&self, roles: &Roles, claims: &Claims, policies: Option<&str>) -> Option<Rights> {
        let own = roles.find(&claims.tenant, &claims.role)?;
        let mut rights = Rights::up_to(own.max_label.clone()).narrowed(Rule::Role, own.narrowing.clone());
        if let Some(parent) = &claims.parent {
            let parent = roles.find(&claims.tenant, &parent.role)?;
            let above = Rights::up_to(parent.max_label.clone()).narrowed(Rule::Role, parent.narrowing.clone());
            rights = rights.within(&above, self.labels.labels());
        }
        for policy in policies.into_iter().flat_map(|all| all.split(BETWEEN_POLICIES)) {
            rights = rights.narrowed(Rule::SessionPolicy, Narrowing::parse(policy).ok()?);
        }
        Some(rights)
    }

    /// The secret of a static key that may be used, with whose it is.
    ///
    /// # Errors
    /// Why it may not.
    pub fn static_secret(&self, id: &KeyId) -> Result<(Zeroizing<String>, Realm, Tenant), AuthnReason> {
        let entry = self.keys.find(id).ok_or(AuthnReason::UnknownKey)?;
        if entry.state != KeyState::Active {
            return Err(AuthnReason::Disabled);
        }
        let row = self.catalog().static_key(id).ok_or(AuthnReason::UnknownKey)?;
        let secret = self.vault.secret_for(&entry.realm, &entry.tenant, id, &row.row.sealed_secret);
        let secret = secret.map_err(|error| {
            tracing::error!("the secret of `{id}` cannot be opened: {error}");
            AuthnReason::UnknownKey
        })?;
        Ok((Zeroizing::new(secret.expose_secret().to_owned()), entry.realm.clone(), entry.tenant.clone()))
    }
}
