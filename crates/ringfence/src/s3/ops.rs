//! The operations: S3's inputs into a flow's arguments, its result into S3's
//! outputs. What has no method here answers `NotImplemented`.

use std::sync::Arc;

use ringfence_format::limits;
use ringfence_format::names::{UploadId, VersionUid};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Pairs, Version};
use ringfence_store::{After, AfterId, Anything, Conditions, Listed, Page, Query};
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::body::{Said, of_reading};
use super::convert::*;
use super::scope::Scope;
use crate::flows::{
    Act, CompletedPart as NamedPart, CopyTo, Directive, NewBucket, NewObject, NewUpload, PartFrom, Preconditions,
    Refused, SourceRef, Span, Target, Unrecorded, UploadRef, Wanted, version_name,
};
use crate::installation::Installation;

pub(super) struct Ops {
    pub(super) at: Arc<Installation>,
}

/// An answer and the record it stands on.
type Answered<T> = Result<(T, Seq), Refused>;

impl Ops {
    /// Runs a flow for the caller of a request; whatever comes of it is on
    /// record before it is answered.
    async fn run<T, F, R>(&self, scope: Option<Arc<Scope>>, flow: F) -> S3Result<S3Response<T>>
    where
        F: FnOnce(Act) -> R,
        R: Future<Output = Answered<T>>,
    {
        let scope = scope.ok_or_else(|| S3Error::new(S3ErrorCode::InternalError))?;
        let Some(caller) = scope.caller().cloned() else { return Err(S3Error::new(S3ErrorCode::AccessDenied)) };
        let act = Act { at: self.at.clone(), caller };
        match flow(act).await {
            Ok((output, seq)) => {
                scope.is_recorded(seq);
                Ok(S3Response::new(output))
            }
            Err(refused) => Err(self.refuse(&scope, refused).await),
        }
    }

    /// INVARIANT 8 — records a refusal, then says no.
    async fn refuse(&self, scope: &Scope, mut refused: Refused) -> S3Error {
        let error = error_of(&refused);
        let status = error.status_code().map_or(500, |status| status.as_u16());
        let seq = match (refused.recorded, refused.denial.take()) {
            (Some(seq), _) => Ok(seq),
            (None, Some(denial)) => self.at.log.record(*denial).await.map(|recorded| recorded.index()),
            (None, None) => {
                let subject = scope.caller().map(|caller| caller.subject(Some(caller.tenant()))).unwrap_or_default();
                let entry = Unrecorded {
                    subject,
                    op: scope.op(),
                    resource: scope.resource(),
                    status,
                    code: refused.code.to_owned(),
                    reason: refused.reason.clone(),
                    of: None,
                };
                self.at.log.record(entry).await.map(|recorded| recorded.index())
            }
        };
        if status >= 500 {
            tracing::warn!(op = scope.op(), code = refused.code, "{}", refused.reason);
        }
        match seq {
            Ok(seq) => {
                scope.is_recorded(seq);
                error
            }
            // The outer layer tries once more, and withholds the answer if
            // that fails too.
            Err(why) => {
                tracing::error!("a refusal could not be recorded: {why}");
                S3Error::new(S3ErrorCode::ServiceUnavailable)
            }
        }
    }
}

/// What the outer layer sent along.
fn scope_of<I>(request: &S3Request<I>) -> Option<Arc<Scope>> {
    request.extensions.get::<Arc<Scope>>().cloned()
}

fn error_of(refused: &Refused) -> S3Error {
    let code =
        S3ErrorCode::from_bytes(refused.code.as_bytes()).unwrap_or_else(|| S3ErrorCode::Custom(refused.code.into()));
    let mut error = S3Error::with_message(code, refused.message.clone());
    if error.status_code().is_none() {
        let status = match refused.code {
            "ConditionalRequestConflict" | "OperationAborted" => 409,
            "InvalidPartNumber" => 416,
            _ => 400,
        };
        error.set_status_code(http::StatusCode::from_u16(status).expect("a status"));
    }
    if !refused.headers.is_empty() {
        let header = |(name, value): &(&'static str, String)| {
            Some((http::HeaderName::from_static(name), http::HeaderValue::from_str(value).ok()?))
        };
        error.set_headers(refused.headers.iter().filter_map(header).collect());
    }
    error
}

/// Asked for and not done is an error, never a silent 200.
fn unsupported(asked: &[(&str, bool)]) -> Result<(), Refused> {
    match asked.iter().find(|(_, given)| *given) {
        Some((what, _)) => Err(Refused::new("NotImplemented", format!("{what} is not implemented"))),
        None => Ok(()),
    }
}

fn acl_is_private(acl: Option<&str>) -> bool {
    acl.is_none_or(|acl| matches!(acl, "private" | "bucket-owner-full-control" | "bucket-owner-read"))
}

