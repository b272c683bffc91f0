//! One keyring file: the keys of one realm, or of the installation itself,
//! wrapped under one root key.
//!
//! magic 8 ‖ format 1 ‖ body length 4 ‖ body (CBOR) ‖ SHA-256 of all before.
//! The digest tells accident; a MAC inside, under a key that the root key
//! wraps, tells intent: rows cannot be added, dropped or changed without the
//! root key. Each row's wrap is bound to the row's place, so that a swapped
//! row does not open even for somebody who could forge the MAC.
//! Format: docs/formats/keyring.md.

use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::{constant_time, digest, hmac};
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::session::{self, PublicKey};
use ringfence_format::wrap::Place;

use crate::durable::{self, Existing};
use crate::error::VaultError;
use crate::provider::{self, Opened, Provider, Slot, Unlock};
use crate::secret::{Key32, random, random_key};

const MAGIC: &[u8; 8] = b"RFkeys\r\n";
const FORMAT: u8 = 0;
const PREFIX_BYTES: usize = 8 + 1 + 4;
const DIGEST_BYTES: usize = 32;
/// No keyring is larger: 100,000 tenants with ten key versions each.
const FILE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Whose keys a keyring holds.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) enum Owner {
    /// The log's signing key, the control plane's evidence, sites' secrets.
    #[n(0)]
    Installation {
        /// Name of the log's key, which is also its origin.
        #[n(0)]
        log_name: String,
    },
    /// The tenants of one realm.
    #[n(1)]
    Realm(#[n(0)] Realm),
}

impl Owner {
    /// For wraps and for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Installation { .. } => "the installation".to_owned(),
            Self::Realm(realm) => format!("realm `{realm}`"),
        }
    }

    /// The file's name within the keys folder.
    pub(crate) fn file_name(&self) -> String {
        match self {
            Self::Installation { .. } => INSTALLATION_FILE.to_owned(),
            Self::Realm(realm) => format!("{REALM_PREFIX}{realm}{SUFFIX}"),
        }
    }
}

/// The installation's keyring.
pub(crate) const INSTALLATION_FILE: &str = "installation.keyring";
/// A realm's keyring is `realm-<name>.keyring`.
pub(crate) const REALM_PREFIX: &str = "realm-";
/// See [`REALM_PREFIX`].
pub(crate) const SUFFIX: &str = ".keyring";

/// What a key is for. INVARIANT 2: part of the wrap's place, so a key taken
/// for another purpose does not even unwrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub(crate) enum Purpose {
    /// Wraps the data keys of a tenant's objects.
    #[n(0)]
    TenantKek,
    /// Seals the records of a tenant, or of the control plane.
    #[n(1)]
    Evidence,
    /// Seals the secrets of a tenant's static access keys.
    #[n(2)]
    AccessSecrets,
    /// Signs the log's checkpoints (Ed25519 seed).
    #[n(3)]
    LogSigning,
    /// Seals one named secret, such as a site's credential.
    #[n(4)]
    NamedSecret,
    /// Authenticates the keyring itself.
    #[n(5)]
    Integrity,
    /// Signs sessions of one scope (Ed25519 seed).
    #[n(6)]
    SessionIssuer,
    /// Signs what is admitted into the log for one tenant (Ed25519 seed).
    #[n(7)]
    Admission,
}

impl Purpose {
    fn label(self) -> &'static str {
        match self {
            Self::TenantKek => "tenant kek",
            Self::Evidence => "evidence",
            Self::AccessSecrets => "access secrets",
            Self::LogSigning => "log signing",
            Self::NamedSecret => "named secret",
            Self::Integrity => "keyring integrity",
            Self::SessionIssuer => "session issuer",
            Self::Admission => "admission",
        }
    }
}

/// One wrapped key.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(crate) struct Row {
    #[n(0)]
    pub(crate) purpose: Purpose,
    #[n(1)]
    pub(crate) tenant: Option<Tenant>,
    /// From 1; of several rows of a purpose and tenant, the highest is current.
    #[n(2)]
    pub(crate) version: u32,
    /// Random; stands for the key where its owner must not be told.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(crate) id: [u8; 16],
    /// The key, as the provider wrapped it.
    #[cbor(n(4), with = "minicbor::bytes")]
    pub(crate) wrapped: Vec<u8>,
    /// Named secrets: the name.
    #[n(5)]
    pub(crate) name: Option<String>,
    /// Named secrets: the secret, sealed under the wrapped key.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub(crate) sealed: Vec<u8>,
    /// Session issuers and admission keys: where and when they act. INVARIANT
    /// 2: part of the wrap's place.
    #[n(7)]
    pub(crate) signs: Option<Signs>,
}

