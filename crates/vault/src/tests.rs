//! The rules of the vault, without permits and receipts (those are tested
//! through the real policy and log, in `tests/`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use ringfence_format::chunk::sealed_len;
use ringfence_format::envelope::Fetched;
use ringfence_format::limits::SEGMENT_BYTES;
use ringfence_format::names::{
    BucketId, BucketName, KeyId, Label, ObjectKey, ObjectVersion, Realm, Tenant, UploadId, VersionUid,
};
use ringfence_format::redo::{Bucket, HeadInfo, LabelSource, Part, Version};
use tempfile::TempDir;
use zeroize::Zeroizing;

use crate::open::Opener;
use crate::{Passphrase, Sealer, Unlock, Vault, VaultError};

const LOG: &str = "ringfence.example/log";

fn realm() -> Realm {
    Realm::parse("main").unwrap()
}

fn tenant(name: &str) -> Tenant {
    Tenant::parse(name).unwrap()
}

fn object(owner: &str, version: u8) -> ObjectVersion {
    ObjectVersion {
        realm: realm(),
        tenant: tenant(owner),
        bucket: BucketId([3; 16]),
        version: VersionUid([version; 16]),
    }
}

fn development(dir: &Path) -> Unlock {
    Unlock::KeyFile(Vault::development_key_file(dir))
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.to_owned()))
}

/// A vault with tenants `acme` and `umbrella`.
fn vault() -> (TempDir, Vault) {
    let dir = tempfile::tempdir().unwrap();
    let vault = Vault::create(dir.path(), &development(dir.path()), &realm(), LOG).unwrap();
    vault.add_tenant(&realm(), &tenant("acme")).unwrap();
    vault.add_tenant(&realm(), &tenant("umbrella")).unwrap();
    (dir, vault)
}

fn seal(sealer: &Sealer, plain: &[u8], step: usize) -> (Part, Vec<u8>) {
    let mut part = sealer.part().unwrap();
    let mut sealed = Vec::new();
    for piece in plain.chunks(step) {
        if let Some(piece) = part.push(piece).unwrap() {
            sealed.extend_from_slice(piece.bytes());
        }
    }
    let row = Part {
        id: part.id(),
        number: 1,
        plain_len: part.plain_len(),
        upload: UploadId([1; 16]),
        chunk_len: SEGMENT_BYTES as u32,
        sealed_len: sealed_len(part.plain_len()),
        md5: [0; 16],
        checksum: None,
        created_ms: 0,
    };
    sealed.extend_from_slice(part.finish().unwrap().bytes());
    (row, sealed)
}

fn fetched(bytes: &[u8]) -> Fetched {
    Fetched::new(Bytes::copy_from_slice(bytes))
}

fn open(
    vault: &Vault,
    object: &ObjectVersion,
    head: &HeadInfo,
    part: &Part,
    sealed: &[u8],
) -> Result<Vec<u8>, VaultError> {
    let opener = Opener::new(vault.data_key(&Arc::new(object.clone()), head)?);
    let mut part = opener.part(part)?;
    let mut plain = Vec::new();
    for piece in sealed.chunks(50_000) {
        plain.extend_from_slice(&part.push(&fetched(piece))?.into_body());
    }
    part.finish().map(|()| plain)
}

fn bucket(owner: &str) -> Bucket {
    Bucket {
        id: BucketId([3; 16]),
        name: BucketName::parse("payroll").unwrap(),
        tenant: tenant(owner),
        created_ms: 1,
        pin: None,
        tags: Vec::new(),
    }
}

fn version(object: &ObjectVersion, parts: Vec<Part>) -> Version {
    Version {
        bucket: object.bucket,
        key: ObjectKey::parse("a name").unwrap(),
        uid: object.version,
        null_version: true,
        delete_marker: false,
        created_ms: 1,
        size: parts.iter().map(|part| part.plain_len).sum(),
        etag: "etag".into(),
        label: Label::parse("internal").unwrap(),
        label_source: LabelSource::Tenant,
        tags: Vec::new(),
        headers: Vec::new(),
        metadata: Vec::new(),
        checksums: Vec::new(),
        parts,
        head: None,
        copies: Vec::new(),
        placed_by: Vec::new(),
        policy_epoch: 1,
        retention: None,
        legal_hold: false,
    }
}

