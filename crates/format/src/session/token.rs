//! A session token as it travels, and the receipt stapled to it.

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};

use super::claims::{Claims, PAYLOAD_BYTES_MAX};
use super::paseto::{self, Kid, PublicKey, Version};
use super::refusal::BadSession;
use crate::leaf::{Hash, sha256};
use crate::record::Seq;

/// A token has at most so many bytes, receipt and policy included; it is not
/// parsed longer.
pub const SESSION_TOKEN_BYTES_MAX: usize = 8 * 1024;
/// A path is at most as long as a tree is high.
const PATH_MAX: usize = 64;

/// A session token that was cut into its parts, and nothing more.
#[derive(Clone, Debug)]
pub struct SessionToken {
    pub(super) paseto: String,
    pub(super) version: Version,
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
    pub(super) kid: Kid,
    pub(super) claimed: Claims,
    pub(super) receipt: Option<Receipt>,
    pub(super) policy: Option<String>,
}

/// That a token was issued: the leaf, its way to the root, and the checkpoint
/// with what witnesses said of it.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub struct Receipt {
    /// Position of the leaf.
    #[n(0)]
    pub index: Seq,
    /// The entry that is hashed into the tree.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub entry: Vec<u8>,
    /// From the leaf up.
    #[n(2)]
    pub path: Vec<PathHash>,
    /// The signed note, verbatim.
    #[n(3)]
    pub checkpoint: String,
}

/// One hash of a path, as a byte string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct PathHash(#[cbor(n(0), with = "minicbor::bytes")] pub Hash);

impl Receipt {
    /// The path as hashes.
    pub fn hashes(&self) -> Vec<Hash> {
        self.path.iter().map(|hash| hash.0).collect()
    }

    /// C2SP tlog-proof, lossless: the `extra` line carries the entry.
    pub fn to_proof(&self) -> String {
        let mut text =
            format!("c2sp.org/tlog-proof@v1\nextra {}\nindex {}\n", STANDARD.encode(&self.entry), self.index);
        for PathHash(hash) in &self.path {
            text.push_str(&STANDARD.encode(hash));
            text.push('\n');
        }
        text.push('\n');
        text.push_str(&self.checkpoint);
        text
    }
}

impl SessionToken {
    /// What the issuer's key must sign: payload, and with it what is not sent.
    pub fn to_be_signed(claims: &Claims, key: &PublicKey) -> Result<Vec<u8>, BadSession> {
        let implicit = claims.scope().assertion(&claims.sites);
        Ok(paseto::to_be_signed(key, &claims.to_bytes()?, key.kid().to_string().as_bytes(), &implicit))
    }

    /// The PASETO of claims and their signature. It is worth nothing until its
    /// receipt is stapled to it.
    pub fn paseto(claims: &Claims, key: &PublicKey, signature: &[u8]) -> Result<String, BadSession> {
        let footer = key.kid().to_string();
        Ok(paseto::assemble(key.version(), &claims.to_bytes()?, signature, footer.as_bytes()))
    }

    /// Staples: the text that clients carry.
    pub fn staple(paseto: &str, receipt: &Receipt, policy: Option<&str>) -> Result<String, BadSession> {
        let receipt = minicbor::to_vec(receipt).expect("encoding into memory cannot fail");
        let policy = policy.map(|policy| BASE64.encode(policy)).unwrap_or_default();
        let text = format!("{paseto}~{}~{policy}", BASE64.encode(receipt));
        if text.len() > SESSION_TOKEN_BYTES_MAX { Err(BadSession::TooLong) } else { Ok(text) }
    }

    /// Cuts a text into its parts and believes none of them.
    pub fn parse(text: &str) -> Result<Self, BadSession> {
        let bad = BadSession::Form;
        if text.len() > SESSION_TOKEN_BYTES_MAX {
            return Err(BadSession::TooLong);
        }
        let (paseto, rest) = text.split_once('~').unwrap_or((text, "~"));
        let (receipt, policy) = rest.split_once('~').ok_or(bad("parts are missing"))?;
        let paseto::Parts { version, payload, signature, footer } = paseto::parse(paseto)?;
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(BadSession::TooLong);
        }
        let kid = std::str::from_utf8(&footer).map_err(|_| bad("its footer is no key id"))?.parse()?;
        let claimed = Claims::from_bytes(&payload)?;
        let receipt = (!receipt.is_empty()).then(|| read_receipt(receipt)).transpose()?;
        let policy = (!policy.is_empty()).then(|| read_policy(policy)).transpose()?;
        Ok(Self { paseto: paseto.to_owned(), version, payload, signature, kid, claimed, receipt, policy })
    }

    /// What it says of itself: to look something up, never to decide by.
    pub fn claimed(&self) -> &Claims {
        &self.claimed
    }
    /// The key it names.
    pub fn kid(&self) -> Kid {
        self.kid
    }
    /// What its leaf must carry: SHA-256 of the PASETO.
    pub fn sha256(&self) -> Hash {
        sha256(self.paseto.as_bytes())
    }
    /// The receipt stapled to it.
    pub fn receipt(&self) -> Option<&Receipt> {
        self.receipt.as_ref()
    }
    /// The session policy stapled to it.
    pub fn policy(&self) -> Option<&str> {
        self.policy.as_deref()
    }
}

fn read_receipt(text: &str) -> Result<Receipt, BadSession> {
    let bytes = BASE64.decode(text).map_err(|_| BadSession::Form("its receipt is not base64url"))?;
    let receipt: Receipt = super::issuance::decode_all(&bytes)?;
    if receipt.path.len() > PATH_MAX { Err(BadSession::TooLong) } else { Ok(receipt) }
}

fn read_policy(text: &str) -> Result<String, BadSession> {
    let bytes = BASE64.decode(text).map_err(|_| BadSession::Form("its policy is not base64url"))?;
    String::from_utf8(bytes).map_err(|_| BadSession::Form("its policy is not UTF-8"))
}
