//! The command line: what the operator typed, and which command that is.
//!
//! Each command prints a table or a few sentences on a terminal and one JSON
//! document with `--json` (fields: docs/cli.md). Errors are one line and a next
//! step. Exit codes stand in [`failure::Kind`].

mod alarms;
mod connect;
mod cuts;
mod demo;
pub mod drill;
mod failure;
mod offline;
mod operator;
mod output;
mod passphrase;
mod revoke;
mod session_keys;
mod token;
mod trust;
mod witnesses;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use rustix::fs::Mode;

pub use failure::{Failure, Kind};
pub(crate) use offline::public_json;
pub use output::Output;
use revoke::RevokeCommand;
use session_keys::{ManifestCommand, RootCommand};
use token::TokenCommand;
use trust::TrustCommand;

/// One S3 endpoint over your private sites and public clouds: policy decides
/// what may ever leave home, keys stay at home, every access is provable.
#[derive(Parser, Debug)]
#[command(name = "ringfence", version, arg_required_else_help = true, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Begin:
  ringfence serve                       start on ./ringfence-data, made at the first start
  ringfence demo                        upload a folder, see what the cloud sees, try to leak
Then:
  ringfence where s3://bucket/key       where an object lies, and why
  ringfence policy explain REQUEST-ID   why a request was allowed or refused
  ringfence log verify                  check every record, offline

Exit codes: 0 done; 1 checked and found wrong; 2 wrong usage; 3 wrong configuration;
4 refused; 5 not possible now, try again; 70 our fault.";

/// What every command takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// The data directory.
    #[arg(long, global = true, env = "RINGFENCE_DATA", default_value = "./ringfence-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Print one JSON document instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start the S3 endpoint on the data directory, which the first start makes.
    #[command(after_help = "Examples:\n  ringfence serve\n  ringfence serve --data /srv/ringfence --s3 127.0.0.1:9300")]
    Serve(ServeArgs),
    /// Show everything on a real folder: upload, placement, ciphertext, proof, refusals.
    #[command(after_help = "Examples:\n  ringfence demo\n  ringfence demo ~/Documents")]
    Demo {
        /// The folder to upload; the current one if left out.
        folder: Option<PathBuf>,
    },
    /// Where an object lies: label, sites, copies, sealed size, deciding policy.
    #[command(after_help = "Example:\n  ringfence where s3://invoices/2026/04.pdf")]
    Where {
        /// `s3://BUCKET/KEY`
        #[arg(value_name = "S3-URL")]
        url: String,
    },
    /// Check, test, apply and explain policies.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// List sites, and probe what each can really do.
    #[command(subcommand)]
    Site(SiteCommand),
    /// Read and verify the log.
    #[command(subcommand)]
    Log(LogCommand),
    /// Alarms: what a person must see.
    #[command(subcommand)]
    Alarm(AlarmCommand),
    /// Watch logs and cosign their checkpoints, so that none shows two histories.
    #[command(
        after_help = "Example:\n  ringfence witness --name witness.example/one --log \"$(cat ringfence-data/log/log.vkey)\""
    )]
    Witness(crate::witness::server::WitnessArgs),
    /// Answer elsewhere for home: is this API token a session? Holds public material only.
    #[command(after_help = crate::gateway::HELP)]
    Gateway(crate::gateway::GatewayArgs),
    /// Rebuild a lost catalogue from log, sites and keys; the server must be stopped.
    #[command(after_help = "Example:\n  ringfence recover --data /srv/ringfence")]
    Recover,
    /// Static access keys of S3 clients.
    #[command(subcommand)]
    Key(KeyCommand),
    /// The keys that seal data and sign sessions: backup, rotation, manifests.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// End sessions before their time.
    #[command(subcommand)]
    Revoke(RevokeCommand),
    /// Explain and check session tokens, offline.
    #[command(subcommand)]
    Token(TokenCommand),
    /// What others need to check session tokens without us.
    #[command(subcommand)]
    Trust(TrustCommand),
    /// Tenants: each owns its buckets and sees no others.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Check the configuration, or print its JSON schema.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Re-read and check every copy now.
    Scrub,
    /// Erase what deletes and overwrites left behind, now.
    #[command(after_help = "Examples:\n  ringfence sweep --dry-run\n  ringfence sweep")]
    Sweep {
        /// Only say what would be erased.
        #[arg(long)]
        dry_run: bool,
        /// Erase again after a recovery, once its dry run was read.
        #[arg(long, conflicts_with = "dry_run")]
        confirm_recovered: bool,
    },
    /// Replay a break-in against the running instance, on realms of the drill's own.
    #[command(subcommand)]
    Drill(DrillCommand),
    /// What runs, how far the log is, what needs attention.
    Status,
}

