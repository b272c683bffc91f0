//! Who may get a session, and what it may do: `[[issuer]]`, `[[role]]`, `[sts]`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ringfence_access::caller::PROVIDER;
use ringfence_access::evidence::{self, Algorithm, IssuerEntry};
use ringfence_access::narrowing::{Glob, Narrowing};
use ringfence_access::roles::{self, Role};
use ringfence_format::names::{Label, Principal, Realm, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Config;
use super::check::{Check, Step, Wrong};
use super::error::nearest;

/// `[[issuer]]`: an identity provider whose tokens are exchanged for sessions.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What we call it; part of the principals of its subjects.
    #[schemars(with = "String")]
    pub name: Principal,
    /// `iss`, exactly as its tokens say it; its discovery document lies below.
    pub url: String,
    /// The realm its subjects act in; the installation's if left out.
    #[schemars(with = "Option<String>")]
    pub realm: Option<Realm>,
    /// The tenant its subjects act for: exactly one.
    #[schemars(with = "String")]
    pub tenant: Tenant,
    /// What `aud` must be, and nothing beside it.
    pub audience: String,
    /// Accept several audiences, ours among them, if `azp` is us.
    #[serde(default)]
    pub by_authorized_party: bool,
    /// What `alg` may be: RS256, RS384, RS512, PS256, PS384, PS512, ES256,
    /// ES384, EdDSA.
    #[serde(default = "default_algorithms")]
    pub algorithms: Vec<String>,
    /// What `typ` must be: `JWT` for most tokens, `at+jwt` for access tokens of
    /// RFC 9068.
    #[serde(default = "default_typ")]
    pub typ: String,
    /// Whether `typ` may be left out, as ID tokens of some providers do.
    #[serde(default)]
    pub typ_may_be_absent: bool,
    /// The longest `exp − iat`, in seconds.
    #[serde(default = "default_max_token_age_s")]
    pub max_token_age_s: u64,
    /// Where its keys are, instead of where its discovery document says.
    pub jwks_uri: Option<String>,
    /// RFC 7638 thumbprints of the only keys to accept; all it serves if empty.
    #[serde(default)]
    pub pin: Vec<String>,
    /// Development only: plain http to this machine.
    #[serde(default)]
    pub allow_loopback_http: bool,
    /// Claims that roles may look at: names, or JSON pointers such as
    /// `/realm_access/roles`.
    #[serde(default)]
    pub claims: Vec<String>,
}

/// `[[role]]`: what a session may do at most, and who may have one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleSettings {
    /// Whose.
    #[schemars(with = "String")]
    pub tenant: Tenant,
    /// Its name, as in `arn:ringfence:iam::TENANT:role/NAME`.
    #[schemars(with = "String")]
    pub name: Principal,
    /// Names of the issuers whose subjects may take it on.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub issuers: Vec<Principal>,
    /// Patterns of `sub`, of which one must match: `*` for any characters, `?`
    /// for one.
    #[serde(default)]
    pub subjects: Vec<String>,
    /// Claims that must hold as well: of each, one of the words must be its
    /// value, or be in its list.
    #[serde(default)]
    pub claims: BTreeMap<String, Words>,
    /// Seconds a session lasts at most; 3600 if left out, or 900 where the
    /// strictest label can be reached.
    pub max_session_s: Option<u32>,
    /// The strictest label its sessions may reach; the one below the strictest
    /// if left out.
    #[schemars(with = "Option<String>")]
    pub max_label: Option<Label>,
    /// What it may do, in IAM's words, such as `s3:Get*`.
    pub actions: Vec<String>,
    /// On what: `bucket`, `bucket/prefix*`, `*`.
    pub resources: Vec<String>,
    /// Whether static keys of the tenant may take it on.
    #[serde(default)]
    pub static_keys: bool,
}

/// One word or several.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Words {
    /// This one.
    One(String),
    /// One of these.
    Any(Vec<String>),
}

