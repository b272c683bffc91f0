//! A home for gateways: a log with everything its key can sign, truth or not,
//! its realm's keys, and the files it serves. Shared by the unit tests of
//! `gateway/` and by tests/gateway.rs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey};
use ringfence_format::leaf::{ACCESS, ISSUANCE, MANIFEST, REVOCATION};
use ringfence_format::names::{Principal, Realm, SiteId, Tenant};
use ringfence_format::proof::inclusion;
use ringfence_format::session::{
    Claims, IssuanceDraft, KeyRow, Manifest, PathHash, PublicKey, Purpose, Receipt, Revocation, SessionToken,
    SignedManifest, Sites, Target,
};
use ringfence_format::tile::{self, Edge, TILE_WIDTH, TileKind, TilePath, leaf_hash};

pub const ORIGIN: &str = "home.example/log";

/// What is served: path below the log → bytes.
pub type Files = Arc<Mutex<HashMap<String, Vec<u8>>>>;

pub fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed")
}

pub fn public(seed: u8) -> PublicKey {
    PublicKey::Ed25519(pair(seed).public_key().as_ref().try_into().expect("32 bytes"))
}

fn sign(seed: u8, message: &[u8]) -> [u8; 64] {
    pair(seed).sign(message).as_ref().try_into().expect("64 bytes")
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("32 bytes")
}

/// Seeds of the keys: log, root, issuer, admission.
const LOG: u8 = 1;
const ROOT: u8 = 2;
pub const ISSUER: u8 = 3;
const ADMISSION: u8 = 4;

#[derive(Clone, Default)]
pub struct TestHome {
    pub entries: Vec<Vec<u8>>,
    pub files: Files,
    pub manifests: Vec<SignedManifest>,
}

#[allow(dead_code)] // each user of it leaves some of it
impl TestHome {
    /// With one manifest on record, at this time.
    pub fn new(now_s: u64) -> Self {
        let mut home = Self::default();
        home.access(5);
        home.add_manifest(now_s, &[(ISSUER, Purpose::Api), (ADMISSION, Purpose::Admission)]);
        home
    }

    pub fn realm() -> Realm {
        Realm::parse("main").expect("a realm")
    }

    /// The next manifest of the realm, on record.
    pub fn add_manifest(&mut self, now_s: u64, keys: &[(u8, Purpose)]) {
        let sites = Sites::new(vec![SiteId::parse("cloud").unwrap(), SiteId::parse("home").unwrap()]).unwrap();
        let row = |(seed, purpose): &(u8, Purpose)| KeyRow {
            public: public(*seed),
            tenant: Tenant::parse("acme").unwrap(),
            purpose: *purpose,
            sites: sites.clone(),
            from_s: now_s - 1000,
            until_s: now_s + 100_000,
        };
        let last = self.manifests.last().map(|last| &last.manifest);
        let manifest = Manifest {
            version: 0,
            realm: Self::realm(),
            seq: last.map_or(1, |last| last.seq + 1),
            previous: last.map(Manifest::sha256),
            made_s: now_s,
            keys: keys.iter().map(row).collect(),
        };
        let signature = sign(ROOT, &manifest.to_be_signed());
        let signed = SignedManifest { manifest, signature };
        self.public(MANIFEST, &signed.leaf().to_bytes());
        self.manifests.push(signed);
    }

    pub fn public(&mut self, kind: u8, bytes: &[u8]) -> u64 {
        let hash = sha256(&(self.entries.len() as u64).to_be_bytes());
        self.entries.push([&[kind][..], &hash, bytes].concat());
        self.entries.len() as u64 - 1
    }

    /// Records that say nothing to the public.
    pub fn access(&mut self, count: usize) {
        for _ in 0..count {
            let hash = sha256(&(self.entries.len() as u64).to_le_bytes());
            self.entries.push([&[ACCESS][..], &hash].concat());
        }
    }

    pub fn revoke(&mut self, target: Target, from_index: u64, now_s: u64) -> u64 {
        let it = Revocation { version: 0, realm: Self::realm(), target, from_index, at_s: now_s };
        self.public(REVOCATION, &it.to_bytes())
    }

    pub fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    pub fn vkey() -> VerifierKey {
        VerifierKey::new(ORIGIN, pair(LOG).public_key().as_ref().try_into().unwrap()).unwrap()
    }

    pub fn edge(&self, size: u64) -> Edge {
        let mut edge = Edge::new();
        self.entries[..size as usize].iter().for_each(|entry| edge.push(leaf_hash(entry), &mut vec![]));
        edge
    }

