//! Checkpoints: a tree's size and root, signed (C2SP tlog-checkpoint in a
//! signed-note with an Ed25519 signature of type 0x01).
//!
//! Nothing here holds a private key: signing is handed in.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::leaf::{Hash, sha256};

/// Signed-note: type of an Ed25519 signature.
const ED25519_TYPE: u8 = 1;
/// A note with more signatures than this is not read (its specification
/// allows refusing more than 16 or so; a witness quorum stays below).
const SIGNATURES_MAX: usize = 64;
/// A checkpoint is a few hundred bytes; with witnesses a few thousand.
const NOTE_BYTES_MAX: usize = 64 * 1024;

/// Size and root of a log's tree at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log: a schema-less URL, also the name of its key.
    pub origin: String,
    /// How many entries.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn to_text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    /// Reads the text; further lines (extensions) are allowed and ignored.
    pub fn from_text(text: &str) -> Result<Self, BadCheckpoint> {
        let bad = BadCheckpoint::Syntax;
        let mut lines = text.strip_suffix('\n').ok_or(bad("no newline at its end"))?.split('\n');
        let origin = lines.next().filter(|o| !o.is_empty()).ok_or(bad("no origin"))?;
        let digits = lines.next().ok_or(bad("no size"))?;
        let size: u64 = digits.parse().map_err(|_| bad("its size is not a number"))?;
        if size.to_string() != digits {
            return Err(bad("its size is not in the shortest form"));
        }
        let root = lines.next().and_then(|line| BASE64.decode(line).ok()?.try_into().ok());
        Ok(Self { origin: origin.to_owned(), size, root: root.ok_or(bad("its root is not 32 bytes in base64"))? })
    }

    /// The signed note: the text and one signature line.
    pub fn to_note(&self, key: &VerifierKey, signature: &[u8; 64]) -> String {
        format!("{}\n{}", self.to_text(), signature_line(&key.name, key.id(), signature))
    }
}

/// A line of a note: whose signature, and the signature.
pub(crate) fn signature_line(name: &str, id: [u8; 4], signature: &[u8]) -> String {
    format!("— {name} {}\n", BASE64.encode([&id[..], signature].concat()))
}

/// Checks a note's signature and reads the checkpoint in it, whose origin must
/// be the key's name.
pub fn verify(note: &str, key: &VerifierKey) -> Result<Checkpoint, BadCheckpoint> {
    let text = verify_note(note, key)?;
    let checkpoint = Checkpoint::from_text(text)?;
    if checkpoint.origin != key.name {
        return Err(BadCheckpoint::Origin { found: checkpoint.origin, expected: key.name.clone() });
    }
    Ok(checkpoint)
}

/// Checks a note's signature by `key` and returns the signed text. Signatures
/// by other keys are ignored; one by this key that does not verify refuses
/// the note.
pub fn verify_note<'a>(note: &'a str, key: &VerifierKey) -> Result<&'a str, BadCheckpoint> {
    let (text, signatures) = parts(note)?;
    let mine = signatures.iter().find(|(name, bytes)| *name == key.name && bytes[..4] == key.id());
    match mine {
        None => Err(BadCheckpoint::Unsigned(key.to_string())),
        Some((_, bytes)) if key.signed(text.as_bytes(), &bytes[4..]) => Ok(text),
        Some(_) => Err(BadCheckpoint::Signature(key.name.clone())),
    }
}

/// The name in a signature line, with the key id (4 bytes) and signature.
pub(crate) type Signature<'a> = (&'a str, Vec<u8>);

/// A note's text and its signatures, none of them checked.
pub(crate) fn parts(note: &str) -> Result<(&str, Vec<Signature<'_>>), BadCheckpoint> {
    let bad = BadCheckpoint::Syntax;
    if note.len() > NOTE_BYTES_MAX {
        return Err(bad("longer than 64 KiB"));
    }
    if note.chars().any(|c| c < ' ' && c != '\n') {
        return Err(bad("holds control characters"));
    }
    let split = note.rfind("\n\n").ok_or(bad("no empty line before its signatures"))?;
    let (text, signatures) = (&note[..=split], &note[split + 2..]);
    let lines = signatures.strip_suffix('\n').ok_or(bad("no newline at its end"))?;
    if lines.split('\n').count() > SIGNATURES_MAX {
        return Err(bad("too many signatures"));
    }
    let signatures: Option<_> = lines.split('\n').map(parse_signature).collect();
    Ok((text, signatures.ok_or(bad("a signature line is malformed"))?))
}

fn parse_signature(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, base64) = line.strip_prefix("— ")?.split_once(' ')?;
    let bytes = BASE64.decode(base64).ok().filter(|b| b.len() > 4)?;
    name_is_valid(name).then_some((name, bytes))
}

