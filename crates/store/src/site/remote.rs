//! An object store behind a network: any S3, Azure Blob, Google Cloud Storage.
//!
//! OpenDAL speaks the protocols; this file decides when to try again. It asks
//! for five one-shot operations only — write a whole object, read a range,
//! stat, delete, list — because each of them can be repeated: names are never
//! used twice, so a write that failed but happened is repeated with the same
//! bytes. A `Writer` is never retried, since its buffer is gone after an error.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use opendal::{Buffer, ErrorKind, Operator, services};
use ringfence_format::limits;
use tokio::sync::Semaphore;

use super::{
    Listed, Patience, SiteCredential, SiteError, SiteInfo, Stat, Stored, checked_name, health::Health, pack::Item,
    probe, quirks, secret::Kind,
};

/// Ciphertext has no type; some services fail where none is given.
const CONTENT_TYPE: &str = "application/octet-stream";
/// Tenths of a retry: a success gives one back.
const TOKENS_PER_RETRY: u32 = 10;

/// Which protocol a remote site speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The S3 protocol, whoever speaks it.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage, its JSON API.
    Gcs,
}

/// Where a remote site is.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Which protocol.
    pub service: Service,
    /// `https://…`. May be left out for AWS and Google.
    pub endpoint: Option<String>,
    /// Bucket, or container at Azure.
    pub bucket: String,
    /// Everything lies below this prefix in the bucket; empty for its root.
    pub prefix: String,
    /// Region that requests are signed for; S3 only. Defaults to what
    /// [`quirks`] says of the provider.
    pub region: Option<String>,
}

/// An object store behind a network.
#[derive(Clone)]
pub struct RemoteSite {
    pub(in crate::site) info: Arc<SiteInfo>,
    pub(in crate::site) health: Arc<Health>,
    op: Operator,
    quirks: &'static quirks::Quirks,
    room: Arc<Semaphore>,
    budget: Arc<Budget>,
}

impl RemoteSite {
    /// Prepares the site; nothing is sent yet.
    pub fn open(info: SiteInfo, config: &RemoteConfig, credential: SiteCredential) -> Result<Self, SiteError> {
        let fail = |why: &str| SiteError::config(&info.id, why);
        if config.bucket.is_empty() {
            return Err(fail("`bucket` is empty"));
        }
        let quirks = quirks::of(&info.provider, config.service)
            .ok_or_else(|| fail(&format!("provider `{}` does not speak this protocol", info.provider)))?;
        if config.endpoint.is_none() && quirks.endpoint.is_none() {
            return Err(fail("`endpoint` is missing, and the provider has no usual one"));
        }
        // The library's HTTP client (reqwest over rustls), once per process.
        opendal::install_default();
        let op = operator(config, quirks, credential).map_err(|e| SiteError::config(&info.id, e.message()))?;
        let room = Arc::new(Semaphore::new(info.patience.concurrency_max.max(1) as usize));
        let budget = Arc::new(Budget::new(info.patience.retry_budget));
        let health = Health::new(&info.id, &info.patience, false);
        Ok(Self { info: Arc::new(info), health, op, quirks, room, budget })
    }

    pub(in crate::site) async fn put(&self, name: &str, parts: Vec<Bytes>) -> Result<Stored, SiteError> {
        let body = Buffer::from(parts);
        let write = || async { self.op.write_with(name, body.clone()).content_type(CONTENT_TYPE).await.map(drop) };
        self.repeat(name, write).await?;
        Ok(Stored { at: None })
    }

