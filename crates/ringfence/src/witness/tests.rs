//! A witness is shown histories, honest and forked, is killed before any
//! effect on its disk, and must never have signed two of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use http::StatusCode;
use proptest::prelude::*;
use ringfence_db::disk::Disk;
use ringfence_db::disk::sim::SimDisk;
use ringfence_format::checkpoint::{Checkpoint, VerifierKey};
use ringfence_format::leaf::Hash;
use ringfence_format::proof::{Nodes, consistency};
use ringfence_format::tile::{TILE_HEIGHT, leaf_hash, root_over};
use ringfence_format::witness::with_cosignatures;

use super::request::{AddCheckpoint, PROOF_LINES_MAX, REQUEST_BYTES_MAX};
use super::server;
use super::state::{BadState, Refused, State};

const NAME: &str = "witness.example/one";
const ORIGIN: &str = "example.org/log";

fn dir() -> &'static Path {
    Path::new("/witness")
}

fn log_pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn log_key(seed: u8) -> VerifierKey {
    VerifierKey::new(ORIGIN, log_pair(seed).public_key().as_ref().try_into().unwrap()).unwrap()
}

fn open(disk: &SimDisk) -> Result<State, BadState> {
    State::open(disk.shared(), dir(), Some(NAME), vec![log_key(1)])
}

/// A history: entries are numbers, another branch from `forks` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct History {
    branch: u8,
    forks: u64,
}

const HONEST: History = History { branch: 0, forks: 0 };

struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = std::convert::Infallible;
    fn hashes(&mut self, level: u32, first: u64, count: u64) -> Result<Vec<Hash>, Self::Error> {
        let span = 1u64 << (level * TILE_HEIGHT);
        let one = |i| root_over(&self.0[(i * span) as usize..((i + 1) * span) as usize]);
        Ok((first..first + count).map(one).collect())
    }
}

impl History {
    fn leaves(self, size: u64) -> Vec<Hash> {
        let branch = |i| if i >= self.forks { self.branch } else { 0 };
        (0..size).map(|i| leaf_hash(format!("{} of {i}", branch(i)).as_bytes())).collect()
    }

    fn checkpoint(self, size: u64) -> Checkpoint {
        Checkpoint { origin: ORIGIN.into(), size, root: root_over(&self.leaves(size)) }
    }

    fn note(self, size: u64) -> String {
        let checkpoint = self.checkpoint(size);
        let signature = log_pair(1).sign(checkpoint.to_text().as_bytes());
        checkpoint.to_note(&log_key(1), signature.as_ref().try_into().unwrap())
    }

    fn asks(self, old: u64, size: u64) -> AddCheckpoint {
        let proof = match old {
            1.. if old < size => consistency(&mut Leaves(self.leaves(size)), old, size).unwrap(),
            _ => Vec::new(),
        };
        AddCheckpoint { old, proof, note: self.note(size) }
    }
}

fn add(state: &State, asked: &AddCheckpoint) -> Result<String, Refused> {
    state.add(asked, || 1_700_000_000)
}

#[test]
fn only_what_extends_the_last_checkpoint_is_cosigned() {
    let disk = SimDisk::new();
    let state = open(&disk).unwrap();
    let fork = History { branch: 1, forks: 5 };
    let line = add(&state, &HONEST.asks(0, 10)).unwrap();
    let cosigned = with_cosignatures(&HONEST.note(10), &line);
    assert_eq!(state.verifier_key().cosigned(&cosigned), Ok(Some(1_700_000_000)));
    for (asked, refused) in [
        (HONEST.asks(0, 12), Refused::OldSize(10)),
        (HONEST.asks(9, 12), Refused::OldSize(10)),
        (HONEST.asks(8, 9), Refused::OldSize(10)),
        (fork.asks(10, 12), Refused::BadProof),
        (fork.asks(10, 10), Refused::Fork),
        (AddCheckpoint { proof: vec![[0; 32]], ..HONEST.asks(10, 10) }, Refused::BadProof),
        (AddCheckpoint { proof: Vec::new(), ..HONEST.asks(10, 12) }, Refused::BadProof),
        (AddCheckpoint { old: 13, ..HONEST.asks(10, 12) }, Refused::Malformed(String::new())),
    ] {
        let got = add(&state, &asked).expect_err("it does not extend the last");
        assert!(
            got == refused || matches!((&got, &refused), (Refused::Malformed(_), Refused::Malformed(_))),
            "{got:?}"
        );
    }
    assert!(add(&state, &HONEST.asks(10, 10)).is_ok(), "the same again, for its time");
    assert!(add(&state, &HONEST.asks(10, 300)).is_ok());
    // Both notes of the contradiction are kept.
    let kept = disk.files().into_iter().find(|(path, _)| path.starts_with("/witness/forks")).expect("evidence").1;
    let kept = String::from_utf8(kept).unwrap();
    assert!(kept.contains(&HONEST.note(10)) && kept.contains(&fork.note(10)));
    assert!(add(&state, &fork.asks(0, 300)).is_err());
    drop(state);
    assert_eq!(open(&disk).unwrap().seen(ORIGIN), Some(300));
}

