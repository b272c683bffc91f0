//! One grant: decided, signed, admitted, recorded, released — in this order.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use ringfence_access::admission::{Admitted, NotAdmitted, Proposal, STATIC_KEY, first_half};
use ringfence_access::evidence::VerifiedEvidence;
use ringfence_access::narrowing::{Narrowing, POLICY_CHARS_MAX};
use ringfence_access::permit::Issue;
use ringfence_access::roles::Role;
use ringfence_access::{Ask, Caller, Permit, Session};
use ringfence_format::leaf::{Hash, ISSUANCE, PublicEntry, sha256};
use ringfence_format::names::{KeyId, Principal};
use ringfence_format::record::{Record, TimeUs};
use ringfence_format::session::{Claims, Issuance, Kid, Parent, Purpose, SessionToken, Sites};
use ringfence_log::{Class, Entry};
use zeroize::Zeroizing;

use super::unavailable;
use crate::alarm::{Alarm, AlarmKind};
use crate::installation::Installation;
use crate::sts::{Issued, Refusal, StsCode, StsError};

/// How long a session waits for the checkpoint, and the witnesses, that its
/// receipt needs.
const RECEIPT_WAIT: Duration = Duration::from_secs(5);
/// Stands between the session policies of a chain, which are stapled together.
pub(crate) const BETWEEN_POLICIES: char = '\u{1e}';

/// What a session is given for, as far as its token says it.
pub(super) struct For {
    issuer: Principal,
    evidence: Hash,
    evidence_id: [u8; 16],
    /// It ends no later.
    until_s: u64,
    parent: Option<Parent>,
    /// The policies that narrow the parent.
    policies: Option<String>,
    sites: Option<Sites>,
}

impl For {
    /// For an identity provider's token.
    pub(super) fn of_evidence(evidence: &VerifiedEvidence) -> Self {
        Self {
            issuer: evidence.issuer().clone(),
            evidence: *evidence.token_sha256(),
            evidence_id: evidence.id_sha256().map_or([0; 16], first_half),
            until_s: evidence.expires_s(),
            parent: None,
            policies: None,
            sites: None,
        }
    }

    /// For a session, of which this one is a part.
    pub(super) fn of_session(session: &Session) -> Self {
        let (claims, verified) = (session.claims(), session.verified());
        let parent = Parent { index: verified.index(), kid: verified.kid(), role: claims.role.clone() };
        Self {
            issuer: claims.issuer.clone(),
            evidence: claims.evidence,
            evidence_id: claims.evidence_id,
            until_s: claims.until_s,
            parent: Some(parent),
            policies: verified.policy().map(str::to_owned),
            sites: Some(claims.sites.clone()),
        }
    }

    /// For a static key.
    pub(super) fn static_key() -> Self {
        Self {
            issuer: Principal::parse(STATIC_KEY).expect("a literal that obeys the rule"),
            evidence: [0; 32],
            evidence_id: [0; 16],
            until_s: u64::MAX,
            parent: None,
            policies: None,
            sites: None,
        }
    }
}

/// Who asks for which role, and for what.
pub(super) struct Grant<'a> {
    pub(super) op: &'static str,
    pub(super) caller: &'a Arc<Caller>,
    pub(super) role: &'a Role,
    pub(super) basis: For,
    pub(super) holder: Holder,
}

/// What the holder of a session proves to have, and with it what it is for.
pub(super) enum Holder {
    /// The secret of an access key: requests to S3 and STS.
    AccessKey,
    /// The private key of this RFC 7638 thumbprint, by DPoP (RFC 9449).
    DpopKey(String),
    /// Nothing: whoever has the token (RFC 6750).
    Bearer,
}

impl Holder {
    fn purpose(&self) -> Purpose {
        match self {
            Self::AccessKey => Purpose::StsSession,
            Self::DpopKey(_) | Self::Bearer => Purpose::Api,
        }
    }

    fn confirmation(&self, session: &[u8; 16]) -> String {
        match self {
            Self::AccessKey => access_key_id(session).to_string(),
            Self::DpopKey(thumbprint) => thumbprint.clone(),
            Self::Bearer => String::new(),
        }
    }
}