fn keyring_files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join(crate::KEYS_DIR)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_is_sealed_opens_after_a_restart_for_its_own_object_only() {
    let (dir, vault) = vault();
    let acme = object("acme", 1);
    let sealer = vault.new_sealer(acme.clone()).unwrap();
    let plain = vec![7; 200_000];
    let (part, sealed) = seal(&sealer, &plain, 70_000);
    let head = sealer.head_info();
    drop(vault);
    let vault = Vault::open(dir.path(), &development(dir.path())).unwrap();
    assert!(vault.is_development());
    assert_eq!(open(&vault, &acme, &head, &part, &sealed).unwrap(), plain);
    for other in [object("acme", 2), object("umbrella", 1)] {
        assert!(matches!(open(&vault, &other, &head, &part, &sealed), Err(VaultError::Wrapped { .. })));
    }
    let elsewhere = ObjectVersion { bucket: BucketId([4; 16]), ..acme };
    assert!(matches!(open(&vault, &elsewhere, &head, &part, &sealed), Err(VaultError::Envelope(_))));
}

#[test]
fn two_sealers_share_no_key_and_a_resumed_one_goes_on_with_its_own() {
    let (_dir, vault) = vault();
    let first = vault.new_sealer(object("acme", 1)).unwrap();
    let second = vault.new_sealer(object("acme", 1)).unwrap();
    assert_ne!(first.head_info(), second.head_info());
    let (part, sealed) = seal(&first, b"one", 10);
    assert!(open(&vault, &object("acme", 1), &second.head_info(), &part, &sealed).is_err());
    let resumed = vault.old_sealer(object("acme", 1), &first.head_info()).unwrap();
    assert_eq!(resumed.head_info(), first.head_info());
    let (next_part, next_sealed) = seal(&resumed, b"two", 10);
    assert_ne!(next_part.id, part.id);
    assert_eq!(open(&vault, &object("acme", 1), &first.head_info(), &next_part, &next_sealed).unwrap(), b"two");
    assert_eq!(resumed.next_head().head_info().seq, 2);
}

#[test]
fn a_head_opens_without_the_catalogue_and_says_whose_it_is() {
    let (_dir, vault) = vault();
    let acme = object("acme", 1);
    let sealer = vault.new_sealer(acme.clone()).unwrap();
    let (part, _) = seal(&sealer, b"hello", 10);
    let row = version(&acme, vec![part]);
    let head = sealer.seal_head(&row, &bucket("acme")).unwrap();
    let found = vault.open_any_head(&Fetched::new(head.bytes().clone())).unwrap();
    assert_eq!(found.object, acme);
    assert_eq!(found.manifest.version, Version { head: Some(sealer.head_info()), ..row.clone() });
    assert_eq!(found.manifest.bucket, bucket("acme"));
    let verifier = crate::Verifier::new(vault.data_key(&Arc::new(acme.clone()), &sealer.head_info()).unwrap());
    assert_eq!(verifier.head(1, &Fetched::new(head.bytes().clone())).unwrap().version.key, row.key);
    assert!(sealer.seal_head(&version(&object("acme", 2), Vec::new()), &bucket("acme")).is_err());

    let (_other_dir, other) = self::vault();
    let foreign = other.open_any_head(&Fetched::new(head.bytes().clone()));
    assert!(matches!(foreign, Err(VaultError::UnknownKekId)));
}

#[test]
fn a_head_moved_under_another_tenants_key_id_does_not_open() {
    let (_dir, vault) = vault();
    let head = |owner: &str| {
        let object = object(owner, 1);
        let sealer = vault.new_sealer(object.clone()).unwrap();
        sealer.seal_head(&version(&object, Vec::new()), &bucket(owner)).unwrap().bytes().to_vec()
    };
    let (mut ours, theirs) = (head("acme"), head("umbrella"));
    ours[9..25].copy_from_slice(&theirs[9..25]);
    assert!(matches!(vault.open_any_head(&fetched(&ours)), Err(VaultError::Wrapped { .. })));
}

