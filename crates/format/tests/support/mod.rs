//! A realm, a tenant, their keys and a log, to make session tokens with: honest
//! ones, and ones that differ from them in one thing.
#![allow(dead_code)] // not every test and bench uses everything

use std::convert::Infallible;

use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyCompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey};
use ringfence_format::leaf::{Hash, sha256};
use ringfence_format::names::SiteId;
use ringfence_format::proof::{self, Nodes};
use ringfence_format::session::{
    Claims, ISSUANCE, Issuance, IssuanceDraft, Issued, KeyRow, KeySet, Manifest, PathHash, PublicKey, Purpose, Receipt,
    Refusal, Revocations, SessionToken, SignedManifest, Sites, Verified, pre_authentication_encoding,
};
use ringfence_format::tile::{leaf_hash, root_over};

/// When everything here happens, in Unix seconds.
pub const NOW: u64 = 1_800_000_000;
/// The log's name.
pub const ORIGIN: &str = "example.org/log";

pub enum Signer {
    Ed25519(Ed25519KeyPair),
    P384(Box<EcdsaKeyPair>),
}

/// The Ed25519 key of this seed.
pub fn signer(seed: u8) -> Signer {
    Signer::Ed25519(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a seed"))
}

/// A fresh P-384 key.
pub fn p384() -> Signer {
    Signer::P384(Box::new(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key")))
}

impl Signer {
    pub fn public(&self) -> PublicKey {
        match self {
            Self::Ed25519(pair) => PublicKey::Ed25519(pair.public_key().as_ref().try_into().expect("32 bytes")),
            Self::P384(pair) => {
                let point: EcPublicKeyCompressedBin<'_> = pair.public_key().as_be_bytes().expect("a point");
                PublicKey::P384(point.as_ref().try_into().expect("49 bytes"))
            }
        }
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::P384(pair) => pair.sign(&SystemRandom::new(), message).expect("signed").as_ref().to_vec(),
        }
    }

    pub fn sign64(&self, message: &[u8]) -> [u8; 64] {
        self.sign(message).try_into().expect("an Ed25519 signature")
    }

    /// The PASETO of these claims, as an honest issuer makes it.
    pub fn paseto(&self, claims: &Claims) -> String {
        let key = self.public();
        let message = SessionToken::to_be_signed(claims, &key).expect("claims of usual size");
        SessionToken::paseto(claims, &key, &self.sign(&message)).expect("claims of usual size")
    }

    pub fn row(&self, tenant: &str, purpose: Purpose) -> KeyRow {
        KeyRow {
            public: self.public(),
            tenant: name(tenant),
            purpose,
            sites: sites(&["cloud", "home"]),
            from_s: NOW - 1000,
            until_s: NOW + 100_000,
        }
    }
}

/// A name of any kind.
pub fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().expect("a name")
}

pub fn sites(names: &[&str]) -> Sites {
    Sites::new(names.iter().map(|site| name(site)).collect()).expect("sites in order")
}

/// Whole bytes on the wire, so that even those no honest code makes can be made.
pub fn raw_paseto(header: &str, payload: &[u8], footer: &[u8], signature: &[u8]) -> String {
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
    format!("{header}{}.{}", base64(&[payload, signature].concat()), base64(footer))
}

/// As [`raw_paseto`], signed over these very parts.
pub fn sign_raw(signer: &Signer, payload: &[u8], footer: &[u8], implicit: &[u8]) -> String {
    let public = signer.public();
    let (header, message) = match public {
        PublicKey::Ed25519(_) => {
            ("v4.public.", pre_authentication_encoding(&[b"v4.public.", payload, footer, implicit]))
        }
        PublicKey::P384(point) => {
            ("v3.public.", pre_authentication_encoding(&[&point, b"v3.public.", payload, footer, implicit]))
        }
    };
    raw_paseto(header, payload, footer, &signer.sign(&message))
}

pub fn claims() -> Claims {
    Claims {
        session: [7; 16],
        realm: name("main"),
        tenant: name("acme"),
        purpose: Purpose::StsSession,
        principal: name("keycloak--alice"),
        role: name("reader"),
        policies: [1; 16],
        session_policy: [0; 32],
        issued_s: NOW,
        from_s: NOW,
        until_s: NOW + 900,
        sites: sites(&["home"]),
        evidence: [2; 32],
        issuer: name("keycloak"),
        evidence_id: [3; 16],
        confirmation: "ASIAABCDEFGHIJKLMNOP".to_owned(),
        parent: None,
    }
}

pub fn draft(claims: &Claims, issuer: &PublicKey, paseto: &str) -> IssuanceDraft {
    IssuanceDraft {
        version: 0,
        realm: claims.realm.clone(),
        tenant: [9; 16],
        kid: issuer.kid(),
        purpose: claims.purpose,
        from_s: claims.from_s,
        until_s: claims.until_s,
        token_sha256: sha256(paseto.as_bytes()),
        parent: claims.parent.as_ref().map(|parent| parent.index),
    }
}

pub fn admit(draft: IssuanceDraft, admission: &Signer) -> Issuance {
    let signature = admission.sign64(&draft.to_be_signed());
    draft.admitted(&admission.public(), signature)
}

/// The public entry that is hashed into the tree.
pub fn entry(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &[0xcc; 32], bytes].concat()
}

pub fn manifest(realm: &str, keys: Vec<KeyRow>) -> Manifest {
    Manifest { version: 0, realm: name(realm), seq: 1, previous: None, made_s: NOW - 2000, keys }
}

