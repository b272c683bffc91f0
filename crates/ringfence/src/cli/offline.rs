//! Commands that need no server and make no administrative call.

use std::path::{Path, PathBuf};

use serde_json::json;

use ringfence_db::disk::RealDisk;
use ringfence_format::checkpoint::VerifierKey;
use ringfence_format::leaf::PublicEntry;
use ringfence_format::proof::Proof;
use ringfence_log::fsck;
use ringfence_vault::{Passphrase, Vault};

use super::{Common, Failure, Kind, Output, passphrase};
use crate::config::{self, Config};
use crate::installation::{DataDir, Installation, unlock};

/// `ringfence config check`
pub fn config_check(common: &Common, file: Option<PathBuf>, output: &Output) -> Result<(), Failure> {
    let file = file.unwrap_or_else(|| common.data.join(config::FILE));
    let config = Config::load(&file)?;
    let checked = json!({
        "file": file.display().to_string(),
        "valid": true,
        "sites": config.site.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(),
    });
    output.answer(&checked, |o| {
        o.say(&format!("{}: valid, {} sites, {} labels", file.display(), config.site.len(), config.labels.order.len()));
    });
    Ok(())
}

/// `ringfence config schema`
pub fn config_schema(output: &Output) -> Result<(), Failure> {
    let schema = serde_json::to_string_pretty(&Config::schema()).map_err(Failure::internal)?;
    output.line(&schema);
    Ok(())
}

/// `ringfence log verify`: needs no server, no keys and no records.
pub fn log_verify(
    common: &Common,
    log: Option<PathBuf>,
    key: Option<PathBuf>,
    against: Option<PathBuf>,
    output: &Output,
) -> Result<(), Failure> {
    let dir = log.unwrap_or_else(|| common.data.join("log"));
    let key_file = key.unwrap_or_else(|| dir.join("log.vkey"));
    let key = verifier_key(&key_file)?;
    let earlier = against.map(|file| read(&file)).transpose()?;
    let bar = output.progress("entries", 0);
    let verified = fsck::verify(&RealDisk, &dir, &key, earlier.as_deref(), |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let verified = verified.map_err(|e| {
        Failure::new(Kind::Wrong, e)
            .next("keep the directory as it is: compare it with a copy, and with checkpoints kept elsewhere")
    })?;
    let report = json!({
        "verified": true,
        "origin": key.name(),
        "size": verified.checkpoint.size,
        "root": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, verified.checkpoint.root),
        "entries": verified.entries,
        "public": verified.public,
        "records": verified.records,
        "erased": verified.erased,
        "erased_by": verified.erased_by,
        "trimmed": verified.trimmed,
        "trimmed_by": verified.trimmed_by,
        "without_records": verified.without_records,
        "beyond_checkpoint": verified.beyond,
        "extends": verified.extends,
    });
    output.answer(&report, |o| {
        let by = |records: &std::collections::BTreeSet<u64>| match records.len() {
            0 => String::new(),
            1..=5 => {
                let named: Vec<_> = records.iter().map(|by| format!("#{by}")).collect();
                format!(" by record {}", named.join(", "))
            }
            n => format!(" by {n} records"),
        };
        let (erased, trimmed) = (by(&verified.erased_by), by(&verified.trimmed_by));
        o.say(&format!(
            "{} {} entries, {} erased{erased}, {} trimmed{trimmed}",
            o.good("verified:"),
            verified.entries,
            verified.erased,
            verified.trimmed,
        ));
        o.field("log", key.name());
        o.field("root", report["root"].as_str().unwrap_or_default());
        match verified.extends {
            Some(size) => o.field("continues", &format!("the earlier checkpoint of {size} entries")),
            None => o.say(&o.dim(
                "  not compared with an earlier checkpoint: keep this one elsewhere, and give it with --against next time",
            )),
        }
        if verified.without_records > 0 {
            o.field("records", "not in this copy, which has the tree alone: entries are proved, fields are not");
        }
        if verified.beyond > 0 {
            o.field("beyond", &format!("{} records are not under the checkpoint yet", verified.beyond));
        }
    });
    Ok(())
}

