use super::*;

fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::parse(Path::new("ringfence.toml"), text, environment)
}

#[test]
fn the_first_configuration_is_valid_and_says_what_the_rulings_say() {
    let config = parse(FIRST, &[]).expect("valid");
    assert_eq!(config.s3.addr.to_string(), "127.0.0.1:9300");
    assert_eq!(config.admin.addr.to_string(), "127.0.0.1:9301");
    assert_eq!(config.tenant[0].default_label.as_ref().map(Label::as_str), Some("internal"));
    let public = &config.placement[&Label::parse("public").expect("a label")];
    assert_eq!((public.prefer[0].as_str(), public.copies), ("cloud", 1));
}

/// Replaces `from` in the first configuration and expects one line and one advice.
fn refused(from: &str, to: &str, line: &str, advice: &str) {
    assert!(FIRST.contains(from), "{from}");
    let error = parse(&FIRST.replacen(from, to, 1), &[]).expect_err(to);
    assert!(error.to_string().contains(line), "{error}\nexpected {line}");
    assert!(error.advice().unwrap_or_default().contains(advice), "{:?}\nexpected {advice}", error.advice());
}

#[test]
fn an_error_names_the_line_what_is_wrong_and_what_would_be_right() {
    let line = |needle: &str| 1 + FIRST[..FIRST.find(needle).expect("there")].matches('\n').count();
    let at = |needle: &str, message: &str| format!("ringfence.toml:{}: {message}", line(needle));

    refused("budget_mib", "budget_mb", &at("budget_mib", "unknown field `budget_mb`"), "did you mean `budget_mib`?");
    refused("kind = \"public\"", "kind = \"pubic\"", "unknown variant `pubic`", "did you mean `public`?");
    refused("\"127.0.0.1:9300\"", "\"0.0.0.0:9300\"", &at("addr =", "`0.0.0.0:9300` can be reached"), "TLS");
    refused("\"127.0.0.1:9301\"", "\"10.0.0.1:9301\"", "`10.0.0.1:9301` can be reached from outside", "proxy");
    refused("\"cloud\", \"home\"", "\"clouds\", \"home\"", &at("prefer =", "no site is called `clouds`"), "`cloud`");
    refused("\"internal\"\n\n#", "\"intern\"\n\n#", "label `intern` is not in", "did you mean `internal`?");
    refused("id = \"cloud\"", "id = \"home\"", "two sites are called `home`", "own id");
    refused("jurisdiction = \"ZZ\"", "jurisdiction = \"de\"", "`de` is not an ISO 3166-1 code", "DE");
    refused("copies = 1", "copies = 3", "3 copies cannot lie at 2 sites", "from 1");
    refused("path = \"sites/home\"\n", "", "site `home` needs `path`", "path");
    refused(
        "[placement.restricted]\nprefer = [\"home\"]\ncopies = 1",
        "",
        "label `restricted` has no placement",
        "add",
    );
    refused("sweep_every_s = 60", "sweep_every_s = 0", "never rests", "at least 1");
    for (auth, message, advice) in [
        ("addr = \"0.0.0.0:9302\"", "`0.0.0.0:9302` can be reached", "proxy"),
        ("proxy = \"ngnix\"", "unknown variant `ngnix`", "did you mean `nginx`?"),
    ] {
        refused("[background]", &format!("[auth]\n{auth}\n[background]"), message, advice);
    }
    for (alarm, message, advice) in [
        ("webhook = \"https://alarms.example/\"", "belong together", "both"),
        ("secret = \"env:WHSEC\"", "belong together", "both"),
        ("webhook = \"http://alarms.example/\"\nsecret = \"env:WHSEC\"", "on their way", "https"),
        ("webhook = \"http://127.0.0.1.example/\"\nsecret = \"env:WHSEC\"", "on their way", "https"),
        ("webhook = \"https://a:b@alarms.example/\"\nsecret = \"env:WHSEC\"", "secret may not stand", "password"),
        ("webhook = \"alarms.example\"\nsecret = \"env:WHSEC\"", "not a URL", "https"),
        ("retry_max_s = 0", "without end", "at least 1"),
    ] {
        refused("[background]", &format!("[alarm]\n{alarm}\n[background]"), message, advice);
    }
}

