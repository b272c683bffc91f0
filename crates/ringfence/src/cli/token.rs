//! `ringfence token …`: what a session token says, and whether it is true.
//! Offline: nothing is asked but, where no trust file is given, our own
//! installation for one.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ringfence_db::clock::{Clock, SystemClock};
use ringfence_format::limits::TRUST_FILE_BYTES_MAX;
use ringfence_format::names::SiteId;
use ringfence_format::session::{Purpose, SESSION_TOKEN_BYTES_MAX, SessionToken, Trust};
use serde_json::{Value, json};

use super::{Common, Failure, Kind, Output, connect};
use crate::admin::call::Call;
use crate::retention::{parse_time, time};

mod show;

const FROM: &str = "A token is never an argument: arguments are seen by every process of the machine and kept by the shell.\nIt is read from --file; else from standard input; else, where that is empty or a terminal, from AWS_SESSION_TOKEN.";

/// Where AWS SDKs keep it.
const VARIABLE: &str = "AWS_SESSION_TOKEN";

#[derive(Subcommand, Debug)]
pub(super) enum TokenCommand {
    /// What a token says of itself, in words; showing is not verifying.
    #[command(
        after_help = format!("{FROM}\n\nExamples:\n  ringfence token show\n  ringfence token show --file token")
    )]
    Show {
        #[command(flatten)]
        source: Source,
    },
    /// Judge a token with the public trust file and nothing else, step by step.
    #[command(
        after_help = format!("{FROM}\n\nExit status 0 only if it would be accepted. Revocations that the trust file does not know are not seen.\n\nExamples:\n  ringfence token verify --trust home.trust --file token\n  ringfence token verify --trust home.trust --purpose api --site cloud --at 2026-11-23T14:00:00Z")
    )]
    Verify {
        #[command(flatten)]
        source: Source,
        /// The trust file, as `ringfence trust export` writes it; that of the installation in DIR if left out.
        #[arg(long, value_name = "FILE")]
        trust: Option<PathBuf>,
        /// For the gateway of this site; the first that the token names if left out.
        #[arg(long)]
        site: Option<String>,
        /// What it must be for: `sts-session` for S3, `api` for other services.
        #[arg(long, default_value = "sts-session")]
        purpose: String,
        /// As of this day or time; now if left out.
        #[arg(long, value_name = "TIME")]
        at: Option<String>,
    },
    /// The proof that it was issued, for verifiers of transparency logs (C2SP tlog-proof).
    #[command(after_help = format!("{FROM}\n\nExample:\n  ringfence token proof --file token > token.proof"))]
    Proof {
        #[command(flatten)]
        source: Source,
    },
}

