//! Objects: what is said of one, its body, its tags.

use ringfence_format::limits;
use ringfence_format::redo::{Pairs, Version};
use s3s::S3Request;
use s3s::dto::*;

use super::super::body::{Said, of_reading};
use super::super::convert::*;
use super::Answered;
use super::given::*;
use crate::flows::{About, Act, CopyTo, Directive, NewObject, Preconditions, Refused, Span, Target, version_name};

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

pub(super) async fn put_object(act: Act, mut req: S3Request<PutObjectInput>) -> Answered<PutObjectOutput> {
    let body = req.input.body.take();
    let trailers = req.trailing_headers.take();
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    unsupported(&[("appending", input.write_offset_bytes.is_some())])?;
    let said = said!(req, trailers)?;
    let new = NewObject {
        about: about!(input)?,
        conditions: conditions(input.if_match.clone(), input.if_none_match.clone())?,
    };
    let put = act.put("s3:PutObject", new, said.of(body)?).await?;
    let mut output = PutObjectOutput { e_tag: Some(etag(&put.version)), ..PutObjectOutput::default() };
    put_checksums!(output, &put.version.checksums);
    output.checksum_type = checksum_type(&put.version.checksums);
    output.server_side_encryption = input.server_side_encryption.clone();
    Ok((output, put.seq))
}

pub(super) async fn get_object(act: Act, req: S3Request<GetObjectInput>) -> Answered<GetObjectOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    no_client_keys(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let conditions = preconditions!(input);
    let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
    let reading = act.read("s3:GetObject", &wanted, choose(conditions, input.part_number, input.range)).await?;
    let (version, span, seq) = (reading.version.clone(), reading.span.clone(), reading.seq);
    let mut output = GetObjectOutput::default();
    describe!(output, &*version, &span, wants_checksums(input.checksum_mode.as_ref()));
    output.parts_count = parts_count(&version, input.part_number);
    output.body = Some(of_reading(reading));
    override_headers!(output, input);
    Ok((output, seq))
}

pub(super) async fn head_object(act: Act, req: S3Request<HeadObjectInput>) -> Answered<HeadObjectOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    no_client_keys(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let conditions = preconditions!(input);
    let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
    let choose = choose(conditions, input.part_number, input.range);
    let (version, span, seq) = act.head("s3:HeadObject", &wanted, choose).await?;
    let mut output = HeadObjectOutput::default();
    describe!(output, &*version, &span, wants_checksums(input.checksum_mode.as_ref()));
    output.parts_count = parts_count(&version, input.part_number);
    override_headers!(output, input);
    Ok((output, seq))
}

pub(super) async fn copy_object(act: Act, req: S3Request<CopyObjectInput>) -> Answered<CopyObjectOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    expected_owner(&act, input.expected_source_bucket_owner.as_ref())?;
    no_client_keys(input.copy_source_sse_customer_algorithm.is_some())?;
    let (headers, metadata) = object_of!(input)?;
    let from = copy_source!(input)?;
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
}

pub(super) async fn delete_object(act: Act, req: S3Request<DeleteObjectInput>) -> Answered<DeleteObjectOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    unsupported(&[
        ("If-Match on size or date", input.if_match_size.is_some() || input.if_match_last_modified_time.is_some()),
        ("MFA delete", input.mfa.is_some()),
    ])?;
    let target = Target {
        key: input.key.clone(),
        version: version_ref(input.version_id.clone()),
        if_match: condition(input.if_match.clone()),
    };
    let seq = act.delete(&input.bucket, target).await?;
    Ok((DeleteObjectOutput { version_id: input.version_id.clone(), ..DeleteObjectOutput::default() }, seq))
}

pub(super) async fn delete_objects(act: Act, req: S3Request<DeleteObjectsInput>) -> Answered<DeleteObjectsOutput> {
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
}

pub(super) async fn get_object_tagging(
    act: Act,
    req: S3Request<GetObjectTaggingInput>,
) -> Answered<GetObjectTaggingOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
    let (version, seq) = act.tags(&wanted).await?;
    Ok((GetObjectTaggingOutput { tag_set: tags_of(&version.tags), version_id: input.version_id.clone() }, seq))
}

pub(super) async fn put_object_tagging(
    act: Act,
    req: S3Request<PutObjectTaggingInput>,
) -> Answered<PutObjectTaggingOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
    let tags = tag_set(input.tagging.tag_set.clone(), limits::OBJECT_TAGS_MAX)?;
    let (_, seq) = act.tag("s3:PutObjectTagging", &wanted, tags).await?;
    Ok((PutObjectTaggingOutput { version_id: input.version_id.clone() }, seq))
}

pub(super) async fn delete_object_tagging(
    act: Act,
    req: S3Request<DeleteObjectTaggingInput>,
) -> Answered<DeleteObjectTaggingOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let wanted = wanted(&input.bucket, &input.key, input.version_id.clone())?;
    let (_, seq) = act.tag("s3:DeleteObjectTagging", &wanted, Pairs::new()).await?;
    Ok((DeleteObjectTaggingOutput { version_id: input.version_id.clone() }, seq))
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

fn metadata_out(version: &Version) -> Option<Metadata> {
    (!version.metadata.is_empty()).then(|| version.metadata.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}
