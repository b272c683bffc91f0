//! Between the library's transfer types and ours.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringfence_format::limits;
use ringfence_format::names::{Tenant, VersionUid};
use ringfence_format::redo::{Checksum, Pairs, Version};
use ringfence_store::VersionRef;
use s3s::dto::{ETag, ETagCondition, EncodingType, Owner, Range as HttpRange, Tag, Timestamp};

use crate::flows::{Algorithm, Refused, Span};

/// Sets the checksum fields of an output.
macro_rules! put_checksums {
    ($output:expr, $checksums:expr) => {
        for checksum in $checksums {
            let value = Some(checksum.value.clone());
            match checksum.algorithm.as_str() {
                "CRC32" => $output.checksum_crc32 = value,
                "CRC32C" => $output.checksum_crc32c = value,
                "CRC64NVME" => $output.checksum_crc64nvme = value,
                "SHA1" => $output.checksum_sha1 = value,
                "SHA256" => $output.checksum_sha256 = value,
                _ => {}
            }
        }
    };
}

/// Takes the checksum fields of an input; algorithms we do not compute are
/// refused rather than ignored.
macro_rules! take_checksums {
    ($input:expr) => {{
        let foreign = [
            &$input.checksum_md5,
            &$input.checksum_sha512,
            &$input.checksum_xxhash128,
            &$input.checksum_xxhash3,
            &$input.checksum_xxhash64,
        ];
        if foreign.iter().any(|value| value.is_some()) {
            Err($crate::flows::Refused::new("NotImplemented", "this checksum algorithm is not implemented"))
        } else {
            let known = [
                ($crate::flows::Algorithm::Crc32, &$input.checksum_crc32),
                ($crate::flows::Algorithm::Crc32c, &$input.checksum_crc32c),
                ($crate::flows::Algorithm::Crc64Nvme, &$input.checksum_crc64nvme),
                ($crate::flows::Algorithm::Sha1, &$input.checksum_sha1),
                ($crate::flows::Algorithm::Sha256, &$input.checksum_sha256),
            ];
            Ok(known.into_iter().filter_map(|(a, value)| Some((a, value.clone()?))).collect::<Vec<_>>())
        }
    }};
}

pub(super) use {put_checksums, take_checksums};

pub(super) fn timestamp(ms: u64) -> Timestamp {
    Timestamp::from(UNIX_EPOCH + Duration::from_millis(ms))
}

/// HTTP dates have seconds; earlier than the epoch is the epoch.
pub(super) fn millis(at: &Timestamp) -> u64 {
    let at: time::OffsetDateTime = at.clone().into();
    u64::try_from(at.unix_timestamp()).unwrap_or(0) * 1000
}

pub(super) fn etag(version: &Version) -> ETag {
    ETag::Strong(version.etag.clone())
}

pub(super) fn condition(given: Option<ETagCondition>) -> Option<String> {
    given.map(|given| match given {
        ETagCondition::Any => "*".to_owned(),
        ETagCondition::ETag(etag) => etag.into_value(),
    })
}

pub(super) fn owner(tenant: &Tenant) -> Owner {
    Owner { id: Some(tenant.to_string()), display_name: Some(tenant.to_string()) }
}

/// A version id as clients write it. `Err` for one that cannot exist.
pub(super) fn version_ref(given: Option<String>) -> Option<Result<VersionRef, ()>> {
    let given = given.filter(|text| !text.is_empty())?;
    Some(match given.as_str() {
        "null" => Ok(VersionRef::Null),
        text => VersionUid::from_hex(text).map(VersionRef::Uid).ok_or(()),
    })
}

/// The same where there must be such a version.
pub(super) fn named_version(given: Option<String>) -> Result<Option<VersionRef>, Refused> {
    let malformed = || Refused::new("NoSuchVersion", "the specified version does not exist");
    version_ref(given).transpose().map_err(|()| malformed())
}

/// `a=b&c=d`, URL-encoded, as `x-amz-tagging` carries it.
pub(super) fn tagging_header(given: Option<&str>) -> Result<Pairs, Refused> {
    let mut tags = Pairs::new();
    for pair in given.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((url_decoded(name)?, url_decoded(value)?));
    }
    // A header has no order that means anything: by name, as S3 answers it.
    tags.sort();
    check_tags(tags, limits::OBJECT_TAGS_MAX)
}

pub(super) fn tag_set(given: Vec<Tag>, max: usize) -> Result<Pairs, Refused> {
    let tags = given.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default()));
    check_tags(tags.collect(), max)
}

