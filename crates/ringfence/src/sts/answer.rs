//! The documents STS answers with (AWS STS API reference, "Response elements").

use std::fmt::Write as _;

use ringfence_access::caller::Unauthenticated;
use ringfence_format::names::{Principal, Tenant};
use ringfence_format::record::Seq;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use super::error::StsError;
use super::{EvidenceSeen, Identity, Issued, Refusal};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// What a flow said.
#[derive(Debug)]
pub(super) enum Said {
    /// To `AssumeRoleWithWebIdentity`.
    WebIdentity(Issued),
    /// To `AssumeRole`.
    Role(Issued),
    /// To `GetCallerIdentity`.
    Identity(Identity),
}

/// An answer that still lacks its request id: that is where it is on record.
#[derive(Debug)]
pub struct Answered {
    op: &'static str,
    outcome: Result<Said, Refusal>,
}

impl Answered {
    pub(super) fn said(op: &'static str, said: Said) -> Self {
        Self { op, outcome: Ok(said) }
    }
    pub(super) fn refused(op: &'static str, refusal: Refusal) -> Self {
        Self { op, outcome: Err(refusal) }
    }

    /// The operation as records name it.
    pub fn op(&self) -> &'static str {
        self.op
    }

    /// Where it is on record, if a flow has recorded it.
    pub fn recorded(&self) -> Option<Seq> {
        match &self.outcome {
            Ok(Said::WebIdentity(issued) | Said::Role(issued)) => Some(issued.recorded),
            Ok(Said::Identity(identity)) => Some(identity.recorded),
            Err(refusal) => refusal.recorded,
        }
    }

    /// What the wire is to record or count where no flow has recorded anything.
    pub fn refused_as(&self) -> Option<&Unauthenticated> {
        self.outcome.as_ref().err().and_then(|refusal| refusal.refused.as_ref())
    }

    /// The error, if it is one.
    pub fn error(&self) -> Option<&StsError> {
        self.outcome.as_ref().err().map(|refusal| &refusal.error)
    }

    /// HTTP status.
    pub fn status(&self) -> u16 {
        self.error().map_or(200, |error| error.code.status())
    }

    /// The document, with the id under which the request is on record.
    pub fn document(&self, request_id: &str) -> Zeroizing<String> {
        match &self.outcome {
            Ok(said) => success(said, request_id),
            Err(refusal) => failure(&refusal.error, request_id),
        }
    }
}

/// `arn:ringfence:sts::TENANT:assumed-role/ROLE/SESSION`.
pub fn assumed_role_arn(tenant: &Tenant, role: &Principal, session_name: &str) -> String {
    format!("arn:ringfence:sts::{tenant}:assumed-role/{role}/{session_name}")
}

/// `AROA…:SESSION`: the same for the same role, for ever.
pub fn assumed_role_id(tenant: &Tenant, role: &Principal, session_name: &str) -> String {
    // Neither name may hold `|`.
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("role|{tenant}|{role}").as_bytes());
    let id: String = digest.as_ref()[..16].iter().map(|byte| BASE32[usize::from(byte % 32)] as char).collect();
    format!("AROA{id}:{session_name}")
}

const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

fn success(said: &Said, request_id: &str) -> Zeroizing<String> {
    let mut xml = Document::new();
    let action = match said {
        Said::WebIdentity(_) => "AssumeRoleWithWebIdentity",
        Said::Role(_) => "AssumeRole",
        Said::Identity(_) => "GetCallerIdentity",
    };
    xml.raw(&format!("<{action}Response xmlns=\"{NAMESPACE}\"><{action}Result>"));
    match said {
        Said::WebIdentity(issued) | Said::Role(issued) => xml.session(issued),
        Said::Identity(identity) => {
            xml.text("Arn", &identity.arn);
            xml.text("UserId", &identity.user_id);
            xml.text("Account", identity.account.as_str());
        }
    }
    xml.raw(&format!("</{action}Result><ResponseMetadata>"));
    xml.text("RequestId", request_id);
    xml.raw(&format!("</ResponseMetadata></{action}Response>"));
    xml.0
}

fn failure(error: &StsError, request_id: &str) -> Zeroizing<String> {
    let mut xml = Document::new();
    xml.raw(&format!("<ErrorResponse xmlns=\"{NAMESPACE}\"><Error>"));
    xml.text("Type", error.code.fault());
    xml.text("Code", error.code.as_str());
    xml.text("Message", &error.message);
    xml.raw("</Error>");
    xml.text("RequestId", request_id);
    xml.raw("</ErrorResponse>");
    xml.0
}

/// Grows by whole elements. Room is taken at once, so that a secret is not
/// left behind in memory by growing.
struct Document(Zeroizing<String>);

impl Document {
    fn new() -> Self {
        Self(Zeroizing::new(String::with_capacity(24 * 1024)))
    }

    fn raw(&mut self, markup: &str) {
        self.0.push_str(markup);
    }

    fn text(&mut self, element: &str, text: &str) {
        let _ = write!(self.0, "<{element}>");
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                // No XML 1.0 document can hold these.
                c if (c.is_control() && !matches!(c, '\t' | '\n' | '\r')) || matches!(c, '\u{fffe}' | '\u{ffff}') => {
                    self.0.push('\u{fffd}');
                }
                c => self.0.push(c),
            }
        }
        let _ = write!(self.0, "</{element}>");
    }

    fn session(&mut self, issued: &Issued) {
        if let Some(EvidenceSeen { subject, .. }) = &issued.evidence {
            self.text("SubjectFromWebIdentityToken", subject);
        }
        if let Some(EvidenceSeen { audience, .. }) = &issued.evidence {
            self.text("Audience", audience);
        }
        self.raw("<AssumedRoleUser>");
        self.text("Arn", &assumed_role_arn(&issued.tenant, &issued.role, &issued.session_name));
        self.text("AssumedRoleId", &assumed_role_id(&issued.tenant, &issued.role, &issued.session_name));
        self.raw("</AssumedRoleUser><Credentials>");
        self.text("AccessKeyId", &issued.access_key_id);
        self.text("SecretAccessKey", &issued.secret);
        self.text("SessionToken", &issued.session_token);
        self.text("Expiration", &rfc3339(issued.expires_s));
        self.raw("</Credentials>");
        if let Some(EvidenceSeen { provider, .. }) = &issued.evidence {
            self.text("Provider", provider);
        }
        if let Some(percent) = issued.packed_policy_percent {
            self.text("PackedPolicySize", &percent.to_string());
        }
    }
}

fn rfc3339(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok());
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests;
