use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::*;

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(seed: u8) -> [u8; 32] {
    pair(seed).public_key().as_ref().try_into().unwrap()
}

fn witness(seed: u8) -> WitnessKey {
    WitnessKey::new(&format!("witness.example/w{seed}"), public(seed)).unwrap()
}

fn line(seed: u8, time_s: u64, text: &str) -> String {
    let signature = pair(seed).sign(message(time_s, text).as_bytes());
    witness(seed).line(time_s, signature.as_ref().try_into().unwrap())
}

fn log() -> VerifierKey {
    VerifierKey::new("example.org/log", public(100)).unwrap()
}

fn checkpoint() -> Checkpoint {
    Checkpoint { origin: "example.org/log".into(), size: 300, root: [7; 32] }
}

/// The log's own note, and with cosignatures of these witnesses at these times.
fn note(by: &[(u8, u64)]) -> String {
    let text = checkpoint().to_text();
    let signature = pair(100).sign(text.as_bytes());
    let mut note = checkpoint().to_note(&log(), signature.as_ref().try_into().unwrap());
    by.iter().for_each(|(seed, time_s)| note.push_str(&line(*seed, *time_s, &text)));
    note
}

/// c2sp.org/tlog-cosignature, "Ed25519 signed message".
#[test]
fn the_message_is_that_of_the_specification() {
    let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    let expected = "cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n\
                    CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
    assert_eq!(message(1_679_315_147, text), expected);
}

#[test]
fn a_key_reads_back_and_one_of_a_log_is_none_of_a_witness() {
    let key = witness(1);
    assert_eq!(key.to_string().parse(), Ok(key.clone()));
    let log = VerifierKey::new(key.name(), *key.public()).unwrap();
    assert_ne!(log.id(), key.id());
    assert!(log.to_string().parse::<WitnessKey>().is_err());
    assert!(key.to_string().parse::<VerifierKey>().is_err());
    assert!(WitnessKey::new("a+b", [0; 32]).is_err());
}

#[test]
fn a_cosignature_is_of_one_note_one_time_and_one_witness() {
    let good = note(&[(1, 1000), (2, 2000)]);
    assert_eq!(witness(1).cosigned(&good), Ok(Some(1000)));
    assert_eq!(witness(2).cosigned(&good), Ok(Some(2000)));
    assert_eq!(witness(3).cosigned(&good), Ok(None));
    assert_eq!(witness(1).cosigned(&note(&[(1, 1000), (1, 1500)])), Ok(Some(1500)), "the latest");
    let bad = Err(BadCheckpoint::Signature(witness(1).name().to_owned()));
    assert_eq!(witness(1).cosigned(&good.replacen("\n300\n", "\n301\n", 1)), bad);
    // The time is signed too.
    let text = checkpoint().to_text();
    let signature = pair(1).sign(message(1000, &text).as_bytes());
    let moved = witness(1).line(1001, signature.as_ref().try_into().unwrap());
    assert_eq!(witness(1).cosigned(&format!("{}{moved}", note(&[]))), bad);
    let far = witness(1).line(1 << 63, pair(1).sign(message(1 << 63, &text).as_bytes()).as_ref().try_into().unwrap());
    assert_eq!(witness(1).cosigned(&format!("{}{far}", note(&[]))), bad);
    // A plain signature of the note is no cosignature, whatever the line claims.
    let plain = signature_line(witness(1).name(), witness(1).id(), pair(1).sign(text.as_bytes()).as_ref());
    assert_eq!(witness(1).cosigned(&format!("{}{plain}", note(&[]))), bad);
}

