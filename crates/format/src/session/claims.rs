//! What a session token says.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::paseto::Kid;
use super::refusal::BadSession;
use super::scope::{Purpose, Scope, Sites};
use crate::leaf::Hash;
use crate::names::{Principal, Realm, Tenant};
use crate::record::Seq;

/// The payload of a token has at most so many bytes; it is not parsed longer.
pub const PAYLOAD_BYTES_MAX: usize = 600;
/// No session lives longer, in seconds.
pub const LIFETIME_S_MAX: u64 = 3600;

/// The payload: a strict structure. A field that is missing, unknown or there
/// twice makes it malformed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Session id, random.
    #[serde(rename = "jti", with = "as_hex")]
    pub session: [u8; 16],
    /// Under which trust root.
    #[serde(rename = "rlm")]
    pub realm: Realm,
    /// For whom.
    #[serde(rename = "tnt")]
    pub tenant: Tenant,
    /// For what.
    #[serde(rename = "pur")]
    pub purpose: Purpose,
    /// Who acts.
    #[serde(rename = "sub")]
    pub principal: Principal,
    /// In which role.
    #[serde(rename = "rol")]
    pub role: Principal,
    /// First half of SHA-256 of the policies in force when it was issued.
    #[serde(rename = "pol", with = "as_base64")]
    pub policies: [u8; 16],
    /// SHA-256 of the session policy beside the token; zeros where there is none.
    #[serde(rename = "spo", with = "as_base64")]
    pub session_policy: Hash,
    /// When it was signed, in Unix seconds.
    #[serde(rename = "iat")]
    pub issued_s: u64,
    /// From when it counts, in Unix seconds.
    #[serde(rename = "nbf")]
    pub from_s: u64,
    /// From when it does not count any more, in Unix seconds.
    #[serde(rename = "exp")]
    pub until_s: u64,
    /// The gateways that may serve it.
    #[serde(rename = "sts")]
    pub sites: Sites,
    /// SHA-256 of the evidence it was exchanged for.
    #[serde(rename = "evd", with = "as_base64")]
    pub evidence: Hash,
    /// The entry of the issuer whose token that was; `static-key` for none.
    #[serde(rename = "iss")]
    pub issuer: Principal,
    /// First half of SHA-256 of that token's `jti`; zeros where it had none.
    #[serde(rename = "ejt", with = "as_base64")]
    pub evidence_id: [u8; 16],
    /// What its holder must prove to have: the id of the access key whose
    /// secret signs requests, the RFC 7638 thumbprint of the DPoP key, or
    /// nothing: a bearer token.
    #[serde(rename = "cnf")]
    pub confirmation: String,
    /// The session this one was narrowed from.
    #[serde(rename = "par")]
    #[serde(deserialize_with = "present")]
    pub parent: Option<Parent>,
}

/// The session that another was narrowed from: what revokes it revokes both.
/// Written `index.kid.role`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Parent {
    /// Its leaf.
    pub index: Seq,
    /// The key that signed it.
    pub kid: Kid,
    /// Its role.
    pub role: Principal,
}

impl From<Parent> for String {
    fn from(parent: Parent) -> Self {
        format!("{}.{}.{}", parent.index, parent.kid, parent.role)
    }
}

impl TryFrom<String> for Parent {
    type Error = BadSession;

    fn try_from(text: String) -> Result<Self, BadSession> {
        let bad = || BadSession::Payload("the parent is malformed");
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or_else(bad);
        let index = part()?.parse().map_err(|_| bad())?;
        let kid = part()?.parse().map_err(|_| bad())?;
        Ok(Self { index, kid, role: part()?.parse().map_err(|_| bad())? })
    }
}

/// `null` is a value here; a field that is missing is not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Parent>, D::Error> {
    Option::deserialize(deserializer)
}

impl Claims {
    /// The scope it claims to be of.
    pub fn scope(&self) -> Scope {
        Scope { realm: self.realm.clone(), tenant: self.tenant.clone(), purpose: self.purpose }
    }

    /// The payload to sign.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BadSession> {
        let bytes = serde_json::to_vec(self).map_err(|_| BadSession::Payload("cannot be written"))?;
        if bytes.len() > PAYLOAD_BYTES_MAX { Err(BadSession::TooLong) } else { Ok(bytes) }
    }

    /// Reads a payload; only the very bytes that [`to_bytes`](Self::to_bytes)
    /// writes are one, so that no two texts say the same.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadSession> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            return Err(BadSession::TooLong);
        }
        let claims: Self =
            serde_json::from_slice(bytes).map_err(|_| BadSession::Payload("not the strict structure"))?;
        if !is_confirmation(&claims.confirmation) {
            return Err(BadSession::Payload("what its holder must have is neither a key id nor a thumbprint"));
        }
        match claims.to_bytes().as_deref() == Ok(bytes) {
            true => Ok(claims),
            false => Err(BadSession::Payload("not in the one form it is written in")),
        }
    }
}

/// An access key id, a base64url thumbprint, or nothing: what a header or a
/// terminal does not mind.
fn is_confirmation(text: &str) -> bool {
    text.len() <= 64 && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
}

mod as_hex {
    use super::*;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(bytes)
    }
}

mod as_base64 {
    use super::*;

    pub(super) fn serialize<S: Serializer, const N: usize>(bytes: &[u8; N], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(deserializer: D) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(&text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or_else(|| serde::de::Error::custom("not the right number of bytes in base64url"))
    }
}
