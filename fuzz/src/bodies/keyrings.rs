//! Keyrings and their backups, with bytes changed.
//!
//! Keys are random, so an input is not a file but changes to one: four bytes
//! each say where (two), what to do and with which byte.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::digest;
use ringfence_format::names::{Realm, Tenant};
use ringfence_format::wrap::{self, Place};
use ringfence_vault::{KEYS_DIR, Passphrase, Unlock, Vault};
use zeroize::Zeroizing;

use super::Came;
use super::ground::Ground;

const LOG: &str = "fuzz.example/log";
const PASSPHRASE: &str = "correct horse battery staple";
/// magic 8, format 1, length 4; docs/formats/keyring.md.
const PREFIX: usize = 13;
const SUM: usize = 32;

/// An installation's keys, and a backup of them.
pub(super) struct Keyrings {
    dir: PathBuf,
    key_file: PathBuf,
    installation: Vec<u8>,
    realm: Vec<u8>,
    /// The backup before its slot and its seal.
    plain: Zeroizing<Vec<u8>>,
    /// A slot that costs nothing, and the key it derives.
    slot: (Vec<u8>, [u8; 32]),
}

/// Which file (`i`, `r`, `b`), whether the sum at its end is made to fit
/// (`+`), then the changes.
///
/// Who has no key changes nothing: what opens has the same log, tenants and
/// realm. A backup that is not restored leaves a folder into which the right
/// one can be.
pub fn keyrings(ground: &mut Ground, bytes: &[u8]) -> Came {
    let [which, sum, changes @ ..] = bytes else { return 0 };
    let keyrings = ground.keyrings();
    match which {
        b'i' => keyrings.opens("installation.keyring", &keyrings.installation.clone(), *sum == b'+', changes),
        b'r' => keyrings.opens("realm-home.keyring", &keyrings.realm.clone(), *sum == b'+', changes),
        b'b' => keyrings.restores(*sum == b'+', changes),
        _ => 0,
    }
}

impl Keyrings {
    pub(super) fn new(dir: &Path) -> Self {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).expect("a folder");
        let key_file = dir.join("key");
        fs::write(&key_file, [7; 32]).expect("written");
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).expect("ours");
        let unlock = Unlock::KeyFile(key_file.clone());
        let home = Realm::parse("home").expect("a realm");
        let vault = Vault::create(dir, &unlock, &home, LOG).expect("new keys");
        vault.add_tenant(&home, &Tenant::parse("default").expect("a tenant")).expect("a tenant");
        let backup = dir.join("backup");
        vault.backup(&backup, passphrase()).expect("a backup");
        let keys = dir.join(KEYS_DIR);
        Self {
            installation: fs::read(keys.join("installation.keyring")).expect("a keyring"),
            realm: fs::read(keys.join("realm-home.keyring")).expect("a keyring"),
            plain: opened(&fs::read(&backup).expect("a backup")),
            slot: cheap_slot(),
            dir: dir.to_owned(),
            key_file,
        }
    }

    fn opens(&self, name: &str, genuine: &[u8], fitting: bool, changes: &[u8]) -> Came {
        let path = self.dir.join(KEYS_DIR).join(name);
        let mut file = match fitting {
            false => changed(genuine, changes),
            true => {
                let body = changed(&genuine[PREFIX..genuine.len() - SUM], changes);
                let mut file = genuine[..9].to_vec();
                file.extend_from_slice(&(body.len() as u32).to_be_bytes());
                file.extend_from_slice(&body);
                file
            }
        };
        if fitting {
            let sum = digest::digest(&digest::SHA256, &file);
            file.extend_from_slice(sum.as_ref());
        }
        fs::write(&path, &file).expect("written");
        let opened = Vault::open(&self.dir, &Unlock::KeyFile(self.key_file.clone()));
        fs::write(&path, genuine).expect("written");
        match opened {
            Ok(vault) => is_the_same(&vault),
            Err(error) => {
                assert!(file != genuine, "{error}");
                assert!(!error.to_string().is_empty());
                0
            }
        }
    }

    fn restores(&self, fitting: bool, changes: &[u8]) -> Came {
        let into = self.dir.join("restored");
        let _ = fs::remove_dir_all(&into);
        fs::create_dir_all(&into).expect("a folder");
        let file = match fitting {
            true => self.backup(&changed(&self.plain, changes)),
            // The slot says what a passphrase costs; its cost is not for us to pay.
            false => {
                let whole = self.backup(&self.plain);
                let slot = PREFIX + self.slot.0.len();
                let rest = changed(&whole[slot..], changes);
                [&whole[..slot], &rest].concat()
            }
        };
        let from = self.dir.join("changed");
        fs::write(&from, file).expect("written");
        let unlock = Unlock::KeyFile(self.key_file.clone());
        let restored = Vault::restore(&from, passphrase(), &into, &unlock);
        if restored.is_ok() {
            Vault::open(&into, &unlock).map(drop).expect("what was restored opens");
            return 1;
        }
        assert!(fitting || !into.join(KEYS_DIR).exists(), "what does not authenticate leaves nothing");
        if Vault::exists(&into) {
            return 0;
        }
        fs::write(&from, self.backup(&self.plain)).expect("written");
        // A key in the way that the right backup has not is for a person to judge.
        match Vault::restore(&from, passphrase(), &into, &unlock) {
            Ok(vault) => {
                is_the_same(&vault);
                0
            }
            Err(error) => {
                assert!(!changes.is_empty(), "the right backup is refused: {error}");
                0
            }
        }
    }

    /// A backup of that content, whose passphrase costs nothing.
    fn backup(&self, plain: &[u8]) -> Vec<u8> {
        let (slot, key) = &self.slot;
        let mut file = b"RFbackup\0".to_vec();
        file.extend_from_slice(&(slot.len() as u32).to_be_bytes());
        file.extend_from_slice(slot);
        let sealed = wrap::seal(key, Place { label: "key backup", context: &[&file] }, [3; wrap::SALT_BYTES], plain);
        [file, sealed].concat()
    }
}

