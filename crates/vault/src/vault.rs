//! The vault: seal, open, sign — each takes a permit or a receipt.
//!
//! Keys live in keyring files under `DIR/keys`, one for the installation and
//! one per realm, each under a root key of its own. A tenant's key-encryption
//! keys are unwrapped on first use and kept for a lease, so that withdrawing
//! the root key stops every read within it.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use ringfence_access::permit::{Action, Read, Write};
use ringfence_access::{Authority, Permit};
use ringfence_format::envelope::{DataKey, Fetched};
use ringfence_format::head::{self, KekId, Manifest};
use ringfence_format::names::{KeyId, ObjectVersion, Realm, Tenant};
use ringfence_format::redo::HeadInfo;
use ringfence_format::wrap::{self, Place};
use ringfence_log::Recorded;
use zeroize::Zeroizing;

use crate::durable;
use crate::error::VaultError;
use crate::evidence::Evidence;
use crate::issuer::roots_of;
use crate::keyring::{INSTALLATION_FILE, Keyring, Owner, Purpose, REALM_PREFIX, SUFFIX};
use crate::open::{Opener, Verifier};
use crate::provider::Unlock;
use crate::seal::Sealer;
use crate::secret::{Key32, SecretText, random, random_key};

/// How long an unwrapped tenant key is used before it is unwrapped again.
pub const LEASE: Duration = Duration::from_secs(5 * 60);

/// The folder of the keyrings, within the data folder.
pub const KEYS_DIR: &str = "keys";

/// The key file that a first start makes, within [`KEYS_DIR`]. It lies beside
/// what it unlocks and so protects nothing from whoever copies the folder:
/// every start says so.
pub const DEVELOPMENT_KEY_FILE: &str = "development.key";

/// Holds every key of the installation.
pub struct Vault {
    dir: PathBuf,
    development: bool,
    lease: Duration,
    pub(crate) rings: RwLock<Rings>,
    leases: RwLock<HashMap<Tenant, Leased>>,
    /// The key versions that ever sealed, and whether they still may.
    sealing: Mutex<HashMap<(Tenant, u32), Sealing>>,
    evidence: Arc<Evidence>,
    pub(crate) authority: Arc<Authority>,
}

/// The unlocked keyrings.
pub(crate) struct Rings {
    pub(crate) installation: Keyring,
    pub(crate) realms: BTreeMap<Realm, Keyring>,
}

/// The unwrapped keys of one tenant.
struct Leased {
    realm: Realm,
    until: Instant,
    current: u32,
    keks: Vec<Arc<Kek>>,
    /// Seals the secrets of its static access keys.
    access: Arc<Key32>,
}

/// Whether anything is being sealed under a key version.
#[derive(Default)]
struct Sealing {
    /// Each living sealer holds a clone.
    token: Arc<()>,
    /// It is being retired, or was: no new sealer.
    closed: bool,
}

/// One unwrapped key-encryption key of one tenant.
pub(crate) struct Kek {
    pub(crate) version: u32,
    pub(crate) id: KekId,
    pub(crate) key: Key32,
}

/// What is known of a tenant's key-encryption keys, without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekVersions {
    /// New objects are under this one.
    pub current: u32,
    /// All that are in the keyring, in order, the current one last.
    pub all: Vec<u32>,
}

impl Vault {
    /// Makes the keys of a new installation with one realm. `log_name` is the
    /// name of the log's signing key and its origin: a schema-less URL without
    /// spaces or plus signs (C2SP signed-note).
    ///
    /// With [`Unlock::KeyFile`] naming the [development key file](Self::development_key_file),
    /// that file is made if it is not there.
    pub fn create(dir: &Path, unlock: &Unlock, realm: &Realm, log_name: &str) -> Result<Self, VaultError> {
        let keys = dir.join(KEYS_DIR);
        durable::make_dir(&keys)?;
        let path = keys.join(INSTALLATION_FILE);
        if path.exists() {
            return Err(VaultError::KeyringExists { path });
        }
        make_development_key(dir, unlock)?;
        create_realm(&keys, realm, unlock)?;
        let owner = Owner::Installation { log_name: log_name.to_owned() };
        let mut installation = Keyring::create(&keys, owner, unlock)?;
        let signing = installation.new_row(Purpose::LogSigning, None, 1, None, &random_key()?)?;
        let evidence = installation.new_row(Purpose::Evidence, None, 1, None, &random_key()?)?;
        installation.add(vec![signing, evidence]);
        // Last, because `open` asks for it first: after a crash before this
        // line there is no installation, and `create` may be called again.
        installation.save_new()?;
        Self::open(dir, unlock)
    }

