//! What went wrong at a site, by what the caller can do about it.

use std::{io, time::Duration};

use ringfence_format::names::SiteId;

/// An operation at a site did not do what was asked.
///
/// One variant for each thing a caller can do: take another copy, try again,
/// tell the client to come back, ask the operator, distrust the bytes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SiteError {
    /// The site has nothing of that name. Take another copy; for a delete
    /// this is success and is never returned.
    #[error("site `{site}` has no `{name}`: run `ringfence scrub` if it should")]
    NotFound {
        /// Where.
        site: SiteId,
        /// Opaque name of the chunk or head.
        name: String,
    },
    /// Refused for now, after the site's own retries; the same call may
    /// succeed later. A write may have happened all the same.
    #[error("site `{site}` failed for now ({why}): retry, and run `ringfence site check {site}` if it lasts")]
    Retryable {
        /// Where.
        site: SiteId,
        /// In one clause.
        why: String,
    },
    /// It answered that it has too much to do, after its own retries. The same
    /// call may succeed later.
    #[error("site `{site}` has too many requests: retry later")]
    Busy {
        /// Where.
        site: SiteId,
    },
    /// It failed several times in a row and is not asked until a trial of ours
    /// succeeds. Nothing was sent. Take another copy, or place elsewhere.
    #[error("site `{site}` rests after failures ({why}): it is tried again by itself, see `ringfence site list`")]
    Resting {
        /// Where.
        site: SiteId,
        /// What its last failure said.
        why: String,
    },
    /// No space, or over quota. Nothing was written.
    #[error("site `{site}` is full: free space there or place new objects elsewhere, then retry")]
    Full {
        /// Where.
        site: SiteId,
    },
    /// The site will not do this however often it is asked: permission, a
    /// foreign or unmounted directory, a name taken by other bytes.
    #[error("site `{site}` refused ({why}): run `ringfence site check {site}`")]
    Refused {
        /// Where.
        site: SiteId,
        /// In one clause.
        why: String,
    },
    /// What came back is not what was stored: too short, too long, or a
    /// checksum differs. Take another copy and have this one scrubbed.
    #[error("site `{site}` returned a damaged `{name}` ({why}): run `ringfence scrub`")]
    Corrupt {
        /// Where.
        site: SiteId,
        /// Opaque name of the chunk or head.
        name: String,
        /// In one clause.
        why: String,
    },
    /// No answer in time. A write may have happened all the same.
    #[error("site `{site}` did not answer within {after_ms} ms: retry, or raise `timeout_s` of the site")]
    Timeout {
        /// Where.
        site: SiteId,
        /// How long we waited.
        after_ms: u64,
    },
    /// The site's configuration cannot work.
    #[error("site `{site}` is misconfigured ({why}): correct `[site.{site}]` and run `ringfence config check`")]
    Config {
        /// Where.
        site: SiteId,
        /// In one clause.
        why: String,
    },
}

impl SiteError {
    /// Whether the same call may succeed later without anybody's help.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Retryable { .. } | Self::Busy { .. } | Self::Timeout { .. })
    }

    /// Whether a write had better be placed elsewhere for now.
    pub(in crate::site) fn speaks_against_writes(&self) -> bool {
        match self {
            Self::Full { .. } | Self::Retryable { .. } | Self::Config { .. } => true,
            // A taken name says nothing of other names.
            Self::Refused { why, .. } => why != super::probe::NAME_TAKEN,
            _ => false,
        }
    }

    /// In one clause, without the name of the site and the next step.
    pub(in crate::site) fn why(&self) -> String {
        match self {
            Self::Retryable { why, .. }
            | Self::Resting { why, .. }
            | Self::Refused { why, .. }
            | Self::Corrupt { why, .. }
            | Self::Config { why, .. } => why.clone(),
            Self::Timeout { after_ms, .. } => format!("no answer within {after_ms} ms"),
            Self::NotFound { .. } => "not there".to_owned(),
            Self::Busy { .. } => "too many requests".to_owned(),
            Self::Full { .. } => "full".to_owned(),
        }
    }

    /// Whether another copy should be tried: the bytes are not to be had here.
    pub fn wants_another_copy(&self) -> bool {
        !matches!(self, Self::Full { .. })
    }

    /// Whether nothing of that name is there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    pub(in crate::site) fn retryable(site: &SiteId, why: impl ToString) -> Self {
        Self::Retryable { site: site.clone(), why: one_line(why) }
    }
    pub(in crate::site) fn refused(site: &SiteId, why: impl ToString) -> Self {
        Self::Refused { site: site.clone(), why: one_line(why) }
    }
    pub(in crate::site) fn config(site: &SiteId, why: impl ToString) -> Self {
        Self::Config { site: site.clone(), why: one_line(why) }
    }
    pub(in crate::site) fn not_found(site: &SiteId, name: &str) -> Self {
        Self::NotFound { site: site.clone(), name: name.to_owned() }
    }
    pub(in crate::site) fn corrupt(site: &SiteId, name: &str, why: impl ToString) -> Self {
        Self::Corrupt { site: site.clone(), name: name.to_owned(), why: one_line(why) }
    }
    pub(in crate::site) fn timeout(site: &SiteId, after: Duration) -> Self {
        Self::Timeout { site: site.clone(), after_ms: after.as_millis() as u64 }
    }

    /// Sorts an error of the local file system.
    pub(in crate::site) fn from_io(site: &SiteId, name: &str, error: &io::Error) -> Self {
        use io::ErrorKind as K;
        match error.kind() {
            K::NotFound => Self::not_found(site, name),
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => Self::Full { site: site.clone() },
            K::PermissionDenied | K::ReadOnlyFilesystem | K::AlreadyExists => Self::refused(site, error),
            K::UnexpectedEof => Self::corrupt(site, name, "shorter than what was stored"),
            _ => Self::retryable(site, error),
        }
    }
}

/// Remote servers put anything into their messages; ours stay on one line.
fn one_line(why: impl ToString) -> String {
    let text = why.to_string();
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_one_lower_case_line_with_a_next_step() {
        let site = SiteId::parse("aws-1").expect("a name");
        let all = [
            SiteError::not_found(&site, "x"),
            SiteError::retryable(&site, "line one\nline two"),
            SiteError::Full { site: site.clone() },
            SiteError::Busy { site: site.clone() },
            SiteError::Resting { site: site.clone(), why: "no answer".to_owned() },
            SiteError::refused(&site, "no permission"),
            SiteError::corrupt(&site, "x", "too short"),
            SiteError::timeout(&site, Duration::from_secs(3)),
            SiteError::config(&site, "no bucket"),
        ];
        for error in all {
            let text = error.to_string();
            assert!(!text.contains('\n') && text.contains(": "), "{text}");
            assert!(text.starts_with("site `aws-1`"), "{text}");
        }
    }
}
