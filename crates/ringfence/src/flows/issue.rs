//! Sessions: what is exchanged for what. Verify the evidence → decide → sign
//! (nothing is released yet) → admit, from the evidence up again → record the
//! leaf → staple its receipt → release.

mod grant;
mod reuse;

use std::sync::Arc;

use ringfence_access::Caller;
use ringfence_access::admission;
use ringfence_access::caller::{AuthnReason, Credential, Origin, Unauthenticated, VerifiedSignature, authenticate};
use ringfence_access::evidence::VerifiedEvidence;
use ringfence_access::roles::Role;
use ringfence_format::names::Tenant;
use ringfence_format::record::{Decision, Record, Resource, Seq, TimeUs};
use ringfence_format::session::Purpose;
use ringfence_log::Entry;
use zeroize::Zeroizing;

use self::grant::{For, Grant, Holder};
use crate::flows::Unrecorded;
use crate::installation::Installation;
use crate::sts::{
    AssumeRole, Claimed, EvidenceSeen, Identity, Issued, Refusal, RoleRef, StsCode, StsError, WithWebIdentity,
};

pub(crate) use grant::BETWEEN_POLICIES;
pub use reuse::Reuse;

const WITH_WEB_IDENTITY: &str = "sts:AssumeRoleWithWebIdentity";
const TOKEN_EXCHANGE: &str = "api:TokenExchange";
const ASSUME_ROLE: &str = "sts:AssumeRole";
const CALLER_IDENTITY: &str = "sts:GetCallerIdentity";

/// Exchanges an identity provider's token for a session with S3.
///
/// # Errors
/// What the client is told, and why.
pub async fn with_web_identity(
    at: &Arc<Installation>,
    ask: WithWebIdentity,
    origin: &Origin,
) -> Result<Issued, Refusal> {
    exchange(at, WITH_WEB_IDENTITY, ask, Holder::AccessKey, origin).await
}

/// Exchanges an identity provider's token for one that other services accept
/// (RFC 8693), bound to the DPoP key of this thumbprint if there is one.
///
/// # Errors
/// What the client is told, and why.
pub async fn for_api(
    at: &Arc<Installation>,
    ask: WithWebIdentity,
    thumbprint: Option<String>,
    origin: &Origin,
) -> Result<Issued, Refusal> {
    let holder = thumbprint.map_or(Holder::Bearer, Holder::DpopKey);
    exchange(at, TOKEN_EXCHANGE, ask, holder, origin).await
}

async fn exchange(
    at: &Arc<Installation>,
    op: &'static str,
    ask: WithWebIdentity,
    holder: Holder,
    origin: &Origin,
) -> Result<Issued, Refusal> {
    let evidence = verify(at, op, &ask.evidence, origin).await?;
    reuse::watch(at, &evidence, origin).await;
    let seen = EvidenceSeen {
        subject: evidence.subject().to_owned(),
        audience: evidence.audience().to_owned(),
        provider: evidence.issuer_url().to_owned(),
    };
    let roles = at.roles();
    let role = find_role(&roles, &ask.role, evidence.tenant()).filter(|role| role.admits(&evidence));
    let basis = For::of_evidence(&evidence);
    let caller = authenticate(Credential::WebIdentity(evidence), &at.keys, origin.clone());
    let caller = Arc::new(caller.map_err(|refused| no_evidence(refused.during(op)))?);
    let Some(role) = role else { return Err(no_role(at, &caller, op, &ask.role).await) };
    let grant = Grant { op, caller: &caller, role, basis, holder };
    let signed = grant.sign(at, ask.duration_s, ask.policy.as_deref(), &ask.session_name).await?;
    // A second time, for admission alone: nothing of the first is taken over.
    let again = verify(at, op, &ask.evidence, origin).await?;
    let admitted = admission::with_evidence(&again, &signed.proposal());
    let issued = signed.release(at, admitted, &ask.session_name).await?;
    Ok(Issued { evidence: Some(seen), ..issued })
}