/// `ringfence serve`
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Where the S3 endpoint listens [configured: 127.0.0.1:9300].
    #[arg(long, value_name = "ADDR:PORT")]
    pub s3: Option<SocketAddr>,
    /// Where health, metrics and the log are served [configured: 127.0.0.1:9301].
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
}

#[derive(Subcommand, Debug)]
enum PolicyCommand {
    /// Check a policy file without applying it.
    #[command(after_help = "Example:\n  ringfence policy check new.cedar")]
    Check {
        /// The file; the configured one if left out.
        file: Option<PathBuf>,
    },
    /// Why a request was allowed or refused: the record and the deciding policies.
    #[command(
        after_help = "The request id stands in `x-amz-request-id` and in every S3 error.\n\nExample:\n  ringfence policy explain AAAAAAAAAAB2K"
    )]
    Explain {
        /// The request id.
        request: String,
    },
    /// The truth table (label × site), or a file of expectations held against the policies.
    #[command(
        after_help = "Examples:\n  ringfence policy test\n  ringfence policy test --policies new.cedar\n  ringfence policy test cases.toml --policies new.cedar"
    )]
    Test {
        /// `[[case]]` tables with what each is expected to be; see docs/operate/policy.md.
        cases: Option<PathBuf>,
        /// The policy file; the policies in force if left out.
        #[arg(long, value_name = "FILE")]
        policies: Option<PathBuf>,
    },
    /// Put a policy file in force; the change is recorded with its diff.
    #[command(after_help = "Example:\n  ringfence policy apply new.cedar")]
    Apply {
        /// The file.
        file: PathBuf,
    },
    /// Print the policies in force and their epoch.
    Show,
}

#[derive(Subcommand, Debug)]
enum SiteCommand {
    /// The configured sites.
    List,
    /// Write, read, list and erase a probe at a site, and print what it can do.
    #[command(after_help = "Examples:\n  ringfence site check\n  ringfence site check cloud")]
    Check {
        /// The site; all if left out.
        site: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
enum LogCommand {
    /// Verify the whole log offline, with nothing but its public key.
    #[command(
        after_help = "Examples:\n  ringfence log verify\n  ringfence log verify --log copy/ --against yesterday.checkpoint"
    )]
    Verify {
        /// A directory with `checkpoint` and `tile/`, such as a copy of DIR/log.
        #[arg(long, value_name = "DIR")]
        log: Option<PathBuf>,
        /// The verifier key file; `log.vkey` in that directory if left out.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
        /// An earlier checkpoint: the log must be a continuation of it.
        #[arg(long, value_name = "CHECKPOINT")]
        against: Option<PathBuf>,
    },
    /// The proof that a request is on record, for anybody to check offline.
    #[command(after_help = "Example:\n  ringfence log prove AAAAAAAAAAB2K > request.proof")]
    Prove {
        /// The request id.
        request: String,
    },
    /// Check such a proof with nothing but the log's public key.
    #[command(after_help = "Example:\n  ringfence log check request.proof --key log.vkey")]
    Check {
        /// The proof.
        proof: PathBuf,
        /// The verifier key file; DIR/log/log.vkey if left out.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Show who must cosign the log's checkpoints, or change it.
    #[command(
        after_help = "Examples:\n  ringfence log witnesses\n  ringfence log witnesses --require 2 --witness VKEY1 --witness VKEY2 --witness VKEY3"
    )]
    Witnesses(witnesses::WitnessesArgs),
    /// Print records; reading the log is itself recorded.
    #[command(
        after_help = "Examples:\n  ringfence log show\n  ringfence log show AAAAAAAAAAB2K\n  ringfence log show --from 100 --limit 20 --json"
    )]
    Show {
        /// Only the record of this request.
        request: Option<String>,
        /// First record; the last ones if left out.
        #[arg(long, conflicts_with = "request")]
        from: Option<u64>,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: u64,
    },
    /// Take the fields of records whose time is over; that they were there stays provable.
    #[command(
        after_help = "Runs by itself once a day; `[log] keep_access_days` and `keep_control_days` say what is over.\n\nExamples:\n  ringfence log trim --dry-run\n  ringfence log trim --before 2026-06-01"
    )]
    Trim {
        /// Access records before this day or time, whatever is configured.
        #[arg(long, value_name = "TIME")]
        before: Option<String>,
        /// Only say what would be trimmed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Erase who did something, and to what, from records; what happened stays provable.
    #[command(
        after_help = "Without --confirm it only says what would be erased. There is no way back.\n\nExamples:\n  ringfence log erase --tenant default --principal alice --reason \"request of 2026-11-20\"\n  ringfence log erase AAAAAAAAAAB2K --reason \"names a patient\" --confirm"
    )]
    Erase {
        /// Only the record of this request.
        request: Option<String>,
        /// Records of this tenant.
        #[arg(long)]
        tenant: Option<String>,
        /// Records of this principal of the tenant.
        #[arg(long)]
        principal: Option<String>,
        /// Records from this day or time on.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// Records before this day or time.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Why; stands in the record of the erasure.
        #[arg(long)]
        reason: String,
        /// Do it.
        #[arg(long)]
        confirm: bool,
    },
}

