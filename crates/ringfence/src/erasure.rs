//! Erasure: who did something, and to what, goes from records that are named;
//! what happened, and that the log is whole, stays provable.
//!
//! 1. The erasure is recorded: who asked, which records, why.
//! 2. The task is noted durably in `DIR/erasing`, with the keys it will destroy.
//! 3. Each of these keys gets one that follows it; nothing new is sealed under
//!    the old one.
//! 4. Segments are written anew: the named records without subject and
//!    resource, all others of these keys sealed under the new ones.
//! 5. Once nothing lies under the old keys they are destroyed: now copies of
//!    the log from before are of no use either.
//! 6. The note goes.
//!
//! A crash after 2 is made good by the next start. Only access records can be
//! erased: what the operator and Ringfence did stays until retention takes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_db::disk::{Disk, Durable, RealDisk};
use ringfence_format::leaf::RedoFate;
use ringfence_format::names::{Principal, Tenant};
use ringfence_format::record::{Record, Seq, TimeUs};
use ringfence_log::{Changed, Cut, Fate, Log, LogError, OpenError, Place, Recorded};
use ringfence_store::{Retain, Store};
use ringfence_vault::Vault;
use serde::{Deserialize, Serialize};

use crate::cli::{Failure, Kind};
use crate::installation::{Installation, cannot};
use crate::retention::{Class, blocking, class, time};

/// The note of an erasure under way, within the data directory.
const NOTE: &str = "erasing";
/// No erasure begins while the note is there.
const NOTE_DAMAGED: &str =
    "`log show` says which erasure was not finished: move the file `erasing` away and give it again";
/// A record that was on its way when its key was replaced comes to lie under
/// the old key: then once more.
const ROUNDS_MAX: u32 = 5;

/// Which access records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Only this one.
    pub record: Option<Seq>,
    /// Of this tenant.
    pub tenant: Option<Tenant>,
    /// Of this principal of it.
    pub principal: Option<Principal>,
    /// From this time on.
    pub from_us: Option<TimeUs>,
    /// Before this time.
    pub until_us: Option<TimeUs>,
}

impl Selection {
    fn names(&self, seq: Seq, record: &Record) -> bool {
        let (subject, at) = (&record.subject, record.core.time_us);
        class(subject.actor, &record.core.op) == Class::Access
            && self.record.is_none_or(|only| only == seq)
            && self.tenant.as_ref().is_none_or(|tenant| subject.tenant.as_ref() == Some(tenant))
            && self.principal.as_ref().is_none_or(|who| subject.principal.as_ref() == Some(who))
            && self.from_us.is_none_or(|from| at >= from)
            && self.until_us.is_none_or(|until| at < until)
    }

    /// In the words of the record.
    pub fn describe(&self) -> String {
        let parts = [
            self.record.map(|seq| format!("record #{seq}")),
            self.tenant.as_ref().map(|tenant| format!("of tenant `{tenant}`")),
            self.principal.as_ref().map(|who| format!("of principal `{who}`")),
            self.from_us.map(|us| format!("from {}", time(us))),
            self.until_us.map(|us| format!("before {}", time(us))),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// What an erasure would do, or did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Erased {
    /// Records whose subject and resource go.
    pub records: u64,
    /// Redos that go with them, because nothing of what they made is left.
    pub redos: u64,
    /// Other records of the same tenants and months: sealed anew, unchanged.
    pub resealed: u64,
    /// Keys of tenant and month that are destroyed.
    pub keys: usize,
    /// Records under a tenant's own key, which is not destroyed: copies of the
    /// log made before still open these.
    pub under_lasting_keys: u64,
}

/// An erasure that is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Task {
    selection: Selection,
    /// The record that says so.
    by: Seq,
    /// The keys to be destroyed, in hex.
    keys: BTreeSet<String>,
}

impl Task {
    /// A key that cannot be read must not be passed over: the erasure would
    /// call itself done and leave it.
    fn key_ids(&self) -> Result<BTreeSet<[u8; 8]>, Failure> {
        let id = |text: &String| {
            let mut id = [0; 8];
            hex::decode_to_slice(text, &mut id).map(|()| id)
        };
        self.keys
            .iter()
            .map(id)
            .collect::<Result<_, _>>()
            .map_err(|e| cannot("read which keys an erasure destroys", e).next(NOTE_DAMAGED))
    }
}

/// What an erasure works with, for a thread that may block.
#[derive(Clone)]
pub struct Eraser {
    log: Arc<Log>,
    store: Arc<Store>,
    vault: Arc<Vault>,
    note: PathBuf,
}

impl Eraser {
    /// For this installation.
    pub fn new(installation: &Installation) -> Self {
        let (log, store) = (installation.log().clone(), installation.store().clone());
        Self { log, store, vault: installation.vault().clone(), note: installation.dir().join(NOTE) }
    }

