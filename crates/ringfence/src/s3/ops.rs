//! The operations: S3's inputs into a flow's arguments, its result into S3's
//! outputs. What has no method here answers `NotImplemented`.

mod buckets;
mod given;
mod listings;
mod objects;
mod uploads;

use std::sync::Arc;

use ringfence_format::record::Seq;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::scope::Scope;
use crate::flows::{Act, Refused, Unrecorded};
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

/// The library answers 200 where S3 answers 204.
fn no_content<T>(mut response: S3Response<T>) -> S3Response<T> {
    response.status = Some(http::StatusCode::NO_CONTENT);
    response
}

#[async_trait::async_trait]
impl S3 for Ops {
    async fn list_buckets(&self, req: S3Request<ListBucketsInput>) -> S3Result<S3Response<ListBucketsOutput>> {
        self.run(scope_of(&req), |act| buckets::list_buckets(act, req)).await
    }

    async fn create_bucket(&self, req: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.run(scope_of(&req), |act| buckets::create_bucket(act, req)).await
    }

    async fn delete_bucket(&self, req: S3Request<DeleteBucketInput>) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.run(scope_of(&req), |act| buckets::delete_bucket(act, req)).await.map(no_content)
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.run(scope_of(&req), |act| buckets::head_bucket(act, req)).await
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.run(scope_of(&req), |act| buckets::get_bucket_location(act, req)).await
    }

    async fn get_bucket_tagging(
        &self,
        req: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        self.run(scope_of(&req), |act| buckets::get_bucket_tagging(act, req)).await
    }

    async fn put_bucket_tagging(
        &self,
        req: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        self.run(scope_of(&req), |act| buckets::put_bucket_tagging(act, req)).await.map(no_content)
    }

    async fn delete_bucket_tagging(
        &self,
        req: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        self.run(scope_of(&req), |act| buckets::delete_bucket_tagging(act, req)).await.map(no_content)
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.run(scope_of(&req), |act| objects::put_object(act, req)).await
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.run(scope_of(&req), |act| objects::get_object(act, req)).await
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        self.run(scope_of(&req), |act| objects::head_object(act, req)).await
    }

    async fn copy_object(&self, req: S3Request<CopyObjectInput>) -> S3Result<S3Response<CopyObjectOutput>> {
        self.run(scope_of(&req), |act| objects::copy_object(act, req)).await
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.run(scope_of(&req), |act| objects::delete_object(act, req)).await
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.run(scope_of(&req), |act| objects::delete_objects(act, req)).await
    }

    async fn list_objects(&self, req: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        self.run(scope_of(&req), |act| listings::list_objects(act, req)).await
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.run(scope_of(&req), |act| listings::list_objects_v2(act, req)).await
    }

    async fn list_object_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        self.run(scope_of(&req), |act| listings::list_object_versions(act, req)).await
    }

    async fn get_object_tagging(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        self.run(scope_of(&req), |act| objects::get_object_tagging(act, req)).await
    }

    async fn put_object_tagging(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        self.run(scope_of(&req), |act| objects::put_object_tagging(act, req)).await
    }

    async fn delete_object_tagging(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        self.run(scope_of(&req), |act| objects::delete_object_tagging(act, req)).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.run(scope_of(&req), |act| uploads::create_multipart_upload(act, req)).await
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        self.run(scope_of(&req), |act| uploads::upload_part(act, req)).await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        self.run(scope_of(&req), |act| uploads::upload_part_copy(act, req)).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.run(scope_of(&req), |act| uploads::complete_multipart_upload(act, req)).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.run(scope_of(&req), |act| uploads::abort_multipart_upload(act, req)).await
    }

    async fn list_parts(&self, req: S3Request<ListPartsInput>) -> S3Result<S3Response<ListPartsOutput>> {
        self.run(scope_of(&req), |act| listings::list_parts(act, req)).await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        self.run(scope_of(&req), |act| listings::list_multipart_uploads(act, req)).await
    }
}
