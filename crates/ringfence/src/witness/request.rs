//! What `add-checkpoint` is asked with (C2SP tlog-witness, "add-checkpoint").

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ringfence_format::leaf::Hash;

/// The specification: a client sends no more than 63 lines of proof.
pub const PROOF_LINES_MAX: usize = 63;
/// A whole request: a note of 64 KiB, the longest proof, and the old size.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024 + 64 * 64;

/// A checkpoint, and a proof that it extends what the witness has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the proof begins with.
    pub old: u64,
    /// The consistency proof (RFC 6962, section 2.1.2).
    pub proof: Vec<Hash>,
    /// The signed note, verbatim.
    pub note: String,
}

impl AddCheckpoint {
    /// The body of the request.
    pub fn to_body(&self) -> String {
        let mut body = format!("old {}\n", self.old);
        for hash in &self.proof {
            body.push_str(&BASE64.encode(hash));
            body.push('\n');
        }
        body.push('\n');
        body.push_str(&self.note);
        body
    }

    /// Reads a body; the note in it is not believed yet.
    pub fn from_body(body: &[u8]) -> Result<Self, &'static str> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err("the request is too long");
        }
        let text = std::str::from_utf8(body).map_err(|_| "the request is not UTF-8")?;
        let (head, note) = text.split_once("\n\n").ok_or("no empty line before the checkpoint")?;
        let mut lines = head.split('\n');
        let digits = lines.next().and_then(|line| line.strip_prefix("old ")).ok_or("the first line is not `old N`")?;
        let old: u64 = digits.parse().map_err(|_| "the old size is not a number")?;
        if old.to_string() != digits {
            return Err("the old size is not in the shortest form");
        }
        let hash = |line: &str| BASE64.decode(line).ok().and_then(|bytes| Hash::try_from(bytes).ok());
        let proof: Option<Vec<Hash>> = lines.take(PROOF_LINES_MAX + 1).map(hash).collect();
        let proof = proof.ok_or("a line of the proof is not 32 bytes in base64")?;
        if proof.len() > PROOF_LINES_MAX {
            return Err("more than 63 lines of proof");
        }
        Ok(Self { old, proof, note: note.to_owned() })
    }
}
