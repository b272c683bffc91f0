//! The AWS SDK for Rust, as any application would use it.

use std::fmt;
use std::path::Path;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};

use crate::cli::{Failure, Kind};

/// A client of one endpoint.
pub struct Client(aws_sdk_s3::Client);

/// An answer that was not a success.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub message: String,
    pub request_id: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl<E: ProvideErrorMetadata + RequestId> From<SdkError<E>> for Refusal {
    fn from(error: SdkError<E>) -> Self {
        Self {
            status: error.raw_response().map_or(0, |raw| raw.status().as_u16()),
            code: error.code().unwrap_or("no answer").to_owned(),
            message: error.message().map_or_else(|| error.to_string(), str::to_owned),
            request_id: error.request_id().unwrap_or_default().to_owned(),
        }
    }
}

impl Client {
    /// With the profile `default` of a credentials file.
    pub fn new(endpoint: &str, credentials: &Path) -> Result<Self, Failure> {
        let (id, secret) = read_profile(credentials)?;
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(endpoint)
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(Credentials::new(id, secret, None, None, "ringfence demo"))
            .build();
        Ok(Self(aws_sdk_s3::Client::from_conf(config)))
    }

    pub async fn create_bucket(&self, bucket: &str, site: Option<&str>) -> Result<(), Refusal> {
        let pin = site.map(|site| {
            CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(site)).build()
        });
        self.0.create_bucket().bucket(bucket).set_create_bucket_configuration(pin).send().await?;
        Ok(())
    }

    /// Returns the request id.
    pub async fn put_file(&self, bucket: &str, key: &str, path: &Path, label: &str) -> Result<String, Refusal> {
        let body = ByteStream::from_path(path).await.map_err(|e| Refusal {
            status: 0,
            code: "no file".to_owned(),
            message: e.to_string(),
            request_id: String::new(),
        })?;
        self.put(bucket, key, body, label).await
    }

    /// Returns the request id.
    pub async fn put_text(&self, bucket: &str, key: &str, label: &str) -> Result<String, Refusal> {
        let text = format!("this text is {label}\n");
        self.put(bucket, key, ByteStream::from(text.into_bytes()), label).await
    }

    async fn put(&self, bucket: &str, key: &str, body: ByteStream, label: &str) -> Result<String, Refusal> {
        let put = self.0.put_object().bucket(bucket).key(key).tagging(tag(label)).body(body);
        let answer = put.send().await?;
        Ok(answer.request_id().unwrap_or_default().to_owned())
    }

    pub async fn copy(&self, from: &str, bucket: &str, key: &str) -> Result<(), Refusal> {
        self.0.copy_object().copy_source(from).bucket(bucket).key(key).send().await?;
        Ok(())
    }

    pub async fn begin_multipart(&self, bucket: &str, key: &str, label: &str) -> Result<(), Refusal> {
        self.0.create_multipart_upload().bucket(bucket).key(key).tagging(tag(label)).send().await?;
        Ok(())
    }
}

fn tag(label: &str) -> String {
    format!("{}={label}", ringfence_access::LABEL_TAG)
}

fn read_profile(file: &Path) -> Result<(String, String), Failure> {
    let failed = |why: &dyn fmt::Display| {
        Failure::new(Kind::Unavailable, format!("no credentials in `{}`: {why}", file.display()))
            .next("issue some with `ringfence key add --name demo`")
    };
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(file).map_err(|e| failed(&e))?);
    let mut lines = text.lines().skip_while(|line| line.trim() != "[default]").skip(1);
    let mut value = |name: &str| {
        let line = lines.find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim_start().strip_prefix('=')).map(|value| value.trim().to_owned())
    };
    let id = value("aws_access_key_id").ok_or_else(|| failed(&"profile `default` has no key id"))?;
    let secret = value("aws_secret_access_key").ok_or_else(|| failed(&"profile `default` has no secret"))?;
    Ok((id, secret))
}

/// Tells the buckets of two demos apart.
pub fn random_tag() -> Result<String, Failure> {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::internal("the operating system gives no random numbers"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
