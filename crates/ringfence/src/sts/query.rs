//! Reads the query protocol of STS, strictly: a parameter given twice, or one
//! that nobody here looks at, is an error and never passed over. A parameter
//! that would narrow or bind a session must not be lost in silence.

use std::collections::BTreeMap;

use http::request::Parts;
use ringfence_format::names::{Principal, Tenant};
use zeroize::Zeroizing;

use super::error::{StsCode, StsError};
use super::{AssumeRole, RoleRef, WithWebIdentity};

/// The version of the API that is spoken.
pub(super) const VERSION: &str = "2011-06-15";

/// What is asked for.
#[derive(Debug)]
pub enum Given {
    /// `AssumeRoleWithWebIdentity`; unsigned.
    WithWebIdentity(WithWebIdentity),
    /// `AssumeRole`; signed.
    AssumeRole(AssumeRole),
    /// `GetCallerIdentity`; signed.
    CallerIdentity,
}

impl Given {
    /// The operation as records name it.
    pub fn op(&self) -> &'static str {
        match self {
            Self::WithWebIdentity(_) => "sts:AssumeRoleWithWebIdentity",
            Self::AssumeRole(_) => "sts:AssumeRole",
            Self::CallerIdentity => "sts:GetCallerIdentity",
        }
    }
}

/// Parameters by name. Values may be secrets.
pub(crate) struct Parameters(BTreeMap<String, Zeroizing<String>>);

/// Reads a request: parameters stand in the body of a POST or in the query,
/// never in both.
pub(super) fn read(head: &Parts, body: &[u8]) -> Result<Given, StsError> {
    let mut parameters = Parameters::of(head, body)?;
    let action = parameters.take("Action").ok_or_else(|| StsError::new(StsCode::MissingAction, "Missing Action"))?;
    let version = parameters.take("Version").ok_or_else(|| missing_parameter("Version"))?;
    if version.as_str() != VERSION {
        let message = format!("The requested version ({}) of service AWSSecurityTokenService does not exist", *version);
        return Err(StsError::new(StsCode::NoSuchVersion, message));
    }
    match action.as_str() {
        "AssumeRoleWithWebIdentity" => with_web_identity(parameters).map(Given::WithWebIdentity),
        "AssumeRole" => assume_role(parameters).map(Given::AssumeRole),
        "GetCallerIdentity" => parameters.nothing_left().map(|()| Given::CallerIdentity),
        other => {
            let other: String = other.chars().take(64).collect();
            let message = format!("Could not find operation {other} for version {VERSION}");
            Err(StsError::new(StsCode::InvalidAction, message))
        }
    }
}

fn with_web_identity(mut given: Parameters) -> Result<WithWebIdentity, StsError> {
    let mut wrong = Constraints::default();
    let common = Common::take(&mut given, &mut wrong);
    let evidence = wrong.required("webIdentityToken", given.take("WebIdentityToken"));
    wrong.at_least("webIdentityToken", evidence.as_deref(), 4, false);
    if let Some(provider) = given.take("ProviderId") {
        let message = format!("ProviderId `{}` is not for OpenID Connect tokens", clipped(&provider));
        return Err(StsError::new(StsCode::InvalidParameterValue, message));
    }
    given.nothing_left()?;
    wrong.none()?;
    let (role, session_name) = common.names()?;
    let evidence = evidence.unwrap_or_default();
    Ok(WithWebIdentity { role, session_name, evidence, duration_s: common.duration_s, policy: common.policy })
}

fn assume_role(mut given: Parameters) -> Result<AssumeRole, StsError> {
    let mut wrong = Constraints::default();
    let common = Common::take(&mut given, &mut wrong);
    given.nothing_left()?;
    wrong.none()?;
    let (role, session_name) = common.names()?;
    Ok(AssumeRole { role, session_name, duration_s: common.duration_s, policy: common.policy })
}

/// What both operations take.
struct Common {
    arn: Option<Zeroizing<String>>,
    session_name: Option<Zeroizing<String>>,
    duration_s: Option<u32>,
    policy: Option<String>,
}

impl Common {
    fn take(given: &mut Parameters, wrong: &mut Constraints) -> Self {
        let arn = wrong.required("roleArn", given.take("RoleArn"));
        wrong.at_least("roleArn", arn.as_deref(), 20, true);
        wrong.at_most("roleArn", arn.as_deref(), 2048, true);
        let session_name = wrong.required("roleSessionName", given.take("RoleSessionName"));
        wrong.at_least("roleSessionName", session_name.as_deref(), 2, true);
        wrong.at_most("roleSessionName", session_name.as_deref(), 64, true);
        wrong.session_name(session_name.as_deref());
        let duration_s = given.take("DurationSeconds").and_then(|text| wrong.duration(&text));
        let policy = given.take("Policy");
        wrong.at_least("policy", policy.as_deref(), 1, false);
        wrong.at_most("policy", policy.as_deref(), ringfence_access::narrowing::POLICY_CHARS_MAX, false);
        Self { arn, session_name, duration_s, policy: policy.map(|text| text.to_string()) }
    }

    fn names(&self) -> Result<(RoleRef, String), StsError> {
        let arn = self.arn.as_ref().map_or("", |arn| arn.as_str());
        let role = role_of(arn).ok_or_else(|| StsError::new(StsCode::ValidationError, "Request ARN is invalid"))?;
        Ok((role, self.session_name.as_ref().map(|name| name.to_string()).unwrap_or_default()))
    }
}