    /// Unlocks the keys of an installation.
    pub fn open(dir: &Path, unlock: &Unlock) -> Result<Self, VaultError> {
        let keys = dir.join(KEYS_DIR);
        let path = keys.join(INSTALLATION_FILE);
        if !path.exists() {
            return Err(VaultError::NoKeyring { dir: keys });
        }
        let installation = Keyring::open(&path, unlock, &|owner| match owner {
            Owner::Installation { .. } => Ok(()),
            Owner::Realm(_) => Err("the installation".to_owned()),
        })?;
        let realms = open_realms(&keys, unlock)?;
        let rings = Rings { installation, realms };
        let evidence = Arc::new(Evidence::load(&rings)?);
        let authority =
            Arc::new(Authority::new(rings.realms.iter().map(|(realm, ring)| (realm.clone(), roots_of(ring)))));
        let development = matches!(unlock, Unlock::KeyFile(path) if *path == Self::development_key_file(dir));
        Ok(Self {
            dir: dir.into(),
            development,
            lease: LEASE,
            rings: RwLock::new(rings),
            leases: RwLock::default(),
            sealing: Mutex::default(),
            evidence,
            authority,
        })
    }

    /// The same vault with another lease.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// The key file that lies within the data folder.
    pub fn development_key_file(dir: &Path) -> PathBuf {
        dir.join(KEYS_DIR).join(DEVELOPMENT_KEY_FILE)
    }

    /// Whether a data folder has keys.
    pub fn exists(dir: &Path) -> bool {
        dir.join(KEYS_DIR).join(INSTALLATION_FILE).exists()
    }

