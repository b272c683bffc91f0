//! `Refused`: a flow's "no", with an outside and an inside.

use ringfence_access::Denial;
use ringfence_db::DbError;
use ringfence_format::record::{Core, Decision, Op, Phase, Record, Resource, Seq, Subject, TimeUs};
use ringfence_log::{Entry, LogError};
use ringfence_store::{CommitError, Conflict, FetchError, NowhereNow, PutError};
use ringfence_vault::VaultError;

/// Why a request gets no data and changes nothing.
#[derive(Debug)]
pub struct Refused {
    /// S3 error code, as in the API reference ("Error responses").
    pub code: &'static str,
    /// For the client: no names of policies, sites or files.
    pub message: String,
    /// For the record and the operator.
    pub reason: String,
    /// What policy said, where it was policy.
    pub denial: Option<Box<Denial>>,
    /// The record it stands on, where it is on record already.
    pub recorded: Option<Seq>,
    /// Headers that belong to the answer: the validators of a 304.
    pub headers: Vec<(&'static str, String)>,
    pub(super) race: bool,
}

impl Refused {
    /// A refusal whose reason may be told.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, reason: message.clone(), message, denial: None, recorded: None, headers: Vec::new(), race: false }
    }

    /// A refusal whose reason stays inside.
    pub fn inside(code: &'static str, message: &str, reason: impl std::fmt::Display) -> Self {
        Self { reason: reason.to_string(), ..Self::new(code, message) }
    }

    /// Policy's refusal: the client learns no more than that.
    pub fn denied(denial: Box<Denial>) -> Self {
        let code = denial.error_code();
        Self { denial: Some(denial), ..Self::new(code, "Access Denied") }
    }

    /// Whether it was lost to another change, so that trying again may do.
    pub(super) fn is_race(&self) -> bool {
        self.race
    }

    fn unavailable(reason: impl std::fmt::Display) -> Self {
        Self::inside("ServiceUnavailable", "the request cannot be served now: retry", reason)
    }

    fn ours(reason: impl std::fmt::Display) -> Self {
        Self::inside("InternalError", "an error on our side: the operator can look it up by the request id", reason)
    }
}

impl From<LogError> for Refused {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Busy(_) => Self::inside("SlowDown", "too many requests wait: retry later", error),
            LogError::TooLarge(_) => Self::inside("InvalidRequest", "the request names too much at once", error),
            error => Self::unavailable(error),
        }
    }
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Busy => {
                Self::inside("SlowDown", "too many requests wait: retry later", "the commit queue is full")
            }
            CommitError::Denied(denial) => Self::denied(denial),
            CommitError::Conflict(conflict) => conflict.into(),
            CommitError::Log(error) => error.into(),
            error => Self::unavailable(error),
        }
    }
}

impl From<Conflict> for Refused {
    fn from(conflict: Conflict) -> Self {
        let code = match &conflict {
            Conflict::NoSuchBucket => "NoSuchBucket",
            Conflict::BucketExists { .. } => "BucketAlreadyExists",
            Conflict::BucketNotEmpty => "BucketNotEmpty",
            Conflict::TooManyBuckets => "TooManyBuckets",
            Conflict::NoSuchKey => "NoSuchKey",
            Conflict::Precondition => "PreconditionFailed",
            Conflict::NoSuchUpload => "NoSuchUpload",
            Conflict::InvalidPart(_) => "InvalidPart",
            Conflict::PolicyChanged | Conflict::Stale => "ServiceUnavailable",
            Conflict::SourceChanged | Conflict::Changed | Conflict::AlreadyComplete(_) => "ConditionalRequestConflict",
            Conflict::Locked => "AccessDenied",
            _ => return Self::ours(conflict),
        };
        let message = match &conflict {
            Conflict::BucketExists { .. } => "the bucket name is taken".to_owned(),
            other => other.to_string(),
        };
        let race = matches!(conflict, Conflict::SourceChanged | Conflict::Changed | Conflict::PolicyChanged);
        Self { race, ..Self::inside(code, &message, conflict) }
    }
}

impl From<PutError> for Refused {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Announce(error) => error.into(),
            PutError::Site(_) | PutError::NoSuchSite(_) => Self::unavailable(error),
            error => Self::ours(error),
        }
    }
}

impl From<NowhereNow> for Refused {
    fn from(error: NowhereNow) -> Self {
        let message = "no place that policy allows for this object can be reached now: retry";
        Self::inside("ServiceUnavailable", message, error)
    }
}

impl From<FetchError> for Refused {
    fn from(error: FetchError) -> Self {
        Self::unavailable(error)
    }
}

impl From<DbError> for Refused {
    fn from(error: DbError) -> Self {
        Self::unavailable(error)
    }
}

impl From<VaultError> for Refused {
    fn from(error: VaultError) -> Self {
        Self::ours(error)
    }
}

/// INVARIANT 8 — an error that is about to be answered and is not on record
/// yet: malformed, absent, precondition failed, unavailable.
#[derive(Debug)]
pub struct Unrecorded {
    /// Who asked.
    pub subject: Subject,
    /// For what.
    pub op: &'static str,
    /// On what.
    pub resource: Resource,
    /// HTTP status of the answer.
    pub status: u16,
    /// S3 error code of the answer.
    pub code: String,
    /// Why, precisely.
    pub reason: String,
    /// The grant it falls short of, where there was one.
    pub of: Option<Seq>,
}

impl Entry for Unrecorded {
    fn to_record(&self, now_us: TimeUs) -> Record {
        Record {
            core: Core {
                time_us: now_us,
                op: Op(self.op.to_owned()),
                phase: if self.of.is_some() { Phase::Outcome } else { Phase::Intent },
                decision: Decision::Error,
                status: self.status,
                error_code: Some(self.code.clone()),
                reason: Some(self.reason.clone()),
                of: self.of,
                ..Core::default()
            },
            subject: self.subject.clone(),
            resource: self.resource.clone(),
            redo: None,
            public: None,
        }
    }
}
