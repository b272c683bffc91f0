//! What a thief does who has signing keys of ours: everything that needs
//! nothing but those keys.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use ringfence_format::names::Principal;
use ringfence_format::session::{Claims, PublicKey, Purpose, Receipt, SessionToken, Sites};

use super::idp::{now_s, random_bytes};
use crate::cli::Failure;

/// A signing key of ours, stolen.
pub struct StolenKey {
    pair: Ed25519KeyPair,
}

impl StolenKey {
    pub fn new() -> Result<Self, Failure> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Failure::internal("no randomness for a key"))?;
        Ok(Self { pair })
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::Ed25519(self.pair.public_key().as_ref().try_into().expect("Ed25519 keys have 32 bytes"))
    }

    /// A PASETO, perfect in every byte that the key alone decides.
    pub fn sign(&self, claims: &Claims) -> Result<String, Failure> {
        let bad = |e| Failure::internal(format!("the drill cannot write a token: {e}"));
        let message = SessionToken::to_be_signed(claims, &self.public()).map_err(bad)?;
        SessionToken::paseto(claims, &self.public(), self.pair.sign(&message).as_ref()).map_err(bad)
    }
}

/// The claims of a session that nobody issued: like those of an honest one, for
/// another session id and another key.
pub fn forged_like(honest: &Claims, role: &str) -> Claims {
    let now = now_s();
    let session = random_bytes();
    Claims {
        session,
        role: Principal::parse(role).expect("a role of the drill"),
        purpose: Purpose::StsSession,
        issued_s: now,
        from_s: now,
        until_s: now + 900,
        confirmation: format!("ASIA{}", &data_encoding::BASE32_NOPAD.encode(&session)[..16]),
        sites: Sites::new(honest.sites.iter().cloned().collect()).expect("they were sites of a token"),
        ..honest.clone()
    }
}

/// A token with a receipt of the thief's choice stapled to it.
pub fn staple(paseto: &str, receipt: Option<&Receipt>) -> Result<String, Failure> {
    match receipt {
        Some(receipt) => SessionToken::staple(paseto, receipt, None)
            .map_err(|e| Failure::internal(format!("the drill cannot write a token: {e}"))),
        None => Ok(format!("{paseto}~~")),
    }
}
