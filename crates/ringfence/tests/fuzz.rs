//! The bodies of the fuzz targets over their seeds and some thousands of
//! changed ones, so that they hold at every change and cannot rot. `make fuzz`
//! runs the same bodies under libFuzzer.
//!
//! Changes are pseudo-random with a fixed beginning: a failure names its seed
//! and its round, shows the input, and comes again. `FUZZ_TIMES=50` in the
//! environment goes on for fifty times as many rounds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

#[path = "../../../fuzz/src/bodies/mod.rs"]
mod bodies;

use bodies::{Body, Came, Ground, TARGETS};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// One test per target, so that they run beside each other and fail by name.
macro_rules! targets {
    ($($test:ident = $name:literal, $rounds:expr;)*) => {
        $(#[test]
        fn $test() {
            try_hard($name, $rounds);
        })*
        const TRIED: &[&str] = &[$($name),*];
    };
}

// Rounds that cost a few seconds each: what a round costs differs by 1,000.
targets! {
    admin_calls_hold = "admin", 1_000;
    chunked_bodies_hold = "chunked", 1_000;
    documents_hold = "documents", 600;
    evidence_holds = "evidence", 20_000;
    unsigned_heads_hold = "heads", 1_500;
    identity_tokens_hold = "idtokens", 6_000;
    key_sets_hold = "jwks", 20_000;
    keyrings_hold = "keyrings", 1_500;
    session_policies_hold = "narrowing", 10_000;
    policies_hold = "policies", 600;
    proofs_hold = "proofs", 5_000;
    records_hold = "records", 20_000;
    requests_hold = "requests", 1_500;
    session_tokens_hold = "sessions", 20_000;
    settings_hold = "settings", 3_000;
    what_sites_say_holds = "sites", 20_000;
    sts_requests_hold = "sts", 2_000;
    what_a_witness_is_asked_holds = "witness", 4_000;
}

#[test]
fn every_target_is_tried_and_has_its_program() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TRIED);
    let mut programs: Vec<String> = fs::read_dir(fuzz().join("fuzz_targets"))
        .expect("programs")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    programs.sort();
    assert_eq!(programs, names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")), "{name}");
    }
}

fn try_hard(name: &str, rounds: usize) {
    let scratch = tempfile::tempdir().expect("a folder");
    let mut ground = Ground::new(scratch.path());
    let (_, body) = TARGETS.iter().find(|(known, _)| *known == name).expect("a target of the list");
    let seeds = seeds(name);
    let mut expected = std::collections::BTreeSet::new();
    for seed in &seeds {
        let came = one(body, &mut ground, &seed.bytes, &seed.name, 0);
        assert_eq!(came, seed.came, "seed `{}` does not reach what it is for", seed.name);
        expected.insert(came);
    }
    // Seeds that are all refused would try nothing but the first check.
    assert!(expected.len() > 1, "seeds of `{name}` all come to {expected:?}");
    let times = std::env::var("FUZZ_TIMES").map_or(1, |times| times.parse().expect("a number"));
    let mut chance = Chance(0x5eed);
    for round in 1..=rounds * times {
        let seed = chance.of(&seeds);
        let other = chance.of(&seeds);
        let mut bytes = seed.bytes.clone();
        for _ in 0..=chance.below(4) {
            chance.change(&mut bytes, &other.bytes);
        }
        one(body, &mut ground, &bytes, &seed.name, round);
    }
}

fn one(body: &Body, ground: &mut Ground, bytes: &[u8], seed: &str, round: usize) -> Came {
    catch_unwind(AssertUnwindSafe(|| body(ground, bytes)))
        .unwrap_or_else(|_| panic!("seed `{seed}`, round {round}: input {:?}", bytes.escape_ascii().to_string()))
}

/// `CAME-what-it-is`: the beginning says what comes of it unchanged.
struct Seed {
    name: String,
    came: Came,
    bytes: Vec<u8>,
}

fn seeds(name: &str) -> Vec<Seed> {
    let mut seeds: Vec<Seed> = fs::read_dir(fuzz().join("seeds").join(name))
        .expect("seeds")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let came = name.split('-').next().and_then(|came| came.parse().ok());
            Seed { came: came.expect("a number"), bytes: fs::read(&path).expect("a seed"), name }
        })
        .collect();
    seeds.sort_by(|a, b| a.name.cmp(&b.name));
    seeds
}

/// SplitMix64: chance that comes again.
struct Chance(u64);

/// What parsers mind.
const WORDS: &[&str] = &[
    "\0",
    "\r\n",
    "\n\n",
    "%",
    "%00",
    "%2F",
    "../",
    "//",
    "&",
    "=",
    ";",
    ",",
    "\"",
    "'",
    "<",
    ">",
    "/>",
    "<!--",
    "]]>",
    "<![CDATA[",
    "<!DOCTYPE a [<!ENTITY a \"b\">]>",
    "&a;",
    "&#0;",
    "&#xD800;",
    "&lt;",
    "-1",
    "0",
    "1",
    "18446744073709551616",
    "9223372036854775807",
    "4294967295",
    "1e9",
    "ffffffff",
    "0x",
    "[",
    "]",
    "{",
    "}",
    "((((((((",
    "\u{feff}",
    "\u{202e}",
    "ß",
    "*",
    "null",
    "true",
    "aws:",
    "bytes=",
    "bytes=-",
    "x-amz-",
    "versionId=",
    "ringfence-label",
    "restricted",
];

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// A part of some bytes, at most `max` long.
    fn part<'a>(&mut self, bytes: &'a [u8], max: usize) -> &'a [u8] {
        let start = self.below(bytes.len() + 1);
        let len = self.below(max.min(bytes.len() - start) + 1);
        &bytes[start..start + len]
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len() + 1);
        match self.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.next() as u8,
            2 => {
                let end = (at + self.below(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            3 => {
                let word = self.of(WORDS).bytes();
                bytes.splice(at..at, word);
            }
            4 => {
                let part = self.part(other, 64).to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let again = self.part(&bytes.clone(), 64).to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let word = self.of(WORDS).bytes();
                let end = (at + word.len()).min(bytes.len());
                bytes.splice(at..end, word);
            }
            _ => bytes.truncate(at.max(bytes.len() / 2)),
        }
    }
}
