//! `ringfence keys list|manifest|root …`: what the server is asked for, and
//! what is done offline, without server and network.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ringfence_format::names::Realm;
use ringfence_format::session::SignedManifest;
use ringfence_format::witness::{SignedWitnessSet, WitnessSet};
use ringfence_vault::Passphrase;
use ringfence_vault::ceremony::{self, RootFile};
use serde_json::{Value, json};

use super::output::plain;
use super::{Common, Failure, Kind, Output, connect, passphrase};
use crate::admin::call::Call;
use crate::papers::{HandOver, PAPER_BYTES_MAX, Paper, Request, RootPublic, fingerprint};
use crate::retention::time;

#[derive(Subcommand, Debug)]
pub(super) enum ManifestCommand {
    /// What the offline root is to sign: keys for the days to come, made now.
    #[command(after_help = "Example:\n  ringfence keys manifest request --days 90 > request")]
    Request {
        /// For so many days, 1 to 366.
        #[arg(long, default_value_t = 90)]
        days: u64,
        /// Also a key for each scope that signs from now on, in place of today's.
        #[arg(long)]
        fresh: bool,
        /// The realm; the configured one if left out.
        #[arg(long)]
        realm: Option<String>,
    },
    /// Sign a request with the root, offline: shows what changes, and asks.
    #[command(
        after_help = "Passphrases are read from the terminal, or from standard input, a line each.\n\nExamples:\n  ringfence keys manifest sign --root home.root request > manifest\n  ringfence keys manifest sign --root home-1.share --root home-3.share request > manifest"
    )]
    Sign {
        /// The root; or shares of it, each with this flag.
        #[arg(long, required = true, value_name = "FILE")]
        root: Vec<PathBuf>,
        /// The request.
        request: PathBuf,
        /// Do not ask: what changes was read before.
        #[arg(long)]
        yes: bool,
    },
    /// Put a signed manifest in force.
    #[command(after_help = "Example:\n  ringfence keys manifest apply manifest")]
    Apply {
        /// The manifest.
        manifest: PathBuf,
    },
    /// The manifest in force, and the root it is under.
    Show {
        /// The realm; the configured one if left out.
        #[arg(long)]
        realm: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum RootCommand {
    /// Make a root, offline: one sealed file, or shares of which some sign together.
    #[command(
        after_help = "Run it on a machine without network. Passphrases are read from the terminal, or from standard input, a line each.\n\nExamples:\n  ringfence keys root new --realm home --out /mnt/usb\n  ringfence keys root new --realm home --frost 2of3 --out /mnt/usb"
    )]
    New {
        /// The realm it is for.
        #[arg(long)]
        realm: String,
        /// In shares, such as `2of3`: three files, two of which sign.
        #[arg(long, value_name = "KofN")]
        frost: Option<String>,
        /// The directory to write into.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Let a root take over: from the development root, or as the root in force signed.
    #[command(
        after_help = "Examples:\n  ringfence keys root adopt home.root.pub\n  ringfence keys root adopt hand-over"
    )]
    Adopt {
        /// The public half of the new root, or the hand-over that the old one signed.
        file: PathBuf,
    },
    /// Sign, with the root in force, that another takes over; offline.
    #[command(after_help = "Example:\n  ringfence keys root handover --root home.root new.root.pub > hand-over")]
    Handover {
        /// The root in force; or shares of it, each with this flag.
        #[arg(long, required = true, value_name = "FILE")]
        root: Vec<PathBuf>,
        /// The public half of the root that takes over.
        new: PathBuf,
    },
    /// Sign a set of witnesses that `log witnesses --request` wrote; offline.
    #[command(after_help = "Example:\n  ringfence keys root witnesses --root home.root set.request > set.signed")]
    Witnesses {
        /// The root; or shares of it, each with this flag.
        #[arg(long, required = true, value_name = "FILE")]
        root: Vec<PathBuf>,
        /// The set to sign.
        request: PathBuf,
        /// Do not ask: the set was read before.
        #[arg(long)]
        yes: bool,
    },
}

