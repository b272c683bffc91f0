//! Admission: what was issued is looked at a second time, under another key's
//! name, before its leaf may stand in the log.

use ringfence_format::names::Tenant;
use ringfence_format::session::IssuanceDraft;

/// Evidence that an issuance was admitted: the vault signs nothing else with
/// an admission key. Only this module's own checks should implement it.
pub trait Admits {
    /// What was admitted.
    fn draft(&self) -> &IssuanceDraft;
    /// For whom; the draft names only a pseudonym.
    fn tenant(&self) -> &Tenant;
}
