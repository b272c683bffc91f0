//! Errors as STS words them (AWS STS API reference, "Common errors" and the
//! errors of each operation).

use ringfence_access::evidence::Reason;

/// The code of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StsCode {
    /// Policy, or a role's rules, say no.
    AccessDenied,
    /// The evidence, or the session that signed, is over.
    ExpiredTokenException,
    /// The identity provider cannot be asked for its keys.
    IdpCommunicationError,
    /// The evidence is genuine and a claim of it is not acceptable.
    IdpRejectedClaim,
    /// The signature's parts are missing or malformed.
    IncompleteSignature,
    /// No such operation.
    InvalidAction,
    /// The access key or session token is not valid.
    InvalidClientTokenId,
    /// The evidence is not valid.
    InvalidIdentityToken,
    /// A parameter that cannot be used here.
    InvalidParameterValue,
    /// The session policy cannot be read.
    MalformedPolicyDocument,
    /// The form or query cannot be read.
    MalformedQueryString,
    /// No `Action`.
    MissingAction,
    /// No signature.
    MissingAuthenticationToken,
    /// A parameter is missing.
    MissingParameter,
    /// No such version of the API.
    NoSuchVersion,
    /// The session would be longer than a session may be.
    PackedPolicyTooLarge,
    /// The body is too long.
    RequestEntityTooLarge,
    /// Sessions cannot be issued now.
    ServiceUnavailable,
    /// The signature does not match.
    SignatureDoesNotMatch,
    /// A parameter breaks its rule.
    ValidationError,
}

impl StsCode {
    /// The code as the document has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "AccessDenied",
            Self::ExpiredTokenException => "ExpiredTokenException",
            Self::IdpCommunicationError => "IDPCommunicationError",
            Self::IdpRejectedClaim => "IDPRejectedClaim",
            Self::IncompleteSignature => "IncompleteSignature",
            Self::InvalidAction => "InvalidAction",
            Self::InvalidClientTokenId => "InvalidClientTokenId",
            Self::InvalidIdentityToken => "InvalidIdentityToken",
            Self::InvalidParameterValue => "InvalidParameterValue",
            Self::MalformedPolicyDocument => "MalformedPolicyDocument",
            Self::MalformedQueryString => "MalformedQueryString",
            Self::MissingAction => "MissingAction",
            Self::MissingAuthenticationToken => "MissingAuthenticationToken",
            Self::MissingParameter => "MissingParameter",
            Self::NoSuchVersion => "NoSuchVersion",
            Self::PackedPolicyTooLarge => "PackedPolicyTooLarge",
            Self::RequestEntityTooLarge => "RequestEntityTooLargeException",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::SignatureDoesNotMatch => "SignatureDoesNotMatch",
            Self::ValidationError => "ValidationError",
        }
    }

    /// The HTTP status it is answered with.
    pub fn status(self) -> u16 {
        match self {
            Self::AccessDenied
            | Self::IdpRejectedClaim
            | Self::InvalidClientTokenId
            | Self::MissingAuthenticationToken
            | Self::SignatureDoesNotMatch => 403,
            Self::MalformedQueryString => 404,
            Self::RequestEntityTooLarge => 413,
            Self::ServiceUnavailable => 503,
            _ => 400,
        }
    }

    /// Whose fault it is: `Sender` or `Receiver`.
    pub fn fault(self) -> &'static str {
        if self.status() < 500 { "Sender" } else { "Receiver" }
    }
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsError {
    /// The code.
    pub code: StsCode,
    /// In words that tell no more than the code.
    pub message: String,
    /// A signature was refused for its time.
    pub(super) skewed: bool,
}

impl StsError {
    /// An error in these words.
    pub fn new(code: StsCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), skewed: false }
    }

    pub(super) fn skewed(message: String) -> Self {
        Self { skewed: true, ..Self::new(StsCode::SignatureDoesNotMatch, message) }
    }

    pub(super) fn too_large() -> Self {
        Self::new(StsCode::RequestEntityTooLarge, "the request body is too long or broke off")
    }

    /// What the client learns of evidence that is refused: the code, in words
    /// that tell no more.
    pub fn of_evidence(reason: Reason) -> Self {
        use StsCode::{ExpiredTokenException, IdpCommunicationError, IdpRejectedClaim, ServiceUnavailable};
        match [ExpiredTokenException, IdpCommunicationError, IdpRejectedClaim, ServiceUnavailable]
            .into_iter()
            .find(|code| code.as_str() == reason.answer())
        {
            Some(ExpiredTokenException) => Self::new(ExpiredTokenException, "Token expired."),
            Some(IdpCommunicationError) => {
                Self::new(IdpCommunicationError, "The identity provider cannot be asked for its keys: retry.")
            }
            Some(IdpRejectedClaim) => {
                Self::new(IdpRejectedClaim, "A claim of the web identity token is not acceptable.")
            }
            Some(code) => Self::new(code, "Sessions cannot be issued now: retry."),
            None => Self::new(
                StsCode::InvalidIdentityToken,
                "The web identity token that was passed could not be validated. Get a new identity token from the \
                 identity provider and then retry the request.",
            ),
        }
    }
}
