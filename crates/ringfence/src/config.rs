//! The configuration: one TOML file, checked before anything is touched.
//!
//! What the operator typed ([`Config`]) is parsed strictly: an unknown field,
//! a literal secret or a site that nothing defines is an error that names the
//! file, the line, what is wrong and what would be right. Environment
//! variables `RINGFENCE__SECTION__KEY` override single values and obey the
//! same rules. docs/config.md describes every field.

mod check;
mod error;
mod overrides;
mod secret;
mod sessions;
mod template;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ringfence_format::names::{Label, Realm, SiteId, Tenant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use error::ConfigError;
pub use secret::SecretRef;
pub use sessions::{Auth, Issuer, Proxy, RoleSettings, Sts};
pub use template::FIRST;

/// The name of the file inside the data directory.
pub const FILE: &str = "ringfence.toml";

/// Everything an operator can say.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "ringfence.toml")]
pub struct Config {
    /// The trust root of this installation: its keys open and sign nothing
    /// outside it. Fixed once data exists.
    #[serde(default = "default_realm")]
    #[schemars(with = "String")]
    pub realm: Realm,
    /// The S3 endpoint.
    #[serde(default)]
    pub s3: S3,
    /// Health, metrics and the public log.
    #[serde(default)]
    pub admin: Admin,
    /// The log.
    #[serde(default)]
    pub log: Log,
    /// What unlocks the keyring.
    #[serde(default)]
    pub keys: Keys,
    /// The sites, at least one of them private.
    #[serde(default)]
    pub site: Vec<Site>,
    /// The labels.
    #[serde(default)]
    pub labels: Labels,
    /// Labels by bucket and key prefix.
    #[serde(default)]
    pub label_rule: Vec<LabelRule>,
    /// What is said about tenants; `ringfence tenant add` makes them.
    #[serde(default)]
    pub tenant: Vec<TenantSettings>,
    /// Per label: which of the allowed sites are chosen, and how many.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, PlacementRule>")]
    pub placement: BTreeMap<Label, PlacementRule>,
    /// Identity providers whose tokens are exchanged for sessions.
    #[serde(default)]
    pub issuer: Vec<Issuer>,
    /// What sessions may do, and who may have one.
    #[serde(default)]
    pub role: Vec<RoleSettings>,
    /// Sessions.
    #[serde(default)]
    pub sts: Sts,
    /// What other services ask about sessions.
    #[serde(default)]
    pub auth: Auth,
    /// The policies.
    #[serde(default)]
    pub policy: Policy,
    /// Who is told of alarms.
    #[serde(default)]
    pub alarm: Alarm,
    /// Where the witnesses of the log are asked. Which of them must cosign
    /// stands in the log: `ringfence log witnesses`.
    #[serde(default)]
    pub witness: Vec<Witness>,
    /// Work that runs by itself.
    #[serde(default)]
    pub background: Background,
}

/// `[[witness]]`: somebody who cosigns the log's checkpoints.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Its verifier key, as `ringfence witness` prints it.
    pub key: String,
    /// Its submission prefix (C2SP tlog-witness): `https://…`, or `http://…` on
    /// this machine.
    pub url: String,
}

/// `[s3]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct S3 {
    /// Where the S3 endpoint listens; loopback only.
    pub addr: SocketAddr,
    /// Base domains for virtual-host style: with `s3.example`, a request to
    /// `bucket.s3.example` is one for `bucket`.
    pub domains: Vec<String>,
}

/// `[admin]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where `/healthz`, `/readyz`, `/metrics` and `/log/` are served; loopback only.
    pub addr: SocketAddr,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Space the log may take, in MiB. At 80 % it warns; when it is used up,
    /// writes stop first, then reads; deletes and revocations have a reserve.
    pub budget_mib: u64,
    /// Days after which the fields of access records (what clients did and were
    /// refused) go; 0 keeps them for ever. What is needed to rebuild the
    /// catalogue stays, and so does the proof that there was a record.
    pub keep_access_days: u32,
    /// The same for control-plane records: what the operator and Ringfence did.
    pub keep_control_days: u32,
}

/// `[keys]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// What holds the root key. `file` is the only provider so far.
    pub provider: KeyProvider,
    /// A file of at least 32 unpredictable bytes that unlocks the keyring,
    /// readable by us only, relative to the data directory. Left out, and
    /// without `passphrase`, a development key file inside the data directory
    /// is made and used, which protects nothing from who can read that
    /// directory.
    pub key_file: Option<PathBuf>,
    /// The passphrase that unlocks the keyring: `env:NAME` or `file:PATH`.
    pub passphrase: Option<SecretRef>,
}

