//! Why evidence is not accepted: precise for the record, neutral for the client.

use std::fmt;

/// Why an identity provider's token is refused. For the record
/// (`authn_reason`); the client learns [`Reason::answer`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Longer than [`TOKEN_BYTES_MAX`](super::TOKEN_BYTES_MAX).
    TooLong,
    /// A session token of ours: never evidence, so that no session renews itself.
    OwnSession,
    /// Not three parts, not base64url without padding, not strict JSON.
    Malformed,
    /// No issuer entry has this `iss`, or it is no string.
    UnknownIssuer,
    /// `alg` is not one of the issuer's.
    Algorithm,
    /// `typ` is not the issuer's.
    Type,
    /// `crit` is there: something that must be understood and is not.
    Critical,
    /// `jku`, `jwk`, `x5u`, `x5c`, `b64`, `zip` or `cty` is there.
    ForbiddenHeader,
    /// `kid` is no string of 1 to 256 bytes.
    KeyIdMalformed,
    /// The issuer has no key of this `kid`.
    UnknownKey,
    /// No `kid`, and not exactly one key that fits.
    AmbiguousKey,
    /// The key is not for this algorithm or this use.
    KeyUnfit,
    /// An RSA key of fewer than 2,048 bits or with a small exponent.
    KeyWeak,
    /// The key is also served by an issuer of another realm or tenant, and not pinned.
    KeyShared,
    /// The signature does not match.
    Signature,
    /// `aud` is missing, another, or more than one.
    Audience,
    /// `azp` is not us.
    AuthorizedParty,
    /// `sub` is missing, empty, longer than 255 bytes, or no printable text.
    Subject,
    /// `exp` is missing or no integer of seconds.
    ExpiryMalformed,
    /// `iat` is missing or no integer of seconds.
    IssuedAtMalformed,
    /// `nbf` is no integer of seconds.
    NotBeforeMalformed,
    /// `jti` is no string of 1 to 255 bytes.
    IdMalformed,
    /// It is over.
    Expired,
    /// `nbf` is in the future.
    NotYet,
    /// `iat` is in the future.
    FromTheFuture,
    /// `exp − iat` is longer than the issuer may give, or not positive.
    TooLongLived,
    /// The issuer's keys cannot be had, or are older than they may be.
    Unreachable,
    /// The issuer's documents are not acceptable.
    BadDocuments,
    /// A change of the issuer's keys could not be recorded.
    NotRecorded,
}

impl Reason {
    /// The STS error code for the client.
    pub fn answer(self) -> &'static str {
        match self {
            Self::Expired => "ExpiredTokenException",
            Self::Unreachable | Self::BadDocuments => "IDPCommunicationError",
            Self::NotRecorded => "ServiceUnavailable",
            Self::TooLongLived | Self::FromTheFuture | Self::NotYet => "IDPRejectedClaim",
            _ => "InvalidIdentityToken",
        }
    }

    /// Every reason, for tests that must not forget one.
    pub const ALL: [Self; 29] = [
        Self::TooLong,
        Self::OwnSession,
        Self::Malformed,
        Self::UnknownIssuer,
        Self::Algorithm,
        Self::Type,
        Self::Critical,
        Self::ForbiddenHeader,
        Self::KeyIdMalformed,
        Self::UnknownKey,
        Self::AmbiguousKey,
        Self::KeyUnfit,
        Self::KeyWeak,
        Self::KeyShared,
        Self::Signature,
        Self::Audience,
        Self::AuthorizedParty,
        Self::Subject,
        Self::ExpiryMalformed,
        Self::IssuedAtMalformed,
        Self::NotBeforeMalformed,
        Self::IdMalformed,
        Self::Expired,
        Self::NotYet,
        Self::FromTheFuture,
        Self::TooLongLived,
        Self::Unreachable,
        Self::BadDocuments,
        Self::NotRecorded,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the token is too long",
            Self::OwnSession => "a session of ours is no evidence",
            Self::Malformed => "the token is malformed",
            Self::UnknownIssuer => "no issuer entry has this `iss`",
            Self::Algorithm => "`alg` is not one of the issuer's",
            Self::Type => "`typ` is not the issuer's",
            Self::Critical => "`crit` is not understood",
            Self::ForbiddenHeader => "the header brings a key or an encoding of its own",
            Self::KeyIdMalformed => "`kid` is malformed",
            Self::UnknownKey => "the issuer has no key of this `kid`",
            Self::AmbiguousKey => "no `kid`, and not exactly one key fits",
            Self::KeyUnfit => "the key is not for this algorithm or use",
            Self::KeyWeak => "the key is too weak",
            Self::KeyShared => "the key is served in another scope too and not pinned",
            Self::Signature => "the token's signature does not match",
            Self::Audience => "`aud` is not us alone",
            Self::AuthorizedParty => "`azp` is not us",
            Self::Subject => "`sub` is missing or malformed",
            Self::ExpiryMalformed => "`exp` is missing or malformed",
            Self::IssuedAtMalformed => "`iat` is missing or malformed",
            Self::NotBeforeMalformed => "`nbf` is malformed",
            Self::IdMalformed => "`jti` is malformed",
            Self::Expired => "the token is over",
            Self::NotYet => "`nbf` is in the future",
            Self::FromTheFuture => "`iat` is in the future",
            Self::TooLongLived => "the token lives longer than its issuer may give",
            Self::Unreachable => "the issuer's keys cannot be had",
            Self::BadDocuments => "the issuer's documents are not acceptable",
            Self::NotRecorded => "a change of the issuer's keys could not be recorded",
        })
    }
}
