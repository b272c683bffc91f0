//! Commands that are administrative calls: what was typed becomes a [`Call`],
//! its answer a table.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::output::human_bytes;
use super::{
    AlarmCommand, Command, Common, Failure, KeyCommand, KeysCommand, Kind, LogCommand, Output, PolicyCommand,
    SiteCommand, TenantCommand, alarms, connect, cuts, passphrase, revoke, session_keys, trust, witnesses,
};
use crate::admin::call::{Call, Erase};

/// Runs one of them.
pub fn run(common: &Common, command: Command, output: &Output) -> Result<(), Failure> {
    match command {
        Command::Where { url } => whereabouts(common, &url, output),
        Command::Policy(command) => policy(common, command, output),
        Command::Site(SiteCommand::List) => site_list(common, output),
        Command::Site(SiteCommand::Check { site }) => site_check(common, site, output),
        Command::Log(LogCommand::Show { request, from, limit }) => log_show(common, request, from, limit, output),
        Command::Log(LogCommand::Prove { request }) => log_prove(common, request, output),
        Command::Log(LogCommand::Trim { before, dry_run }) => cuts::trim(common, before, dry_run, output),
        Command::Log(LogCommand::Erase { request, tenant, principal, from, until, reason, confirm }) => {
            let erase = Erase { request, tenant, principal, from, until, reason, confirm };
            cuts::erase(common, erase, output)
        }
        Command::Log(LogCommand::Witnesses(arguments)) => witnesses::run(common, arguments, output),
        Command::Alarm(AlarmCommand::List { since }) => alarms::list(common, since, output),
        Command::Key(command) => key(common, command, output),
        Command::Keys(KeysCommand::Backup { file }) => keys_backup(common, &file, output),
        Command::Keys(KeysCommand::Rotate { tenant, issuer: true, realm, purpose }) => {
            session_keys::rotate(common, realm, tenant, purpose, output)
        }
        Command::Keys(KeysCommand::Rotate { tenant, .. }) => keys_rotate(common, tenant, output),
        Command::Keys(KeysCommand::List { realm }) => session_keys::list(common, realm, output),
        Command::Keys(KeysCommand::Manifest(command)) => session_keys::manifest(common, command, output),
        Command::Keys(KeysCommand::Root(command)) => session_keys::root(common, command, output),
        Command::Revoke(command) => revoke::run(common, command, output),
        Command::Trust(command) => trust::run(common, command, output),
        Command::Tenant(command) => tenant(common, command, output),
        Command::Scrub => scrub(common, output),
        Command::Sweep { dry_run, confirm_recovered } => sweep(common, dry_run, confirm_recovered, output),
        Command::Status => status(common, output),
        Command::Serve(_)
        | Command::Gateway(_)
        | Command::Recover
        | Command::Token(_)
        | Command::Config(_)
        | Command::Demo { .. }
        | Command::Drill(_)
        | Command::Log(LogCommand::Verify { .. } | LogCommand::Check { .. })
        | Command::Witness(_)
        | Command::Keys(KeysCommand::Restore { .. }) => unreachable!("these run without the server"),
    }
}

fn ask(common: &Common, call: Call, output: &Output) -> Result<Value, Failure> {
    connect::call(common, call, output)
}

fn whereabouts(common: &Common, url: &str, output: &Output) -> Result<(), Failure> {
    let (bucket, key) = url
        .strip_prefix("s3://")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
        .ok_or_else(|| {
            let shown: String = url.chars().take(200).collect();
            Failure::new(Kind::Usage, format!("`{shown}` does not name an object")).next("write `s3://BUCKET/KEY`")
        })?;
    let found = ask(common, Call::Where { bucket: bucket.to_owned(), key: key.to_owned() }, output)?;
    output.answer(&found, |o| {
        o.field("object", &text(&found["url"]));
        o.field("label", &format!("{}  (from the {})", text(&found["label"]), text(&found["label_source"])));
        let size = |field: &str| human_bytes(found[field].as_u64().unwrap_or_default());
        o.field("size", &format!("{}, sealed {}", size("size"), size("sealed_bytes")));
        o.field("placed by", &format!("{}  (policy epoch {})", list(&found["placed_by"]), found["policy_epoch"]));
        if let Some(drift) = found["drift"].as_array().filter(|d| !d.is_empty()) {
            o.field("drift", &o.bad(&format!("policy no longer allows {}", list(&drift.clone().into()))));
        }
        o.say("");
        o.table(&found["copies"], &[("SITE", "site"), ("KIND", "kind"), ("CHUNKS", "chunks"), ("PACKED", "packed")]);
    });
    Ok(())
}