/// A token that is signed, and that nobody has seen.
#[must_use]
pub(super) struct Drafted {
    permit: Permit<Issue>,
    claims: Claims,
    paseto: Zeroizing<String>,
    sha256: Hash,
    kid: Kid,
    pseudonym: [u8; 16],
    policy: Option<String>,
    packed_percent: Option<u32>,
}

impl Grant<'_> {
    /// Decides and signs.
    pub(super) async fn sign(
        self,
        at: &Arc<Installation>,
        asked_s: Option<u32>,
        policy: Option<&str>,
        session_name: &str,
    ) -> Result<Drafted, Refusal> {
        let packed_percent = policy.map(|text| (text.chars().count() * 100).div_ceil(POLICY_CHARS_MAX) as u32);
        let policy = self.policies(policy)?;
        let now_us = at.clock.now_us();
        let issuer = self.caller.issuer();
        let ask = Ask::on_role(self.op, self.caller.tenant(), &self.role.name, issuer);
        let permit = match at.engine.decide::<Issue>(self.caller, ask, now_us) {
            Ok(permit) => permit,
            Err(denial) => {
                let recorded = at.log.record(denial).await.map_err(|_| unavailable())?;
                let error = StsError::new(StsCode::AccessDenied, format!("Not authorized to perform {}", self.op));
                return Err(Refusal::recorded(error, recorded.index()));
            }
        };
        let claims = self.claims(at, now_us / 1_000_000, asked_s, policy.as_deref())?;
        let permit = permit.record(|resource| {
            let detail = format!("role {}, session {session_name}, until {}", claims.role, claims.until_s);
            resource.detail = Some(detail);
        });
        let signed = at.vault.sign_session(&permit, &claims, now_us / 1_000_000);
        let (paseto, key) = match signed {
            Ok(signed) => signed,
            Err(error) => return Err(no_key(at, &claims, &error).await),
        };
        let pseudonym = at.vault.tenant_pseudonym(&claims.realm, &claims.tenant).map_err(|_| unavailable())?;
        let sha256 = sha256(paseto.as_bytes());
        let (paseto, kid) = (Zeroizing::new(paseto), key.kid());
        Ok(Drafted { permit, claims, paseto, sha256, kid, pseudonym, policy, packed_percent })
    }

    /// The session policy that was asked for, behind those that narrow the
    /// session it comes from.
    fn policies(&self, asked: Option<&str>) -> Result<Option<String>, Refusal> {
        if let Some(text) = asked {
            Narrowing::parse(text).map_err(|why| StsError::new(StsCode::MalformedPolicyDocument, why.to_string()))?;
        }
        let all: Vec<&str> = self.basis.policies.as_deref().into_iter().chain(asked).collect();
        Ok((!all.is_empty()).then(|| all.join(&BETWEEN_POLICIES.to_string())))
    }

    fn claims(
        &self,
        at: &Installation,
        now_s: u64,
        asked_s: Option<u32>,
        policy: Option<&str>,
    ) -> Result<Claims, Refusal> {
        let mut session = [0; 16];
        aws_lc_rs::rand::fill(&mut session).map_err(|_| unavailable())?;
        let life_s = asked_s.unwrap_or(at.config.sts.duration_s).min(self.role.max_session_s);
        let until_s = (now_s + u64::from(life_s)).min(self.basis.until_s);
        if until_s <= now_s {
            let over = "what it would be exchanged for is over";
            return Err(StsError::new(StsCode::ExpiredTokenException, over).into());
        }
        Ok(Claims {
            session,
            realm: self.caller.realm().clone(),
            tenant: self.caller.tenant().clone(),
            purpose: self.holder.purpose(),
            principal: self.caller.principal().clone(),
            role: self.role.name.clone(),
            policies: first_half(&at.engine.set().sha256()),
            session_policy: policy.map_or([0; 32], |text| sha256(text.as_bytes())),
            issued_s: now_s,
            from_s: now_s,
            until_s,
            sites: self.basis.sites.clone().unwrap_or_else(|| Sites::one(at.sessions.gateway().clone())),
            evidence: self.basis.evidence,
            issuer: self.basis.issuer.clone(),
            evidence_id: self.basis.evidence_id,
            confirmation: self.holder.confirmation(&session),
            parent: self.basis.parent.clone(),
        })
    }
}