/// In what a signing key acts besides realm and tenant.
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(crate) struct Signs {
    #[n(0)]
    pub(crate) purpose: session::Purpose,
    /// From when, in Unix seconds.
    #[n(1)]
    pub(crate) from_s: u64,
    /// What it signed counts until then, in Unix seconds.
    #[n(2)]
    pub(crate) until_s: u64,
    /// What others check it by.
    #[n(3)]
    pub(crate) public: PublicKey,
}

/// Whom a realm's keyring believes about session keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(crate) struct Trust {
    /// Pinned roots, each with the manifest it took over at; the last counts.
    #[n(0)]
    pub(crate) roots: Vec<Root>,
    /// The seed of the last root, wrapped, where that root is the development
    /// root, which lies beside what it signs.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub(crate) development: Option<Vec<u8>>,
    /// The newest manifest that was in force: sequence number, SHA-256.
    #[n(2)]
    pub(crate) manifest_seq: u64,
    #[cbor(n(3), with = "minicbor::bytes")]
    pub(crate) manifest_sha256: [u8; 32],
    /// How many revocations were on record, and the chain over them.
    #[n(4)]
    pub(crate) revocations: u64,
    #[cbor(n(5), with = "minicbor::bytes")]
    pub(crate) revocations_sha256: [u8; 32],
}

/// See [`Trust::roots`].
#[derive(Clone, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
pub(crate) struct Root {
    #[n(0)]
    pub(crate) public: PublicKey,
    #[n(1)]
    pub(crate) since_seq: u64,
}

#[derive(Clone, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Body {
    #[n(0)]
    owner: Owner,
    #[n(1)]
    slot: Slot,
    /// The root key under the key that `slot` derives.
    #[cbor(n(2), with = "minicbor::bytes")]
    root: Vec<u8>,
    /// Rises with each write.
    #[n(3)]
    generation: u64,
    #[n(4)]
    rows: Vec<Row>,
    /// HMAC-SHA256 over this body with an empty MAC.
    #[cbor(n(5), with = "minicbor::bytes")]
    mac: Vec<u8>,
    /// Realms only.
    #[n(6)]
    trust: Option<Trust>,
}

/// An unlocked keyring. Its rows are wrapped; only [`Keyring::unwrap`] shows
/// a key.
pub(crate) struct Keyring {
    path: PathBuf,
    body: Body,
    /// Holds the root key; which kind, the slot says.
    provider: Box<dyn Provider>,
}

/// A keyring as a backup carries it: rows, and the root key in clear.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
pub(crate) struct Exported {
    #[n(0)]
    pub(crate) owner: Owner,
    #[n(1)]
    pub(crate) rows: Vec<Row>,
    #[n(2)]
    pub(crate) generation: u64,
    #[cbor(n(3), with = "root_cbor")]
    pub(crate) root: Key32,
    #[n(4)]
    pub(crate) trust: Option<Trust>,
}

impl Keyring {
    /// Makes a keyring with its integrity key, in memory; [`save_new`](Self::save_new) writes it.
    pub(crate) fn create(dir: &Path, owner: Owner, unlock: &Unlock) -> Result<Self, VaultError> {
        let path = dir.join(owner.file_name());
        let Opened { provider, slot, root } = provider::create(unlock, &owner.describe(), &path)?;
        let body = Body { owner, slot, root, generation: 0, rows: Vec::new(), mac: Vec::new(), trust: None };
        let mut keyring = Self { path, body, provider };
        let row = keyring.new_row(Purpose::Integrity, None, 1, None, &random_key()?)?;
        keyring.body.rows.push(row);
        Ok(keyring)
    }

    /// Reads and unlocks `path`, which must be the keyring of `expected`.
    pub(crate) fn open(
        path: &Path,
        unlock: &Unlock,
        expected: &dyn Fn(&Owner) -> Result<(), String>,
    ) -> Result<Self, VaultError> {
        let body = read(path)?;
        if let Err(expected) = expected(&body.owner) {
            return Err(VaultError::WrongRealm { path: path.into(), expected, found: body.owner.describe() });
        }
        let provider = provider::open(unlock, &body.slot, &body.root, &body.owner.describe(), path)?;
        let keyring = Self { path: path.into(), body, provider };
        keyring.check_mac()?;
        Ok(keyring)
    }

    /// Whose keys they are.
    pub(crate) fn owner(&self) -> &Owner {
        &self.body.owner
    }