fn policy(common: &Common, command: PolicyCommand, output: &Output) -> Result<(), Failure> {
    match command {
        PolicyCommand::Show => {
            let shown = ask(common, Call::PolicyShow {}, output)?;
            output.answer(&shown, |o| {
                o.say(&format!("policy epoch {}, SHA-256 {}", shown["epoch"], text(&shown["sha256"])));
                for policy in shown["policies"].as_array().into_iter().flatten() {
                    o.say(&format!("\n{}", text(&policy["text"])));
                }
            });
            Ok(())
        }
        PolicyCommand::Check { file } => {
            let file = file.unwrap_or_else(|| common.data.join("policy.cedar"));
            let checked = ask(common, Call::PolicyCheck { text: read(&file)? }, output)?;
            output.answer(&checked, |o| {
                o.say(&format!("{}: {} policies, valid", file.display(), checked["policies"]));
                diff(o, &checked["diff"]);
            });
            Ok(())
        }
        PolicyCommand::Apply { file } => {
            let applied = ask(common, Call::PolicyApply { text: read(&file)? }, output)?;
            output.answer(&applied, |o| match applied["changed"].as_bool() {
                Some(true) => {
                    diff(o, &applied["diff"]);
                    o.say(&format!("in force as policy epoch {}, record #{}", applied["epoch"], applied["record"]));
                }
                _ => o.say(&format!("nothing changed; policy epoch {} stays in force", applied["epoch"])),
            });
            Ok(())
        }
        PolicyCommand::Test { cases, policies } => policy_test(common, cases, policies, output),
        PolicyCommand::Explain { request } => explain(common, request, output),
    }
}

fn diff(output: &Output, changes: &Value) {
    for line in changes.as_str().unwrap_or_default().lines() {
        match line.chars().next() {
            Some('+') => output.say(&output.good(line)),
            Some('-') => output.say(&output.bad(line)),
            _ => output.say(line),
        }
    }
}

fn policy_test(
    common: &Common,
    cases: Option<PathBuf>,
    policies: Option<PathBuf>,
    output: &Output,
) -> Result<(), Failure> {
    let text = policies.map(|file| read(&file)).transpose()?;
    let cases = cases.map(|file| read(&file)).transpose()?;
    let tested = ask(common, Call::PolicyTest { text, cases }, output)?;
    output.answer(&tested, |o| match tested.get("table") {
        Some(table) => {
            let columns = [
                ("LABEL", "label"),
                ("SITE", "site"),
                ("KIND", "kind"),
                ("JURISDICTION", "jurisdiction"),
                ("ALLOWED", "allowed"),
                ("CHOSEN", "chosen"),
                ("BY", "policies"),
            ];
            o.table(table, &columns);
        }
        None => {
            let columns = [
                ("CASE", "name"),
                ("VERDICT", "verdict"),
                ("EXPECTED", "expected"),
                ("GOT", "got"),
                ("BY", "policies"),
            ];
            o.table(&tested["cases"], &columns);
        }
    });
    match tested["failed"].as_u64() {
        Some(failed) if failed > 0 => {
            Err(Failure::new(Kind::Wrong, format!("{failed} cases did not come out as expected")))
        }
        _ => Ok(()),
    }
}

fn explain(common: &Common, request: String, output: &Output) -> Result<(), Failure> {
    let found = ask(common, Call::PolicyExplain { request }, output)?;
    output.answer(&found, |o| {
        record(o, &found);
        for policy in found["policies"].as_array().into_iter().flatten() {
            o.say(&format!("\n  {} {}", o.bold(&text(&policy["id"])), o.dim(&place(policy))));
            for line in policy["text"].as_str().unwrap_or("this policy is not in force any more").lines() {
                o.say(&format!("    {line}"));
            }
        }
        if found["policies"].as_array().is_none_or(Vec::is_empty) {
            o.say("\n  no policy took part in this answer");
        }
        if found["policies_changed_since"] == true {
            o.say(&o.dim("\n  the policies changed since: the texts are those in force now"));
        }
        for outcome in found["outcomes"].as_array().into_iter().flatten() {
            o.say("\n  and later:");
            record(o, outcome);
        }
    });
    Ok(())
}

fn place(policy: &Value) -> String {
    match (policy["file"].as_str(), policy["line"].as_u64()) {
        (Some(file), Some(line)) => format!("{file}:{line}"),
        _ => String::new(),
    }
}

