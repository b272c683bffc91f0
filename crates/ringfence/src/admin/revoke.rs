//! `revoke session|subject|role|key|site`, `revoke lift`, `revoke list`.

use ringfence_access::Permit;
use ringfence_access::permit::Administer;
use ringfence_format::leaf::ISSUANCE;
use ringfence_format::names::{Principal, Realm, SiteId, Tenant};
use ringfence_format::record::Seq;
use ringfence_format::session::{Issuance, Kid, Revocation, Target};
use ringfence_log::Log;
use ringfence_store::CommitError;
use serde_json::{Value, json};

use super::call::{Revoke, What};
use super::handle::known_tenant;
use super::session_keys::realm;
use crate::cli::{Failure, Kind};
use crate::installation::Installation;

/// No session lives longer, in microseconds, with a margin for clocks.
const SESSIONS_LIVE_US: u64 = 2 * 3600 * 1_000_000;
/// Records looked through for the leaf of a session that was named by its id.
const LOOKED_AT_MAX: u64 = 2_000_000;

/// Revokes. What it hits is refused from the moment it was decided.
///
/// 1. It is in force in memory: nothing is granted to what it hits behind the
///    record of step 2.
/// 2. The record with its public leaf, and the row, in one step. It may use the
///    log's reserve. A crash before leaves things as they were, and nobody was
///    told otherwise; one after it leaves them revoked.
/// 3. The keyring notes that it was on record.
///
/// Where step 2 fails what it hits stays refused while this process runs: who
/// wanted it revoked is told so.
pub(super) async fn revoke(
    installation: &Installation,
    permit: Permit<Administer>,
    revoke: &Revoke,
) -> Result<Value, Failure> {
    let Named { realm, target, note, index } = named(installation, revoke).await?;
    let from_index = revoke.from_index.unwrap_or(0);
    let of_key = matches!(target, Target::Key(_));
    let revocation = Revocation { version: 0, realm: realm.clone(), target, from_index, at_s: installation.now_s() };
    let record = enforce(installation, permit, revocation).await?;
    if of_key {
        // The development root gives the scope another key at once.
        installation.try_session_keys().await;
    }
    Ok(json!({
        "record": record,
        "realm": realm,
        "what": revoke.what.name(),
        "which": revoke.which,
        "from_index": from_index,
        "index": index,
        "note": note,
    }))
}

/// Takes a revocation back; keys and sessions stay revoked.
pub(super) async fn lift(
    installation: &Installation,
    permit: Permit<Administer>,
    index: Seq,
) -> Result<Value, Failure> {
    let owner = installation.authority().realms().into_iter().find(|realm| {
        installation.catalog().revocations(realm).is_ok_and(|all| all.iter().any(|(by, _)| *by == index))
    });
    let realm = owner.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("record #{index} revokes nothing")).next("see `ringfence revoke list`")
    })?;
    let at_s = installation.now_s();
    let revocation = Revocation { version: 0, realm, target: Target::Lift(index), from_index: 0, at_s };
    let record = enforce(installation, permit, revocation).await?;
    Ok(json!({ "record": record, "lifted": index }))
}

async fn enforce(
    installation: &Installation,
    permit: Permit<Administer>,
    revocation: Revocation,
) -> Result<Seq, Failure> {
    let realm = revocation.realm.clone();
    let ticket = installation.authority().suspend(revocation.clone());
    let record = match installation.store().put_revocation(permit, revocation).await {
        Ok(recorded) => recorded.index(),
        // It is on record: whoever applies it finds it in force.
        Err(CommitError::Unsettled(seq)) => seq,
        Err(refused @ (CommitError::Conflict(_) | CommitError::Denied(_))) => {
            installation.authority().withdraw(ticket);
            return Err(refused.into());
        }
        Err(error) => {
            // The ticket is dropped: it stays in force in this process.
            return Err(Failure::new(
                Kind::Unavailable,
                format!("it is refused while this server runs, but that is not on record: {error}"),
            )
            .next("mend the log or the catalogue, and revoke again before the server is restarted"));
        }
    };
    installation.authority().settle(ticket, record);
    let noted = installation.catalog().revocations(&realm).map_err(|e| e.to_string());
    let noted = noted.and_then(|all| installation.vault().note_revocations(&realm, &all).map_err(|e| e.to_string()));
    if let Err(error) = noted {
        tracing::error!("the keyring did not note revocation #{record}, the next start does: {error}");
    }
    Ok(record)
}

/// Every revocation, the newest last.
pub(super) fn list(installation: &Installation) -> Result<Value, Failure> {
    let mut rows: Vec<(Seq, Value)> = vec![];
    for realm in installation.authority().realms() {
        let all = installation.catalog().revocations(&realm).map_err(|e| Failure::new(Kind::Unavailable, e))?;
        for (by, it) in &all {
            let lifted = all.iter().find(|(_, other)| other.target == Target::Lift(*by)).map(|(at, _)| *at);
            let detail = installation.log().lookup(*by).ok().and_then(|record| record.resource.detail);
            let state = match (&it.target, lifted) {
                (Target::Lift(_), _) => "takes back",
                (_, Some(_)) => "taken back",
                (_, None) => "in force",
            };
            rows.push((
                *by,
                json!({
                    "record": by,
                    "realm": realm,
                    "what": kind(&it.target),
                    "detail": detail,
                    "from_index": it.from_index,
                    "at_ms": it.at_s * 1000,
                    "state": state,
                    "lifted_by": lifted,
                }),
            ));
        }
    }
    rows.sort_by_key(|(by, _)| *by);
    Ok(json!({ "revocations": rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>() }))
}

