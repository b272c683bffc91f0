//! Words that only the configuration knows: a policy that names a label, a
//! site, a kind or an operation that does not exist is refused at load.
//!
//! Cedar's validator checks types and attributes; it cannot know that no site
//! is called `hme`. A `forbid` with such a slip would never match, in silence.

use cedar_policy::Policy;
use serde_json::Value;

use crate::setting::Setting;

/// The S3 operations policies may name as `context.op`, as `s3:` and the name
/// in Amazon's API reference.
pub const S3_OPS: [&str; 32] = [
    "s3:AbortMultipartUpload",
    "s3:CompleteMultipartUpload",
    "s3:CopyObject",
    "s3:CreateBucket",
    "s3:CreateMultipartUpload",
    "s3:DeleteBucket",
    "s3:DeleteBucketTagging",
    "s3:DeleteObject",
    "s3:DeleteObjectTagging",
    "s3:DeleteObjects",
    "s3:GetBucketLocation",
    "s3:GetBucketTagging",
    "s3:GetBucketVersioning",
    "s3:GetObject",
    "s3:GetObjectAttributes",
    "s3:GetObjectTagging",
    "s3:HeadBucket",
    "s3:HeadObject",
    "s3:ListBuckets",
    "s3:ListMultipartUploads",
    "s3:ListObjectVersions",
    "s3:ListObjects",
    "s3:ListObjectsV2",
    "s3:ListParts",
    "s3:PutBucketTagging",
    "s3:PutBucketVersioning",
    "s3:PutObject",
    "s3:PutObjectTagging",
    "s3:UploadPart",
    "s3:UploadPartCopy",
    "s3:Authenticate",
    "s3:PostObject",
];

/// Which facts about a request some policy looks at. What none looks at is
/// left out of the memory of decisions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    /// The object's key, or an object by name.
    pub(super) key: bool,
    /// The address of the client.
    pub(super) source: bool,
}

impl Uses {
    /// Errs on the side of "yes": any mention counts.
    pub(super) fn of(policy: &Value) -> Self {
        let mut uses = Self::default();
        each(policy, &mut |name, value| match (name, value.as_str()) {
            ("attr", Some("key")) | ("type", Some("Object")) => uses.key = true,
            ("attr", Some("source")) => uses.source = true,
            _ => {}
        });
        uses
    }

    pub(super) fn or(self, other: Self) -> Self {
        Self { key: self.key || other.key, source: self.source || other.source }
    }
}

/// What the policy names that does not exist, each in one sentence.
pub(super) fn unknown_words(policy: &Policy, json: &Value, setting: &Setting) -> Vec<String> {
    let mut found = vec![];
    for literal in policy.entity_literals() {
        let id = literal.id().unescaped();
        match literal.type_name().to_string().as_str() {
            "Label" if setting.labels().find(id).is_err() => {
                found.push(format!("no label is called `{id}`: use one of {}", list(setting.labels().iter())));
            }
            "Site" if !setting.sites().iter().any(|s| s.id.as_str() == id) => {
                found.push(format!(
                    "no site is called `{id}`: use one of {}",
                    list(setting.sites().iter().map(|s| &s.id))
                ));
            }
            _ => {}
        }
    }
    each(json, &mut |operator, operands| {
        for (attribute, word) in compared(operator, operands) {
            found.extend(unknown_word(attribute, word));
        }
    });
    found.sort();
    found.dedup();
    found
}

pub(super) fn unknown_word(attribute: &str, word: &str) -> Option<String> {
    match attribute {
        "kind" if !["private", "public"].contains(&word) => {
            Some(format!("no site is of kind `{word}`: use `private` or `public`"))
        }
        "actor" if !["static-key", "operator", "system"].contains(&word) => {
            Some(format!("no actor is a `{word}`: use `static-key`, `operator` or `system`"))
        }
        "op" if word.starts_with("s3:") && !S3_OPS.contains(&word) => {
            Some(format!("no operation is called `{word}`: S3 operations are written like `s3:GetObject`"))
        }
        "op" if !["s3:", "sts:", "admin:", "system:"].iter().any(|area| word.starts_with(area)) => {
            Some(format!("no operation is called `{word}`: operations begin with `s3:`, `sts:`, `admin:` or `system:`"))
        }
        "jurisdiction" if word.len() != 2 || !word.bytes().all(|c| c.is_ascii_uppercase()) => {
            Some(format!("`{word}` is not a jurisdiction: use an ISO 3166-1 code such as `DE`, in capitals"))
        }
        _ => None,
    }
}

/// `x.attribute == "word"` either way round, and `["word", …].contains(x.attribute)`.
fn compared<'a>(operator: &str, operands: &'a Value) -> Vec<(&'a str, &'a str)> {
    let (left, right) = (&operands["left"], &operands["right"]);
    match operator {
        "==" | "!=" => [(left, right), (right, left)]
            .iter()
            .filter_map(|(a, b)| Some((a["."]["attr"].as_str()?, b["Value"].as_str()?)))
            .collect(),
        "contains" => {
            let Some(attribute) = right["."]["attr"].as_str() else { return vec![] };
            let words = left["Set"].as_array().into_iter().flatten().filter_map(|word| word["Value"].as_str());
            words.map(|word| (attribute, word)).collect()
        }
        _ => vec![],
    }
}

/// Every named value in a JSON tree.
fn each<'a>(value: &'a Value, visit: &mut impl FnMut(&'a str, &'a Value)) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| each(item, visit)),
        Value::Object(fields) => {
            for (name, field) in fields {
                visit(name, field);
                each(field, visit);
            }
        }
        _ => {}
    }
}

fn list<T: std::fmt::Display>(names: impl Iterator<Item = T>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
