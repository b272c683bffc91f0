//! The one way of every administrative call: who → decide → record → act.

use ringfence_access::caller::{self, PeerCredential};
use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::names::Tenant;
use ringfence_log::Recorded;
use ringfence_store::SweepMode;
use serde_json::Value;

use super::call::{Call, Progress};
use super::{alarms, cuts, data, drill, keys, logs, policy, revoke, session_keys, sites, tenants, trust, witnesses};
use crate::cli::{Failure, Kind};
use crate::installation::Installation;

/// Answers one call by whoever the kernel says is at the other end.
///
/// Everything that reads is recorded before it reads. What changes state hands
/// its permit to the store, which records it with the change; what changes
/// keys is recorded first and done then.
pub async fn handle(
    installation: &Installation,
    peer: PeerCredential,
    call: Call,
    progress: &dyn Progress,
) -> Result<Value, Failure> {
    let permit = permit(installation, peer, &call).await?;
    match call {
        Call::TenantAdd { name, realm, default_label } => {
            tenants::add(installation, permit, &name, realm.as_deref(), default_label.as_deref()).await
        }
        Call::KeyAdd { tenant, name } => tenants::add_key(installation, permit, &tenant, &name).await,
        Call::KeyDisable { id } => tenants::disable_key(installation, permit, &id).await,
        Call::PolicyApply { text } => policy::apply(installation, permit, text).await,
        Call::LogWitnessesSet { require, witnesses, signed } => {
            witnesses::set(installation, permit, require, witnesses, signed.as_deref()).await
        }
        Call::ManifestApply { text } => session_keys::apply(installation, permit, &text).await,
        Call::KeysRotateIssuer { realm, tenant, purpose } => {
            session_keys::rotate(installation, permit, realm.as_deref(), tenant.as_deref(), purpose.as_deref()).await
        }
        Call::Revoke(what) => revoke::revoke(installation, permit, &what).await,
        Call::RevokeLift { index, .. } => revoke::lift(installation, permit, index).await,
        recorded => {
            let receipt = record(installation, permit).await?;
            after_record(installation, receipt, recorded, progress).await
        }
    }
}

async fn after_record(
    installation: &Installation,
    receipt: Recorded<Permit<Administer>>,
    call: Call,
    progress: &dyn Progress,
) -> Result<Value, Failure> {
    match call {
        Call::Status {} => data::status(installation),
        Call::TenantList {} => Ok(tenants::list(installation)),
        Call::KeyList { tenant } => tenants::list_keys(installation, tenant.as_deref()),
        Call::KeysBackup { file, passphrase } => keys::backup(installation, &receipt, &file, passphrase),
        Call::KeysRotate { tenant } => keys::rotate(installation, &receipt, tenant.as_deref(), progress).await,
        Call::KeysList { realm } => session_keys::list(installation, realm.as_deref()),
        Call::ManifestRequest { realm, days, fresh } => {
            session_keys::request(installation, realm.as_deref(), days, fresh).await
        }
        Call::ManifestShow { realm } => session_keys::show(installation, realm.as_deref()),
        Call::RootAdopt { text } => session_keys::adopt(installation, &receipt, &text).await,
        Call::RevokeList {} => revoke::list(installation),
        Call::TrustExport {} => trust::export(installation).await,
        Call::SiteList {} => Ok(sites::list(installation)),
        Call::SiteCheck { site } => sites::check(installation, site.as_deref(), progress).await,
        Call::PolicyShow {} => Ok(policy::show(installation)),
        Call::PolicyCheck { text } => policy::check(installation, text),
        Call::PolicyTest { text, cases } => policy::test(installation, text, cases),
        Call::PolicyExplain { request } => logs::explain(installation, &request),
        Call::Where { bucket, key } => data::whereabouts(installation, &bucket, &key),
        Call::Usage { bucket } => data::usage(installation, &bucket),
        Call::LogProve { request } => logs::prove(installation, &request).await,
        Call::LogShow { request: Some(request), .. } => logs::show_one(installation, &request),
        Call::LogShow { request: None, from, limit } => logs::show(installation, from, limit),
        Call::LogTrim { before, dry_run } => cuts::trim(installation, receipt, before.as_deref(), dry_run).await,
        Call::LogErase(erase) => cuts::erase(installation, receipt, &erase).await,
        Call::LogWitnesses {} => witnesses::show(installation).await,
        Call::LogWitnessesNext { require, witnesses } => witnesses::next(installation, require, witnesses).await,
        Call::AlarmList { since } => alarms::list(installation, since).await,
        Call::DrillBegin(what) => drill::begin(installation, what).await,
        Call::DrillEnd {} => drill::end(installation),
        Call::Scrub {} => data::scrub(installation, receipt, progress).await,
        Call::Sweep { dry_run: true, .. } => data::sweep(installation, receipt, SweepMode::DryRun).await,
        Call::Sweep { confirm_recovered: true, .. } => {
            data::sweep(installation, receipt, SweepMode::EraseRecovered).await
        }
        Call::Sweep { .. } => data::sweep(installation, receipt, SweepMode::Erase).await,
        Call::TenantAdd { .. }
        | Call::KeyAdd { .. }
        | Call::KeyDisable { .. }
        | Call::PolicyApply { .. }
        | Call::LogWitnessesSet { .. }
        | Call::ManifestApply { .. }
        | Call::KeysRotateIssuer { .. }
        | Call::Revoke(_)
        | Call::RevokeLift { .. } => {
            unreachable!("these are recorded with what they change")
        }
    }
}

