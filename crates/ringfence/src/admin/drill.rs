//! What a drill is played on: two realms of its own, their issuers and roles,
//! and keys that are in other hands from the start.

use ringfence_access::Ask;
use ringfence_access::evidence::{Algorithm, IssuerEntry};
use ringfence_access::narrowing::{Glob, Narrowing};
use ringfence_access::roles::Role;
use ringfence_format::names::{Principal, Realm, Tenant};
use ringfence_format::session::{KeyRow, PublicKey, Purpose};
use serde_json::{Value, json};

use super::call::DrillBegin;
use crate::cli::drill::{AUDIENCE, CONSUMER, ENTERPRISE, ROLE};
use crate::cli::{Failure, Kind};
use crate::installation::Installation;

const DAY_S: u64 = 24 * 3600;

/// Makes the realms if no drill did before, lists the stolen keys in their
/// manifests, and lets the drill's issuers and roles count until
/// [`end`] or the next start.
pub(super) async fn begin(at: &Installation, what: DrillBegin) -> Result<Value, Failure> {
    let now_s = at.now_s();
    let in_force = (now_s / DAY_S * DAY_S, now_s + DAY_S);
    let over = (now_s - 3 * DAY_S, now_s - DAY_S);
    let stolen = row(at, CONSUMER, &what.stolen_of_consumers, in_force)?;
    realm(at, CONSUMER, vec![stolen]).await?;
    let stolen = [(&what.stolen, in_force), (&what.retired, over)];
    let stolen = stolen.into_iter().map(|(key, time)| row(at, ENTERPRISE, key, time));
    realm(at, ENTERPRISE, stolen.collect::<Result<_, _>>()?).await?;
    let issuers = vec![issuer(CONSUMER, &what.consumer), issuer(ENTERPRISE, &what.enterprise)];
    let roles = [CONSUMER, ENTERPRISE].map(|name| role(at, name));
    at.provide(issuers, roles.into_iter().collect::<Result<_, _>>()?)?;
    // Whose keys are whose is known before a token comes.
    at.issuers().refresh(now_s).await;
    Ok(json!({ "records": at.log().durable_size(), "gateway": at.sessions.gateway() }))
}

/// From here on only the configuration's issuers and roles count.
pub(super) fn end(at: &Installation) -> Result<Value, Failure> {
    at.provide(vec![], vec![])?;
    Ok(json!({}))
}

async fn realm(at: &Installation, name: &str, stolen: Vec<KeyRow>) -> Result<(), Failure> {
    let (realm, tenant) = (realm_of(name), tenant_of(name));
    if at.catalog().tenant(&tenant).is_none() {
        let permit = at.system_permit("drill", Ask::on_tenant("system:Drill", &tenant)).await?;
        at.make_tenant(permit, &realm, &tenant, None).await?;
    }
    if !at.vault.root_is_development(&realm) {
        return Err(Failure::new(Kind::Refused, format!("realm `{name}` has an offline root: it is not a drill's")));
    }
    at.rotate_session_keys().await?;
    let permit = at.system_permit("drill", Ask::on_installation("system:KeysManifest")).await?;
    at.enact_rows(&realm, stolen, permit).await.map(drop)
}

fn row(at: &Installation, tenant: &str, key: &str, (from_s, until_s): (u64, u64)) -> Result<KeyRow, Failure> {
    let public: PublicKey = key.parse().map_err(|e| Failure::new(Kind::Usage, e))?;
    let (tenant, sites) = (tenant_of(tenant), at.session_sites());
    Ok(KeyRow { public, tenant, purpose: Purpose::StsSession, sites, from_s, until_s })
}

fn issuer(name: &str, url: &str) -> IssuerEntry {
    IssuerEntry {
        name: Principal::parse(name).expect("a literal that obeys the rule"),
        url: url.to_owned(),
        realm: realm_of(name),
        tenant: tenant_of(name),
        audience: AUDIENCE.to_owned(),
        by_authorized_party: false,
        algorithms: vec![Algorithm::EdDsa],
        types: vec![Some("JWT".to_owned())],
        max_token_age_s: 3600,
        jwks_uri: None,
        pins: vec![],
        allow_loopback_http: true,
        claims: vec![],
    }
}

fn role(at: &Installation, tenant: &str) -> Result<Role, Failure> {
    let everything = ["*".to_owned()];
    Ok(Role {
        tenant: tenant_of(tenant),
        name: Principal::parse(ROLE).expect("a literal that obeys the rule"),
        issuers: vec![Principal::parse(tenant).expect("a literal that obeys the rule")],
        subjects: vec![Glob::new("*")],
        claims: std::collections::BTreeMap::new(),
        max_session_s: 900,
        max_label: at.labels.labels().strictest().clone(),
        narrowing: Narrowing::of_role(&["s3:*".to_owned()], &everything).map_err(Failure::internal)?,
        static_keys: false,
    })
}

fn realm_of(name: &str) -> Realm {
    Realm::parse(name).expect("a literal that obeys the rule")
}

fn tenant_of(name: &str) -> Tenant {
    Tenant::parse(name).expect("a literal that obeys the rule")
}
