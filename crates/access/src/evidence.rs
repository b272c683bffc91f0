//! Evidence: an identity provider's token, and whether it may be exchanged.
//!
//! [`Issuers::verify`] is the one function that turns a token into
//! [`VerifiedEvidence`]. A key is looked up inside the keys of the one issuer
//! that the token's `iss` names exactly, never by `kid` alone; one issuer
//! reaches one realm and one tenant. This module does no I/O: documents are
//! fetched through [`Surroundings`], which also puts changes of keys on record
//! before they take effect.

mod algorithm;
mod issuer;
mod issuers;
mod jwks;
mod reason;
mod token;

pub use algorithm::Algorithm;
pub use issuer::{BadIssuer, IssuerEntry, TOKEN_AGE_S_MAX, check};
pub use issuers::{DOCUMENT_BYTES_MAX, Issuers, KeyChange, NotFetched, NotRecorded, Pending, Refused, Surroundings};
pub(crate) use jwks::Jwk;
pub use jwks::{BadJwks, JWKS_BYTES_MAX, JWKS_KEYS_MAX, Jwks};
pub use reason::Reason;
pub use token::{CLOCK_AHEAD_S_MAX, ClaimValue, SUBJECT_BYTES_MAX, TOKEN_BYTES_MAX, VerifiedEvidence};

#[cfg(test)]
pub(crate) mod tests;
