//! INVARIANT 1 and the vault's part of INVARIANT 2, through the real policy
//! engine and the real log: nothing opens without a durable record of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ringfence_access::caller::{Origin, PeerCredential, VerifiedSignature, authenticate, operator};
use ringfence_access::keys::{KeyEntry, KeyState, Keys};
use ringfence_access::labels::Labels;
use ringfence_access::permit::{Action, Administer, Read, Write};
use ringfence_access::policy::{Engine, PolicySet, PolicyText};
use ringfence_access::setting::{PlacementRule, Setting, SiteFacts, SiteKind};
use ringfence_access::{Ask, Caller, Permit};
use ringfence_db::clock::ManualClock;
use ringfence_db::disk::RealDisk;
use ringfence_format::chunk::sealed_len;
use ringfence_format::envelope::Fetched;
use ringfence_format::limits::SEGMENT_BYTES;
use ringfence_format::names::*;
use ringfence_format::redo::{Bucket, HeadInfo, LabelSource, Part, Version};
use ringfence_log::{Log, Options, Recorded, Run};
use ringfence_vault::{Unlock, Vault, VaultError};
use tempfile::TempDir;

const NOW: u64 = 1_700_000_000_000_000;

struct World {
    dir: TempDir,
    vault: Vault,
    log: Log,
    engine: Engine,
    caller: Caller,
    bucket: Bucket,
}

fn realm() -> Realm {
    Realm::parse("main").unwrap()
}

fn acme() -> Tenant {
    Tenant::parse("acme").unwrap()
}

fn open_log(dir: &TempDir, vault: &Vault) -> Log {
    let (clock, options) = (Arc::new(ManualClock::new(NOW)), Options { run: Run::Stepped, ..Options::default() });
    Log::open(&dir.path().join("log"), RealDisk::shared(), clock, vault.evidence(), vault.evidence(), options).unwrap()
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
    let vault = Vault::create(dir.path(), &unlock, &realm(), "ringfence.example/log").unwrap();
    vault.add_tenant(&realm(), &acme()).unwrap();
    let log = open_log(&dir, &vault);
    let bucket = Bucket {
        id: BucketId([3; 16]),
        name: BucketName::parse("payroll").unwrap(),
        tenant: acme(),
        created_ms: 1,
        pin: None,
        tags: Vec::new(),
    };
    World { dir, vault, log, engine: engine(), caller: caller(), bucket }
}

fn engine() -> Engine {
    let home = SiteId::parse("home").unwrap();
    let facts = SiteFacts {
        id: home.clone(),
        kind: SiteKind::Private,
        jurisdiction: "DE".into(),
        provider: String::new(),
        dedicated: true,
        tags: Vec::new(),
    };
    let rule = PlacementRule { prefer: vec![home], copies: 1 };
    let placement: BTreeMap<_, _> = Labels::default().iter().map(|label| (label.clone(), rule.clone())).collect();
    let setting = Arc::new(Setting::new(Labels::default(), vec![facts], placement).unwrap());
    let text = ringfence_access::policy::DEFAULT_POLICIES.to_owned();
    let text = PolicyText { name: "default.cedar".into(), text };
    Engine::new(PolicySet::load(setting, &text, &[]).unwrap(), 1)
}

fn caller() -> Caller {
    let id = KeyId::parse("AKIATEST00000001").unwrap();
    let keys = Keys::new([KeyEntry {
        id: id.clone(),
        tenant: acme(),
        realm: realm(),
        principal: Principal::parse("ann").unwrap(),
        state: KeyState::Active,
        issued: Some(1),
    }]);
    let signature = VerifiedSignature::sigv4_was_checked_by_the_wire_layer(id, acme(), realm());
    authenticate(signature, &keys, Origin::default()).unwrap()
}

impl World {
    fn object(&self, version: u8) -> ObjectVersion {
        ObjectVersion { realm: realm(), tenant: acme(), bucket: self.bucket.id, version: VersionUid([version; 16]) }
    }

