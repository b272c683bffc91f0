//! Evidence keys by tenant and month, so that destroying one erases that month
//! of that tenant for good, in every copy of the log there ever was.
//!
//! A row's version says which month its key is for: year, month and how often
//! that month's key was replaced, as the decimal digits `YYYYMMnnnn`. Versions
//! below 10,000 are no month's: a tenant's own key, which seals redos and
//! whatever no month's key was made for in time.
//!
//! Keys are made a year ahead, so that a backup of the keyring opens what is
//! recorded in the year after it.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_access::Permit;
use ringfence_access::permit::Administer;
use ringfence_format::names::Tenant;
use ringfence_format::record::TimeUs;
use ringfence_log::Recorded;

use crate::error::VaultError;
use crate::keyring::{Keyring, Purpose, Row};
use crate::secret::random_key;
use crate::vault::Vault;

/// A month of the calendar, UTC; as a number `YYYYMM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(u32);

const PER_MONTH: u32 = 10_000;
const AHEAD: u32 = 12;

impl Month {
    /// Of keys that are no month's.
    pub(super) const NONE: Month = Month(0);

    /// The month of a time.
    pub fn of(time_us: TimeUs) -> Self {
        // Days to a date, after H. Hinnant's `civil_from_days`: years begin in
        // March, so that the day that comes and goes is the last one.
        let days = time_us / (24 * 3600 * 1_000_000) + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
        let march_based = (5 * day_of_year + 2) / 153;
        let (month, carry) = if march_based < 10 { (march_based + 3, 0) } else { (march_based - 9, 1) };
        let number = (year + era * 400 + carry) * 100 + month;
        // A clock that is 400,000 years off gets no month's key.
        Self(u32::try_from(number).ok().filter(|n| *n < u32::MAX / PER_MONTH - 100).unwrap_or(0))
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(if self.0 % 100 == 12 { self.0 + 89 } else { self.0 + 1 })
    }

    pub(super) fn of_version(version: u32) -> Self {
        Self(version / PER_MONTH)
    }

    pub(super) fn last_version(self) -> u32 {
        self.0 * PER_MONTH + (PER_MONTH - 1)
    }

    fn first_version(self) -> u32 {
        self.0 * PER_MONTH + 1
    }
}

impl std::fmt::Display for Month {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}-{:02}", self.0 / 100, self.0 % 100)
    }
}

/// One evidence key of a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceMonth {
    /// As records name it.
    pub id: [u8; 8],
    /// Whose; nothing for the control plane.
    pub tenant: Option<Tenant>,
    /// The month.
    pub month: Month,
    /// Whether another key of the same month follows it: nothing new is sealed
    /// under it.
    pub followed: bool,
}

impl Vault {
    /// Makes the keys of this month and of the twelve after it, for every
    /// tenant and the control plane, where they are missing. Says how many
    /// were made: a backup of the keyring made before lacks them.
    pub fn prepare_evidence(&self, now_us: TimeUs) -> Result<usize, VaultError> {
        let mut rings = self.rings_mut();
        let mut made = prepare(&mut rings.installation, now_us)?;
        for ring in rings.realms.values_mut() {
            made += prepare(ring, now_us)?;
        }
        if made > 0 {
            self.evidence().reload(&rings)?;
        }
        Ok(made)
    }

    /// The evidence keys of months.
    pub fn evidence_months(&self) -> Vec<EvidenceMonth> {
        let rings = self.rings();
        let all = std::iter::once(&rings.installation).chain(rings.realms.values());
        all.flat_map(months_of).collect()
    }

    /// Makes a key that follows each of these, in the same month of the same
    /// tenant: from now on it seals in their place, and what is to outlive
    /// them is sealed under it. One that is followed already is left so.
    pub fn follow_evidence(
        &self,
        _because: &Recorded<Permit<Administer>>,
        ids: &BTreeSet<[u8; 8]>,
    ) -> Result<usize, VaultError> {
        self.follow(ids)
    }

    pub(crate) fn follow(&self, ids: &BTreeSet<[u8; 8]>) -> Result<usize, VaultError> {
        let mut rings = self.rings_mut();
        let mut made = follow(&mut rings.installation, ids)?;
        for ring in rings.realms.values_mut() {
            made += follow(ring, ids)?;
        }
        self.evidence().reload(&rings)?;
        Ok(made)
    }