/// Signs a set of witnesses that `log witnesses --request` wrote.
fn sign_witnesses(roots: &[PathBuf], request: &Path, yes: bool, output: &Output) -> Result<(), Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Usage, format!("this is not a set of witnesses: {e}"));
    let bytes = hex::decode(read(request)?.trim()).map_err(|e| wrong(&e))?;
    let set: WitnessSet = minicbor::decode(&bytes).map_err(|e| wrong(&e))?;
    if set.to_bytes() != bytes {
        return Err(wrong(&"not in the one form it is written in"));
    }
    eprintln(&format!(
        "witness set #{} of realm `{}`: {} of {} must cosign",
        set.seq,
        set.realm,
        set.k,
        set.witnesses.len()
    ));
    for witness in &set.witnesses {
        eprintln(&format!("  {}", plain(&json!(witness))));
    }
    let mut lines = Lines;
    if !yes && !lines.agrees("sign it?")? {
        return Err(Failure::new(Kind::Refused, "nothing was signed").next("answer `yes`, or give `--yes`"));
    }
    let files = open(roots, &mut lines)?;
    if *files[0].realm() != set.realm {
        return Err(Failure::new(Kind::Usage, "the set is of another realm than the root"));
    }
    let signature = ceremony::sign(&files, &set.to_be_signed()).map_err(|e| Failure::new(Kind::Usage, e))?;
    let document = json!({
        "realm": set.realm,
        "set": set.seq,
        "signed": hex::encode(SignedWitnessSet { set: set.clone(), signature }.to_bytes()),
    });
    output.answer(&document, |o| o.line(document["signed"].as_str().unwrap_or_default()));
    Ok(())
}

/// `keys list`
pub(super) fn list(common: &Common, realm: Option<String>, output: &Output) -> Result<(), Failure> {
    let listed = connect::call(common, Call::KeysList { realm }, output)?;
    output.answer(&listed, |o| {
        let rows: Vec<Value> = listed["keys"].as_array().into_iter().flatten().map(row).collect();
        let columns = [
            ("REALM", "realm"),
            ("TENANT", "tenant"),
            ("PURPOSE", "purpose"),
            ("KID", "kid"),
            ("STATE", "state"),
            ("SIGNS FROM", "from"),
            ("COUNTS UNTIL", "until"),
            ("SITES", "sites"),
        ];
        o.table(&rows.into(), &columns);
        for scope in listed["overdue"].as_array().into_iter().flatten() {
            o.warn(&format!("no key of {} may sign: nothing is issued in it", plain(scope)));
        }
    });
    Ok(())
}

fn row(key: &Value) -> Value {
    let mut row = key.clone();
    let at = |field: &str| time(key[field].as_u64().unwrap_or_default() * 1000).chars().take(16).collect::<String>();
    row["from"] = at("signs_from_ms").into();
    row["until"] = at("counts_until_ms").into();
    row
}

/// `keys rotate --issuer`
pub(super) fn rotate(
    common: &Common,
    realm: Option<String>,
    tenant: Option<String>,
    purpose: Option<String>,
    output: &Output,
) -> Result<(), Failure> {
    let done = connect::call(common, Call::KeysRotateIssuer { realm, tenant, purpose }, output)?;
    output.answer(&done, |o| {
        let columns = [("TENANT", "tenant"), ("PURPOSE", "purpose"), ("SIGNS NOW", "kid"), ("DESTROYED", "destroyed")];
        o.table(&done["keys"], &columns);
        o.say("sessions that older keys signed live on; `ringfence revoke key KID` ends them");
    });
    Ok(())
}

/// `keys manifest …`
pub(super) fn manifest(common: &Common, command: ManifestCommand, output: &Output) -> Result<(), Failure> {
    match command {
        ManifestCommand::Request { days, fresh, realm } => {
            let made = connect::call(common, Call::ManifestRequest { realm, days, fresh }, output)?;
            output.answer(&made, |o| {
                for line in made["words"].as_array().into_iter().flatten() {
                    eprintln(&plain(line));
                }
                o.line(made["request"].as_str().unwrap_or_default().trim_end());
            });
        }
        ManifestCommand::Sign { root, request, yes } => sign(&root, &request, yes, output)?,
        ManifestCommand::Apply { manifest } => {
            let done = connect::call(common, Call::ManifestApply { text: read(&manifest)? }, output)?;
            output.answer(&done, |o| {
                let realm = plain(&done["realm"]);
                o.say(&format!(
                    "manifest #{} of realm `{realm}` is in force, by record #{}",
                    done["seq"], done["record"]
                ));
            });
        }
        ManifestCommand::Show { realm } => {
            let shown = connect::call(common, Call::ManifestShow { realm }, output)?;
            output.answer(&shown, |o| show(o, &shown));
        }
    }
    Ok(())
}

