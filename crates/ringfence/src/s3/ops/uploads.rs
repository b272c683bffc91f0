//! Multipart uploads, part by part.

use ringfence_format::limits;
use ringfence_format::redo::Version;
use s3s::S3Request;
use s3s::dto::*;

use super::super::body::{Said, trailer_algorithm};
use super::super::convert::*;
use super::Answered;
use super::given::*;
use crate::flows::{
    About, Act, Algorithm, CompletedPart as NamedPart, NewUpload, PartFrom, Preconditions, Refused, version_name,
};

pub(super) async fn create_multipart_upload(
    act: Act,
    req: S3Request<CreateMultipartUploadInput>,
) -> Answered<CreateMultipartUploadOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let checksum = checksum_of_upload(input)?;
    let new = NewUpload { about: about!(input)?, checksum };
    let (id, seq) = act.create_upload(new).await?;
    let output = CreateMultipartUploadOutput {
        bucket: Some(input.bucket.clone()),
        key: sayable(input.key.clone()),
        upload_id: Some(id.to_string()),
        checksum_algorithm: checksum.map(|(a, _)| ChecksumAlgorithm::from(a.name().to_owned())),
        checksum_type: checksum.map(|(_, composite)| kind_of_checksum(composite)),
        server_side_encryption: input.server_side_encryption.clone(),
        ..CreateMultipartUploadOutput::default()
    };
    Ok((output, seq))
}

pub(super) async fn upload_part(act: Act, mut req: S3Request<UploadPartInput>) -> Answered<UploadPartOutput> {
    let body = req.input.body.take();
    let trailers = req.trailing_headers.take();
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    no_client_keys(input.sse_customer_algorithm.is_some() || input.sse_customer_key.is_some())?;
    let said = said!(req, trailers)?;
    let sent = !said.sums.is_empty() || said.trailer_names.iter().any(|n| trailer_algorithm(n).is_some());
    let upload = upload_ref(&input.bucket, &input.key, &input.upload_id);
    let (part, _, seq) = act.upload_part(&upload, part_number(input.part_number)?, said.of(body)?).await?;
    let mut output =
        UploadPartOutput { e_tag: Some(ETag::Strong(hex::encode(part.md5))), ..UploadPartOutput::default() };
    put_checksums!(output, part.checksum.iter().filter(|_| sent));
    Ok((output, seq))
}

pub(super) async fn upload_part_copy(act: Act, req: S3Request<UploadPartCopyInput>) -> Answered<UploadPartCopyOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    expected_owner(&act, input.expected_source_bucket_owner.as_ref())?;
    no_client_keys(input.sse_customer_algorithm.is_some() || input.copy_source_sse_customer_algorithm.is_some())?;
    let source = copy_source!(input)?;
    not_empty(&req.headers)?;
    let from = PartFrom { source, range: input.copy_source_range.as_deref().map(copy_range).transpose()? };
    let upload = upload_ref(&input.bucket, &input.key, &input.upload_id);
    let (part, seq, source) = act.upload_part_copy(&upload, part_number(input.part_number)?, from).await?;
    let result = CopyPartResult {
        e_tag: Some(ETag::Strong(hex::encode(part.md5))),
        last_modified: Some(timestamp(part.created_ms)),
        ..CopyPartResult::default()
    };
    let output = UploadPartCopyOutput {
        copy_part_result: Some(result),
        copy_source_version_id: (!source.null_version).then(|| version_name(&source)),
        ..UploadPartCopyOutput::default()
    };
    Ok((output, seq))
}

pub(super) async fn complete_multipart_upload(
    act: Act,
    req: S3Request<CompleteMultipartUploadInput>,
) -> Answered<CompleteMultipartUploadOutput> {
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
        key: sayable(input.key.clone()),
        location: sayable(format!("/{}/{}", input.bucket, input.key)),
        e_tag: Some(etag(version)),
        ..CompleteMultipartUploadOutput::default()
    };
    put_checksums!(output, &version.checksums);
    output.checksum_type = checksum_type(&version.checksums);
    Ok((output, completed.seq))
}

pub(super) async fn abort_multipart_upload(
    act: Act,
    req: S3Request<AbortMultipartUploadInput>,
) -> Answered<AbortMultipartUploadOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    unsupported(&[("If-Match on the initiation time", input.if_match_initiated_time.is_some())])?;
    let seq = act.abort_upload(&upload_ref(&input.bucket, &input.key, &input.upload_id)).await?;
    Ok((AbortMultipartUploadOutput::default(), seq))
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

fn checksum_of_upload(input: &CreateMultipartUploadInput) -> Result<Option<(Algorithm, bool)>, Refused> {
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
        None => algorithm != Algorithm::Crc64Nvme,
        Some(_) => return Err(Refused::new("InvalidRequest", "value for x-amz-checksum-type header is invalid")),
    };
    let possible = if composite { algorithm != Algorithm::Crc64Nvme } else { !algorithm.is_digest() };
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