    /// Destroys evidence keys of months. What is still sealed under them can
    /// be read by nobody afterwards; the log verifies all the same. A tenant's
    /// own key is not destroyed by this, whatever the ids say.
    pub fn destroy_evidence(
        &self,
        _because: &Recorded<Permit<Administer>>,
        ids: &BTreeSet<[u8; 8]>,
    ) -> Result<usize, VaultError> {
        self.destroy(ids)
    }

    pub(crate) fn destroy(&self, ids: &BTreeSet<[u8; 8]>) -> Result<usize, VaultError> {
        let mut rings = self.rings_mut();
        let mut gone = destroy(&mut rings.installation, ids)?;
        for ring in rings.realms.values_mut() {
            gone += destroy(ring, ids)?;
        }
        self.evidence().reload(&rings)?;
        Ok(gone)
    }
}

fn is_month(row: &Row) -> bool {
    row.purpose == Purpose::Evidence && row.version >= PER_MONTH
}

fn id(row: &Row) -> [u8; 8] {
    *row.id.first_chunk().expect("a row's id has 16 bytes")
}

fn months_of(ring: &Keyring) -> Vec<EvidenceMonth> {
    let rows: Vec<&Row> = ring.all().iter().filter(|row| is_month(row)).collect();
    let mut newest: BTreeMap<(Option<&Tenant>, Month), u32> = BTreeMap::new();
    for row in &rows {
        let last = newest.entry((row.tenant.as_ref(), Month::of_version(row.version))).or_default();
        *last = row.version.max(*last);
    }
    let month = |row: &&Row| {
        let month = Month::of_version(row.version);
        let followed = newest[&(row.tenant.as_ref(), month)] > row.version;
        EvidenceMonth { id: id(row), tenant: row.tenant.clone(), month, followed }
    };
    rows.iter().map(month).collect()
}

/// Rows for the months of one keyring that have none, in one write.
fn prepare(ring: &mut Keyring, now_us: TimeUs) -> Result<usize, VaultError> {
    let mut rows = Vec::new();
    let own = ring.all().iter().filter(|row| row.purpose == Purpose::Evidence && row.version < PER_MONTH);
    let owners: BTreeSet<Option<Tenant>> = own.map(|row| row.tenant.clone()).collect();
    for owner in owners {
        let there: BTreeSet<Month> =
            ring.rows(Purpose::Evidence, owner.as_ref()).map(|row| Month::of_version(row.version)).collect();
        let months =
            std::iter::successors(Some(Month::of(now_us)), |month| Some(month.next())).take(AHEAD as usize + 1);
        for month in months.filter(|month| *month != Month::NONE && !there.contains(month)) {
            rows.push(ring.new_row(Purpose::Evidence, owner.as_ref(), month.first_version(), None, &random_key()?)?);
        }
    }
    let made = rows.len();
    if made > 0 {
        ring.change(|all| all.extend(rows))?;
    }
    Ok(made)
}

fn follow(ring: &mut Keyring, ids: &BTreeSet<[u8; 8]>) -> Result<usize, VaultError> {
    let due: Vec<EvidenceMonth> =
        months_of(ring).into_iter().filter(|key| ids.contains(&key.id) && !key.followed).collect();
    let mut rows = Vec::new();
    for key in due {
        let old = ring.all().iter().find(|row| is_month(row) && id(row) == key.id).expect("it was listed");
        let version = old.version + 1;
        if version > key.month.last_version() {
            return Err(VaultError::MonthUsedUp { month: key.month.to_string() });
        }
        rows.push(ring.new_row(Purpose::Evidence, key.tenant.as_ref(), version, None, &random_key()?)?);
    }
    let made = rows.len();
    if made > 0 {
        ring.change(|all| all.extend(rows))?;
    }
    Ok(made)
}

fn destroy(ring: &mut Keyring, ids: &BTreeSet<[u8; 8]>) -> Result<usize, VaultError> {
    let dies = |row: &Row| is_month(row) && ids.contains(&id(row));
    let gone = ring.all().iter().filter(|row| dies(row)).count();
    if gone > 0 {
        ring.change(|rows| rows.retain(|row| !dies(row)))?;
    }
    Ok(gone)
}