pub(super) fn tags_of(tags: &Pairs) -> Vec<Tag> {
    tags.iter().map(|(key, value)| Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

fn check_tags(tags: Pairs, max: usize) -> Result<Pairs, Refused> {
    if tags.len() > max {
        return Err(Refused::new("BadRequest", format!("there can be at most {max} tags")));
    }
    let mut seen = std::collections::BTreeSet::new();
    for (name, value) in &tags {
        let long =
            name.chars().count() > limits::TAG_KEY_CHARS_MAX || value.chars().count() > limits::TAG_VALUE_CHARS_MAX;
        // What XML cannot carry could be put and never be got again.
        let unsayable = !can_be_xml(name) || !can_be_xml(value);
        if name.is_empty() || long || unsayable || name.starts_with("aws:") {
            return Err(Refused::new("InvalidTag", "the tag key or value you have provided is invalid"));
        }
        if !seen.insert(name) {
            return Err(Refused::new("InvalidTag", "cannot provide multiple tags with the same key"));
        }
    }
    Ok(tags)
}

fn url_decoded(text: &str) -> Result<String, Refused> {
    let bad = || Refused::new("InvalidArgument", "the header x-amz-tagging is not URL-encoded");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let pair = [rest.next().ok_or_else(bad)?, rest.next().ok_or_else(bad)?];
                let pair = std::str::from_utf8(&pair).map_err(|_| bad())?;
                u8::from_str_radix(pair, 16).map_err(|_| bad())?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// `encoding-type=url` on listings: everything but unreserved characters and
/// the slash (RFC 3986, section 2.3).
pub(super) struct Encode(bool);

impl Encode {
    pub(super) fn asked(given: Option<&EncodingType>) -> Result<Self, Refused> {
        match given.map(EncodingType::as_str) {
            None => Ok(Self(false)),
            Some("url") => Ok(Self(true)),
            Some(_) => Err(Refused::new("InvalidArgument", "invalid encoding method specified in the request")),
        }
    }

    /// A name as the answer says it.
    ///
    /// # Errors
    /// One that XML 1.0 cannot carry, where no encoding was asked for.
    pub(super) fn name(&self, text: &str) -> Result<String, Refused> {
        if !self.0 {
            let why = "a name in this listing cannot be written in XML: list with encoding-type=url";
            return if can_be_xml(text) { Ok(text.to_owned()) } else { Err(Refused::new("InvalidArgument", why)) };
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                    encoded.push(byte as char)
                }
                byte => encoded.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(encoded)
    }
}

/// Characters that XML 1.0 can carry (section 2.2).
pub(super) fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

pub(super) fn can_be_xml(text: &str) -> bool {
    text.chars().all(is_xml)
}

/// What an answer repeats of its request, where XML can carry it: who asked
/// knows it anyway.
pub(super) fn sayable(text: String) -> Option<String> {
    Some(text).filter(|text| can_be_xml(text))
}

/// `max-keys` and its like: at most 1,000, and never negative.
pub(super) fn page_size(given: Option<i32>) -> Result<usize, Refused> {
    let wanted = usize::try_from(given.unwrap_or(limits::LIST_PAGE_MAX as i32));
    let wanted = wanted.map_err(|_| {
        Refused::new("InvalidArgument", "argument max-keys must be an integer between 0 and 2147483647")
    })?;
    Ok(wanted.min(limits::LIST_PAGE_MAX))
}

/// What every token begins with, so that other text is told from ours.
const TOKEN: &str = "after:";

/// A continuation token says where to go on, in a form nobody is tempted to edit.
pub(super) fn token(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{TOKEN}{key}"))
}

pub(super) fn token_key(token: &str) -> Result<String, Refused> {
    let bad = || Refused::new("InvalidArgument", "the continuation token provided is incorrect");
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?).map_err(|_| bad())?;
    text.strip_prefix(TOKEN).map(str::to_owned).ok_or_else(bad)
}

/// The bytes a `Range` header means (RFC 9110, section 14.1.2).
pub(super) fn span(version: &Version, range: Option<HttpRange>) -> Result<Span, Refused> {
    let size = version.size;
    let unsatisfiable = || Refused::new("InvalidRange", "the requested range is not satisfiable");
    let range = match range {
        None => return Ok(Span { range: 0..size, partial: false }),
        Some(HttpRange::Int { first, last }) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            first..end
        }
        Some(HttpRange::Suffix { length }) => size.saturating_sub(length)..size,
    };
    if range.start >= range.end {
        return Err(unsatisfiable());
    }
    Ok(Span { range, partial: true })
}

/// The bytes of one part of a multipart object.
pub(super) fn span_of_part(version: &Version, number: i32) -> Result<Span, Refused> {
    let invalid = || Refused::new("InvalidPartNumber", "the requested partnumber is not satisfiable");
    let mut start = 0;
    let whole = version.parts.len() == 1 && !version.etag.contains('-');
    for part in &version.parts {
        let number_of = if whole { 1 } else { part.number };
        if i64::from(number_of) == i64::from(number) {
            return Ok(Span { range: start..start + part.plain_len, partial: true });
        }
        start += part.plain_len;
    }
    Err(invalid())
}

pub(super) fn content_range(version: &Version, span: &Span) -> Option<String> {
    (span.partial && span.range.start < span.range.end)
        .then(|| format!("bytes {}-{}/{}", span.range.start, span.range.end - 1, version.size))
}

/// The value of a kept content header.
pub(super) fn header<'a>(version: &'a Version, name: &str) -> Option<&'a String> {
    version.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value)
}

pub(super) fn checksum_type(checksums: &[Checksum]) -> Option<s3s::dto::ChecksumType> {
    checksums.first().map(|checksum| kind_of_checksum(checksum.composite))
}

pub(super) fn kind_of_checksum(composite: bool) -> s3s::dto::ChecksumType {
    s3s::dto::ChecksumType::from(if composite { "COMPOSITE" } else { "FULL_OBJECT" }.to_owned())
}

pub(super) fn algorithm(given: Option<&s3s::dto::ChecksumAlgorithm>) -> Result<Option<Algorithm>, Refused> {
    let unknown = || Refused::new("InvalidRequest", "checksum algorithm provided is unsupported");
    given.map(|given| Algorithm::of(given.as_str()).ok_or_else(unknown)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_in_a_header_are_form_encoded() {
        let tags = tagging_header(Some("a=b&c%20d=e+f&g")).expect("well-formed");
        let expect = [("a", "b"), ("c d", "e f"), ("g", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(tags, expect);
        for bad in ["a=%", "a=%zz", "a=%ff", "a=1&a=2", "=x", "a=%01", "%00=a"] {
            assert!(tagging_header(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_come_back_as_the_key_they_hide() {
        for key in ["a", "ключ/with spaces", "\u{1}"] {
            assert_eq!(token_key(&token(key)).expect("ours"), key);
        }
        assert!(token_key("%%%").is_err());
    }
}