/// The id of a session's key: `ASIA` and the first 80 bits of its id.
fn access_key_id(session: &[u8; 16]) -> KeyId {
    let id = format!("ASIA{}", BASE32_NOPAD.encode(&session[..10]));
    KeyId::parse(&id).expect("letters and digits")
}

impl Drafted {
    /// What admission is to look at.
    pub(super) fn proposal(&self) -> Proposal<'_> {
        Proposal { claims: &self.claims, kid: self.kid, token_sha256: self.sha256, pseudonym: self.pseudonym }
    }

    /// Records the leaf, waits for its receipt, and only then lets go of the
    /// token and the secret.
    pub(super) async fn release(
        self,
        at: &Arc<Installation>,
        admitted: Result<Admitted, NotAdmitted>,
        session_name: &str,
    ) -> Result<Issued, Refusal> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            tracing::error!("a session was not issued, {what}: {error}");
            unavailable()
        };
        let admitted = admitted.map_err(|why| failed("admission refused it", &why))?;
        let issuance = at.vault.admit(&admitted, self.claims.issued_s);
        let issuance = issuance.map_err(|error| failed("it could not be admitted", &error))?;
        let Self { permit, claims, paseto, sha256, policy, packed_percent, .. } = self;
        let issuing = Issuing { permit, claims, issuance };
        let recorded = at.log.record(issuing).await.map_err(|error| failed("it could not be recorded", &error))?;
        let seq = recorded.index();
        at.sessions.note_issued(sha256, recorded.claims.until_s, recorded.claims.issued_s);
        let receipt = at.log.receipt(seq, RECEIPT_WAIT).await.map_err(|error| failed("it has no receipt", &error))?;
        let claims = &recorded.claims;
        let token = SessionToken::staple(&paseto, &receipt, policy.as_deref())
            .map_err(|_| StsError::new(StsCode::PackedPolicyTooLarge, "the session would be longer than allowed"))?;
        let secret = match claims.purpose {
            Purpose::StsSession => {
                let secret = at.secret_of(claims).map_err(|error| failed("its secret cannot be derived", &error))?;
                Zeroizing::new(secret.expose_secret().to_owned())
            }
            _ => Zeroizing::default(),
        };
        metrics::counter!("ringfence_sessions_issued_total").increment(1);
        Ok(Issued {
            access_key_id: claims.confirmation.clone(),
            secret,
            session_token: Zeroizing::new(token),
            expires_s: claims.until_s,
            tenant: claims.tenant.clone(),
            role: claims.role.clone(),
            session_name: session_name.to_owned(),
            evidence: None,
            packed_policy_percent: packed_percent,
            recorded: seq,
        })
    }
}

/// An issuance on its way into the log: the permit, and the public leaf.
struct Issuing {
    permit: Permit<Issue>,
    claims: Claims,
    issuance: Issuance,
}

impl Entry for Issuing {
    fn to_record(&self, now_us: TimeUs) -> Record {
        let mut record = self.permit.to_record(now_us);
        record.core.status = 200;
        record.subject.session = Some(hex::encode(self.claims.session));
        record.subject.role = Some(self.claims.role.clone());
        record.subject.signed_by = Some(self.issuance.draft.kid.to_string());
        record.public = Some(PublicEntry { kind: ISSUANCE, bytes: self.issuance.to_bytes() });
        record
    }

    fn class(&self) -> Class {
        self.permit.class()
    }

    fn deadline_us(&self) -> Option<TimeUs> {
        self.permit.deadline_us()
    }
}

/// Nothing is issued with a key whose time is over: it is said aloud.
async fn no_key(at: &Arc<Installation>, claims: &Claims, error: &ringfence_vault::VaultError) -> Refusal {
    tracing::error!("a session was not issued, there is no key to sign with: {error}");
    let (realm, tenant) = (Some(claims.realm.clone()), Some(claims.tenant.clone()));
    let alarm = Alarm { kind: AlarmKind::KeyOverdue, realm, tenant, detail: error.to_string(), of: None };
    at.alarms.raise(alarm).await;
    unavailable()
}
