//! One life of the process: the real vault, log, store and policies, opened on
//! the machine's disks in the order the binary opens them.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use ringfence_access::caller::{Caller, Origin, VerifiedSignature, authenticate, system};
use ringfence_access::keys::KeyEntry;
use ringfence_access::permit::{Action, Administer, Write};
use ringfence_access::policy::PolicyText;
use ringfence_access::{Ask, Engine, Keys, Labels, Permit, Placement, PlacementRule, PolicySet, Setting, SiteFacts};
use ringfence_db::clock::Clock;
use ringfence_db::disk::Disk;
use ringfence_format::envelope::{Fetched, PartVerifier, Sealed};
use ringfence_format::head::Manifest;
use ringfence_format::names::{
    BucketName, InstallationId, KeyId, Label, ObjectVersion, Principal, Realm, SiteId, Tenant,
};
use ringfence_format::redo::{Bucket, Part, StaticKeyRow, TenantRow, Version};
use ringfence_log::{Log, Options, Recorded, Run};
use ringfence_store::site::{FirstUse, Patience, RemoteConfig, Service, Site, SiteCredential, SiteInfo, SiteKind};
use ringfence_store::{
    Authenticate, OpenHead, OpenedHead, PartCheck, Parts, RecoverFrom, RecoverReport, Store, recover,
};
use ringfence_vault::{Unlock, Vault};

use crate::chance::Chance;
use crate::cloud::BUCKET;
use crate::machine::{Machine, Which};

/// The two buckets of every history.
pub const BUCKETS: [&str; 2] = ["first-bucket", "other-bucket"];
const ORIGIN: &str = "ringfence.example/sim";
/// Small, so that a history fills many.
const SEGMENT_BYTES: u64 = 128 * 1024;
/// One attempt at the public site; what is slow there costs this much real time.
const ATTEMPT: Duration = Duration::from_millis(400);

/// Everything one process holds open.
pub struct Life {
    /// The store.
    pub store: Arc<Store>,
    /// The log.
    pub log: Arc<Log>,
    /// The keys.
    pub vault: Arc<Vault>,
    /// The policies.
    pub engine: Arc<Engine>,
    /// The static keys.
    pub keys: Arc<Keys>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// How a machine is run.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Copies of public objects: one at the public site, or one at home too.
    pub public_copies: usize,
    /// Who does the log's work.
    pub run: Run,
}

fn tenant() -> Tenant {
    Tenant::parse("acme").expect("a name")
}
fn realm() -> Realm {
    Realm::parse("main").expect("a name")
}
fn key_id() -> KeyId {
    KeyId::parse("AKIASIMULATED000").expect("an id")
}
fn site(name: &str) -> SiteId {
    SiteId::parse(name).expect("a name")
}
/// Whose chunks these are.
pub fn installation() -> InstallationId {
    InstallationId([0x5e; 16])
}
/// A label of the setting.
pub fn label(name: &str) -> Label {
    Label::parse(name).expect("a label")
}

fn setting(public_copies: usize) -> Setting {
    use ringfence_access::SiteKind as Kind;
    let facts = |id: &str, kind| SiteFacts {
        id: site(id),
        kind,
        jurisdiction: "DE".to_owned(),
        provider: "local".to_owned(),
        dedicated: true,
        tags: Vec::new(),
    };
    let sites = vec![facts("home", Kind::Private), facts("second", Kind::Private), facts("cloud", Kind::Public)];
    let labels = ["public", "internal", "confidential", "restricted"].map(label).to_vec();
    let rule = |prefer: &[&str], copies| PlacementRule { prefer: prefer.iter().map(|s| site(s)).collect(), copies };
    let placement = [
        (label("public"), rule(&["cloud", "home"], public_copies)),
        (label("internal"), rule(&["home"], 1)),
        (label("confidential"), rule(&["home", "second"], 2)),
        (label("restricted"), rule(&["home"], 1)),
    ];
    let labels = Labels::new(labels).expect("an order");
    Setting::new(labels, sites, placement.into()).expect("the setting holds together")
}

