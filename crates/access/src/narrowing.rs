//! `Narrowing`: what a session may do at most, by session policy and by role.
//!
//! A narrowing grants nothing. It is asked beside the policies, and a session
//! may do what both allow; so a session policy, whatever it says, can only
//! take away.
//!
//! Session policies are a strict subset of IAM's JSON (IAM User Guide, "IAM
//! JSON policy reference"): `Version`, and `Statement` of `Sid`, `Effect`,
//! `Action`, `Resource`. What would need more (`NotAction`, `NotResource`,
//! `Condition`, `Principal`, policy variables) is refused: passed over, it
//! would allow what its author forbade.
//!
//! Policies name IAM's actions, requests are S3 operations. The table is
//! [`required`]; docs/operate/sessions.md shows it.

use crate::strict::Json;

/// Characters of a session policy (AWS STS API reference, `Policy`).
pub const POLICY_CHARS_MAX: usize = 2048;
/// Statements, actions and resources of one policy together; 2,048 characters
/// hold fewer.
const PARTS_MAX: usize = 256;
/// The only version of the language.
const VERSION: &str = "2012-10-17";
const S3_ARN: &str = "arn:aws:s3:::";

/// What may be done at most. Compiled once, asked for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrowing {
    statements: Vec<Statement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    allow: bool,
    actions: Vec<Glob>,
    resources: Vec<Glob>,
}

/// A session policy, or a role's list, that cannot be read: answer 400
/// `MalformedPolicyDocument`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPolicy(String);

fn bad<T>(why: impl Into<String>) -> Result<T, BadPolicy> {
    Err(BadPolicy(why.into()))
}

/// What a copy is doing where it asks: it reads its source and writes its
/// target under one operation's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The object that is read.
    Source,
    /// Whatever is written, and every operation that is no copy.
    Target,
}

impl Narrowing {
    /// Compiles a session policy.
    ///
    /// # Errors
    /// What the subset does not know, in one sentence that names no more than
    /// the member.
    pub fn parse(text: &str) -> Result<Self, BadPolicy> {
        if text.chars().count() > POLICY_CHARS_MAX {
            return bad(format!("a session policy has at most {POLICY_CHARS_MAX} characters"));
        }
        let Some(json) = Json::parse(text.as_bytes()) else {
            return bad("the policy is not JSON, or a member stands twice");
        };
        members(&json, "the policy", &["Version", "Id", "Statement"])?;
        if json.get("Version").and_then(Json::text) != Some(VERSION) {
            return bad(format!("`Version` must be \"{VERSION}\""));
        }
        if json.get("Id").is_some_and(|id| id.text().is_none()) {
            return bad("`Id` must be a string");
        }
        let statements = match json.get("Statement") {
            Some(Json::List(list)) if !list.is_empty() => list.iter().map(Statement::parse).collect(),
            Some(one @ Json::Object(_)) => Statement::parse(one).map(|statement| vec![statement]),
            _ => bad("`Statement` must be a list of statements"),
        };
        let narrowing = Self { statements: statements? };
        let parts: usize = narrowing.statements.iter().map(|s| 1 + s.actions.len() + s.resources.len()).sum();
        if parts > PARTS_MAX {
            return bad("the policy has too many parts");
        }
        Ok(narrowing)
    }

    /// What a role may do: actions such as `s3:Get*`, resources such as
    /// `bucket`, `bucket/prefix*`.
    ///
    /// # Errors
    /// An action or a resource that cannot be one, or a list without any.
    pub fn of_role(actions: &[String], resources: &[String]) -> Result<Self, BadPolicy> {
        if actions.is_empty() || resources.is_empty() {
            return bad("a role needs at least one action and one resource");
        }
        let actions = actions.iter().map(|text| action(text)).collect::<Result<_, _>>()?;
        let resources = resources.iter().map(|text| bucket_path(text)).collect::<Result<_, _>>()?;
        Ok(Self { statements: vec![Statement { allow: true, actions, resources }] })
    }

