//! `keys list`, `keys rotate --issuer`, `keys manifest …`, `keys root …`.

use std::collections::BTreeMap;

use ringfence_access::Permit;
use ringfence_access::permit::Administer;
use ringfence_format::names::Realm;
use ringfence_format::session::{KeyRow, Purpose, Scope, SignedManifest};
use ringfence_log::Recorded;
use ringfence_vault::{SIGNS_S, signs_at};
use serde_json::{Value, json};

use crate::alarm::{Alarm, AlarmKind};
use crate::cli::{Failure, Kind};
use crate::installation::Installation;
use crate::papers::{HandOver, Paper, Request, RootPublic, fingerprint};

/// Most days that a request asks keys for.
const DAYS_MAX: u64 = 366;

/// The realm that was named, or the first one.
pub(super) fn realm(installation: &Installation, named: Option<&str>) -> Result<Realm, Failure> {
    let Some(name) = named else { return Ok(installation.realm.clone()) };
    let known = installation.authority().realms();
    known.into_iter().find(|realm| realm.as_str() == name).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("no realm is called `{name}`")).next("`ringfence tenant list` shows realms")
    })
}

/// Every session key with its scope, state and age.
pub(super) fn list(installation: &Installation, named: Option<&str>) -> Result<Value, Failure> {
    let realms = match named {
        Some(_) => vec![realm(installation, named)?],
        None => installation.authority().realms(),
    };
    let now_s = installation.now_s();
    let (mut rows, mut overdue) = (vec![], vec![]);
    for realm in realms {
        let mut scopes: BTreeMap<Scope, Vec<KeyRow>> = BTreeMap::new();
        for (tenant, purpose) in installation.session_scopes(&realm) {
            scopes.insert(Scope { realm: realm.clone(), tenant, purpose }, vec![]);
        }
        for (scope, row) in installation.authority().keys().iter().filter(|(scope, _)| scope.realm == realm) {
            scopes.entry(scope.clone()).or_default().push(row.clone());
        }
        for (scope, keys) in scopes {
            if installation.signs_until(&scope, now_s) == now_s {
                overdue.push(scope.to_string());
            }
            rows.extend(shown(installation, &scope, keys, now_s));
        }
    }
    Ok(json!({ "keys": rows, "overdue": overdue }))
}

fn shown(installation: &Installation, scope: &Scope, mut keys: Vec<KeyRow>, now_s: u64) -> Vec<Value> {
    keys.sort_by_key(|row| row.from_s);
    let revoked = |row: &KeyRow| installation.authority().key_is_revoked(&scope.realm, row.public.kid());
    let signing = keys.iter().rev().find(|row| signs_at(row, now_s) && !revoked(row)).map(|row| row.public);
    let state = |row: &KeyRow| match () {
        () if revoked(row) => "revoked",
        () if now_s < row.from_s => "future",
        () if Some(row.public) == signing => "signing",
        () if now_s < row.until_s => "verifying only",
        () => "over",
    };
    let rows = keys.iter().map(|row| {
        json!({
            "realm": scope.realm,
            "tenant": scope.tenant,
            "purpose": scope.purpose,
            "kid": row.public.kid().to_string(),
            "public": row.public.to_string(),
            "sites": row.sites,
            "state": state(row),
            "signs_from_ms": row.from_s * 1000,
            "signs_until_ms": (row.from_s + SIGNS_S).min(row.until_s) * 1000,
            "counts_until_ms": row.until_s * 1000,
            "age_s": now_s.saturating_sub(row.from_s),
            "days_left": row.until_s.saturating_sub(now_s) as f64 / SIGNS_S as f64,
        })
    });
    rows.collect()
}

