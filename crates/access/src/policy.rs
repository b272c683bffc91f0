//! Policies: parsed, validated, put into force, asked.
//!
//! - [`PolicySet::load`] makes a set from texts, or says with file and line
//!   why not; a set that does not validate is never in force.
//! - [`Engine`] holds the set in force and its epoch, and answers
//!   [`decide`](Engine::decide), [`place`](Engine::place) and
//!   [`explain`](Engine::explain).
//! - [`cases::run_cases`] tests a set against a file of expectations.
//!
//! Only this module makes a [`Permit`](crate::Permit), a
//! [`Placement`](crate::Placement) or a [`Denial`](crate::Denial).

pub mod cases;
mod change;
mod engine;
mod error;
mod explain;
mod memo;
mod set;
mod vocabulary;
mod world;

pub use change::{Announces, PolicyChange, Superseded};
pub use engine::Engine;
pub use error::{PolicyError, PolicyErrors};
pub use explain::{AccessExplanation, PlaceExplanation, PolicyInfo, SiteVerdict};
pub use set::{PolicySet, PolicyText};
pub use vocabulary::S3_OPS;

/// What policies can talk about, in Cedar's schema language.
pub const SCHEMA: &str = include_str!("policy/schema.cedarschema");

/// The policies an installation starts with.
pub const DEFAULT_POLICIES: &str = include_str!("../policies/default.cedar");

/// What the default policies must and must not allow, for `ringfence policy test`.
pub const DEFAULT_CASES: &str = include_str!("../policies/default.cases.toml");

/// Every action of the schema: the kinds of [`Permit`](crate::Permit), and `Place`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // as in crate::permit
pub enum Act {
    Read,
    Write,
    Delete,
    List,
    LowerLabel,
    Administer,
    Issue,
    Place,
}

impl Act {
    /// All of them, in the order of the schema.
    pub const ALL: [Self; 8] = [
        Self::Read,
        Self::Write,
        Self::Delete,
        Self::List,
        Self::LowerLabel,
        Self::Administer,
        Self::Issue,
        Self::Place,
    ];

    /// Its name in policies.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Delete => "Delete",
            Self::List => "List",
            Self::LowerLabel => "LowerLabel",
            Self::Administer => "Administer",
            Self::Issue => "Issue",
            Self::Place => "Place",
        }
    }

    /// The action of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|act| act.as_str() == name)
    }
}

#[cfg(test)]
mod tests;
