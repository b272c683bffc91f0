//! What is configured of an identity provider, and which settings cannot be.

use std::collections::BTreeSet;

use ringfence_format::names::{Principal, Realm, Tenant};
use url::{Host, Origin, Url};

use super::algorithm::Algorithm;

/// The longest lifetime an issuer entry may allow its tokens, in seconds: a
/// token that lives longer is a password.
pub const TOKEN_AGE_S_MAX: u64 = 24 * 3600;

/// One issuer: exactly one realm and one tenant are reached by its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerEntry {
    /// What we call it; part of its subjects' principals, so without `--`.
    pub name: Principal,
    /// `iss`, exactly as its tokens and its discovery document say it.
    pub url: String,
    /// The realm its subjects act in.
    pub realm: Realm,
    /// The tenant its subjects act for.
    pub tenant: Tenant,
    /// What `aud` must be: the name the issuer knows us by.
    pub audience: String,
    /// Whether a list of several audiences will do if `azp` is us.
    pub by_authorized_party: bool,
    /// What `alg` may be.
    pub algorithms: Vec<Algorithm>,
    /// What `typ` must be; with `None` in the list it may be left out.
    pub types: Vec<Option<String>>,
    /// The longest `exp − iat`, in seconds.
    pub max_token_age_s: u64,
    /// Where its keys are, if not where its discovery document says.
    pub jwks_uri: Option<String>,
    /// RFC 7638 thumbprints of the only keys to accept; empty: all it serves.
    pub pins: Vec<String>,
    /// Development only: http to loopback addresses.
    pub allow_loopback_http: bool,
    /// Claims that roles may look at: names, or JSON pointers (RFC 6901) such
    /// as `/realm_access/roles`.
    pub claims: Vec<String>,
}

/// An issuer entry that cannot be one, or several that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadIssuer {
    /// Which of the entries.
    pub index: usize,
    /// Which of its settings, as the configuration names it.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: &'static str,
}

impl IssuerEntry {
    /// Realm and tenant.
    pub fn scope(&self) -> (&Realm, &Tenant) {
        (&self.realm, &self.tenant)
    }

    /// Where its discovery document is (OpenID Connect Discovery 1.0, 4.1).
    pub(super) fn discovery(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'))
    }

    /// A URL its keys may be fetched from: https, or http to loopback where
    /// that was switched on; no credentials, no fragment.
    pub(super) fn may_fetch(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok()?;
        let loopback = match url.host()? {
            Host::Ipv4(ip) => ip.is_loopback(),
            Host::Ipv6(ip) => ip.is_loopback(),
            Host::Domain(name) => name == "localhost",
        };
        let scheme = match url.scheme() {
            "https" => true,
            "http" => self.allow_loopback_http && loopback,
            _ => false,
        };
        let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        (scheme && plain).then_some(url)
    }