/// Decides; a refusal is recorded before it is answered (INVARIANT 8).
async fn permit(installation: &Installation, peer: PeerCredential, call: &Call) -> Result<Permit<Administer>, Failure> {
    let own = rustix::process::geteuid().as_raw();
    let caller = match caller::operator(peer, own) {
        Ok(caller) => caller,
        Err(refused) => {
            record(installation, refused).await.map(drop)?;
            return Err(Failure::new(Kind::Refused, "only the user the server runs as, and root, may administer")
                .next("run the command as that user"));
        }
    };
    let ask = ask(installation, call)?;
    let now_us = installation.clock().now_us();
    match installation.engine().decide::<Administer>(&caller, ask, now_us) {
        Ok(permit) => Ok(permit),
        Err(denial) => {
            let policies = denial.policy_ids().join(", ");
            let reason = denial.reason().to_owned();
            record(installation, denial).await.map(drop)?;
            Err(Failure::new(Kind::Refused, format!("policy refuses it: {reason}"))
                .next(format!("see `ringfence policy show` ({policies})")))
        }
    }
}

/// Makes an entry durable in the log.
pub(super) async fn record<T: ringfence_log::Entry + Send + 'static>(
    installation: &Installation,
    entry: T,
) -> Result<Recorded<T>, Failure> {
    installation.log().record(entry).await.map_err(|error| {
        Failure::new(Kind::Unavailable, format!("it cannot be recorded, so it is not done: {error}"))
            .next("see `/readyz` and the free space of the log's disk")
    })
}