fn policies(public_copies: usize) -> PolicySet {
    // Every label is written here with one static key: the rule that keeps
    // those from restricted data is tried elsewhere.
    let text = include_str!("../../crates/access/policies/default.cedar");
    let (before, rest) = text.split_once("@id(\"no-static-keys-for-restricted\")").expect("the rule stands there");
    let text = before.to_owned() + rest.split_once(';').expect("it ends").1;
    let text = PolicyText { name: "default.cedar".to_owned(), text };
    PolicySet::load(Arc::new(setting(public_copies)), &text, &[]).expect("the default policies hold")
}

/// What a life is opened on, before there is a store.
struct Base {
    vault: Arc<Vault>,
    log: Arc<Log>,
    sites: Vec<Site>,
}

fn open_vault(machine: &Machine) -> Result<Vault, String> {
    let dir = machine.keys.path();
    let unlock = Unlock::KeyFile(Vault::development_key_file(dir));
    let opened =
        if Vault::exists(dir) { Vault::open(dir, &unlock) } else { Vault::create(dir, &unlock, &realm(), ORIGIN) };
    opened.map_err(|e| format!("the vault: {e}"))
}

fn open_sites(machine: &Machine) -> Result<Vec<Site>, String> {
    let failed = |e: ringfence_store::site::SiteError| format!("a site: {e}");
    let dir = |name: &str, which| {
        let info = SiteInfo::new(site(name), SiteKind::Private, "DE", "local");
        let root = machine.dir().join(name);
        let disk = machine.disk(which);
        // As the binary: once the log has a record, a missing marker means
        // a disk that is not mounted.
        let used = disk.read(&root.join(ringfence_store::site::MARKER)).is_ok();
        let first = if used { FirstUse::Refuse } else { FirstUse::Create };
        Site::open_dir(info, &root, installation(), first, disk.shared()).map_err(failed)
    };
    let mut info = SiteInfo::new(site("cloud"), SiteKind::Public, "US", "s3");
    info.patience = Patience {
        attempt_timeout: ATTEMPT,
        attempts_max: 2,
        backoff_min: Duration::from_micros(200),
        backoff_max: Duration::from_millis(1),
        retry_budget: 1_000_000,
        concurrency_max: 64,
        ..Patience::default()
    };
    let config = RemoteConfig {
        service: Service::S3,
        endpoint: Some(machine.cloud.url().to_owned()),
        bucket: BUCKET.to_owned(),
        prefix: String::new(),
        region: Some("us-east-1".to_owned()),
    };
    let cloud = Site::open_remote(info, &config, SiteCredential::anonymous()).map_err(failed)?;
    Ok(vec![dir("home", Which::Main)?, dir("second", Which::Second)?, cloud])
}

fn open_base(machine: &Machine, setup: Setup) -> Result<Base, String> {
    let vault = Arc::new(open_vault(machine)?);
    let evidence = vault.evidence();
    let dir = machine.dir().join("log");
    let disk = machine.disk(Which::Main).shared();
    disk.create_dir_all(&dir).map_err(|e| format!("the log's directory: {e}"))?;
    let options = Options { segment_bytes: SEGMENT_BYTES, run: setup.run, ..Options::default() };
    let log = Log::open(&dir, disk, machine.clock.clone(), evidence.clone(), evidence, options);
    let log = Arc::new(log.map_err(|e| format!("the log: {e}"))?);
    Ok(Base { vault, log, sites: open_sites(machine)? })
}

impl Life {
    /// Opens everything.
    ///
    /// # Errors
    /// What refused, in words.
    pub async fn open(machine: &Machine, setup: Setup, chance: &mut Chance) -> Result<Self, String> {
        let Base { vault, log, sites } = open_base(machine, setup)?;
        let random = Mutex::new(Chance::new(chance.number()));
        let parts = Parts {
            installation: installation(),
            log: log.clone(),
            sites,
            clock: machine.clock.clone(),
            random: Arc::new(move |out: &mut [u8]| random.lock().expect("nobody panics in it").fill(out)),
        };
        let store = Store::open(&machine.catalogue(), parts).await.map_err(|e| format!("the store: {e}"))?;
        let epoch = store.catalog().policy_epoch().map_err(|e| format!("the policy epoch: {e}"))?.unwrap_or(1);
        let engine = Arc::new(Engine::new(policies(setup.public_copies), epoch));
        let keys = Arc::new(Keys::default());
        let life = Self { store, log, vault, engine, keys, clock: machine.clock.clone() };
        life.load_keys();
        Ok(life)
    }