#[test]
fn streams_may_move_between_threads() {
    fn check<T: Send>() {}
    check::<(Sealer, crate::PartSealer, Opener, crate::PartOpener, crate::Verifier, crate::Plaintext)>();
    fn share<T: Send + Sync>() {}
    share::<(Vault, crate::Evidence, Sealer, Opener)>();
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let (dir, _vault) = vault();
    for file in keyring_files(dir.path()) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let keys = fs::metadata(dir.path().join(crate::KEYS_DIR)).unwrap();
    assert_eq!(keys.permissions().mode() & 0o777, 0o700);
}

#[test]
fn tenants_are_made_once_and_unknown_ones_are_named() {
    let (_dir, vault) = vault();
    assert!(matches!(vault.add_tenant(&realm(), &tenant("acme")), Err(VaultError::TenantExists(_))));
    let stranger = vault.new_sealer(object("stranger", 1)).err().unwrap();
    assert_eq!(
        stranger.to_string(),
        "tenant `stranger` has no keys in realm `main`: add it with `ringfence tenant add`"
    );
    let other = Realm::parse("other").unwrap();
    assert!(matches!(vault.add_tenant(&other, &tenant("x")), Err(VaultError::UnknownRealm(_))));
    assert_eq!(vault.tenants(&realm()).unwrap(), [tenant("acme"), tenant("umbrella")]);
}

#[test]
fn each_realm_has_a_root_of_its_own_and_a_tenant_belongs_to_one() {
    let (dir, vault) = vault();
    let other = Realm::parse("other").unwrap();
    vault.add_realm(&other, &development(dir.path())).unwrap();
    assert!(matches!(vault.add_tenant(&other, &tenant("acme")), Err(VaultError::TenantExists(_))));
    vault.add_tenant(&other, &tenant("globex")).unwrap();
    vault.current_kek(&realm(), &tenant("acme")).unwrap();
    assert!(vault.current_kek(&other, &tenant("acme")).is_err());
    assert!(vault.current_kek(&realm(), &tenant("globex")).is_err());
    // A row of one realm does not unwrap in the other, even for its own code.
    let rings = vault.rings();
    let row = rings.realm(&realm()).unwrap().all().last().unwrap();
    assert!(matches!(rings.realm(&other).unwrap().unwrap(row), Err(VaultError::Tampered { .. })));
}

#[test]
fn a_withdrawn_key_file_stops_reading_within_the_lease() {
    let (dir, vault) = vault();
    let sealer = vault.new_sealer(object("acme", 1)).unwrap();
    let (part, sealed) = seal(&sealer, b"hello", 10);
    let (head, acme) = (sealer.head_info(), object("acme", 1));
    let key_file = Vault::development_key_file(dir.path());
    let aside = dir.path().join("aside");
    fs::rename(&key_file, &aside).unwrap();
    assert!(open(&vault, &acme, &head, &part, &sealed).is_ok(), "the lease still runs");
    let vault = vault.with_lease(Duration::ZERO);
    vault.end_lease(&tenant("acme"));
    let refused = open(&vault, &acme, &head, &part, &sealed).err().unwrap();
    assert!(refused.to_string().contains("is not there: put it back"), "{refused}");
    fs::rename(&aside, &key_file).unwrap();
    assert!(open(&vault, &acme, &head, &part, &sealed).is_ok());
}