/// A fresh key for each scope that was named, which signs from now on; the
/// older ones are destroyed once the manifest with the fresh ones is in force.
pub(super) async fn rotate(
    installation: &Installation,
    permit: Permit<Administer>,
    realm_name: Option<&str>,
    tenant: Option<&str>,
    purpose: Option<&str>,
) -> Result<Value, Failure> {
    let realm = realm(installation, realm_name)?;
    if !installation.vault().root_is_development(&realm) {
        return Err(Failure::new(
            Kind::Refused,
            format!("the root of realm `{realm}` is offline: only it gives keys their power"),
        )
        .next(
            "`ringfence revoke key KID` stops a key now; `ringfence keys manifest request --fresh` asks for new ones",
        ));
    }
    let purpose = purpose.map(str::parse::<Purpose>).transpose().map_err(|_| {
        Failure::new(Kind::Usage, "there is no such purpose").next("use `sts-session`, `api` or `admission`")
    })?;
    let scopes: Vec<Scope> = installation
        .session_scopes(&realm)
        .into_iter()
        .filter(|(owner, act)| tenant.is_none_or(|name| owner.as_str() == name) && purpose.is_none_or(|p| p == *act))
        .map(|(tenant, purpose)| Scope { realm: realm.clone(), tenant, purpose })
        .collect();
    if scopes.is_empty() {
        return Err(
            Failure::new(Kind::Usage, "no tenant of that realm has such keys").next("see `ringfence keys list`")
        );
    }
    let _one_at_a_time = installation.changing_keys().await;
    let fresh = fresh_keys(installation, &scopes)?;
    let record = installation.enact_rows(&realm, fresh.clone(), permit).await?;
    let mut rows = vec![];
    for (scope, key) in scopes.iter().zip(&fresh) {
        let destroyed = installation.vault().destroy_older_keys(scope, key.public.kid());
        let destroyed = destroyed.map_err(|e| Failure::new(Kind::Unavailable, e))?;
        rows.push(json!({
            "tenant": scope.tenant,
            "purpose": scope.purpose,
            "kid": key.public.kid().to_string(),
            "destroyed": destroyed,
        }));
    }
    Ok(json!({ "realm": realm, "record": record, "keys": rows }))
}

fn fresh_keys(installation: &Installation, scopes: &[Scope]) -> Result<Vec<KeyRow>, Failure> {
    let (sites, now_s) = (installation.session_sites(), installation.now_s());
    let made = scopes.iter().map(|scope| installation.vault().plan_fresh_key(scope, &sites, now_s));
    made.collect::<Result<_, _>>().map_err(|e| Failure::new(Kind::Unavailable, e))
}

/// What the offline root is to sign next.
pub(super) async fn request(
    installation: &Installation,
    realm_name: Option<&str>,
    days: u64,
    fresh: bool,
) -> Result<Value, Failure> {
    let realm = realm(installation, realm_name)?;
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(Failure::new(Kind::Usage, format!("{days} days cannot be planned")).next("ask for 1 to 366"));
    }
    let _one_at_a_time = installation.changing_keys().await;
    let (scopes, sites, now_s) =
        (installation.session_scopes(&realm), installation.session_sites(), installation.now_s());
    let vault = installation.vault();
    let planned = vault.plan_keys(&realm, &scopes, &sites, now_s, days);
    let mut rows = planned.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    if fresh {
        let scopes = scopes.into_iter().map(|(tenant, purpose)| Scope { realm: realm.clone(), tenant, purpose });
        rows.extend(fresh_keys(installation, &scopes.collect::<Vec<_>>())?);
    }
    let manifest = installation.next_manifest(&realm, rows);
    let request = Request { manifest, previous: installation.authority().manifest(&realm) };
    let text = request.to_text();
    if text.len() / 4 * 3 > ringfence_access::manifests::MANIFEST_BYTES_MAX {
        return Err(
            Failure::new(Kind::Usage, "these are more keys than one manifest holds").next("ask for fewer `--days`")
        );
    }
    Ok(json!({
        "realm": realm,
        "seq": request.manifest.seq,
        "keys": request.manifest.keys.len(),
        "words": request.in_words(),
        "request": text,
    }))
}