    /// One attempt with `If-None-Match: *` or what the service has for it.
    pub(in crate::site) async fn create_only(&self, name: &str, bytes: Bytes) -> Result<(), SiteError> {
        let write = self.op.write_with(name, bytes).content_type(CONTENT_TYPE).if_not_exists(true);
        match write.await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists) => {
                Err(SiteError::refused(&self.info.id, probe::NAME_TAKEN))
            }
            Err(e) => Err(self.sort(name, &e)),
        }
    }

    /// What is known of its provider.
    pub(in crate::site) fn quirks(&self) -> &'static quirks::Quirks {
        self.quirks
    }

    pub(in crate::site) async fn put_many(&self, items: Vec<Item>) -> Result<Vec<Stored>, SiteError> {
        let puts = items.into_iter().map(|item| async move { self.put(&item.name, item.parts).await });
        stream::iter(puts).buffered(self.concurrency()).try_collect().await
    }

    pub(in crate::site) async fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Bytes, SiteError> {
        let range = match range {
            Some(range) => range,
            None => 0..self.stat(name).await?.len,
        };
        if range.end > limits::CHUNK_BYTES_MAX as u64 {
            return Err(SiteError::corrupt(&self.info.id, name, "longer than any chunk"));
        }
        if range.is_empty() {
            // A range request cannot be empty; that it exists can be asked.
            return self.stat(name).await.map(|_| Bytes::new());
        }
        let wanted = (range.end - range.start) as usize;
        let bytes = self.repeat(name, || read(&self.op, name, range.clone())).await?;
        if bytes.len() != wanted {
            let why = format!("{} bytes came for {wanted}", bytes.len());
            return Err(SiteError::corrupt(&self.info.id, name, why));
        }
        Ok(bytes)
    }

    pub(in crate::site) async fn stat(&self, name: &str) -> Result<Stat, SiteError> {
        let meta = self.repeat(name, || self.op.stat(name)).await?;
        Ok(Stat { len: meta.content_length() })
    }

    pub(in crate::site) async fn delete_many<A>(&self, items: Vec<(String, A)>) -> Result<(), SiteError> {
        let deletes = items.into_iter().map(|(name, _)| async move {
            match self.repeat(&name, || self.op.delete(&name)).await {
                Err(SiteError::NotFound { .. }) => Ok(()),
                other => other,
            }
        });
        stream::iter(deletes).buffer_unordered(self.concurrency()).try_collect().await
    }

    /// One request that any healthy site answers: the beginning of a listing.
    pub(in crate::site) async fn touch(&self, prefix: &str) -> Result<(), SiteError> {
        let wait = self.info.patience.attempt_timeout;
        let look = async {
            let mut lister = self.op.lister_with(prefix).limit(1).await?;
            lister.try_next().await.map(drop)
        };
        match tokio::time::timeout(wait, look).await {
            Ok(Ok(())) => Ok(()),
            // Of a prefix: of a bucket it would be what `sort` makes of it.
            Ok(Err(e)) if e.kind() == ErrorKind::NotFound && !e.to_string().contains("NoSuchBucket") => Ok(()),
            Ok(Err(e)) => Err(self.sort(prefix, &e)),
            Err(_) => Err(SiteError::timeout(&self.info.id, wait)),
        }
    }

    pub(in crate::site) fn lister(&self, prefix: String) -> RemoteLister {
        RemoteLister { site: self.clone(), prefix, lister: None }
    }

    fn concurrency(&self) -> usize {
        // Half, so that one large call leaves room for others.
        (self.info.patience.concurrency_max as usize / 2).max(1)
    }

    /// One operation, tried until it succeeds, cannot succeed, or patience ends.
    async fn repeat<T, F>(&self, name: &str, mut attempt: impl FnMut() -> F) -> Result<T, SiteError>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        // Before and after the queue: what waits behind calls that all time out
        // is told so as soon as the site is given a rest.
        self.health.admit()?;
        let _room = self.room.acquire().await.expect("never closed");
        let patience = self.info.patience;
        for tried in 1.. {
            self.health.admit()?;
            let error = match tokio::time::timeout(patience.attempt_timeout, attempt()).await {
                Ok(Ok(value)) => {
                    self.budget.earn();
                    self.health.note(None);
                    return Ok(value);
                }
                Ok(Err(e)) => self.sort(name, &e),
                Err(_) => SiteError::timeout(&self.info.id, patience.attempt_timeout),
            };
            // Each attempt counts, so that a dead site is known by its first
            // calls and not after their patience.
            self.health.note(Some(&error));
            let over = tried >= patience.attempts_max || !error.is_retryable() || !self.budget.spend();
            if over {
                return Err(error);
            }
            metrics::counter!("ringfence_site_retries_total", "site" => self.info.id.to_string()).increment(1);
            tokio::time::sleep(pause(&patience, tried)).await;
        }
        unreachable!("the loop ends by returning")
    }

    /// By what the caller can do about it.
    fn sort(&self, name: &str, error: &opendal::Error) -> SiteError {
        let site = &self.info.id;
        let text = error.to_string();
        match error.kind() {
            ErrorKind::NotFound => SiteError::not_found(site, name),
            ErrorKind::RangeNotSatisfied => SiteError::corrupt(site, name, "shorter than what was stored"),
            ErrorKind::Unexpected if means_another_length(error.message(), &text) => {
                SiteError::corrupt(site, name, "not as long as what was stored")
            }
            ErrorKind::PermissionDenied => SiteError::refused(site, "permission denied"),
            ErrorKind::ConfigInvalid => SiteError::config(site, error.message()),
            ErrorKind::RateLimited => SiteError::Busy { site: site.clone() },
            _ if quirks::means_full(&text) => SiteError::Full { site: site.clone() },
            // Whatever an unknown failure is, the next attempt may find out more.
            ErrorKind::Unexpected | ErrorKind::Conflict => SiteError::retryable(site, outside(error)),
            _ => SiteError::refused(site, outside(error)),
        }
    }
}