/// Exchanges a session, or a static key, for a session that may do less.
///
/// # Errors
/// What the client is told, and why.
pub async fn assume_role(
    at: &Arc<Installation>,
    ask: AssumeRole,
    claimed: Claimed,
    origin: &Origin,
) -> Result<Issued, Refusal> {
    let caller = Arc::new(signed_by(at, claimed, origin, ASSUME_ROLE).await?);
    let roles = at.roles();
    let role = find_role(&roles, &ask.role, caller.tenant());
    let session = caller.session().cloned();
    let (role, basis) = match (role, &session) {
        (Some(_), Some(session)) if session.claims().parent.is_some() => {
            return Err(chained(at, &caller).await);
        }
        (Some(role), Some(session)) if role.admits_session(session.claims()) => (role, For::of_session(session)),
        // A static key lives for ever: never a way to restricted data.
        (Some(role), None) if role.static_keys && role.max_label != *at.labels.labels().strictest() => {
            (role, For::static_key())
        }
        _ => return Err(no_role(at, &caller, ASSUME_ROLE, &ask.role).await),
    };
    let grant = Grant { op: ASSUME_ROLE, caller: &caller, role, basis, holder: Holder::AccessKey };
    let signed = grant.sign(at, ask.duration_s, ask.policy.as_deref(), &ask.session_name).await?;
    let admitted = match &session {
        Some(session) => admission::with_session(session, &signed.proposal()),
        None => admission::with_static_key(&caller, &signed.proposal()),
    };
    signed.release(at, admitted, &ask.session_name).await
}

/// Who signed.
///
/// # Errors
/// What the client is told, and why.
pub async fn caller_identity(at: &Arc<Installation>, claimed: Claimed, origin: &Origin) -> Result<Identity, Refusal> {
    let caller = signed_by(at, claimed, origin, CALLER_IDENTITY).await?;
    let recorded = told(at, &caller, CALLER_IDENTITY, 200, "", "told who it is").await?;
    let account = caller.tenant().clone();
    let key = caller.key_id().map(ToString::to_string).unwrap_or_default();
    let (arn, user_id) = match caller.session() {
        Some(session) => {
            let name = caller.principal();
            let arn = crate::sts::assumed_role_arn(&account, session.role(), name.as_str());
            (arn, crate::sts::assumed_role_id(&account, session.role(), name.as_str()))
        }
        None => (format!("arn:ringfence:iam::{account}:user/{}", caller.principal()), key),
    };
    Ok(Identity { arn, user_id, account, recorded })
}

/// An identity provider's token, held against every evidence rule.
async fn verify(
    at: &Arc<Installation>,
    op: &'static str,
    token: &str,
    origin: &Origin,
) -> Result<VerifiedEvidence, Refusal> {
    let refused = match at.issuers().verify(token, at.clock.now_us() / 1_000_000).await {
        Ok(evidence) => return Ok(evidence),
        Err(refused) => refused,
    };
    let whose = refused.issuer.as_deref().filter(|_| refused.authentic);
    let whose = whose.map(|issuer| (issuer.realm.clone(), issuer.tenant.clone(), issuer.name.clone()));
    let reason = AuthnReason::Evidence(refused.reason);
    Err(no_evidence(Unauthenticated::of_evidence(reason, whose, origin.clone()).during(op)))
}

/// What the client is told of evidence that is refused: the code, and nothing
/// of the reason.
fn no_evidence(refused: Unauthenticated) -> Refusal {
    let error = match refused.reason() {
        AuthnReason::Evidence(reason) => StsError::of_evidence(*reason),
        _ => StsError::new(StsCode::AccessDenied, "Not authorized to perform sts:AssumeRoleWithWebIdentity"),
    };
    Refusal::new(error, Some(refused))
}

