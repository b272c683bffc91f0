//! INVARIANT 6 — `Caller`: somebody whose credential was checked.
//!
//! [`authenticate`] is the one function that turns a client's credential into
//! a caller. [`operator`] and [`system`] make the two kinds that have no
//! access key: who may open the administration socket, and Ringfence itself.
//! Every refusal is an [`Unauthenticated`]: its precise reason goes into the
//! record, its S3 code to the client.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ringfence_format::names::{KeyId, Principal, Realm, Tenant};
use ringfence_format::record::{ActorKind, Core, Decision, Op, Phase, Record, Resource, Subject, TimeUs};
use ringfence_format::session::{Claims, Purpose, Refusal, SessionToken};
use ringfence_log::Entry;

use crate::admission::principal_of;
use crate::dpop::{self, ProvedKey};
use crate::evidence::{Reason, VerifiedEvidence};
use crate::keys::{KeyState, Keys};
use crate::session::Session;

/// Reserved: no tenant and no realm may have this name. Callers without a
/// tenant (the operator, Ringfence itself) carry it.
pub const PROVIDER: &str = "provider";

/// What a request is called whose operation is not known.
const AUTHENTICATE: &str = "s3:Authenticate";

static PROVIDER_TENANT: LazyLock<Tenant> = LazyLock::new(|| Tenant::parse(PROVIDER).expect("a valid name"));
static PROVIDER_REALM: LazyLock<Realm> = LazyLock::new(|| Realm::parse(PROVIDER).expect("a valid name"));

/// Somebody whose credential was checked. Only [`crate::caller`] makes one.
///
/// Not `Clone`: one authentication is one caller of one request.
///
/// ```compile_fail,E0423
/// use ringfence_access::Caller;
/// fn forge() -> Caller { Caller(std::sync::Arc::new(todo!())) }
/// ```
///
/// ```compile_fail,E0599
/// use ringfence_access::Caller;
/// fn twice(caller: Caller) -> (Caller, Caller) { (caller.clone(), caller) }
/// ```
#[must_use]
#[derive(Debug)]
pub struct Caller(pub(crate) Arc<Who>);

/// What is known of a caller; permits and denials carry it into the record.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) realm: Realm,
    pub(crate) tenant: Tenant,
    pub(crate) principal: Principal,
    pub(crate) actor: ActorKind,
    pub(crate) key_id: Option<KeyId>,
    pub(crate) origin: Origin,
    /// Where it acts by a session: that one.
    pub(crate) session: Option<Arc<Session>>,
    /// Where it shows an identity provider's token: the issuer's entry, and who
    /// that token says it is.
    pub(crate) shown: Option<(Principal, String)>,
}

/// Where a request came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Address of the peer; `None` for the administration socket.
    pub ip: Option<IpAddr>,
    /// What it calls itself.
    pub user_agent: Option<String>,
}

/// A signature by the secret of one access key was verified (SigV4, header or
/// presigned). Only the wire layer makes one, right after the check.
#[derive(Debug)]
pub struct VerifiedSignature {
    key: KeyId,
    tenant: Tenant,
    realm: Realm,
}

impl VerifiedSignature {
    /// For the wire layer alone: call it where SigV4 was checked and matched,
    /// with the tenant and realm whose sealed secret of `key` was used.
    pub fn sigv4_was_checked_by_the_wire_layer(key: KeyId, tenant: Tenant, realm: Realm) -> Self {
        Self { key, tenant, realm }
    }
}

/// What somebody shows to say who they are: everything that
/// [`authenticate`] accepts.
#[derive(Debug)]
pub enum Credential {
    /// A signature by a static key.
    StaticKey(VerifiedSignature),
    /// A signature by the key of a session whose token was verified.
    Session(VerifiedSignature, Arc<Session>),
    /// A session for other services, that whoever has its token holds.
    Bearer(Arc<Session>),
    /// A session for other services, and the key that was just proved.
    Dpop(Arc<Session>, ProvedKey),
    /// An identity provider's token that obeys every rule of evidence. Whom it
    /// makes may ask for a session, and for nothing else.
    WebIdentity(VerifiedEvidence),
}

