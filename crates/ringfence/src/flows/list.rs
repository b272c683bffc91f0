//! Listings: names are data, so each page is on record, with a digest of the
//! names it gave out, before it is answered.

use aws_lc_rs::digest::{Context, SHA256};
use ringfence_access::Permit;
use ringfence_access::permit::List;
use ringfence_format::record::Seq;
use ringfence_format::redo::{Upload, UploadPart};
use ringfence_store::{Page, Query};

use super::multipart::UploadRef;
use super::{Act, Refused};

/// A page of objects or versions and the record of it.
pub type Listing = (Page, Seq);
/// A page of uploads and the record of it.
pub type Uploads = (Page<Upload>, Seq);

impl Act {
    /// A page of current objects.
    pub async fn list(&self, op: &'static str, bucket: &str, query: &Query<'_>) -> Result<Listing, Refused> {
        let bucket = self.bucket(bucket)?;
        let permit: Permit<List> = self.may(self.on_bucket(op, &bucket))?;
        let page = self.at.catalog().list_page(&bucket.id, query)?;
        let seq = self
            .record_names(permit, query, page.contents.iter().map(|line| line.key.as_str()), &page.common_prefixes)
            .await?;
        Ok((page, seq))
    }

    /// A page of versions.
    pub async fn list_versions(&self, bucket: &str, query: &Query<'_>) -> Result<Listing, Refused> {
        let bucket = self.bucket(bucket)?;
        let permit: Permit<List> = self.may(self.on_bucket("s3:ListObjectVersions", &bucket))?;
        let page = self.at.catalog().list_versions(&bucket.id, query)?;
        let seq = self
            .record_names(permit, query, page.contents.iter().map(|line| line.key.as_str()), &page.common_prefixes)
            .await?;
        Ok((page, seq))
    }

    /// A page of multipart uploads under way.
    pub async fn list_uploads(&self, bucket: &str, query: &Query<'_>) -> Result<Uploads, Refused> {
        let bucket = self.bucket(bucket)?;
        let permit: Permit<List> = self.may(self.on_bucket("s3:ListMultipartUploads", &bucket))?;
        let page = self.at.catalog().list_uploads(&bucket.id, query)?;
        let names = page.contents.iter().map(|upload| upload.version.key.as_str());
        let seq = self.record_names(permit, query, names, &page.common_prefixes).await?;
        Ok((page, seq))
    }

    /// Parts of an upload with numbers above `after`; one more than `max`
    /// says that there are more.
    pub async fn list_parts(
        &self,
        upload: &UploadRef,
        after: u32,
        max: usize,
    ) -> Result<(Upload, Vec<UploadPart>, Seq), Refused> {
        let (bucket, begun) = self.upload(upload)?;
        let key = begun.version.key.clone();
        let ask = self.on_bucket("s3:ListParts", &bucket).record(|resource| resource.key = Some(key));
        let permit: Permit<List> = self.may(ask)?;
        let parts = self.at.catalog().list_parts(&begun.id, after, max + 1)?;
        let permit = permit.record(|resource| resource.count = Some(parts.len().min(max) as u64));
        let seq = self.record(permit).await?.index();
        Ok((begun, parts, seq))
    }

    async fn record_names<'a>(
        &self,
        permit: Permit<List>,
        query: &Query<'_>,
        names: impl Iterator<Item = &'a str>,
        prefixes: &'a [String],
    ) -> Result<Seq, Refused> {
        let names: Vec<&str> = names.chain(prefixes.iter().map(String::as_str)).collect();
        let permit = permit.record(|resource| {
            resource.prefix = (!query.prefix.is_empty()).then(|| query.prefix.to_owned());
            resource.detail = (!query.after.key.is_empty()).then(|| format!("after {}", query.after.key));
            resource.count = Some(names.len() as u64);
            resource.names_sha256 = Some(names_digest(names.into_iter()));
        });
        Ok(self.record(permit).await?.index())
    }
}

/// SHA-256 over the names, each followed by a zero byte.
pub(super) fn names_digest<'a>(names: impl Iterator<Item = &'a str>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for name in names {
        context.update(name.as_bytes());
        context.update(&[0]);
    }
    context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
