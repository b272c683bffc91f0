//! One installation: everything a data directory holds, opened and ready.
//!
//! Opening goes lock → configuration → keys → log → catalogue (which replays
//! what the log has beyond it) → sites → policies → first tenant. Each step of
//! a first start is durable before the next and does nothing where it was done
//! before, so that a start which was cut off anywhere is completed by the next.
//! What is in the way is refused before anything is changed: keys are never
//! made beside data that other keys sealed, and a lost catalogue is not
//! replaced by an empty one.

mod credentials;
mod lock;
mod policies;
mod recovery;
mod sites;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ringfence_access::evidence::IssuerEntry;
use ringfence_access::keys::KeyEntry;
use ringfence_access::labels::PrefixRule;
use ringfence_access::noise::Noise;
use ringfence_access::permit::Administer;
use ringfence_access::policy::Engine;
use ringfence_access::roles::Role;
use ringfence_access::{Ask, Authority, Issuers, Keys, LabelRules, Labels, Permit, Roles, caller};
use ringfence_db::clock::{Clock, SystemClock};
use ringfence_db::disk::{Disk, RealDisk};
use ringfence_format::names::{InstallationId, Label, Principal, Realm, SiteId, Tenant};
use ringfence_format::record::Seq;
use ringfence_format::redo::{Redo, StaticKeyRow, TenantRow};
use ringfence_log::{Changed, Log};
use ringfence_store::site::{Breaker, Site, SiteKind};
use ringfence_store::{Catalog, IssuedKey, Parts, Store};
use ringfence_vault::{Passphrase, Unlock, Vault};

use crate::alarm::Alarms;
use crate::cli::{Failure, Kind};
use crate::config::{self, Config};
use crate::flows::issue::Reuse;
use crate::key_use::KeyUse;
use crate::sessions::Sessions;
use crate::sts::World;

pub use credentials::{CredentialsFile, NewKey};
pub use lock::DataDir;
pub use policies::{IN_FORCE, read_set};
pub use recovery::recover;
pub use sites::LeftOut;

/// The tenant that the first start makes.
pub const FIRST_TENANT: &str = "default";
/// The principal of a tenant's first key.
pub const FIRST_PRINCIPAL: &str = "owner";
/// Longer than any write may last: an orphan younger than this is not judged.
pub const SWEEP_GRACE_MS: u64 = 6 * 3600 * 1000;
/// The catalogue's file.
const CATALOG: &str = "catalog.db";
/// What the log's name begins with; the installation's id is the rest.
const ORIGIN: &str = "ringfence.local/";

/// How to open.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Whether what is not there yet is made: for `serve` and `demo` only.
    pub create: bool,
}

/// An open installation. Shared by `Arc`; [`close`](Self::close) it at the end.
pub struct Installation {
    /// What the operator said, overridden and checked.
    pub config: Config,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Every key.
    pub vault: Arc<Vault>,
    /// Every record.
    pub log: Arc<Log>,
    /// Catalogue, sites, commits.
    pub store: Arc<Store>,
    /// The policies in force.
    pub engine: Arc<Engine>,
    /// Static keys, as the request path sees them.
    pub keys: Arc<Keys>,
    /// Where labels come from.
    pub labels: Arc<LabelRules>,
    /// Identity providers and their keys.
    issuers: ArcSwap<Issuers>,
    /// What sessions may do, and who may have one.
    roles: ArcSwap<Roles>,
    /// Sessions that were judged at this gateway.
    pub sessions: Sessions,
    /// How often evidence was exchanged.
    pub reuse: Reuse,
    /// Refusals of nobody in particular, until their minute is over.
    pub noise: Arc<Noise>,
    /// Where alarms are raised.
    pub alarms: Alarms,
    /// Who must cosign the log's checkpoints.
    pub witnesses: crate::witness::in_force::InForce,
    /// When static keys were last used.
    pub key_use: KeyUse,
    /// The trust root.
    pub realm: Realm,
    left_out: std::sync::Mutex<Vec<LeftOut>>,
    first: std::sync::Mutex<Option<NewKey>>,
    changing_policies: tokio::sync::Mutex<()>,
    changing_keys: tokio::sync::Mutex<()>,
    dir: DataDir,
}