fn show(o: &Output, shown: &Value) {
    o.field("realm", &plain(&shown["realm"]));
    for root in shown["roots"].as_array().into_iter().flatten() {
        o.field("root", &format!("{}  (from manifest #{} on)", plain(&root["fingerprint"]), root["since_seq"]));
    }
    if shown["development_root"] == true {
        o.warn("the root is the development root inside the data directory");
    }
    match shown["manifest"]["seq"].as_u64() {
        Some(seq) => {
            o.field("manifest", &format!("#{seq}, {} keys", shown["manifest"]["keys"]));
            o.field("sha256", &plain(&shown["manifest"]["sha256"]));
        }
        None => o.field("manifest", "none"),
    }
}

/// Offline: nothing is read but the request and the root.
fn sign(roots: &[PathBuf], request: &Path, yes: bool, output: &Output) -> Result<(), Failure> {
    let request = Request::from_text(&read(request)?)?;
    for line in request.in_words() {
        eprintln(&line);
    }
    let mut lines = Lines;
    if !yes && !lines.agrees("sign it?")? {
        return Err(Failure::new(Kind::Refused, "nothing was signed").next("answer `yes`, or give `--yes`"));
    }
    let files = open(roots, &mut lines)?;
    let public = files[0].public();
    if let Some(previous) = request.previous.as_ref().filter(|previous| !previous.is_signed_by(&public)) {
        eprintln(&format!(
            "the manifest before it, #{}, is of another root: this one has taken over",
            previous.manifest.seq
        ));
    }
    let signed = ceremony::sign_manifest(&files, request.manifest).map_err(|e| Failure::new(Kind::Usage, e))?;
    let document = json!({
        "realm": signed.manifest.realm,
        "seq": signed.manifest.seq,
        "root": fingerprint(&public),
        "manifest": SignedManifest::to_text(&signed),
    });
    output.answer(&document, |o| o.line(document["manifest"].as_str().unwrap_or_default().trim_end()));
    Ok(())
}

/// `keys root …`
pub(super) fn root(common: &Common, command: RootCommand, output: &Output) -> Result<(), Failure> {
    match command {
        RootCommand::New { realm, frost, out } => new(&realm, frost.as_deref(), &out, output),
        RootCommand::Handover { root, new } => hand_over(&root, &new, output),
        RootCommand::Witnesses { root, request, yes } => sign_witnesses(&root, &request, yes, output),
        RootCommand::Adopt { file } => {
            let done = connect::call(common, Call::RootAdopt { text: read(&file)? }, output)?;
            output.answer(&done, |o| {
                o.say(&format!(
                    "root {} takes over realm `{}` from manifest #{} on",
                    plain(&done["fingerprint"]),
                    plain(&done["realm"]),
                    done["since_seq"]
                ));
                if done["was_development"] == true {
                    o.say("the development root is destroyed: this server signs no manifest any more");
                }
                o.say("next: `ringfence keys manifest request > request`, sign it offline, `keys manifest apply`");
            });
            Ok(())
        }
    }
}

/// The ceremony. It needs no server and opens no connection.
fn new(realm: &str, frost: Option<&str>, out: &Path, output: &Output) -> Result<(), Failure> {
    let realm = Realm::parse(realm).map_err(|e| Failure::new(Kind::Usage, e))?;
    let unusable = |e: ringfence_vault::VaultError| Failure::new(Kind::Usage, e);
    let (files, names): (Vec<RootFile>, Vec<String>) = match frost {
        None => (vec![RootFile::whole(&realm).map_err(unusable)?], vec![format!("{realm}.root")]),
        Some(text) => {
            let (needed, of) = shares(text)?;
            let files = RootFile::shares(&realm, needed, of).map_err(unusable)?;
            (files, (1..=of).map(|number| format!("{realm}-{number}.share")).collect())
        }
    };
    let public = files[0].public();
    eprintln(&format!("1. a root for realm `{realm}` was made on this machine; no server and no network is asked"));
    eprintln(&format!("2. each of {} files is sealed under a passphrase of its own", files.len()));
    fs::create_dir_all(out).map_err(|e| Failure::new(Kind::Usage, format!("cannot make `{}`: {e}", out.display())))?;
    let mut lines = Lines;
    let mut written = vec![];
    for (file, name) in files.iter().zip(&names) {
        let path = out.join(name);
        let passphrase = lines.new_passphrase(name)?;
        file.write(&path, passphrase).map_err(unusable)?;
        written.push(path.display().to_string());
    }
    let public_file = out.join(format!("{realm}.root.pub"));
    write_public(&public_file, &RootPublic { realm: realm.clone(), public })?;
    let document = json!({
        "realm": realm,
        "public": public.to_string(),
        "fingerprint": fingerprint(&public),
        "needed": files[0].needed(),
        "files": written,
        "public_file": public_file.display().to_string(),
    });
    output.answer(&document, |o| {
        o.field("fingerprint", &fingerprint(&public));
        for path in &written {
            o.field("sealed", path);
        }
        o.field("public", &public_file.display().to_string());
        match files[0].needed() {
            1 => o.say("write the fingerprint down; keep the file offline, and a copy of it elsewhere"),
            n => o.say(&format!("write the fingerprint down; give each share to another person: {n} of them sign")),
        }
        o.say(&format!("next, at the server: ringfence keys root adopt {}", public_file.display()));
    });
    Ok(())
}