#[derive(Subcommand, Debug)]
enum AlarmCommand {
    /// Alarms with what became of them, newest last; reading them is itself recorded.
    #[command(after_help = "Examples:\n  ringfence alarm list\n  ringfence alarm list --since 120000 --json")]
    List {
        /// Every one from this record on, for which all records from there are read; the latest if left out.
        #[arg(long, value_name = "INDEX")]
        since: Option<u64>,
    },
}

#[derive(Subcommand, Debug)]
enum KeyCommand {
    /// Every access key with its tenant and state.
    List {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Issue a key and append it to DIR/credentials; the secret is shown once.
    #[command(after_help = "Example:\n  ringfence key add --tenant default --name backup")]
    Add {
        /// Whose.
        #[arg(long, default_value = "default")]
        tenant: String,
        /// Who acts with it; also the profile in DIR/credentials, as TENANT-NAME.
        #[arg(long)]
        name: String,
    },
    /// Disable a key; takes effect at once.
    #[command(after_help = "Example:\n  ringfence key disable RFAK3XAMPLE000000000")]
    Disable {
        /// The access key id.
        id: String,
    },
}

#[derive(Subcommand, Debug)]
enum KeysCommand {
    /// Write a sealed backup of the keyring; without it, lost keys are lost data.
    #[command(
        after_help = "The passphrase is read from the terminal, or from standard input.\n\nExample:\n  ringfence keys backup /mnt/usb/ringfence-keys.backup"
    )]
    Backup {
        /// The file to write.
        file: PathBuf,
    },
    /// Bring a backup back into a data directory whose keyring is lost; the server must be stopped.
    #[command(after_help = "Example:\n  ringfence keys restore /mnt/usb/ringfence-keys.backup")]
    Restore {
        /// The backup.
        file: PathBuf,
    },
    /// Give a tenant a new key version and re-wrap all its objects; or, with --issuer, fresh session keys.
    #[command(
        after_help = "Examples:\n  ringfence keys rotate --tenant default\n  ringfence keys rotate --issuer --tenant default --purpose sts-session"
    )]
    Rotate {
        /// Whose; every tenant if left out.
        #[arg(long)]
        tenant: Option<String>,
        /// Session keys instead: a fresh one signs from now on, the one before is destroyed.
        #[arg(long)]
        issuer: bool,
        /// Of which realm; the configured one if left out.
        #[arg(long, requires = "issuer")]
        realm: Option<String>,
        /// `sts-session`, `api` or `admission`; all if left out.
        #[arg(long, requires = "issuer")]
        purpose: Option<String>,
    },
    /// Session keys: scope, state, age.
    #[command(after_help = "Example:\n  ringfence keys list --json")]
    List {
        /// Only this realm's.
        #[arg(long)]
        realm: Option<String>,
    },
    /// Manifests: which keys sign sessions, as the realm's root says.
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// The realm's root, which signs manifests and is offline.
    #[command(subcommand)]
    Root(RootCommand),
}

#[derive(Subcommand, Debug)]
enum TenantCommand {
    /// Make a tenant with a first key, appended to DIR/credentials as its profile.
    #[command(
        after_help = "Examples:\n  ringfence tenant add accounting\n  ringfence tenant add hospital --realm health"
    )]
    Add {
        /// 1–63 of a-z, 0-9 and -.
        name: String,
        /// The trust root it belongs to, for ever, made if there is none of that
        /// name; the configured one if left out.
        #[arg(long)]
        realm: Option<String>,
        /// The label of its objects where nothing else says one; as the first
        /// tenant's if left out.
        #[arg(long, value_name = "LABEL")]
        default_label: Option<String>,
    },
    /// Every tenant.
    List,
}