/// `[auth]`
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// Where proxies ask about the sessions that other services are shown, and
    /// where such sessions are had; loopback only. Left out: nowhere.
    pub addr: Option<SocketAddr>,
    /// How the proxy says what it was asked for. Nothing else is looked at: what
    /// a proxy does not set itself, its client could.
    pub proxy: Proxy,
}

/// How a proxy says what it was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// `X-Original-Method` and `X-Original-URL`, as `auth_request` of nginx is
    /// configured to send.
    #[default]
    Nginx,
    /// `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri`, as Traefik and Caddy
    /// send.
    Traefik,
    /// The request's own method, host and path behind `/auth`, as `ext_authz` of
    /// Envoy sends over HTTP.
    Envoy,
}

/// `[sts]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sts {
    /// Seconds a session lasts whose client asks for nothing else; never longer
    /// than its role and its evidence allow.
    pub duration_s: u32,
    /// Exchanges of one token within an hour, beyond which an alarm is raised.
    pub evidence_uses_per_hour: u32,
    /// Networks (/24, /48) one token may be exchanged from, beyond which an
    /// alarm is raised.
    pub evidence_networks: u32,
}

impl Default for Sts {
    fn default() -> Self {
        Self { duration_s: roles::SESSION_S_MAX, evidence_uses_per_hour: 60, evidence_networks: 1 }
    }
}
fn default_algorithms() -> Vec<String> {
    vec!["RS256".to_owned()]
}
fn default_typ() -> String {
    "JWT".to_owned()
}
fn default_max_token_age_s() -> u64 {
    3600
}

impl Config {
    /// The issuers, in the order of the file.
    ///
    /// # Errors
    /// An algorithm that does not exist; a checked configuration has none.
    pub fn issuers(&self) -> Result<Vec<IssuerEntry>, Unknown> {
        self.issuer.iter().enumerate().map(|(index, issuer)| issuer.entry(index, &self.realm)).collect()
    }

    /// The roles, in the order of the file.
    ///
    /// # Errors
    /// What [`Narrowing::of_role`] refuses; a checked configuration has none.
    pub fn roles(&self) -> Result<Vec<Role>, Unknown> {
        self.role.iter().enumerate().map(|(index, role)| role.role(index, &self.labels.order)).collect()
    }
}

/// An entry that says something which does not exist.
#[derive(Debug)]
pub struct Unknown {
    list: &'static str,
    index: usize,
    field: &'static str,
    message: String,
    help: String,
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Unknown> for Wrong {
    fn from(unknown: Unknown) -> Self {
        let Unknown { list, index, field, message, help } = unknown;
        let path = vec![Step::Key(list.to_owned()), Step::Index(index), Step::Key(field.to_owned())];
        Self { path, message, help: Some(help) }
    }
}

impl Issuer {
    fn entry(&self, index: usize, home: &Realm) -> Result<IssuerEntry, Unknown> {
        let algorithm = |name: &String| {
            Algorithm::find(name).ok_or_else(|| {
                let known = Algorithm::ALL.map(Algorithm::as_str);
                let message = format!("`{}` is not an algorithm for identity tokens", clipped(name));
                unknown("issuer", index, "algorithms", message, format!("one of: {}", known.join(", ")))
            })
        };
        let absent = self.typ_may_be_absent.then_some(None);
        Ok(IssuerEntry {
            name: self.name.clone(),
            url: self.url.clone(),
            realm: self.realm.clone().unwrap_or_else(|| home.clone()),
            tenant: self.tenant.clone(),
            audience: self.audience.clone(),
            by_authorized_party: self.by_authorized_party,
            algorithms: self.algorithms.iter().map(algorithm).collect::<Result<_, _>>()?,
            types: [Some(Some(self.typ.clone())), absent].into_iter().flatten().collect(),
            max_token_age_s: self.max_token_age_s,
            jwks_uri: self.jwks_uri.clone(),
            pins: self.pin.clone(),
            allow_loopback_http: self.allow_loopback_http,
            claims: self.claims.clone(),
        })
    }
}

impl RoleSettings {
    fn role(&self, index: usize, order: &[Label]) -> Result<Role, Unknown> {
        let narrowing = Narrowing::of_role(&self.actions, &self.resources);
        let narrowing = narrowing.map_err(|error| {
            let help = "for example `actions = [\"s3:Get*\"]`, `resources = [\"bucket\", \"bucket/prefix*\"]`";
            unknown("role", index, "actions", error.to_string(), help.to_owned())
        })?;
        let max_label = self.max_label(order).ok_or_else(|| {
            unknown(
                "role",
                index,
                "max_label",
                "there is no label".to_owned(),
                "add one to `[labels] order`".to_owned(),
            )
        })?;
        let words = |words: &Words| match words {
            Words::One(word) => vec![word.clone()],
            Words::Any(words) => words.clone(),
        };
        Ok(Role {
            tenant: self.tenant.clone(),
            name: self.name.clone(),
            issuers: self.issuers.clone(),
            subjects: self.subjects.iter().map(|pattern| Glob::new(pattern)).collect(),
            claims: self.claims.iter().map(|(name, any)| (name.clone(), words(any))).collect(),
            max_session_s: self.max_session_s(order),
            max_label,
            narrowing,
            static_keys: self.static_keys,
        })
    }