#[derive(Args, Debug)]
pub(super) struct Source {
    /// The file with the token; standard input, or AWS_SESSION_TOKEN, if left out.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Runs one of them.
pub(super) fn run(common: &Common, command: TokenCommand, output: &Output) -> Result<(), Failure> {
    match command {
        TokenCommand::Show { source } => show::run(&parsed(&source.read()?)?, now_s(), output),
        TokenCommand::Proof { source } => proof(&parsed(&source.read()?)?, output),
        TokenCommand::Verify { source, trust, site, purpose, at } => {
            let text = source.read()?;
            let purpose = purpose.parse::<Purpose>().map_err(|_| {
                let all = Purpose::ALL.map(Purpose::as_str).join("`, `");
                Failure::new(Kind::Usage, "there is no such purpose").next(format!("use one of `{all}`"))
            })?;
            let site = site.map(|site| SiteId::parse(&site).map_err(|e| Failure::new(Kind::Usage, e))).transpose()?;
            let at_s = at.map_or_else(|| Ok(now_s()), |at| parse_time(&at).map(|us| us / 1_000_000))?;
            let trust = trust_of(common, trust.as_deref(), output)?;
            verify(&text, &trust, site, purpose, at_s, output)
        }
    }
}

fn now_s() -> u64 {
    SystemClock.now_us() / 1_000_000
}

impl Source {
    /// The text of the token, without white space around it.
    fn read(&self) -> Result<String, Failure> {
        let none = || {
            Failure::new(Kind::Usage, "there is no token")
                .next(format!("name its file with `--file`, give it on standard input, or set {VARIABLE}"))
        };
        let found = match &self.file {
            Some(file) => {
                let wrong = |e| Failure::new(Kind::Usage, format!("cannot read `{}`: {e}", file.display()));
                bounded(std::fs::File::open(file).map_err(wrong)?).map_err(wrong)?
            }
            None => given()?,
        };
        match found.trim() {
            "" => Err(none()),
            token => Ok(token.to_owned()),
        }
    }
}

/// From standard input, or from the environment.
fn given() -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let wrong = |e| Failure::new(Kind::Usage, format!("cannot read standard input: {e}"));
        let found = bounded(stdin.lock()).map_err(wrong)?;
        if !found.trim().is_empty() {
            return Ok(found);
        }
    }
    Ok(std::env::var_os(VARIABLE).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Somewhat more than the longest token: what is longer is refused as such.
/// Bytes that are no text become characters that no token has.
fn bounded(from: impl Read) -> std::io::Result<String> {
    let mut bytes = vec![];
    from.take(2 * SESSION_TOKEN_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parsed(text: &str) -> Result<SessionToken, Failure> {
    SessionToken::parse(text).map_err(|e| Failure::new(Kind::Wrong, format!("this is no session token: {e}")))
}

/// The trust file that was named, or the one our installation would export.
fn trust_of(common: &Common, named: Option<&Path>, output: &Output) -> Result<Trust, Failure> {
    let (text, whose) = match named {
        Some(file) => (trust_text(file)?, format!("`{}`", file.display())),
        None if common.data.join(crate::config::FILE).exists() => {
            let exported = connect::call(common, Call::TrustExport {}, output)?;
            let text = exported["text"].as_str().unwrap_or_default().to_owned();
            (text, format!("the installation in `{}`", common.data.display()))
        }
        None => {
            return Err(Failure::new(Kind::Usage, "there is nothing to judge the token by")
                .next("give a trust file with `--trust FILE`: `ringfence trust export FILE` writes it at home"));
        }
    };
    text.parse().map_err(|e| Failure::new(Kind::Usage, format!("{whose} gives no trust file that counts: {e}")))
}

fn trust_text(file: &Path) -> Result<String, Failure> {
    let wrong = |e| Failure::new(Kind::Usage, format!("cannot read `{}`: {e}", file.display()));
    let mut text = String::new();
    // One byte more, so that a longer one is refused and not cut.
    let most = TRUST_FILE_BYTES_MAX as u64 + 1;
    std::fs::File::open(file).map_err(wrong)?.take(most).read_to_string(&mut text).map_err(wrong)?;
    Ok(text)
}

fn verify(
    text: &str,
    trust: &Trust,
    site: Option<SiteId>,
    purpose: Purpose,
    at_s: u64,
    output: &Output,
) -> Result<(), Failure> {
    let named = SessionToken::parse(text).ok().and_then(|token| token.claimed().sites.iter().next().cloned());
    let chosen = site.is_none();
    // A token that names no site cannot be read, and is refused for that.
    let site = site.or(named).unwrap_or_else(|| SiteId::parse("none").expect("a name"));
    let report = trust.verify_offline(text, purpose, &site, at_s);
    let refusal = report.session.as_ref().err();
    let steps: Vec<Value> = report
        .steps
        .iter()
        .map(|step| json!({ "what": step.what, "holds": step.holds, "detail": step.detail }))
        .collect();
    let answer = json!({
        "verified": report.session.is_ok(),
        "at_ms": at_s * 1000,
        "site": site,
        "purpose": purpose,
        "steps": steps,
        "refusal": refusal.map(ToString::to_string),
        "stolen_key": refusal.is_some_and(|refusal| refusal.is_critical()),
        "session": report.session.as_ref().ok().map(|session| show::claims(session.claims())),
        "kid": report.session.as_ref().ok().map(|session| session.kid().to_string()),
        "index": report.session.as_ref().ok().map(|session| session.index()),
    });
    output.answer(&answer, |o| {
        for step in &report.steps {
            let mark = if step.holds { o.good("✓") } else { o.bad("✗") };
            o.say(&format!("{mark} {:<12} {}", step.what, super::output::plain(&json!(step.detail))));
        }
        if let Ok(session) = &report.session {
            let who = session.claims();
            let at = time(at_s * 1_000_000);
            o.say(&format!(
                "{} {} of {} in role {}, for {purpose} at `{site}`, as of {at}",
                o.good("verified:"),
                who.principal,
                who.tenant,
                who.role
            ));
            if chosen {
                o.say(&o.dim("  the site is the first that the token names: say yours with --site"));
            }
            o.say(&o.dim("  revocations younger than the trust file are not seen"));
        }
    });
    let Some(refusal) = refusal else { return Ok(()) };
    let failure = Failure::new(Kind::Wrong, format!("the token is refused: {refusal}"));
    Err(match refusal.is_critical() {
        true => failure.next("if the trust file is not older than the token: a key of that scope is in other hands; `ringfence revoke key KID`"),
        false => failure,
    })
}

/// The receipt as others know it.
fn proof(token: &SessionToken, output: &Output) -> Result<(), Failure> {
    let receipt = token.receipt().ok_or_else(|| {
        Failure::new(Kind::Wrong, "no receipt is stapled to the token: nothing proves that it was issued")
    })?;
    let answer = json!({ "index": receipt.index, "proof": receipt.to_proof() });
    output.answer(&answer, |o| o.line(receipt.to_proof().trim_end()));
    Ok(())
}
