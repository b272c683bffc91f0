//! The public trust file, and judging a session with it and nothing else.
//!
//! It opens nothing and holds no secret: which log is believed and which
//! witnesses (C2SP tlog-policy lines), each realm's root, the key manifest that
//! this root signed, and the revocations that are known. Whoever hands one out
//! decides what is believed, so it is kept like a list of trusted certificates.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::manifest::{KeySet, SignedManifest};
use super::paseto::PublicKey;
use super::refusal::Refusal;
use super::revocation::{Revocation, Revocations};
use super::scope::Purpose;
use super::token::{Receipt, SessionToken};
use super::verify::{Issued, Verified};
use crate::limits::TRUST_FILE_BYTES_MAX;
use crate::names::{Realm, SiteId};
use crate::record::Seq;
use crate::witness::{BadPolicy, Cosigned, NotMet, Policy};

/// The first line.
const HEADER: &str = "ringfence-trust v0";

/// A trust file that was read: each manifest in it is signed by its realm's root.
#[derive(Clone, Debug)]
pub struct Trust {
    policy: Policy,
    roots: BTreeMap<Realm, PublicKey>,
    manifests: BTreeMap<Realm, SignedManifest>,
    keys: KeySet,
    revocations: Revocations,
}

impl Trust {
    /// The text of a trust file. `policy` is the text of a C2SP tlog-policy.
    pub fn text<'a>(
        policy: &str,
        roots: impl IntoIterator<Item = (&'a Realm, &'a PublicKey)>,
        manifests: impl IntoIterator<Item = &'a SignedManifest>,
        revocations: impl IntoIterator<Item = (Seq, &'a Revocation)>,
    ) -> String {
        let mut text = format!("{HEADER}\n{}\n", policy.trim_end_matches('\n'));
        let mut line = |words: std::fmt::Arguments<'_>| writeln!(text, "{words}").expect("into memory");
        for (realm, root) in roots {
            line(format_args!("root {realm} {root}"));
        }
        for manifest in manifests {
            line(format_args!("manifest {}", BASE64.encode(manifest.to_bytes())));
        }
        for (index, revocation) in revocations {
            line(format_args!("revocation {index} {}", BASE64.encode(revocation.to_bytes())));
        }
        text
    }

    /// Which log and which witnesses are believed.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The key that signs a realm's manifests.
    pub fn root(&self, realm: &Realm) -> Option<&PublicKey> {
        self.roots.get(realm)
    }

    /// The manifest of each realm.
    pub fn manifests(&self) -> impl Iterator<Item = &SignedManifest> {
        self.manifests.values()
    }

    /// The keys of all realms.
    pub fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// Judges a token for the gateway of `site` at `now_s` (Unix seconds), from
    /// its text alone. Revocations that this trust file does not know are not
    /// seen.
    pub fn verify_offline(&self, text: &str, purpose: Purpose, site: &SiteId, now_s: u64) -> Report {
        let mut steps = Vec::new();
        let session = self.steps(text, purpose, site, now_s, &mut steps);
        if let Err(refusal) = &session {
            let what = STEPS.get(steps.len()).copied().unwrap_or_default();
            steps.push(Step { what, holds: false, detail: refusal.to_string() });
        }
        Report { steps, session }
    }

    fn steps(
        &self,
        text: &str,
        purpose: Purpose,
        site: &SiteId,
        now_s: u64,
        steps: &mut Vec<Step>,
    ) -> Result<Verified, Refusal> {
        let mut holds = |detail: String| steps.push(Step { what: STEPS[steps.len()], holds: true, detail });
        let token = SessionToken::parse(text)?;
        holds(format!("{} bytes", text.len()));
        let signed = token.check_signature(&self.keys, purpose, site, now_s)?;
        let claims = signed.token().claimed();
        let manifest = self.manifests.get(&claims.realm).map_or(0, |signed| signed.manifest.seq);
        holds(format!(
            "by key {} of {}, in manifest #{manifest} of the realm's root",
            signed.token().kid(),
            claims.scope()
        ));
        let none = || Refusal::NotIssued("no receipt is stapled to it".to_owned());
        let cosigned = self.believe(signed.receipt().ok_or_else(none)?)?;
        let size = cosigned.checkpoint.size;
        let by: Vec<&str> = cosigned.by.iter().map(|(name, _)| name.as_str()).collect();
        let by = if by.is_empty() { "no witness".to_owned() } else { by.join(", ") };
        holds(format!("log {}, {size} entries, cosigned by {by}", cosigned.checkpoint.origin));
        let issued = Issued::Root(size, &cosigned.checkpoint.root);
        let index = signed.receipt().ok_or_else(none)?.index;
        let judged = signed.check_issued(issued, &self.keys, &self.revocations);
        if matches!(judged, Ok(_) | Err(Refusal::Revoked { .. })) {
            holds(format!("entry {index} of the log, admitted"));
        }
        let session = judged?;
        holds(format!("by none of the {} revocations known here", self.revocations.iter().count()));
        Ok(session)
    }