/// `ringfence log check`: one proof, one public key, nothing else.
pub fn log_check(common: &Common, proof: &Path, key: Option<PathBuf>, output: &Output) -> Result<(), Failure> {
    let key = verifier_key(&key.unwrap_or_else(|| common.data.join("log").join("log.vkey")))?;
    let checked = check_proof(&read(proof)?, &key)?;
    output.answer(&checked, |o| {
        o.say(&format!(
            "{} record #{} is in the log of {} entries",
            o.good("verified:"),
            checked["index"],
            checked["size"]
        ));
        o.field("log", key.name());
        for field in ["core", "subject", "resource", "public"] {
            if field != "public" || !checked[field].is_null() {
                o.field(field, &checked[field].to_string());
            }
        }
    });
    Ok(())
}

/// What a proof proves: the record's place and fields.
pub fn check_proof(text: &str, key: &VerifierKey) -> Result<serde_json::Value, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Wrong, format!("the proof does not hold: {e}"));
    let proof = Proof::from_text(text).map_err(|e| wrong(&e))?;
    let checkpoint = proof.verify(key).map_err(|e| wrong(&e))?;
    let fields = proof.openings.fields().map_err(|e| wrong(&e))?;
    Ok(json!({
        "verified": true,
        "index": proof.index,
        "size": checkpoint.size,
        "core": fields.core,
        "subject": fields.subject,
        "resource": fields.resource,
        "public": proof.openings.public.as_ref().map(public_json),
    }))
}

/// What a record says to everybody.
pub(crate) fn public_json(public: &PublicEntry) -> serde_json::Value {
    let bytes = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &public.bytes);
    json!({ "kind": public.kind_name(), "bytes": bytes })
}

/// A verifier key file.
pub fn verifier_key(file: &Path) -> Result<VerifierKey, Failure> {
    let wrong = |e| Failure::new(Kind::Usage, format!("`{}` is not a verifier key: {e}", file.display()));
    read(file)?.trim_end().parse().map_err(wrong)
}

/// `ringfence recover`
pub fn recover(common: &Common, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    let bar = output.progress("versions", 0);
    let watched = |so_far: &ringfence_store::RecoverReport| bar.set_position(so_far.versions.max(so_far.heads));
    let report = runtime.block_on(crate::installation::recover(&common.data, watched));
    bar.finish_and_clear();
    let report = report?;
    let document = serde_json::to_value(&report).map_err(Failure::internal)?;
    output.answer(&document, |o| {
        let from = if report.from_log { "the log, which is whole" } else { "the sites: the log is not whole" };
        o.say(&format!("{} versions restored from {from}", report.versions));
        if report.unconfirmed > 0 {
            o.say(&format!(
                "{} of them are unconfirmed: a delete or overwrite that only the lost log knew may be undone",
                report.unconfirmed
            ));
        }
        for (count, what) in [
            (report.trimmed_changes, "trimmed records had changed something of which nothing was left"),
            (report.superseded, "older versions of a key were left out"),
            (report.incomplete, "copies without all their chunks were left out"),
        ] {
            if count > 0 {
                o.say(&format!("{count} {what}"));
            }
        }
        for problem in &report.problems {
            o.warn(problem);
        }
        if !report.from_log {
            o.say("access keys are not at the sites: issue new ones with `ringfence key add`");
        }
        o.say("next: `ringfence serve`; nothing is erased before a `ringfence sweep --dry-run` was read and confirmed");
    });
    Ok(())
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|e| Failure::new(Kind::Usage, format!("cannot read `{}`: {e}", file.display())))
}

/// `ringfence keys restore`: into a data directory whose keyring is lost.
/// Nothing is read but the backup, so there is nothing to record: the first
/// start with these keys continues the log they sign.
pub fn keys_restore(common: &Common, file: &Path, output: &Output) -> Result<(), Failure> {
    let dir = DataDir::take(&common.data)?;
    let config = Installation::configure(&dir)?;
    let passphrase = Passphrase::new(passphrase::give()?.0);
    let unlock = unlock(dir.path(), &config)?;
    let vault = Vault::restore(file, passphrase, dir.path(), &unlock);
    let vault = vault.map_err(|e| Failure::new(Kind::Usage, e))?;
    let restored = json!({ "data": dir.path().display().to_string(), "development": vault.is_development() });
    output.answer(&restored, |o| {
        o.say(&format!("the keyring of `{}` is restored", dir.path().display()));
        o.say("next: `ringfence serve`, or `ringfence recover` first if the catalogue is lost too");
    });
    Ok(())
}
