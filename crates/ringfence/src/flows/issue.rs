//! Sessions: what is exchanged for what, on record before it is released.

use std::sync::Arc;

use ringfence_access::caller::Origin;

use crate::installation::Installation;
use crate::sts::{AssumeRole, Claimed, Identity, Issued, Refusal, StsError, WithWebIdentity};

/// Exchanges an identity provider's token for a session.
///
/// # Errors
/// What the client is told, and why.
pub async fn with_web_identity(
    _at: &Arc<Installation>,
    _ask: WithWebIdentity,
    _origin: &Origin,
) -> Result<Issued, Refusal> {
    Err(StsError::not_configured().into())
}

/// Exchanges a session, or a static key, for a session that may do less.
///
/// # Errors
/// What the client is told, and why.
pub async fn assume_role(
    _at: &Arc<Installation>,
    _ask: AssumeRole,
    _claimed: Claimed,
    _origin: &Origin,
) -> Result<Issued, Refusal> {
    Err(StsError::not_configured().into())
}

/// Who signed.
///
/// # Errors
/// What the client is told, and why.
pub async fn caller_identity(
    _at: &Arc<Installation>,
    _claimed: Claimed,
    _origin: &Origin,
) -> Result<Identity, Refusal> {
    Err(StsError::not_configured().into())
}