/// What holds the root key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyProvider {
    /// A keyring file, sealed by a passphrase or key (Argon2id).
    #[default]
    File,
}

/// `[[site]]`: a place that stores sealed chunks.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name, for ever.
    #[schemars(with = "String")]
    pub id: SiteId,
    /// Whether it is ours or somebody else's.
    pub kind: SiteKind,
    /// What it speaks.
    #[serde(rename = "type")]
    pub type_: SiteType,
    /// ISO 3166-1 code of the country whose law reaches it; `ZZ` is unknown.
    #[serde(default = "default_jurisdiction")]
    pub jurisdiction: String,
    /// Who runs it, such as `aws`, `minio`, `local`: for policies, and for what
    /// the provider's protocol needs.
    #[serde(default = "default_provider")]
    pub provider: String,
    /// Whether no other customer's data shares its machines.
    #[serde(default)]
    pub dedicated: bool,
    /// Free words for policies.
    #[serde(default)]
    pub tags: Vec<String>,
    /// directory: the folder, relative to the data directory.
    pub path: Option<PathBuf>,
    /// s3, azure, gcs: the address of the service.
    pub endpoint: Option<String>,
    /// s3, gcs: the bucket; azure: the container.
    pub bucket: Option<String>,
    /// s3: the region to sign for.
    pub region: Option<String>,
    /// s3, azure, gcs: a prefix inside the bucket.
    pub prefix: Option<String>,
    /// azure: the storage account.
    pub account: Option<String>,
    /// s3: the access key id, as `env:NAME` or `file:PATH`.
    pub access_key_id: Option<SecretRef>,
    /// s3: the secret access key, as `env:NAME` or `file:PATH`.
    pub secret_access_key: Option<SecretRef>,
    /// azure: the account key, as `env:NAME` or `file:PATH`.
    pub account_key: Option<SecretRef>,
    /// gcs: the service account's JSON, as `env:NAME` or `file:PATH`.
    pub credential: Option<SecretRef>,
    /// Seconds until one attempt at a call is given up.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// How often one call is repeated after a failure that may pass.
    #[serde(default = "default_retries")]
    pub retries: u32,
    /// Repetitions that all calls together may save up, so that a site that is
    /// down is not answered with a storm.
    #[serde(default = "default_retry_budget")]
    pub retry_budget: u32,
    /// Failures in a row after which the site is given a rest: nobody waits for
    /// it, new objects go to the next site that policy allows.
    #[serde(default = "default_failures_max")]
    pub failures_max: u32,
    /// Seconds of the first rest; doubles each time the site fails its trial.
    #[serde(default = "default_rest_s")]
    pub rest_s: u64,
    /// Seconds of the longest rest. A site that is full or refuses writes is
    /// passed over by new objects for so long.
    #[serde(default = "default_rest_max_s")]
    pub rest_max_s: u64,
}

/// Whether a site is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// Ours: at home.
    Private,
    /// Somebody else's: sees ciphertext only, and only what its labels allow.
    Public,
}

/// What a site speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SiteType {
    /// A folder on this machine.
    Directory,
    /// Any S3-compatible store.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
}

/// `[labels]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Labels {
    /// From the least strict to the strictest.
    #[schemars(with = "Vec<String>")]
    pub order: Vec<Label>,
}

/// `[[label_rule]]`: objects that match have at least this label.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRule {
    /// Only this tenant's buckets; every tenant's if left out.
    #[schemars(with = "Option<String>")]
    pub tenant: Option<Tenant>,
    /// Only buckets whose name matches, `*` standing for any characters;
    /// every bucket if left out.
    pub bucket: Option<String>,
    /// Only keys that begin with this.
    #[serde(default)]
    pub prefix: String,
    /// The label.
    #[schemars(with = "String")]
    pub label: Label,
}

/// `[[tenant]]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSettings {
    /// Its name.
    #[schemars(with = "String")]
    pub name: Tenant,
    /// The label of its objects where nothing else says one. Left out: the strictest.
    #[schemars(with = "Option<String>")]
    pub default_label: Option<Label>,
}

