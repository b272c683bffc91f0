//! Retention: after its time a record's fields go, its commitments stay.
//!
//! Access records and control-plane records have times of their own (ruling
//! 16). What a record changed goes with it only where nothing of that is left
//! and the catalogue's file, synced, is beyond it: a start need not replay it
//! and a recovery does not miss it. Once nothing that is kept lies under a
//! month's key any more, the key is destroyed; the few control-plane records
//! that outlive a tenant's month are sealed under another key for that.
//!
//! Recorded first, then done. A crash leaves records that are not trimmed yet:
//! the next round finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::leaf::RedoFate;
use ringfence_format::record::{ActorKind, Op, Seq, TimeUs};
use ringfence_log::{Changed, Cut, Fate, Log, LogError, OpenError, Place, Recorded};
use ringfence_store::{Retain, Store};
use ringfence_vault::{Month, Vault};

use crate::cli::{Failure, Kind};
use crate::installation::{Installation, cannot};

const DAY_US: u64 = 24 * 3600 * 1_000_000;

/// Records before these times are trimmed. 0: none are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What clients did, and were refused.
    pub access_before_us: TimeUs,
    /// What the operator and Ringfence itself did.
    pub control_before_us: TimeUs,
}

impl Schedule {
    /// What the configuration says, now.
    pub fn of(installation: &Installation) -> Self {
        let now_us = installation.clock().now_us();
        let log = &installation.config().log;
        let before = |days: u32| if days == 0 { 0 } else { now_us.saturating_sub(u64::from(days) * DAY_US) };
        Self { access_before_us: before(log.keep_access_days), control_before_us: before(log.keep_control_days) }
    }

    /// In the words of the record.
    pub fn describe(&self) -> String {
        let before = |us| if us == 0 { "none".to_owned() } else { format!("those before {}", time(us)) };
        let (access, control) = (before(self.access_before_us), before(self.control_before_us));
        format!("access records: {access}; control-plane records: {control}")
    }

    fn before(&self, class: Class) -> TimeUs {
        match class {
            Class::Access => self.access_before_us,
            Class::Control => self.control_before_us,
        }
    }

    fn latest(&self) -> TimeUs {
        self.access_before_us.max(self.control_before_us)
    }
}

/// Which time counts for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What clients did, and were refused.
    Access,
    /// What the operator and Ringfence itself did.
    Control,
}

/// The class of a record by who acted and how.
pub fn class(actor: ActorKind, op: &Op) -> Class {
    match actor {
        ActorKind::Operator | ActorKind::System if !op.0.starts_with("s3:") => Class::Control,
        _ => Class::Access,
    }
}

/// What a round did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Trimmed {
    /// Of the log's records.
    #[serde(flatten)]
    pub cut: Cut,
    /// Month keys that nothing needed any more.
    pub keys_destroyed: usize,
}

/// What retention works with, for a thread that may block.
#[derive(Clone)]
pub struct Trimmer {
    log: Arc<Log>,
    store: Arc<Store>,
    vault: Arc<Vault>,
    schedule: Schedule,
}

impl Trimmer {
    /// By this schedule.
    pub fn new(installation: &Installation, schedule: Schedule) -> Self {
        let (log, store) = (installation.log().clone(), installation.store().clone());
        Self { log, store, vault: installation.vault().clone(), schedule }
    }

    /// What a round would do to records, and how many keys may be destroyed
    /// after it. Nothing is changed.
    ///
    /// # Errors
    /// The log or the catalogue cannot be read.
    pub async fn look(&self) -> Result<(Cut, usize), Failure> {
        let before = self.store.settle().await.map_err(|e| cannot("read the catalogue", e))?;
        let this = self.clone();
        blocking(move || {
            let mut round = Round::new(&this, before)?;
            let cut = this.log.look(before, |place| round.judge(place))?;
            let (moved, unused) = this.keys_due(&round.usage);
            Ok((cut, moved.len() + unused.len()))
        })
        .await
    }

    /// Trims what is due, in the name of the record that says so.
    ///
    /// # Errors
    /// What is in the way; what was trimmed until then stays so.
    pub async fn trim(&self, because: Recorded<Permit<Administer>>) -> Result<Trimmed, Failure> {
        let before = self.store.sync_catalogue().await.map_err(|e| cannot("sync the catalogue", e))?;
        let this = self.clone();
        blocking(move || this.trim_before(&because, before)).await
    }

