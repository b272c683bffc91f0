//! What a gateway elsewhere is told to believe, in one file with nothing
//! secret in it.
//!
//! The lines of a C2SP tlog-policy (which log, which witnesses, what quorum),
//! and two of ours: `root REALM KEY` names the key that signs a realm's
//! manifests, `manifest BASE64URL` is one of them. What is not understood
//! refuses the whole file.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::names::Realm;
use ringfence_format::session::{PublicKey, SignedManifest};
use ringfence_format::witness::{Cosigned, Policy, Rule};

/// A trust file of this many bytes holds a year of manifests.
const TRUST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A trust file, read.
#[derive(Clone, Debug)]
pub struct Trust {
    policy: Policy,
    log: VerifierKey,
    roots: BTreeMap<Realm, Vec<PublicKey>>,
    manifests: Vec<SignedManifest>,
}

/// A checkpoint that is believed, but for its consistency with others.
#[derive(Clone, Debug)]
pub struct Believed {
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Up to when its witnesses vouch for it, in Unix seconds; nothing where
    /// the trust file names no quorum.
    pub vouched_s: Option<u64>,
}

impl Trust {
    /// Reads a trust file.
    ///
    /// # Errors
    /// The first line that is not understood, or what is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > TRUST_BYTES_MAX {
            return Err("longer than 8 MiB".to_owned());
        }
        let (mut roots, mut manifests) = (BTreeMap::<Realm, Vec<PublicKey>>::new(), vec![]);
        let mut policy = String::new();
        for (number, line) in (1..).zip(text.lines()) {
            let at = |what: &dyn std::fmt::Display| format!("line {number} of the trust file: {what}");
            match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                ["root", realm, key] => {
                    let realm = Realm::parse(realm).map_err(|e| at(&e))?;
                    roots.entry(realm).or_default().push(key.parse().map_err(|e| at(&e))?);
                }
                ["manifest", base64] => manifests.push(read_manifest(base64).map_err(|e| at(&e))?),
                _ => policy.push_str(line),
            }
            // Every line keeps its number.
            policy.push('\n');
        }
        let policy: Policy = policy.parse().map_err(|e: ringfence_format::witness::BadPolicy| e.to_string())?;
        let [(log, _)] = &policy.logs[..] else {
            return Err(format!("the trust file names {} logs: a gateway follows one", policy.logs.len()));
        };
        let signed =
            |m: &SignedManifest| roots.get(&m.manifest.realm).is_some_and(|r| r.iter().any(|r| m.is_signed_by(r)));
        if let Some(other) = manifests.iter().find(|manifest| !signed(manifest)) {
            let (seq, realm) = (other.manifest.seq, &other.manifest.realm);
            return Err(format!("manifest #{seq} of realm `{realm}` is not signed by a root of the trust file"));
        }
        Ok(Self { log: log.clone(), policy, roots, manifests })
    }

    /// The log that is followed.
    pub fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// Whether witnesses must have cosigned.
    pub fn asks_witnesses(&self) -> bool {
        self.policy.quorum.1 != Rule::None
    }

    /// The manifests in it, each signed by a root of its realm.
    pub fn manifests(&self) -> &[SignedManifest] {
        &self.manifests
    }

    /// Whether a manifest that was kept from an earlier trust file still has a
    /// root in this one.
    pub fn has_root_of(&self, manifest: &SignedManifest) -> bool {
        self.roots
            .get(&manifest.manifest.realm)
            .is_some_and(|roots| roots.iter().any(|root| manifest.is_signed_by(root)))
    }

    /// What the log alone says.
    ///
    /// # Errors
    /// The log did not sign it, in words.
    pub fn signed(&self, note: &str) -> Result<Checkpoint, String> {
        verify(note, &self.log).map_err(|e| e.to_string())
    }

    /// What the log says and enough witnesses cosigned.
    ///
    /// # Errors
    /// Who did not sign it, in words.
    pub fn believe(&self, note: &str) -> Result<Believed, String> {
        let cosigned = self.policy.met_by(note).map_err(|e| e.to_string())?;
        let vouched_s = match &self.policy.quorum.1 {
            Rule::None => None,
            rule => Some(self.vouched(rule, &cosigned).ok_or("no quorum")?),
        };
        Ok(Believed { checkpoint: cosigned.checkpoint, vouched_s })
    }

    /// Up to when a rule's witnesses vouch: that of a group is the time of the
    /// member that made it complete.
    fn vouched(&self, rule: &Rule, cosigned: &Cosigned) -> Option<u64> {
        match rule {
            Rule::None => Some(u64::MAX),
            Rule::Witness(at) => {
                let name = self.policy.witnesses.get(*at)?.key.name();
                cosigned.by.iter().find(|(by, _)| by == name).map(|(_, time_s)| *time_s)
            }
            Rule::Group { k, members } => {
                let mut times: Vec<u64> = members.iter().filter_map(|member| self.vouched(member, cosigned)).collect();
                times.sort_unstable_by(|a, b| b.cmp(a));
                times.get(k.checked_sub(1)?).copied()
            }
        }
    }
}

fn read_manifest(base64: &str) -> Result<SignedManifest, String> {
    let bytes = BASE64.decode(base64).map_err(|_| "a manifest is base64url without padding")?;
    SignedManifest::from_bytes(&bytes).map_err(|e| e.to_string())
}