/// Who signed an STS request: a session's key with its token, or a static key.
async fn signed_by(
    at: &Arc<Installation>,
    claimed: Claimed,
    origin: &Origin,
    op: &'static str,
) -> Result<Caller, Refusal> {
    let invalid = |refused: Unauthenticated| {
        let refused = refused.during(op);
        let error = match refused.answer().1 {
            "ExpiredToken" => {
                StsError::new(StsCode::ExpiredTokenException, "The security token included in the request is expired")
            }
            _ => StsError::new(StsCode::InvalidClientTokenId, "The security token included in the request is invalid."),
        };
        Refusal::new(error, Some(refused))
    };
    let refuse = |reason, key| invalid(Unauthenticated::of_known_key(reason, key, &at.keys, origin.clone()));
    let key = claimed.key().clone();
    let live = match claimed.security_token() {
        Some(token) => Some(at.judge(token, Purpose::StsSession, origin).await.map_err(invalid)?),
        None => None,
    };
    let (secret, realm, tenant) = match &live {
        Some(live) => {
            let own = live.secret.as_ref().filter(|_| live.key_id().as_ref() == Some(&key));
            let secret = own.ok_or_else(|| refuse(AuthnReason::OtherKey, &key))?;
            let claims = live.session.claims();
            (Zeroizing::new(secret.expose_secret().to_owned()), claims.realm.clone(), claims.tenant.clone())
        }
        None => at.static_secret(&key).map_err(|reason| refuse(reason, &key))?,
    };
    let signed = claimed.check(&secret).map_err(|error| {
        let refused = Unauthenticated::of_known_key(AuthnReason::BadSignature, &key, &at.keys, origin.clone());
        Refusal::new(error, Some(refused.during(op)))
    })?;
    let signature = VerifiedSignature::sigv4_was_checked_by_the_wire_layer(signed.key().clone(), tenant, realm);
    let credential = match live {
        Some(live) => Credential::Session(signature, live.session.clone()),
        None => Credential::StaticKey(signature),
    };
    let caller = authenticate(credential, &at.keys, origin.clone()).map_err(invalid)?;
    if let Some(id) = caller.key_id().filter(|_| caller.session().is_none()) {
        at.key_use.used(id, at.clock.now_us());
    }
    Ok(caller)
}

fn find_role<'a>(roles: &'a ringfence_access::roles::Roles, asked: &RoleRef, own: &Tenant) -> Option<&'a Role> {
    let tenant = asked.tenant.as_ref().unwrap_or(own);
    roles.find(tenant, &asked.name).filter(|role| role.tenant == *own)
}

/// There is no such role for this caller: one answer for a role that is not
/// there, is another tenant's, or asks for something the evidence does not say.
async fn no_role(at: &Arc<Installation>, caller: &Caller, op: &'static str, asked: &RoleRef) -> Refusal {
    let reason = format!("no role `{}` for who asks", asked.arn);
    denied(at, caller, op, &reason).await
}

async fn chained(at: &Arc<Installation>, caller: &Caller) -> Refusal {
    denied(at, caller, ASSUME_ROLE, "a session that was narrowed is not narrowed again").await
}

/// Refuses, on record.
pub(super) async fn denied(at: &Arc<Installation>, caller: &Caller, op: &'static str, reason: &str) -> Refusal {
    let error = StsError::new(StsCode::AccessDenied, format!("Not authorized to perform {op}"));
    match told(at, caller, op, 403, "AccessDenied", reason).await {
        Ok(recorded) => Refusal::recorded(error, recorded),
        Err(refusal) => refusal,
    }
}

/// Records an answer that is neither a permit nor a denial of policy.
async fn told(
    at: &Arc<Installation>,
    caller: &Caller,
    op: &'static str,
    status: u16,
    code: &str,
    reason: &str,
) -> Result<Seq, Refusal> {
    let told = Unrecorded {
        subject: caller.subject(Some(caller.tenant())),
        op,
        resource: Resource::default(),
        status,
        code: code.to_owned(),
        reason: reason.to_owned(),
        of: None,
    };
    let decision = if status < 400 { Decision::Allow } else { Decision::Deny };
    match at.log.record(Decided { told, decision }).await {
        Ok(recorded) => Ok(recorded.index()),
        Err(error) => {
            tracing::error!("an STS answer was withheld because it could not be recorded: {error}");
            Err(unavailable())
        }
    }
}

/// An answer that was decided here, by a role's rules.
struct Decided {
    told: Unrecorded,
    decision: Decision,
}

impl Entry for Decided {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let mut record = self.told.to_record(now_us);
        record.core.decision = self.decision;
        if self.decision == Decision::Allow {
            record.core.error_code = None;
        }
        record
    }
}

/// Sessions cannot be issued now.
pub(super) fn unavailable() -> Refusal {
    StsError::new(StsCode::ServiceUnavailable, "sessions cannot be issued now: retry").into()
}
