//! Listings: a page of names, and where the next one begins.

use ringfence_format::names::{UploadId, VersionUid};
use ringfence_store::{After, AfterId, Listed, Page, Query};
use s3s::S3Request;
use s3s::dto::*;

use super::super::convert::*;
use super::Answered;
use super::given::*;
use crate::flows::{Act, Refused};

pub(super) async fn list_objects(act: Act, req: S3Request<ListObjectsInput>) -> Answered<ListObjectsOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let asked = asked!(input, input.max_keys, After::key(input.marker.clone().unwrap_or_default()))?;
    let (page, seq) = act.list("s3:ListObjects", &input.bucket, &asked.query).await?;
    let owner = owner(act.caller.tenant());
    let objects = page.contents.iter().map(|line| object(line, &asked.encode, Some(owner.clone())));
    let output = ListObjectsOutput {
        name: Some(input.bucket.clone()),
        prefix: asked.prefix()?,
        marker: asked.marker()?,
        max_keys: asked.max(),
        is_truncated: Some(page.next.is_some()),
        // S3 tells it only where a delimiter was given: without one the last
        // key says it.
        next_marker: page.next.as_ref().filter(|_| asked.is_delimited()).map(|n| asked.name(&n.key)).transpose()?,
        delimiter: asked.delimiter()?,
        encoding_type: input.encoding_type.clone(),
        common_prefixes: asked.prefixes(&page.common_prefixes)?,
        contents: some(objects.collect::<Result<_, _>>()?),
        ..ListObjectsOutput::default()
    };
    Ok((output, seq))
}

pub(super) async fn list_objects_v2(act: Act, req: S3Request<ListObjectsV2Input>) -> Answered<ListObjectsV2Output> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let after = match &input.continuation_token {
        Some(token) if token.is_empty() => {
            return Err(Refused::new("InvalidArgument", "the continuation token provided is incorrect"));
        }
        Some(token) => token_key(token)?,
        None => input.start_after.clone().unwrap_or_default(),
    };
    let asked = asked!(input, input.max_keys, After::key(after))?;
    let (page, seq) = act.list("s3:ListObjectsV2", &input.bucket, &asked.query).await?;
    let owner = (input.fetch_owner == Some(true)).then(|| owner(act.caller.tenant()));
    let objects = page.contents.iter().map(|line| object(line, &asked.encode, owner.clone()));
    let output = ListObjectsV2Output {
        name: Some(input.bucket.clone()),
        prefix: asked.prefix()?,
        max_keys: asked.max(),
        key_count: Some((page.contents.len() + page.common_prefixes.len()) as i32),
        continuation_token: input.continuation_token.clone(),
        is_truncated: Some(page.next.is_some()),
        next_continuation_token: page.next.as_ref().map(|next| token(&next.key)),
        delimiter: asked.delimiter()?,
        encoding_type: input.encoding_type.clone(),
        start_after: input.start_after.as_deref().map(|after| asked.name(after)).transpose()?,
        common_prefixes: asked.prefixes(&page.common_prefixes)?,
        contents: some(objects.collect::<Result<_, _>>()?),
        ..ListObjectsV2Output::default()
    };
    Ok((output, seq))
}

pub(super) async fn list_object_versions(
    act: Act,
    req: S3Request<ListObjectVersionsInput>,
) -> Answered<ListObjectVersionsOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let id = match input.version_id_marker.as_deref().filter(|id| !id.is_empty()) {
        None => None,
        Some("null") => Some(AfterId::Null),
        Some(text) => Some(AfterId::Version(
            VersionUid::from_hex(text)
                .ok_or_else(|| Refused::new("InvalidArgument", "invalid version id specified"))?,
        )),
    };
    if id.is_some() && input.key_marker.is_none() {
        return Err(Refused::new("InvalidArgument", "a version-id marker cannot be specified without a key marker"));
    }
    let after = After { key: input.key_marker.clone().unwrap_or_default(), id };
    let asked = asked!(input, input.max_keys, after)?;
    let (page, seq) = act.list_versions(&input.bucket, &asked.query).await?;
    Ok((versions(&act, input, &asked, &page)?, seq))
}