impl From<VerifiedSignature> for Credential {
    fn from(signature: VerifiedSignature) -> Self {
        Self::StaticKey(signature)
    }
}

/// What the kernel says of the peer of the administration socket.
#[derive(Clone, Copy, Debug)]
pub struct PeerCredential {
    uid: u32,
}

impl PeerCredential {
    /// For the administration socket alone: the `uid` of `SO_PEERCRED` (unix(7)).
    pub fn from_so_peercred(uid: u32) -> Self {
        Self { uid }
    }
}

/// Who a verified credential belongs to: the one way to a [`Caller`] from
/// outside.
///
/// # Errors
/// The first rule it breaks, precisely, for the record.
pub fn authenticate(credential: impl Into<Credential>, keys: &Keys, origin: Origin) -> Result<Caller, Unauthenticated> {
    match credential.into() {
        Credential::StaticKey(signature) => by_static_key(signature, keys, origin),
        Credential::Session(signature, session) => by_session(signature, session, keys, origin),
        Credential::Bearer(session) => for_service(session, None, keys, origin),
        Credential::Dpop(session, key) => for_service(session, Some(key), keys, origin),
        Credential::WebIdentity(evidence) => by_evidence(&evidence, origin),
    }
}

/// Steps: 1. the session is one for S3; 2. the signature is by the key that it
/// is bound to, with the secret of its own tenant and realm: a token without
/// that secret is worth nothing; 3. nothing has revoked the session since its token was verified.
fn by_session(
    signature: VerifiedSignature,
    session: Arc<Session>,
    keys: &Keys,
    origin: Origin,
) -> Result<Caller, Unauthenticated> {
    let VerifiedSignature { key, tenant, realm } = signature;
    let claims = session.claims();
    let refuse =
        |reason| Unauthenticated::of_session(reason, session.verified().claims(), Some(key.clone()), origin.clone());
    if let Some(other) = other_purpose(&session, Purpose::StsSession) {
        return Err(refuse(other));
    }
    if claims.confirmation != key.as_str() {
        return Err(refuse(AuthnReason::OtherKey));
    }
    if claims.tenant != tenant {
        return Err(refuse(AuthnReason::OtherTenant));
    }
    if claims.realm != realm {
        return Err(refuse(AuthnReason::OtherRealm));
    }
    if tenant.as_str() == PROVIDER || realm.as_str() == PROVIDER {
        return Err(refuse(AuthnReason::Reserved));
    }
    if let Some(by) = keys.revoked(&session) {
        return Err(refuse(AuthnReason::Session(Refusal::Revoked { by })));
    }
    let principal = claims.principal.clone();
    let session = Some(session);
    let who = Who { key_id: Some(key), origin, session, ..Who::new(realm, tenant, principal, ActorKind::Session) };
    Ok(Caller(Arc::new(who)))
}

/// Steps: 1. the session is one for other services; 2. it is bound to the key
/// that was proved, or to none where none was: a token that is bound is worth
/// nothing to a bearer (RFC 9449, section 7.1); 3. nothing has revoked it since
/// its token was verified.
fn for_service(
    session: Arc<Session>,
    proved: Option<ProvedKey>,
    keys: &Keys,
    origin: Origin,
) -> Result<Caller, Unauthenticated> {
    let claims = session.claims();
    let refuse = |reason| Unauthenticated::of_session(reason, session.claims(), None, origin.clone());
    if let Some(other) = other_purpose(&session, Purpose::Api) {
        return Err(refuse(other));
    }
    if claims.confirmation != proved.as_ref().map_or("", ProvedKey::thumbprint) {
        return Err(refuse(AuthnReason::OtherKey));
    }
    let (realm, tenant, principal) = (claims.realm.clone(), claims.tenant.clone(), claims.principal.clone());
    if tenant.as_str() == PROVIDER || realm.as_str() == PROVIDER {
        return Err(refuse(AuthnReason::Reserved));
    }
    if let Some(by) = keys.revoked(&session) {
        return Err(refuse(AuthnReason::Session(Refusal::Revoked { by })));
    }
    let session = Some(session);
    let who = Who { origin, session, ..Who::new(realm, tenant, principal, ActorKind::Session) };
    Ok(Caller(Arc::new(who)))
}

