//! What a gateway elsewhere is told to believe: the public trust file
//! ([`ringfence_format::session::Trust`]), as far as following a log needs it.

use ringfence_format::checkpoint::{Checkpoint, VerifierKey, verify};
use ringfence_format::session::{self, SignedManifest};
use ringfence_format::witness::{BadPolicy, Cosigned, Rule};

/// A trust file that names one log.
#[derive(Clone, Debug)]
pub struct Trust {
    file: session::Trust,
    log: VerifierKey,
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
        let file: session::Trust = text.parse().map_err(|e: BadPolicy| e.to_string())?;
        match &file.policy().logs[..] {
            [(log, _)] => Ok(Self { log: log.clone(), file }),
            logs => Err(format!("the trust file names {} logs: a gateway follows one", logs.len())),
        }
    }

    /// The log that is followed.
    pub fn log(&self) -> &VerifierKey {
        &self.log
    }

    /// Whether witnesses must have cosigned.
    pub fn asks_witnesses(&self) -> bool {
        self.file.policy().quorum.1 != Rule::None
    }

    /// The manifests in it, each signed by the root of its realm.
    pub fn manifests(&self) -> impl Iterator<Item = &SignedManifest> {
        self.file.manifests()
    }

    /// Whether a manifest that was kept from an earlier trust file still has a
    /// root in this one.
    pub fn has_root_of(&self, signed: &SignedManifest) -> bool {
        self.file.root(&signed.manifest.realm).is_some_and(|root| signed.is_signed_by(root))
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
        let cosigned = self.file.policy().met_by(note).map_err(|e| e.to_string())?;
        let vouched_s = match &self.file.policy().quorum.1 {
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
                let name = self.file.policy().witnesses.get(*at)?.key.name();
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