pub(super) async fn list_multipart_uploads(
    act: Act,
    req: S3Request<ListMultipartUploadsInput>,
) -> Answered<ListMultipartUploadsOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    // S3: without a key marker, the upload id marker is ignored.
    let id = input.key_marker.as_ref().and(input.upload_id_marker.as_deref()).filter(|id| !id.is_empty());
    let id = id.map(|id| {
        UploadId::from_hex(id)
            .map(AfterId::Upload)
            .ok_or_else(|| Refused::new("InvalidArgument", "invalid uploadId marker"))
    });
    let after = After { key: input.key_marker.clone().unwrap_or_default(), id: id.transpose()? };
    let asked = asked!(input, input.max_uploads, after)?;
    let (page, seq) = act.list_uploads(&input.bucket, &asked.query).await?;
    let owner = owner(act.caller.tenant());
    let uploads = page.contents.iter().map(|upload| {
        Ok(MultipartUpload {
            key: Some(asked.name(upload.version.key.as_str())?),
            upload_id: Some(upload.id.to_string()),
            initiated: Some(timestamp(upload.version.created_ms)),
            owner: Some(owner.clone()),
            initiator: Some(initiator(&act)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            checksum_algorithm: upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
            ..MultipartUpload::default()
        })
    });
    let output = ListMultipartUploadsOutput {
        bucket: Some(input.bucket.clone()),
        prefix: asked.prefix()?,
        delimiter: asked.delimiter()?,
        key_marker: asked.marker()?,
        upload_id_marker: sayable(input.upload_id_marker.clone().unwrap_or_default()),
        next_key_marker: page.next.as_ref().map(|next| asked.name(&next.key)).transpose()?,
        next_upload_id_marker: page.next.as_ref().and_then(|next| next.id).map(id_text),
        max_uploads: asked.max(),
        is_truncated: Some(page.next.is_some()),
        encoding_type: input.encoding_type.clone(),
        common_prefixes: asked.prefixes(&page.common_prefixes)?,
        uploads: some(uploads.collect::<Result<_, Refused>>()?),
        ..ListMultipartUploadsOutput::default()
    };
    Ok((output, seq))
}

pub(super) async fn list_parts(act: Act, req: S3Request<ListPartsInput>) -> Answered<ListPartsOutput> {
    let input = &req.input;
    expected_owner(&act, input.expected_bucket_owner.as_ref())?;
    let max = page_size(input.max_parts)?;
    let after = u32::try_from(input.part_number_marker.unwrap_or(0)).unwrap_or(0);
    let named = upload_ref(&input.bucket, &input.key, &input.upload_id);
    let (upload, mut rows, seq) = act.list_parts(&named, after, max).await?;
    let more = rows.len() > max;
    rows.truncate(max);
    let parts: Vec<Part> = rows.iter().map(|row| listed_part(&row.part, upload.checksum_algorithm.is_some())).collect();
    let output = ListPartsOutput {
        bucket: Some(input.bucket.clone()),
        key: sayable(input.key.clone()),
        upload_id: Some(upload.id.to_string()),
        part_number_marker: Some(after as i32),
        next_part_number_marker: rows.last().map(|row| row.part.number as i32),
        max_parts: Some(max as i32),
        is_truncated: Some(more),
        parts: some(parts),
        initiator: Some(initiator(&act)),
        owner: Some(owner(act.caller.tenant())),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        checksum_algorithm: upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
        ..ListPartsOutput::default()
    };
    Ok((output, seq))
}

/// What listings of names are asked alike, and say again in their answers.
struct Asked<'a> {
    encode: Encode,
    query: Query<'a>,
}

/// The fields have the same names in unrelated types.
macro_rules! asked {
    ($input:expr, $max:expr, $after:expr) => {
        Encode::asked($input.encoding_type.as_ref()).and_then(|encode| {
            let query = Query {
                prefix: $input.prefix.as_deref().unwrap_or_default(),
                delimiter: $input.delimiter.as_deref().unwrap_or_default(),
                after: $after,
                max: page_size($max)?,
            };
            Ok(Asked { encode, query })
        })
    };
}
use asked;