    /// All rows of a purpose and tenant, in order of their versions.
    pub(crate) fn rows<'a>(&'a self, purpose: Purpose, tenant: Option<&'a Tenant>) -> impl Iterator<Item = &'a Row> {
        self.body.rows.iter().filter(move |row| row.purpose == purpose && row.tenant.as_ref() == tenant)
    }

    /// The row of the highest version.
    pub(crate) fn current<'a>(&'a self, purpose: Purpose, tenant: Option<&'a Tenant>) -> Option<&'a Row> {
        self.rows(purpose, tenant).max_by_key(|row| row.version)
    }

    /// Every row.
    pub(crate) fn all(&self) -> &[Row] {
        &self.body.rows
    }

    /// Unwraps the key of a row.
    pub(crate) fn unwrap(&self, row: &Row) -> Result<Key32, VaultError> {
        row.with_place(&self.body.owner, |place| self.provider.unwrap(place, &row.wrapped)).map_err(|error| match error
        {
            VaultError::Wrapped { what, why } => {
                VaultError::Tampered { path: self.path.clone(), why: format!("a wrapped {what} {why}") }
            }
            other => other,
        })
    }

    /// Wraps a new key into a row, which is not yet in the keyring.
    pub(crate) fn new_row(
        &self,
        purpose: Purpose,
        tenant: Option<&Tenant>,
        version: u32,
        name: Option<&str>,
        key: &Key32,
    ) -> Result<Row, VaultError> {
        self.new_signing_row(purpose, tenant, version, name, None, key)
    }

    /// As [`new_row`](Self::new_row), for a key that signs.
    pub(crate) fn new_signing_row(
        &self,
        purpose: Purpose,
        tenant: Option<&Tenant>,
        version: u32,
        name: Option<&str>,
        signs: Option<Signs>,
        key: &Key32,
    ) -> Result<Row, VaultError> {
        let mut row = Row {
            purpose,
            tenant: tenant.cloned(),
            version,
            id: random()?,
            wrapped: Vec::new(),
            name: name.map(str::to_owned),
            sealed: Vec::new(),
            signs,
        };
        row.wrapped = row.with_place(&self.body.owner, |place| self.provider.wrap(place, key))?;
        Ok(row)
    }

    /// Wraps a seed for a place of its own, outside a row.
    pub(crate) fn wrap(&self, place: Place<'_>, key: &Key32) -> Result<Vec<u8>, VaultError> {
        self.provider.wrap(place, key)
    }

    /// Opens what [`wrap`](Self::wrap) made.
    pub(crate) fn open_wrapped(&self, place: Place<'_>, wrapped: &[u8]) -> Result<Key32, VaultError> {
        self.provider.unwrap(place, wrapped)
    }

    /// Whom it believes about session keys.
    pub(crate) fn trust(&self) -> Option<&Trust> {
        self.body.trust.as_ref()
    }

    /// Changes the rows, durably: in memory only once the file is written.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Vec<Row>)) -> Result<(), VaultError> {
        self.change_body(|body| change(&mut body.rows))
    }

    /// Changes whom it believes, durably.
    pub(crate) fn change_trust(&mut self, change: impl FnOnce(&mut Trust)) -> Result<(), VaultError> {
        self.change_body(|body| change(body.trust.get_or_insert_default()))
    }

    fn change_body(&mut self, change: impl FnOnce(&mut Body)) -> Result<(), VaultError> {
        let mut body = self.body.clone();
        change(&mut body);
        body.generation += 1;
        self.write(&mut body, Existing::Replace)?;
        self.body = body;
        Ok(())
    }

    /// Adds rows in memory, before the first write.
    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        self.body.rows.extend(rows);
    }

    /// Writes a keyring that must not exist yet.
    pub(crate) fn save_new(&mut self) -> Result<(), VaultError> {
        let mut body = self.body.clone();
        body.generation += 1;
        self.write(&mut body, Existing::Refuse)?;
        self.body = body;
        Ok(())
    }

    /// Everything a backup must carry.
    pub(crate) fn export(&self) -> Result<Exported, VaultError> {
        Ok(Exported {
            owner: self.body.owner.clone(),
            rows: self.body.rows.clone(),
            generation: self.body.generation,
            root: self.provider.export_root()?,
            trust: self.body.trust.clone(),
        })
    }

    /// A keyring from a backup, in memory, under a new unlock.
    pub(crate) fn import(dir: &Path, from: Exported, unlock: &Unlock) -> Result<Self, VaultError> {
        let path = dir.join(from.owner.file_name());
        let Opened { provider, slot, root } = provider::adopt(unlock, &from.owner.describe(), &path, from.root)?;
        let body = Body {
            owner: from.owner,
            slot,
            root,
            generation: from.generation,
            rows: from.rows,
            mac: Vec::new(),
            trust: from.trust,
        };
        let keyring = Self { path, body, provider };
        keyring.integrity_key()?; // the rows belong to this root key
        Ok(keyring)
    }

    fn write(&self, body: &mut Body, existing: Existing) -> Result<(), VaultError> {
        body.mac = Vec::new();
        body.mac = hmac::sign(&self.integrity_key()?, &encode(body)).as_ref().to_vec();
        let encoded = encode(body);
        let mut file = Vec::with_capacity(PREFIX_BYTES + encoded.len() + DIGEST_BYTES);
        file.extend_from_slice(MAGIC);
        file.push(FORMAT);
        file.extend_from_slice(&(encoded.len() as u32).to_be_bytes());
        file.extend_from_slice(&encoded);
        let digest = digest::digest(&digest::SHA256, &file);
        file.extend_from_slice(digest.as_ref());
        durable::write(&self.path, &file, existing)
    }

    fn check_mac(&self) -> Result<(), VaultError> {
        let bare = Body { mac: Vec::new(), ..self.body.clone() };
        let expected = hmac::sign(&self.integrity_key()?, &encode(&bare));
        constant_time::verify_slices_are_equal(expected.as_ref(), &self.body.mac).map_err(|_| VaultError::Tampered {
            path: self.path.clone(),
            why: "its rows are not the ones it was written with".into(),
        })
    }

    fn integrity_key(&self) -> Result<hmac::Key, VaultError> {
        let row = self.current(Purpose::Integrity, None).ok_or_else(|| VaultError::Tampered {
            path: self.path.clone(),
            why: "its integrity key is missing".into(),
        })?;
        Ok(hmac::Key::new(hmac::HMAC_SHA256, &*self.unwrap(row)?))
    }
}