/// One record, whole, as a block of fields.
fn record(o: &Output, record: &Value) {
    let (core, subject, resource) = (&record["core"], &record["subject"], &record["resource"]);
    o.field("request", &format!("{}  (record #{})", text(&record["request_id"]), record["seq"]));
    o.field("time", &text(&record["time"]));
    let decision = text(&core["decision"]);
    let decision = if decision == "allow" { o.good(&decision) } else { o.bad(&decision) };
    o.field("what", &format!("{} → {decision}", text(&core["op"])));
    if let Some(code) = core["error_code"].as_str() {
        o.field("answered", &format!("{} {code}", core["status"]));
    }
    o.field("who", &who(subject));
    for (name, field) in [
        ("bucket", "bucket"),
        ("key", "key"),
        ("label", "label"),
        ("sites", "sites"),
        ("prefix", "prefix"),
        ("bytes", "bytes"),
        ("names", "names"),
        ("detail", "detail"),
    ] {
        let value = &resource[field];
        if !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty()) {
            o.field(name, &list(value));
        }
    }
    if let Some(reason) = core["reason"].as_str() {
        o.field("why", reason);
    }
}

fn who(subject: &Value) -> String {
    let mut who = text(&subject["actor"]);
    for field in ["tenant", "principal", "key_id", "source"] {
        if let Some(value) = subject[field].as_str() {
            who.push_str(&format!(" {value}"));
        }
    }
    who
}

fn site_list(common: &Common, output: &Output) -> Result<(), Failure> {
    let sites = ask(common, Call::SiteList {}, output)?;
    let columns = [
        ("SITE", "id"),
        ("KIND", "kind"),
        ("TYPE", "type"),
        ("JURISDICTION", "jurisdiction"),
        ("PROVIDER", "provider"),
        ("DEDICATED", "dedicated"),
        ("STATE", "state"),
        ("PLACE", "place"),
        ("WHY", "why"),
    ];
    output.answer(&sites, |o| o.table(&sites["sites"], &columns));
    Ok(())
}

fn site_check(common: &Common, site: Option<String>, output: &Output) -> Result<(), Failure> {
    let checked = ask(common, Call::SiteCheck { site }, output)?;
    let reports = checked["sites"].as_array().cloned().unwrap_or_default();
    output.answer(&checked, |o| {
        for report in &reports {
            o.heading(&format!("{}  ({})", text(&report["site"]), text(&report["provider"])));
            o.table(&report["steps"], &[("STEP", "what"), ("OUTCOME", "outcome"), ("MS", "ms"), ("DETAIL", "detail")]);
            o.field("create-only", &text(&report["create_only"]));
            o.field("tested", &tested(&report["tested"]));
            o.field("note", &text(&report["note"]));
        }
    });
    let unusable = reports.iter().filter(|report| report["usable"] != true).count();
    match unusable {
        0 => Ok(()),
        n => Err(Failure::new(Kind::Wrong, format!("{n} of {} sites do not do what objects need", reports.len()))
            .next("see the failed steps; keep labels away from the site in `[placement]` until they pass")),
    }
}

fn tested(value: &Value) -> String {
    match value.as_str() {
        Some("real") => "the contract was run against this software".to_owned(),
        Some("emulated") => "the contract was run against an emulation".to_owned(),
        _ => "not tested against the real service".to_owned(),
    }
}

fn log_show(
    common: &Common,
    request: Option<String>,
    from: Option<u64>,
    limit: u64,
    output: &Output,
) -> Result<(), Failure> {
    let one = request.is_some();
    let shown = ask(common, Call::LogShow { request, from, limit }, output)?;
    output.answer(&shown, |o| {
        let records = shown["records"].as_array().cloned().unwrap_or_default();
        match records.as_slice() {
            [only] if one => record(o, only),
            _ => {
                let rows: Vec<Value> = records.iter().map(row).collect();
                let columns = [
                    ("#", "seq"),
                    ("TIME", "time"),
                    ("WHO", "who"),
                    ("WHAT", "what"),
                    ("DECISION", "decision"),
                    ("ON", "on"),
                    ("LABEL", "label"),
                    ("SITES", "sites"),
                ];
                o.table(&rows.into(), &columns);
                o.say(&o.dim(&format!("\n{} records in all", shown["size"])));
            }
        }
    });
    Ok(())
}

fn log_prove(common: &Common, request: String, output: &Output) -> Result<(), Failure> {
    let proved = ask(common, Call::LogProve { request }, output)?;
    output.answer(&proved, |o| o.line(proved["proof"].as_str().unwrap_or_default().trim_end()));
    Ok(())
}