impl Installation {
    /// Locks `dir` and opens what is in it, for one command.
    ///
    /// # Errors
    /// What is in the way, and the next step.
    pub async fn open(dir: &Path, options: Options) -> Result<Self, Failure> {
        let dir = DataDir::take(dir)?;
        let config = Self::configure(&dir)?;
        Self::open_in(dir, config, options).await
    }

    /// The configuration of a data directory; the first one is written.
    ///
    /// # Errors
    /// [`config::ConfigError`] with file and line.
    pub fn configure(dir: &DataDir) -> Result<Config, Failure> {
        let file = dir.path().join(config::FILE);
        if !file.exists() {
            let written = RealDisk.replace(&file, config::FIRST.as_bytes(), ringfence_db::disk::Durable::Yes);
            written.map_err(|e| cannot(&format!("write `{}`", file.display()), e))?;
        }
        Ok(Config::load(&file)?)
    }

    /// Opens a locked directory.
    ///
    /// # Errors
    /// What is in the way, and the next step.
    pub async fn open_in(dir: DataDir, config: Config, options: Options) -> Result<Self, Failure> {
        let path = dir.path().to_owned();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // Unlocking by passphrase costs a second of hashing on purpose; like
        // the log's check of its own history, it happens before there is
        // anything else to do.
        let vault = Arc::new(open_vault(&path, &config, options)?);
        let id = installation_id(&vault)?;
        let _made = vault.prepare_evidence(clock.now_us()).map_err(|e| Failure::new(Kind::Unavailable, e))?;
        let log = Arc::new(open_log(&path, &config, &vault, &clock)?);
        refuse_lost_catalogue(&path, &log)?;
        recovery::refuse_unfinished(&path)?;
        let (sites, left_out) = sites::open_those_there(&path, &config, id)?;
        let parts = Parts { installation: id, log: log.clone(), sites, clock: clock.clone(), random: Arc::new(random) };
        let store = Store::open(&path.join(CATALOG), parts).await.map_err(|e| Failure::new(Kind::Unavailable, e))?;
        sites::remember(&path, store.sites().iter().map(|site| site.id().clone()))?;
        let labels = Arc::new(label_rules(&config)?);
        for tenant in store.catalog().tenants() {
            if let Some(label) = &tenant.default_label {
                labels.tell(&tenant.name, label.clone());
            }
        }
        let engine = Arc::new(policies::start(&path, &config, &store, &log, &*clock).await?);
        let realm = config.realm.clone();
        let alarms = Alarms::open(&path, log.clone(), config.alarm.webhook.is_some());
        let keys = Arc::new(Keys::new(key_entries(&store, &log, &realm)).under(vault.authority().clone()));
        let (gateway, began) = (gateway(&config)?, log.durable_size());
        let (issuers, roles) = sessions(&config, &log, &alarms)?;
        let installation = Self {
            config,
            clock,
            vault,
            log,
            store,
            engine,
            keys,
            labels,
            issuers: ArcSwap::new(issuers),
            roles: ArcSwap::new(roles),
            sessions: Sessions::at(gateway, began),
            reuse: Reuse::default(),
            noise: Arc::default(),
            alarms,
            witnesses: Default::default(),
            key_use: KeyUse::open(&path),
            realm,
            left_out: std::sync::Mutex::new(left_out),
            first: std::sync::Mutex::default(),
            changing_policies: tokio::sync::Mutex::default(),
            changing_keys: tokio::sync::Mutex::default(),
            dir,
        };
        installation.take_up_authority().await?;
        installation.take_up_witnesses().await?;
        installation.credentials().finish(|id| installation.keys.find(id).is_some())?;
        if options.create && installation.keys_of_first_tenant() == 0 {
            installation.first_tenant().await?;
        }
        if options.create {
            installation.try_session_keys().await;
        }
        Ok(installation)
    }