impl Row {
    /// The place of this row's wrap: purpose, owner, tenant, version, id, name,
    /// and, for a key that signs, in what it does.
    fn with_place<T>(&self, owner: &Owner, f: impl FnOnce(Place<'_>) -> T) -> T {
        let owner = owner.describe();
        let version = self.version.to_be_bytes();
        let mut context: Vec<&[u8]> = vec![
            owner.as_bytes(),
            self.tenant.as_ref().map_or(&[], |tenant| tenant.as_str().as_bytes()),
            &version,
            &self.id,
            self.name.as_deref().unwrap_or_default().as_bytes(),
        ];
        let signs = self.signs.as_ref().map(|signs| minicbor::to_vec(signs).expect("encoding to memory does not fail"));
        context.extend(signs.as_deref());
        f(Place { label: self.purpose.label(), context: &context })
    }
}

/// Reads a keyring file and believes nothing but its digest.
fn read(path: &Path) -> Result<Body, VaultError> {
    let damaged = |why| VaultError::Damaged { path: path.into(), why };
    let bytes = fs::read(path).map_err(VaultError::io("read", path))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(damaged("it is larger than any keyring"));
    }
    if bytes.len() < PREFIX_BYTES + DIGEST_BYTES {
        return Err(damaged("it is cut short"));
    }
    if bytes[..8] != MAGIC[..] {
        return Err(damaged("it does not begin like a keyring"));
    }
    if bytes[8] != FORMAT {
        return Err(VaultError::Newer { path: path.into(), format: bytes[8] });
    }
    let claimed = u32::from_be_bytes(bytes[9..13].try_into().expect("four bytes")) as usize;
    match (PREFIX_BYTES + claimed + DIGEST_BYTES).cmp(&bytes.len()) {
        std::cmp::Ordering::Greater => return Err(damaged("it is cut short")),
        std::cmp::Ordering::Less => return Err(damaged("something follows its end")),
        std::cmp::Ordering::Equal => {}
    }
    let (all, sum) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    if digest::digest(&digest::SHA256, all).as_ref() != sum {
        return Err(damaged("its digest does not match"));
    }
    let body = &all[PREFIX_BYTES..];
    let mut decoder = minicbor::Decoder::new(body);
    match decoder.decode() {
        Ok(decoded) if decoder.position() == body.len() => Ok(decoded),
        _ => Err(damaged("its body cannot be decoded")),
    }
}

fn encode(body: &Body) -> Vec<u8> {
    minicbor::to_vec(body).expect("encoding to memory does not fail")
}

/// The root key as bytes that are zeroed.
mod root_cbor {
    use minicbor::{Decoder, Encoder, decode::Error as DecodeError, encode::Error as EncodeError, encode::Write};
    use zeroize::Zeroizing;

    use crate::secret::Key32;

