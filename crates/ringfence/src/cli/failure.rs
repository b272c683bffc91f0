//! How a command can fail: one line, a next step, an exit code.

use crate::config::ConfigError;

/// Whose turn it is; the exit code says so to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// 1: the command looked, and what it looked at is not in order.
    Wrong,
    /// 2: the command was not called rightly, or names nothing that exists.
    Usage,
    /// 3: the configuration or a policy must be mended first.
    Configuration,
    /// 4: not allowed.
    Refused,
    /// 5: cannot be done now; may work later or after the next step.
    Unavailable,
    /// 70: our fault.
    Internal,
}

impl Kind {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Self::Wrong => 1,
            Self::Usage => 2,
            Self::Configuration => 3,
            Self::Refused => 4,
            Self::Unavailable => 5,
            Self::Internal => 70,
        }
    }
}

/// Why a command ended without doing what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Whose turn it is.
    pub kind: Kind,
    /// One line.
    pub message: String,
    /// What to do next, where that is known.
    pub next: Option<String>,
    /// The configuration error it came from, for drawing its place.
    pub drawn: Option<Box<ConfigError>>,
}

impl Failure {
    /// A failure without a next step.
    pub fn new(kind: Kind, message: impl ToString) -> Self {
        Self { kind, message: message.to_string(), next: None, drawn: None }
    }

    /// With a next step.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// Our fault: something that should not happen.
    pub fn internal(message: impl ToString) -> Self {
        Self::new(Kind::Internal, message)
    }
}

impl From<ringfence_log::LogError> for Failure {
    fn from(error: ringfence_log::LogError) -> Self {
        Self::new(Kind::Unavailable, error)
    }
}

/// A change the store did not take.
impl From<ringfence_store::CommitError> for Failure {
    fn from(error: ringfence_store::CommitError) -> Self {
        use ringfence_store::CommitError;
        let kind = match &error {
            CommitError::Conflict(_) => Kind::Usage,
            CommitError::Denied(_) => Kind::Refused,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let mut failure = Self::new(Kind::Configuration, &error);
        failure.next = error.advice().map(str::to_owned);
        failure.drawn = Some(Box::new(error));
        failure
    }
}
