//! `log witnesses`: what was typed, and its answer as a table.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::output::plain;
use super::{Common, Failure, Kind, Output, connect};
use crate::admin::call::Call;

/// `ringfence log witnesses`
#[derive(clap::Args, Clone, Debug)]
pub struct WitnessesArgs {
    /// So many of the witnesses given must cosign from now on; 0 without any: none has to.
    #[arg(long, value_name = "K", conflicts_with = "signed")]
    require: Option<u32>,
    /// The verifier key of a witness, as `ringfence witness` prints it; may be repeated.
    #[arg(long = "witness", value_name = "VKEY", requires = "require")]
    witnesses: Vec<String>,
    /// Write the set to a file instead, for a root that is offline to sign.
    #[arg(long, value_name = "FILE", requires = "require")]
    request: Option<PathBuf>,
    /// Put a set in force that the realm's root has signed.
    #[arg(long, value_name = "FILE")]
    signed: Option<PathBuf>,
}

/// Shows who must cosign, or changes it.
pub fn run(common: &Common, arguments: WitnessesArgs, output: &Output) -> Result<(), Failure> {
    let WitnessesArgs { require, witnesses, request, signed } = arguments;
    let call = match (require, request, signed) {
        (Some(require), Some(file), _) => return write_request(common, require, witnesses, &file, output),
        (Some(require), None, _) => Call::LogWitnessesSet { require, witnesses, signed: None },
        (None, _, Some(file)) => {
            let bytes = std::fs::read(&file)
                .map_err(|e| Failure::new(Kind::Usage, format!("cannot read `{}`: {e}", file.display())))?;
            Call::LogWitnessesSet { require: 0, witnesses, signed: Some(hex::encode(bytes)) }
        }
        (None, _, None) => Call::LogWitnesses {},
    };
    let shown = connect::call(common, call, output)?;
    output.answer(&shown, |o| table(o, &shown));
    Ok(())
}

fn write_request(
    common: &Common,
    require: u32,
    witnesses: Vec<String>,
    file: &Path,
    output: &Output,
) -> Result<(), Failure> {
    let made = connect::call(common, Call::LogWitnessesNext { require, witnesses }, output)?;
    let bytes = hex::decode(made["request"].as_str().unwrap_or_default()).map_err(Failure::internal)?;
    let failed = |e| Failure::new(Kind::Unavailable, format!("cannot write `{}`: {e}", file.display()));
    std::fs::write(file, bytes).map_err(failed)?;
    output.answer(&made, |o| {
        o.say(&format!("set #{} is written to `{}`", made["set"], file.display()));
        o.say("next: have the realm's root sign it, and give it with `--signed FILE`");
    });
    Ok(())
}

fn table(o: &Output, shown: &Value) {
    let count = shown["witnesses"].as_array().map_or(0, Vec::len);
    match count {
        0 => o.say("no witness has to cosign: only you can tell whether this log has another face"),
        n => o.say(&format!("{} of {n} witnesses must cosign (set #{})", shown["required"], shown["set"])),
    }
    o.field("published", &format!("{} records", shown["published"]));
    if !shown["witnessed"].is_null() {
        o.field("witnessed", &format!("{} records", shown["witnessed"]));
    }
    if count > 0 {
        o.say("");
        o.table(&shown["witnesses"], &[("WITNESS", "name"), ("URL", "url"), ("FAILURE", "failure")]);
    }
    for witness in shown["witnesses"].as_array().into_iter().flatten().filter(|witness| witness["url"].is_null()) {
        o.warn(&format!("`{}` is not asked: there is no `[[witness]]` with its key", plain(&witness["name"])));
    }
}
