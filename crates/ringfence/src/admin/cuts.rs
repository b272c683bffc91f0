//! `log trim` and `log erase`: what goes from the log, asked for by the operator.

use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::leaf::parse_request_id;
use ringfence_format::names::Principal;
use ringfence_log::Recorded;
use serde_json::{Value, json};

use super::call::Erase;
use super::handle::known_tenant;
use crate::cli::{Failure, Kind};
use crate::erasure::{Eraser, Selection};
use crate::installation::Installation;
use crate::retention::{Schedule, Trimmer, parse_time};

/// The longest reason that a record keeps.
const REASON_CHARS_MAX: usize = 1000;

/// The question whether the log may be trimmed.
pub(super) fn ask_to_trim(installation: &Installation, before: Option<&str>, dry_run: bool) -> Result<Ask, Failure> {
    let schedule = schedule(installation, before)?;
    let op = if dry_run { "admin:LogTrimDryRun" } else { "admin:LogTrim" };
    Ok(Ask::on_installation(op).record(|resource| resource.detail = Some(schedule.describe())))
}

/// Trims what is due, or says what would be.
pub(super) async fn trim(
    installation: &Installation,
    because: Recorded<Permit<Administer>>,
    before: Option<&str>,
    dry_run: bool,
) -> Result<Value, Failure> {
    let schedule = schedule(installation, before)?;
    let trimmer = Trimmer::new(installation, schedule);
    let by = because.index();
    let mut answer = match dry_run {
        true => json!(trimmer.look().await?.0),
        false => json!(trimmer.trim(because).await?),
    };
    answer["dry_run"] = json!(dry_run);
    answer["record"] = json!(by);
    answer["schedule"] = json!(schedule.describe());
    Ok(answer)
}

/// What is configured; `--before` counts for access records alone.
fn schedule(installation: &Installation, before: Option<&str>) -> Result<Schedule, Failure> {
    let configured = Schedule::of(installation);
    let Some(before) = before else { return Ok(configured) };
    let access_before_us = parse_time(before)?;
    if access_before_us > installation.clock().now_us() {
        return Err(Failure::new(Kind::Usage, format!("`{before}` is in the future"))
            .next("records are trimmed up to a time that is over"));
    }
    Ok(Schedule { access_before_us, ..configured })
}

/// The question whether records may be erased: about the tenant they are of.
pub(super) fn ask_to_erase(installation: &Installation, erase: &Erase) -> Result<Ask, Failure> {
    let selection = selection(installation, erase)?;
    let op = if erase.confirm { "admin:LogErase" } else { "admin:LogEraseDryRun" };
    let ask = match &selection.tenant {
        Some(tenant) => Ask::on_tenant(op, tenant),
        None => Ask::on_installation(op),
    };
    let detail = format!("{}; because: {}", selection.describe(), erase.reason.trim());
    Ok(ask.record(|resource| resource.detail = Some(detail)))
}

/// Erases, or says what would be.
pub(super) async fn erase(
    installation: &Installation,
    because: Recorded<Permit<Administer>>,
    erase: &Erase,
) -> Result<Value, Failure> {
    let selection = selection(installation, erase)?;
    let eraser = Eraser::new(installation);
    let by = because.index();
    let what = selection.describe();
    let mut answer = match erase.confirm {
        true => json!(eraser.erase(because, selection).await?),
        false => json!(eraser.look(selection).await?),
    };
    answer["dry_run"] = json!(!erase.confirm);
    answer["record"] = json!(by);
    answer["selection"] = json!(what);
    Ok(answer)
}

fn selection(installation: &Installation, erase: &Erase) -> Result<Selection, Failure> {
    let usage = |message: &str, next: &str| Err(Failure::new(Kind::Usage, message).next(next));
    let reason = erase.reason.trim();
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        return usage("an erasure needs a reason of at most 1000 characters", "`--reason` stands in its record");
    }
    if erase.request.is_none() && erase.tenant.is_none() {
        return usage("whose records are to be erased was not said", "give a request id, or `--tenant`");
    }
    let record = match &erase.request {
        None => None,
        Some(id) => match parse_request_id(id).filter(|seq| *seq < installation.log().durable_size()) {
            Some(seq) => Some(seq),
            None => return usage("no such request is on record", "the request id stands in `x-amz-request-id`"),
        },
    };
    let tenant = erase.tenant.as_deref().map(|name| known_tenant(installation, name)).transpose()?;
    let principal = erase.principal.as_deref().map(Principal::parse).transpose();
    let principal = principal.map_err(|e| Failure::new(Kind::Usage, e))?;
    if principal.is_some() && tenant.is_none() {
        return usage("a principal is one of a tenant", "give `--tenant` too");
    }
    let from_us = erase.from.as_deref().map(parse_time).transpose()?;
    let until_us = erase.until.as_deref().map(parse_time).transpose()?;
    if let (Some(from), Some(until)) = (from_us, until_us)
        && from >= until
    {
        return usage(
            "`--from` is not before `--until`",
            "records from the first time on, before the second, are meant",
        );
    }
    Ok(Selection { record, tenant, principal, from_us, until_us })
}
