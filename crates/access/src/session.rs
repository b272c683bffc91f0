//! A session as the request path sees it: a token that was verified, and what
//! its role and its session policy leave of its rights.

use std::sync::Arc;

use ringfence_format::names::{Label, Principal};
use ringfence_format::session::{Claims, Verified};

/// A verified session, ready to be authenticated for a request. Made of a
/// [`Verified`] token only.
#[derive(Debug)]
pub struct Session {
    verified: Verified,
    rights: Rights,
    subject: Option<String>,
}

/// What a role and a session policy leave: never more than policies allow.
#[derive(Clone, Debug)]
pub struct Rights {
    /// Nothing with a stricter label is reached.
    pub ceiling: Label,
}

impl Session {
    /// Of a verified token and the rights its role has now.
    pub fn new(verified: Verified, rights: Rights) -> Arc<Self> {
        Arc::new(Self { verified, rights, subject: None })
    }

    /// The token's claims.
    pub fn claims(&self) -> &Claims {
        self.verified.claims()
    }
    /// The token, as it was verified.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }
    /// Its role.
    pub fn role(&self) -> &Principal {
        &self.claims().role
    }
    /// What it may reach at most.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }
    /// Who the identity provider said it is, where that is known here.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }
}
