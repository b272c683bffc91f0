//! Rules between the fields, checked after each field is well-formed.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use ringfence_format::witness::WitnessKey;
use ringfence_store::site::{Service, quirks};

use super::error::nearest;
use super::{Config, Site, SiteKind, SiteType};

/// One step of a path into the file.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl Step {
    /// As a variable names it: entries of the list before it by their id or name.
    fn as_text(&self, list: Option<&Self>, config: &Config) -> String {
        let (i, list) = match (self, list) {
            (Self::Key(key), _) => return key.clone(),
            (Self::Index(i), Some(Self::Key(list))) => (*i, list.as_str()),
            (Self::Index(_), _) => return String::new(),
        };
        let name = match list {
            "site" => config.site.get(i).map(|site| site.id.as_str()),
            "tenant" => config.tenant.get(i).map(|tenant| tenant.name.as_str()),
            "issuer" => config.issuer.get(i).map(|issuer| issuer.name.as_str()),
            "role" => config.role.get(i).map(|role| role.name.as_str()),
            _ => None,
        };
        name.unwrap_or_default().to_owned()
    }
}

impl Wrong {
    /// Its path as a variable would name it.
    pub(super) fn as_variable(&self, config: &Config) -> Vec<String> {
        let before = |i: usize| i.checked_sub(1).and_then(|i| self.path.get(i));
        self.path.iter().enumerate().map(|(i, step)| step.as_text(before(i), config)).collect()
    }
}

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) path: Vec<Step>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

pub(super) type Check = Result<(), Wrong>;

/// All rules; the first that is broken.
pub(super) fn all(config: &Config) -> Check {
    loopback("s3", config.s3.addr)?;
    loopback("admin", config.admin.addr)?;
    if let Some(addr) = config.auth.addr {
        loopback("auth", addr)?;
    }
    if config.keys.key_file.is_some() && config.keys.passphrase.is_some() {
        let message = "a key file and a passphrase are two ways to unlock one keyring".to_owned();
        return wrong(&["keys", "key_file"], message, "keep the one the keyring was made with");
    }
    sites(config)?;
    labels(config)?;
    placements(config)?;
    retention(config)?;
    alarm(config)?;
    super::sessions::check(config)?;
    witnesses(config)?;
    background(config)
}

/// A plain-text listener that others can reach would hand them every
/// signature and every byte.
fn loopback(section: &str, addr: SocketAddr) -> Check {
    if addr.ip().is_loopback() {
        return Ok(());
    }
    let help = "bind 127.0.0.1 and let a TLS-terminating proxy on this machine listen outside";
    wrong(&[section, "addr"], format!("`{addr}` can be reached from outside and has no TLS"), help)
}

fn sites(config: &Config) -> Check {
    if !config.site.iter().any(|s| s.kind == SiteKind::Private) {
        let help = "add `[[site]]` with `id = \"home\"`, `kind = \"private\"`, `type = \"directory\"`, `path = \"sites/home\"`";
        return wrong(&["site"], "no private site: there is no home for data that may not leave".to_owned(), help);
    }
    let mut seen = BTreeSet::new();
    for (i, site) in config.site.iter().enumerate() {
        if !seen.insert(&site.id) {
            return wrong_at(i, "id", format!("two sites are called `{}`", site.id), "give each its own id");
        }
        one_site(i, site)?;
    }
    Ok(())
}

fn one_site(i: usize, site: &Site) -> Check {
    if site.jurisdiction.len() != 2 || !site.jurisdiction.bytes().all(|b| b.is_ascii_uppercase()) {
        let message = format!("`{}` is not an ISO 3166-1 code", site.jurisdiction);
        return wrong_at(i, "jurisdiction", message, "write two capital letters such as `DE`; `ZZ` is unknown");
    }
    if site.timeout_s == 0 {
        return wrong_at(i, "timeout_s", "a timeout of 0 fails every call".to_owned(), "30 is the default");
    }
    if site.failures_max == 0 {
        let message = "0 failures would rest a site that works".to_owned();
        return wrong_at(i, "failures_max", message, "5 is the default");
    }
    if site.rest_s == 0 || site.rest_max_s < site.rest_s {
        let message = format!("rests go from {} s to {} s", site.rest_s, site.rest_max_s);
        return wrong_at(i, "rest_s", message, "at least 1, and not above `rest_max_s`; 5 and 60 are the defaults");
    }
    let (needs, knows): (&[&str], &[&str]) = match site.type_ {
        SiteType::Directory => (&["path"], &["path"]),
        SiteType::S3 => (
            &["bucket", "access_key_id", "secret_access_key"],
            &["endpoint", "bucket", "region", "prefix", "access_key_id", "secret_access_key"],
        ),
        SiteType::Azure => (
            &["endpoint", "bucket", "account", "account_key"],
            &["endpoint", "bucket", "prefix", "account", "account_key"],
        ),
        SiteType::Gcs => (&["bucket"], &["endpoint", "bucket", "prefix", "credential"]),
    };
    let given = given_fields(site);
    if let Some(missing) = needs.iter().find(|n| !given.contains(n)) {
        let message = format!("site `{}` needs `{missing}`", site.id);
        return wrong_at(i, "type", message, &format!("a site of this type takes: {}", knows.join(", ")));
    }
    if let Some(extra) = given.iter().find(|g| !knows.contains(g)) {
        let message = format!("`{extra}` means nothing to a site of this type");
        return wrong_at(i, extra, message, &format!("it takes: {}", knows.join(", ")));
    }
    remote_site(i, site)
}