    /// Whether the keys are unlocked by the key file that lies beside them.
    pub fn is_development(&self) -> bool {
        self.development
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Seals records and signs checkpoints; implements the log's two traits.
    pub fn evidence(&self) -> Arc<Evidence> {
        self.evidence.clone()
    }

    /// Makes the keys of a new realm, under a root key of its own.
    pub fn add_realm(&self, realm: &Realm, unlock: &Unlock) -> Result<(), VaultError> {
        let mut rings = self.rings_mut();
        let mut ring = Keyring::create(&self.dir.join(KEYS_DIR), Owner::Realm(realm.clone()), unlock)?;
        ring.save_new()?;
        rings.realms.insert(realm.clone(), ring);
        Ok(())
    }

    /// Makes the keys of a new tenant: to be called before the record that
    /// announces it, so that no record of a tenant is ever without its key.
    pub fn add_tenant(&self, realm: &Realm, tenant: &Tenant) -> Result<(), VaultError> {
        let mut rings = self.rings_mut();
        if rings.realms.values().any(|ring| ring.current(Purpose::TenantKek, Some(tenant)).is_some()) {
            return Err(VaultError::TenantExists(tenant.clone()));
        }
        let ring = rings.realm_mut(realm)?;
        let mut rows = Vec::new();
        for purpose in [Purpose::TenantKek, Purpose::Evidence, Purpose::AccessSecrets] {
            rows.push(ring.new_row(purpose, Some(tenant), 1, None, &random_key()?)?);
        }
        ring.change(|all| all.extend(rows))?;
        self.evidence.reload(&rings)
    }

    /// The realms that have keys.
    pub fn realms(&self) -> Vec<Realm> {
        self.rings().realms.keys().cloned().collect()
    }

    /// The tenants that have keys in a realm.
    pub fn tenants(&self, realm: &Realm) -> Result<Vec<Tenant>, VaultError> {
        let rings = self.rings();
        let rows = rings.realm(realm)?.all().iter().filter(|row| row.purpose == Purpose::AccessSecrets);
        Ok(rows.filter_map(|row| row.tenant.clone()).collect())
    }

    /// Which key versions a tenant has.
    pub fn kek_versions(&self, realm: &Realm, tenant: &Tenant) -> Result<KekVersions, VaultError> {
        let rings = self.rings();
        let mut all: Vec<u32> =
            rings.realm(realm)?.rows(Purpose::TenantKek, Some(tenant)).map(|row| row.version).collect();
        all.sort_unstable();
        match all.last() {
            Some(current) => Ok(KekVersions { current: *current, all }),
            None => Err(VaultError::UnknownTenant(tenant.clone(), realm.clone())),
        }
    }

    /// Begins to seal a new version under a fresh data key.
    pub fn sealer(&self, permit: &Permit<Write>, object: ObjectVersion) -> Result<Sealer, VaultError> {
        check_permit(permit, &object)?;
        self.new_sealer(object)
    }

    /// Goes on sealing a version: the next part of a multipart upload, or a
    /// new head for a version whose label or tags change.
    pub fn resume_sealer(
        &self,
        permit: &Permit<Write>,
        object: ObjectVersion,
        head: &HeadInfo,
    ) -> Result<Sealer, VaultError> {
        check_permit(permit, &object)?;
        self.old_sealer(object, head)
    }

    /// INVARIANT 1 — opens the object that the receipt names, and no other:
    /// its name comes from what stands in the log.
    ///
    /// ```compile_fail,E0308
    /// use ringfence_access::{Permit, permit::Read};
    /// use ringfence_format::redo::HeadInfo;
    /// fn leak(vault: &ringfence_vault::Vault, permit: Permit<Read>, head: &HeadInfo) {
    ///     let _ = vault.opener(&permit, head);
    /// }
    /// ```
    /// ```compile_fail,E0308
    /// use ringfence_access::{Permit, permit::Write};
    /// use ringfence_format::redo::HeadInfo;
    /// use ringfence_log::Recorded;
    /// fn leak(vault: &ringfence_vault::Vault, receipt: Recorded<Permit<Write>>, head: &HeadInfo) {
    ///     let _ = vault.opener(&receipt, head);
    /// }
    /// ```
    pub fn opener(&self, receipt: &Recorded<Permit<Read>>, head: &HeadInfo) -> Result<Opener, VaultError> {
        let object = receipt.object().ok_or(VaultError::NotPermitted)?;
        Ok(Opener::new(self.data_key(&Arc::new(object.clone()), head)?))
    }

    /// Prepares to check ciphertext without releasing plaintext, for scrub and
    /// for repair from another copy. Any durable record will do: that work has
    /// no caller, but it does not go unrecorded.
    pub fn verifier<T>(
        &self,
        _because: &Recorded<T>,
        object: &ObjectVersion,
        head: &HeadInfo,
    ) -> Result<Verifier, VaultError> {
        Ok(Verifier::new(self.data_key(&Arc::new(object.clone()), head)?))
    }

    /// Opens a head found at a site, for `recover`: whose it is comes from the
    /// keyring, by the opaque id the head carries.
    pub fn open_head<T>(&self, _because: &Recorded<T>, head: &Fetched) -> Result<OpenedHead, VaultError> {
        self.open_any_head(head)
    }

    /// Seals the secret of a static access key for its row.
    pub fn seal_secret(
        &self,
        realm: &Realm,
        tenant: &Tenant,
        key: &KeyId,
        secret: &str,
    ) -> Result<Vec<u8>, VaultError> {
        let under = self.access_key(realm, tenant)?;
        let salt = random()?;
        Ok(with_secret_place(realm, tenant, key, |place| wrap::seal(&under, place, salt, secret.as_bytes())))
    }

    /// The secret of a static access key, from its row.
    pub fn secret_for(
        &self,
        realm: &Realm,
        tenant: &Tenant,
        key: &KeyId,
        sealed: &[u8],
    ) -> Result<SecretText, VaultError> {
        let under = self.access_key(realm, tenant)?;
        let plain = with_secret_place(realm, tenant, key, |place| wrap::open(&under, place, sealed))
            .map_err(|why| VaultError::Wrapped { what: "access key secret", why })?;
        to_text(&plain)
    }

    /// Keeps a named secret, such as a site's credential, in the installation's
    /// keyring; replaces one of the same name.
    pub fn put_named_secret(&self, name: &str, secret: &str) -> Result<(), VaultError> {
        let mut rings = self.rings_mut();
        let ring = &mut rings.installation;
        let key = random_key()?;
        let mut row = ring.new_row(Purpose::NamedSecret, None, 1, Some(name), &key)?;
        row.sealed = wrap::seal(&key, named_place(&[name.as_bytes()]), random()?, secret.as_bytes());
        ring.change(|rows| {
            rows.retain(|old| !(old.purpose == Purpose::NamedSecret && old.name.as_deref() == Some(name)));
            rows.push(row);
        })
    }

    /// A named secret.
    pub fn named_secret(&self, name: &str) -> Result<SecretText, VaultError> {
        let rings = self.rings();
        let row = rings.installation.rows(Purpose::NamedSecret, None).find(|row| row.name.as_deref() == Some(name));
        let row = row.ok_or_else(|| VaultError::UnknownSecret(name.to_owned()))?;
        let key = rings.installation.unwrap(row)?;
        let plain = wrap::open(&key, named_place(&[name.as_bytes()]), &row.sealed)
            .map_err(|why| VaultError::Wrapped { what: "named secret", why })?;
        to_text(&plain)
    }

    pub(crate) fn new_sealer(&self, object: ObjectVersion) -> Result<Sealer, VaultError> {
        let object = Arc::new(object);
        let kek = self.current_kek(&object.realm, &object.tenant)?;
        let token = self.begin_sealing(&object.tenant, kek.version)?;
        let key = DataKey::new(object, random_key()?);
        let head = HeadInfo { seq: 1, kek: kek.version, wrapped_dek: wrap_dek(&kek, &key)? };
        Ok(Sealer::new(key, kek, head, token))
    }

    pub(crate) fn old_sealer(&self, object: ObjectVersion, head: &HeadInfo) -> Result<Sealer, VaultError> {
        let token = self.begin_sealing(&object.tenant, head.kek)?;
        let kek = self.kek(&object.realm, &object.tenant, head.kek)?;
        let key = unwrap_dek(&kek, &Arc::new(object), head)?;
        Ok(Sealer::new(key, kek, head.clone(), token))
    }

    pub(crate) fn open_any_head(&self, head: &Fetched) -> Result<OpenedHead, VaultError> {
        let clear = head::parse(head)?;
        let (realm, tenant, version) = self.whose(&clear.kek).ok_or(VaultError::UnknownKekId)?;
        let kek = self.kek(&realm, &tenant, version)?;
        // The bucket is not known yet; the manifest tells it, and nothing that
        // is opened here is bound to it.
        let bucket = ringfence_format::names::BucketId([0; 16]);
        let mut object = ObjectVersion { realm, tenant, bucket, version: clear.version };
        let info = HeadInfo { seq: clear.seq, kek: version, wrapped_dek: clear.wrapped_dek };
        let key = unwrap_dek(&kek, &Arc::new(object.clone()), &info)?;
        let manifest = head::open(&key, version, head)?;
        object.bucket = manifest.bucket.id;
        Ok(OpenedHead { object, manifest })
    }

    pub(crate) fn data_key(&self, object: &Arc<ObjectVersion>, head: &HeadInfo) -> Result<DataKey, VaultError> {
        let kek = self.kek(&object.realm, &object.tenant, head.kek)?;
        unwrap_dek(&kek, object, head)
    }

    pub(crate) fn current_kek(&self, realm: &Realm, tenant: &Tenant) -> Result<Arc<Kek>, VaultError> {
        self.leased(realm, tenant, |leased| leased.find(leased.current))?
            .ok_or_else(|| VaultError::UnknownTenant(tenant.clone(), realm.clone()))
    }

    pub(crate) fn kek(&self, realm: &Realm, tenant: &Tenant, version: u32) -> Result<Arc<Kek>, VaultError> {
        self.leased(realm, tenant, |leased| leased.find(version))?
            .ok_or_else(|| VaultError::UnknownKek { tenant: tenant.clone(), version })
    }

    /// Ends every lease of a tenant: what was rotated or destroyed shows at once.
    pub(crate) fn end_lease(&self, tenant: &Tenant) {
        self.leases.write().expect(POISON).remove(tenant);
    }

    pub(crate) fn rings(&self) -> RwLockReadGuard<'_, Rings> {
        self.rings.read().expect(POISON)
    }