    /// The URL of its keys that its discovery document names, if it may be used.
    pub(super) fn same_origin(&self, jwks_uri: &str) -> Option<Url> {
        let origin = |text: &str| self.may_fetch(text).map(|url| url.origin());
        let keys = self.may_fetch(jwks_uri)?;
        match (origin(&self.url)?, keys.origin()) {
            (ours @ Origin::Tuple(..), theirs) if ours == theirs => Some(keys),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        let says = |field, message: String, help| Err((field, message, help));
        if self.name.as_str().contains("--") {
            return says(
                "name",
                format!("issuer name `{}` holds `--`", self.name),
                "that separates issuer and subject",
            );
        }
        match self.may_fetch(&self.url) {
            None => {
                let help = "an https URL without credentials or fragment; http to loopback needs `allow_loopback_http`";
                return says("url", format!("`{}` is not an issuer's URL", self.url), help);
            }
            Some(url) if url.query().is_some() => {
                return says("url", format!("`{}` has a query", self.url), "an issuer's URL has none");
            }
            Some(_) => {}
        }
        if self.jwks_uri.as_deref().is_some_and(|uri| self.may_fetch(uri).is_none()) {
            let help = "an https URL; http to loopback needs `allow_loopback_http`";
            return says("jwks_uri", "keys cannot be fetched from there".to_owned(), help);
        }
        if self.audience.is_empty() {
            return says("audience", "the audience is empty".to_owned(), "the name the issuer knows this service by");
        }
        if self.algorithms.is_empty() {
            return says("algorithms", "no algorithm is allowed".to_owned(), "for example `[\"RS256\"]`");
        }
        if self.types.is_empty() || self.types.iter().flatten().any(String::is_empty) {
            return says("typ", "no type is allowed".to_owned(), "\"JWT\" for ID tokens, \"at+jwt\" for access tokens");
        }
        if !(1..=TOKEN_AGE_S_MAX).contains(&self.max_token_age_s) {
            let message = format!("tokens of {} s are not short-lived", self.max_token_age_s);
            return says("max_token_age_s", message, "from 1 to 86400 seconds");
        }
        if let Some(pin) = self.pins.iter().find(|pin| !is_thumbprint(pin)) {
            let help = "43 characters of base64url: the SHA-256 thumbprint of RFC 7638";
            return says("pin", format!("`{pin}` is not a thumbprint"), help);
        }
        if self.claims.iter().any(|name| name.is_empty()) {
            return says("claims", "a claim has no name".to_owned(), "a name, or a JSON pointer such as `/a/b`");
        }
        Ok(())
    }
}

/// Rules for each entry and between them.
///
/// # Errors
/// The first that is broken.
pub fn check(entries: &[IssuerEntry]) -> Result<(), BadIssuer> {
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
    for (index, entry) in entries.iter().enumerate() {
        let wrong = |field, message, help| Err(BadIssuer { index, field, message, help });
        if let Err((field, message, help)) = entry.check() {
            return wrong(field, message, help);
        }
        if !names.insert(&entry.name) {
            return wrong("name", format!("two issuers are called `{}`", entry.name), "give each its own name");
        }
        if !urls.insert(&entry.url) {
            let message = format!("two issuers have the URL `{}`", entry.url);
            return wrong("url", message, "a token of one issuer reaches one tenant of one realm");
        }
        for earlier in &entries[..index] {
            if let Some((field, message, help)) = shares(earlier, entry) {
                return wrong(field, message, help);
            }
        }
    }
    Ok(())
}

/// What two entries of different scope may not share: that is how a consumer
/// key came to open enterprise mailboxes in 2023.
fn shares(a: &IssuerEntry, b: &IssuerEntry) -> Option<(&'static str, String, &'static str)> {
    if a.realm != b.realm && a.tenant == b.tenant {
        let message = format!("tenant `{}` would belong to realms `{}` and `{}`", b.tenant, a.realm, b.realm);
        return Some(("realm", message, "a tenant belongs to exactly one realm"));
    }
    if a.scope() == b.scope() {
        return None;
    }
    let common = a.jwks_uri.is_some() && keys_at(a) == keys_at(b);
    if common && (a.pins.is_empty() || b.pins.is_empty()) {
        let message =
            format!("issuers `{}` and `{}` of different scope take their keys from one place", a.name, b.name);
        return Some(("jwks_uri", message, "give each its own, or `pin` the keys of each"));
    }
    if a.realm != b.realm
        && let Some(pin) = a.pins.iter().find(|pin| b.pins.contains(pin))
    {
        let message = format!("key `{pin}` would be good in realms `{}` and `{}`", a.realm, b.realm);
        return Some(("pin", message, "a key belongs to one realm"));
    }
    None
}

fn keys_at(entry: &IssuerEntry) -> Option<Url> {
    entry.jwks_uri.as_deref().and_then(|uri| Url::parse(uri).ok())
}

fn is_thumbprint(text: &str) -> bool {
    use base64::Engine as _;
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text);
    decoded.is_ok_and(|bytes| bytes.len() == 32)
}