/// What the driver would refuse at the start, said with its place.
fn remote_site(i: usize, site: &Site) -> Check {
    let service = match site.type_ {
        SiteType::Directory => return Ok(()),
        SiteType::S3 => Service::S3,
        SiteType::Azure => Service::Azure,
        SiteType::Gcs => Service::Gcs,
    };
    let Some(quirks) = quirks::of(&site.provider, service) else {
        let known: Vec<_> = quirks::TABLE.iter().filter(|q| q.service == service).map(|q| q.provider).collect();
        let message = format!("provider `{}` does not speak what sites of this type speak", site.provider);
        return wrong_at(i, "provider", message, &format!("known for this type: {}", known.join(", ")));
    };
    if site.endpoint.is_none() && quirks.endpoint.is_none() {
        let message = format!("site `{}` needs `endpoint`: its provider has no usual one", site.id);
        return wrong_at(i, "type", message, "for example `endpoint = \"https://s3.example\"`");
    }
    Ok(())
}

fn given_fields(site: &Site) -> Vec<&'static str> {
    [
        ("path", site.path.is_some()),
        ("endpoint", site.endpoint.is_some()),
        ("bucket", site.bucket.is_some()),
        ("region", site.region.is_some()),
        ("prefix", site.prefix.is_some()),
        ("account", site.account.is_some()),
        ("access_key_id", site.access_key_id.is_some()),
        ("secret_access_key", site.secret_access_key.is_some()),
        ("account_key", site.account_key.is_some()),
        ("credential", site.credential.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, is)| is.then_some(name))
    .collect()
}

fn labels(config: &Config) -> Check {
    let order = &config.labels.order;
    if order.is_empty() || order.iter().collect::<BTreeSet<_>>().len() != order.len() {
        let help = "for example `order = [\"public\", \"internal\", \"confidential\", \"restricted\"]`";
        return wrong(&["labels", "order"], "labels must be given once each, and at least one".to_owned(), help);
    }
    let known = |label: &str| order.iter().any(|l| l.as_str() == label);
    let unknown = |mut path: Vec<Step>, key: &str, label: &str| {
        path.push(Step::Key(key.to_owned()));
        let help = match nearest(label, order.iter().map(|l| l.as_str())) {
            Some(best) => format!("did you mean `{best}`?"),
            None => "add it to `[labels] order`".to_owned(),
        };
        Err(Wrong { path, message: format!("label `{label}` is not in `[labels] order`"), help: Some(help) })
    };
    for (i, rule) in config.label_rule.iter().enumerate() {
        if !known(rule.label.as_str()) {
            return unknown(vec![Step::Key("label_rule".into()), Step::Index(i)], "label", rule.label.as_str());
        }
    }
    let mut names = BTreeSet::new();
    for (i, tenant) in config.tenant.iter().enumerate() {
        let path = vec![Step::Key("tenant".into()), Step::Index(i)];
        if let Some(label) = tenant.default_label.as_ref().filter(|l| !known(l.as_str())) {
            return unknown(path, "default_label", label.as_str());
        }
        if !names.insert(&tenant.name) {
            let message = format!("tenant `{}` stands twice", tenant.name);
            return Err(Wrong { path, message, help: Some("keep one of the two".into()) });
        }
    }
    match config.placement.keys().find(|l| !known(l.as_str())) {
        Some(label) => unknown(vec![Step::Key("placement".into())], label.as_str(), label.as_str()),
        None => Ok(()),
    }
}