fn shares(text: &str) -> Result<(u16, u16), Failure> {
    let wrong = || Failure::new(Kind::Usage, format!("`{text}` is not of the form KofN")).next("write `2of3`");
    let (needed, of) = text.split_once("of").ok_or_else(wrong)?;
    Ok((needed.parse().map_err(|_| wrong())?, of.parse().map_err(|_| wrong())?))
}

fn write_public(path: &Path, root: &RootPublic) -> Result<(), Failure> {
    let failed = |e| Failure::new(Kind::Usage, format!("cannot write `{}`: {e}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(failed)?;
    file.write_all(root.to_text().as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

fn hand_over(roots: &[PathBuf], new: &Path, output: &Output) -> Result<(), Failure> {
    let to = RootPublic::from_text(&read(new)?)?;
    let mut lines = Lines;
    let files = open(roots, &mut lines)?;
    let from = files[0].public();
    if *files[0].realm() != to.realm {
        return Err(Failure::new(Kind::Usage, "the two roots are of different realms"));
    }
    eprintln(&format!("root {} hands realm `{}` over to {}", fingerprint(&from), to.realm, fingerprint(&to.public)));
    let signature = ceremony::sign(&files, &HandOver::to_be_signed(&from, &to));
    let hand_over = HandOver { from, to, signature: signature.map_err(|e| Failure::new(Kind::Usage, e))? };
    let document = json!({
        "realm": hand_over.to.realm,
        "from": from.to_string(),
        "to": hand_over.to.public.to_string(),
        "hand_over": hand_over.to_text(),
    });
    output.answer(&document, |o| o.line(hand_over.to_text().trim_end()));
    Ok(())
}

fn open(roots: &[PathBuf], lines: &mut Lines) -> Result<Vec<RootFile>, Failure> {
    let opened = roots.iter().map(|path| {
        let passphrase = lines.passphrase(&path.display().to_string())?;
        RootFile::read(path, passphrase).map_err(|e| Failure::new(Kind::Usage, e))
    });
    let files: Vec<RootFile> = opened.collect::<Result<_, _>>()?;
    let needed = usize::from(files[0].needed());
    if files.len() < needed {
        return Err(Failure::new(
            Kind::Usage,
            format!("{needed} shares must come together, {} were given", files.len()),
        )
        .next("give `--root` once for each"));
    }
    Ok(files)
}

/// Asks on the terminal, one thing after the other; or reads standard input, a
/// line each.
struct Lines;

impl Lines {
    fn passphrase(&mut self, of: &str) -> Result<Passphrase, Failure> {
        eprintln(&format!("{of}:"));
        Ok(Passphrase::new(passphrase::give()?.0))
    }

    fn new_passphrase(&mut self, of: &str) -> Result<Passphrase, Failure> {
        eprintln(&format!("{of}:"));
        Ok(Passphrase::new(passphrase::choose()?.0))
    }

    fn agrees(&mut self, question: &str) -> Result<bool, Failure> {
        if std::io::stdin().is_terminal() {
            let _ = write!(std::io::stderr(), "{question} (yes/no) ").and_then(|()| std::io::stderr().flush());
        }
        let mut answer = String::new();
        let read = std::io::stdin().lock().read_line(&mut answer);
        read.map_err(|e| Failure::new(Kind::Usage, format!("no answer could be read: {e}")))?;
        Ok(answer.trim() == "yes")
    }
}

/// For people, beside a document on standard output.
fn eprintln(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn read(path: &Path) -> Result<String, Failure> {
    let failed =
        |e: &dyn std::fmt::Display| Failure::new(Kind::Usage, format!("cannot read `{}`: {e}", path.display()));
    if fs::metadata(path).map_err(|e| failed(&e))?.len() > PAPER_BYTES_MAX {
        return Err(failed(&"it is larger than any paper"));
    }
    fs::read_to_string(path).map_err(|e| failed(&e))
}