    /// Whether an operation, named as records do (`s3:GetObject`), may be done
    /// on a bucket or object. Of a copy this is the whole: what it reads and
    /// what it writes; ask [`allows_side`](Self::allows_side) for one of them.
    pub fn allows(&self, op: &str, bucket: Option<&str>, key: Option<&str>) -> bool {
        self.allows_side(op, Side::Target, bucket, key)
            && (!copies(op) || self.allows_side(op, Side::Source, bucket, key))
    }

    /// The same for one side of a copy.
    pub fn allows_side(&self, op: &str, side: Side, bucket: Option<&str>, key: Option<&str>) -> bool {
        let Some(actions) = required(op, side) else { return false };
        let resource = match (bucket, key) {
            (Some(bucket), Some(key)) => format!("{bucket}/{key}"),
            (Some(bucket), None) => bucket.to_owned(),
            // Only `*` names what is no bucket.
            (None, _) => String::new(),
        };
        actions.iter().all(|action| self.allows_action(action, &resource))
    }

    /// A `Deny` that matches wins; without an `Allow` that matches, no.
    fn allows_action(&self, action: &str, resource: &str) -> bool {
        let mut allowed = false;
        for statement in self.statements.iter().filter(|statement| statement.covers(action, resource)) {
            if !statement.allow {
                return false;
            }
            allowed = true;
        }
        allowed
    }
}

fn copies(op: &str) -> bool {
    matches!(op, "s3:CopyObject" | "s3:UploadPartCopy")
}

/// The IAM actions an operation needs, all of them; `None` for what no policy
/// can allow (Service Authorization Reference, "Actions defined by Amazon S3").
pub fn required(op: &str, side: Side) -> Option<&'static [&'static str]> {
    Some(match op {
        "s3:ListBuckets" => &["s3:ListAllMyBuckets"],
        "s3:HeadBucket" | "s3:ListObjects" | "s3:ListObjectsV2" => &["s3:ListBucket"],
        "s3:ListObjectVersions" => &["s3:ListBucketVersions"],
        "s3:ListMultipartUploads" => &["s3:ListBucketMultipartUploads"],
        "s3:ListParts" => &["s3:ListMultipartUploadParts"],
        "s3:CreateBucket" => &["s3:CreateBucket"],
        "s3:DeleteBucket" => &["s3:DeleteBucket"],
        "s3:GetBucketLocation" => &["s3:GetBucketLocation"],
        "s3:GetBucketTagging" => &["s3:GetBucketTagging"],
        "s3:PutBucketTagging" | "s3:DeleteBucketTagging" => &["s3:PutBucketTagging"],
        "s3:GetBucketVersioning" => &["s3:GetBucketVersioning"],
        "s3:PutBucketVersioning" => &["s3:PutBucketVersioning"],
        "s3:GetObject" | "s3:HeadObject" => &["s3:GetObject"],
        "s3:GetObjectAttributes" => &["s3:GetObject", "s3:GetObjectAttributes"],
        "s3:GetObjectTagging" => &["s3:GetObjectTagging"],
        "s3:PutObjectTagging" => &["s3:PutObjectTagging"],
        "s3:DeleteObjectTagging" => &["s3:DeleteObjectTagging"],
        "s3:CopyObject" | "s3:UploadPartCopy" => match side {
            Side::Source => &["s3:GetObject"],
            Side::Target => &["s3:PutObject"],
        },
        "s3:PutObject"
        | "s3:PostObject"
        | "s3:CreateMultipartUpload"
        | "s3:UploadPart"
        | "s3:CompleteMultipartUpload" => &["s3:PutObject"],
        "s3:AbortMultipartUpload" => &["s3:AbortMultipartUpload"],
        "s3:DeleteObject" | "s3:DeleteObjects" => &["s3:DeleteObject"],
        _ => return None,
    })
}