/// What a call is about, as policies and records name it.
fn ask(installation: &Installation, call: &Call) -> Result<Ask, Failure> {
    let on_tenant = |op, name: &str| tenant(name).map(|tenant| Ask::on_tenant(op, &tenant));
    let detailed = |ask: Ask, text: String| ask.record(|resource| resource.detail = Some(text));
    Ok(match call {
        Call::Status {} => Ask::on_installation("admin:Status"),
        Call::TenantList {} => Ask::on_installation("admin:TenantList"),
        Call::TenantAdd { name, realm: None, .. } => on_tenant("admin:TenantAdd", name)?,
        Call::TenantAdd { name, realm: Some(realm), .. } => {
            detailed(on_tenant("admin:TenantAdd", name)?, format!("in realm {realm}"))
        }
        Call::KeyList { tenant: Some(name) } => on_tenant("admin:KeyList", name)?,
        Call::KeyList { tenant: None } => Ask::on_installation("admin:KeyList"),
        Call::KeyAdd { tenant, name } => detailed(on_tenant("admin:KeyAdd", tenant)?, name.clone()),
        Call::KeyDisable { id } => detailed(tenants::ask_about_key(installation, "admin:KeyDisable", id)?, id.clone()),
        Call::KeysBackup { .. } => Ask::on_installation("admin:KeysBackup"),
        Call::KeysRotate { tenant: Some(name) } => on_tenant("admin:KeysRotate", name)?,
        Call::KeysRotate { tenant: None } => Ask::on_installation("admin:KeysRotate"),
        Call::KeysList { .. } => Ask::on_installation("admin:KeysList"),
        Call::KeysRotateIssuer { .. } => Ask::on_installation("admin:KeysRotateIssuer"),
        Call::ManifestRequest { days, .. } => {
            detailed(Ask::on_installation("admin:ManifestRequest"), format!("for {days} days"))
        }
        Call::ManifestApply { .. } => Ask::on_installation("admin:ManifestApply"),
        Call::ManifestShow { .. } => Ask::on_installation("admin:ManifestShow"),
        Call::RootAdopt { text } => detailed(Ask::on_installation("admin:RootAdopt"), session_keys::adoption(text)?),
        Call::Revoke(revoke) => {
            let from = revoke.from_index.map(|index| format!(" from #{index} on")).unwrap_or_default();
            let why = revoke.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            detailed(
                Ask::on_installation("admin:Revoke"),
                format!("{} {}{from}{why}", revoke.what.name(), revoke.which),
            )
        }
        Call::RevokeLift { index, reason } => {
            let why = reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
            detailed(Ask::on_installation("admin:RevokeLift"), format!("#{index}{why}"))
        }
        Call::RevokeList {} => Ask::on_installation("admin:RevokeList"),
        Call::TrustExport {} => Ask::on_installation("admin:TrustExport"),
        Call::SiteList {} => Ask::on_installation("admin:SiteList"),
        Call::SiteCheck { site } => detailed(Ask::on_installation("admin:SiteCheck"), site.clone().unwrap_or_default()),
        Call::PolicyShow {} => Ask::on_installation("admin:PolicyShow"),
        Call::PolicyCheck { .. } => Ask::on_installation("admin:PolicyCheck"),
        Call::PolicyTest { .. } => Ask::on_installation("admin:PolicyTest"),
        // The record of a change says what it changes.
        Call::PolicyApply { text } => {
            detailed(Ask::on_installation("admin:PolicyApply"), policy::proposal(installation, text)?)
        }
        Call::PolicyExplain { request } => detailed(Ask::on_installation("admin:PolicyExplain"), request.clone()),
        Call::Where { bucket, key } => data::ask_where(installation, bucket, key)?,
        Call::Usage { bucket } => data::ask_usage(installation, bucket)?,
        Call::LogProve { request } => detailed(Ask::on_installation("admin:LogProve"), request.clone()),
        Call::LogShow { request, from, limit } => {
            let what = request.clone().unwrap_or_else(|| match from {
                Some(from) => format!("from {from}, {limit}"),
                None => format!("the last {limit}"),
            });
            detailed(Ask::on_installation("admin:LogShow"), what)
        }
        Call::LogTrim { before, dry_run } => cuts::ask_to_trim(installation, before.as_deref(), *dry_run)?,
        Call::LogErase(erase) => cuts::ask_to_erase(installation, erase)?,
        Call::LogWitnesses {} => Ask::on_installation("admin:LogWitnesses"),
        Call::LogWitnessesNext { .. } => Ask::on_installation("admin:LogWitnessesNext"),
        Call::LogWitnessesSet { require, witnesses, signed } => {
            witnesses::ask_to_set(*require, witnesses, signed.is_some())
        }
        Call::AlarmList { since } => {
            let what = since.map_or_else(|| "the latest".to_owned(), |since| format!("from {since}"));
            detailed(Ask::on_installation("admin:AlarmList"), what)
        }
        Call::DrillBegin(_) => Ask::on_installation("admin:DrillBegin"),
        Call::DrillEnd {} => Ask::on_installation("admin:DrillEnd"),
        Call::Scrub {} => Ask::on_installation("admin:Scrub"),
        Call::Sweep { dry_run: true, .. } => Ask::on_installation("admin:SweepDryRun"),
        Call::Sweep { .. } => Ask::on_installation("admin:Sweep"),
    })
}

/// A tenant's name as the operator typed it.
pub(super) fn tenant(name: &str) -> Result<Tenant, Failure> {
    let tenant = Tenant::parse(name).map_err(|e| Failure::new(Kind::Usage, e))?;
    if tenant.as_str() == caller::PROVIDER {
        return Err(Failure::new(Kind::Usage, format!("tenant `{name}` is reserved")).next("choose another name"));
    }
    Ok(tenant)
}

/// A tenant that exists.
pub(super) fn known_tenant(installation: &Installation, name: &str) -> Result<Tenant, Failure> {
    let tenant = tenant(name)?;
    match installation.catalog().tenant(&tenant) {
        Some(_) => Ok(tenant),
        None => Err(Failure::new(Kind::Usage, format!("no tenant is called `{name}`"))
            .next("`ringfence tenant list` shows those there are")),
    }
}