#[test]
fn a_quorum_counts_each_of_its_witnesses_once_and_no_other() {
    let quorum = Quorum::new(vec![witness(1), witness(2), witness(3)], 2).unwrap();
    let met = quorum.met_by(&note(&[(1, 1000), (3, 3000), (9, 9000)]), &log()).unwrap();
    assert_eq!(met.checkpoint, checkpoint());
    assert_eq!(met.by, [(witness(3).name().to_owned(), 3000), (witness(1).name().to_owned(), 1000)]);
    assert_eq!((met.vouched_until(1), met.vouched_until(2), met.vouched_until(3)), (Some(3000), Some(1000), None));
    assert_eq!(met.vouched_until(0), None);
    for few in [&[][..], &[(1, 1000)], &[(1, 1000), (1, 2000)], &[(1, 1000), (9, 1)]] {
        assert!(matches!(quorum.met_by(&note(few), &log()), Err(NotMet::Quorum { .. })), "{few:?}");
    }
    let text = checkpoint().to_text();
    let unsigned = format!("{text}\n{}{}", line(1, 1, &text), line(2, 1, &text));
    assert!(matches!(quorum.met_by(&unsigned, &log()), Err(NotMet::Checkpoint(BadCheckpoint::Unsigned(_)))));
    let broken = format!("{}{}", note(&[(1, 1), (2, 2)]), line(3, 1, "another"));
    assert!(matches!(quorum.met_by(&broken, &log()), Err(NotMet::Checkpoint(BadCheckpoint::Signature(_)))));
}

#[test]
fn a_set_that_counts_somebody_twice_or_nobody_is_none() {
    let same_key = WitnessKey::new("other.example", public(1)).unwrap();
    let same_name = WitnessKey::new(witness(1).name(), public(2)).unwrap();
    assert!(matches!(Quorum::new(vec![witness(1), same_key], 1), Err(BadWitnessSet::Twice(_))));
    assert!(matches!(Quorum::new(vec![witness(1), same_name], 1), Err(BadWitnessSet::Twice(_))));
    assert!(matches!(Quorum::new(vec![witness(1)], 0), Err(BadWitnessSet::Threshold { .. })));
    assert!(matches!(Quorum::new(vec![witness(1)], 2), Err(BadWitnessSet::Threshold { .. })));
    assert!(matches!(Quorum::new(Vec::new(), 0), Err(BadWitnessSet::Threshold { .. })));
}

fn set(seq: u64, previous: Option<&WitnessSet>, k: u32, witnesses: &[u8]) -> WitnessSet {
    WitnessSet {
        version: 0,
        realm: "main".parse().unwrap(),
        seq,
        previous: previous.map(WitnessSet::sha256),
        k,
        witnesses: witnesses.iter().map(|seed| witness(*seed).to_string()).collect(),
        made_s: 1_700_000_000,
    }
}

#[test]
fn sets_form_a_chain_and_a_lower_one_is_seen() {
    let first = set(1, None, 2, &[1, 2, 3]);
    let next = set(2, Some(&first), 2, &[1, 2, 4]);
    assert_eq!(first.follows(None), Ok(()));
    assert_eq!(next.follows(Some(&first)), Ok(()));
    let foreign = WitnessSet { realm: "other".parse().unwrap(), ..next.clone() };
    for (bad, last) in [
        (&next, None),
        (&first, Some(&first)),
        (&next, Some(&next)),
        (&set(3, Some(&first), 2, &[1, 2]), Some(&first)),
        (&foreign, Some(&first)),
    ] {
        assert!(matches!(bad.follows(last), Err(BadWitnessSet::Sequence { .. })));
    }
    for (k, witnesses, lowers) in [
        (2, &[1, 2, 3][..], false),
        (2, &[4, 5], false),
        (3, &[1, 2, 3], false),
        (3, &[1, 2, 3, 4, 5], true),
        (1, &[1], true),
        (1, &[1, 2, 3], true),
        (0, &[], true),
    ] {
        assert_eq!(set(2, Some(&first), k, witnesses).lowers(&first), lowers, "{k} of {}", witnesses.len());
    }
    assert!(!first.lowers(&set(1, None, 0, &[])));
}