/// Why a session of another purpose is none here.
fn other_purpose(session: &Session, expected: Purpose) -> Option<AuthnReason> {
    let found = session.claims().purpose;
    let (found, expected) = (found.as_str(), (found != expected).then_some(expected.as_str())?);
    Some(AuthnReason::Session(Refusal::Purpose { found, expected }))
}

/// An issuer entry reaches one realm and one tenant, neither of them ours.
fn by_evidence(evidence: &VerifiedEvidence, origin: Origin) -> Result<Caller, Unauthenticated> {
    let (realm, tenant) = (evidence.realm().clone(), evidence.tenant().clone());
    let principal = principal_of(evidence.issuer(), evidence.subject());
    if tenant.as_str() == PROVIDER || realm.as_str() == PROVIDER {
        return Err(Unauthenticated::new(AuthnReason::Reserved, None, origin));
    }
    let shown = Some((evidence.issuer().clone(), evidence.subject().to_owned()));
    let who = Who { origin, shown, ..Who::new(realm, tenant, principal, ActorKind::WebIdentity) };
    Ok(Caller(Arc::new(who)))
}

/// Steps: 1. the key is known now; 2. its issuance is on record; 3. it is not
/// disabled; 4. it belongs to the tenant and realm whose secret verified the
/// signature, so that a row swapped between lookup and here gains nothing.
fn by_static_key(signature: VerifiedSignature, keys: &Keys, origin: Origin) -> Result<Caller, Unauthenticated> {
    let VerifiedSignature { key, tenant, realm } = signature;
    let refuse = |reason| Unauthenticated::new(reason, Some(key.clone()), origin.clone());
    let entry = keys.find(&key).ok_or_else(|| refuse(AuthnReason::UnknownKey))?;
    let known = |e: Unauthenticated| e.belongs_to(&entry.realm, &entry.tenant, &entry.principal);
    let check = |ok: bool, reason| if ok { Ok(()) } else { Err(known(refuse(reason))) };
    check(entry.issued.is_some(), AuthnReason::NotIssued)?;
    check(entry.state == KeyState::Active, AuthnReason::Disabled)?;
    check(entry.tenant == tenant, AuthnReason::OtherTenant)?;
    check(entry.realm == realm, AuthnReason::OtherRealm)?;
    check(entry.tenant.as_str() != PROVIDER && entry.realm.as_str() != PROVIDER, AuthnReason::Reserved)?;
    let principal = entry.principal.clone();
    let who = Who { key_id: Some(key), origin, ..Who::new(realm, tenant, principal, ActorKind::StaticKey) };
    Ok(Caller(Arc::new(who)))
}

/// The operator behind the administration socket: the user the server runs as,
/// or root. The socket's mode says the same; this check holds if it is changed.
pub fn operator(peer: PeerCredential, server_uid: u32) -> Result<Caller, Unauthenticated> {
    if peer.uid != server_uid && peer.uid != 0 {
        return Err(Unauthenticated::new(AuthnReason::NotOperator { uid: peer.uid }, None, Origin::default()));
    }
    Ok(provider(format!("uid-{}", peer.uid), ActorKind::Operator))
}

/// Ringfence itself at one task, such as `sweep`. The task is 1–63 of `a-z`,
/// `0-9`, `-`.
pub fn system(task: &'static str) -> Caller {
    provider(task.to_owned(), ActorKind::System)
}