    /// The first tenant, its key, and the buckets.
    ///
    /// # Errors
    /// What refused, in words.
    pub async fn first_start(&self) -> Result<(), String> {
        let now_ms = self.clock.now_us() / 1000;
        self.vault.add_tenant(&realm(), &tenant()).map_err(|e| e.to_string())?;
        let row = StaticKeyRow {
            id: key_id(),
            tenant: tenant(),
            principal: Principal::parse("alice").expect("a name"),
            sealed_secret: vec![1],
            created_ms: now_ms,
            disabled_ms: None,
        };
        let first = TenantRow { name: tenant(), realm: realm(), created_ms: now_ms, default_label: None };
        let _issued = self.store.bootstrap(first, row).await.map_err(|e| e.to_string())?;
        self.load_keys();
        for name in BUCKETS {
            let bucket = Bucket {
                id: self.store.new_bucket(),
                name: BucketName::parse(name).expect("a name"),
                tenant: tenant(),
                created_ms: now_ms,
                pin: None,
                tags: Vec::new(),
            };
            let permit = self.permit::<Write>(Ask::on_bucket("s3:CreateBucket", &bucket, &label("internal")))?;
            let _made = self.store.create_bucket(permit, bucket).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn load_keys(&self) {
        for issued in self.store.catalog().static_keys() {
            self.keys.add(KeyEntry::new(&issued.row, realm(), issued.issued));
        }
    }

    /// Ends pending work in order; what is dropped afterwards is a process that ends.
    pub async fn close(self) -> Result<(), String> {
        for site in self.store.sites() {
            site.close().await;
        }
        self.log.close().map_err(|e| e.to_string())
    }

    /// The caller of every request.
    pub fn caller(&self) -> Result<Caller, String> {
        let proof = VerifiedSignature::sigv4_was_checked_by_the_wire_layer(key_id(), tenant(), realm());
        authenticate(proof, &self.keys, Origin::default()).map_err(|e| format!("not authenticated: {:?}", e.reason()))
    }

    /// A permit for the caller.
    pub fn permit<A: Action>(&self, ask: Ask) -> Result<Permit<A>, String> {
        let decided = self.engine.decide(&self.caller()?, ask, self.clock.now_us());
        decided.map_err(|denial| format!("denied: {}", denial.reason()))
    }

    /// A permit for work of Ringfence itself.
    pub fn system_permit(&self, task: &'static str, ask: Ask) -> Result<Permit<Administer>, String> {
        let decided = self.engine.decide(&system(task), ask, self.clock.now_us());
        decided.map_err(|denial| format!("denied: {}", denial.reason()))
    }

    /// Such a permit, on record.
    ///
    /// # Errors
    /// The log did not take it.
    pub async fn because(&self, task: &'static str) -> Result<Recorded<Permit<Administer>>, String> {
        let permit = self.system_permit("maintenance", Ask::on_installation(task))?;
        self.log.record(permit).await.map_err(|e| e.to_string())
    }

    /// A bucket by its name.
    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>, String> {
        let name = BucketName::parse(name).expect("a name");
        self.store.catalog().bucket_by_name(&name).ok_or_else(|| format!("bucket `{name}` is gone"))
    }

    /// The identity of a version.
    pub fn object(&self, bucket: &Bucket, version: ringfence_format::names::VersionUid) -> ObjectVersion {
        ObjectVersion { realm: realm(), tenant: tenant(), bucket: bucket.id, version }
    }

    /// The tenant of every bucket.
    pub fn tenant(&self) -> (Realm, Tenant) {
        (realm(), tenant())
    }
}

/// Rebuilds the catalogue, which must be gone, from what the machine has.
///
/// # Errors
/// What refused, in words.
pub async fn rebuild(machine: &Machine, setup: Setup) -> Result<RecoverReport, String> {
    let Base { vault, log, sites } = open_base(machine, setup)?;
    let engine = Engine::new(policies(setup.public_copies), 1);
    let ask = Ask::on_installation("system:Recover");
    let permit = engine.decide::<Administer>(&system("recover"), ask, machine.clock.now_us());
    let permit = permit.map_err(|denial| format!("denied: {}", denial.reason()))?;
    let because = log.record(permit).await.map_err(|e| e.to_string())?;
    let keys = Upkeep { vault, because };
    let sites: Vec<Arc<Site>> = sites.into_iter().map(Arc::new).collect();
    let from = RecoverFrom {
        installation: installation(),
        log: Some(&log),
        sites: &sites,
        heads: &keys,
        clock: &*machine.clock,
    };
    let report = recover(&machine.catalogue(), from, |_| {}).await.map_err(|e| e.to_string());
    for site in &sites {
        site.close().await;
    }
    log.close().map_err(|e| e.to_string())?;
    report
}

/// The keys for one task that is on record.
pub struct Upkeep {
    /// Every key.
    pub vault: Arc<Vault>,
    /// The record of the task.
    pub because: Recorded<Permit<Administer>>,
}

impl OpenHead for Upkeep {
    fn open_head(&self, head: &Fetched) -> Result<OpenedHead, String> {
        let opened = self.vault.open_head(&self.because, head).map_err(|e| e.to_string())?;
        Ok(OpenedHead { realm: opened.object.realm, manifest: opened.manifest })
    }
}

/// [`Upkeep`] of versions the catalogue knows, as the binary's scrub has it.
pub struct Scrubber {
    upkeep: Upkeep,
    store: Arc<Store>,
    engine: Arc<Engine>,
}

impl Life {
    /// What a scrub works with.
    ///
    /// # Errors
    /// The log did not take the record of it.
    pub async fn scrubber(&self) -> Result<Scrubber, String> {
        let upkeep = Upkeep { vault: self.vault.clone(), because: self.because("system:Scrub").await? };
        Ok(Scrubber { upkeep, store: self.store.clone(), engine: self.engine.clone() })
    }
}

fn object_of(version: &Version) -> ObjectVersion {
    ObjectVersion { realm: realm(), tenant: tenant(), bucket: version.bucket, version: version.uid }
}

fn same_version(version: &Version, manifest: &Manifest) -> Result<(), String> {
    if manifest.version.uid == version.uid { Ok(()) } else { Err("another version's head".to_owned()) }
}

impl Authenticate for Scrubber {
    fn part(&self, version: &Version, part: &Part) -> Result<Box<dyn PartCheck>, String> {
        Ok(Box::new(Check(self.verifier(version)?.part(part).map_err(|e| e.to_string())?)))
    }
    fn head(&self, version: &Version, head: &Fetched) -> Result<(), String> {
        let kek = version.head.as_ref().ok_or("no head")?.kek;
        let manifest = self.verifier(version)?.head(kek, head).map_err(|e| e.to_string())?;
        same_version(version, &manifest)
    }
    fn sealed_head(&self, version: &Version, head: Fetched) -> Result<Sealed, String> {
        let kek = version.head.as_ref().ok_or("no head")?.kek;
        let (manifest, sealed) = self.verifier(version)?.sealed_head(kek, head).map_err(|e| e.to_string())?;
        same_version(version, &manifest).map(|()| sealed)
    }
    fn place(&self, version: &Version, at: &SiteId) -> Result<Placement, String> {
        let bucket = self.store.catalog().bucket(&version.bucket).ok_or("its bucket is gone")?;
        let ask = Ask::on_object("system:Repair", &bucket, &version.key, &version.label);
        let placed = self.engine.place_at(&system("repair"), ask, object_of(version), std::slice::from_ref(at));
        placed.map_err(|denial| denial.reason().to_owned())
    }
}

impl Scrubber {
    fn verifier(&self, version: &Version) -> Result<ringfence_vault::Verifier, String> {
        let head = version.head.as_ref().ok_or("no head")?;
        let Upkeep { vault, because } = &self.upkeep;
        vault.verifier(because, &object_of(version), head).map_err(|e| e.to_string())
    }
}

struct Check(PartVerifier);

impl PartCheck for Check {
    fn push(&mut self, bytes: &Fetched) -> Result<(), String> {
        self.0.push(bytes).map_err(|e| e.to_string())
    }
    fn verify(&mut self, chunk: Fetched) -> Result<Sealed, String> {
        self.0.verify(chunk).map_err(|e| e.to_string())
    }
    fn finish(self: Box<Self>) -> Result<(), String> {
        self.0.finish().map_err(|e| e.to_string())
    }
}