/// `[placement.LABEL]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlacementRule {
    /// Sites in order of preference; policy must allow each one it is to use.
    #[schemars(with = "Vec<String>")]
    pub prefer: Vec<SiteId>,
    /// Complete copies at different sites.
    #[serde(default = "default_copies")]
    pub copies: usize,
}

/// `[policy]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The Cedar policies, relative to the data directory.
    pub file: PathBuf,
    /// Whether a running server puts the file in force when it is edited, after
    /// recording its diff and whose file it is. Without, only `policy apply`
    /// and the next start do.
    pub watch: bool,
}

/// `[alarm]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Alarm {
    /// Where alarms are sent, signed as Standard Webhooks, until they are
    /// acknowledged: `https://…`, or `http://` to this machine. Left out, they
    /// are recorded, counted and written to standard error only.
    pub webhook: Option<String>,
    /// The key of the signature, as `env:NAME` or `file:PATH`: `whsec_` and
    /// base64 of 24 to 64 random bytes.
    pub secret: Option<SecretRef>,
    /// Seconds until one attempt is given up.
    pub timeout_s: u64,
    /// Seconds of the longest pause between two attempts; the first is one
    /// second, and each doubles.
    pub retry_max_s: u64,
}

/// `[background]`
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Background {
    /// Seconds between two erasures of what deletes and overwrites left behind.
    pub sweep_every_s: u64,
    /// Seconds between two checks of all copies.
    pub scrub_every_s: u64,
    /// Ciphertext that such a check reads, in MiB per second; 0 for no limit.
    pub scrub_mib_per_s: u64,
    /// Days after which a multipart upload that nobody completed is aborted.
    pub abort_uploads_days: u32,
    /// Seconds between two rounds of the log's retention.
    pub trim_every_s: u64,
}

impl Default for S3 {
    fn default() -> Self {
        Self { addr: SocketAddr::from(([127, 0, 0, 1], 9300)), domains: vec![] }
    }
}
impl Default for Admin {
    fn default() -> Self {
        Self { addr: SocketAddr::from(([127, 0, 0, 1], 9301)) }
    }
}
impl Default for Log {
    fn default() -> Self {
        Self { budget_mib: 64 * 1024, keep_access_days: 90, keep_control_days: 730 }
    }
}
impl Default for Keys {
    fn default() -> Self {
        Self { provider: KeyProvider::File, key_file: None, passphrase: None }
    }
}
impl Default for Labels {
    fn default() -> Self {
        let label = |text| Label::parse(text).expect("a literal that obeys the rule");
        Self { order: ["public", "internal", "confidential", "restricted"].map(label).to_vec() }
    }
}
impl Default for Policy {
    fn default() -> Self {
        Self { file: PathBuf::from("policy.cedar"), watch: true }
    }
}
impl Default for Alarm {
    fn default() -> Self {
        Self { webhook: None, secret: None, timeout_s: 10, retry_max_s: 300 }
    }
}
impl Default for Background {
    fn default() -> Self {
        Self {
            sweep_every_s: 60,
            scrub_every_s: 7 * 24 * 3600,
            scrub_mib_per_s: 50,
            abort_uploads_days: 7,
            trim_every_s: 24 * 3600,
        }
    }
}
fn default_realm() -> Realm {
    Realm::parse("home").expect("a literal that obeys the rule")
}
fn default_jurisdiction() -> String {
    "ZZ".to_owned()
}
fn default_provider() -> String {
    "local".to_owned()
}
fn default_retry_budget() -> u32 {
    100
}
fn default_failures_max() -> u32 {
    5
}
fn default_rest_s() -> u64 {
    5
}
fn default_rest_max_s() -> u64 {
    60
}
fn default_timeout_s() -> u64 {
    30
}
fn default_retries() -> u32 {
    3
}
fn default_copies() -> usize {
    1
}

impl Config {
    /// Reads `file`, lets the environment override it, and checks all of it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what would be right.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file).map_err(|e| ConfigError::unreadable(file, &e))?;
        Self::parse(file, &text, std::env::vars())
    }

    /// [`Config::load`] over a text and an environment that are given.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        file: &Path,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let typed: Self = toml::from_str(text).map_err(|e| ConfigError::from_toml(file, text, &e))?;
        let overridden = overrides::apply(file, text, typed, environment)?;
        check::all(&overridden.config).map_err(|wrong| overridden.blame(file, text, wrong))?;
        Ok(overridden.config)
    }

    /// The JSON schema of the file.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Config).to_value()
    }
}

#[cfg(test)]
mod tests;
