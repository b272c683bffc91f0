//! `ringfence trust …`

use std::path::PathBuf;

use clap::Subcommand;
use ringfence_db::disk::{Disk, Durable, RealDisk};
use serde_json::Value;

use super::output::plain;
use super::{Common, Failure, Kind, Output, connect};
use crate::admin::call::Call;

#[derive(Subcommand, Debug)]
pub(super) enum TrustCommand {
    /// The public trust file: the log's key, its witnesses, roots, manifests, revocations.
    #[command(
        after_help = "It opens nothing and holds no secret. Whoever hands one out decides what is believed:\nbring it as you would a list of trusted certificates, and a newer one after each revocation.\n\nExamples:\n  ringfence trust export home.trust\n  ringfence token verify --trust home.trust --file token"
    )]
    Export {
        /// The file to write; standard output if left out.
        file: Option<PathBuf>,
    },
}

/// Runs one of them.
pub(super) fn run(common: &Common, command: TrustCommand, output: &Output) -> Result<(), Failure> {
    let TrustCommand::Export { file } = command;
    let mut exported = connect::call(common, Call::TrustExport {}, output)?;
    let text = exported["text"].as_str().unwrap_or_default().to_owned();
    if let Some(file) = &file {
        // Whole or not at all: one that was cut off would know fewer revocations.
        let written = std::path::absolute(file).and_then(|file| RealDisk.replace(&file, text.as_bytes(), Durable::Yes));
        written.map_err(|e| Failure::new(Kind::Unavailable, format!("cannot write `{}`: {e}", file.display())))?;
        exported["file"] = file.display().to_string().into();
    }
    output.answer(&exported, |o| match file {
        None => o.line(text.trim_end()),
        Some(file) => said(o, &exported, &file.display().to_string()),
    });
    Ok(())
}

fn said(o: &Output, exported: &Value, file: &str) {
    o.say(&format!("the trust file is written to `{file}`; it holds no secret"));
    o.field("log", &plain(&exported["log"]));
    let quorum = match exported["witnesses"].as_u64() {
        Some(0) | None => "no witness has to cosign".to_owned(),
        Some(n) => format!("{} of {n} witnesses must cosign", exported["required"]),
    };
    o.field("quorum", &quorum);
    o.field("realms", &plain(&exported["realms"]));
    o.field("revocations", &format!("{}: those to come are not in it", exported["revocations"]));
}