fn row(record: &Value) -> Value {
    let (subject, resource) = (&record["subject"], &record["resource"]);
    let who = [&subject["tenant"], &subject["principal"]].map(text).join("/");
    let on = match (resource["bucket"].as_str(), resource["key"].as_str()) {
        (Some(bucket), Some(key)) => format!("{bucket}/{key}"),
        (Some(bucket), None) => bucket.to_owned(),
        _ => text(&resource["detail"]),
    };
    let on: String = on.lines().next().unwrap_or_default().chars().take(60).collect();
    serde_json::json!({
        "seq": record["seq"],
        "time": record["time"],
        "who": who,
        "what": record["core"]["op"],
        "decision": record.get("gone").unwrap_or(&record["core"]["decision"]),
        "on": on,
        "label": resource["label"],
        "sites": resource["sites"],
    })
}

fn key(common: &Common, command: KeyCommand, output: &Output) -> Result<(), Failure> {
    match command {
        KeyCommand::List { tenant } => {
            let keys = ask(common, Call::KeyList { tenant }, output)?;
            let columns = [
                ("ACCESS KEY ID", "access_key_id"),
                ("TENANT", "tenant"),
                ("PRINCIPAL", "principal"),
                ("STATE", "state"),
                ("RECORD", "issued_by_record"),
                ("AGE", "age_days"),
                ("LAST USED", "last_used"),
            ];
            output.answer(&keys, |o| {
                let rows: Vec<Value> = keys["keys"].as_array().into_iter().flatten().map(with_day).collect();
                o.table(&rows.into(), &columns);
                for key in keys["keys"].as_array().into_iter().flatten().filter(|key| !key["warning"].is_null()) {
                    o.warn(&format!("{} is {}", text(&key["access_key_id"]), text(&key["warning"])));
                }
            });
        }
        KeyCommand::Add { tenant, name } => {
            let issued = ask(common, Call::KeyAdd { tenant, name }, output)?;
            output.answer(&issued, |o| secret(o, &issued));
        }
        KeyCommand::Disable { id } => {
            let disabled = ask(common, Call::KeyDisable { id }, output)?;
            output.answer(&disabled, |o| {
                o.say(&format!(
                    "{} is disabled: every request with it is refused from now on",
                    text(&disabled["access_key_id"])
                ));
            });
        }
    }
    Ok(())
}

/// With the day of its last use as people write it.
fn with_day(key: &Value) -> Value {
    let mut row = key.clone();
    let day = key["last_used_ms"].as_u64().map(|ms| crate::retention::time(ms * 1000));
    row["last_used"] = day.and_then(|time| Some(time.get(..10)?.to_owned())).into();
    row
}

fn secret(o: &Output, issued: &Value) {
    o.field("tenant", &text(&issued["tenant"]));
    o.field("key id", &text(&issued["access_key_id"]));
    o.field("secret", &format!("{}  (shown once)", text(&issued["secret_access_key"])));
    o.field("profile", &format!("{} in {}", text(&issued["profile"]), text(&issued["credentials_file"])));
}

fn keys_backup(common: &Common, file: &Path, output: &Output) -> Result<(), Failure> {
    let file = std::path::absolute(file).map_err(|e| Failure::new(Kind::Usage, e))?;
    let passphrase = passphrase::choose()?;
    let done = ask(common, Call::KeysBackup { file, passphrase }, output)?;
    output.answer(&done, |o| {
        o.say(&format!("the keyring is sealed in {}", text(&done["file"])));
        o.say("keep it away from this machine, and its passphrase away from it; try `keys restore` once");
    });
    Ok(())
}

fn keys_rotate(common: &Common, tenant: Option<String>, output: &Output) -> Result<(), Failure> {
    let done = ask(common, Call::KeysRotate { tenant }, output)?;
    let columns = [
        ("TENANT", "tenant"),
        ("KEY VERSION", "version"),
        ("RE-WRAPPED", "rewrapped"),
        ("RETIRED", "retired"),
        ("STILL UNDER OLD KEYS", "remaining"),
    ];
    output.answer(&done, |o| o.table(&done["tenants"], &columns));
    let failed = done["failed"].as_u64().unwrap_or_default();
    match failed {
        0 => Ok(()),
        n => Err(Failure::new(Kind::Unavailable, format!("{n} objects could not be re-wrapped; they stay readable"))
            .next("see the server's output, mend the site, and run `ringfence keys rotate` again")),
    }
}