fn provider(name: String, actor: ActorKind) -> Caller {
    let principal = Principal::parse(&name).expect("tasks and user ids are short lower-case names");
    let (realm, tenant) = (PROVIDER_REALM.clone(), PROVIDER_TENANT.clone());
    Caller(Arc::new(Who::new(realm, tenant, principal, actor)))
}

impl Caller {
    /// The tenant it acts for; [`PROVIDER`] for operator and system.
    pub fn tenant(&self) -> &Tenant {
        &self.0.tenant
    }
    /// The realm that tenant belongs to; [`PROVIDER`] for operator and system.
    pub fn realm(&self) -> &Realm {
        &self.0.realm
    }
    /// The principal that acts.
    pub fn principal(&self) -> &Principal {
        &self.0.principal
    }
    /// What kind of actor it is.
    pub fn actor(&self) -> ActorKind {
        self.0.actor
    }
    /// The access key it proved to hold.
    pub fn key_id(&self) -> Option<&KeyId> {
        self.0.key_id.as_ref()
    }
    /// The session it acts by.
    pub fn session(&self) -> Option<&Arc<Session>> {
        self.0.session.as_ref()
    }
    /// The entry of the issuer whose token it shows.
    pub fn issuer(&self) -> Option<&Principal> {
        self.0.shown.as_ref().map(|(issuer, _)| issuer)
    }
    /// Who, as records say it. `owner` is whose data the act is about: it is
    /// that tenant's record, even if the provider acts.
    pub fn subject(&self, owner: Option<&Tenant>) -> Subject {
        self.0.subject(owner)
    }
}

impl Who {
    fn new(realm: Realm, tenant: Tenant, principal: Principal, actor: ActorKind) -> Self {
        let origin = Origin::default();
        Self { realm, tenant, principal, actor, key_id: None, origin, session: None, shown: None }
    }

    pub(crate) fn subject(&self, owner: Option<&Tenant>) -> Subject {
        let of_tenant = matches!(self.actor, ActorKind::StaticKey | ActorKind::Session | ActorKind::WebIdentity);
        let session = self.session.as_deref();
        let claims = session.map(Session::claims);
        Subject {
            realm: of_tenant.then(|| self.realm.clone()),
            tenant: if of_tenant { Some(self.tenant.clone()) } else { owner.cloned() },
            principal: Some(self.principal.clone()),
            actor: self.actor,
            key_id: self.key_id.clone(),
            source: self.origin.ip.map(|ip| ip.to_string()),
            user_agent: self.origin.user_agent.clone(),
            session: claims.map(|claims| hex::encode(claims.session)),
            role: claims.map(|claims| claims.role.clone()),
            issued: session.map(|session| session.verified().index()),
            signed_by: session.map(|session| session.verified().kid().to_string()),
            issuer: claims
                .map(|c| c.issuer.to_string())
                .or_else(|| self.shown.as_ref().map(|shown| shown.0.to_string())),
            issuer_subject: self.shown.clone().map(|shown| shown.1),
        }
    }
}

/// Why nobody is who they say; precise, for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthnReason {
    /// No credential at all.
    Missing,
    /// A credential that cannot be read.
    Malformed,
    /// No key has this id.
    UnknownKey,
    /// The key exists, but no record of its issuance: it was put there, not issued.
    NotIssued,
    /// The key was disabled.
    Disabled,
    /// The signature does not match.
    BadSignature,
    /// The request is older or newer than the clocks' allowed difference.
    Skewed,
    /// A presigned URL past its end.
    Expired,
    /// The key moved to another tenant between lookup and check.
    OtherTenant,
    /// The key's tenant belongs to another realm than the one that verified.
    OtherRealm,
    /// The key claims the provider's reserved name.
    Reserved,
    /// The session token is refused.
    Session(Refusal),
    /// The request is signed with another key than the session's.
    OtherKey,
    /// The key is a session's, and its token is not there.
    NoToken,
    /// The session's role is not configured any more.
    NoRole,
    /// An identity provider's token that is no evidence.
    Evidence(Reason),
    /// A DPoP proof that does not hold.
    Proof(dpop::Reason),
    /// A user of this machine who may not administer.
    NotOperator {
        /// Its user id.
        uid: u32,
    },
}

