//! PASETO `v4.public` and `v3.public` (paseto.io, specification v4 and v3):
//! which bytes are signed, and the check. Nothing here holds a private key.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ED25519, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use super::refusal::BadSession;
use crate::leaf::sha256;

/// The version of a key; a token under that key has it, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Ed25519.
    V4,
    /// ECDSA on P-384 with SHA-384, where hardware holds the key that has no
    /// Ed25519.
    V3,
}

impl Version {
    const fn header(self) -> &'static str {
        match self {
            Self::V4 => "v4.public.",
            Self::V3 => "v3.public.",
        }
    }

    const fn signature_bytes(self) -> usize {
        match self {
            Self::V4 => 64,
            Self::V3 => 96,
        }
    }
}

/// A public key with its version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
pub enum PublicKey {
    /// Ed25519 (RFC 8032), 32 bytes.
    #[n(0)]
    Ed25519(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]),
    /// P-384, a compressed point (SEC 1, section 2.3.3), 49 bytes.
    #[n(1)]
    P384(#[cbor(n(0), with = "minicbor::bytes")] [u8; 49]),
}

impl PublicKey {
    /// Which tokens it checks.
    pub const fn version(&self) -> Version {
        match self {
            Self::Ed25519(_) => Version::V4,
            Self::P384(_) => Version::V3,
        }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Ed25519(bytes) => bytes,
            Self::P384(bytes) => bytes,
        }
    }

    /// Its id: the first 8 bytes of SHA-256 of the key.
    pub fn kid(&self) -> Kid {
        let hash = sha256(self.as_bytes());
        Kid(hash[..8].try_into().expect("sliced to 8"))
    }

    /// Whether this key's owner signed exactly these bytes.
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Self::P384(key) => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(message, signature).is_ok(),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = if self.version() == Version::V4 { "ed25519" } else { "p384" };
        write!(f, "{version}:{}", BASE64.encode(self.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = BadSession;

    fn from_str(text: &str) -> Result<Self, BadSession> {
        let (version, key) = text.split_once(':').ok_or(BadSession::Form("a public key is `ed25519:…` or `p384:…`"))?;
        let bytes = BASE64.decode(key).map_err(|_| BadSession::Form("a public key is not base64url"))?;
        let length = |_| BadSession::Form("a public key has the wrong length");
        match version {
            "ed25519" => Ok(Self::Ed25519(bytes.try_into().map_err(length)?)),
            "p384" => Ok(Self::P384(bytes.try_into().map_err(length)?)),
            _ => Err(BadSession::Form("a public key is `ed25519:…` or `p384:…`")),
        }
    }
}

/// Short id of a key: 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct Kid(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 8]);

impl fmt::Display for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Kid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Kid {
    type Err = BadSession;

    fn from_str(text: &str) -> Result<Self, BadSession> {
        let mut kid = [0; 8];
        hex::decode_to_slice(text, &mut kid).map_err(|_| BadSession::Form("a key id is 16 hexadecimal digits"))?;
        let kid = Self(kid);
        if kid.to_string() == text { Ok(kid) } else { Err(BadSession::Form("a key id is written in lower case")) }
    }
}

/// PAE of the specification (section 2.2.1, "PAE Definition"): how many pieces,
/// then each with its length, numbers as 64 bits little-endian.
pub fn pre_authentication_encoding(pieces: &[&[u8]]) -> Vec<u8> {
    let length = |n: usize| (n as u64 & (u64::MAX >> 1)).to_le_bytes();
    let mut out = length(pieces.len()).to_vec();
    for piece in pieces {
        out.extend_from_slice(&length(piece.len()));
        out.extend_from_slice(piece);
    }
    out
}

/// The bytes that the key signs.
pub(super) fn to_be_signed(key: &PublicKey, payload: &[u8], footer: &[u8], implicit: &[u8]) -> Vec<u8> {
    let header = key.version().header().as_bytes();
    match key {
        PublicKey::Ed25519(_) => pre_authentication_encoding(&[header, payload, footer, implicit]),
        PublicKey::P384(point) => pre_authentication_encoding(&[point, header, payload, footer, implicit]),
    }
}

/// Half of the order of P-384, rounded down (FIPS 186-5, SP 800-186 section 3.2.1.4).
const P384_HALF_ORDER: [u8; 48] = *b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
    \xff\xff\xff\xff\xff\xff\xff\xff\xe3\xb1\xa6\xc0\xfa\x1b\x96\xef\
    \xac\x0d\x06\xd9\x24\x58\x53\xbd\x76\x76\x0c\xb5\x66\x62\x94\xb9";

/// Whether a signature is the one form that we take. To each ECDSA signature
/// (r, s) anybody can find another, (r, n − s); Ed25519 has only one. If both
/// counted, whoever holds an honest token could make one that is validly signed
/// and not in the log, and raise an alarm that says a key was stolen.
pub(super) fn is_canonical(version: Version, signature: &[u8]) -> bool {
    version == Version::V4 || signature.get(48..).is_some_and(|s| s <= &P384_HALF_ORDER[..])
}

/// The canonical one of the two forms of a signature.
fn canonical(version: Version, signature: &[u8]) -> Vec<u8> {
    let mut out = signature.to_vec();
    if is_canonical(version, signature) {
        return out;
    }
    // n − s, from the last byte up; n is twice its half and one.
    let (mut borrow, mut carry) = (0i16, 1u16);
    for at in (0..P384_HALF_ORDER.len().min(out.len().saturating_sub(48))).rev() {
        carry += 2 * u16::from(P384_HALF_ORDER[at]);
        let difference = (carry & 0xff) as i16 - i16::from(out[48 + at]) - borrow;
        borrow = i16::from(difference < 0);
        out[48 + at] = difference.rem_euclid(256) as u8;
        carry >>= 8;
    }
    out
}

/// The token of a payload and its signature.
pub(super) fn assemble(version: Version, payload: &[u8], signature: &[u8], footer: &[u8]) -> String {
    let body = [payload, &canonical(version, signature)].concat();
    format!("{}{}.{}", version.header(), BASE64.encode(body), BASE64.encode(footer))
}

/// A PASETO cut into its parts: nothing in it is believed yet.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    pub(super) version: Version,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
    pub(super) footer: Vec<u8>,
}

pub(super) fn parse(text: &str) -> Result<Parts, BadSession> {
    let bad = BadSession::Form;
    let versions = [Version::V4, Version::V3];
    let version = versions.into_iter().find(|v| text.starts_with(v.header())).ok_or(bad("neither v4 nor v3 public"))?;
    let (body, footer) = text[version.header().len()..].split_once('.').ok_or(bad("it has no footer"))?;
    let mut payload = BASE64.decode(body).map_err(|_| bad("its body is not base64url"))?;
    let footer = BASE64.decode(footer).map_err(|_| bad("its footer is not base64url"))?;
    let cut = payload.len().checked_sub(version.signature_bytes()).ok_or(bad("too short for a signature"))?;
    let signature = payload.split_off(cut);
    Ok(Parts { version, payload, signature, footer })
}

#[cfg(test)]
mod tests;