#[test]
fn a_set_is_signed_as_a_whole_and_read_in_one_form_only() {
    let set = set(1, None, 2, &[1, 2, 3]);
    let quorum = set.quorum().unwrap().unwrap();
    assert_eq!((quorum.k(), quorum.witnesses()), (2, &[witness(1), witness(2), witness(3)][..]));
    let signature = pair(50).sign(&set.to_be_signed()).as_ref().try_into().unwrap();
    let signed = SignedWitnessSet { set, signature };
    assert!(signed.is_signed_by(&public(50)) && !signed.is_signed_by(&public(51)));
    let bytes = signed.to_bytes();
    assert_eq!(SignedWitnessSet::from_bytes(&bytes), Ok(signed.clone()));
    assert!(SignedWitnessSet::from_bytes(&[&bytes[..], b"\0"].concat()).is_err());
    let mut other = signed;
    other.set.k = 1;
    assert!(!other.is_signed_by(&public(50)));
    let nobody = WitnessSet { k: 0, witnesses: Vec::new(), ..other.set.clone() };
    assert_eq!(nobody.quorum(), Ok(None));
    let log_key = WitnessSet { witnesses: vec![log().to_string()], ..other.set.clone() };
    assert!(matches!(log_key.quorum(), Err(BadWitnessSet::Key(_))));
    assert_eq!(WitnessSet { version: 1, ..other.set }.quorum(), Err(BadWitnessSet::Version(1)));
}

fn policy(quorum: &str) -> String {
    let mut text = format!("# who is believed\nlog {} https://log.example/\n\n", log());
    for seed in 1..=5 {
        text.push_str(&format!("  witness\tw{seed} {} \n", witness(seed)));
    }
    text + quorum
}

#[test]
fn a_trust_file_is_met_as_its_groups_say() {
    for (quorum, by, met) in [
        ("quorum none\n", &[][..], true),
        ("quorum w2\n", &[2], true),
        ("quorum w2\n", &[1, 3], false),
        ("group g any w1 w2\nquorum g\n", &[2], true),
        ("group g all w1 w2\nquorum g\n", &[2], false),
        ("group g all w1 w2\nquorum w2\n", &[2], true),
        ("group g 2 w1 w2 w3\nquorum g\n", &[1, 3], true),
        ("group g 2 w1 w2 w3\nquorum g\n", &[1, 5], false),
        ("group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup z all x y\nquorum z\n", &[1, 2, 5], true),
        ("group x 2 w1 w2 w3\ngroup y any w4 w5\ngroup z all x y\nquorum z\n", &[1, 2, 3], false),
    ] {
        let policy: Policy = policy(quorum).parse().unwrap();
        let by: Vec<(u8, u64)> = by.iter().map(|seed| (*seed, 1000)).collect();
        match policy.met_by(&note(&by)) {
            Ok(cosigned) => assert!(met && cosigned.by.len() == by.len(), "{quorum}"),
            Err(why) => assert!(!met && matches!(why, NotMet::Policy { .. }), "{quorum}: {why}"),
        }
    }
    let parsed: Policy = policy("quorum none\n").parse().unwrap();
    assert_eq!(parsed.logs[0].1.as_deref(), Some("https://log.example/"));
    let no_log = Policy { logs: Vec::new(), ..parsed };
    assert_eq!(no_log.met_by(&note(&[])), Err(NotMet::UnknownLog));
}

#[test]
fn a_trust_file_that_is_not_understood_is_not_used() {
    let log = log();
    for (bad, line) in [
        ("", 0),
        ("quorum w9\n", 9),
        ("quorum none\nquorum none\n", 10),
        ("group g 0 w1\nquorum g\n", 9),
        ("group g 3 w1 w2\nquorum g\n", 9),
        ("group g 02 w1 w2\nquorum g\n", 9),
        ("group g most w1 w2\nquorum g\n", 9),
        ("group g all\nquorum g\n", 9),
        ("group g all w1 w1\nquorum g\n", 9),
        ("group g all w1\ngroup h all w1\nquorum h\n", 10),
        ("group g all none w1\nquorum g\n", 9),
        ("group w1 all w2\nquorum w1\n", 9),
        ("group none all w2\nquorum none\n", 9),
        ("deny w1\nquorum none\n", 9),
        ("quorum none now\n", 9),
        (&format!("log {log}\nquorum none\n"), 9),
        (&format!("witness x {}\nquorum none\n", witness(1)), 9),
        (&format!("witness x {log}\nquorum none\n"), 9),
        ("quorum none\r\n", 0),
    ] {
        let refused = policy(bad).parse::<Policy>().expect_err(bad);
        assert_eq!(refused.line, line, "{bad}: {refused}");
    }
}