    fn trim_before(&self, because: &Recorded<Permit<Administer>>, before: Seq) -> Result<Trimmed, Failure> {
        let mut first = Round::new(self, before)?;
        let due = self.log.look(before, |place| first.judge(place))?;
        let mut round = Round::new(self, before)?;
        let mut cut = self.log.cut(because, before, |place| round.judge(place))?;
        if cut.trimmed + cut.redos < due.trimmed + due.redos {
            // The rest is in the segment in use.
            self.log.seal_segment()?;
            round = Round::new(self, before)?;
            cut.join(&self.log.cut(because, before, |place| round.judge(place))?);
        }
        let keys_destroyed = self.retire_keys(because, &round.usage)?;
        Ok(Trimmed { cut, keys_destroyed })
    }

    /// Destroys the keys of months that are over and have nothing left under
    /// them. Records that are kept longer than their month's access records
    /// are sealed under a key that follows.
    fn retire_keys(&self, because: &Recorded<Permit<Administer>>, usage: &Usage) -> Result<usize, Failure> {
        let keys = |e| cannot("change the keyring", e);
        let (moved, mut unused) = self.keys_due(usage);
        if !moved.is_empty() {
            self.vault.follow_evidence(because, &moved).map_err(keys)?;
            let _resealed: Cut = self.log.cut(because, because.index(), |place| {
                let fate = if moved.contains(&place.sealed.key_id) { Fate::Reseal } else { Fate::Stay };
                Ok::<_, LogError>(fate)
            })?;
        }
        unused.extend(moved);
        if unused.is_empty() {
            return Ok(0);
        }
        let in_use = self.log.keys_in_use()?;
        unused.retain(|id| !in_use.contains(id));
        self.vault.destroy_evidence(because, &unused).map_err(keys)
    }
}

impl Trimmer {
    /// Keys of months whose access records are all over: those whose few other
    /// records are to be sealed under a key that follows, and those without any.
    fn keys_due(&self, usage: &Usage) -> (BTreeSet<[u8; 8]>, BTreeSet<[u8; 8]>) {
        let access_ended = Month::of(self.schedule.access_before_us);
        let control_began = Month::of(self.schedule.control_before_us);
        let (mut moved, mut unused) = (BTreeSet::new(), BTreeSet::new());
        for key in self.vault.evidence_months().into_iter().filter(|key| key.month < access_ended) {
            match usage.get(&key.id) {
                Some(used) if used.kept > 0 => {
                    // Once control-plane records of the month go too, day by
                    // day, the rest is waited for.
                    if used.trimmed > 0 && key.month > control_began {
                        moved.insert(key.id);
                    }
                }
                _ => drop(unused.insert(key.id)),
            }
        }
        (moved, unused)
    }
}

/// How many records lie under each key: kept whole, and trimmed.
type Usage = BTreeMap<[u8; 8], Used>;

#[derive(Default)]
struct Used {
    kept: u64,
    trimmed: u64,
}

/// One walk over the log.
struct Round<'a> {
    schedule: Schedule,
    retain: Retain<'a>,
    /// Changes before this one are in the catalogue for good.
    synced: Seq,
    usage: Usage,
}

impl<'a> Round<'a> {
    fn new(trimmer: &'a Trimmer, synced: Seq) -> Result<Self, Failure> {
        let retain = Retain::new(trimmer.store.catalog()).map_err(|e| cannot("read the catalogue", e))?;
        Ok(Self { schedule: trimmer.schedule, retain, synced, usage: Usage::new() })
    }

    fn judge(&mut self, place: &Place<'_>) -> Result<Fate, Failure> {
        let (time_us, class) = match place.record() {
            Ok(record) => (record.core.time_us, class(record.subject.actor, &record.core.op)),
            Err(OpenError::Trimmed { .. }) => return self.again(place),
            // Only access records are erased.
            Err(OpenError::Erased { .. }) => (place.core()?.time_us, Class::Access),
            Err(OpenError::NoKey) => return self.stays(place),
            Err(damaged @ OpenError::Corrupt(_)) => {
                return Err(LogError::Unreadable { seq: place.seq, why: damaged }.into());
            }
        };
        if time_us >= self.schedule.latest() {
            return Ok(Fate::StayFromHere);
        }
        if time_us >= self.schedule.before(class) {
            return self.stays(place);
        }
        self.usage.entry(place.sealed.key_id).or_default().trimmed += 1;
        Ok(Fate::Trim(self.redo(place)?))
    }

    /// A record without fields: what it changed may be over by now.
    fn again(&mut self, place: &Place<'_>) -> Result<Fate, Failure> {
        self.usage.entry(place.sealed.key_id).or_default().trimmed += 1;
        Ok(Fate::Trim(self.redo(place)?))
    }