impl fmt::Display for AuthnReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "no credential",
            Self::Malformed => "malformed credential",
            Self::UnknownKey => "unknown access key",
            Self::NotIssued => "the key has no record of issuance",
            Self::Disabled => "the key is disabled",
            Self::BadSignature => "the signature does not match",
            Self::Skewed => "the request's time differs too much",
            Self::Expired => "the presigned request expired",
            Self::OtherTenant => "the signature was verified with another tenant's secret",
            Self::OtherRealm => "the signature was verified in another realm",
            Self::Reserved => "the key claims the provider's reserved name",
            Self::Session(refusal) => return refusal.fmt(f),
            Self::OtherKey => "the request is signed with another key than the session's",
            Self::NoToken => "a session's key without its token",
            Self::NoRole => "the session's role is not configured any more",
            Self::Evidence(reason) => return write!(f, "evidence: {reason}"),
            Self::Proof(reason) => return write!(f, "the DPoP proof is refused: {reason}"),
            Self::NotOperator { uid } => return write!(f, "user {uid} may not administer this installation"),
        })
    }
}

impl AuthnReason {
    /// The S3 error code and HTTP status for the client, who learns no more
    /// than S3 tells: a key that is disabled or was never issued looks unknown.
    pub fn answer(&self) -> (u16, &'static str) {
        match self {
            Self::Missing | Self::Expired | Self::NotOperator { .. } => (403, "AccessDenied"),
            Self::Malformed => (400, "AuthorizationHeaderMalformed"),
            Self::Evidence(reason) => (400, reason.answer()),
            Self::Skewed => (403, "RequestTimeTooSkewed"),
            Self::BadSignature => (403, "SignatureDoesNotMatch"),
            Self::Session(Refusal::Expired(_)) => (400, "ExpiredToken"),
            Self::Session(_) | Self::OtherKey | Self::NoRole | Self::Proof(_) => (400, "InvalidToken"),
            Self::UnknownKey
            | Self::NotIssued
            | Self::Disabled
            | Self::NoToken
            | Self::OtherTenant
            | Self::OtherRealm
            | Self::Reserved => (403, "InvalidAccessKeyId"),
        }
    }
}

/// A credential that does not hold. Recorded before it is answered: alone if
/// it names a key that exists ([`identified`](Self::identified)), else with
/// others of its minute and network ([`crate::noise`]).
#[must_use]
#[derive(Clone, Debug)]
pub struct Unauthenticated(Box<Refused>);

#[derive(Clone, Debug)]
struct Refused {
    reason: AuthnReason,
    key: Option<KeyId>,
    owner: Option<(Realm, Tenant, Principal)>,
    origin: Origin,
    op: &'static str,
    session: Option<Box<Claims>>,
    /// What the client is told instead of what S3 tells.
    answer: Option<(u16, &'static str)>,
}

impl Unauthenticated {
    /// Of somebody who shows a session token. Where a key of its scope did sign
    /// it, it stands alone in that tenant's records; else it is nobody's.
    pub fn of_token(refusal: Refusal, token: Option<&SessionToken>, key: Option<KeyId>, origin: Origin) -> Self {
        let signed = !matches!(
            refusal,
            Refusal::Malformed(_)
                | Refusal::Purpose { .. }
                | Refusal::UnknownKey { .. }
                | Refusal::Version(_)
                | Refusal::Signature(_)
        );
        let reason = AuthnReason::Session(refusal);
        match token.filter(|_| signed) {
            Some(token) => Self::of_session(reason, token.claimed(), key, origin),
            None => Self::new(reason, key, origin),
        }
    }

