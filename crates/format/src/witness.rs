//! Witnesses: others who saw a log grow and say so, so that it cannot show two
//! histories.
//!
//! A witness cosigns a checkpoint (C2SP tlog-cosignature, `cosignature/v1`,
//! Ed25519, type 0x04) if it extends the last one it cosigned. Who believes a
//! checkpoint asks that enough of them did: a [`Quorum`], from the signed leaf
//! that names them ([`WitnessSet`]) or from a trust file ([`Policy`]).

mod policy;
mod set;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use crate::checkpoint::{BadCheckpoint, Checkpoint, VerifierKey, key_id, name_is_valid, parse_vkey, parts};
use crate::checkpoint::{signature_line, verify, vkey_text};
use crate::limits::WITNESSES_MAX;

pub use policy::{BadPolicy, Policy, Rule, Witness};
pub use set::{BadWitnessSet, SignedWitnessSet, WitnessSet};

/// Signed-note: type of a timestamped Ed25519 cosignature.
const COSIGNATURE_TYPE: u8 = 4;
/// A timestamp and an Ed25519 signature.
const COSIGNATURE_BYTES: usize = 8 + 64;
/// tlog-cosignature: a timestamp is at most 2^63 − 1.
const TIME_S_MAX: u64 = i64::MAX as u64;

/// A witness's public key: a signed-note verifier key of type 0x04.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WitnessKey {
    name: String,
    public: [u8; 32],
}

impl WitnessKey {
    /// From its parts; refuses a name that signed-note does not allow.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, BadCheckpoint> {
        match name_is_valid(name) {
            true => Ok(Self { name: name.to_owned(), public }),
            false => Err(BadCheckpoint::Key(name.to_owned())),
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// First 4 bytes of SHA-256(name ‖ 0x0a ‖ 0x04 ‖ public key).
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, COSIGNATURE_TYPE, &self.public)
    }

    /// The line that stands under a note for this cosignature.
    pub fn line(&self, time_s: u64, signature: &[u8; 64]) -> String {
        signature_line(&self.name, self.id(), &[&time_s.to_be_bytes()[..], signature].concat())
    }

    /// When this witness cosigned a note, in Unix seconds; the latest where it
    /// did more than once, nothing where it did not.
    ///
    /// # Errors
    /// [`BadCheckpoint::Signature`] where it carries a line of this witness
    /// that is not its cosignature.
    pub fn cosigned(&self, note: &str) -> Result<Option<u64>, BadCheckpoint> {
        let (text, signatures) = parts(note)?;
        let id = self.id();
        let mut latest = None;
        for (name, bytes) in signatures {
            if name == self.name && bytes[..4] == id {
                latest = latest.max(Some(self.time_of(text, &bytes[4..])?));
            }
        }
        Ok(latest)
    }

    fn time_of(&self, text: &str, cosignature: &[u8]) -> Result<u64, BadCheckpoint> {
        let bad = || BadCheckpoint::Signature(self.name.clone());
        if cosignature.len() != COSIGNATURE_BYTES {
            return Err(bad());
        }
        let (time, signature) = cosignature.split_first_chunk::<8>().ok_or_else(bad)?;
        let time_s = u64::from_be_bytes(*time);
        let message = message(time_s, text);
        let signed = UnparsedPublicKey::new(&ED25519, self.public).verify(message.as_bytes(), signature).is_ok();
        if signed && time_s <= TIME_S_MAX { Ok(time_s) } else { Err(bad()) }
    }
}

/// The lines that stand under a checkpoint, as a witness answers with them,
/// joined to the log's own note.
pub fn with_cosignatures(note: &str, lines: &str) -> String {
    match lines.ends_with('\n') || lines.is_empty() {
        true => format!("{note}{lines}"),
        false => format!("{note}{lines}\n"),
    }
}

/// What a note says of itself: to show, never to decide by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimed {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Each name that stands under it, with the time (Unix seconds) where its
    /// line is as long as a cosignature.
    pub by: Vec<(String, Option<u64>)>,
}