    pub(crate) fn rings_mut(&self) -> RwLockWriteGuard<'_, Rings> {
        self.rings.write().expect(POISON)
    }

    fn leased<T>(&self, realm: &Realm, tenant: &Tenant, f: impl Fn(&Leased) -> T) -> Result<T, VaultError> {
        let now = Instant::now();
        if let Some(leased) = self.leases.read().expect(POISON).get(tenant)
            && leased.until > now
            && leased.realm == *realm
        {
            return Ok(f(leased));
        }
        // Dropped before the provider is asked, which may fail because the
        // root key was withdrawn: then no old lease may linger.
        self.end_lease(tenant);
        // The lock is held until the lease is noted: a rotation comes before
        // both or ends the lease after both.
        let rings = self.rings();
        let leased = rings.lease(realm, tenant, now + self.lease)?;
        let result = f(&leased);
        self.leases.write().expect(POISON).insert(tenant.clone(), leased);
        Ok(result)
    }

    fn whose(&self, id: &KekId) -> Option<(Realm, Tenant, u32)> {
        let rings = self.rings();
        rings.realms.iter().find_map(|(realm, ring)| {
            let row = ring.all().iter().find(|row| row.purpose == Purpose::TenantKek && row.id == id.0)?;
            Some((realm.clone(), row.tenant.clone()?, row.version))
        })
    }

    pub(crate) fn access_key(&self, realm: &Realm, tenant: &Tenant) -> Result<Arc<Key32>, VaultError> {
        self.leased(realm, tenant, |leased| leased.access.clone())
    }

    /// Notes that something is being sealed under a key version.
    fn begin_sealing(&self, tenant: &Tenant, version: u32) -> Result<Arc<()>, VaultError> {
        let mut sealing = self.sealing.lock().expect(POISON);
        let entry = sealing.entry((tenant.clone(), version)).or_default();
        match entry.closed {
            false => Ok(entry.token.clone()),
            true => Err(VaultError::KekClosing { tenant: tenant.clone(), version }),
        }
    }

    /// Lets no new sealer begin under a key version; refuses while one lives.
    pub(crate) fn close_sealing(&self, tenant: &Tenant, version: u32) -> Result<(), VaultError> {
        let mut sealing = self.sealing.lock().expect(POISON);
        let entry = sealing.entry((tenant.clone(), version)).or_default();
        if entry.closed {
            return Err(VaultError::KekClosing { tenant: tenant.clone(), version });
        }
        match Arc::strong_count(&entry.token) as u64 - 1 {
            0 => entry.closed = true,
            heads => return Err(VaultError::KekInUse { tenant: tenant.clone(), version, heads }),
        }
        Ok(())
    }

    /// Undoes [`close_sealing`](Self::close_sealing).
    pub(crate) fn reopen_sealing(&self, tenant: &Tenant, version: u32) {
        self.sealing.lock().expect(POISON).remove(&(tenant.clone(), version));
    }
}