#[test]
fn an_empty_tree_is_empty_and_a_first_proof_too() {
    let state = open(&SimDisk::new()).unwrap();
    let mut not_empty = HONEST.asks(0, 1);
    let checkpoint = Checkpoint { size: 0, ..HONEST.checkpoint(1) };
    let signature = log_pair(1).sign(checkpoint.to_text().as_bytes());
    not_empty.note = checkpoint.to_note(&log_key(1), signature.as_ref().try_into().unwrap());
    assert_eq!(add(&state, &not_empty), Err(Refused::BadProof));
    assert!(add(&state, &HONEST.asks(0, 0)).is_ok());
    let proof = AddCheckpoint { proof: vec![[1; 32]], ..HONEST.asks(0, 5) };
    assert_eq!(add(&state, &proof), Err(Refused::BadProof));
    assert!(add(&state, &HONEST.asks(0, 5)).is_ok());
}

#[test]
fn a_stranger_or_another_log_is_refused_and_other_signatures_are_ignored() {
    let state = open(&SimDisk::new()).unwrap();
    let mut asked = HONEST.asks(0, 10);
    let stranger = log_pair(9).sign(HONEST.checkpoint(10).to_text().as_bytes());
    asked.note = HONEST.checkpoint(10).to_note(&log_key(9), stranger.as_ref().try_into().unwrap());
    assert!(matches!(add(&state, &asked), Err(Refused::Unsigned(_))));
    asked.note = HONEST.note(10).replace("\n10\n", "\n11\n");
    assert!(matches!(add(&state, &asked), Err(Refused::Unsigned(_))));
    asked.note = HONEST.note(10).replace(ORIGIN, "example.org/other");
    assert_eq!(add(&state, &asked), Err(Refused::UnknownOrigin));
    let strange_line = HONEST.checkpoint(10).to_note(&log_key(9), stranger.as_ref().try_into().unwrap());
    let strange_line = strange_line.lines().last().unwrap().to_owned();
    asked.note = format!("{}{strange_line}\n", HONEST.note(10));
    assert!(add(&state, &asked).is_ok());
}

#[test]
fn answers_are_those_of_the_specification() {
    let disk = SimDisk::new();
    let state = open(&disk).unwrap();
    let fork = History { branch: 1, forks: 0 };
    let body = |asked: AddCheckpoint| asked.to_body().into_bytes();
    let long = vec![b'a'; REQUEST_BYTES_MAX + 1];
    let many = AddCheckpoint { proof: vec![[0; 32]; PROOF_LINES_MAX + 1], ..HONEST.asks(0, 10) };
    for (what, bytes, status) in [
        ("good", body(HONEST.asks(0, 10)), StatusCode::OK),
        ("old size", body(HONEST.asks(0, 12)), StatusCode::CONFLICT),
        ("another root", body(fork.asks(10, 10)), StatusCode::CONFLICT),
        ("no proof", body(fork.asks(10, 12)), StatusCode::UNPROCESSABLE_ENTITY),
        ("another log", body(HONEST.asks(0, 10)).replace_all("example.org/log", "other"), StatusCode::NOT_FOUND),
        ("changed", body(HONEST.asks(0, 10)).replace_all("\n10\n", "\n11\n"), StatusCode::FORBIDDEN),
        ("too large an old size", body(AddCheckpoint { old: 11, ..HONEST.asks(0, 10) }), StatusCode::BAD_REQUEST),
        ("nothing", Vec::new(), StatusCode::BAD_REQUEST),
        ("not UTF-8", vec![0xff; 10], StatusCode::BAD_REQUEST),
        ("too long", long, StatusCode::BAD_REQUEST),
        ("too much proof", body(many), StatusCode::BAD_REQUEST),
        ("leading zero", body(HONEST.asks(0, 10)).replace_all("old 0\n", "old 00\n"), StatusCode::BAD_REQUEST),
        ("a sign", body(HONEST.asks(0, 10)).replace_all("old 0\n", "old +0\n"), StatusCode::BAD_REQUEST),
        ("no old size", body(HONEST.asks(0, 10)).replace_all("old 0\n", ""), StatusCode::BAD_REQUEST),
        ("a short hash", body(HONEST.asks(0, 10)).replace_all("old 0\n", "old 0\nAAAA\n"), StatusCode::BAD_REQUEST),
    ] {
        let answer = server::add(&state, &bytes);
        assert_eq!(answer.status(), status, "{what}");
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind == server::SIZE_TYPE, what == "old size", "{what}");
    }
}