    fn permit<A: Action>(&self, op: &'static str, object: &ObjectVersion) -> Permit<A> {
        let label = Label::parse("internal").unwrap();
        let key = ObjectKey::parse("a name").unwrap();
        let ask = Ask::on_object(op, &self.bucket, &key, &label).version(object.clone());
        self.engine.decide(&self.caller, ask, NOW).unwrap()
    }

    fn record<T: ringfence_log::Entry>(&self, entry: T) -> Recorded<T> {
        self.log.record_batch(vec![entry]).unwrap().pop().unwrap()
    }

    fn administer(&self) -> Recorded<Permit<Administer>> {
        let operator = operator(PeerCredential::from_so_peercred(0), 0).unwrap();
        let permit = self.engine.decide(&operator, Ask::on_installation("admin:KeysRotate"), NOW).unwrap();
        self.record(permit)
    }

    fn put(&self, object: &ObjectVersion, plain: &[u8]) -> (HeadInfo, Part, Bytes) {
        let permit = self.permit::<Write>("s3:PutObject", object);
        let sealer = self.vault.sealer(&permit, object.clone()).unwrap();
        let mut part = sealer.part().unwrap();
        let first = part.push(plain).unwrap();
        assert!(first.is_some(), "the header is there at once");
        let row = Part {
            id: part.id(),
            number: 1,
            plain_len: plain.len() as u64,
            upload: UploadId([1; 16]),
            chunk_len: SEGMENT_BYTES as u32,
            sealed_len: sealed_len(plain.len() as u64),
            md5: [0; 16],
            checksum: None,
            created_ms: 0,
        };
        let pieces = vec![first.unwrap(), part.finish().unwrap()];
        let sealed = ringfence_format::envelope::Sealed::join(pieces).unwrap();
        assert_eq!(sealed.object(), object);
        (sealer.head_info(), row, sealed.bytes().clone())
    }

    fn get(&self, object: &ObjectVersion, head: &HeadInfo, part: &Part, sealed: &Bytes) -> Result<Bytes, VaultError> {
        let receipt = self.record(self.permit::<Read>("s3:GetObject", object));
        let mut part = self.vault.opener(&receipt, head)?.part(part)?;
        let plain = part.push(&Fetched::new(sealed.clone()))?;
        part.finish()?;
        Ok(plain.into_body())
    }
}

#[test]
fn invariant_1_what_a_receipt_names_opens_and_nothing_else() {
    let world = world();
    let (one, two) = (world.object(1), world.object(2));
    let (head_1, part_1, sealed_1) = world.put(&one, b"first");
    let (head_2, part_2, sealed_2) = world.put(&two, b"second");
    assert_eq!(&world.get(&one, &head_1, &part_1, &sealed_1).unwrap()[..], b"first");
    assert_eq!(&world.get(&two, &head_2, &part_2, &sealed_2).unwrap()[..], b"second");
    // A receipt for one, with everything else from two.
    assert!(matches!(world.get(&one, &head_2, &part_2, &sealed_2), Err(VaultError::Wrapped { .. })));
    assert!(matches!(world.get(&one, &head_1, &part_2, &sealed_2), Err(VaultError::Envelope(_))));
    assert!(matches!(world.get(&one, &head_1, &part_1, &sealed_2), Err(VaultError::Envelope(_))));
}

#[test]
fn a_permit_seals_the_object_it_names_and_no_other() {
    let world = world();
    let (one, two) = (world.object(1), world.object(2));
    let permit = world.permit::<Write>("s3:PutObject", &one);
    assert!(matches!(world.vault.sealer(&permit, two.clone()), Err(VaultError::NotPermitted)));
    let head = world.vault.sealer(&permit, one.clone()).unwrap().head_info();
    assert!(matches!(world.vault.resume_sealer(&permit, two, &head), Err(VaultError::NotPermitted)));
    assert!(world.vault.resume_sealer(&permit, one, &head).is_ok());
}

#[test]
fn a_receipt_that_names_no_object_opens_nothing() {
    let world = world();
    let (head, _, _) = world.put(&world.object(1), b"first");
    let label = Label::parse("internal").unwrap();
    let ask = Ask::on_bucket("s3:GetBucketLocation", &world.bucket, &label);
    let permit: Permit<Read> = world.engine.decide(&world.caller, ask, NOW).unwrap();
    assert!(matches!(world.vault.opener(&world.record(permit), &head), Err(VaultError::NotPermitted)));
}