pub(crate) fn name_is_valid(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

/// Why a checkpoint is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCheckpoint {
    /// It is not in the form of a checkpoint.
    #[error("the checkpoint cannot be read: {0}")]
    Syntax(&'static str),
    /// It carries no signature by the key asked for.
    #[error("the checkpoint is not signed by `{0}`: check that the verifier key belongs to this log")]
    Unsigned(String),
    /// It carries a signature by that key which does not verify.
    #[error("the checkpoint's signature by `{0}` does not verify: it was changed after it was signed")]
    Signature(String),
    /// It speaks of another log.
    #[error("the checkpoint is of log `{found}`, not of `{expected}`")]
    Origin {
        /// The log it names.
        found: String,
        /// The log asked for.
        expected: String,
    },
    /// The verifier key itself is malformed.
    #[error("`{0}` is not a verifier key: expected `name+hash+key` as in `log.vkey`")]
    Key(String),
}

/// A log's public key as a signed-note verifier key, `name+hash+base64`.
#[derive(Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// From its parts; refuses a name that signed-note does not allow.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, BadCheckpoint> {
        if !name_is_valid(name) {
            return Err(BadCheckpoint::Key(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), public })
    }

    /// The key's name, which is the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 public key.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Whether this key's owner signed exactly these bytes (Ed25519, RFC 8032,
    /// section 5.1.7).
    #[must_use]
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.public).verify(message, signature).is_ok()
    }

    /// First 4 bytes of SHA-256(name ‖ 0x0a ‖ type ‖ public key).
    pub fn id(&self) -> [u8; 4] {
        key_id(&self.name, ED25519_TYPE, &self.public)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey_text(&self.name, ED25519_TYPE, &self.public))
    }
}

/// Signed-note: what names a key beside its name.
pub(crate) fn key_id(name: &str, kind: u8, public: &[u8; 32]) -> [u8; 4] {
    let hash = sha256(&[name.as_bytes(), &[b'\n', kind], public].concat());
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Signed-note: a verifier key as text.
pub(crate) fn vkey_text(name: &str, kind: u8, public: &[u8; 32]) -> String {
    let key = BASE64.encode([&[kind], &public[..]].concat());
    format!("{name}+{}+{key}", hex::encode(key_id(name, kind, public)))
}

/// Name and public key of a verifier key of this kind.
pub(crate) fn parse_vkey(text: &str, kind: u8) -> Option<(&str, [u8; 32])> {
    let (name, rest) = text.trim_end_matches('\n').split_once('+')?;
    let (id, key) = rest.split_once('+')?;
    let key = BASE64.decode(key).ok()?;
    let (found, public) = key.split_first()?;
    let public: [u8; 32] = public.try_into().ok()?;
    let right = *found == kind && name_is_valid(name) && id == hex::encode(key_id(name, kind, &public));
    right.then_some((name, public))
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifierKey {
    type Err = BadCheckpoint;

    fn from_str(text: &str) -> Result<Self, BadCheckpoint> {
        let parsed = parse_vkey(text, ED25519_TYPE).map(|(name, public)| Self { name: name.to_owned(), public });
        parsed.ok_or_else(|| BadCheckpoint::Key(text.chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

    // golang.org/x/mod v0.21.0, sumdb/note, Example (BSD-3-Clause).
    const NEUMANN_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NEUMANN_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn the_published_note_verifies_and_any_change_of_it_does_not() {
        let key: VerifierKey = NEUMANN_KEY.parse().unwrap();
        assert_eq!(key.to_string(), NEUMANN_KEY);
        assert!(verify_note(NEUMANN_NOTE, &key).unwrap().ends_with("problem is.\n"));
        let changed = NEUMANN_NOTE.replace("your", "my");
        assert_eq!(verify_note(&changed, &key), Err(BadCheckpoint::Signature("PeterNeumann".into())));
    }

    fn signed(checkpoint: &Checkpoint, seed: u8) -> (String, VerifierKey) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let key = VerifierKey::new(&checkpoint.origin, pair.public_key().as_ref().try_into().unwrap()).unwrap();
        let signature = pair.sign(checkpoint.to_text().as_bytes());
        (checkpoint.to_note(&key, signature.as_ref().try_into().unwrap()), key)
    }

    fn sample() -> Checkpoint {
        Checkpoint { origin: "example.org/log".into(), size: 300, root: [7; 32] }
    }

    #[test]
    fn a_checkpoint_reads_back_under_its_own_key_only() {
        let (note, key) = signed(&sample(), 1);
        assert_eq!(verify(&note, &key), Ok(sample()));
        let (_, other) = signed(&sample(), 2);
        assert!(matches!(verify(&note, &other), Err(BadCheckpoint::Unsigned(_))));
        assert!(matches!(verify(&note.replace("300", "301"), &key), Err(BadCheckpoint::Signature(_))));
    }

    #[test]
    fn a_cosignature_beside_ours_is_ignored() {
        let (note, key) = signed(&sample(), 1);
        let with_witness = format!("{note}— witness.example {}\n", BASE64.encode([3; 76]));
        assert_eq!(verify(&with_witness, &key), Ok(sample()));
    }

    #[test]
    fn malformed_notes_and_keys_are_refused() {
        let (note, key) = signed(&sample(), 1);
        for bad in [
            String::new(),
            note.trim_end().to_owned(),
            note.replace("\n\n", "\n"),
            note.replace("— ", "- "),
            format!("{note}x\n"),
            note.replace("example.org/log\n", "example.org/log\t\n"),
        ] {
            assert!(verify(&bad, &key).is_err(), "{bad:?}");
        }
        for bad in ["", "a+b", "a b+00000000+AA==", &NEUMANN_KEY.replace("c74f20a3", "c74f20a4")] {
            assert!(bad.parse::<VerifierKey>().is_err(), "{bad:?}");
        }
        for bad in ["o\n01\nAA==\n", "o\n1\nAA==\n", "\n1\n", "o\n1\n", "o"] {
            assert!(Checkpoint::from_text(bad).is_err(), "{bad:?}");
        }
    }
}
