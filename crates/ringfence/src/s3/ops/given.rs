//! What the inputs of several operations have in common, checked.

use ringfence_format::limits;
use ringfence_format::redo::Pairs;
use ringfence_store::{Anything, Conditions};
use s3s::dto::*;

use super::super::convert::*;
use crate::flows::{Act, Preconditions, Refused, SourceRef, UploadRef, Wanted};

/// Asked for and not done is an error, never a silent 200.
pub(in crate::s3) fn unsupported(asked: &[(&str, bool)]) -> Result<(), Refused> {
    match asked.iter().find(|(_, given)| *given) {
        Some((what, _)) => Err(Refused::new("NotImplemented", format!("{what} is not implemented"))),
        None => Ok(()),
    }
}

pub(in crate::s3) fn no_client_keys(asked: bool) -> Result<(), Refused> {
    unsupported(&[("encryption with keys of the client (SSE-C)", asked)])
}

pub(in crate::s3) fn acl_is_private(acl: Option<&str>) -> bool {
    acl.is_none_or(|acl| matches!(acl, "private" | "bucket-owner-full-control" | "bucket-owner-read"))
}

pub(in crate::s3) fn storage_class(given: Option<&StorageClass>) -> Result<(), Refused> {
    match given.map(StorageClass::as_str) {
        None | Some("STANDARD") => Ok(()),
        Some(
            "REDUCED_REDUNDANCY"
            | "STANDARD_IA"
            | "ONEZONE_IA"
            | "INTELLIGENT_TIERING"
            | "GLACIER"
            | "GLACIER_IR"
            | "DEEP_ARCHIVE"
            | "EXPRESS_ONEZONE"
            | "OUTPOSTS"
            | "SNOW",
        ) => Err(Refused::new("NotImplemented", "storage classes other than STANDARD are not implemented")),
        Some(_) => Err(Refused::new("InvalidStorageClass", "the storage class you specified is not valid")),
    }
}

pub(in crate::s3) fn encryption(given: Option<&ServerSideEncryption>) -> Result<(), Refused> {
    match given.map(ServerSideEncryption::as_str) {
        None | Some("AES256") => Ok(()),
        Some(_) => Err(Refused::new(
            "NotImplemented",
            "objects are always sealed with keys held at home; SSE-KMS headers are not implemented",
        )),
    }
}

pub(in crate::s3) fn expected_owner(act: &Act, given: Option<&String>) -> Result<(), Refused> {
    match given {
        Some(owner) if owner != act.caller.tenant().as_str() => Err(Refused::new("AccessDenied", "Access Denied")),
        _ => Ok(()),
    }
}

/// The parts of an input that say what an object is like, checked.
macro_rules! object_of {
    ($input:expr) => {{
        let input = &$input;
        unsupported(&[
            ("an ACL other than private", !acl_is_private(input.acl.as_ref().map(|acl| acl.as_str()))),
            (
                "granting by ACL",
                input.grant_full_control.is_some()
                    || input.grant_read.is_some()
                    || input.grant_read_acp.is_some()
                    || input.grant_write_acp.is_some(),
            ),
            (
                "object lock",
                input.object_lock_mode.is_some()
                    || input.object_lock_legal_hold_status.is_some()
                    || input.object_lock_retain_until_date.is_some(),
            ),
            (
                "encryption with keys of the client (SSE-C)",
                input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            ),
            ("website redirection", input.website_redirect_location.is_some()),
            ("SSE-KMS", input.ssekms_key_id.is_some() || input.ssekms_encryption_context.is_some()),
        ])
        .and_then(|()| storage_class(input.storage_class.as_ref()))
        .and_then(|()| encryption(input.server_side_encryption.as_ref()))
        .and_then(|()| {
            let metadata = metadata_of(input.metadata.as_ref())?;
            let headers = [
                ("cache-control", input.cache_control.as_ref()),
                ("content-disposition", input.content_disposition.as_ref()),
                ("content-encoding", input.content_encoding.as_ref()),
                ("content-language", input.content_language.as_ref()),
                ("content-type", input.content_type.as_ref()),
                ("expires", input.expires.as_ref()),
            ];
            let headers = headers.into_iter().filter_map(|(name, value)| Some((name, value?.as_str())));
            Ok((headers_of(headers), metadata))
        })
    }};
}

pub(in crate::s3) fn headers_of<'a>(given: impl Iterator<Item = (&'a str, &'a str)>) -> Pairs {
    let kept = given.filter_map(|(name, value)| {
        // aws-chunked describes the transfer, not the object.
        let value = if name == "content-encoding" {
            let codings =
                value.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked" && !coding.is_empty());
            codings.collect::<Vec<_>>().join(", ")
        } else {
            value.to_owned()
        };
        (!value.is_empty()).then(|| (name.to_owned(), value))
    });
    kept.collect()
}