#[test]
fn scrub_checks_and_recover_opens_heads_on_record() {
    let world = world();
    let object = world.object(1);
    let plain = vec![5; 3 * SEGMENT_BYTES];
    let (head, part, sealed) = world.put(&object, &plain);
    let because = world.administer();
    let verifier = world.vault.verifier(&because, &object, &head).unwrap();
    let mut whole = verifier.part(&part).unwrap();
    let again = whole.verify(Fetched::new(sealed.clone())).unwrap();
    whole.finish().unwrap();
    assert_eq!((again.bytes(), again.object()), (&sealed, &object));
    let mut changed = sealed.to_vec();
    changed[100_000] ^= 1;
    assert!(verifier.part(&part).unwrap().push(&Fetched::new(changed.into())).is_err());

    let permit = world.permit::<Write>("s3:PutObject", &object);
    let sealer = world.vault.resume_sealer(&permit, object.clone(), &head).unwrap();
    let sealed_head = sealer.seal_head(&version(&object, part), &world.bucket).unwrap();
    let opened = world.vault.open_head(&because, &Fetched::new(sealed_head.bytes().clone())).unwrap();
    assert_eq!((opened.object, opened.manifest.bucket), (object, world.bucket.clone()));
    assert_eq!(opened.manifest.version.head, Some(head));
}

#[test]
fn rotation_on_record_keeps_every_object_readable() {
    let world = world();
    let object = world.object(1);
    let (old, part, sealed) = world.put(&object, b"first");
    let because = world.administer();
    assert_eq!(world.vault.rotate_kek(&because, &realm(), &acme()).unwrap(), 2);
    let new = world.vault.rewrap(&because, &object, &old).unwrap();
    let head =
        world.vault.reseal_head(&because, &object, &new, &version(&object, part.clone()), &world.bucket).unwrap();
    let opened = world.vault.open_head(&because, &Fetched::new(head.bytes().clone())).unwrap();
    assert_eq!(opened.manifest.version.head, Some(new.clone()));
    world.vault.retire_kek(&because, &realm(), &acme(), 1).unwrap().finish(0).unwrap();
    assert_eq!(&world.get(&object, &new, &part, &sealed).unwrap()[..], b"first");
    assert!(matches!(world.get(&object, &old, &part, &sealed), Err(VaultError::UnknownKek { .. })));
}

#[test]
fn the_log_reads_back_what_the_vault_sealed_for_it() {
    let world = world();
    let object = world.object(1);
    let (head, part, sealed) = world.put(&object, b"first");
    world.get(&object, &head, &part, &sealed).unwrap();
    let World { dir, vault, log, .. } = world;
    let seq = log.durable_size() - 1;
    log.close().unwrap();
    drop((log, vault));
    let unlock = Unlock::KeyFile(Vault::development_key_file(dir.path()));
    let vault = Vault::open(dir.path(), &unlock).unwrap();
    let log = open_log(&dir, &vault);
    let record = log.lookup(seq).unwrap();
    assert_eq!(record.core.op.0, "s3:GetObject");
    assert_eq!(record.resource.version, Some(object.version));
    for file in walk(&dir.path().join("log")) {
        let bytes = std::fs::read(&file).unwrap();
        for secret in [&b"acme"[..], b"payroll", b"a name", b"s3:GetObject"] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", file.display());
        }
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

fn version(object: &ObjectVersion, part: Part) -> Version {
    Version {
        bucket: object.bucket,
        key: ObjectKey::parse("a name").unwrap(),
        uid: object.version,
        null_version: true,
        delete_marker: false,
        created_ms: 1,
        size: part.plain_len,
        etag: "etag".into(),
        label: Label::parse("internal").unwrap(),
        label_source: LabelSource::Tenant,
        tags: Vec::new(),
        headers: Vec::new(),
        metadata: Vec::new(),
        checksums: Vec::new(),
        parts: vec![part],
        head: None,
        copies: Vec::new(),
        placed_by: Vec::new(),
        policy_epoch: 1,
        retention: None,
        legal_hold: false,
    }
}
