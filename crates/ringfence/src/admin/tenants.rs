//! `tenant add|list` and `key add|list|disable`.

use ringfence_access::keys::KeyState;
use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit, caller};
use ringfence_format::names::{KeyId, Principal, Realm, Tenant};
use ringfence_format::redo::StaticKeyRow;
use ringfence_store::CommitError;
use serde_json::{Value, json};

use super::handle::{known_tenant, tenant};
use crate::cli::{Failure, Kind};
use crate::installation::{FIRST_PRINCIPAL, FIRST_TENANT, Installation, NewKey};
use crate::key_use::{age_days, nag};

/// The policy among the default ones that keeps static keys from the strictest
/// label.
const NO_STATIC_KEYS: &str = "no-static-keys-for-restricted";

/// Every tenant with the label its objects get when nothing is said.
pub(super) fn list(installation: &Installation) -> Value {
    let keys = installation.catalog().static_keys();
    let tenants = installation.catalog().tenants().into_iter().map(|row| {
        let active = keys.iter().filter(|k| k.row.tenant == row.name && k.row.disabled_ms.is_none()).count();
        let default = installation.labels.of_tenant(&row.name);
        json!({
            "name": row.name,
            "realm": row.realm,
            "created_ms": row.created_ms,
            "buckets": installation.catalog().buckets_of(&row.name).len(),
            "active_keys": active,
            "default_label": default.as_ref().unwrap_or(installation.labels.labels().strictest()),
        })
    });
    json!({ "tenants": tenants.collect::<Vec<_>>() })
}

/// Makes a tenant with a first key; completes one whose making was cut off.
pub(super) async fn add(
    installation: &Installation,
    permit: Permit<Administer>,
    name: &str,
    realm: Option<&str>,
    default_label: Option<&str>,
) -> Result<Value, Failure> {
    let tenant = tenant(name)?;
    let labels = installation.labels.labels();
    let asked = default_label.map(|label| labels.find(label).cloned()).transpose();
    let asked = asked.map_err(|e| Failure::new(Kind::Usage, e))?;
    // As the first tenant's, which the configuration writes out.
    let first = || installation.labels.of_tenant(&Tenant::parse(FIRST_TENANT).expect("a literal that obeys the rule"));
    let label = asked.or_else(first);
    let realm = realm.map(Realm::parse).transpose().map_err(|e| Failure::new(Kind::Usage, e))?;
    let realm = realm.unwrap_or_else(|| installation.realm.clone());
    if realm.as_str() == caller::PROVIDER {
        return Err(Failure::new(Kind::Usage, format!("realm `{realm}` is reserved")).next("choose another name"));
    }
    let has_key = installation.catalog().static_keys().iter().any(|key| key.row.tenant == tenant);
    let exists = installation.catalog().tenant(&tenant).is_some();
    if exists && has_key {
        return Err(Failure::new(Kind::Usage, format!("tenant `{name}` exists already"))
            .next("add a key with `ringfence key add`, or choose another name"));
    }
    if exists && installation.realm_of(&tenant) != realm {
        let message = format!("tenant `{name}` belongs to realm `{}`", installation.realm_of(&tenant));
        return Err(Failure::new(Kind::Usage, message).next("a tenant stays in its realm: choose another name"));
    }
    let permit = if exists {
        permit
    } else {
        installation.make_tenant(permit, &realm, &tenant, label).await?;
        // The second record of one command: decided anew, by Ringfence itself.
        installation.system_permit("tenant-add", Ask::on_tenant("system:FirstKey", &tenant)).await?
    };
    let principal = Principal::parse(FIRST_PRINCIPAL).expect("a literal that obeys the rule");
    let key = installation.issue_key(permit, &tenant, &principal, name).await?;
    let mut shown = show(installation, name, name, &key);
    let said = installation.labels.of_tenant(&tenant);
    let strictest = installation.labels.labels().strictest();
    let default = said.as_ref().unwrap_or(strictest);
    shown["default_label"] = json!(default);
    let rule = installation.engine().set().policy(NO_STATIC_KEYS).is_some();
    shown["static_keys_refused"] = json!(rule && default == strictest);
    Ok(shown)
}