fn kind(target: &Target) -> &'static str {
    match target {
        Target::Session(..) => "session",
        Target::Subject(..) => "subject",
        Target::Role(..) => "role",
        Target::Key(_) => "key",
        Target::Site(_) => "site",
        Target::Lift(_) => "lift",
    }
}

/// What the operator named, and what there is to say of it.
struct Named {
    realm: Realm,
    target: Target,
    note: Option<String>,
    /// The leaf of a session, where it was found.
    index: Option<Seq>,
}

async fn named(installation: &Installation, revoke: &Revoke) -> Result<Named, Failure> {
    let which = revoke.which.as_str();
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Usage, format!("`{which}`: {e}"));
    let plain = |realm, target| Named { realm, target, note: None, index: None };
    Ok(match revoke.what {
        What::Session => return session(installation, revoke).await,
        What::Subject | What::Role => {
            let (tenant, name) = of_tenant(installation, which)?;
            let realm = installation.realm_of(&tenant);
            if revoke.realm.as_deref().is_some_and(|named| named != realm.as_str()) {
                return Err(wrong(&format!("tenant `{tenant}` belongs to realm `{realm}`")));
            }
            let mut salt = [0; 16];
            aws_lc_rs::rand::fill(&mut salt).map_err(|_| Failure::internal("no random numbers"))?;
            let target = match revoke.what {
                What::Role => Target::role(salt, &realm, &tenant, &name),
                _ => Target::subject(salt, &realm, &tenant, &name),
            };
            plain(realm, target)
        }
        What::Key => {
            let kid: Kid = which.parse().map_err(|e| wrong(&e))?;
            let keys = installation.authority().keys();
            let listed = keys.iter().find(|(_, row)| row.public.kid() == kid).map(|(scope, _)| scope.clone());
            let note = listed.is_none().then(|| "no manifest in force lists this key".to_owned());
            let realm = match listed {
                Some(scope) => scope.realm,
                None => realm(installation, revoke.realm.as_deref())?,
            };
            Named { realm, target: Target::Key(kid), note, index: None }
        }
        What::Site => {
            let site = SiteId::parse(which).map_err(|e| wrong(&e))?;
            let known = installation.config().site.iter().any(|other| other.id == site);
            let note = (!known).then(|| "no site of the configuration has this name".to_owned());
            let realm = realm(installation, revoke.realm.as_deref())?;
            Named { realm, target: Target::Site(site), note, index: None }
        }
    })
}

fn of_tenant(installation: &Installation, which: &str) -> Result<(Tenant, Principal), Failure> {
    let form = || Failure::new(Kind::Usage, format!("`{which}` is not of the form TENANT/NAME"));
    let (tenant, name) = which.split_once('/').ok_or_else(form)?;
    let name = Principal::parse(name).map_err(|e| Failure::new(Kind::Usage, e))?;
    Ok((known_tenant(installation, tenant)?, name))
}

/// A session by its id or by the index of its leaf; the other is looked up, so
/// that sessions narrowed from it are hit too.
async fn session(installation: &Installation, revoke: &Revoke) -> Result<Named, Failure> {
    let which = revoke.which.as_str();
    let form =
        || Failure::new(Kind::Usage, format!("`{which}` is neither a session id (32 hexadecimal digits) nor an index"));
    let (id, index, note) = if let Ok(index) = which.parse::<Seq>() {
        let issued = installation.log().sealed(index).ok().and_then(|sealed| sealed.public);
        if issued.is_none_or(|public| public.kind != ISSUANCE) {
            return Err(Failure::new(Kind::Usage, format!("record #{index} issues no session")));
        }
        let id =
            installation.log().lookup(index).ok().and_then(|record| session_id(record.subject.session.as_deref()?));
        (id, Some(index), None)
    } else {
        let id = session_id(which).ok_or_else(form)?;
        let (log, now_us) = (installation.log().clone(), installation.clock().now_us());
        let found = tokio::task::spawn_blocking(move || leaf_of(&log, id, now_us)).await.map_err(Failure::internal)?;
        let note = found.is_none().then(|| {
            "its leaf was not found among those of the last two hours: sessions narrowed from it are not hit".to_owned()
        });
        (Some(id), found, note)
    };
    let target = Target::Session(id.unwrap_or_default(), index.unwrap_or(Seq::MAX));
    let leaf = index.and_then(|index| installation.log().sealed(index).ok()?.public);
    let realm = match leaf.and_then(|leaf| Issuance::from_bytes(&leaf.bytes).ok()) {
        Some(issuance) => issuance.draft.realm,
        None => realm(installation, revoke.realm.as_deref())?,
    };
    Ok(Named { realm, target, note, index })
}

fn session_id(text: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).ok().map(|()| id)
}

/// The leaf of a session that may live still.
fn leaf_of(log: &Log, id: [u8; 16], now_us: u64) -> Option<Seq> {
    let end = log.durable_size();
    for seq in (end.saturating_sub(LOOKED_AT_MAX)..end).rev() {
        let sealed = log.sealed(seq).ok()?;
        if sealed.public.as_ref().is_none_or(|public| public.kind != ISSUANCE) {
            continue;
        }
        let Ok(record) = log.lookup(seq) else { continue };
        if record.subject.session.as_deref().and_then(session_id) == Some(id) {
            return Some(seq);
        }
        if record.core.time_us + SESSIONS_LIVE_US < now_us {
            return None;
        }
    }
    None
}