#[test]
fn a_literal_secret_is_refused_and_not_repeated() {
    let text = FIRST.replacen("provider = \"file\"", "provider = \"file\"\npassphrase = \"hunter2\"", 1);
    let error = parse(&text, &[]).expect_err("a literal").to_string();
    assert!(error.contains("write `env:NAME` or `file:PATH`"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn a_webhook_is_https_or_on_this_machine() {
    for url in ["https://alarms.example/x", "http://127.0.0.1:9/x", "http://[::1]:9/x", "http://localhost:9/x"] {
        let with = format!("[alarm]\nwebhook = \"{url}\"\nsecret = \"env:WHSEC\"\n[background]");
        let config = parse(&FIRST.replacen("[background]", &with, 1), &[]).expect(url);
        assert_eq!(config.alarm.webhook.as_deref(), Some(url));
    }
}

#[test]
fn the_environment_overrides_single_values() {
    let config = parse(
        FIRST,
        &[
            ("RINGFENCE__S3__ADDR", "127.0.0.1:1234"),
            ("RINGFENCE__LOG__BUDGET_MIB", "7"),
            ("RINGFENCE__SITE__CLOUD__JURISDICTION", "FR"),
            ("RINGFENCE__PLACEMENT__PUBLIC__PREFER", "[\"home\"]"),
            ("RINGFENCE_DATA", "not an override"),
        ],
    )
    .expect("valid");
    assert_eq!(config.s3.addr.port(), 1234);
    assert_eq!(config.log.budget_mib, 7);
    assert_eq!(config.site[1].jurisdiction, "FR");
    assert_eq!(config.placement[&Label::parse("public").expect("a label")].prefer.len(), 1);
}

#[test]
fn a_wrong_variable_is_named() {
    for (name, value, message) in [
        ("RINGFENCE__S3__ADR", "127.0.0.1:1", "unknown field `adr`"),
        ("RINGFENCE__S3__ADDR", "0.0.0.0:1", "can be reached from outside"),
        ("RINGFENCE__SITE__MOON__PATH", "x", "no entry has the id or name `moon`"),
        ("RINGFENCE__SITE__CLOUD__JURISDICTION", "france", "not an ISO 3166-1 code"),
    ] {
        let error = parse(FIRST, &[(name, value)]).expect_err(name).to_string();
        assert!(error.contains(name) && error.contains(message), "{error}");
    }
}

#[test]
fn the_schema_knows_every_section_and_refuses_unknown_ones() {
    let schema = Config::schema();
    for section in [
        "realm",
        "s3",
        "admin",
        "log",
        "keys",
        "site",
        "labels",
        "label_rule",
        "tenant",
        "placement",
        "issuer",
        "role",
        "sts",
        "policy",
        "alarm",
        "auth",
        "background",
    ] {
        assert!(schema["properties"].get(section).is_some(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

const SESSIONS: &str = r#"
[[issuer]]
name = "corp"
url = "https://idp.example/realms/corp"
tenant = "default"
audience = "ringfence"
claims = ["groups"]

[[role]]
tenant = "default"
name = "reader"
issuers = ["corp"]
subjects = ["*"]
claims = { groups = ["staff", "readers"] }
actions = ["s3:Get*"]
resources = ["data", "data/a*"]
"#;

#[test]
fn issuers_and_roles_are_taken_as_they_are_written() {
    let config = parse(&format!("{FIRST}{SESSIONS}"), &[]).expect("valid");
    let [issuer] = &config.issuers().expect("known words")[..] else { panic!("one issuer") };
    assert_eq!((issuer.realm.as_str(), issuer.max_token_age_s, issuer.types.len()), ("home", 3600, 1));
    let [role] = &config.roles().expect("known words")[..] else { panic!("one role") };
    assert_eq!((role.max_label.as_str(), role.max_session_s, role.static_keys), ("confidential", 3600, false));
    assert!(role.narrowing.allows("s3:GetObject", Some("data"), Some("a1")));
    let strict = SESSIONS.replacen("actions", "max_label = \"restricted\"\nactions", 1);
    let config = parse(&format!("{FIRST}{strict}"), &[]).expect("valid");
    assert_eq!(config.roles().expect("known words")[0].max_session_s, 900);
}

#[test]
fn an_issuer_or_role_that_cannot_be_is_refused_with_its_line() {
    let check = |from: &str, to: &str, line: &str, message: &str| {
        assert!(SESSIONS.contains(from), "{from}");
        let text = format!("{FIRST}{}", SESSIONS.replacen(from, to, 1));
        let error = parse(&text, &[]).expect_err(to).to_string();
        assert!(error.contains(message), "{error}\nexpected {message}");
        let number = 1 + text[..text.rfind(line).expect("there")].matches('\n').count();
        assert!(error.starts_with(&format!("ringfence.toml:{number}: ")), "{error}\nexpected line {number}");
    };
    check("https://idp", "http://idp", "url =", "is not an issuer's URL");
    check("audience = \"ringfence\"", "audience = \"\"", "audience =", "the audience is empty");
    check("claims = [", "algorithms = [\"HS256\"]\nclaims = [", "algorithms =", "`HS256` is not an algorithm");
    check("claims = [", "algorithms = [\"none\"]\nclaims = [", "algorithms =", "`none` is not an algorithm");
    check("claims = [", "max_token_age_s = 0\nclaims = [", "max_token_age_s =", "not short-lived");
    check("claims = [", "pin = [\"x\"]\nclaims = [", "pin =", "is not a thumbprint");
    check("tenant = \"default\"\naud", "tenant = \"provider\"\naud", "tenant = \"provider\"", "`provider` is reserved");
    check("\"corp\"]", "\"korp\"]", "issuers =", "no issuer is called `korp`");
    check("tenant = \"default\"\nname", "tenant = \"acme\"\nname", "issuers =", "is for tenant `default`");
    check("subjects = [\"*\"]\n", "", "[[role]]", "no subject is named");
    check("claims = { groups", "claims = { roles", "claims = {", "does not expose claim `roles`");
    check("[\"staff\", \"readers\"]", "[]", "claims = {", "no value of claim `groups`");
    check("issuers = [\"corp\"]\n", "", "[[role]]", "nobody may take on role");
    check("\"s3:Get*\"", "\"Get*\"", "actions =", "an action is written like");
    check("actions", "max_session_s = 7200\nactions", "max_session_s", "a session of 7200 s");
    check("actions", "max_label = \"secret\"\nactions", "max_label", "label `secret` is not in");
    let strict = "max_label = \"restricted\"\nmax_session_s = 3600\nactions";
    check("actions", strict, "max_session_s", "reaches the strictest label");
    check(
        "actions",
        "static_keys = true\nmax_label = \"restricted\"\nactions",
        "static_keys",
        "a static key would reach",
    );
    let twice = SESSIONS.replacen("[[issuer]]", "[sts]\nduration_s = 60\n\n[[issuer]]", 1);
    let error = parse(&format!("{FIRST}{twice}"), &[]).expect_err("too short").to_string();
    assert!(error.contains("a session of 60 s"), "{error}");
}

#[test]
fn a_variable_names_an_issuer_by_its_name() {
    let text = format!("{FIRST}{SESSIONS}");
    let config = parse(&text, &[("RINGFENCE__ISSUER__CORP__AUDIENCE", "other")]).expect("valid");
    assert_eq!(config.issuer[0].audience, "other");
    let error = parse(&text, &[("RINGFENCE__ISSUER__CORP__MAX_TOKEN_AGE_S", "0")]).expect_err("no age").to_string();
    assert!(error.contains("RINGFENCE__ISSUER__CORP__MAX_TOKEN_AGE_S"), "{error}");
}

/// A2: one place of keys under two realms is refused where it stands.
#[test]
fn a2_keys_shared_between_realms_fail_to_load() {
    let uri = "audience = \"ringfence\"\njwks_uri = \"https://keys.example/common\"";
    let first = SESSIONS.replacen("audience = \"ringfence\"", uri, 1);
    let second = "[[issuer]]\nname = \"partner\"\nurl = \"https://idp.example/realms/partner\"\nrealm = \"guests\"\ntenant = \"partner\"\n";
    let error = parse(&format!("{FIRST}{first}{second}{uri}\n"), &[]).expect_err("shared").to_string();
    assert!(error.contains("`corp` and `partner` of different scope take their keys from one place"), "{error}");
    let pin = |byte: u8| {
        use base64::Engine as _;
        format!("pin = [\"{}\"]\n", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode([byte; 32]))
    };
    let pinned = first.replacen("jwks_uri", &format!("{}jwks_uri", pin(1)), 1);
    parse(&format!("{FIRST}{pinned}{second}{uri}\n{}", pin(2)), &[]).expect("each pins its own");
    parse(&format!("{FIRST}{pinned}{second}{uri}\n{}", pin(1)), &[]).expect_err("one key in two realms");
}