#[test]
fn rotation_rewraps_and_an_old_key_is_retired_only_when_nothing_needs_it() {
    let (dir, vault) = vault();
    let acme = object("acme", 1);
    let sealer = vault.new_sealer(acme.clone()).unwrap();
    let (part, sealed) = seal(&sealer, b"hello", 10);
    let old = sealer.head_info();
    assert_eq!(vault.rewrap_head(&acme, &old).unwrap(), old, "nothing to do yet");
    let retire = |version| vault.begin_retiring(&realm(), &tenant("acme"), version);
    assert!(matches!(retire(1), Err(VaultError::CurrentKek { .. })));
    assert_eq!(vault.rotate(&realm(), &tenant("acme")).unwrap(), 2);
    let new = vault.rewrap_head(&acme, &old).unwrap();
    assert_eq!((new.seq, new.kek), (old.seq + 1, 2));
    for head in [&old, &new] {
        assert_eq!(open(&vault, &acme, head, &part, &sealed).unwrap(), b"hello");
    }
    assert!(matches!(retire(9), Err(VaultError::UnknownKek { .. })));
    assert!(matches!(retire(1), Err(VaultError::KekInUse { heads: 1, .. })), "a sealer lives");
    drop(sealer);
    let in_use = retire(1).unwrap().finish(5);
    assert!(matches!(in_use, Err(VaultError::KekInUse { heads: 5, .. })));
    let retiring = retire(1).unwrap();
    assert!(matches!(retire(1), Err(VaultError::KekClosing { .. })), "twice at a time");
    assert!(matches!(vault.old_sealer(acme.clone(), &old), Err(VaultError::KekClosing { .. })));
    assert!(vault.new_sealer(acme.clone()).is_ok(), "the current version goes on");
    drop(retiring);
    drop(vault.old_sealer(acme.clone(), &old).unwrap());
    retire(1).unwrap().finish(0).unwrap();
    assert!(vault.old_sealer(acme.clone(), &old).is_err());
    drop(vault);
    let vault = Vault::open(dir.path(), &development(dir.path())).unwrap();
    assert_eq!(vault.kek_versions(&realm(), &tenant("acme")).unwrap().all, [2]);
    assert_eq!(open(&vault, &acme, &new, &part, &sealed).unwrap(), b"hello");
    let refused = open(&vault, &acme, &old, &part, &sealed);
    assert!(matches!(refused, Err(VaultError::UnknownKek { version: 1, .. })));
    // A version number is never used again, so that a head cannot mean two keys.
    assert_eq!(vault.rotate(&realm(), &tenant("acme")).unwrap(), 3);
}

#[test]
fn secrets_open_for_their_own_key_and_tenant_only() {
    let (dir, vault) = vault();
    let (id, other) = (KeyId::parse("AKEXAMPLE0123456").unwrap(), KeyId::parse("AKEXAMPLE6543210").unwrap());
    let sealed = vault.seal_secret(&realm(), &tenant("acme"), &id, "s3cret").unwrap();
    assert!(!sealed.windows(6).any(|w| w == b"s3cret"));
    assert_eq!(vault.secret_for(&realm(), &tenant("acme"), &id, &sealed).unwrap().expose_secret(), "s3cret");
    assert!(vault.secret_for(&realm(), &tenant("acme"), &other, &sealed).is_err());
    assert!(vault.secret_for(&realm(), &tenant("umbrella"), &id, &sealed).is_err());
    // Rotation of the tenant's KEK does not touch them.
    vault.rotate(&realm(), &tenant("acme")).unwrap();
    assert!(vault.secret_for(&realm(), &tenant("acme"), &id, &sealed).is_ok());

    vault.put_named_secret("site/cloud", "first").unwrap();
    vault.put_named_secret("site/cloud", "second").unwrap();
    drop(vault);
    let vault = Vault::open(dir.path(), &development(dir.path())).unwrap();
    assert_eq!(vault.named_secret("site/cloud").unwrap().expose_secret(), "second");
    assert!(matches!(vault.named_secret("site/other"), Err(VaultError::UnknownSecret(_))));
}