    /// Of an identity provider's token. Where it is authentic, it is that
    /// issuer's tenant's record.
    pub fn of_evidence(reason: AuthnReason, whose: Option<(Realm, Tenant, Principal)>, origin: Origin) -> Self {
        let refused = Self::new(reason, None, origin);
        match whose {
            Some((realm, tenant, issuer)) => refused.belongs_to(&realm, &tenant, &issuer),
            None => refused,
        }
    }

    /// Of a session whose token is signed by a key of its scope.
    pub fn of_session(reason: AuthnReason, claims: &Claims, key: Option<KeyId>, origin: Origin) -> Self {
        let mut refused = Self::new(reason, key, origin).belongs_to(&claims.realm, &claims.tenant, &claims.principal);
        refused.0.session = Some(Box::new(claims.clone()));
        refused
    }

    /// For the wire layer, where a signature fails before there is anything
    /// for [`authenticate`] to look at.
    pub fn new(reason: AuthnReason, key: Option<KeyId>, origin: Origin) -> Self {
        Self(Box::new(Refused { reason, key, owner: None, origin, op: AUTHENTICATE, session: None, answer: None }))
    }

    /// The same, of a key that exists: its owner's record.
    pub fn of_known_key(reason: AuthnReason, key: &KeyId, keys: &Keys, origin: Origin) -> Self {
        let refused = Self::new(reason, Some(key.clone()), origin);
        match keys.find(key) {
            Some(entry) => refused.belongs_to(&entry.realm, &entry.tenant, &entry.principal),
            None => refused,
        }
    }

    /// Names the operation that was asked for, where it is known.
    pub fn during(mut self, op: &'static str) -> Self {
        self.0.op = op;
        self
    }

    /// Says what is answered, where that is not what S3 answers.
    pub fn answered(mut self, status: u16, code: &'static str) -> Self {
        self.0.answer = Some((status, code));
        self
    }

    fn belongs_to(mut self, realm: &Realm, tenant: &Tenant, principal: &Principal) -> Self {
        self.0.owner = Some((realm.clone(), tenant.clone(), principal.clone()));
        self
    }

    /// Whether it names a key that exists, and so stands alone in the log.
    pub fn identified(&self) -> bool {
        self.0.owner.is_some()
    }
    /// Why, for the record; never for the client.
    pub fn reason(&self) -> &AuthnReason {
        &self.0.reason
    }
    /// Where the request came from.
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }
    /// The operation that was asked for, `s3:Authenticate` where it is unknown.
    pub fn op(&self) -> &'static str {
        self.0.op
    }
    /// HTTP status and error code for the client.
    pub fn answer(&self) -> (u16, &'static str) {
        self.0.answer.unwrap_or_else(|| self.0.reason.answer())
    }
}

impl Entry for Unauthenticated {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let (status, code) = self.answer();
        let (realm, tenant, principal) = match self.0.owner.clone() {
            Some((realm, tenant, principal)) => (Some(realm), Some(tenant), Some(principal)),
            None => (None, None, None),
        };
        let session = self.0.session.as_deref();
        let actor = match (session, self.identified()) {
            (Some(_), _) => ActorKind::Session,
            (None, true) => ActorKind::StaticKey,
            (None, false) => ActorKind::Anonymous,
        };
        Record {
            core: Core {
                time_us: now_us,
                op: Op(self.0.op.to_owned()),
                phase: Phase::Intent,
                decision: Decision::Deny,
                status,
                error_code: Some(code.to_owned()),
                reason: Some(self.0.reason.to_string()),
                ..Core::default()
            },
            subject: Subject {
                realm,
                tenant,
                principal,
                actor,
                session: session.map(|claims| hex::encode(claims.session)),
                role: session.map(|claims| claims.role.clone()),
                issuer: session.map(|claims| claims.issuer.to_string()),
                key_id: self.0.key.clone(),
                source: self.0.origin.ip.map(|ip| ip.to_string()),
                user_agent: self.0.origin.user_agent.clone(),
                ..Subject::default()
            },
            resource: Resource::default(),
            redo: None,
            public: None,
        }
    }
}