/// Whether an answer was complete by its own account and yet not the range
/// that was asked for; a connection that was cut says something else. The
/// library has no kind for it, so its words are pinned with its version.
fn means_another_length(message: &str, text: &str) -> bool {
    matches!(message, "reader got too little data" | "reader got too much data")
        || message.starts_with("header content range is invalid")
        || text.contains("status: 416")
}

/// What an operator may see of an error: no URL, no header, no request id.
fn outside(error: &opendal::Error) -> String {
    format!("{}: {}", error.kind(), error.message())
}

/// Reads a range piece by piece, so that a site that sends more than was asked
/// for cannot fill our memory.
async fn read(op: &Operator, name: &str, range: Range<u64>) -> opendal::Result<Bytes> {
    let wanted = (range.end - range.start) as usize;
    let mut pieces = op.reader(name).await?.into_stream(range).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = pieces.try_next().await? {
        for part in piece {
            if bytes.is_empty() && part.len() == wanted {
                return Ok(part);
            }
            bytes.extend_from_slice(&part);
        }
        if bytes.len() > wanted {
            break;
        }
    }
    Ok(bytes.freeze())
}

/// Doubles from attempt to attempt, and is spread by up to a half so that
/// requests that failed together do not come back together.
fn pause(patience: &Patience, tried: u32) -> Duration {
    static STEP: AtomicU64 = AtomicU64::new(0);
    let longest = patience.backoff_min.saturating_mul(1 << (tried - 1).min(16)).min(patience.backoff_max);
    // A counter times the golden ratio spreads evenly and needs no randomness.
    let step = STEP.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    longest.mul_f64(0.5 + 0.5 * (step as f64 / u64::MAX as f64))
}

/// Retries that all operations of a site may spend together.
struct Budget {
    /// In tenths of a retry.
    left: AtomicU32,
    most: u32,
}