#[test]
fn a_passphrase_opens_and_a_wrong_one_is_told_from_a_damaged_file() {
    let dir = tempfile::tempdir().unwrap();
    let right = || Unlock::Passphrase(passphrase("correct horse battery"));
    let short = Vault::create(dir.path(), &Unlock::Passphrase(passphrase("short")), &realm(), LOG);
    assert!(matches!(short, Err(VaultError::WeakPassphrase { .. })));
    let vault = Vault::create(dir.path(), &right(), &realm(), LOG).unwrap();
    assert!(!vault.is_development());
    drop(vault);
    let wrong = Vault::open(dir.path(), &Unlock::Passphrase(passphrase("correct horse batterz")));
    assert!(matches!(wrong, Err(VaultError::WrongPassphrase { .. })));
    fs::write(dir.path().join("some.key"), [1; 64]).unwrap();
    fs::set_permissions(dir.path().join("some.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let other = Vault::open(dir.path(), &Unlock::KeyFile(dir.path().join("some.key")));
    assert!(matches!(other, Err(VaultError::OtherUnlock { needs: "passphrase", .. })));
    assert!(Vault::open(dir.path(), &right()).is_ok());
}

#[test]
fn a_key_file_that_is_missing_wrong_short_or_open_to_all_is_refused_by_name() {
    let (dir, vault) = vault();
    drop(vault);
    let key_file = Vault::development_key_file(dir.path());
    let good = fs::read(&key_file).unwrap();
    let check = |expected: &str| {
        let refused = Vault::open(dir.path(), &development(dir.path())).err().unwrap().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(refused.contains("development.key"), "{refused}");
    };
    fs::write(&key_file, [9; 32]).unwrap();
    check("does not open");
    fs::write(&key_file, [9; 31]).unwrap();
    check("fewer than 32 bytes");
    fs::write(&key_file, &good).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    check("chmod 600");
    fs::remove_file(&key_file).unwrap();
    check("is not there");
    fs::write(&key_file, &good).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(Vault::open(dir.path(), &development(dir.path())).is_ok());
}

#[test]
fn a_missing_keyring_and_an_existing_one_are_told_apart() {
    let (dir, vault) = vault();
    drop(vault);
    let again = Vault::create(dir.path(), &development(dir.path()), &realm(), LOG);
    assert!(matches!(again, Err(VaultError::KeyringExists { .. })));
    let empty = tempfile::tempdir().unwrap();
    let nothing = Vault::open(empty.path(), &development(empty.path())).err().unwrap().to_string();
    assert!(nothing.contains("ringfence keys restore"), "{nothing}");
}

#[test]
fn a_first_start_that_was_cut_off_can_be_done_again() {
    let (dir, vault) = vault();
    drop(vault);
    let installation = dir.path().join(crate::KEYS_DIR).join("installation.keyring");
    fs::remove_file(&installation).unwrap();
    // With tenants in it, the realm's keyring is no remainder of a first start.
    let refused = Vault::create(dir.path(), &development(dir.path()), &realm(), LOG);
    assert!(matches!(refused, Err(VaultError::KeyringExists { .. })));

    let dir = tempfile::tempdir().unwrap();
    drop(Vault::create(dir.path(), &development(dir.path()), &realm(), LOG).unwrap());
    fs::remove_file(dir.path().join(crate::KEYS_DIR).join("installation.keyring")).unwrap();
    fs::write(dir.path().join(crate::KEYS_DIR).join("installation.keyring.new"), b"half").unwrap();
    let vault = Vault::create(dir.path(), &development(dir.path()), &realm(), LOG).unwrap();
    vault.add_tenant(&realm(), &tenant("acme")).unwrap();
}

#[test]
fn every_damaged_byte_and_every_cut_of_a_keyring_is_refused() {
    let (dir, vault) = vault();
    drop(vault);
    for file in keyring_files(dir.path()).into_iter().filter(|file| file.extension().is_some_and(|e| e == "keyring")) {
        let good = fs::read(&file).unwrap();
        for at in (0..good.len()).step_by(7) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&file, &bad).unwrap();
            let refused = Vault::open(dir.path(), &development(dir.path())).err();
            let expected = matches!(refused, Some(VaultError::Damaged { .. } | VaultError::Newer { .. }));
            assert!(expected, "byte {at} of {}: {refused:?}", file.display());
        }
        for len in (0..good.len()).step_by(5) {
            fs::write(&file, &good[..len]).unwrap();
            let refused = Vault::open(dir.path(), &development(dir.path())).err().unwrap();
            assert!(matches!(refused, VaultError::Damaged { .. }), "cut at {len}: {refused}");
            assert!(refused.to_string().contains("ringfence keys restore"), "{refused}");
        }
        fs::write(&file, &good).unwrap();
        assert!(Vault::open(dir.path(), &development(dir.path())).is_ok());
    }
}

