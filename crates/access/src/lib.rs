//! Who may do what, and where data may live.
//!
//! Three questions, each answered by evidence that cannot be had otherwise:
//!
//! | question | asked of | evidence |
//! |---|---|---|
//! | who is this? | [`caller::authenticate`] | [`Caller`] |
//! | may they do this? | [`policy::Engine::decide`] | [`Permit`] or [`Denial`] |
//! | where may it lie? | [`policy::Engine::place`] | [`Placement`] or [`Denial`] |
//!
//! Policies are Cedar texts, validated against [`policy::SCHEMA`]; nothing is
//! allowed that no policy permits. This crate does no I/O: texts, keys and
//! time come in as arguments.

pub mod admission;
pub mod ask;
pub mod authority;
pub mod caller;
pub mod dpop;
pub mod evidence;
pub mod keys;
pub mod labels;
pub mod manifests;
pub mod narrowing;
pub mod noise;
pub mod permit;
pub mod placement;
pub mod policy;
pub mod roles;
pub mod session;
pub mod setting;
mod strict;

pub use ask::Ask;
pub use authority::Authority;
pub use caller::Caller;
pub use evidence::{Issuers, VerifiedEvidence};
pub use keys::Keys;
pub use labels::{LABEL_TAG, LabelRules, Labels};
pub use narrowing::Narrowing;
pub use permit::{Action, Denial, Permit};
pub use placement::Placement;
pub use policy::{Engine, PolicySet};
pub use roles::Roles;
pub use session::{Rights, Session};
pub use setting::{PlacementRule, Setting, SiteFacts, SiteKind};