impl Budget {
    fn new(retries: u32) -> Self {
        let most = retries.saturating_mul(TOKENS_PER_RETRY);
        Self { left: AtomicU32::new(most), most }
    }
    fn spend(&self) -> bool {
        let take = |left: u32| left.checked_sub(TOKENS_PER_RETRY);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
    fn earn(&self) {
        let give = |left: u32| (left < self.most).then(|| left + 1);
        // Full already: nothing to give.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give);
    }
}

fn operator(
    config: &RemoteConfig,
    quirks: &quirks::Quirks,
    credential: SiteCredential,
) -> Result<Operator, opendal::Error> {
    let endpoint = config.endpoint.as_deref().or(quirks.endpoint);
    let root = format!("/{}", config.prefix.trim_matches('/'));
    let wrong = || opendal::Error::new(ErrorKind::ConfigInvalid, "the credential is of another kind of service");
    match (config.service, credential.0) {
        (Service::S3, kind @ (Kind::S3 { .. } | Kind::Anonymous)) => {
            let region = config.region.as_deref().unwrap_or(quirks.region);
            // Nothing is taken from the environment: a site's credential is
            // the one its configuration names, or none.
            let mut s3 = services::S3::default().root(&root).bucket(&config.bucket).region(region);
            s3 = s3.disable_config_load().disable_ec2_metadata();
            if let Some(endpoint) = endpoint {
                s3 = s3.endpoint(endpoint);
            }
            if quirks.style == quirks::Style::VirtualHost {
                s3 = s3.enable_virtual_host_style();
            }
            if let Some(algorithm) = quirks.upload_checksum {
                s3 = s3.checksum_algorithm(algorithm);
            }
            s3 = match kind {
                Kind::S3 { access_key, secret_key } => s3.access_key_id(&access_key).secret_access_key(&secret_key),
                _ => s3.skip_signature(),
            };
            Operator::new(s3)
        }
        (Service::Azure, kind @ (Kind::Azure { .. } | Kind::Anonymous)) => {
            let mut azure = services::Azblob::default().root(&root).container(&config.bucket);
            if let Some(endpoint) = endpoint {
                azure = azure.endpoint(endpoint);
            }
            azure = match kind {
                Kind::Azure { account, key } => azure.account_name(&account).account_key(&key),
                _ => azure.skip_signature(),
            };
            Operator::new(azure)
        }
        (Service::Gcs, kind @ (Kind::Gcs { .. } | Kind::Anonymous)) => {
            let mut gcs = services::Gcs::default().root(&root).bucket(&config.bucket);
            gcs = gcs.disable_config_load().disable_vm_metadata();
            if let Some(endpoint) = endpoint {
                gcs = gcs.endpoint(endpoint);
            }
            gcs = match kind {
                Kind::Gcs { service_account } => {
                    gcs.credential(&data_encoding::BASE64.encode(service_account.as_bytes()))
                }
                _ => gcs.skip_signature(),
            };
            Operator::new(gcs)
        }
        _ => Err(wrong()),
    }
}

/// Pages of a listing. The first page is asked for again when it fails; later
/// ones cannot be, because the continuation is the library's.
pub(in crate::site) struct RemoteLister {
    site: RemoteSite,
    prefix: String,
    lister: Option<opendal::Lister>,
}

impl RemoteLister {
    pub async fn next_page(&mut self) -> Result<Option<Vec<Listed>>, SiteError> {
        let site = &self.site;
        let mut lister = match self.lister.take() {
            Some(lister) => lister,
            None => {
                let list =
                    || async { site.op.lister_with(&self.prefix).recursive(true).limit(site.quirks.list_page).await };
                site.repeat(&self.prefix, list).await?
            }
        };
        let wait = site.info.patience.attempt_timeout;
        let mut page = Vec::new();
        while page.len() < site.quirks.list_page {
            let next = tokio::time::timeout(wait, lister.try_next()).await;
            let entry = match next {
                Err(_) => return Err(SiteError::timeout(&site.info.id, wait)),
                Ok(Err(e)) if e.kind() == ErrorKind::NotFound => break,
                Ok(entry) => entry.map_err(|e| site.sort(&self.prefix, &e))?,
            };
            let Some(entry) = entry else { break };
            page.extend(listed(site, &entry));
        }
        self.lister = Some(lister);
        Ok((!page.is_empty()).then_some(page))
    }
}

/// Directories and names that are not ours are left out.
fn listed(site: &RemoteSite, entry: &opendal::Entry) -> Option<Listed> {
    let meta = entry.metadata();
    if !meta.is_file() || checked_name(&site.info.id, entry.path()).is_err() {
        return None;
    }
    let modified = meta.last_modified().map(std::time::SystemTime::from);
    let modified_ms = modified.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_millis() as u64);
    Some(Listed { name: entry.path().to_owned(), len: meta.content_length(), modified_ms, at: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a request for `name` would go, without sending it.
    async fn address(provider: &str, endpoint: Option<&str>, region: &str) -> String {
        let id = ringfence_format::names::SiteId::parse("x").expect("a name");
        let info = SiteInfo::new(id, super::super::SiteKind::Public, "DE", provider);
        let config = RemoteConfig {
            service: Service::S3,
            endpoint: endpoint.map(str::to_owned),
            bucket: "chunks".into(),
            prefix: "/below/".into(),
            region: Some(region.into()),
        };
        let secret_key = zeroize::Zeroizing::new("secret".to_owned());
        let credential = SiteCredential(Kind::S3 { access_key: "key".into(), secret_key });
        let site = RemoteSite::open(info, &config, credential).expect("configured");
        let request = site.op.presign_read("a/b", Duration::from_secs(60)).await.expect("signed");
        request.uri().to_string().split('?').next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn a_request_goes_where_the_provider_wants_it() {
        let aws = address("aws", None, "eu-central-1").await;
        assert_eq!(aws, "https://chunks.s3.eu-central-1.amazonaws.com/below/a/b");
        let plain = address("ceph", Some("https://rgw.example"), "default").await;
        assert_eq!(plain, "https://rgw.example/chunks/below/a/b");
        let hosted = address("s3-virtual-host", Some("https://oss.example"), "x").await;
        assert_eq!(hosted, "https://chunks.oss.example/below/a/b");
    }

    #[test]
    fn a_budget_runs_dry_and_fills_by_successes() {
        let budget = Budget::new(2);
        assert!(budget.spend() && budget.spend() && !budget.spend());
        (0..9).for_each(|_| budget.earn());
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend());
        (0..1000).for_each(|_| budget.earn());
        assert!(budget.spend() && budget.spend() && !budget.spend());
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_are_spread() {
        let patience = Patience::default();
        for tried in 1..40 {
            let pause = pause(&patience, tried);
            let longest = patience.backoff_min * (1 << (tried - 1).min(16));
            assert!(pause <= longest.min(patience.backoff_max), "{tried}: {pause:?}");
            assert!(pause >= longest.min(patience.backoff_max) / 2, "{tried}: {pause:?}");
        }
    }
}
