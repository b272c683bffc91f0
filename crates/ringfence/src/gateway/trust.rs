//! What a gateway elsewhere is told to believe, in one file with nothing
//! secret in it.
//!
//! After a first line `ringfence-trust v0`, the lines of a C2SP tlog-policy
//! (which log, which witnesses, what quorum) and three of ours: `root REALM KEY`
//! names the key that signs a realm's manifests, `manifest BASE64` is the one in
//! force, `revocation INDEX BASE64` is for who verifies offline: a gateway reads
//! them all from the log. What is not understood refuses the whole file.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::names::Realm;
use ringfence_format::record::Seq;
use ringfence_format::session::{BadSession, PublicKey, Revocation, SignedManifest};
use ringfence_format::witness::{Cosigned, Policy, Rule};

/// A trust file is not read longer.
const TRUST_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Its first line.
const HEADER: &str = "ringfence-trust v0";

/// A trust file, read.
#[derive(Clone, Debug)]
pub struct Trust {
    policy: Policy,
    log: VerifierKey,
    roots: BTreeMap<Realm, PublicKey>,
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
        if text.lines().next() != Some(HEADER) {
            return Err(format!("the trust file does not begin with `{HEADER}`"));
        }
        let (mut roots, mut manifests) = (BTreeMap::new(), BTreeMap::new());
        let mut policy = String::from("\n");
        for (number, line) in (2..).zip(text.lines().skip(1)) {
            let at = |what: &dyn std::fmt::Display| format!("line {number} of the trust file: {what}");
            let twice = match line.split_ascii_whitespace().collect::<Vec<_>>()[..] {
                ["root", realm, key] => {
                    let realm = Realm::parse(realm).map_err(|e| at(&e))?;
                    let key: PublicKey = key.parse().map_err(|e| at(&e))?;
                    roots.insert(realm, key).is_some()
                }
                ["manifest", base64] => {
                    let signed = read(base64, SignedManifest::from_bytes).map_err(|e| at(&e))?;
                    manifests.insert(signed.manifest.realm.clone(), signed).is_some()
                }
                ["revocation", index, base64] => {
                    let _index: Seq = index.parse().map_err(|e| at(&e))?;
                    let _in_the_log_too = read(base64, Revocation::from_bytes).map_err(|e| at(&e))?;
                    false
                }
                _ => {
                    policy.push_str(line);
                    false
                }
            };
            if twice {
                return Err(at(&"the realm has one already"));
            }
            // Every line keeps its number.
            policy.push('\n');
        }
        let policy: Policy = policy.parse().map_err(|e: ringfence_format::witness::BadPolicy| e.to_string())?;
        let [(log, _)] = &policy.logs[..] else {
            return Err(format!("the trust file names {} logs: a gateway follows one", policy.logs.len()));
        };
        let trust = Self { log: log.clone(), policy, roots, manifests: manifests.into_values().collect() };
        match trust.manifests.iter().find(|manifest| !trust.has_root_of(manifest)) {
            None => Ok(trust),
            Some(SignedManifest { manifest, .. }) => {
                Err(format!("manifest #{} of realm `{}` is not signed by its root", manifest.seq, manifest.realm))
            }
        }
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
    pub fn has_root_of(&self, signed: &SignedManifest) -> bool {
        self.roots.get(&signed.manifest.realm).is_some_and(|root| signed.is_signed_by(root))
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

fn read<T>(base64: &str, from: fn(&[u8]) -> Result<T, BadSession>) -> Result<T, String> {
    let bytes = BASE64.decode(base64).map_err(|_| "not base64")?;
    from(&bytes).map_err(|e| e.to_string())
}
