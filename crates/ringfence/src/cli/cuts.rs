//! `log trim` and `log erase` on the command line.

use super::{Common, Failure, Output, connect};
use crate::admin::call::{Call, Erase};

/// `ringfence log trim`
pub fn trim(common: &Common, before: Option<String>, dry_run: bool, output: &Output) -> Result<(), Failure> {
    let done = connect::call(common, Call::LogTrim { before, dry_run }, output)?;
    output.answer(&done, |o| {
        let would = if dry_run { "would be " } else { "" };
        o.say(&format!("{} records {would}trimmed by record #{}", done["trimmed"], done["record"]));
        o.field("schedule", done["schedule"].as_str().unwrap_or_default());
        o.field("changes", &format!("{} that nothing is left of {would}gone too", done["redos"]));
        if !dry_run {
            o.field("space", &format!("{} bytes freed in {} segments", done["bytes"], done["segments"]));
            o.field("keys", &format!("{} month keys destroyed", done["keys_destroyed"]));
        }
    });
    Ok(())
}

/// `ringfence log erase`
pub fn erase(common: &Common, erase: Erase, output: &Output) -> Result<(), Failure> {
    let confirmed = erase.confirm;
    let done = connect::call(common, Call::LogErase(erase), output)?;
    output.answer(&done, |o| {
        let (would, destroyed) = if confirmed { ("", "destroyed") } else { ("would be ", "to be destroyed") };
        o.say(&format!(
            "{} records {would}erased: {}",
            done["records"],
            done["selection"].as_str().unwrap_or_default()
        ));
        o.field("others", &format!("{} records of the same months {would}sealed under new keys", done["resealed"]));
        o.field("keys", &format!("{} keys of tenant and month {destroyed}", done["keys"]));
        if done["under_lasting_keys"].as_u64().is_some_and(|n| n > 0) {
            o.warn(&format!(
                "{} of them lie under a key that is kept: copies of the log made before still open these",
                done["under_lasting_keys"]
            ));
        }
        if confirmed {
            o.field("record", &format!("#{}; `log show` says so at each", done["record"]));
            o.say("next: `ringfence keys backup`, and destroy older backups: they still hold the destroyed keys");
        } else {
            o.say("nothing was erased: give `--confirm` to do it, there is no way back");
        }
    });
    Ok(())
}