    /// What an erasure would do. Nothing is changed.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn look(&self, selection: Selection) -> Result<Erased, Failure> {
        let this = self.clone();
        blocking(move || this.survey(&selection, Seq::MAX).map(|(found, _)| found)).await
    }

    /// Erases, in the name of the record that says so.
    ///
    /// # Errors
    /// What is in the way. Unless it says that nothing was begun, the next
    /// start goes on with it.
    pub async fn erase(&self, because: Recorded<Permit<Administer>>, selection: Selection) -> Result<Erased, Failure> {
        self.refuse_second()?;
        let before = self.store.sync_catalogue().await.map_err(|e| cannot("sync the catalogue", e))?;
        let this = self.clone();
        blocking(move || {
            let by = because.index();
            let (mut done, keys) = this.survey(&selection, by)?;
            let task = Task { selection, by, keys: keys.iter().map(hex::encode).collect() };
            write_note(&this.note, &task)?;
            let cut = this.carry_out(&because, &task, before)?;
            (done.records, done.redos, done.resealed) = (cut.erased, cut.redos, cut.resealed);
            Ok(done)
        })
        .await
    }

    fn refuse_second(&self) -> Result<(), Failure> {
        match self.note.exists() {
            false => Ok(()),
            true => Err(Failure::new(Kind::Unavailable, "an erasure before this one has not ended; nothing was begun")
                .next("restart: the next start goes on with it")),
        }
    }

    /// What is named, and under which keys of months it lies.
    fn survey(&self, selection: &Selection, before: Seq) -> Result<(Erased, BTreeSet<[u8; 8]>), Failure> {
        let months: BTreeSet<[u8; 8]> = self.vault.evidence_months().into_iter().map(|key| key.id).collect();
        let mut keys = BTreeSet::new();
        let mut lasting = 0;
        let found: Cut = self.log.look(before, |place| {
            let named = is_named(place, selection)?;
            let under_month = months.contains(&place.sealed.key_id);
            lasting += u64::from(named && !under_month);
            if named && under_month {
                keys.insert(place.sealed.key_id);
            }
            Ok::<_, Failure>(if named { Fate::Erase(RedoFate::Stays) } else { Fate::Stay })
        })?;
        let others: Cut = self.log.look(before, |place| {
            let moves = keys.contains(&place.sealed.key_id) && !is_named(place, selection)?;
            Ok::<_, Failure>(if moves { Fate::Reseal } else { Fate::Stay })
        })?;
        let (records, resealed) = (found.erased, others.resealed);
        Ok((Erased { records, redos: 0, resealed, keys: keys.len(), under_lasting_keys: lasting }, keys))
    }

    /// Steps 3 to 6. Doing it again does what is left.
    fn carry_out(&self, because: &Recorded<Permit<Administer>>, task: &Task, synced: Seq) -> Result<Cut, Failure> {
        let keys = |e| cannot("change the keyring", e);
        let old = task.key_ids()?;
        let mut done = Cut::default();
        for _ in 0..ROUNDS_MAX {
            self.vault.follow_evidence(because, &old).map_err(keys)?;
            self.log.seal_segment()?;
            let mut retain = Retain::new(self.store.catalog()).map_err(|e| cannot("read the catalogue", e))?;
            let end = self.log.durable_size();
            done.join(&self.log.cut_again(task.by, end, |place| judge(place, task, &old, synced, &mut retain))?);
            let in_use = self.log.keys_in_use()?;
            if old.is_disjoint(&in_use) {
                self.vault.destroy_evidence(because, &old).map_err(keys)?;
                let gone = RealDisk.unlink(&self.note).and_then(|()| match self.note.parent() {
                    Some(dir) => RealDisk.sync_dir(dir),
                    None => Ok(()),
                });
                gone.map_err(|e| cannot("note that the erasure is done", e))?;
                return Ok(done);
            }
        }
        Err(Failure::new(Kind::Unavailable, "records are still under a key that is to be destroyed")
            .next("restart: the next start goes on with the erasure"))
    }
}

/// Goes on with an erasure that a crash ended.
///
/// # Errors
/// It stays unfinished; the next start tries again.
pub async fn resume(installation: &Installation) -> Result<(), Failure> {
    let eraser = Eraser::new(installation);
    let Some(task) = read_note(&eraser.note)? else { return Ok(()) };
    let detail = format!("goes on with record #{}: {}", task.by, task.selection.describe());
    let ask = Ask::on_installation("system:LogErase").record(|resource| resource.detail = Some(detail));
    let permit = installation.system_permit("log-erase", ask).await?;
    let because = installation.log().record(permit).await.map_err(|e| cannot("record", e))?;
    let synced = installation.store().sync_catalogue().await.map_err(|e| cannot("sync the catalogue", e))?;
    let by = task.by;
    let done = blocking(move || eraser.carry_out(&because, &task, synced)).await?;
    tracing::info!(record = by, erased = done.erased, "an erasure that was cut off is done");
    Ok(())
}