impl Claimed {
    /// Reads a note and verifies nothing of it.
    ///
    /// # Errors
    /// It is not in the form of a signed checkpoint.
    pub fn of(note: &str) -> Result<Self, BadCheckpoint> {
        let (text, signatures) = parts(note)?;
        // Before time and signature stand 4 bytes of the key's id.
        let time_s = |bytes: &[u8]| match bytes.len() == 4 + COSIGNATURE_BYTES {
            true => bytes[4..].first_chunk().map(|time| u64::from_be_bytes(*time)),
            false => None,
        };
        let by = signatures.iter().map(|(name, bytes)| ((*name).to_owned(), time_s(bytes))).collect();
        Ok(Self { checkpoint: Checkpoint::from_text(text)?, by })
    }
}

/// What a witness signs: that it saw this at that time.
pub fn message(time_s: u64, note_text: &str) -> String {
    format!("cosignature/v1\ntime {time_s}\n{note_text}")
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey_text(&self.name, COSIGNATURE_TYPE, &self.public))
    }
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WitnessKey {
    type Err = BadCheckpoint;

    fn from_str(text: &str) -> Result<Self, BadCheckpoint> {
        let parsed = parse_vkey(text, COSIGNATURE_TYPE).map(|(name, public)| Self { name: name.to_owned(), public });
        parsed.ok_or_else(|| BadCheckpoint::Key(text.chars().take(200).collect()))
    }
}

/// `k` of these witnesses must have cosigned a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    witnesses: Vec<WitnessKey>,
    k: usize,
}

impl Quorum {
    /// Each witness once, and at least one of them: one key under two names
    /// would count twice.
    pub fn new(witnesses: Vec<WitnessKey>, k: usize) -> Result<Self, BadWitnessSet> {
        let twice = |i: usize, w: &WitnessKey| {
            witnesses[..i].iter().any(|earlier| earlier.public == w.public || earlier.name == w.name)
        };
        if let Some((_, witness)) = witnesses.iter().enumerate().find(|(i, w)| twice(*i, w)) {
            return Err(BadWitnessSet::Twice(witness.name.clone()));
        }
        if witnesses.len() > WITNESSES_MAX || k == 0 || k > witnesses.len() {
            return Err(BadWitnessSet::Threshold { k, n: witnesses.len() });
        }
        Ok(Self { witnesses, k })
    }

    /// The witnesses that count.
    pub fn witnesses(&self) -> &[WitnessKey] {
        &self.witnesses
    }

    /// How many of them must have cosigned.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether the log signed this note and enough witnesses cosigned it. A
    /// line of one of them that is not its cosignature refuses the note.
    pub fn met_by(&self, note: &str, log: &VerifierKey) -> Result<Cosigned, NotMet> {
        let cosigned = Cosigned::of(note, log, &self.witnesses)?;
        match cosigned.by.len() >= self.k {
            true => Ok(cosigned),
            false => Err(NotMet::Quorum { needed: self.k, of: self.witnesses.len(), have: cosigned.by.len() }),
        }
    }
}

/// A checkpoint that the log signed, with who cosigned it when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cosigned {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Witnesses by name, with Unix seconds, latest first.
    pub by: Vec<(String, u64)>,
}

impl Cosigned {
    fn of(note: &str, log: &VerifierKey, witnesses: &[WitnessKey]) -> Result<Self, BadCheckpoint> {
        let checkpoint = verify(note, log)?;
        let mut by = Vec::new();
        for witness in witnesses {
            by.extend(witness.cosigned(note)?.map(|time_s| (witness.name.clone(), time_s)));
        }
        by.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(Self { checkpoint, by })
    }

    /// Up to when `k` witnesses vouch for it, in Unix seconds: no larger tree
    /// had been shown to any of them by then.
    pub fn vouched_until(&self, k: usize) -> Option<u64> {
        self.by.get(k.checked_sub(1)?).map(|(_, time_s)| *time_s)
    }
}

/// Why a checkpoint is not believed by a quorum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMet {
    /// The log itself did not sign it, or it cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] BadCheckpoint),
    /// Too few cosigned it.
    #[error("{have} of the {of} witnesses cosigned the checkpoint, {needed} must have")]
    Quorum {
        /// How many must have.
        needed: usize,
        /// How many there are.
        of: usize,
        /// How many did.
        have: usize,
    },
    /// The rule of a trust file is not met.
    #[error("the checkpoint is cosigned by {}: `quorum {quorum}` is not met", listed(.by))]
    Policy {
        /// The name of the rule.
        quorum: String,
        /// Who did cosign it.
        by: Vec<String>,
    },
    /// None of the logs in a trust file signed it.
    #[error("none of the logs of the trust file signed the checkpoint")]
    UnknownLog,
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "no witness".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
