//! `site list` and `site check`.

use ringfence_store::site::{Breaker, Site};
use serde_json::{Value, json};

use super::call::Progress;
use crate::cli::{Failure, Kind};
use crate::config::SiteType;
use crate::installation::Installation;

/// The configured sites.
pub(super) fn list(installation: &Installation) -> Value {
    let left_out = installation.left_out();
    let sites = installation.config().site.iter().map(|site| {
        let open = installation.store().site(&site.id);
        let out = left_out.iter().find(|(id, _)| *id == site.id).map(|(_, why)| why.clone());
        let (state, why, next) = state(open.as_deref(), out);
        json!({
            "state": state,
            "why": why,
            "next_trial_ms": next,
            "id": site.id,
            "kind": site.kind,
            "type": site.type_,
            "jurisdiction": site.jurisdiction,
            "provider": site.provider,
            "dedicated": site.dedicated,
            "tags": site.tags,
            "place": match site.type_ {
                SiteType::Directory => site.path.as_ref().map(|p| installation.dir().join(p).display().to_string()),
                _ => Some(format!(
                    "{}/{}",
                    site.endpoint.as_deref().unwrap_or_default(),
                    site.bucket.as_deref().unwrap_or_default()
                )),
            },
        })
    });
    json!({ "sites": sites.collect::<Vec<_>>() })
}

/// Whether a site is used now, why not, and when it is tried again
/// (milliseconds since the epoch).
fn state(site: Option<&Site>, left_out: Option<String>) -> (&'static str, Option<String>, Option<u64>) {
    let Some(health) = site.map(Site::health) else { return ("left out", left_out, None) };
    match (health.breaker, health.passed_over) {
        (Breaker::Closed, None) => ("ok", health.why, None),
        (Breaker::Closed, why) => ("no writes", why, None),
        (Breaker::HalfOpen, _) => ("tried out", health.why, None),
        (Breaker::Open, _) => ("resting", health.why, health.next_trial_ms),
    }
}

/// What each site can really do, found out by doing it.
pub(super) async fn check(
    installation: &Installation,
    wanted: Option<&str>,
    progress: &dyn Progress,
) -> Result<Value, Failure> {
    let sites = installation.sites();
    let chosen: Vec<_> = sites.iter().filter(|s| wanted.is_none_or(|w| s.id().as_str() == w)).collect();
    if let (true, Some(wanted)) = (chosen.is_empty(), wanted) {
        return Err(Failure::new(Kind::Usage, format!("no site is called `{wanted}`"))
            .next("`ringfence site list` shows those there are"));
    }
    let mut reports = Vec::new();
    for (done, site) in chosen.iter().enumerate() {
        progress.at("sites", done as u64, chosen.len() as u64);
        site.ask_again();
        let report = ringfence_store::site::probe::check(site, installation.id()).await;
        let usable = report.is_usable();
        let mut row = serde_json::to_value(report).map_err(Failure::internal)?;
        row["usable"] = usable.into();
        for step in row["steps"].as_array_mut().into_iter().flatten() {
            let ms = step["ms"].as_f64().unwrap_or_default();
            step["ms"] = ((ms * 10.0).round() / 10.0).into();
        }
        reports.push(row);
    }
    Ok(json!({ "sites": reports }))
}