    /// The data directory, absolute.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
    /// What the operator said.
    pub fn config(&self) -> &Config {
        &self.config
    }
    /// The time.
    pub fn clock(&self) -> &dyn Clock {
        &*self.clock
    }
    /// Every key.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }
    /// What gives keys their power: manifests in force, revocations.
    pub fn authority(&self) -> &Arc<Authority> {
        self.vault.authority()
    }
    /// Identity providers and their keys.
    pub fn issuers(&self) -> Arc<Issuers> {
        self.issuers.load_full()
    }
    /// What sessions may do, and who may have one.
    pub fn roles(&self) -> Arc<Roles> {
        self.roles.load_full()
    }
    /// Identity providers and roles from here on: those of the configuration,
    /// and what a drill brings beside them.
    ///
    /// # Errors
    /// They do not go together.
    pub fn provide(&self, issuers: Vec<IssuerEntry>, roles: Vec<Role>) -> Result<(), Failure> {
        let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Usage, e);
        let mut all = self.config.issuers().map_err(|e| wrong(&e))?;
        all.extend(issuers);
        let world = Arc::new(World::new(self.log.clone(), self.alarms.clone()));
        let issuers = Issuers::new(all, world).map_err(|e| wrong(&e))?;
        let own = self.config.roles().map_err(|e| wrong(&e))?;
        self.issuers.store(Arc::new(issuers));
        self.roles.store(Arc::new(Roles::new(own.into_iter().chain(roles))));
        Ok(())
    }
    /// Every record.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }
    /// Catalogue, sites, commits.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }
    /// The catalogue, for reading.
    pub fn catalog(&self) -> &Catalog {
        self.store.catalog()
    }
    /// The policies in force.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
    /// Where alarms are raised.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }
    /// The file of clients' credentials.
    pub fn credentials(&self) -> CredentialsFile {
        CredentialsFile::of(self.dir())
    }
    /// Every open site.
    pub fn sites(&self) -> Vec<Arc<Site>> {
        self.store.sites()
    }
    /// Configured sites that could not be opened yet, and why.
    pub fn left_out(&self) -> Vec<LeftOut> {
        self.left_out.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Tries to open a site that was left out, with the checks of a start:
    /// whose directory it is, and that its disk is mounted. Blocks on the disk.
    ///
    /// # Errors
    /// Why it stays out; the reason is kept for [`left_out`](Self::left_out).
    pub fn take_in(&self, id: &SiteId) -> Result<(), Failure> {
        let opened = sites::open_left_out(self.dir(), &self.config, self.id(), id);
        let mut left_out = self.left_out.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match opened {
            Ok(site) => {
                // Remembered first: a site that is in use must never look new.
                sites::remember(self.dir(), std::iter::once(id.clone()))?;
                self.store.add_site(site);
                left_out.retain(|(out, _)| out != id);
                Ok(())
            }
            Err(failure) => {
                if let Some((_, why)) = left_out.iter_mut().find(|(out, _)| out == id) {
                    why.clone_from(&failure.message);
                }
                Err(failure)
            }
        }
    }
    /// Whether a sweep may judge what is an orphan: a head at a site that is
    /// not open might claim it.
    ///
    /// # Errors
    /// Which site is missing.
    pub fn sees_every_site(&self) -> Result<(), Failure> {
        match self.left_out().first() {
            None => Ok(()),
            Some((site, why)) => {
                Err(Failure::new(Kind::Unavailable, format!("site `{site}` is not open, so nothing is swept: {why}"))
                    .next("bring the site back: it is taken in by itself, see `ringfence site list`"))
            }
        }
    }
    /// Whose chunks these are.
    pub fn id(&self) -> InstallationId {
        self.store.installation()
    }

    /// The credentials this very start made, once.
    pub fn first_credentials(&self) -> Option<NewKey> {
        self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Held while policies change, so that two changes do not propose one epoch.
    pub async fn changing_policies(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing_policies.lock().await
    }

    /// Held while a manifest is made, so that two do not claim one number.
    pub async fn changing_keys(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.changing_keys.lock().await
    }

    /// Sets gauges that are looked at when somebody asks for metrics.
    pub fn measure(&self) {
        self.measure_session_keys();
        self.measure_keys();
        metrics::gauge!("ringfence_log_records").set(self.log.durable_size() as f64);
        metrics::gauge!("ringfence_log_published").set(self.log.published_size() as f64);
        metrics::gauge!("ringfence_ready").set(f64::from(u8::from(self.obstacle().is_none())));
        metrics::gauge!("ringfence_sites_left_out").set(self.left_out().len() as f64);
        for site in self.store.sites() {
            let health = site.health();
            let open = match health.breaker {
                Breaker::Closed => 0.0,
                Breaker::HalfOpen => 1.0,
                Breaker::Open => 2.0,
            };
            let name = site.id().to_string();
            metrics::gauge!("ringfence_site_breaker", "site" => name.clone()).set(open);
            let passed_over = f64::from(u8::from(health.passed_over.is_some()));
            metrics::gauge!("ringfence_site_passed_over", "site" => name).set(passed_over);
        }
        metrics::gauge!("ringfence_policy_epoch").set(self.engine.epoch() as f64);
    }

    /// Why requests cannot be answered now, for `/readyz`.
    pub fn obstacle(&self) -> Option<String> {
        if let Err(error) = self.log.health() {
            return Some(error.to_string());
        }
        let home = |site: &Arc<Site>| site.info().kind == SiteKind::Private && site.is_asked();
        let why = "every private site rests or is left out: see `ringfence site list`";
        (!self.store.sites().iter().any(home)).then(|| why.to_owned())
    }

    /// How many configured sites are not asked now, and of how many: `/readyz`
    /// says so, and stays ready.
    pub fn resting(&self) -> (usize, usize) {
        let asked = self.store.sites().iter().filter(|site| site.is_asked()).count();
        (self.config.site.len().saturating_sub(asked), self.config.site.len())
    }

    /// A permit for work that Ringfence does by itself.
    ///
    /// # Errors
    /// Policy does not let it; the refusal is recorded.
    pub async fn system_permit(&self, task: &'static str, ask: Ask) -> Result<Permit<Administer>, Failure> {
        let caller = caller::system(task);
        match self.engine.decide::<Administer>(&caller, ask, self.clock.now_us()) {
            Ok(permit) => Ok(permit),
            Err(denial) => {
                let reason = denial.reason().to_owned();
                let recorded = self.log.record(denial).await;
                drop(recorded.map_err(|e| cannot("record a refusal", e))?);
                Err(Failure::new(Kind::Refused, format!("policy does not let `{task}` run: {reason}")))
            }
        }
    }

    /// Records the refusals that were counted and not recorded yet.
    pub async fn record_noise(&self, all: bool) {
        let minutes = if all { self.noise.all() } else { self.noise.finished(self.clock.now_us()) };
        for minute in minutes {
            if let Err(error) = self.log.record(minute).await {
                tracing::warn!("refused requests could not be recorded: {error}");
            }
        }
    }

    /// Ends everything in order. What was acknowledged is durable already.
    pub async fn close(&self) {
        self.record_noise(true).await;
        self.alarms.flush().await;
        if let Err(error) = self.key_use.save() {
            tracing::warn!("when keys were last used cannot be written: {error}");
        }
        for site in self.store.sites() {
            site.close().await;
        }
        let log = self.log.clone();
        let closed = tokio::task::spawn_blocking(move || log.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!("the log did not close in order, the next start checks it: {error}");
        }
    }

    fn keys_of_first_tenant(&self) -> usize {
        let first = |key: &&IssuedKey| key.row.tenant.as_str() == FIRST_TENANT;
        self.catalog().static_keys().iter().filter(first).count()
    }

    /// Makes the tenant `default` with a key, or completes what a start that
    /// was cut off had begun; after a recovery without the log, which knows no
    /// keys, it gets a new one.
    async fn first_tenant(&self) -> Result<(), Failure> {
        let tenant = Tenant::parse(FIRST_TENANT).expect("a literal that obeys the rule");
        match self.catalog().tenant(&tenant) {
            Some(_) => {}
            None if self.catalog().tenants().is_empty() => {
                let permit = self.system_permit("first-start", Ask::on_tenant("system:FirstTenant", &tenant)).await?;
                self.make_tenant(permit, &self.realm, &tenant, None).await?;
            }
            None => return Ok(()),
        }
        let permit = self.system_permit("first-start", Ask::on_tenant("system:FirstKey", &tenant)).await?;
        let principal = Principal::parse(FIRST_PRINCIPAL).expect("a literal that obeys the rule");
        let key = self.issue_key(permit, &tenant, &principal, FIRST_TENANT).await?;
        *self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(key);
        Ok(())
    }

    /// The realm a tenant belongs to; that of the configuration for one that
    /// is about to be made.
    pub fn realm_of(&self, tenant: &Tenant) -> Realm {
        self.catalog().tenant(tenant).map_or_else(|| self.realm.clone(), |row| row.realm.clone())
    }

    /// Makes a tenant in a realm, which is made if there is none of that name:
    /// the keys first, so that no record of it is ever without its key, then
    /// the record.
    ///
    /// # Errors
    /// The store did not take it.
    pub async fn make_tenant(
        &self,
        permit: Permit<Administer>,
        realm: &Realm,
        tenant: &Tenant,
        default_label: Option<Label>,
    ) -> Result<(), Failure> {
        let unavailable = |e| Failure::new(Kind::Unavailable, e);
        if !self.vault.realms().contains(realm) {
            self.vault.add_realm(realm, &unlock(self.dir(), &self.config)?).map_err(unavailable)?;
            self.vault.prepare_root(realm).map_err(unavailable)?;
        }
        let known = self.vault.tenants(realm).map_err(unavailable)?;
        if !known.contains(tenant) {
            self.vault.add_tenant(realm, tenant).map_err(unavailable)?;
        }
        crate::retention::renew_keys(self)?;
        let created_ms = self.clock.now_us() / 1000;
        let row =
            TenantRow { name: tenant.clone(), realm: realm.clone(), created_ms, default_label: default_label.clone() };
        let committed = self.store.put_tenant(permit, row).await;
        committed.map(drop).map_err(|e| Failure::new(Kind::Unavailable, e))?;
        if let Some(label) = default_label {
            self.labels.tell(tenant, label);
        }
        // It can have sessions from now on; with an offline root, from the next
        // manifest on.
        self.try_session_keys().await;
        Ok(())
    }

    /// Issues a static key: staged in the credentials file, recorded, shown.
    ///
    /// # Errors
    /// Nothing was issued.
    pub async fn issue_key(
        &self,
        permit: Permit<Administer>,
        tenant: &Tenant,
        principal: &Principal,
        profile: &str,
    ) -> Result<NewKey, Failure> {
        let key = NewKey::random()?;
        let realm = self.realm_of(tenant);
        let sealed = self.vault.seal_secret(&realm, tenant, &key.id, &key.secret);
        let row = StaticKeyRow {
            id: key.id.clone(),
            tenant: tenant.clone(),
            principal: principal.clone(),
            sealed_secret: sealed.map_err(|e| Failure::new(Kind::Unavailable, e))?,
            created_ms: self.clock.now_us() / 1000,
            disabled_ms: None,
        };
        let file = self.credentials();
        file.stage(profile, &key)?;
        match self.store.put_static_key(permit, row.clone()).await {
            Ok(issued) => {
                self.keys.add(KeyEntry::new(&row, realm, Some(issued.index())));
                file.publish()?;
                Ok(key)
            }
            Err(error) => {
                // `Unsettled` is on record: the next start decides by that.
                if !matches!(error, ringfence_store::CommitError::Unsettled(_)) {
                    file.withdraw();
                }
                Err(Failure::new(Kind::Unavailable, error))
            }
        }
    }
}

fn open_vault(dir: &Path, config: &Config, options: Options) -> Result<Vault, Failure> {
    let sealed = |e| Failure::new(Kind::Unavailable, e);
    let unlock = unlock(dir, config)?;
    if Vault::exists(dir) {
        let vault = Vault::open(dir, &unlock).map_err(sealed)?;
        vault.tenants(&config.realm).map_err(|e| {
            Failure::new(Kind::Configuration, e).next("put the `realm` of ringfence.toml back to what it was")
        })?;
        return Ok(vault);
    }
    if dir.join(CATALOG).exists() || dir.join("log").exists() {
        return Err(Failure::new(Kind::Unavailable, format!("the keyring of `{}` is gone", dir.display()))
            .next("bring it back with `ringfence keys restore BACKUP`: nothing else can open this data"));
    }
    if !options.create {
        return Err(Failure::new(Kind::Usage, format!("no installation in `{}`", dir.display()))
            .next("start one with `ringfence serve`, or name its directory with `--data DIR`"));
    }
    // A first start that was cut off may have left a realm's keyring without
    // the installation's: it sealed nothing yet, so it is made anew.
    let half = dir.join(ringfence_vault::KEYS_DIR);
    if half.exists() {
        let aside = dir.join(format!("{}.unfinished-{}", ringfence_vault::KEYS_DIR, std::process::id()));
        std::fs::rename(&half, &aside).map_err(|e| cannot("set an unfinished keyring aside", e))?;
    }
    let mut id = [0; 16];
    random(&mut id);
    let origin = format!("{ORIGIN}{}", InstallationId(id));
    Vault::create(dir, &unlock, &config.realm, &origin).map_err(sealed)
}

/// What unlocks the keyring of this configuration.
///
/// # Errors
/// A secret cannot be fetched.
pub fn unlock(dir: &Path, config: &Config) -> Result<Unlock, Failure> {
    Ok(match (&config.keys.key_file, &config.keys.passphrase) {
        (Some(file), _) => Unlock::KeyFile(dir.join(file)),
        (None, Some(secret)) => {
            let text = secret.fetch(dir).map_err(|e| Failure::new(Kind::Configuration, e))?;
            Unlock::Passphrase(Passphrase::new(text))
        }
        (None, None) => Unlock::KeyFile(Vault::development_key_file(dir)),
    })
}

/// The installation's id is part of its log's name, which the keyring keeps.
fn installation_id(vault: &Vault) -> Result<InstallationId, Failure> {
    use ringfence_log::SignCheckpoint as _;
    let evidence = vault.evidence();
    let id = evidence.name().strip_prefix(ORIGIN).and_then(InstallationId::from_hex);
    id.ok_or_else(|| Failure::internal(format!("the keyring names a log `{}` that is not ours", evidence.name())))
}

fn open_log(dir: &Path, config: &Config, vault: &Vault, clock: &Arc<dyn Clock>) -> Result<Log, Failure> {
    let options = ringfence_log::Options {
        budget_bytes: Some(config.log.budget_mib.saturating_mul(1024 * 1024)),
        ..ringfence_log::Options::default()
    };
    let evidence = vault.evidence();
    Log::open(&dir.join("log"), RealDisk::shared(), clock.clone(), evidence.clone(), evidence, options)
        .map_err(|e| Failure::new(Kind::Unavailable, e))
}

/// There was something, and there is no catalogue: `recover`, knowingly.
fn refuse_lost_catalogue(dir: &Path, log: &Log) -> Result<(), Failure> {
    if dir.join(CATALOG).exists() || (log.durable_size() == 0 && !sites::were_used(dir)) {
        return Ok(());
    }
    let message =
        format!("the catalogue `{}` is gone; the log has {} records", dir.join(CATALOG).display(), log.durable_size());
    Err(Failure::new(Kind::Unavailable, message)
        .next(format!("bring a copy back, or rebuild it: ringfence recover --data {}", dir.display())))
}

/// Whether labels, sites, rules and placement tables of a configuration fit
/// each other.
///
/// # Errors
/// What a start would refuse.
pub fn tables_fit(config: &Config) -> Result<(), Failure> {
    label_rules(config)?;
    sites::setting(config).map(drop)
}

fn label_rules(config: &Config) -> Result<LabelRules, Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Configuration, e);
    let labels = Labels::new(config.labels.order.clone()).map_err(|e| wrong(&e))?;
    let defaults = config.tenant.iter().filter_map(|t| Some((t.name.clone(), t.default_label.clone()?)));
    let rules = config.label_rule.iter().map(|rule| PrefixRule {
        tenant: rule.tenant.clone(),
        bucket: rule.bucket.clone(),
        prefix: rule.prefix.clone(),
        label: rule.label.clone(),
    });
    LabelRules::new(labels, defaults.collect(), rules.collect()).map_err(|e| wrong(&e))
}