/// Issues one more key of a tenant.
pub(super) async fn add_key(
    installation: &Installation,
    permit: Permit<Administer>,
    of: &str,
    name: &str,
) -> Result<Value, Failure> {
    let tenant = known_tenant(installation, of)?;
    let principal = Principal::parse(name).map_err(|e| Failure::new(Kind::Usage, e))?;
    let profile = format!("{of}-{name}");
    let key = installation.issue_key(permit, &tenant, &principal, &profile).await?;
    Ok(show(installation, of, &profile, &key))
}

fn show(installation: &Installation, tenant: &str, profile: &str, key: &NewKey) -> Value {
    json!({
        "tenant": tenant,
        "profile": profile,
        "access_key_id": key.id,
        "secret_access_key": *key.secret,
        "credentials_file": installation.credentials().path().display().to_string(),
    })
}

/// Every key, disabled ones too.
pub(super) fn list_keys(installation: &Installation, of: Option<&str>) -> Result<Value, Failure> {
    let wanted = of.map(|name| known_tenant(installation, name)).transpose()?;
    let keys = installation.catalog().static_keys();
    let keys =
        keys.iter().map(|key| &key.row).filter(|row| wanted.as_ref().is_none_or(|w| row.tenant == *w)).map(|row| {
            let entry = installation.keys.find(&row.id);
            let (last_ms, now_us) = (installation.key_use.last_ms(&row.id), installation.clock().now_us());
            let issued = entry.as_ref().and_then(|entry| entry.issued);
            let state = match (row.disabled_ms, issued, entry.map(|entry| entry.state)) {
                (Some(_), ..) => "disabled",
                (None, None, _) => "not issued: refused",
                (None, Some(_), Some(KeyState::Active)) => "active",
                (None, Some(_), _) => "suspended: disabling it is not on record",
            };
            json!({
                "access_key_id": row.id,
                "tenant": row.tenant,
                "principal": row.principal,
                "state": state,
                "created_ms": row.created_ms,
                "age_days": age_days(row, now_us),
                "last_used_ms": last_ms,
                "disabled_ms": row.disabled_ms,
                "warning": nag(row, last_ms, now_us),
                "issued_by_record": issued,
            })
        });
    Ok(json!({ "keys": keys.collect::<Vec<_>>() }))
}

/// Disables a key, for ever. Requests that are being answered with it are cut
/// within seconds; new ones are refused from here on.
///
/// 1. It is suspended: nothing is granted to it behind the record of step 2.
/// 2. The record and the row, in one step. Revocation may use the log's
///    reserve. A crash before leaves the key as it was, one after it disabled.
/// 3. It is disabled here too.
///
/// Where step 2 fails the key stays suspended while this process runs: who
/// wanted it dead is told that it is, for how long, and to try again.
pub(super) async fn disable_key(
    installation: &Installation,
    permit: Permit<Administer>,
    id: &str,
) -> Result<Value, Failure> {
    let row = key_row(installation, id)?;
    if row.disabled_ms.is_none() {
        let disabled = StaticKeyRow { disabled_ms: Some(installation.clock().now_us() / 1000), ..row.clone() };
        installation.keys.suspend(&row.id);
        match installation.store().put_static_key(permit, disabled).await {
            // `Unsettled` is on record: whoever applies it finds the key disabled.
            Ok(_) | Err(CommitError::Unsettled(_)) => drop(installation.keys.disable(&row.id)),
            Err(refused @ (CommitError::Conflict(_) | CommitError::Denied(_))) => {
                installation.keys.resume(&row.id);
                return Err(refused.into());
            }
            Err(error) => {
                return Err(Failure::new(
                    Kind::Unavailable,
                    format!("key `{}` is refused while this server runs, but that is not on record: {error}", row.id),
                )
                .next("disable it again before the next start, which would accept it"));
            }
        }
    }
    Ok(json!({ "access_key_id": row.id, "tenant": row.tenant, "state": "disabled" }))
}

/// The question whether a key may be changed: about its tenant.
pub(super) fn ask_about_key(installation: &Installation, op: &'static str, id: &str) -> Result<Ask, Failure> {
    Ok(Ask::on_tenant(op, &key_row(installation, id)?.tenant))
}

fn key_row(installation: &Installation, id: &str) -> Result<StaticKeyRow, Failure> {
    let key = KeyId::parse(id).ok().and_then(|id| installation.catalog().static_key(&id));
    key.map(|key| StaticKeyRow::clone(&key.row)).ok_or_else(|| {
        let shown: String = id.chars().take(128).collect();
        Failure::new(Kind::Usage, format!("no access key `{shown}`")).next("`ringfence key list` shows those there are")
    })
}