fn judge(
    place: &Place<'_>,
    task: &Task,
    old: &BTreeSet<[u8; 8]>,
    synced: Seq,
    retain: &mut Retain<'_>,
) -> Result<Fate, Failure> {
    let catalogue = |e| cannot("read the catalogue", e);
    let named = place.seq < task.by && is_named(place, &task.selection)?;
    let redo = match place.change() {
        Ok(change) => match change.redo {
            Changed::By(redo) => Some(redo),
            Changed::Nothing | Changed::Gone { .. } => None,
        },
        Err(_) => {
            retain.stays_unread();
            None
        }
    };
    let mut fate = RedoFate::Stays;
    if let Some(redo) = redo {
        if named && place.seq < synced && !retain.must_stay(&redo).map_err(catalogue)? {
            fate = RedoFate::Goes;
        } else {
            retain.stays(&redo).map_err(catalogue)?;
        }
    }
    Ok(match named {
        true => Fate::Erase(fate),
        false if old.contains(&place.sealed.key_id) => Fate::Reseal,
        false => Fate::Stay,
    })
}

fn is_named(place: &Place<'_>, selection: &Selection) -> Result<bool, Failure> {
    match place.record() {
        Ok(record) => Ok(selection.names(place.seq, &record)),
        Err(OpenError::Corrupt(why)) => {
            Err(LogError::Unreadable { seq: place.seq, why: OpenError::Corrupt(why) }.into())
        }
        Err(_) => Ok(false),
    }
}

fn write_note(path: &Path, task: &Task) -> Result<(), Failure> {
    let text = serde_json::to_vec_pretty(task).expect("a task is JSON");
    RealDisk.replace(path, &text, Durable::Yes).map_err(|e| cannot("note the erasure; nothing was begun", e))
}

fn read_note(path: &Path) -> Result<Option<Task>, Failure> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot(&format!("read `{}`", path.display()), e)),
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| cannot(&format!("read `{}`", path.display()), e).next(NOTE_DAMAGED)),
    }
}

#[cfg(test)]
mod tests {
    use ringfence_format::record::{ActorKind, Core, Op, Subject};

    use super::*;

    fn record(op: &str, actor: ActorKind, principal: &str, time_us: u64) -> Record {
        Record {
            core: Core { time_us, op: Op(op.into()), ..Core::default() },
            subject: Subject {
                tenant: Tenant::parse("acme").ok(),
                principal: Principal::parse(principal).ok(),
                actor,
                ..Subject::default()
            },
            ..Record::default()
        }
    }

    #[test]
    fn a_selection_names_what_it_says_and_no_act_of_the_operator() {
        let alice = record("s3:GetObject", ActorKind::StaticKey, "alice", 50);
        let issue = record("admin:KeyAdd", ActorKind::Operator, "uid-0", 50);
        let of = |tenant: &str| Selection { tenant: Tenant::parse(tenant).ok(), ..Selection::default() };
        let who = |name: &str| Selection { principal: Principal::parse(name).ok(), ..of("acme") };
        let cases = [
            (of("acme"), &alice, true),
            (of("acme"), &issue, false),
            (of("other"), &alice, false),
            (who("alice"), &alice, true),
            (who("bob"), &alice, false),
            (Selection { from_us: Some(50), ..of("acme") }, &alice, true),
            (Selection { from_us: Some(51), ..of("acme") }, &alice, false),
            (Selection { until_us: Some(50), ..of("acme") }, &alice, false),
            (Selection { record: Some(7), ..Selection::default() }, &alice, true),
            (Selection { record: Some(8), ..Selection::default() }, &alice, false),
            (Selection { record: Some(7), ..Selection::default() }, &issue, false),
        ];
        for (n, (selection, record, expect)) in cases.iter().enumerate() {
            assert_eq!(selection.names(7, record), *expect, "case {n}");
        }
    }

    #[test]
    fn a_note_reads_back_and_a_damaged_one_is_not_ignored() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(NOTE);
        assert_eq!(read_note(&path).expect("none"), None);
        let selection = Selection { tenant: Tenant::parse("acme").ok(), from_us: Some(1), ..Selection::default() };
        let task = Task { selection, by: 9, keys: BTreeSet::from([hex::encode([0xab; 8])]) };
        write_note(&path, &task).expect("written");
        assert_eq!(read_note(&path).expect("read").as_ref(), Some(&task));
        assert_eq!(task.key_ids().expect("as written"), BTreeSet::from([[0xab; 8]]));
        for wrong in ["", "abab", "zzzzzzzzzzzzzzzz", "ababababababababab"] {
            let damaged = Task { keys: BTreeSet::from([wrong.to_owned()]), ..task.clone() };
            assert!(damaged.key_ids().is_err(), "{wrong}");
        }
        std::fs::write(&path, "{").expect("torn");
        assert!(read_note(&path).is_err());
    }
}
