//! The realm of the drill's log: root, issuer and admission, all three made for
//! this and thrown away.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use ringfence_format::checkpoint::VerifierKey;
use ringfence_format::leaf::{Hash, ISSUANCE, MANIFEST, PublicEntry};
use ringfence_format::names::{Principal, Realm, SiteId, Tenant};
use ringfence_format::session::{
    Claims, IssuanceDraft, KeyRow, Manifest, PathHash, PublicKey, Purpose, Receipt, SessionToken, SignedManifest,
    Sites, Trust,
};
use ringfence_format::witness::Quorum;

use super::super::idp::{now_s, random_bytes};
use super::log::History;
use crate::cli::Failure;

/// Where the drill's gateway stands.
pub fn site() -> SiteId {
    SiteId::parse("elsewhere").expect("a site's name")
}

fn realm() -> Realm {
    Realm::parse("drill-log").expect("a realm's name")
}

fn tenant() -> Tenant {
    Tenant::parse("drill-log").expect("a tenant's name")
}

fn principal(name: &str) -> Principal {
    Principal::parse(name).expect("a principal's name")
}

/// Keys and their manifest.
pub struct DrillRealm {
    root: Key,
    issuer: Key,
    admission: Key,
    manifest: SignedManifest,
}

struct Key(Ed25519KeyPair);

impl Key {
    fn new() -> Result<Self, Failure> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| Failure::internal("no randomness for a key"))
    }

    fn public(&self) -> PublicKey {
        PublicKey::Ed25519(self.0.public_key().as_ref().try_into().expect("Ed25519 keys have 32 bytes"))
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().expect("Ed25519 signatures have 64 bytes")
    }
}

/// A forged session: where it stands in the fork, and its PASETO.
pub struct Forged {
    index: u64,
    paseto: String,
}

impl DrillRealm {
    pub fn new() -> Result<Self, Failure> {
        let (root, issuer, admission) = (Key::new()?, Key::new()?, Key::new()?);
        let now = now_s();
        let row = |key: &Key, purpose| KeyRow {
            public: key.public(),
            tenant: tenant(),
            purpose,
            sites: Sites::one(site()),
            from_s: now - 60,
            until_s: now + 3600,
        };
        let keys = vec![row(&issuer, Purpose::Api), row(&admission, Purpose::Admission)];
        let manifest = Manifest { version: 0, realm: realm(), seq: 1, previous: None, made_s: now, keys };
        let signature = root.sign(&manifest.to_be_signed());
        Ok(Self { root, issuer, admission, manifest: SignedManifest { manifest, signature } })
    }

    /// The manifest's place in the log.
    pub fn manifest_leaf(&self) -> PublicEntry {
        PublicEntry { kind: MANIFEST, bytes: self.manifest.leaf().to_bytes() }
    }

    /// A session that is signed and admitted, and not on record yet. Whoever
    /// has issuer's and admission's key can make it.
    pub fn draft(&self) -> Result<(PublicEntry, String), Failure> {
        let now = now_s();
        let claims = Claims {
            session: random_bytes(),
            realm: realm(),
            tenant: tenant(),
            purpose: Purpose::Api,
            principal: principal("alice"),
            role: principal("reader"),
            policies: random_bytes(),
            session_policy: [0; 32],
            issued_s: now,
            from_s: now,
            until_s: now + 900,
            sites: Sites::one(site()),
            evidence: hash_of(b"evidence of the drill"),
            issuer: principal("drill"),
            evidence_id: [0; 16],
            confirmation: String::new(),
            parent: None,
        };
        let public = self.issuer.public();
        let message = SessionToken::to_be_signed(&claims, &public).map_err(Failure::internal)?;
        let paseto = SessionToken::paseto(&claims, &public, &self.issuer.sign(&message)).map_err(Failure::internal)?;
        let draft = IssuanceDraft {
            version: 0,
            realm: realm(),
            tenant: random_bytes(),
            kid: public.kid(),
            purpose: claims.purpose,
            from_s: claims.from_s,
            until_s: claims.until_s,
            token_sha256: hash_of(paseto.as_bytes()),
            parent: None,
        };
        let signature = self.admission.sign(&draft.to_be_signed());
        let issuance = draft.admitted(&self.admission.public(), signature);
        Ok((PublicEntry { kind: ISSUANCE, bytes: issuance.to_bytes() }, paseto))
    }

    /// The thief writes a session into a history of their own.
    pub fn issue(&self, fork: &mut History) -> Result<Forged, Failure> {
        let (issuance, paseto) = self.draft()?;
        Ok(Forged { index: fork.add(&issuance), paseto })
    }

    /// With a receipt in which everything is right but who saw it.
    pub fn staple(&self, fork: &History, forged: &Forged, checkpoint: String) -> Result<String, Failure> {
        let Forged { index, paseto } = forged;
        let path = fork.path(*index).into_iter().map(PathHash).collect();
        let receipt = Receipt { index: *index, entry: fork.entry(*index), path, checkpoint };
        SessionToken::staple(paseto, &receipt, None).map_err(Failure::internal)
    }

    /// What a gateway elsewhere is told to believe.
    pub fn trust_file(&self, log: &VerifierKey, quorum: &Quorum) -> String {
        let mut policy = format!("log {log}\n");
        for (number, witness) in (1..).zip(quorum.witnesses()) {
            policy.push_str(&format!("witness w{number} {witness}\n"));
        }
        let members: Vec<_> = (1..=quorum.witnesses().len()).map(|number| format!("w{number}")).collect();
        policy.push_str(&format!("group all-of-us {} {}\nquorum all-of-us\n", quorum.k(), members.join(" ")));
        Trust::text(&policy, [(&realm(), &self.root.public())], [&self.manifest], [])
    }
}

fn hash_of(bytes: &[u8]) -> Hash {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}