/// The site that this gateway stands at: the first private one.
fn gateway(config: &Config) -> Result<SiteId, Failure> {
    let home = config.site.iter().find(|site| site.kind == config::SiteKind::Private);
    let none = || Failure::new(Kind::Configuration, "no site is private: a gateway stands at home");
    home.map(|site| site.id.clone()).ok_or_else(none)
}

/// Who may get a session, by the configuration; nothing is fetched yet.
fn sessions(config: &Config, log: &Arc<Log>, alarms: &Alarms) -> Result<(Arc<Issuers>, Arc<Roles>), Failure> {
    let wrong = |e: &dyn std::fmt::Display| Failure::new(Kind::Configuration, e);
    let entries = config.issuers().map_err(|e| wrong(&e))?;
    let issuers = Issuers::new(entries, Arc::new(World::new(log.clone(), alarms.clone()))).map_err(|e| wrong(&e))?;
    let roles = Roles::new(config.roles().map_err(|e| wrong(&e))?);
    Ok((Arc::new(issuers), Arc::new(roles)))
}

fn key_entries(store: &Store, log: &Log, realm: &Realm) -> Vec<KeyEntry> {
    let keys = store.catalog().static_keys();
    keys.iter()
        .map(|key| {
            let owner = store.catalog().tenant(&key.row.tenant).map_or_else(|| realm.clone(), |t| t.realm.clone());
            KeyEntry::new(&key.row, owner, issuance(log, key))
        })
        .collect()
}

/// The record a key was issued by, looked up: a row that no record made is not
/// a key (ruling 20), whatever the row says of itself.
fn issuance(log: &Log, key: &IssuedKey) -> Option<Seq> {
    let seq = key.issued?;
    match log.change(seq) {
        Ok(change) => matches!(change.redo, Changed::By(redo) if issues(&redo, &key.row)).then_some(seq),
        Err(error) => {
            tracing::warn!(key = %key.row.id, "the key is refused, its issuance cannot be read: {error}");
            None
        }
    }
}

fn issues(redo: &Redo, row: &StaticKeyRow) -> bool {
    matches!(redo, Redo::PutStaticKey(issued)
        if issued.id == row.id && issued.tenant == row.tenant && issued.principal == row.principal)
}

fn random(bytes: &mut [u8]) {
    // Without randomness two chunks could get one name: better to stop here.
    aws_lc_rs::rand::fill(bytes).expect("the operating system gives random numbers");
}

pub(crate) fn cannot(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Unavailable, format!("cannot {what}: {error}"))
}
