//! `ringfence revoke …`

use clap::{Args, Subcommand};

use super::output::plain;
use super::{Common, Failure, Output, connect};
use crate::admin::call::{Call, Revoke, What};

#[derive(Subcommand, Debug)]
pub(super) enum RevokeCommand {
    /// One session, and those narrowed from it; for ever.
    #[command(
        after_help = "Examples:\n  ringfence revoke session 4711\n  ringfence revoke session 0123456789abcdef0123456789abcdef --reason \"laptop lost\""
    )]
    Session {
        /// The session's id (32 hexadecimal digits) or the index of its leaf.
        #[arg(value_name = "SESSION")]
        which: String,
        #[command(flatten)]
        how: How,
    },
    /// Every session of somebody, until it is taken back.
    #[command(after_help = "Example:\n  ringfence revoke subject acme/keycloak--ann")]
    Subject {
        /// `TENANT/PRINCIPAL`
        #[arg(value_name = "TENANT/PRINCIPAL")]
        which: String,
        #[command(flatten)]
        how: How,
    },
    /// Every session in a role, until it is taken back.
    #[command(after_help = "Example:\n  ringfence revoke role acme/auditor")]
    Role {
        /// `TENANT/ROLE`
        #[arg(value_name = "TENANT/ROLE")]
        which: String,
        #[command(flatten)]
        how: How,
    },
    /// Everything that a key signed; it signs no more. For ever.
    #[command(
        after_help = "Honest sessions can live on: name the first index that may be forged.\n\nExample:\n  ringfence revoke key 0123456789abcdef --from-index 4711"
    )]
    Key {
        /// The key's id, as `keys list` shows it.
        #[arg(value_name = "KID")]
        which: String,
        #[command(flatten)]
        how: How,
    },
    /// Every session that the gateway of a site may serve, until it is taken back.
    #[command(after_help = "Example:\n  ringfence revoke site cloud --reason \"breach\"")]
    Site {
        /// The site.
        #[arg(value_name = "SITE")]
        which: String,
        #[command(flatten)]
        how: How,
    },
    /// Take back the revocation of a subject, role or site.
    #[command(after_help = "Example:\n  ringfence revoke lift 4712")]
    Lift {
        /// The record of the revocation.
        index: u64,
        /// Why; stands in the record.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Every revocation.
    List,
}

#[derive(Args, Debug)]
pub(super) struct How {
    /// Sessions issued before this record live on; none do without it.
    #[arg(long, value_name = "INDEX")]
    from_index: Option<u64>,
    /// Why; stands in the record.
    #[arg(long)]
    reason: Option<String>,
    /// In which realm; the configured one, or the one that the name belongs to.
    #[arg(long)]
    realm: Option<String>,
}

/// Runs one of them.
pub(super) fn run(common: &Common, command: RevokeCommand, output: &Output) -> Result<(), Failure> {
    let (what, which, how) = match command {
        RevokeCommand::Session { which, how } => (What::Session, which, how),
        RevokeCommand::Subject { which, how } => (What::Subject, which, how),
        RevokeCommand::Role { which, how } => (What::Role, which, how),
        RevokeCommand::Key { which, how } => (What::Key, which, how),
        RevokeCommand::Site { which, how } => (What::Site, which, how),
        RevokeCommand::Lift { index, reason } => return lift(common, index, reason, output),
        RevokeCommand::List => return list(common, output),
    };
    let How { from_index, reason, realm } = how;
    let revoke = Revoke { what, which, from_index, reason, realm };
    let done = connect::call(common, Call::Revoke(revoke), output)?;
    output.answer(&done, |o| {
        let from = match done["from_index"].as_u64() {
            Some(0) | None => String::new(),
            Some(index) => format!(", from record #{index} on"),
        };
        let (what, which) = (plain(&done["what"]), plain(&done["which"]));
        o.say(&format!("{what} {which} is revoked by record #{}{from}: refused from now on", done["record"]));
        if let Some(note) = done["note"].as_str() {
            o.warn(note);
        }
    });
    Ok(())
}

fn lift(common: &Common, index: u64, reason: Option<String>, output: &Output) -> Result<(), Failure> {
    let done = connect::call(common, Call::RevokeLift { index, reason }, output)?;
    output.answer(&done, |o| {
        o.say(&format!("the revocation #{} is taken back by record #{}", done["lifted"], done["record"]));
    });
    Ok(())
}

fn list(common: &Common, output: &Output) -> Result<(), Failure> {
    let listed = connect::call(common, Call::RevokeList {}, output)?;
    output.answer(&listed, |o| {
        if listed["revocations"].as_array().is_none_or(Vec::is_empty) {
            o.say("nothing is revoked");
            return;
        }
        let columns = [
            ("#", "record"),
            ("REALM", "realm"),
            ("WHAT", "what"),
            ("FROM #", "from_index"),
            ("STATE", "state"),
            ("DETAIL", "detail"),
        ];
        o.table(&listed["revocations"], &columns);
    });
    Ok(())
}
