//! Buckets: their place, their tags.

use ringfence_format::limits;
use ringfence_format::redo::Pairs;
use s3s::S3Request;
use s3s::dto::*;

use super::super::convert::*;
use super::Answered;
use super::given::*;
use crate::flows::{Act, NewBucket, Refused};

pub(super) async fn list_buckets(act: Act, req: S3Request<ListBucketsInput>) -> Answered<ListBucketsOutput> {
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
}

pub(super) async fn create_bucket(act: Act, req: S3Request<CreateBucketInput>) -> Answered<CreateBucketOutput> {
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
    Ok((CreateBucketOutput { location: Some(format!("/{}", input.bucket)), ..CreateBucketOutput::default() }, seq))
}

pub(super) async fn delete_bucket(act: Act, req: S3Request<DeleteBucketInput>) -> Answered<DeleteBucketOutput> {
    expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
    let seq = act.delete_bucket(&req.input.bucket).await?;
    Ok((DeleteBucketOutput::default(), seq))
}

pub(super) async fn head_bucket(act: Act, req: S3Request<HeadBucketInput>) -> Answered<HeadBucketOutput> {
    expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
    let (bucket, seq) = act.see_bucket("s3:HeadBucket", &req.input.bucket).await?;
    let region = bucket.pin.as_ref().map_or_else(|| "us-east-1".to_owned(), ToString::to_string);
    Ok((HeadBucketOutput { bucket_region: Some(region), ..HeadBucketOutput::default() }, seq))
}

pub(super) async fn get_bucket_location(
    act: Act,
    req: S3Request<GetBucketLocationInput>,
) -> Answered<GetBucketLocationOutput> {
    expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
    let (bucket, seq) = act.see_bucket("s3:GetBucketLocation", &req.input.bucket).await?;
    let location = bucket.pin.as_ref().map(|site| BucketLocationConstraint::from(site.to_string()));
    Ok((GetBucketLocationOutput { location_constraint: location }, seq))
}

pub(super) async fn get_bucket_tagging(
    act: Act,
    req: S3Request<GetBucketTaggingInput>,
) -> Answered<GetBucketTaggingOutput> {
    expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
    let (bucket, seq) = act.see_bucket("s3:GetBucketTagging", &req.input.bucket).await?;
    if bucket.tags.is_empty() {
        let mut refused = Refused::new("NoSuchTagSet", "the bucket has no tags");
        refused.recorded = Some(seq);
        return Err(refused);
    }
    Ok((GetBucketTaggingOutput { tag_set: tags_of(&bucket.tags) }, seq))
}

pub(super) async fn put_bucket_tagging(
    act: Act,
    req: S3Request<PutBucketTaggingInput>,
) -> Answered<PutBucketTaggingOutput> {
    expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
    let tags = tag_set(req.input.tagging.tag_set.clone(), limits::BUCKET_TAGS_MAX)?;
    let seq = act.tag_bucket("s3:PutBucketTagging", &req.input.bucket, tags).await?;
    Ok((PutBucketTaggingOutput::default(), seq))
}

pub(super) async fn delete_bucket_tagging(
    act: Act,
    req: S3Request<DeleteBucketTaggingInput>,
) -> Answered<DeleteBucketTaggingOutput> {
    expected_owner(&act, req.input.expected_bucket_owner.as_ref())?;
    let seq = act.tag_bucket("s3:DeleteBucketTagging", &req.input.bucket, Pairs::new()).await?;
    Ok((DeleteBucketTaggingOutput::default(), seq))
}