fn storage_class(given: Option<&StorageClass>) -> Result<(), Refused> {
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

fn encryption(given: Option<&ServerSideEncryption>) -> Result<(), Refused> {
    match given.map(ServerSideEncryption::as_str) {
        None | Some("AES256") => Ok(()),
        Some(_) => Err(Refused::new(
            "NotImplemented",
            "objects are always sealed with keys held at home; SSE-KMS headers are not implemented",
        )),
    }
}

fn expected_owner(act: &Act, given: Option<&String>) -> Result<(), Refused> {
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

fn headers_of<'a>(given: impl Iterator<Item = (&'a str, &'a str)>) -> Pairs {
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

fn metadata_of(given: Option<&Metadata>) -> Result<Pairs, Refused> {
    let mut metadata: Pairs =
        given.into_iter().flatten().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    metadata.sort();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > limits::USER_METADATA_BYTES_MAX {
        return Err(Refused::new("MetadataTooLarge", "your metadata headers exceed the maximum allowed metadata size"));
    }
    Ok(metadata)
}

fn conditions(if_match: Option<ETagCondition>, if_none_match: Option<ETagCondition>) -> Result<Conditions, Refused> {
    let if_none_match = match if_none_match {
        None => None,
        Some(ETagCondition::Any) => Some(Anything),
        Some(ETagCondition::ETag(_)) => {
            return Err(Refused::new("NotImplemented", "If-None-Match takes only * on a write"));
        }
    };
    Ok(Conditions { if_none_match, if_match: condition(if_match) })
}

fn trailer_names(headers: &http::HeaderMap) -> Vec<String> {
    let lines = headers.get_all("x-amz-trailer").iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_owned()).collect()
}

fn raw_header(headers: &http::HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// The library takes an empty header for an absent one; a digest that is sent
/// and empty is wrong.
fn not_empty(headers: &http::HeaderMap) -> Result<(), Refused> {
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

fn preconditions(
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
    if_modified_since: Option<&Timestamp>,
    if_unmodified_since: Option<&Timestamp>,
) -> Preconditions {
    Preconditions {
        if_match: condition(if_match),
        if_none_match: condition(if_none_match),
        if_modified_since: if_modified_since.map(millis),
        if_unmodified_since: if_unmodified_since.map(millis),
    }
}

fn source_of(source: &CopySource, conditions: Preconditions) -> Result<SourceRef, Refused> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(Refused::new("NotImplemented", "access points are not implemented"));
    };
    let version = named_version(version_id.as_ref().map(|id| id.to_string()))?;
    Ok(SourceRef { wanted: Wanted { bucket: bucket.to_string(), key: key.to_string(), version }, conditions })
}

fn metadata_out(version: &Version) -> Option<Metadata> {
    (!version.metadata.is_empty()).then(|| version.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Fills what GET and HEAD both tell of an object.
macro_rules! describe {
    ($output:expr, $version:expr, $span:expr, $checksums:expr) => {{
        let (version, span): (&Version, &Span) = ($version, $span);
        $output.accept_ranges = Some("bytes".to_owned());
        $output.e_tag = Some(etag(version));
        $output.last_modified = Some(timestamp(version.created_ms));
        $output.content_length = Some(int(span.range.end - span.range.start));
        $output.content_range = content_range(version, span);
        $output.content_type =
            Some(header(version, "content-type").cloned().unwrap_or_else(|| "binary/octet-stream".to_owned()));
        $output.cache_control = header(version, "cache-control").cloned();
        $output.content_disposition = header(version, "content-disposition").cloned();
        $output.content_encoding = header(version, "content-encoding").cloned();
        $output.content_language = header(version, "content-language").cloned();
        $output.expires = header(version, "expires").cloned();
        $output.metadata = metadata_out(version);
        $output.tag_count = (!version.tags.is_empty()).then(|| version.tags.len() as i32);
        if !version.null_version {
            $output.version_id = Some(version_name(version));
        }
        // A checksum speaks of the whole object, so it comes only with all of it.
        if $checksums && (!span.partial || span.range == (0..version.size)) {
            put_checksums!($output, &version.checksums);
            $output.checksum_type = checksum_type(&version.checksums);
        }
    }};
}

/// `response-content-type` and its like: for this answer only.
macro_rules! override_headers {
    ($output:expr, $input:expr) => {{
        let (output, input) = (&mut $output, $input);
        for (field, given) in [
            (&mut output.cache_control, &input.response_cache_control),
            (&mut output.content_disposition, &input.response_content_disposition),
            (&mut output.content_encoding, &input.response_content_encoding),
            (&mut output.content_language, &input.response_content_language),
            (&mut output.content_type, &input.response_content_type),
        ] {
            if given.is_some() {
                field.clone_from(given);
            }
        }
        if let Some(expires) = &input.response_expires {
            let mut text = Vec::new();
            if expires.format(TimestampFormat::HttpDate, &mut text).is_ok() {
                output.expires = String::from_utf8(text).ok();
            }
        }
    }};
}

fn wanted(bucket: &str, key: &str, version: Option<String>) -> Result<Wanted, Refused> {
    Ok(Wanted { bucket: bucket.to_owned(), key: key.to_owned(), version: named_version(version)? })
}

fn choose(
    conditions: Preconditions,
    part: Option<i32>,
    range: Option<Range>,
) -> impl FnOnce(&Version) -> Result<Span, Refused> {
    move |version| {
        conditions.check(version, "NotModified")?;
        match (part, range) {
            (Some(_), Some(_)) => {
                Err(Refused::new("InvalidRequest", "cannot specify both Range header and partNumber query parameter"))
            }
            (Some(part), None) => span_of_part(version, part),
            (None, range) => span(version, range),
        }
    }
}

fn wants_checksums(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str().eq_ignore_ascii_case("ENABLED"))
}

fn parts_count(version: &Version, part: Option<i32>) -> Option<i32> {
    (part.is_some() && version.etag.contains('-')).then_some(version.parts.len() as i32)
}

#[async_trait::async_trait]
impl S3 for Ops {
    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            let after = input.continuation_token.as_deref().map(token_key).transpose()?.unwrap_or_default();
            let max = input.max_buckets.map_or(limits::BUCKETS_PER_TENANT_MAX, |max| usize::try_from(max).unwrap_or(0));
            let prefix = input.prefix.clone().unwrap_or_default();
            let (buckets, more, seq) = act.list_buckets(&prefix, &after, max).await?;
            let next = buckets.last().filter(|_| more).map(|bucket| token(bucket.name.as_str()));
            let buckets = buckets.iter().map(|bucket| Bucket {
                name: Some(bucket.name.to_string()),
                creation_date: Some(timestamp(bucket.created_ms)),
                ..Bucket::default()
            });
            let output = ListBucketsOutput {
                buckets: Some(buckets.collect()),
                continuation_token: next,
                owner: Some(owner(act.caller.tenant())),
                prefix: input.prefix.clone(),
            };
            Ok((output, seq))
        })
        .await
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            unsupported(&[
                ("an ACL other than private", !acl_is_private(input.acl.as_ref().map(BucketCannedACL::as_str))),
                (
                    "granting by ACL",
                    input.grant_full_control.is_some()
                        || input.grant_read.is_some()
                        || input.grant_read_acp.is_some()
                        || input.grant_write.is_some()
                        || input.grant_write_acp.is_some(),
                ),
                ("object lock", input.object_lock_enabled_for_bucket == Some(true)),
                (
                    "object ownership other than BucketOwnerEnforced",
                    input.object_ownership.as_ref().is_some_and(|o| o.as_str() != "BucketOwnerEnforced"),
                ),
            ])?;
            let configuration = input.create_bucket_configuration.as_ref();
            let location = configuration.and_then(|c| c.location_constraint.as_ref()).map(|l| l.as_str().to_owned());
            let tags = configuration.and_then(|c| c.tags.clone()).unwrap_or_default();
            let tags = tag_set(tags, limits::BUCKET_TAGS_MAX)?;
            let seq = act.create_bucket(NewBucket { name: input.bucket.clone(), location, tags }).await?;
            Ok((
                CreateBucketOutput { location: Some(format!("/{}", input.bucket)), ..CreateBucketOutput::default() },
                seq,
            ))
        })
        .await
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        let answered = self.run(scope_of(&req), |act| async move {
            expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
            let seq = act.delete_bucket(&req.input.bucket).await?;
            Ok((DeleteBucketOutput::default(), seq))
        });
        answered.await.map(|mut response| {
            response.status = Some(http::StatusCode::NO_CONTENT);
            response
        })
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.run(scope_of(&req), |act| async move {
            expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
            let (bucket, seq) = act.see_bucket("s3:HeadBucket", &req.input.bucket).await?;
            let region = bucket.pin.as_ref().map_or_else(|| "us-east-1".to_owned(), ToString::to_string);
            Ok((HeadBucketOutput { bucket_region: Some(region), ..HeadBucketOutput::default() }, seq))
        })
        .await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.run(scope_of(&req), |act| async move {
            expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
            let (bucket, seq) = act.see_bucket("s3:GetBucketLocation", &req.input.bucket).await?;
            let location = bucket.pin.as_ref().map(|site| BucketLocationConstraint::from(site.to_string()));
            Ok((GetBucketLocationOutput { location_constraint: location }, seq))
        })
        .await
    }

    async fn get_bucket_tagging(
        &self,
        req: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        self.run(scope_of(&req), |act| async move {
            expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
            let (bucket, seq) = act.see_bucket("s3:GetBucketTagging", &req.input.bucket).await?;
            if bucket.tags.is_empty() {
                let mut refused = Refused::new("NoSuchTagSet", "the bucket has no tags");
                refused.recorded = Some(seq);
                return Err(refused);
            }
            Ok((GetBucketTaggingOutput { tag_set: tags_of(&bucket.tags) }, seq))
        })
        .await
    }

    async fn put_bucket_tagging(
        &self,
        req: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let answered = self.run(scope_of(&req), |act| async move {
            expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
            let tags = tag_set(req.input.tagging.tag_set.clone(), limits::BUCKET_TAGS_MAX)?;
            let seq = act.tag_bucket("s3:PutBucketTagging", &req.input.bucket, tags).await?;
            Ok((PutBucketTaggingOutput::default(), seq))
        });
        answered.await.map(|mut response| {
            response.status = Some(http::StatusCode::NO_CONTENT);
            response
        })
    }

    async fn delete_bucket_tagging(
        &self,
        req: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        let answered = self.run(scope_of(&req), |act| async move {
            expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
            let seq = act.tag_bucket("s3:DeleteBucketTagging", &req.input.bucket, Pairs::new()).await?;
            Ok((DeleteBucketTaggingOutput::default(), seq))
        });
        answered.await.map(|mut response| {
            response.status = Some(http::StatusCode::NO_CONTENT);
            response
        })
    }

    async fn put_object(&self, mut req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let body = req.input.body.take();
        let trailers = req.trailing_headers.take();
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let (headers, metadata) = object_of!(input)?;
            unsupported(&[("appending", input.write_offset_bytes.is_some())])?;
            let said = Said {
                len: input.content_length,
                md5: input.content_md5.clone(),
                algorithm: raw_header(&req.headers, "x-amz-sdk-checksum-algorithm"),
                sums: not_empty(&req.headers).and_then(|()| take_checksums!(input))?,
                trailers,
                trailer_names: trailer_names(&req.headers),
            };
            let new = NewObject {
                bucket: input.bucket.clone(),
                key: input.key.clone(),
                tags: tagging_header(input.tagging.as_deref())?,
                headers,
                metadata,
                conditions: conditions(input.if_match.clone(), input.if_none_match.clone())?,
            };
            let put = act.put("s3:PutObject", new, said.of(body)?).await?;
            let mut output = PutObjectOutput { e_tag: Some(etag(&put.version)), ..PutObjectOutput::default() };
            put_checksums!(output, &put.version.checksums);
            output.checksum_type = checksum_type(&put.version.checksums);
            output.server_side_encryption = input.server_side_encryption.clone();
            Ok((output, put.seq))
        })
        .await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let answered = self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            unsupported(&[(
                "encryption with keys of the client (SSE-C)",
                input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            )])?;
            let conditions = preconditions(
                input.if_match.clone(),
                input.if_none_match.clone(),
                input.if_modified_since.as_ref(),
                input.if_unmodified_since.as_ref(),
            );
            let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
            let reading = act.read("s3:GetObject", &wanted, choose(conditions, input.part_number, input.range)).await?;
            let (version, span, seq) = (reading.version.clone(), reading.span.clone(), reading.seq);
            let mut output = GetObjectOutput::default();
            describe!(output, &*version, &span, wants_checksums(input.checksum_mode.as_ref()));
            output.parts_count = parts_count(&version, input.part_number);
            output.body = Some(of_reading(reading));
            override_headers!(output, input);
            Ok((output, seq))
        });
        answered.await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let answered = self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            unsupported(&[(
                "encryption with keys of the client (SSE-C)",
                input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            )])?;
            let conditions = preconditions(
                input.if_match.clone(),
                input.if_none_match.clone(),
                input.if_modified_since.as_ref(),
                input.if_unmodified_since.as_ref(),
            );
            let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
            let choose = choose(conditions, input.part_number, input.range);
            let (version, span, seq) = act.head("s3:HeadObject", &wanted, choose).await?;
            let mut output = HeadObjectOutput::default();
            describe!(output, &*version, &span, wants_checksums(input.checksum_mode.as_ref()));
            output.parts_count = parts_count(&version, input.part_number);
            override_headers!(output, input);
            Ok((output, seq))
        });
        answered.await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            expected_owner(&act, input.expected_source_bucket_owner.as_ref())?;
            unsupported(&[(
                "encryption with keys of the client (SSE-C)",
                input.copy_source_sse_customer_algorithm.is_some(),
            )])?;
            let (headers, metadata) = object_of!(input)?;
            let from = source_of(
                &input.copy_source,
                preconditions(
                    input.copy_source_if_match.clone(),
                    input.copy_source_if_none_match.clone(),
                    input.copy_source_if_modified_since.as_ref(),
                    input.copy_source_if_unmodified_since.as_ref(),
                ),
            )?;
            let replace = |directive: Option<&str>| match directive {
                None | Some("COPY") => Ok(false),
                Some("REPLACE") => Ok(true),
                Some(_) => Err(Refused::new("InvalidArgument", "unknown directive")),
            };
            let to = CopyTo {
                bucket: input.bucket.clone(),
                key: input.key.clone(),
                metadata: match replace(input.metadata_directive.as_ref().map(MetadataDirective::as_str))? {
                    true => Directive::Replace((headers, metadata)),
                    false => Directive::Copy,
                },
                tags: match replace(input.tagging_directive.as_ref().map(TaggingDirective::as_str))? {
                    true => Directive::Replace(tagging_header(input.tagging.as_deref())?),
                    false => Directive::Copy,
                },
                algorithm: algorithm(input.checksum_algorithm.as_ref())?,
                conditions: conditions(input.if_match.clone(), input.if_none_match.clone())?,
            };
            let (put, source) = act.copy(from, to).await?;
            let mut result = CopyObjectResult {
                e_tag: Some(etag(&put.version)),
                last_modified: Some(timestamp(put.version.created_ms)),
                ..CopyObjectResult::default()
            };
            put_checksums!(result, &put.version.checksums);
            result.checksum_type = checksum_type(&put.version.checksums);
            let output = CopyObjectOutput {
                copy_object_result: Some(result),
                copy_source_version_id: (!source.null_version).then(|| version_name(&source)),
                ..CopyObjectOutput::default()
            };
            Ok((output, put.seq))
        })
        .await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            unsupported(&[
                (
                    "If-Match on size or date",
                    input.if_match_size.is_some() || input.if_match_last_modified_time.is_some(),
                ),
                ("MFA delete", input.mfa.is_some()),
            ])?;
            let target = Target {
                key: input.key.clone(),
                version: version_ref(input.version_id.clone()),
                if_match: condition(input.if_match.clone()),
            };
            let seq = act.delete(&input.bucket, target).await?;
            Ok((DeleteObjectOutput { version_id: input.version_id.clone(), ..DeleteObjectOutput::default() }, seq))
        })
        .await
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            unsupported(&[("MFA delete", input.mfa.is_some())])?;
            let objects = &input.delete.objects;
            if objects.is_empty() || objects.len() > limits::DELETE_OBJECTS_MAX {
                return Err(Refused::new("MalformedXML", "between 1 and 1000 objects must be named"));
            }
            let conditional = objects.iter().any(|o| o.size.is_some() || o.last_modified_time.is_some());
            unsupported(&[("deleting on condition of size or date", conditional)])?;
            let targets = objects.iter().map(|object| Target {
                key: object.key.clone(),
                version: version_ref(object.version_id.clone()),
                if_match: object.e_tag.clone().map(ETag::into_value),
            });
            let (gone, seq) = act.delete_many(&input.bucket, targets.collect()).await?;
            let (mut deleted, mut errors) = (Vec::new(), Vec::new());
            for (object, gone) in objects.iter().zip(gone) {
                match gone {
                    // XML 1.0 cannot say such a name; silence means success,
                    // as in quiet mode.
                    Ok(()) if !can_be_xml(&object.key) => {}
                    Ok(()) => deleted.push(DeletedObject {
                        key: Some(object.key.clone()),
                        version_id: object.version_id.clone(),
                        ..DeletedObject::default()
                    }),
                    Err(refused) => errors.push(Error {
                        code: Some(refused.code.to_owned()),
                        key: Some(object.key.replace(|c| !is_xml(c), "\u{fffd}")),
                        message: Some(refused.message),
                        version_id: object.version_id.clone(),
                    }),
                }
            }
            let deleted = if input.delete.quiet == Some(true) { None } else { some(deleted) };
            Ok((DeleteObjectsOutput { deleted, errors: some(errors), ..DeleteObjectsOutput::default() }, seq))
        })
        .await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let encode = Encode::asked(input.encoding_type.as_ref())?;
            let max = page_size(input.max_keys)?;
            let query = Query {
                prefix: input.prefix.as_deref().unwrap_or_default(),
                delimiter: input.delimiter.as_deref().unwrap_or_default(),
                after: After::key(input.marker.clone().unwrap_or_default()),
                max,
            };
            let (page, seq) = act.list("s3:ListObjects", &input.bucket, &query).await?;
            let delimited = !query.delimiter.is_empty();
            let output = ListObjectsOutput {
                name: Some(input.bucket.clone()),
                prefix: Some(encode.name(query.prefix)),
                marker: Some(encode.name(&query.after.key)),
                max_keys: Some(max as i32),
                is_truncated: Some(page.next.is_some()),
                next_marker: page.next.as_ref().filter(|_| delimited).map(|next| encode.name(&next.key)),
                delimiter: input.delimiter.as_deref().filter(|d| !d.is_empty()).map(|d| encode.name(d)),
                encoding_type: input.encoding_type.clone(),
                common_prefixes: prefixes(&page.common_prefixes, &encode),
                contents: some(
                    page.contents.iter().map(|line| object(line, &encode, Some(owner(act.caller.tenant())))).collect(),
                ),
                ..ListObjectsOutput::default()
            };
            Ok((output, seq))
        })
        .await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let encode = Encode::asked(input.encoding_type.as_ref())?;
            let max = page_size(input.max_keys)?;
            let after = match &input.continuation_token {
                Some(token) if token.is_empty() => {
                    return Err(Refused::new("InvalidArgument", "the continuation token provided is incorrect"));
                }
                Some(token) => token_key(token)?,
                None => input.start_after.clone().unwrap_or_default(),
            };
            let query = Query {
                prefix: input.prefix.as_deref().unwrap_or_default(),
                delimiter: input.delimiter.as_deref().unwrap_or_default(),
                after: After::key(after),
                max,
            };
            let (page, seq) = act.list("s3:ListObjectsV2", &input.bucket, &query).await?;
            let owned = (input.fetch_owner == Some(true)).then(|| owner(act.caller.tenant()));
            let output = ListObjectsV2Output {
                name: Some(input.bucket.clone()),
                prefix: Some(encode.name(query.prefix)),
                max_keys: Some(max as i32),
                key_count: Some((page.contents.len() + page.common_prefixes.len()) as i32),
                continuation_token: input.continuation_token.clone(),
                is_truncated: Some(page.next.is_some()),
                next_continuation_token: page.next.as_ref().map(|next| token(&next.key)),
                delimiter: input.delimiter.as_deref().filter(|d| !d.is_empty()).map(|d| encode.name(d)),
                encoding_type: input.encoding_type.clone(),
                start_after: input.start_after.as_deref().map(|s| encode.name(s)),
                common_prefixes: prefixes(&page.common_prefixes, &encode),
                contents: some(page.contents.iter().map(|line| object(line, &encode, owned.clone())).collect()),
                ..ListObjectsV2Output::default()
            };
            Ok((output, seq))
        })
        .await
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let encode = Encode::asked(input.encoding_type.as_ref())?;
            let max = page_size(input.max_keys)?;
            let id = match input.version_id_marker.as_deref().filter(|id| !id.is_empty()) {
                None => None,
                Some("null") => Some(AfterId::Null),
                Some(text) => Some(AfterId::Version(
                    VersionUid::from_hex(text)
                        .ok_or_else(|| Refused::new("InvalidArgument", "invalid version id specified"))?,
                )),
            };
            if id.is_some() && input.key_marker.is_none() {
                return Err(Refused::new(
                    "InvalidArgument",
                    "a version-id marker cannot be specified without a key marker",
                ));
            }
            let query = Query {
                prefix: input.prefix.as_deref().unwrap_or_default(),
                delimiter: input.delimiter.as_deref().unwrap_or_default(),
                after: After { key: input.key_marker.clone().unwrap_or_default(), id },
                max,
            };
            let (page, seq) = act.list_versions(&input.bucket, &query).await?;
            Ok((versions(&act, input, &query, page, &encode), seq))
        })
        .await
    }

    async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
            let (version, seq) = act.tags(&wanted).await?;
            Ok((GetObjectTaggingOutput { tag_set: tags_of(&version.tags), version_id: input.version_id.clone() }, seq))
        })
        .await
    }

    async fn put_object_tagging(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
            let tags = tag_set(input.tagging.tag_set.clone(), limits::OBJECT_TAGS_MAX)?;
            let (_, seq) = act.tag("s3:PutObjectTagging", &wanted, tags).await?;
            Ok((PutObjectTaggingOutput { version_id: input.version_id.clone() }, seq))
        })
        .await
    }

    async fn delete_object_tagging(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
            let (_, seq) = act.tag("s3:DeleteObjectTagging", &wanted, Pairs::new()).await?;
            Ok((DeleteObjectTaggingOutput { version_id: input.version_id.clone() }, seq))
        })
        .await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let (headers, metadata) = object_of!(input)?;
            let checksum = checksum_of_upload(input)?;
            let new = NewUpload {
                bucket: input.bucket.clone(),
                key: input.key.clone(),
                tags: tagging_header(input.tagging.as_deref())?,
                headers,
                metadata,
                checksum,
            };
            let (id, seq) = act.create_upload(new).await?;
            let output = CreateMultipartUploadOutput {
                bucket: Some(input.bucket.clone()),
                key: Some(input.key.clone()),
                upload_id: Some(id.to_string()),
                checksum_algorithm: checksum.map(|(a, _)| ChecksumAlgorithm::from(a.name().to_owned())),
                checksum_type: checksum.map(|(_, composite)| {
                    ChecksumType::from(if composite { "COMPOSITE" } else { "FULL_OBJECT" }.to_owned())
                }),
                server_side_encryption: input.server_side_encryption.clone(),
                ..CreateMultipartUploadOutput::default()
            };
            Ok((output, seq))
        })
        .await
    }

    async fn upload_part(&self, mut req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let body = req.input.body.take();
        let trailers = req.trailing_headers.take();
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            unsupported(&[(
                "encryption with keys of the client (SSE-C)",
                input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some(),
            )])?;
            let said = Said {
                len: input.content_length,
                md5: input.content_md5.clone(),
                algorithm: raw_header(&req.headers, "x-amz-sdk-checksum-algorithm"),
                sums: not_empty(&req.headers).and_then(|()| take_checksums!(input))?,
                trailers,
                trailer_names: trailer_names(&req.headers),
            };
            let sent =
                !said.sums.is_empty() || said.trailer_names.iter().any(|n| super::body::trailer_algorithm(n).is_some());
            let upload = upload_ref(&input.bucket, &input.key, &input.upload_id);
            let (part, _, seq) = act.upload_part(&upload, part_number(input.part_number)?, said.of(body)?).await?;
            let mut output =
                UploadPartOutput { e_tag: Some(ETag::Strong(hex(&part.md5))), ..UploadPartOutput::default() };
            put_checksums!(output, part.checksum.iter().filter(|_| sent));
            Ok((output, seq))
        })
        .await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            expected_owner(&act, input.expected_source_bucket_owner.as_ref())?;
            unsupported(&[(
                "encryption with keys of the client (SSE-C)",
                input.sse_customer_algorithm.is_some() || input.copy_source_sse_customer_algorithm.is_some(),
            )])?;
            let source = source_of(
                &input.copy_source,
                preconditions(
                    input.copy_source_if_match.clone(),
                    input.copy_source_if_none_match.clone(),
                    input.copy_source_if_modified_since.as_ref(),
                    input.copy_source_if_unmodified_since.as_ref(),
                ),
            )?;
            not_empty(&req.headers)?;
            let from = PartFrom { source, range: input.copy_source_range.as_deref().map(copy_range).transpose()? };
            let upload = upload_ref(&input.bucket, &input.key, &input.upload_id);
            let (part, seq, source) = act.upload_part_copy(&upload, part_number(input.part_number)?, from).await?;
            let result = CopyPartResult {
                e_tag: Some(ETag::Strong(hex(&part.md5))),
                last_modified: Some(timestamp(part.created_ms)),
                ..CopyPartResult::default()
            };
            let output = UploadPartCopyOutput {
                copy_part_result: Some(result),
                copy_source_version_id: (!source.null_version).then(|| version_name(&source)),
                ..UploadPartCopyOutput::default()
            };
            Ok((output, seq))
        })
        .await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let given = input.multipart_upload.as_ref().and_then(|upload| upload.parts.clone()).unwrap_or_default();
            let parts = given.into_iter().map(named_part).collect::<Result<Vec<_>, _>>()?;
            let conditions = conditions(input.if_match.clone(), input.if_none_match.clone())?;
            let sums = take_checksums!(input)?;
            let size = input.mpu_object_size;
            let expect = |version: &Version| {
                if size.is_some_and(|size| size != int(version.size)) {
                    return Err(Refused::new("InvalidRequest", "the size of the object is not the one specified"));
                }
                let wrong = sums.iter().find(|(algorithm, value)| {
                    let ours = version.checksums.iter().find(|checksum| checksum.algorithm == algorithm.name());
                    ours.is_none_or(|ours| ours.value != *value && ours.value.split('-').next() != Some(value))
                });
                wrong.map_or(Ok(()), |(algorithm, _)| {
                    Err(Refused::new(
                        "BadDigest",
                        format!("the {} you specified did not match the calculated checksum", algorithm.name()),
                    ))
                })
            };
            let upload = upload_ref(&input.bucket, &input.key, &input.upload_id);
            let completed = act.complete_upload(&upload, parts, conditions, expect).await?;
            let version = &completed.version;
            let mut output = CompleteMultipartUploadOutput {
                bucket: Some(input.bucket.clone()),
                key: Some(input.key.clone()),
                location: Some(format!("/{}/{}", input.bucket, input.key)),
                e_tag: Some(etag(version)),
                ..CompleteMultipartUploadOutput::default()
            };
            put_checksums!(output, &version.checksums);
            output.checksum_type = checksum_type(&version.checksums);
            Ok((output, completed.seq))
        })
        .await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            unsupported(&[("If-Match on the initiation time", input.if_match_initiated_time.is_some())])?;
            let seq = act.abort_upload(&upload_ref(&input.bucket, &input.key, &input.upload_id)).await?;
            Ok((AbortMultipartUploadOutput::default(), seq))
        })
        .await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let max = page_size(input.max_parts)?;
            let after = u32::try_from(input.part_number_marker.unwrap_or(0)).unwrap_or(0);
            let named = upload_ref(&input.bucket, &input.key, &input.upload_id);
            let (upload, mut rows, seq) = act.list_parts(&named, after, max).await?;
            let more = rows.len() > max;
            rows.truncate(max);
            let parts: Vec<Part> =
                rows.iter().map(|row| listed_part(&row.part, upload.checksum_algorithm.is_some())).collect();
            let output = ListPartsOutput {
                bucket: Some(input.bucket.clone()),
                key: Some(input.key.clone()),
                upload_id: Some(upload.id.to_string()),
                part_number_marker: Some(after as i32),
                next_part_number_marker: rows.last().map(|row| row.part.number as i32),
                max_parts: Some(max as i32),
                is_truncated: Some(more),
                parts: some(parts),
                initiator: Some(Initiator {
                    id: Some(act.caller.tenant().to_string()),
                    display_name: Some(act.caller.tenant().to_string()),
                }),
                owner: Some(owner(act.caller.tenant())),
                storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                checksum_algorithm: upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
                ..ListPartsOutput::default()
            };
            Ok((output, seq))
        })
        .await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.run(scope_of(&req), |act| async move {
            let input = &req.input;
            expected_owner(&act, input.expected_bucket_owner.as_ref())?;
            let encode = Encode::asked(input.encoding_type.as_ref())?;
            let max = page_size(input.max_uploads)?;
            // S3: without a key marker, the upload id marker is ignored.
            let id = input.key_marker.as_ref().and(input.upload_id_marker.as_deref()).filter(|id| !id.is_empty());
            let id = id.map(|id| {
                UploadId::from_hex(id)
                    .map(AfterId::Upload)
                    .ok_or_else(|| Refused::new("InvalidArgument", "invalid uploadId marker"))
            });
            let query = Query {
                prefix: input.prefix.as_deref().unwrap_or_default(),
                delimiter: input.delimiter.as_deref().unwrap_or_default(),
                after: After { key: input.key_marker.clone().unwrap_or_default(), id: id.transpose()? },
                max,
            };
            let (page, seq) = act.list_uploads(&input.bucket, &query).await?;
            let uploads = page.contents.iter().map(|upload| MultipartUpload {
                key: Some(encode.name(upload.version.key.as_str())),
                upload_id: Some(upload.id.to_string()),
                initiated: Some(timestamp(upload.version.created_ms)),
                owner: Some(owner(act.caller.tenant())),
                initiator: Some(Initiator {
                    id: Some(act.caller.tenant().to_string()),
                    display_name: Some(act.caller.tenant().to_string()),
                }),
                storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
                checksum_algorithm: upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
                ..MultipartUpload::default()
            });
            let next_id = page.next.as_ref().and_then(|next| next.id).map(id_text);
            let output = ListMultipartUploadsOutput {
                bucket: Some(input.bucket.clone()),
                prefix: Some(encode.name(query.prefix)),
                delimiter: input.delimiter.as_deref().filter(|d| !d.is_empty()).map(|d| encode.name(d)),
                key_marker: Some(encode.name(&query.after.key)),
                upload_id_marker: Some(input.upload_id_marker.clone().unwrap_or_default()),
                next_key_marker: page.next.as_ref().map(|next| encode.name(&next.key)),
                next_upload_id_marker: next_id,
                max_uploads: Some(max as i32),
                is_truncated: Some(page.next.is_some()),
                encoding_type: input.encoding_type.clone(),
                common_prefixes: prefixes(&page.common_prefixes, &encode),
                uploads: some(uploads.collect()),
                ..ListMultipartUploadsOutput::default()
            };
            Ok((output, seq))
        })
        .await
    }
}