pub fn sign_manifest(manifest: Manifest, root: &Signer) -> SignedManifest {
    let signature = root.sign64(&manifest.to_be_signed());
    SignedManifest { manifest, signature }
}

/// A log in memory.
#[derive(Default)]
pub struct MemoryLog(pub Vec<Hash>);

impl Nodes for &MemoryLog {
    type Error = Infallible;
    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Infallible> {
        let span = 1u64 << (8 * level);
        Ok((first..first + count).map(|i| root_over(&self.0[(i * span) as usize..((i + 1) * span) as usize])).collect())
    }
}

impl MemoryLog {
    /// With so many entries of other things.
    pub fn of(size: u64) -> Self {
        Self((0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect())
    }

    pub fn append(&mut self, entry: &[u8]) -> u64 {
        self.0.push(leaf_hash(entry));
        self.0.len() as u64 - 1
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let Ok(root) = proof::root(&mut &*self, self.0.len() as u64);
        Checkpoint { origin: ORIGIN.to_owned(), size: self.0.len() as u64, root }
    }

    /// The receipt of the entry at `index`, under a note that says `note`.
    pub fn receipt(&self, index: u64, entry: &[u8], note: String) -> Receipt {
        let Ok(path) = proof::inclusion(&mut &*self, index, self.0.len() as u64);
        Receipt { index, entry: entry.to_vec(), path: path.into_iter().map(PathHash).collect(), checkpoint: note }
    }
}

pub fn log_key(log: &Signer) -> VerifierKey {
    VerifierKey::new(ORIGIN, log.public().as_bytes().try_into().expect("Ed25519")).expect("a name")
}

/// Everything that decides about one token, honest until a test changes it.
pub struct Forge {
    pub claims: Claims,
    pub issuer: Signer,
    /// Signed in place of what the issuer should sign.
    pub implicit: Option<Vec<u8>>,
    pub manifests: Vec<Manifest>,
    pub earlier: Vec<Manifest>,
    pub admission: Signer,
    pub draft: fn(&mut IssuanceDraft),
    pub issuance: fn(&mut Issuance),
    pub entry: fn(&mut Vec<u8>),
    pub receipt: fn(&mut Receipt),
    pub policy: Option<String>,
    pub text: fn(String) -> String,
    pub revocations: Revocations,
    pub root: fn(&mut (u64, Hash)),
    pub now_s: u64,
    pub gateway: SiteId,
    pub purpose: Purpose,
}

impl Default for Forge {
    fn default() -> Self {
        let (issuer, admission) = (signer(1), signer(2));
        let rows = vec![issuer.row("acme", Purpose::StsSession), admission.row("acme", Purpose::Admission)];
        Self {
            claims: claims(),
            issuer,
            implicit: None,
            manifests: vec![manifest("main", rows)],
            earlier: vec![],
            admission,
            draft: |_| (),
            issuance: |_| (),
            entry: |_| (),
            receipt: |_| (),
            policy: None,
            text: |text| text,
            revocations: Revocations::default(),
            root: |_| (),
            now_s: NOW + 10,
            gateway: name("home"),
            purpose: Purpose::StsSession,
        }
    }
}

/// What a forge made.
pub struct Made {
    pub text: String,
    pub entry: Vec<u8>,
    pub root: (u64, Hash),
}

impl Forge {
    pub fn make(&self) -> Made {
        let public = self.issuer.public();
        let paseto = match &self.implicit {
            None => self.issuer.paseto(&self.claims),
            Some(implicit) => {
                let payload = self.claims.to_bytes().expect("claims of usual size");
                sign_raw(&self.issuer, &payload, public.kid().to_string().as_bytes(), implicit)
            }
        };
        let mut draft = draft(&self.claims, &public, &paseto);
        (self.draft)(&mut draft);
        let mut issuance = admit(draft, &self.admission);
        (self.issuance)(&mut issuance);
        let mut entry = entry(ISSUANCE, &issuance.to_bytes());
        (self.entry)(&mut entry);
        let mut log = MemoryLog::of(5);
        let index = log.append(&entry);
        log.append(b"one more");
        let mut receipt = log.receipt(index, &entry, "a note\n".to_owned());
        (self.receipt)(&mut receipt);
        let text = SessionToken::staple(&paseto, &receipt, self.policy.as_deref()).expect("a token of usual size");
        let checkpoint = log.checkpoint();
        let mut root = (checkpoint.size, checkpoint.root);
        (self.root)(&mut root);
        Made { text: (self.text)(text), entry, root }
    }

    pub fn keys(&self) -> KeySet {
        let mut keys = KeySet::new(&self.manifests);
        self.earlier.iter().for_each(|earlier| keys.remember(earlier));
        keys
    }

    /// All steps, by the receipt and a root that is believed.
    pub fn judge(&self) -> Result<Verified, Refusal> {
        let made = self.make();
        self.judge_text(&made.text, Issued::Root(made.root.0, &made.root.1))
    }

    /// All steps, by the entry of a log that is at hand.
    pub fn judge_at_home(&self) -> Result<Verified, Refusal> {
        let made = self.make();
        self.judge_text(&made.text, Issued::Entry(&made.entry))
    }

    pub fn judge_text(&self, text: &str, issued: Issued<'_>) -> Result<Verified, Refusal> {
        let keys = self.keys();
        let signed = SessionToken::parse(text)?.check_signature(&keys, self.purpose, &self.gateway, self.now_s)?;
        signed.check_issued(issued, &keys, &self.revocations)
    }
}
