//! What a witness is asked with.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use ringfence::fuzz::{add_checkpoint, again};
use ringfence_format::checkpoint::{VerifierKey, verify};
use ringfence_format::witness::with_cosignatures;

use super::Came;

/// The status comes. Nothing is cosigned but a checkpoint that the log's own
/// key signed, and the cosignature is of that checkpoint; what can be read is
/// written again as it was read.
pub fn requests(bytes: &[u8]) -> Came {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("a seed");
    let public = pair.public_key().as_ref().try_into().expect("32 bytes");
    let log = VerifierKey::new("fuzz.example/log", public).expect("a name");
    let (status, answer, witness) = add_checkpoint(&log, bytes);
    let read = again(bytes);
    if let Some(read) = &read {
        assert_eq!(read.as_bytes(), bytes);
    }
    if status == 200 {
        let read = read.expect("what is cosigned was read");
        let note = read.split_once("\n\n").expect("an empty line").1;
        let lines = String::from_utf8(answer).expect("a line of a note");
        verify(note, &log).expect("the log signed it");
        assert!(matches!(witness.cosigned(&with_cosignatures(note, &lines)), Ok(Some(_))));
    }
    assert!([200, 400, 403, 404, 409, 422].contains(&status), "{status}");
    status
}