impl Asked<'_> {
    fn name(&self, name: &str) -> Result<String, Refused> {
        self.encode.name(name)
    }

    fn prefix(&self) -> Result<Option<String>, Refused> {
        self.name(self.query.prefix).map(Some)
    }

    fn marker(&self) -> Result<Option<String>, Refused> {
        self.name(&self.query.after.key).map(Some)
    }

    fn is_delimited(&self) -> bool {
        !self.query.delimiter.is_empty()
    }

    fn delimiter(&self) -> Result<Option<String>, Refused> {
        self.is_delimited().then(|| self.name(self.query.delimiter)).transpose()
    }

    fn max(&self) -> Option<i32> {
        i32::try_from(self.query.max).ok()
    }

    fn prefixes(&self, given: &[String]) -> Result<Option<Vec<CommonPrefix>>, Refused> {
        let prefixes = given.iter().map(|prefix| Ok(CommonPrefix { prefix: Some(self.name(prefix)?) }));
        prefixes.collect::<Result<_, Refused>>().map(some)
    }
}

fn object(line: &Listed, encode: &Encode, owner: Option<Owner>) -> Result<Object, Refused> {
    Ok(Object {
        key: Some(encode.name(line.key.as_str())?),
        e_tag: Some(ETag::Strong(line.etag.clone())),
        last_modified: Some(timestamp(line.created_ms)),
        size: Some(int(line.size)),
        storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        owner,
        checksum_algorithm: line.checksum.as_ref().map(|(name, _)| vec![ChecksumAlgorithm::from(name.clone())]),
        checksum_type: line.checksum.as_ref().map(|(_, composite)| kind_of_checksum(*composite)),
        ..Object::default()
    })
}

fn versions(
    act: &Act,
    input: &ListObjectVersionsInput,
    asked: &Asked<'_>,
    page: &Page,
) -> Result<ListObjectVersionsOutput, Refused> {
    let owner = owner(act.caller.tenant());
    let id = |line: &Listed| Some(if line.null_version { "null".to_owned() } else { line.uid.to_string() });
    let (markers, versions): (Vec<_>, Vec<_>) = page.contents.iter().partition(|line| line.delete_marker);
    let versions = versions.into_iter().map(|line| {
        Ok(ObjectVersion {
            key: Some(asked.name(line.key.as_str())?),
            e_tag: Some(ETag::Strong(line.etag.clone())),
            is_latest: Some(line.latest),
            last_modified: Some(timestamp(line.created_ms)),
            size: Some(int(line.size)),
            version_id: id(line),
            owner: Some(owner.clone()),
            storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
            ..ObjectVersion::default()
        })
    });
    let markers = markers.into_iter().map(|line| {
        Ok(DeleteMarkerEntry {
            key: Some(asked.name(line.key.as_str())?),
            is_latest: Some(line.latest),
            last_modified: Some(timestamp(line.created_ms)),
            version_id: id(line),
            owner: Some(owner.clone()),
        })
    });
    Ok(ListObjectVersionsOutput {
        name: Some(input.bucket.clone()),
        prefix: asked.prefix()?,
        delimiter: asked.delimiter()?,
        key_marker: asked.marker()?,
        version_id_marker: Some(input.version_id_marker.clone().unwrap_or_default()),
        max_keys: asked.max(),
        is_truncated: Some(page.next.is_some()),
        next_key_marker: page.next.as_ref().map(|next| asked.name(&next.key)).transpose()?,
        next_version_id_marker: page.next.as_ref().and_then(|next| next.id).map(id_text),
        encoding_type: input.encoding_type.clone(),
        common_prefixes: asked.prefixes(&page.common_prefixes)?,
        versions: some(versions.collect::<Result<_, Refused>>()?),
        delete_markers: some(markers.collect::<Result<_, Refused>>()?),
        ..ListObjectVersionsOutput::default()
    })
}

fn initiator(act: &Act) -> Initiator {
    let tenant = act.caller.tenant().to_string();
    Initiator { id: Some(tenant.clone()), display_name: Some(tenant) }
}

fn id_text(id: AfterId) -> String {
    match id {
        AfterId::Null => "null".to_owned(),
        AfterId::Version(uid) => uid.to_string(),
        AfterId::Upload(id) => id.to_string(),
    }
}

fn listed_part(part: &ringfence_format::redo::Part, checksums: bool) -> Part {
    let mut listed = Part {
        part_number: Some(part.number as i32),
        e_tag: Some(ETag::Strong(hex::encode(part.md5))),
        size: Some(int(part.plain_len)),
        last_modified: Some(timestamp(part.created_ms)),
        ..Part::default()
    };
    put_checksums!(listed, part.checksum.iter().filter(|_| checksums));
    listed
}