/// `arn:ringfence:iam::TENANT:role/NAME`, or `arn:aws:iam::ACCOUNT:role/NAME`
/// for tools that insist on it, where twelve digits stand for no tenant.
pub(crate) fn role_of(arn: &str) -> Option<RoleRef> {
    let (aws, rest) = match arn.strip_prefix("arn:ringfence:iam::") {
        Some(rest) => (false, rest),
        None => (true, arn.strip_prefix("arn:aws:iam::")?),
    };
    let (account, name) = rest.split_once(":role/")?;
    let digits = account.len() == 12 && account.bytes().all(|c| c.is_ascii_digit());
    let tenant = if aws && digits { None } else { Some(Tenant::parse(account).ok()?) };
    Some(RoleRef { tenant, name: Principal::parse(name).ok()?, arn: arn.to_owned() })
}

impl Parameters {
    /// Of the query or of a form, never both.
    pub(crate) fn of(head: &Parts, body: &[u8]) -> Result<Self, StsError> {
        let query = head.uri.query().unwrap_or_default();
        let malformed = |message: &str| StsError::new(StsCode::MalformedQueryString, message);
        let text = match (query.is_empty(), body.is_empty()) {
            (false, false) => return Err(malformed("parameters stand in the query and in the body")),
            (false, true) => query,
            (true, _) => std::str::from_utf8(body).map_err(|_| malformed("the body is not a form"))?,
        };
        let mut parameters = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name), decoded(value));
            let (Some(name), Some(value)) = (name, value) else {
                return Err(malformed("a parameter is not percent-encoded UTF-8"));
            };
            if parameters.insert(name.to_string(), value).is_some() {
                return Err(malformed(&format!("parameter `{}` stands twice", clipped(&name))));
            }
        }
        Ok(Self(parameters))
    }

    /// Takes one out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Zeroizing<String>> {
        self.0.remove(name)
    }

    /// Nothing was given that would be passed over.
    fn nothing_left(&self) -> Result<(), StsError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => {
                let message = format!("parameter `{}` is not supported", clipped(name));
                Err(StsError::new(StsCode::InvalidParameterValue, message))
            }
        }
    }
}

/// Percent-decoding of a form (WHATWG URL, application/x-www-form-urlencoded),
/// strict: two hexadecimal digits after every `%`, and UTF-8.
fn decoded(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, tail @ ..] = rest else { return None };
                let digit = |c: &u8| char::from(*c).to_digit(16);
                bytes.push((digit(high)? * 16 + digit(low)?) as u8);
                rest = tail;
            }
            other => bytes.push(*other),
        }
    }
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

/// Broken rules in the words of AWS, all of them in one error.
#[derive(Default)]
struct Constraints(Vec<String>);

impl Constraints {
    fn none(self) -> Result<(), StsError> {
        let errors = match self.0.len() {
            0 => return Ok(()),
            1 => "1 validation error".to_owned(),
            n => format!("{n} validation errors"),
        };
        Err(StsError::new(StsCode::ValidationError, format!("{errors} detected: {}", self.0.join("; "))))
    }

    fn broken(&mut self, value: &str, name: &str, rule: &str) {
        self.0.push(format!("Value {value} at '{name}' failed to satisfy constraint: Member must {rule}"));
    }

    fn required(&mut self, name: &str, value: Option<Zeroizing<String>>) -> Option<Zeroizing<String>> {
        if value.is_none() {
            self.broken("null", name, "not be null");
        }
        value
    }

    /// `shown`: whether the value may be repeated; a token or policy is not.
    fn at_least(&mut self, name: &str, value: Option<&String>, min: usize, shown: bool) {
        if let Some(value) = value.filter(|value| value.chars().count() < min) {
            self.broken(&quoted(value, shown), name, &format!("have length greater than or equal to {min}"));
        }
    }

    fn at_most(&mut self, name: &str, value: Option<&String>, max: usize, shown: bool) {
        if let Some(value) = value.filter(|value| value.chars().count() > max) {
            self.broken(&quoted(value, shown), name, &format!("have length less than or equal to {max}"));
        }
    }

    fn session_name(&mut self, value: Option<&String>) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if let Some(value) = value.filter(|value| !value.chars().all(allowed)) {
            self.broken(&quoted(value, true), "roleSessionName", r"satisfy regular expression pattern: [\w+=,.@-]*");
        }
    }

    fn duration(&mut self, text: &str) -> Option<u32> {
        let name = "durationSeconds";
        let digits = !text.is_empty() && text.len() <= 9 && text.bytes().all(|c| c.is_ascii_digit());
        let Some(seconds) = text.parse::<u32>().ok().filter(|_| digits) else {
            self.broken(&quoted(text, true), name, "be an integer");
            return None;
        };
        match seconds {
            ..900 => self.broken(&quoted(text, true), name, "have value greater than or equal to 900"),
            900..=43_200 => return Some(seconds),
            _ => self.broken(&quoted(text, true), name, "have value less than or equal to 43200"),
        }
        None
    }
}

fn quoted(value: &str, shown: bool) -> String {
    if shown { format!("'{}'", clipped(value)) } else { "(not shown)".to_owned() }
}

fn clipped(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '.' } else { c }).collect()
}

fn missing_parameter(name: &str) -> StsError {
    StsError::new(StsCode::MissingParameter, format!("The request must contain the parameter {name}"))
}

#[cfg(test)]
mod tests;