    fn max_label(&self, order: &[Label]) -> Option<Label> {
        let below = order.len().checked_sub(2).and_then(|i| order.get(i)).or(order.first());
        self.max_label.as_ref().or(below).cloned()
    }

    fn reaches_strictest(&self, order: &[Label]) -> bool {
        self.max_label(order).as_ref() == order.last()
    }

    fn max_session_s(&self, order: &[Label]) -> u32 {
        let longest = if self.reaches_strictest(order) { roles::STRICTEST_SESSION_S_MAX } else { roles::SESSION_S_MAX };
        self.max_session_s.unwrap_or(longest)
    }
}

fn unknown(list: &'static str, index: usize, field: &'static str, message: String, help: String) -> Unknown {
    Unknown { list, index, field, message, help }
}

fn wrong(list: &'static str, index: usize, field: &'static str, message: String, help: impl Into<String>) -> Check {
    Err(unknown(list, index, field, message, help.into()).into())
}

/// Rules of all three.
pub(super) fn check(config: &Config) -> Check {
    issuers(config)?;
    roles_fit(config)?;
    let sts = &config.sts;
    let in_sts = |field: &str, message: String, help: &str| {
        let path = vec![Step::Key("sts".to_owned()), Step::Key(field.to_owned())];
        Err(Wrong { path, message, help: Some(help.to_owned()) })
    };
    if !(roles::SESSION_S_MIN..=roles::SESSION_S_MAX).contains(&sts.duration_s) {
        return in_sts("duration_s", format!("a session of {} s", sts.duration_s), "from 900 to 3600 seconds");
    }
    if sts.evidence_uses_per_hour == 0 {
        let message = "every exchange would raise an alarm".to_owned();
        return in_sts("evidence_uses_per_hour", message, "at least 1; 60 is the default");
    }
    if sts.evidence_networks == 0 {
        let message = "every exchange would raise an alarm".to_owned();
        return in_sts("evidence_networks", message, "at least 1, which is the default");
    }
    Ok(())
}

fn issuers(config: &Config) -> Check {
    let entries = config.issuers()?;
    for (i, entry) in entries.iter().enumerate() {
        let reserved = if entry.realm.as_str() == PROVIDER { Some("realm") } else { None };
        let reserved = if entry.tenant.as_str() == PROVIDER { Some("tenant") } else { reserved };
        if let Some(field) = reserved {
            return wrong("issuer", i, field, format!("`{PROVIDER}` is reserved"), "name whose subjects these are");
        }
    }
    evidence::check(&entries).or_else(|bad| wrong("issuer", bad.index, bad.field, bad.message, bad.help))
}

fn roles_fit(config: &Config) -> Check {
    let mut names = BTreeSet::new();
    for (i, role) in config.role.iter().enumerate() {
        if !names.insert((&role.tenant, &role.name)) {
            let message = format!("role `{}` of tenant `{}` stands twice", role.name, role.tenant);
            return wrong("role", i, "name", message, "keep one of the two");
        }
        who_may(config, i, role)?;
        how_far(config, i, role)?;
        role.role(i, &config.labels.order)?;
    }
    Ok(())
}

/// Issuers exist and reach the role's tenant; somebody in particular is meant.
fn who_may(config: &Config, i: usize, role: &RoleSettings) -> Check {
    if role.tenant.as_str() == PROVIDER {
        return wrong("role", i, "tenant", format!("`{PROVIDER}` is reserved"), "name a tenant");
    }
    for name in &role.issuers {
        let Some(issuer) = config.issuer.iter().find(|issuer| issuer.name == *name) else {
            let help = match nearest(name.as_str(), config.issuer.iter().map(|issuer| issuer.name.as_str())) {
                Some(best) => format!("did you mean `{best}`?"),
                None => "add an `[[issuer]]` with that name".to_owned(),
            };
            return wrong("role", i, "issuers", format!("no issuer is called `{name}`"), help);
        };
        if issuer.tenant != role.tenant {
            let message = format!("issuer `{name}` is for tenant `{}`, not `{}`", issuer.tenant, role.tenant);
            return wrong("role", i, "issuers", message, "a role's issuers are those of its own tenant");
        }
        if let Some(claim) = role.claims.keys().find(|claim| !issuer.claims.contains(claim)) {
            let message = format!("issuer `{name}` does not expose claim `{}`", clipped(claim));
            return wrong("role", i, "claims", message, format!("add it to `claims` of issuer `{name}`"));
        }
    }
    if role.issuers.is_empty() && !role.static_keys {
        return wrong("role", i, "issuers", format!("nobody may take on role `{}`", role.name), "name an issuer");
    }
    if !role.issuers.is_empty() && (role.subjects.is_empty() || role.subjects.iter().any(String::is_empty)) {
        let help = "patterns of `sub`; `[\"*\"]` is everybody the issuer knows, to be narrowed by `claims`";
        return wrong("role", i, "subjects", "no subject is named".to_owned(), help);
    }
    let empty = |words: &Words| matches!(words, Words::Any(list) if list.is_empty());
    if let Some((claim, _)) = role.claims.iter().find(|(_, words)| empty(words)) {
        let message = format!("no value of claim `{}` would do", clipped(claim));
        return wrong("role", i, "claims", message, "give a word, or a list of words");
    }
    Ok(())
}

/// Label, lifetime and static keys go together.
fn how_far(config: &Config, i: usize, role: &RoleSettings) -> Check {
    let order = &config.labels.order;
    if let Some(label) = role.max_label.as_ref().filter(|label| !order.contains(label)) {
        let help = match nearest(label.as_str(), order.iter().map(|l| l.as_str())) {
            Some(best) => format!("did you mean `{best}`?"),
            None => "add it to `[labels] order`".to_owned(),
        };
        return wrong("role", i, "max_label", format!("label `{label}` is not in `[labels] order`"), help);
    }
    let seconds = role.max_session_s(order);
    if !(60..=roles::SESSION_S_MAX).contains(&seconds) {
        return wrong("role", i, "max_session_s", format!("a session of {seconds} s"), "from 60 to 3600 seconds");
    }
    if role.reaches_strictest(order) {
        if seconds > roles::STRICTEST_SESSION_S_MAX {
            let message = format!("a session of {seconds} s that reaches the strictest label");
            return wrong("role", i, "max_session_s", message, "at most 900 seconds, or a lower `max_label`");
        }
        if role.static_keys {
            let message = "a static key would reach the strictest label".to_owned();
            return wrong("role", i, "static_keys", message, "set `max_label` below the strictest");
        }
    }
    Ok(())
}

fn clipped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