fn passphrase() -> Passphrase {
    Passphrase::new(Zeroizing::new(PASSPHRASE.to_owned()))
}

fn is_the_same(vault: &Vault) -> Came {
    let home = Realm::parse("home").expect("a realm");
    let tenants = vault.tenants(&home).expect("the realm");
    assert_eq!(tenants, [Tenant::parse("default").expect("a tenant")]);
    assert_eq!(ringfence_log::SignCheckpoint::name(&*vault.evidence()), LOG);
    1
}

/// `[1, [salt, memory in KiB, passes, lanes]]` with the least that Argon2 takes.
fn cheap_slot() -> (Vec<u8>, [u8; 32]) {
    let salt = [5; 16];
    let mut slot = vec![0x82, 1, 0x84, 0x50];
    slot.extend_from_slice(&salt);
    slot.extend_from_slice(&[8, 1, 1]);
    (slot, derived(&salt, 8, 1, 1))
}

fn derived(salt: &[u8], memory_kib: u32, passes: u32, lanes: u32) -> [u8; 32] {
    let params = Params::new(memory_kib, passes, lanes, Some(32)).expect("parameters");
    let mut key = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(PASSPHRASE.as_bytes(), salt, &mut key).expect("a key");
    key
}

/// The content of a backup that the vault has just made (RFC 9106's second
/// recommended choice: 64 MiB, 3 passes, 4 lanes).
fn opened(backup: &[u8]) -> Zeroizing<Vec<u8>> {
    let len = u32::from_be_bytes(backup[9..PREFIX].try_into().expect("four bytes")) as usize;
    let (header, sealed) = backup.split_at(PREFIX + len);
    let key = derived(&header[PREFIX + 4..PREFIX + 20], 64 * 1024, 3, 4);
    wrap::open(&key, Place { label: "key backup", context: &[header] }, sealed).expect("our own backup")
}

/// Overwrites, flips, removes, inserts or cuts.
fn changed(genuine: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut bytes = genuine.to_vec();
    for change in changes.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % (bytes.len() + 1);
        match change[2] % 5 {
            0 if at < bytes.len() => bytes[at] = change[3],
            1 if at < bytes.len() => bytes[at] ^= change[3],
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => bytes.insert(at, change[3]),
            4 => bytes.truncate(at),
            _ => {}
        }
    }
    bytes
}
