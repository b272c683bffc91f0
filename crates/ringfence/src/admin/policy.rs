//! `policy show|check|test|apply`.

use std::path::Path;

use ringfence_access::Permit;
use ringfence_access::permit::Administer;
use ringfence_access::policy::cases::run_cases;
use ringfence_access::policy::{Engine, PolicyErrors, PolicySet};
use ringfence_format::names::{BucketId, BucketName, Tenant};
use ringfence_format::redo::Bucket;
use serde_json::{Value, json};

use crate::cli::{Failure, Kind};
use crate::installation::{FIRST_TENANT, Installation, read_set};

/// The policies in force.
pub(super) fn show(installation: &Installation) -> Value {
    let engine = installation.engine();
    let set = engine.set();
    json!({
        "epoch": engine.epoch(),
        "sha256": hex::encode(set.sha256()),
        "policies": set.policies().collect::<Vec<_>>(),
    })
}

/// Whether a text is valid, and what would become different.
pub(super) fn check(installation: &Installation, text: String) -> Result<Value, Failure> {
    let set = read(installation, &text)?;
    Ok(json!({ "valid": true, "policies": set.policies().len(), "diff": diff(installation, &set) }))
}

/// Every label at every site; or a file of expectations.
pub(super) fn test(installation: &Installation, text: Option<String>, cases: Option<String>) -> Result<Value, Failure> {
    let set = match &text {
        Some(text) => read(installation, text)?,
        // Read again rather than shared: an engine owns its set.
        None => read(installation, &in_force_text(installation)?)?,
    };
    if let Some(cases) = cases {
        let report = run_cases(&cases, &set).map_err(|e| Failure::new(Kind::Configuration, e))?;
        let failed = report.failed();
        return Ok(json!({ "cases": report.cases, "failed": failed }));
    }
    let engine = Engine::new(set, installation.engine().epoch());
    Ok(json!({ "epoch": engine.epoch(), "table": truth_table(installation, &engine) }))
}

fn truth_table(installation: &Installation, engine: &Engine) -> Vec<Value> {
    let bucket = Bucket {
        id: BucketId([0; 16]),
        name: BucketName::parse("any").expect("a literal that obeys the rule"),
        tenant: Tenant::parse(FIRST_TENANT).expect("a literal that obeys the rule"),
        created_ms: 0,
        pin: None,
        tags: vec![],
    };
    let rows = installation.labels.labels().iter().flat_map(|label| {
        engine.explain_place(&bucket, label).sites.into_iter().map(move |site| {
            json!({
                "label": label,
                "site": site.site,
                "kind": site.kind,
                "jurisdiction": site.jurisdiction,
                "allowed": site.allowed,
                "chosen": site.chosen,
                "policies": site.policies.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(),
            })
        })
    });
    rows.collect()
}

/// What a change would do, in the words of its record.
///
/// # Errors
/// The text is not valid; what is in force stays.
pub(super) fn proposal(installation: &Installation, text: &str) -> Result<String, Failure> {
    Ok(diff(installation, &read(installation, text)?))
}

/// Puts a text in force: recorded with its diff and its actor first.
pub(super) async fn apply(
    installation: &Installation,
    permit: Permit<Administer>,
    text: String,
) -> Result<Value, Failure> {
    let _one_at_a_time = installation.changing_policies().await;
    let set = read(installation, &text)?;
    let engine = installation.engine();
    let changes = diff(installation, &set);
    if set.sha256() == engine.set().sha256() {
        return Ok(json!({ "epoch": engine.epoch(), "changed": false, "diff": "" }));
    }
    let (epoch, record) = installation.put_in_force(permit, set, &text).await?;
    Ok(json!({ "epoch": epoch, "changed": true, "record": record, "diff": changes }))
}

fn diff(installation: &Installation, set: &PolicySet) -> String {
    set.diff(&installation.engine().set())
}

fn in_force_text(installation: &Installation) -> Result<String, Failure> {
    let file = installation.dir().join(crate::installation::IN_FORCE);
    std::fs::read_to_string(&file)
        .map_err(|e| Failure::new(Kind::Unavailable, format!("cannot read `{}`: {e}", file.display())))
}

fn read(installation: &Installation, text: &str) -> Result<PolicySet, Failure> {
    let name = Path::new("policy.cedar");
    read_set(installation.engine().set().setting(), name, text).map_err(|errors| invalid(&errors))
}

/// Everything that is wrong, one a line.
fn invalid(errors: &PolicyErrors) -> Failure {
    let all: Vec<String> = errors
        .iter()
        .map(|e| match e.help() {
            Some(help) => format!("{e} ({help})"),
            None => e.to_string(),
        })
        .collect();
    Failure::new(Kind::Configuration, all.join("\n       ")).next("mend the text; the policies in force stay")
}