trait ReplaceAll {
    fn replace_all(self, from: &str, to: &str) -> Vec<u8>;
}

impl ReplaceAll for Vec<u8> {
    fn replace_all(self, from: &str, to: &str) -> Vec<u8> {
        String::from_utf8(self).unwrap().replace(from, to).into_bytes()
    }
}

#[test]
fn requests_read_back() {
    let asked = HONEST.asks(7, 300);
    assert!(!asked.proof.is_empty());
    assert_eq!(AddCheckpoint::from_body(asked.to_body().as_bytes()), Ok(asked));
}

#[test]
fn a_state_that_is_lost_or_damaged_is_not_begun_anew() {
    let disk = SimDisk::new();
    let state = open(&disk).unwrap();
    let key = state.verifier_key().to_string();
    add(&state, &HONEST.asks(0, 10)).unwrap();
    assert!(matches!(open(&disk), Err(BadState::InUse(_))));
    drop(state);
    let files: Vec<_> = disk.files().into_iter().map(|(path, _)| path).filter(|p| !p.ends_with("lock")).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for path in &files {
        let gone = disk.duplicate();
        gone.unlink(path).unwrap();
        assert!(matches!(open(&gone), Err(BadState::Damaged { .. })), "without {}", path.display());
        let (_, bytes) = disk.files().into_iter().find(|(p, _)| p == path).unwrap();
        for at in 0..bytes.len() {
            let changed = disk.duplicate();
            changed.tamper(path, |bytes| bytes[at] ^= 1);
            match open(&changed) {
                Err(BadState::Damaged { .. } | BadState::Name(_)) => {}
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("{} byte {at}", path.display()),
            }
        }
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            let short = disk.duplicate();
            short.tamper(path, |bytes| bytes.truncate(cut));
            assert!(matches!(open(&short), Err(BadState::Damaged { .. })), "{} cut at {cut}", path.display());
        }
    }
    assert_eq!(open(&disk).unwrap().verifier_key().to_string(), key);
    let other = State::open(disk.shared(), dir(), Some("another"), vec![log_key(1)]);
    assert!(matches!(other, Err(BadState::Name(_))));
    assert!(matches!(State::open(SimDisk::new().shared(), dir(), None, vec![log_key(1)]), Err(BadState::Name(_))));
    // A log that is watched no more is remembered.
    drop(State::open(disk.shared(), dir(), None, vec![]).unwrap());
    assert_eq!(open(&disk).unwrap().seen(ORIGIN), Some(10));
}

/// Everything that ever left a witness with its name under it.
#[derive(Default)]
struct Signed(BTreeMap<u64, History>);

impl Signed {
    /// All of it is one history.
    fn check(&self) {
        for (small, one) in &self.0 {
            for (large, other) in self.0.range(small..) {
                assert_eq!(
                    one.checkpoint(*small).root,
                    other.checkpoint(*small).root,
                    "{small} and {large}: {one:?} {other:?}"
                );
            }
        }
    }

