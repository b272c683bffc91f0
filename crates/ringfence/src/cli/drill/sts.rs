//! STS and S3 as a client sees them: one request, one answer.

use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;

use crate::cli::demo::Refusal;
use crate::cli::{Failure, Kind};

/// What a client is given for evidence.
#[derive(Clone)]
pub struct Session {
    pub access_key_id: String,
    pub secret: String,
    pub token: String,
}

/// One endpoint, for both services.
pub struct Endpoint {
    pub url: String,
    http: reqwest::Client,
}

impl Endpoint {
    pub fn new(url: &str) -> Result<Self, Failure> {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build();
        let http = http.map_err(|e| Failure::internal(format!("no HTTP client: {e}")))?;
        Ok(Self { url: url.to_owned(), http })
    }

    /// `AssumeRoleWithWebIdentity`.
    pub async fn exchange(&self, evidence: &str, tenant: &str, role: &str) -> Result<Session, Refusal> {
        let arn = format!("arn:ringfence:iam::{tenant}:role/{role}");
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", arn.as_str()),
            ("RoleSessionName", "drill"),
            ("WebIdentityToken", evidence),
        ];
        let body: Vec<String> = form.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let sent = self
            .http
            .post(&self.url)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"))
            .send()
            .await;
        let answer = sent.map_err(|e| broken(&e))?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|e| broken(&e))?;
        let element = |name: &str| element(&text, name);
        match (status, element("AccessKeyId"), element("SecretAccessKey"), element("SessionToken")) {
            (200, Some(access_key_id), Some(secret), Some(token)) => Ok(Session { access_key_id, secret, token }),
            _ => Err(Refusal {
                status,
                code: element("Code").unwrap_or_else(|| "no answer".to_owned()),
                message: element("Message").unwrap_or_default(),
                request_id: element("RequestId").unwrap_or_default(),
            }),
        }
    }

    /// An S3 client with these credentials, through the AWS SDK.
    pub fn s3(&self, session: &Session) -> S3 {
        let Session { access_key_id, secret, token } = session.clone();
        let token = (!token.is_empty()).then_some(token);
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .endpoint_url(&self.url)
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .credentials_provider(Credentials::new(access_key_id, secret, token, None, "ringfence drill"))
            .build();
        S3(aws_sdk_s3::Client::from_conf(config))
    }
}

/// S3 with one set of credentials.
pub struct S3(aws_sdk_s3::Client);

impl S3 {
    pub async fn make_bucket(&self, bucket: &str) -> Result<(), Refusal> {
        self.0.create_bucket().bucket(bucket).send().await?;
        Ok(())
    }

    pub async fn put(&self, bucket: &str, key: &str, body: &str) -> Result<(), Refusal> {
        let body = ByteStream::from(body.as_bytes().to_vec());
        self.0.put_object().bucket(bucket).key(key).body(body).send().await?;
        Ok(())
    }

    pub async fn get(&self, bucket: &str, key: &str) -> Result<String, Refusal> {
        let answer = self.0.get_object().bucket(bucket).key(key).send().await?;
        let body = answer.body.collect().await.map_err(|e| broken(&e))?;
        Ok(String::from_utf8_lossy(&body.into_bytes()).into_owned())
    }
}

fn broken(error: &dyn std::fmt::Display) -> Refusal {
    let (code, message) = ("no answer".to_owned(), error.to_string());
    Refusal { status: 0, code, message, request_id: String::new() }
}

/// The text of the first element of this name; our answers nest none twice.
fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once(&format!("</{name}>"))?;
    Some(text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&"))
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What a drill cannot do without.
pub fn must<T>(what: &str, done: Result<T, Refusal>) -> Result<T, Failure> {
    done.map_err(|refusal| {
        Failure::new(Kind::Unavailable, format!("the drill cannot begin: {what}: {refusal}"))
            .next("a drill needs an installation that honest sessions work on: see `ringfence status`")
    })
}
