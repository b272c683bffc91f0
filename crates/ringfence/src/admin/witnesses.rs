//! `log witnesses`: who must cosign the log's checkpoints, and how they do.

use ringfence_access::permit::Administer;
use ringfence_access::{Ask, Permit};
use ringfence_format::witness::{SignedWitnessSet, WitnessKey};
use serde_json::{Value, json};

use crate::cli::{Failure, Kind};
use crate::installation::Installation;
use crate::witness::in_force::configured;

/// The set in force, and what of each witness is known.
pub(super) async fn show(installation: &Installation) -> Result<Value, Failure> {
    let log = installation.log();
    let set = installation.witness_set().await;
    let failures = log.witness_failures();
    let asked = configured(installation.config())?;
    let best = log.witnessed();
    let named = |text: &String| {
        let key: Option<WitnessKey> = text.parse().ok();
        let name = key.as_ref().map(|key| key.name().to_owned()).unwrap_or_default();
        let url = asked.iter().find(|asked| Some(&asked.key) == key.as_ref()).map(|asked| asked.url.to_string());
        let cosigned = best.as_ref().and_then(|b| b.cosigned.by.iter().find(|(by, _)| *by == name));
        json!({
            "name": name,
            "key": text,
            "url": url,
            "cosigned_ms": cosigned.map(|(_, time_s)| time_s * 1000),
            "failure": failures.get(&name),
        })
    };
    let size = best.as_ref().map(|best| best.size());
    Ok(json!({
        "set": set.as_ref().map(|set| set.seq),
        "required": set.as_ref().map_or(0, |set| set.k),
        "witnesses": set.iter().flat_map(|set| &set.witnesses).map(named).collect::<Vec<_>>(),
        "published": log.published_size(),
        "witnessed": size,
        "vouched_until_ms": best.map(|best| best.vouched_until_s * 1000),
    }))
}

/// In one line, for `status`.
pub(super) fn summary(installation: &Installation) -> String {
    let log = installation.log();
    let Some(quorum) = log.quorum() else {
        return "none: compare with a checkpoint you keep elsewhere".to_owned();
    };
    let required = format!("{} of {} must cosign", quorum.k(), quorum.witnesses().len());
    let Some(best) = log.witnessed() else { return format!("{required}: no checkpoint has been") };
    let now_s = installation.clock().now_us() / 1_000_000;
    let age_s = now_s.saturating_sub(best.vouched_until_s);
    format!("{required}: {} of {} records are witnessed, {age_s} s ago", best.size(), log.published_size())
}

/// The set that would come next, for the root to sign.
pub(super) async fn next(installation: &Installation, require: u32, keys: Vec<String>) -> Result<Value, Failure> {
    let set = installation.next_witness_set(require, keys).await?;
    Ok(json!({ "set": set.seq, "request": hex::encode(set.to_bytes()) }))
}

/// Puts a set in force: one that is signed, or one for the development root.
pub(super) async fn set(
    installation: &Installation,
    permit: Permit<Administer>,
    require: u32,
    keys: Vec<String>,
    signed: Option<&str>,
) -> Result<Value, Failure> {
    let signed = match signed {
        Some(text) => {
            let bytes = hex::decode(text).map_err(|e| Failure::new(Kind::Usage, e))?;
            SignedWitnessSet::from_bytes(&bytes).map_err(|e| Failure::new(Kind::Usage, e))?
        }
        None => installation.sign_witness_set(installation.next_witness_set(require, keys).await?)?,
    };
    let record = installation.set_witnesses(permit, signed).await?;
    let mut shown = show(installation).await?;
    shown["record"] = json!(record);
    Ok(shown)
}

/// What a change is about.
pub(super) fn ask_to_set(require: u32, keys: &[String], signed: bool) -> Ask {
    let what = match signed {
        true => "a set signed by the realm's root".to_owned(),
        false => format!("{require} of {}", keys.join(", ")),
    };
    Ask::on_installation("admin:LogWitnessesSet").record(|resource| resource.detail = Some(what))
}