    fn believe(&self, receipt: &Receipt) -> Result<Cosigned, Refusal> {
        self.policy.met_by(&receipt.checkpoint).map_err(|why| match why {
            NotMet::Checkpoint(bad) => Refusal::Checkpoint(bad),
            too_few => Refusal::Quorum(too_few.to_string()),
        })
    }
}

/// What is looked at, in this order; the first that does not hold is the last.
const STEPS: [&str; 5] = ["form", "signature", "checkpoint", "issuance", "not revoked"];

/// How a token was judged.
#[derive(Debug)]
pub struct Report {
    /// Every step that was taken.
    pub steps: Vec<Step>,
    /// What came of it.
    pub session: Result<Verified, Refusal>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// `form`, `signature`, `checkpoint`, `issuance`, `not revoked`.
    pub what: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// By what, or why not.
    pub detail: String,
}

impl FromStr for Trust {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        if text.len() > TRUST_FILE_BYTES_MAX {
            return Err(at(0, "longer than 4 MiB"));
        }
        if text.lines().next() != Some(HEADER) {
            return Err(at(1, "does not begin with `ringfence-trust v0`"));
        }
        let mut reader = Reader::default();
        for (number, line) in (2..).zip(text.lines().skip(1)) {
            reader.line(line).map_err(|what| at(number, what))?;
        }
        // Policies count their lines from 1; ours is one further.
        let policy = reader.policy.parse().map_err(|bad: BadPolicy| match bad.line {
            0 => bad,
            line => BadPolicy { line: line + 1, ..bad },
        })?;
        for (realm, manifest) in &reader.manifests {
            let root = reader.roots.get(realm).ok_or_else(|| at(0, format!("realm `{realm}` has no root")))?;
            if manifest.manifest.version != 0 || !manifest.is_signed_by(root) {
                return Err(at(0, format!("the manifest of realm `{realm}` is not signed by its root")));
            }
        }
        let keys = KeySet::new(reader.manifests.values().map(|signed| &signed.manifest));
        let Reader { roots, manifests, revocations, .. } = reader;
        Ok(Self { policy, roots, manifests, keys, revocations })
    }
}

impl std::fmt::Display for Trust {
    /// The roots it trusts, one a line; not the file again.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.roots.iter().try_for_each(|(realm, root)| writeln!(f, "{realm} {root}"))
    }
}

fn at(line: usize, what: impl Into<String>) -> BadPolicy {
    BadPolicy { line, what: what.into() }
}

#[derive(Default)]
struct Reader {
    /// The other lines, with an empty one in the place of each of ours.
    policy: String,
    roots: BTreeMap<Realm, PublicKey>,
    manifests: BTreeMap<Realm, SignedManifest>,
    revocations: Revocations,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["root", realm, key] => self.root(realm, key)?,
            ["manifest", manifest] => self.manifest(manifest)?,
            ["revocation", index, revocation] => self.revocation(index, revocation)?,
            _ => self.policy.push_str(line),
        }
        self.policy.push('\n');
        Ok(())
    }

    fn root(&mut self, realm: &str, key: &str) -> Result<(), String> {
        let realm = Realm::parse(realm).map_err(|e| e.to_string())?;
        let key: PublicKey = key.parse().map_err(|_| format!("`{key}` is not a public key"))?;
        if !matches!(key, PublicKey::Ed25519(_)) {
            return Err("a root is an Ed25519 key".to_owned());
        }
        match self.roots.insert(realm, key) {
            None => Ok(()),
            Some(_) => Err("the realm has a root already".to_owned()),
        }
    }

    fn manifest(&mut self, text: &str) -> Result<(), String> {
        let bytes = BASE64.decode(text).map_err(|_| "the manifest is not base64")?;
        let signed = SignedManifest::from_bytes(&bytes).map_err(|e| e.to_string())?;
        match self.manifests.insert(signed.manifest.realm.clone(), signed) {
            None => Ok(()),
            Some(_) => Err("the realm has a manifest already: only the newest counts".to_owned()),
        }
    }

    fn revocation(&mut self, index: &str, text: &str) -> Result<(), String> {
        let by: Seq = index.parse().map_err(|_| format!("`{index}` is not an index"))?;
        let bytes = BASE64.decode(text).map_err(|_| "the revocation is not base64")?;
        self.revocations.add(by, Revocation::from_bytes(&bytes).map_err(|e| e.to_string())?);
        Ok(())
    }
}