    fn note(&mut self, history: History, size: u64) {
        if let Some(before) = self.0.insert(size, history) {
            assert_eq!(before.checkpoint(size).root, history.checkpoint(size).root, "two trees of {size}");
        }
    }
}

/// Asks as somebody with the log's key does who wants two histories signed:
/// with the size that it is told, or another.
fn ask(state: &State, history: History, size: u64, signed: &mut Signed) -> Result<(), ()> {
    let seen = state.seen(ORIGIN).unwrap_or(0);
    for old in [seen, 0, size] {
        if old > size {
            continue;
        }
        match add(state, &history.asks(old, size)) {
            Ok(line) => {
                let note = with_cosignatures(&history.note(size), &line);
                assert_eq!(state.verifier_key().cosigned(&note), Ok(Some(1_700_000_000)));
                signed.note(history, size);
            }
            Err(Refused::Broken) => return Err(()),
            Err(_) => {}
        }
    }
    Ok(())
}

fn histories() -> impl Strategy<Value = Vec<(History, u64)>> {
    let history = prop_oneof![
        2 => Just(HONEST),
        3 => (1u8..3, 0u64..30).prop_map(|(branch, forks)| History { branch, forks }),
    ];
    prop::collection::vec((history, 0u64..40), 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn never_two_histories_whatever_is_asked_and_whenever_it_dies(
        asked in histories(), effects in 1u64..120, seed: u64, lost: bool,
    ) {
        let disk = SimDisk::new();
        disk.stop_before(effects);
        let mut signed = Signed::default();
        let (before, after) = asked.split_at(asked.len() / 2);
        if let Ok(state) = open(&disk) {
            for (history, size) in before {
                if ask(&state, *history, *size, &mut signed).is_err() {
                    break;
                }
            }
        }
        let next = if lost { disk.crash(seed) } else { disk.kill() };
        // A first start that was cut off may be begun again; nothing was signed.
        let state = open(&next).map_err(|e| TestCaseError::fail(format!("{e}")))?;
        let most = signed.0.keys().next_back().copied().unwrap_or(0);
        prop_assert!(state.seen(ORIGIN).unwrap() >= most, "it forgot what it signed");
        for (history, size) in after {
            let _ = ask(&state, *history, *size, &mut signed);
        }
        signed.check();
    }
}

#[test]
fn a_crash_at_any_effect_leaves_a_witness_that_starts_and_remembers() {
    let script = |disk: &SimDisk, signed: &mut Signed| {
        let Ok(state) = open(disk) else { return };
        for (history, size) in [(HONEST, 3), (History { branch: 1, forks: 2 }, 5), (HONEST, 9), (HONEST, 20)] {
            if ask(&state, history, size, signed).is_err() {
                return;
            }
        }
    };
    let all = SimDisk::new();
    script(&all, &mut Signed::default());
    assert!(all.effects() > 20);
    for n in 1..=all.effects() {
        for seed in 0..6 {
            let disk = SimDisk::new();
            disk.stop_before(n);
            let mut signed = Signed::default();
            script(&disk, &mut signed);
            let after = if seed == 0 { disk.kill() } else { disk.crash(seed * 7919 + n) };
            let state = open(&after).unwrap_or_else(|e| panic!("stopped before effect {n}, seed {seed}: {e}"));
            let most = signed.0.keys().next_back().copied().unwrap_or(0);
            assert!(state.seen(ORIGIN).unwrap() >= most, "stopped before effect {n}");
            for branch in [1, 0, 2] {
                let _ = ask(&state, History { branch, forks: 2 }, 30, &mut signed);
            }
            signed.check();
        }
    }
}

/// Two at once for the same log: one waits, and the later sees what it did.
#[test]
fn requests_at_the_same_time_are_judged_one_after_the_other() {
    let state = Arc::new(open(&SimDisk::new()).unwrap());
    add(&state, &HONEST.asks(0, 4)).unwrap();
    let threads: Vec<_> = (0u8..8)
        .map(|branch| {
            let state = state.clone();
            std::thread::spawn(move || {
                let history = History { branch, forks: 4 };
                let size = 5 + u64::from(branch) % 3;
                add(&state, &history.asks(4, size)).ok().map(|_| (history, size))
            })
        })
        .collect();
    let signed: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(signed.len(), 1, "{signed:?}");
}