fn object(line: &Listed, encode: &Encode, owner: Option<Owner>) -> Object {
    Object {
        key: Some(encode.name(line.key.as_str())),
        e_tag: Some(ETag::Strong(line.etag.clone())),
        last_modified: Some(timestamp(line.created_ms)),
        size: Some(int(line.size)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        owner,
        checksum_algorithm: line.checksum.as_ref().map(|(name, _)| vec![ChecksumAlgorithm::from(name.clone())]),
        checksum_type: line
            .checksum
            .as_ref()
            .map(|(_, composite)| ChecksumType::from(if *composite { "COMPOSITE" } else { "FULL_OBJECT" }.to_owned())),
        ..Object::default()
    }
}

fn versions(
    act: &Act,
    input: &ListObjectVersionsInput,
    query: &Query<'_>,
    page: Page,
    encode: &Encode,
) -> ListObjectVersionsOutput {
    let owner = || Some(owner(act.caller.tenant()));
    let id = |line: &Listed| Some(if line.null_version { "null".to_owned() } else { line.uid.to_string() });
    let (markers, versions): (Vec<_>, Vec<_>) = page.contents.iter().partition(|line| line.delete_marker);
    let versions = versions.into_iter().map(|line| ObjectVersion {
        key: Some(encode.name(line.key.as_str())),
        e_tag: Some(ETag::Strong(line.etag.clone())),
        is_latest: Some(line.latest),
        last_modified: Some(timestamp(line.created_ms)),
        size: Some(int(line.size)),
        version_id: id(line),
        owner: owner(),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        ..ObjectVersion::default()
    });
    let markers = markers.into_iter().map(|line| DeleteMarkerEntry {
        key: Some(encode.name(line.key.as_str())),
        is_latest: Some(line.latest),
        last_modified: Some(timestamp(line.created_ms)),
        version_id: id(line),
        owner: owner(),
    });
    ListObjectVersionsOutput {
        name: Some(input.bucket.clone()),
        prefix: Some(encode.name(query.prefix)),
        delimiter: input.delimiter.as_deref().filter(|d| !d.is_empty()).map(|d| encode.name(d)),
        key_marker: Some(encode.name(&query.after.key)),
        version_id_marker: Some(input.version_id_marker.clone().unwrap_or_default()),
        max_keys: Some(query.max as i32),
        is_truncated: Some(page.next.is_some()),
        next_key_marker: page.next.as_ref().map(|next| encode.name(&next.key)),
        next_version_id_marker: page.next.as_ref().and_then(|next| next.id).map(id_text),
        encoding_type: input.encoding_type.clone(),
        common_prefixes: prefixes(&page.common_prefixes, encode),
        versions: some(versions.collect()),
        delete_markers: some(markers.collect()),
        ..ListObjectVersionsOutput::default()
    }
}

/// Characters that XML 1.0 can carry (section 2.2).
fn is_xml(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

fn can_be_xml(text: &str) -> bool {
    text.chars().all(is_xml)
}

fn id_text(id: AfterId) -> String {
    match id {
        AfterId::Null => "null".to_owned(),
        AfterId::Version(uid) => uid.to_string(),
        AfterId::Upload(id) => id.to_string(),
    }
}

fn prefixes(given: &[String], encode: &Encode) -> Option<Vec<CommonPrefix>> {
    some(given.iter().map(|prefix| CommonPrefix { prefix: Some(encode.name(prefix)) }).collect())
}

fn upload_ref(bucket: &str, key: &str, id: &str) -> UploadRef {
    UploadRef { bucket: bucket.to_owned(), key: key.to_owned(), id: id.to_owned() }
}

fn part_number(given: i32) -> Result<u32, Refused> {
    u32::try_from(given)
        .ok()
        .filter(|number| (1..=limits::PART_NUMBER_MAX).contains(number))
        .ok_or_else(|| Refused::new("InvalidArgument", "part number must be an integer between 1 and 10000, inclusive"))
}

fn named_part(given: CompletedPart) -> Result<NamedPart, Refused> {
    let sums: Vec<_> = take_checksums!(given)?;
    let malformed = || Refused::new("MalformedXML", "a part needs its number and its ETag");
    let number = given.part_number.ok_or_else(malformed)?;
    let number = u32::try_from(number).map_err(|_| Refused::new("InvalidPart", "no part has this number"))?;
    let etag = given.e_tag.ok_or_else(malformed)?.into_value();
    Ok(NamedPart { number, etag, checksum: sums.into_iter().next() })
}

fn checksum_of_upload(input: &CreateMultipartUploadInput) -> Result<Option<(crate::flows::Algorithm, bool)>, Refused> {
    let kind = input.checksum_type.as_ref().map(ChecksumType::as_str);
    let Some(algorithm) = algorithm(input.checksum_algorithm.as_ref())? else {
        return match kind {
            None => Ok(None),
            Some(_) => Err(Refused::new(
                "InvalidRequest",
                "the x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header",
            )),
        };
    };
    let composite = match kind {
        Some("COMPOSITE") => true,
        Some("FULL_OBJECT") => false,
        None => algorithm != crate::flows::Algorithm::Crc64Nvme,
        Some(_) => return Err(Refused::new("InvalidRequest", "value for x-amz-checksum-type header is invalid")),
    };
    let possible = if composite { algorithm != crate::flows::Algorithm::Crc64Nvme } else { !algorithm.is_digest() };
    if !possible {
        let kind = if composite { "COMPOSITE" } else { "FULL_OBJECT" };
        let why = format!("the {kind} checksum type cannot be used with the {} checksum algorithm", algorithm.name());
        return Err(Refused::new("InvalidRequest", why));
    }
    Ok(Some((algorithm, composite)))
}

/// `bytes=first-last`, both given (UploadPartCopy).
fn copy_range(text: &str) -> Result<(u64, u64), Refused> {
    let bad =
        || Refused::new("InvalidArgument", "the x-amz-copy-source-range value must be of the form bytes=first-last");
    let (first, last) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(bad)?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(bad()),
    }
}

fn listed_part(part: &ringfence_format::redo::Part, checksums: bool) -> Part {
    let mut listed = Part {
        part_number: Some(part.number as i32),
        e_tag: Some(ETag::Strong(hex(&part.md5))),
        size: Some(int(part.plain_len)),
        last_modified: Some(timestamp(part.created_ms)),
        ..Part::default()
    };
    put_checksums!(listed, part.checksum.iter().filter(|_| checksums));
    listed
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