fn placements(config: &Config) -> Check {
    for (label, rule) in &config.placement {
        let path = ["placement", label.as_str(), "prefer"];
        for site in &rule.prefer {
            if !config.site.iter().any(|s| s.id == *site) {
                let help = match nearest(site.as_str(), config.site.iter().map(|s| s.id.as_str())) {
                    Some(best) => format!("did you mean `{best}`?"),
                    None => "add a `[[site]]` with that id".to_owned(),
                };
                return wrong(&path, format!("no site is called `{site}`"), &help);
            }
        }
        if rule.prefer.iter().collect::<BTreeSet<_>>().len() != rule.prefer.len() {
            return wrong(&path, "a site stands twice".to_owned(), "name each site once");
        }
        if rule.copies == 0 || rule.copies > rule.prefer.len() {
            let message = format!("{} copies cannot lie at {} sites", rule.copies, rule.prefer.len());
            return wrong(
                &["placement", label.as_str(), "copies"],
                message,
                "from 1 to the number of sites in `prefer`",
            );
        }
    }
    match config.labels.order.iter().find(|l| !config.placement.contains_key(*l)) {
        Some(label) => {
            let help = format!("add `[placement.{label}]` with `prefer = [\"home\"]`");
            wrong(&["placement"], format!("label `{label}` has no placement"), &help)
        }
        None => Ok(()),
    }
}

/// Who did something is of little use without what was in force then.
fn retention(config: &Config) -> Check {
    let log = &config.log;
    if log.keep_control_days != 0 && (log.keep_access_days == 0 || log.keep_access_days > log.keep_control_days) {
        let message = "control-plane records would go before the access records they explain".to_owned();
        return wrong(&["log", "keep_control_days"], message, "at least `keep_access_days`, or 0 for ever");
    }
    Ok(())
}

fn alarm(config: &Config) -> Check {
    let alarm = &config.alarm;
    if alarm.webhook.is_some() != alarm.secret.is_some() {
        let message = "a webhook and the secret that signs what is sent there belong together".to_owned();
        return wrong(&["alarm"], message, "give both `webhook` and `secret`, or neither");
    }
    if alarm.timeout_s == 0 || alarm.retry_max_s == 0 {
        let message = "0 seconds would send without end".to_owned();
        return wrong(&["alarm"], message, "`timeout_s` and `retry_max_s` are at least 1");
    }
    let Some(url) = &alarm.webhook else { return Ok(()) };
    let place = ["alarm", "webhook"];
    // The address is not repeated: it may hold a token.
    let Ok(url) = reqwest::Url::parse(url) else {
        return wrong(&place, "it is not a URL".to_owned(), "for example `https://alarms.example/ringfence`");
    };
    if !url.username().is_empty() || url.password().is_some() {
        let help = "messages are signed with `secret`; leave the password out";
        return wrong(&place, "a secret may not stand in the configuration".to_owned(), help);
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_here(&url) => Ok(()),
        _ => wrong(&place, "others could read the alarms on their way".to_owned(), "write `https://…`"),
    }
}

fn witnesses(config: &Config) -> Check {
    for (i, witness) in config.witness.iter().enumerate() {
        let path = |key: &str| vec![Step::Key("witness".into()), Step::Index(i), Step::Key(key.to_owned())];
        let wrong = |key: &str, message: &str, help: &str| {
            Err(Wrong { path: path(key), message: message.to_owned(), help: Some(help.to_owned()) })
        };
        if witness.key.parse::<WitnessKey>().is_err() {
            return wrong("key", "it is not a witness's verifier key", "write what `ringfence witness` prints");
        }
        if config.witness[..i].iter().any(|earlier| earlier.key == witness.key) {
            return wrong("key", "this witness is there twice", "one entry for each");
        }
        let Ok(url) = reqwest::Url::parse(&witness.url) else {
            return wrong("url", "it is not a URL", "for example `https://witness.example`");
        };
        if !matches!((url.scheme(), is_here(&url)), ("https", _) | ("http", true)) || url.query().is_some() {
            return wrong("url", "it is neither `https://…` nor on this machine", "write its submission prefix");
        }
    }
    Ok(())
}

/// Whether a URL names this machine.
fn is_here(url: &reqwest::Url) -> bool {
    match url.host_str().unwrap_or_default().trim_matches(['[', ']']) {
        "localhost" => true,
        host => host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

fn background(config: &Config) -> Check {
    let b = &config.background;
    let intervals =
        [("sweep_every_s", b.sweep_every_s), ("scrub_every_s", b.scrub_every_s), ("trim_every_s", b.trim_every_s)];
    for (key, value) in intervals {
        if value == 0 {
            return wrong(&["background", key], "an interval of 0 never rests".to_owned(), "give seconds, at least 1");
        }
    }
    if b.abort_uploads_days == 0 {
        let message = "0 days would abort uploads under way".to_owned();
        return wrong(&["background", "abort_uploads_days"], message, "give days, at least 1");
    }
    Ok(())
}

fn wrong(path: &[&str], message: String, help: &str) -> Check {
    let path = path.iter().map(|p| Step::Key((*p).to_owned())).collect();
    Err(Wrong { path, message, help: Some(help.to_owned()) })
}

fn wrong_at(site: usize, key: &str, message: String, help: &str) -> Check {
    let path = vec![Step::Key("site".into()), Step::Index(site), Step::Key(key.to_owned())];
    Err(Wrong { path, message, help: Some(help.to_owned()) })
}