/// What a head found at a site turned out to be.
#[derive(Debug)]
pub struct OpenedHead {
    /// Whose head it is.
    pub object: ObjectVersion,
    /// What it says; the version carries its [`HeadInfo`].
    pub manifest: Manifest,
}

const POISON: &str = "no code panics while it holds a lock of the vault";

impl Rings {
    pub(crate) fn realm(&self, realm: &Realm) -> Result<&Keyring, VaultError> {
        self.realms.get(realm).ok_or_else(|| VaultError::UnknownRealm(realm.clone()))
    }

    pub(crate) fn realm_mut(&mut self, realm: &Realm) -> Result<&mut Keyring, VaultError> {
        self.realms.get_mut(realm).ok_or_else(|| VaultError::UnknownRealm(realm.clone()))
    }

    fn lease(&self, realm: &Realm, tenant: &Tenant, until: Instant) -> Result<Leased, VaultError> {
        let ring = self.realm(realm)?;
        let mut keks = Vec::new();
        for row in ring.rows(Purpose::TenantKek, Some(tenant)) {
            keks.push(Arc::new(Kek { version: row.version, id: KekId(row.id), key: ring.unwrap(row)? }));
        }
        let current = keks.iter().map(|kek| kek.version).max();
        let current = current.ok_or_else(|| VaultError::UnknownTenant(tenant.clone(), realm.clone()))?;
        let access = ring.current(Purpose::AccessSecrets, Some(tenant));
        let access = access.ok_or_else(|| VaultError::UnknownTenant(tenant.clone(), realm.clone()))?;
        let access = Arc::new(ring.unwrap(access)?);
        Ok(Leased { realm: realm.clone(), until, current, keks, access })
    }
}