    pub(super) fn encode<C, W: Write>(key: &Key32, e: &mut Encoder<W>, _: &mut C) -> Result<(), EncodeError<W::Error>> {
        e.bytes(&**key)?;
        Ok(())
    }

    pub(super) fn decode<C>(d: &mut Decoder<'_>, _: &mut C) -> Result<Key32, DecodeError> {
        let bytes = d.bytes()?;
        let mut key = Zeroizing::new([0; 32]);
        if bytes.len() != key.len() {
            return Err(DecodeError::message("a root key has 32 bytes"));
        }
        key.copy_from_slice(bytes);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(dir: &Path) -> (Keyring, Unlock) {
        let key_file = dir.join("key");
        durable::write(&key_file, &[7; 32], Existing::Replace).unwrap();
        let unlock = Unlock::KeyFile(key_file);
        let owner = Owner::Realm(Realm::parse("main").unwrap());
        let mut ring = Keyring::create(dir, owner, &unlock).unwrap();
        for tenant in ["acme", "umbrella"] {
            let tenant = Tenant::parse(tenant).unwrap();
            for (purpose, version) in [(Purpose::TenantKek, 1), (Purpose::TenantKek, 2), (Purpose::Evidence, 1)] {
                let row = ring.new_row(purpose, Some(&tenant), version, None, &random_key().unwrap()).unwrap();
                ring.add(vec![row]);
            }
        }
        ring.save_new().unwrap();
        (ring, unlock)
    }

    /// Changes the rows and writes a file that is sound in itself: by somebody
    /// without the keys (the MAC stays), or by our own code (a new MAC).
    fn reopen(
        ring: &Keyring,
        unlock: &Unlock,
        with_keys: bool,
        change: impl FnOnce(&mut Vec<Row>),
    ) -> Result<Keyring, VaultError> {
        let mut body = ring.body.clone();
        change(&mut body.rows);
        if with_keys {
            ring.write(&mut body, Existing::Replace).unwrap();
        } else {
            let encoded = encode(&body);
            let mut file = [&MAGIC[..], &[FORMAT], &(encoded.len() as u32).to_be_bytes(), &encoded].concat();
            let digest = digest::digest(&digest::SHA256, &file);
            file.extend_from_slice(digest.as_ref());
            fs::write(&ring.path, file).unwrap();
        }
        Keyring::open(&ring.path, unlock, &|_| Ok(()))
    }

    type Change = fn(&mut Vec<Row>);

    #[test]
    fn rows_cannot_be_changed_dropped_added_or_moved_without_the_root_key() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, unlock) = keyring(dir.path());
        assert!(reopen(&ring, &unlock, false, |_| ()).is_ok());
        let changes: [Change; 6] = [
            |rows| drop(rows.pop()),
            |rows| rows.push(rows[1].clone()),
            |rows| rows.swap(1, 2),
            |rows| rows[1].version = 9,
            |rows| rows[1].tenant = None,
            |rows| rows[1].wrapped[60] ^= 1,
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let refused = reopen(&ring, &unlock, false, change);
            assert!(matches!(refused, Err(VaultError::Tampered { .. })), "change {n}");
        }
        let refused = reopen(&ring, &unlock, false, |rows| drop(rows.remove(0)));
        assert!(matches!(refused, Err(VaultError::Tampered { .. })), "without its integrity key");
    }

    #[test]
    fn a_wrapped_key_opens_in_its_own_row_only() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, unlock) = keyring(dir.path());
        let rows = ring.all().len();
        for from in 1..rows {
            for to in (1..rows).filter(|to| *to != from) {
                let swapped =
                    reopen(&ring, &unlock, true, |rows| rows[to].wrapped = rows[from].wrapped.clone()).unwrap();
                let refused = swapped.unwrap(&swapped.all()[to]);
                assert!(matches!(refused, Err(VaultError::Tampered { .. })), "{from} in place of {to}");
            }
            let as_is = reopen(&ring, &unlock, true, |_| ()).unwrap();
            assert!(as_is.unwrap(&as_is.all()[from]).is_ok());
        }
    }

    #[test]
    fn a_failed_write_changes_nothing_in_memory_either() {
        let dir = tempfile::tempdir().unwrap();
        let (mut ring, _unlock) = keyring(dir.path());
        let before = ring.all().to_vec();
        // A folder in the place of the temporary file: it cannot be removed
        // or written, whoever runs the test.
        fs::create_dir(dir.path().join("realm-main.keyring.new")).unwrap();
        assert!(matches!(ring.change(Vec::clear), Err(VaultError::Io { .. })));
        assert_eq!(ring.all(), before);
    }
}