    pub fn checkpoint(&self, size: u64) -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), size, root: self.edge(size).root() }
    }

    /// Whatever it is asked to sign.
    pub fn note(&self, size: u64) -> String {
        let checkpoint = self.checkpoint(size);
        checkpoint.to_note(&Self::vkey(), &sign(LOG, checkpoint.to_text().as_bytes()))
    }

    /// Every tile of the tree of the first `size` entries.
    pub fn tiles(&self, size: u64) -> BTreeMap<String, Vec<u8>> {
        let (mut files, mut edge, mut full) = (BTreeMap::new(), Edge::new(), vec![]);
        self.entries[..size as usize].iter().for_each(|entry| edge.push(leaf_hash(entry), &mut full));
        for tile in &full {
            let path = TilePath::full(TileKind::Hashes(tile.level), tile.index);
            files.insert(path.to_string(), tile.hashes.concat());
        }
        for (index, bundle) in (0..).zip(self.entries[..size as usize].chunks(TILE_WIDTH as usize)) {
            let path = TilePath { kind: TileKind::Entries, index, width: bundle.len() as u64 };
            files.insert(path.to_string(), tile::bundle(bundle));
        }
        for path in TilePath::edge(size) {
            if let TileKind::Hashes(level) = path.kind {
                files.insert(path.to_string(), edge.partial(level).concat());
            }
        }
        files
    }

    /// Serves all of it, and nothing that was served before.
    pub fn publish(&self) {
        self.publish_at(self.size());
    }

    pub fn publish_at(&self, size: u64) {
        let mut files = self.files.lock().unwrap();
        files.clear();
        files.extend(self.tiles(size));
        files.insert("checkpoint".into(), self.note(size).into_bytes());
    }

    pub fn claims(session: u8, now_s: u64, lifetime_s: u64) -> Claims {
        Claims {
            session: [session; 16],
            realm: Self::realm(),
            tenant: Tenant::parse("acme").unwrap(),
            purpose: Purpose::Api,
            principal: Principal::parse("idp--alice").unwrap(),
            role: Principal::parse("reader").unwrap(),
            policies: [7; 16],
            session_policy: [0; 32],
            issued_s: now_s,
            from_s: now_s,
            until_s: now_s + lifetime_s,
            sites: Sites::one(SiteId::parse("cloud").unwrap()),
            evidence: [8; 32],
            issuer: Principal::parse("idp").unwrap(),
            evidence_id: [9; 16],
            confirmation: String::new(),
            parent: None,
        }
    }

    /// A token that nobody issued.
    pub fn forge(claims: &Claims) -> String {
        let message = SessionToken::to_be_signed(claims, &public(ISSUER)).unwrap();
        SessionToken::paseto(claims, &public(ISSUER), &sign(ISSUER, &message)).unwrap()
    }

    /// Records the issuance of a token; where it stands.
    pub fn issue(&mut self, claims: &Claims) -> (u64, String) {
        let paseto = Self::forge(claims);
        let draft = IssuanceDraft {
            version: 0,
            realm: claims.realm.clone(),
            tenant: [1; 16],
            kid: public(ISSUER).kid(),
            purpose: claims.purpose,
            from_s: claims.from_s,
            until_s: claims.until_s,
            token_sha256: sha256(paseto.as_bytes()),
            parent: None,
        };
        let signature = sign(ADMISSION, &draft.to_be_signed());
        let issuance = draft.admitted(&public(ADMISSION), signature);
        (self.public(ISSUANCE, &issuance.to_bytes()), paseto)
    }

    /// The token with its receipt under the tree as it is now.
    pub fn staple(&self, index: u64, paseto: &str) -> String {
        let size = self.size();
        let mut nodes = AllHashes(self.entries.iter().map(|entry| leaf_hash(entry)).collect());
        let path = inclusion(&mut nodes, index, size).unwrap().into_iter().map(PathHash).collect();
        let entry = self.entries[index as usize].clone();
        SessionToken::staple(paseto, &Receipt { index, entry, path, checkpoint: self.note(size) }, None).unwrap()
    }

    pub fn session(&mut self, session: u8, now_s: u64, lifetime_s: u64) -> String {
        let (index, paseto) = self.issue(&Self::claims(session, now_s, lifetime_s));
        self.staple(index, &paseto)
    }

    /// A trust file with everything needed.
    pub fn trust(&self) -> String {
        let mut text = format!("ringfence-trust v0\nlog {}\nquorum none\nroot main {}\n", Self::vkey(), public(ROOT));
        if let Some(manifest) = self.manifests.last() {
            text.push_str(&format!("manifest {}\n", BASE64.encode(manifest.to_bytes())));
        }
        text
    }
}

/// A small tree's hashes, all of them computed.
struct AllHashes(Vec<[u8; 32]>);

impl ringfence_format::proof::Nodes for AllHashes {
    type Error = ();

    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<[u8; 32]>, ()> {
        let span = 1 << (8 * level);
        let at = |n: u64| tile::root_over(&self.0[(n * span) as usize..((n + 1) * span) as usize]);
        Ok((first..first + count).map(at).collect())
    }
}