#[test]
fn a_keyring_under_another_realms_name_is_called_that() {
    let (dir, vault) = vault();
    drop(vault);
    let keys = dir.path().join(crate::KEYS_DIR);
    fs::copy(keys.join("realm-main.keyring"), keys.join("realm-other.keyring")).unwrap();
    let refused = Vault::open(dir.path(), &development(dir.path())).err().unwrap();
    assert!(matches!(refused, VaultError::WrongRealm { .. }), "{refused}");
    assert!(refused.to_string().contains("is the keyring of realm `main`, not of realm `other`"), "{refused}");
    fs::remove_file(keys.join("realm-other.keyring")).unwrap();
    fs::copy(keys.join("realm-main.keyring"), keys.join("installation.keyring")).unwrap();
    assert!(matches!(Vault::open(dir.path(), &development(dir.path())), Err(VaultError::WrongRealm { .. })));
}

#[test]
fn a_backup_brings_every_key_back_under_another_unlock() {
    let (dir, vault) = vault();
    vault.rotate(&realm(), &tenant("acme")).unwrap();
    vault.put_named_secret("site/cloud", "credential").unwrap();
    let acme = object("acme", 1);
    let sealer = vault.new_sealer(acme.clone()).unwrap();
    let (part, sealed) = seal(&sealer, b"hello", 10);
    let file = dir.path().join("backup");
    let right = || passphrase("a passphrase for the safe");
    assert!(matches!(vault.backup(&file, passphrase("short")), Err(VaultError::WeakPassphrase { .. })));
    vault.backup(&file, right()).unwrap();
    assert!(vault.backup(&file, right()).is_err(), "an older backup is not overwritten");
    let public = ringfence_log::SignCheckpoint::public_key(&*vault.evidence());

    let new = tempfile::tempdir().unwrap();
    let unlock = development(new.path());
    let wrong = Vault::restore(&file, passphrase("a passphrase for the sofa"), new.path(), &unlock);
    assert!(matches!(wrong, Err(VaultError::WrongPassphrase { .. })));
    let restored = Vault::restore(&file, right(), new.path(), &unlock).unwrap();
    assert_eq!(open(&restored, &acme, &sealer.head_info(), &part, &sealed).unwrap(), b"hello");
    assert_eq!(restored.named_secret("site/cloud").unwrap().expose_secret(), "credential");
    assert_eq!(ringfence_log::SignCheckpoint::public_key(&*restored.evidence()), public);
    restored.rotate(&realm(), &tenant("acme")).unwrap();
    drop(restored);
    Vault::open(new.path(), &unlock).unwrap();
    let again = Vault::restore(&file, right(), new.path(), &unlock);
    assert!(matches!(again, Err(VaultError::KeyringExists { .. })));
}

#[test]
fn a_restore_that_was_cut_off_is_completed_by_the_next() {
    let (dir, vault) = vault();
    let file = dir.path().join("backup");
    let right = || passphrase("a passphrase for the safe");
    vault.backup(&file, right()).unwrap();
    let new = tempfile::tempdir().unwrap();
    let unlock = development(new.path());
    let restore = || Vault::restore(&file, right(), new.path(), &unlock);
    drop(restore().unwrap());
    // The installation's keyring is written last: this is what a crash before it leaves.
    let last = new.path().join(crate::KEYS_DIR).join("installation.keyring");
    fs::remove_file(&last).unwrap();
    restore().unwrap().rotate(&realm(), &tenant("acme")).unwrap();

    // A keyring with other keys than the backup's is not part of it.
    fs::remove_file(&last).unwrap();
    assert!(matches!(restore(), Err(VaultError::KeyringExists { .. })));
}

#[test]
fn a_damaged_backup_is_told_from_a_wrong_passphrase() {
    let (dir, vault) = vault();
    let file = dir.path().join("backup");
    let right = || passphrase("a passphrase for the safe");
    vault.backup(&file, right()).unwrap();
    let good = fs::read(&file).unwrap();
    let new = tempfile::tempdir().unwrap();
    let restore = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Vault::restore(&file, right(), new.path(), &development(new.path())).err()
    };
    let mut last = good.clone();
    *last.last_mut().unwrap() ^= 1;
    assert!(matches!(restore(&last), Some(VaultError::Damaged { .. })));
    for len in [0, 5, 8, 9, 12, 20, good.len() - 1] {
        assert!(matches!(restore(&good[..len]), Some(VaultError::Damaged { .. })), "cut at {len}");
    }
    let mut newer = good.clone();
    newer[8] = 1;
    assert!(matches!(restore(&newer), Some(VaultError::Newer { .. })));
    assert!(restore(&good).is_none());
}