pub(in crate::s3) fn metadata_of(given: Option<&Metadata>) -> Result<Pairs, Refused> {
    let mut metadata: Pairs =
        given.into_iter().flatten().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    metadata.sort();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::USER_METADATA_BYTES_MAX {
        return Err(Refused::new("MetadataTooLarge", "your metadata headers exceed the maximum allowed metadata size"));
    }
    Ok(metadata)
}

pub(in crate::s3) fn conditions(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
) -> Result<Conditions, Refused> {
    let if_none_match = match if_none_match {
        None => None,
        Some(ETagCondition::Any) => Some(Anything),
        Some(ETagCondition::ETag(_)) => {
            return Err(Refused::new("NotImplemented", "If-None-Match takes only * on a write"));
        }
    };
    Ok(Conditions { if_none_match, if_match: condition(if_match) })
}

pub(in crate::s3) fn trailer_names(headers: &http::HeaderMap) -> Vec<String> {
    let lines = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_owned()).collect()
}

pub(in crate::s3) fn raw_header(headers: &http::HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The library takes an empty header for an absent one; a digest that is sent
/// and empty is wrong.
pub(in crate::s3) fn not_empty(headers: &http::HeaderMap) -> Result<(), Refused> {
    let empty = |name: &http::HeaderName| headers.get(name).is_some_and(|value| value.is_empty());
    for name in headers.keys().filter(|name| empty(name)) {
        match name.as_str() {
            "content-md5" => return Err(Refused::new("InvalidDigest", "the Content-MD5 you specified is not valid")),
            "x-amz-copy-source-range" => {
                return Err(Refused::new("InvalidArgument", "the x-amz-copy-source-range header is empty"));
            }
            name if name.starts_with("x-amz-checksum-") => {
                return Err(Refused::new("InvalidRequest", format!("value for {name} header is invalid")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a new object is like.
macro_rules! about {
    ($input:expr) => {
        object_of!($input).and_then(|(headers, metadata)| {
            Ok(About {
                bucket: $input.bucket.clone(),
                key: $input.key.clone(),
                tags: tagging_header($input.tagging.as_deref())?,
                headers,
                metadata,
            })
        })
    };
}

/// The conditions of a read; the fields have the same names in unrelated types.
macro_rules! preconditions {
    ($input:expr) => {
        Preconditions {
            if_match: condition($input.if_match.clone()),
            if_none_match: condition($input.if_none_match.clone()),
            if_modified_since: $input.if_modified_since.as_ref().map(millis),
            if_unmodified_since: $input.if_unmodified_since.as_ref().map(millis),
        }
    };
}

/// What is copied, and on which conditions.
macro_rules! copy_source {
    ($input:expr) => {
        source_of(
            &$input.copy_source,
            Preconditions {
                if_match: condition($input.copy_source_if_match.clone()),
                if_none_match: condition($input.copy_source_if_none_match.clone()),
                if_modified_since: $input.copy_source_if_modified_since.as_ref().map(millis),
                if_unmodified_since: $input.copy_source_if_unmodified_since.as_ref().map(millis),
            },
        )
    };
}

/// What a client said of the body it sends.
macro_rules! said {
    ($req:expr, $trailers:expr) => {
        not_empty(&$req.headers).and_then(|()| {
            let input = &$req.input;
            Ok(Said {
                len: input.content_length,
                md5: input.content_md5.clone(),
                algorithm: raw_header(&$req.headers, "x-amz-sdk-checksum-algorithm"),
                sums: take_checksums!(input)?,
                trailers: $trailers,
                trailer_names: trailer_names(&$req.headers),
            })
        })
    };
}

pub(in crate::s3) use {about, copy_source, object_of, preconditions, said};

pub(in crate::s3) fn source_of(source: &CopySource, conditions: Preconditions) -> Result<SourceRef, Refused> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(Refused::new("NotImplemented", "access points are not implemented"));
    };
    let version = named_version(version_id.as_ref().map(|id| id.to_string()))?;
    Ok(SourceRef { wanted: Wanted { bucket: bucket.to_string(), key: key.to_string(), version }, conditions })
}

pub(in crate::s3) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(in crate::s3) fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

pub(in crate::s3) fn wanted(bucket: &str, key: &str, version: Option<String>) -> Result<Wanted, Refused> {
    Ok(Wanted { bucket: bucket.to_owned(), key: key.to_owned(), version: named_version(version)? })
}

pub(in crate::s3) fn upload_ref(bucket: &str, key: &str, id: &str) -> UploadRef {
    UploadRef { bucket: bucket.to_owned(), key: key.to_owned(), id: id.to_owned() }
}