impl Statement {
    fn parse(json: &Json) -> Result<Self, BadPolicy> {
        members(json, "a statement", &["Sid", "Effect", "Action", "Resource"])?;
        let sid = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric());
        if json.get("Sid").is_some_and(|given| !given.text().is_some_and(sid)) {
            return bad("`Sid` may hold letters and digits only");
        }
        let allow = match json.get("Effect").and_then(Json::text) {
            Some("Allow") => true,
            Some("Deny") => false,
            _ => return bad("`Effect` must be \"Allow\" or \"Deny\""),
        };
        let actions = one_or_more(json, "Action")?.into_iter().map(action).collect::<Result<_, _>>()?;
        let resources = one_or_more(json, "Resource")?.into_iter().map(arn).collect::<Result<_, _>>()?;
        Ok(Self { allow, actions, resources })
    }

    fn covers(&self, action: &str, resource: &str) -> bool {
        self.actions.iter().any(|glob| glob.matches_ignoring_case(action))
            && self.resources.iter().any(|glob| glob.matches(resource))
    }
}

fn members(json: &Json, what: &str, known: &[&str]) -> Result<(), BadPolicy> {
    let Some(members) = json.object() else { return bad(format!("{what} must be an object")) };
    match members.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => {
            let name: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
            bad(format!("{what} may hold {} only, not `{name}`", known.join(", ")))
        }
        None => Ok(()),
    }
}

fn one_or_more<'a>(json: &'a Json, name: &str) -> Result<Vec<&'a str>, BadPolicy> {
    let texts = match json.get(name) {
        Some(Json::Text(text)) => Some(vec![text.as_str()]),
        Some(Json::List(list)) if !list.is_empty() => list.iter().map(Json::text).collect(),
        _ => None,
    };
    texts.map_or_else(|| bad(format!("`{name}` must be a string or a list of strings")), Ok)
}

/// `*`, or `service:Name` with `*` and `?` in the name.
fn action(text: &str) -> Result<Glob, BadPolicy> {
    let named = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'*' | b'?');
    let well_formed = match text.split_once(':') {
        None => text == "*",
        Some((service, name)) => {
            !service.is_empty()
                && service.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
                && !name.is_empty()
                && name.bytes().all(named)
        }
    };
    match well_formed {
        true => Ok(Glob::new(&text.to_ascii_lowercase())),
        false => bad("an action is written like \"s3:GetObject\" or \"s3:Get*\""),
    }
}

/// `*`, or what follows `arn:aws:s3:::`.
fn arn(text: &str) -> Result<Glob, BadPolicy> {
    match text.strip_prefix(S3_ARN) {
        _ if text == "*" => Ok(Glob::new("*")),
        Some(path) => bucket_path(path),
        None => bad("a resource is `*` or begins with `arn:aws:s3:::`"),
    }
}

fn bucket_path(text: &str) -> Result<Glob, BadPolicy> {
    match text {
        "" => bad("a resource names a bucket, or is `*`"),
        text if text.contains("${") => bad("policy variables are not supported"),
        text if text.chars().any(char::is_control) => bad("a resource holds a control character"),
        text => Ok(Glob::new(text)),
    }
}

/// `*` for any characters, `?` for one, everything else for itself. Matching
/// takes time in proportion to pattern times text at worst and never more: at a
/// mismatch only the last `*` is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// A pattern; every text is one.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while t < text.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p + 1, t));
                    p += 1;
                }
                Some(b'?') => {
                    p += 1;
                    t = next_char(text, t);
                }
                Some(c) if *c == text[t] => {
                    p += 1;
                    t += 1;
                }
                _ => match star {
                    None => return false,
                    Some((after, from)) => {
                        star = Some((after, from + 1));
                        (p, t) = (after, from + 1);
                    }
                },
            }
        }
        pattern[p..].iter().all(|c| *c == b'*')
    }

    fn matches_ignoring_case(&self, text: &str) -> bool {
        self.matches(&text.to_ascii_lowercase())
    }
}

/// Where the character after the one at `at` begins: `?` is a character.
fn next_char(text: &[u8], at: usize) -> usize {
    let continues = |byte: &&u8| **byte & 0b1100_0000 == 0b1000_0000;
    at + 1 + text[at + 1..].iter().take_while(continues).count()
}

#[cfg(test)]
mod tests;