impl Leased {
    fn find(&self, version: u32) -> Option<Arc<Kek>> {
        self.keks.iter().find(|kek| kek.version == version).cloned()
    }
}

pub(crate) fn wrap_dek(kek: &Kek, key: &DataKey) -> Result<[u8; 104], VaultError> {
    let object = key.object();
    let salt = random()?;
    Ok(head::with_dek_place(&object.realm, &object.tenant, kek.version, &object.version, |place| {
        wrap::wrap_key(&kek.key, place, salt, key.expose())
    }))
}

pub(crate) fn unwrap_dek(kek: &Kek, object: &Arc<ObjectVersion>, head: &HeadInfo) -> Result<DataKey, VaultError> {
    head::unwrap_dek(&kek.key, kek.version, object, &head.wrapped_dek)
        .map_err(|why| VaultError::Wrapped { what: "data key", why })
}

/// A permit is for the object it names, and for no other.
fn check_permit<A: Action>(permit: &Permit<A>, object: &ObjectVersion) -> Result<(), VaultError> {
    if permit.object() == Some(object) { Ok(()) } else { Err(VaultError::NotPermitted) }
}

fn with_secret_place<T>(realm: &Realm, tenant: &Tenant, key: &KeyId, f: impl FnOnce(Place<'_>) -> T) -> T {
    let context: [&[u8]; 3] = [realm.as_str().as_bytes(), tenant.as_str().as_bytes(), key.as_str().as_bytes()];
    f(Place { label: "access key secret", context: &context })
}

fn named_place<'a>(name: &'a [&'a [u8]]) -> Place<'a> {
    Place { label: "named secret text", context: name }
}

fn to_text(plain: &Zeroizing<Vec<u8>>) -> Result<SecretText, VaultError> {
    let text = std::str::from_utf8(plain)
        .map_err(|_| VaultError::Wrapped { what: "secret", why: wrap::WrapError::Corrupt })?;
    Ok(SecretText::new(Zeroizing::new(text.to_owned())))
}

pub(crate) fn make_development_key(dir: &Path, unlock: &Unlock) -> Result<(), VaultError> {
    let path = Vault::development_key_file(dir);
    match unlock {
        Unlock::KeyFile(given) if *given == path && !path.exists() => {
            let key = random_key()?;
            durable::write(&path, &*key, durable::Existing::Refuse)
        }
        _ => Ok(()),
    }
}

/// Makes a realm's keyring, or takes up an empty one that a crash left.
fn create_realm(keys: &Path, realm: &Realm, unlock: &Unlock) -> Result<(), VaultError> {
    let owner = Owner::Realm(realm.clone());
    let path = keys.join(owner.file_name());
    if !path.exists() {
        return Keyring::create(keys, owner, unlock)?.save_new();
    }
    let left = open_realm(&path, realm, unlock)?;
    match left.all().iter().all(|row| row.purpose == Purpose::Integrity) {
        true => Ok(()),
        false => Err(VaultError::KeyringExists { path }),
    }
}

fn open_realm(path: &Path, realm: &Realm, unlock: &Unlock) -> Result<Keyring, VaultError> {
    Keyring::open(path, unlock, &|owner| match owner {
        Owner::Realm(found) if found == realm => Ok(()),
        _ => Err(format!("realm `{realm}`")),
    })
}

fn open_realms(keys: &Path, unlock: &Unlock) -> Result<BTreeMap<Realm, Keyring>, VaultError> {
    let mut realms = BTreeMap::new();
    for entry in fs::read_dir(keys).map_err(VaultError::io("read", keys))? {
        let entry = entry.map_err(VaultError::io("read", keys))?;
        let name = entry.file_name();
        let named = name.to_str().and_then(|name| name.strip_prefix(REALM_PREFIX)?.strip_suffix(SUFFIX));
        let Some(realm) = named.and_then(|name| Realm::parse(name).ok()) else { continue };
        let ring = open_realm(&entry.path(), &realm, unlock)?;
        realms.insert(realm, ring);
    }
    Ok(realms)
}