    fn redo(&mut self, place: &Place<'_>) -> Result<RedoFate, Failure> {
        let Ok(change) = place.change() else {
            self.retain.stays_unread();
            return Ok(RedoFate::Stays);
        };
        let Changed::By(redo) = change.redo else { return Ok(RedoFate::Stays) };
        let stays = place.seq >= self.synced || self.retain.must_stay(&redo).map_err(|e| cannot("read", e))?;
        if stays {
            self.retain.stays(&redo).map_err(|e| cannot("read the catalogue", e))?;
        }
        Ok(if stays { RedoFate::Stays } else { RedoFate::Goes })
    }

    fn stays(&mut self, place: &Place<'_>) -> Result<Fate, Failure> {
        self.usage.entry(place.sealed.key_id).or_default().kept += 1;
        match place.change() {
            Ok(change) => {
                if let Changed::By(redo) = change.redo {
                    self.retain.stays(&redo).map_err(|e| cannot("read the catalogue", e))?;
                }
            }
            Err(_) => self.retain.stays_unread(),
        }
        Ok(Fate::Stay)
    }
}

/// A round that Ringfence makes by itself: nothing is recorded where nothing
/// is due.
///
/// # Errors
/// What is in the way; the next round tries again.
pub async fn round(installation: &Installation) -> Result<(), Failure> {
    renew_keys(installation)?;
    let schedule = Schedule::of(installation);
    let trimmer = Trimmer::new(installation, schedule);
    let (due, keys_due) = trimmer.look().await?;
    if due.is_empty() && keys_due == 0 {
        return Ok(());
    }
    let ask = Ask::on_installation("system:LogTrim").record(|resource| {
        resource.detail = Some(schedule.describe());
        resource.count = Some(due.trimmed);
    });
    let permit = installation.system_permit("log-trim", ask).await?;
    let because = installation.log().record(permit).await.map_err(|e| cannot("record", e))?;
    let by = because.index();
    let done = trimmer.trim(because).await?;
    metrics::counter!("ringfence_log_trimmed_records_total").increment(done.cut.trimmed);
    metrics::counter!("ringfence_log_trimmed_bytes_total").increment(done.cut.bytes);
    tracing::info!(record = by, trimmed = done.cut.trimmed, bytes = done.cut.bytes, "the log was trimmed");
    Ok(())
}

/// Makes the evidence keys of the coming months where they are missing.
///
/// # Errors
/// The keyring cannot be written; records go under the last key there is.
pub fn renew_keys(installation: &Installation) -> Result<(), Failure> {
    let made = installation.vault().prepare_evidence(installation.clock().now_us());
    let made = made.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    if made > 0 {
        tracing::info!(made, "evidence keys for coming months were made: `ringfence keys backup` carries them");
    }
    Ok(())
}

/// Runs what reads and writes files on a thread that may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::internal)?
}

/// RFC 3339, UTC.
pub fn time(us: TimeUs) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(us) * 1000);
    at.ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_else(|| format!("{us} us"))
}

/// A day (`2026-11-23`, its first moment in UTC) or a time (RFC 3339).
///
/// # Errors
/// What would be right.
pub fn parse_time(text: &str) -> Result<TimeUs, Failure> {
    let full = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let at = time::OffsetDateTime::parse(&full, &time::format_description::well_known::Rfc3339);
    let us = at.ok().and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1000).ok());
    us.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        Failure::new(Kind::Usage, format!("`{shown}` is no time"))
            .next("write a day, `2026-11-23`, or a time, `2026-11-23T14:00:00Z`")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_acted_says_how_long_a_record_is_kept() {
        let check = |actor, op: &str, expect| assert_eq!(class(actor, &Op(op.into())), expect, "{op}");
        check(ActorKind::StaticKey, "s3:GetObject", Class::Access);
        check(ActorKind::StaticKey, "s3:PutObject", Class::Access);
        check(ActorKind::Anonymous, "s3:Refused", Class::Access);
        check(ActorKind::Operator, "admin:KeyAdd", Class::Control);
        check(ActorKind::System, "system:Sweep", Class::Control);
    }

    #[test]
    fn times_are_days_or_rfc_3339() {
        assert_eq!(parse_time("1970-01-02").expect("a day"), DAY_US);
        assert_eq!(parse_time("1970-01-01T01:00:00.5+01:00").expect("a time"), 500_000);
        for wrong in ["", "yesterday", "2026-13-01", "1969-12-31", "2026-11-23 14:00"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