/// Puts a manifest in force that the root signed.
pub(super) async fn apply(
    installation: &Installation,
    permit: Permit<Administer>,
    text: &str,
) -> Result<Value, Failure> {
    let signed = SignedManifest::from_text(text)?;
    let realm = realm(installation, Some(signed.manifest.realm.as_str()))?;
    let _one_at_a_time = installation.changing_keys().await;
    let seq = signed.manifest.seq;
    let checked = match installation.authority().check(&realm, signed) {
        Ok(checked) => checked,
        Err(bad) => {
            // The refusal is on record before it is answered, and aloud.
            if bad.is_rollback() {
                let (kind, realm) = (AlarmKind::ManifestRollback, Some(realm));
                installation
                    .alarms()
                    .raise(Alarm { kind, realm, tenant: None, detail: bad.to_string(), of: None })
                    .await;
            }
            super::handle::record(
                installation,
                permit.record(|resource| {
                    resource.detail = Some(format!("refused: {bad}"));
                }),
            )
            .await
            .map(drop)?;
            return Err(Failure::new(Kind::Refused, bad).next("`ringfence keys manifest show` says what is in force"));
        }
    };
    let keys = checked.signed().manifest.keys.len();
    let record = installation.enact(checked, permit).await?;
    Ok(json!({ "realm": realm, "seq": seq, "keys": keys, "record": record }))
}

/// The manifest in force, and the root it is under.
pub(super) fn show(installation: &Installation, realm_name: Option<&str>) -> Result<Value, Failure> {
    let realm = realm(installation, realm_name)?;
    let (signed, roots) = (installation.authority().manifest(&realm), installation.authority().roots(&realm));
    let root = |root: &ringfence_access::manifests::PinnedRoot| json!({ "public": root.public.to_string(), "fingerprint": fingerprint(&root.public), "since_seq": root.since_seq });
    let manifest = signed.as_ref().map(|signed| {
        json!({
            "seq": signed.manifest.seq,
            "sha256": hex::encode(signed.manifest.sha256()),
            "made_ms": signed.manifest.made_s * 1000,
            "keys": signed.manifest.keys.len(),
            "text": signed.to_text(),
        })
    });
    Ok(json!({
        "realm": realm,
        "development_root": installation.vault().root_is_development(&realm),
        "roots": roots.iter().map(root).collect::<Vec<_>>(),
        "manifest": manifest,
    }))
}

/// Pins the root that takes over. The development root signs that itself; an
/// offline one must have signed it.
pub(super) async fn adopt(
    installation: &Installation,
    _because: &Recorded<Permit<Administer>>,
    text: &str,
) -> Result<Value, Failure> {
    let hand_over = HandOver::from_text(text).ok();
    let new = match &hand_over {
        Some(hand_over) => hand_over.to.clone(),
        None => RootPublic::from_text(text)?,
    };
    let realm = realm(installation, Some(new.realm.as_str()))?;
    let _one_at_a_time = installation.changing_keys().await;
    let roots = installation.authority().roots(&realm);
    let now = roots.in_force().ok_or_else(|| Failure::internal("the realm has no root"))?.public;
    if roots.iter().any(|root| root.public == new.public) {
        return Err(Failure::new(Kind::Usage, "this root was in force before, or is")
            .next("make a new one with `ringfence keys root new`"));
    }
    let development = installation.vault().root_is_development(&realm);
    let signed = hand_over.as_ref().is_some_and(|hand_over| hand_over.from == now && hand_over.holds());
    if !development && !signed {
        return Err(Failure::new(
            Kind::Refused,
            format!("the root in force, {}, did not sign that this one takes over", fingerprint(&now)),
        )
        .next("let it: `ringfence keys root handover --root OLD NEW.pub`"));
    }
    let since_seq = installation.authority().manifest(&realm).map_or(1, |signed| signed.manifest.seq + 1);
    let pinned = installation.vault().pin_root(&realm, new.public, since_seq);
    pinned.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    Ok(json!({
        "realm": realm,
        "public": new.public.to_string(),
        "fingerprint": fingerprint(&new.public),
        "since_seq": since_seq,
        "was_development": development,
    }))
}

/// What an adoption is about, for its record.
pub(super) fn adoption(text: &str) -> Result<String, Failure> {
    let (new, from) = match HandOver::from_text(text) {
        Ok(hand_over) => (hand_over.to, Some(hand_over.from)),
        Err(_) => (RootPublic::from_text(text)?, None),
    };
    let from = from.map(|from| format!(", handed over by {from}")).unwrap_or_default();
    Ok(format!("root {} takes over realm {}{from}", new.public, new.realm))
}