fn tenant(common: &Common, command: TenantCommand, output: &Output) -> Result<(), Failure> {
    match command {
        TenantCommand::Add { name, realm, default_label } => {
            let made = ask(common, Call::TenantAdd { name, realm, default_label }, output)?;
            output.answer(&made, |o| {
                secret(o, &made);
                o.field("label", &format!("{} where nothing else says one", text(&made["default_label"])));
                if made["static_keys_refused"] == true {
                    o.warn(
                        "static keys are refused for that label: every request of this tenant with one is answered \
                         403 until its buckets or objects have a less strict label, or it has a default of its own",
                    );
                }
                o.say(&o.dim("  another default: add `[[tenant]]` with `default_label` to ringfence.toml and restart"));
            });
        }
        TenantCommand::List => {
            let tenants = ask(common, Call::TenantList {}, output)?;
            let columns = [
                ("TENANT", "name"),
                ("REALM", "realm"),
                ("BUCKETS", "buckets"),
                ("ACTIVE KEYS", "active_keys"),
                ("DEFAULT LABEL", "default_label"),
            ];
            output.answer(&tenants, |o| o.table(&tenants["tenants"], &columns));
        }
    }
    Ok(())
}

fn scrub(common: &Common, output: &Output) -> Result<(), Failure> {
    let done = ask(common, Call::Scrub {}, output)?;
    let count = |field: &str| done[field].as_array().map_or(0, Vec::len);
    let (repaired, bad, unchecked) = (count("repaired"), count("bad"), count("unchecked"));
    output.answer(&done, |o| {
        let bytes = human_bytes(done["bytes"].as_u64().unwrap_or_default());
        o.say(&format!("{} copies of {} versions checked, {bytes}", done["copies"], done["versions"]));
        let columns = [("SITE", "site"), ("BUCKET", "bucket"), ("KEY", "key"), ("WHY", "why")];
        for (what, field, number) in [
            ("repaired from another copy", "repaired", repaired),
            ("not what was written", "bad", bad),
            ("not checked", "unchecked", unchecked),
        ] {
            if number > 0 {
                o.heading(what);
                o.table(&done[field], &columns);
            }
        }
    });
    match (bad, unchecked) {
        (0, 0) => Ok(()),
        (0, n) => Err(Failure::new(Kind::Unavailable, format!("{n} copies could not be checked"))
            .next("bring the site back, then run `ringfence scrub` again")),
        (n, _) => Err(Failure::new(Kind::Wrong, format!("{n} copies are not what was written"))
            .next("put the object again, or bring the site's data back from its own backup")),
    }
}

fn sweep(common: &Common, dry_run: bool, confirm_recovered: bool, output: &Output) -> Result<(), Failure> {
    let done = ask(common, Call::Sweep { dry_run, confirm_recovered }, output)?;
    output.answer(&done, |o| {
        let columns = [
            ("SITE", "site"),
            ("LISTED", "listed"),
            ("LIVE", "live"),
            ("ORPHANS", "orphans"),
            ("ERASED", "erased"),
            ("IN USE", "in_use"),
            ("YOUNG", "young"),
            ("UNKNOWN", "unknown"),
            ("RECOVERABLE", "recoverable"),
            ("FAILED", "failed"),
        ];
        o.table(&done["sites"], &columns);
        match dry_run {
            true => o.say("\nnothing was erased: this was a dry run"),
            false => o.say(&format!("\n{} deleted or replaced things erased besides", done["detached_erased"])),
        }
        if let Some(why) = done["held_back"].as_str() {
            o.say(&format!("orphans were left: {why}"));
        }
    });
    Ok(())
}

fn status(common: &Common, output: &Output) -> Result<(), Failure> {
    let status = ask(common, Call::Status {}, output)?;
    output.answer(&status, |o| {
        let obstacle = status["obstacle"].as_str();
        o.field("state", &obstacle.map_or_else(|| o.good("ready"), |why| o.bad(why)));
        o.field("version", &text(&status["version"]));
        o.field("data", &text(&status["data"]));
        o.field("log", &format!("{} records as {}", status["log"]["size"], text(&status["log"]["origin"])));
        o.field("policy", &format!("epoch {}", status["policy_epoch"]));
        let objects = &status["catalogue"];
        let bytes = human_bytes(objects["bytes"].as_u64().unwrap_or_default());
        o.field("objects", &format!("{} versions, {bytes}", objects["versions"]));
        o.field("under way", &format!("{} uploads, {} chunks to erase", objects["uploads"], objects["garbage"]));
        o.field("witnesses", &text(&status["witnesses"]));
        for warning in status["warnings"].as_array().into_iter().flatten() {
            o.warn(&text(warning));
        }
    });
    Ok(())
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|e| Failure::new(Kind::Usage, format!("cannot read `{}`: {e}", file.display())))
}

fn text(value: &Value) -> String {
    list(value)
}

fn list(value: &Value) -> String {
    super::output::plain(value)
}