#[derive(Subcommand, Debug)]
enum DrillCommand {
    /// Storm-0558 (2023): stolen signing keys, mixed key sets, tokens renewed by themselves.
    #[command(
        after_help = "Makes the realms `drill-consumer` and `drill-enterprise`, which hold nothing of yours.\nExit status 0 only if every attempt was refused, or made visible as the threat model says.\n\nExample:\n  ringfence drill storm-0558"
    )]
    #[command(name = "storm-0558")]
    Storm0558,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Check a configuration: file, line, what is wrong, what would be right.
    Check {
        /// The file; DIR/ringfence.toml if left out.
        file: Option<PathBuf>,
    },
    /// Print the JSON schema of the configuration.
    Schema,
}

/// Parses the command line, runs the command, prints, and says how it ended.
pub fn run() -> ExitCode {
    // Whatever is made in the data directory, by us or by SQLite, is ours alone.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let cli = Cli::parse();
    let output = Output::new(cli.common.json);
    match crate::hygiene::harden().and_then(|()| dispatch(cli, &output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.kind.code())
        }
    }
}

fn dispatch(cli: Cli, output: &Output) -> Result<(), Failure> {
    let common = cli.common;
    match cli.command {
        Command::Serve(arguments) => crate::serve::run(&common, &arguments, output),
        Command::Demo { folder } => demo::run(&common, folder, output),
        Command::Drill(DrillCommand::Storm0558) => drill::run(&common, output),
        Command::Log(LogCommand::Check { proof, key }) => offline::log_check(&common, &proof, key, output),
        Command::Log(LogCommand::Verify { log, key, against }) => {
            offline::log_verify(&common, log, key, against, output)
        }
        Command::Witness(arguments) => crate::witness::server::run(&arguments, output),
        Command::Gateway(arguments) => crate::gateway::run(&common, &arguments, output),
        Command::Recover => offline::recover(&common, output),
        Command::Token(command) => token::run(&common, command, output),
        Command::Keys(KeysCommand::Restore { file }) => offline::keys_restore(&common, &file, output),
        Command::Config(ConfigCommand::Check { file }) => offline::config_check(&common, file, output),
        Command::Config(ConfigCommand::Schema) => offline::config_schema(output),
        administrative => operator::run(&common, administrative, output),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory};

    use super::Cli;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// `log show [REQUEST] [--from FROM] [--limit LIMIT]`
    fn usage(path: &str, command: &Command) -> String {
        let mut words = vec![path.to_owned()];
        for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
            let value = argument.get_value_names().and_then(|names| Some(names.first()?.to_string()));
            let value = value.filter(|_| argument.get_action().takes_values());
            let word = match (argument.get_long(), value) {
                (Some(flag), Some(value)) => format!("--{flag} {value}"),
                (Some(flag), None) => format!("--{flag}"),
                (None, value) => value.unwrap_or_else(|| argument.get_id().as_str().to_uppercase()),
            };
            words.push(if argument.is_required_set() { word } else { format!("[{word}]") });
        }
        words.join(" ")
    }

    fn usages(path: &str, command: &Command, found: &mut Vec<String>) {
        if !command.has_subcommands() {
            found.push(usage(path, command));
        }
        for inner in command.get_subcommands() {
            let path = [path, inner.get_name()].join(" ");
            usages(path.trim(), inner, found);
        }
    }

    #[test]
    fn the_reference_has_every_command_with_every_flag_and_no_other() {
        let mut expected = vec![];
        usages("", &Cli::command(), &mut expected);
        let reference = include_str!("../../../docs/cli.md");
        let (_, table) = reference.split_once("## Commands\n").expect("the section");
        let table = table.split("\n## ").next().unwrap_or_default();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let written: Vec<&str> = rows.map(|(usage, _)| usage).collect();
        assert_eq!(written, expected, "docs/cli.md, in the order of `--help`");
        for common in Cli::command().get_arguments().filter(|argument| argument.is_global_set()) {
            let flag = format!("`--{}", common.get_long().expect("a flag"));
            assert!(reference.contains(&flag), "docs/cli.md does not mention {flag}`");
        }
    }

    #[test]
    fn the_reference_has_the_document_of_every_command() {
        let mut commands = vec![];
        usages("", &Cli::command(), &mut commands);
        let (_, table) = include_str!("../../../docs/cli.md").split_once("## `--json`\n").expect("the section");
        for usage in commands {
            let words = usage.split(' ').take_while(|word| word.bytes().all(|c| c.is_ascii_lowercase()));
            let name = words.collect::<Vec<_>>().join(" ");
            assert!(table.contains(&format!("\n| `{name}` |")), "what `{name} --json` prints is not in docs/cli.md");
        }
    }
}