/// Keyrings and a backup that a second implementation wrote from
/// docs/formats/keyring.md.
mod written_elsewhere {
    use super::*;

    fn testdata(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
    }

    fn expected(name: &str) -> Vec<u8> {
        let text = fs::read_to_string(testdata("expected.txt")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        let digits = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn check(vault: &Vault) {
        assert_eq!(ringfence_log::SignCheckpoint::public_key(&*vault.evidence()).to_vec(), expected("log_public_key"));
        assert_eq!(ringfence_log::SignCheckpoint::name(&*vault.evidence()), LOG);
        assert_eq!(vault.named_secret("site/cloud").unwrap().expose_secret(), "credential");
        let id = KeyId::parse("AKEXAMPLE0123456").unwrap();
        let secret = vault.secret_for(&realm(), &tenant("acme"), &id, &expected("access_key_secret")).unwrap();
        assert_eq!(secret.expose_secret(), "s3cret");
        let version = VersionUid(expected("version").try_into().unwrap());
        let acme = Arc::new(ObjectVersion { version, ..object("acme", 0) });
        let wrapped_dek = expected("wrapped_dek").try_into().unwrap();
        let key = vault.data_key(&acme, &HeadInfo { seq: 1, kek: 2, wrapped_dek }).unwrap();
        assert_eq!(key.expose().to_vec(), expected("dek"));
        let kek = vault.current_kek(&realm(), &tenant("acme")).unwrap();
        assert_eq!((kek.version, kek.id.0.to_vec()), (2, expected("kek_id")));
        vault.rotate(&realm(), &tenant("acme")).unwrap();
    }

    #[test]
    fn their_keyring_opens() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join(crate::KEYS_DIR);
        fs::create_dir(&keys).unwrap();
        for name in ["development.key", "installation.keyring", "realm-main.keyring"] {
            fs::copy(testdata("keys").join(name), keys.join(name)).unwrap();
            fs::set_permissions(keys.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        check(&Vault::open(dir.path(), &development(dir.path())).unwrap());
        let ours = Vault::open(dir.path(), &development(dir.path())).unwrap();
        assert_eq!(ours.kek_versions(&realm(), &tenant("acme")).unwrap().all, [1, 2, 3], "after a rotation of ours");
    }

    #[test]
    fn their_backup_restores() {
        let dir = tempfile::tempdir().unwrap();
        let right = passphrase("a passphrase for the safe");
        check(&Vault::restore(&testdata("backup"), right, dir.path(), &development(dir.path())).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_size_and_any_range_comes_back(
        len in 0_usize..300_000,
        step in 1_usize..100_000,
        a: prop::sample::Index,
        b: prop::sample::Index,
    ) {
        thread_local!(static VAULT: (TempDir, Vault) = vault());
        let plain: Vec<u8> = (0..len).map(|i| (i * 31 % 256) as u8).collect();
        VAULT.with(|(_, vault)| {
            let acme = object("acme", 1);
            let sealer = vault.new_sealer(acme.clone()).unwrap();
            let (part, sealed) = seal(&sealer, &plain, step);
            assert_eq!(open(vault, &acme, &sealer.head_info(), &part, &sealed).unwrap(), plain);
            if len > 0 {
                let (a, b) = (a.index(len), b.index(len));
                let (a, b) = (a.min(b), a.max(b) + 1);
                let opener = Opener::new(vault.data_key(&Arc::new(acme), &sealer.head_info()).unwrap());
                let mut range = opener.range(&part, a as u64..b as u64).unwrap();
                let at = range.located().sealed.clone();
                let out = range.push(&fetched(&sealed[at.start as usize..at.end as usize])).unwrap();
                range.finish().unwrap();
                assert_eq!(out.as_bytes(), &plain[a..b]);
            }
        });
    }
}
