//! Judging a session with a trust file and nothing else.

mod support;

use ringfence_format::names::SiteId;
use ringfence_format::session::{
    Claims, ISSUANCE, Purpose, Refusal, Revocation, SessionToken, Target, Trust, pre_authentication_encoding,
};
use ringfence_format::witness::{WitnessKey, message};
use support::{Forge, MemoryLog, NOW, admit, claims, draft, entry, log_key, name, sign_manifest, signer};

const LOG: u8 = 50;
const ROOT: u8 = 60;

fn witness(n: u8) -> WitnessKey {
    WitnessKey::new(&format!("w{n}.example"), signer(70 + n).public().as_bytes().try_into().unwrap()).unwrap()
}

/// A note of the log, cosigned by so many.
fn note(log: &MemoryLog, witnesses: u8) -> String {
    let checkpoint = log.checkpoint();
    let text = checkpoint.to_text();
    let mut note = checkpoint.to_note(&log_key(&signer(LOG)), &signer(LOG).sign64(text.as_bytes()));
    for n in 0..witnesses {
        let signature = signer(70 + n).sign64(message(NOW, &text).as_bytes());
        note.push_str(&witness(n).line(NOW, &signature));
    }
    note
}

/// A token in a log of 1,000 entries.
fn token(witnesses: u8) -> String {
    let forge = Forge::default();
    let paseto = forge.issuer.paseto(&claims());
    let issuance = admit(draft(&claims(), &forge.issuer.public(), &paseto), &forge.admission);
    let entry = entry(ISSUANCE, &issuance.to_bytes());
    let mut log = MemoryLog::of(700);
    let index = log.append(&entry);
    (701..1000u64).for_each(|n| {
        log.append(&n.to_be_bytes());
    });
    let receipt = log.receipt(index, &entry, note(&log, witnesses));
    SessionToken::staple(&paseto, &receipt, None).expect("short enough")
}

fn policy(quorum: &str) -> String {
    let mut text = format!("# who is believed\nlog {}\n", log_key(&signer(LOG)));
    for n in 0..3 {
        text.push_str(&format!("witness w{n} {}\n", witness(n)));
    }
    format!("{text}group two 2 w0 w1 w2\nquorum {quorum}\n")
}

fn trust_text(quorum: &str, revocations: &[(u64, Revocation)]) -> String {
    let manifest = sign_manifest(Forge::default().manifests[0].clone(), &signer(ROOT));
    let root = signer(ROOT).public();
    let revocations = revocations.iter().map(|(by, it)| (*by, it));
    Trust::text(&policy(quorum), [(&name("main"), &root)], [&manifest], revocations)
}

fn home() -> SiteId {
    name("home")
}

#[test]
fn a_session_is_verified_by_the_trust_file_alone() {
    for (quorum, witnesses) in [("none", 0), ("two", 2), ("two", 3)] {
        let trust: Trust = trust_text(quorum, &[]).parse().expect("a trust file");
        let report = trust.verify_offline(&token(witnesses), Purpose::StsSession, &home(), NOW + 5);
        let session = report.session.expect("a session");
        assert_eq!((session.index(), session.claims()), (700, &claims()));
        let steps: Vec<_> = report.steps.iter().map(|step| (step.what, step.holds)).collect();
        let all = ["form", "signature", "checkpoint", "issuance", "not revoked"];
        assert_eq!(steps, all.map(|what| (what, true)));
    }
}

#[test]
fn each_step_can_fail_and_is_named() {
    let revocation = |realm: &str| Revocation {
        version: 0,
        realm: name(realm),
        target: Target::Site(home()),
        from_index: 0,
        at_s: NOW,
    };
    let mut other_log = policy("none").replace(&log_key(&signer(LOG)).to_string(), &log_key(&signer(51)).to_string());
    other_log.insert_str(0, "ringfence-trust v0\n");
    let ours: String = trust_text("none", &[])
        .lines()
        .filter(|l| l.starts_with("root ") || l.starts_with("manifest "))
        .map(|l| format!("{l}\n"))
        .collect();
    other_log.push_str(&ours);
    let good = token(1);
    let (paseto, rest) = good.split_once('~').unwrap();
    type Refused = fn(&Refusal) -> bool;
    let unlogged = Claims { session: [8; 16], ..claims() };
    let unlogged = format!("{}~{rest}", signer(1).paseto(&unlogged));
    let cases: [(&str, String, String, Refused); 7] = [
        ("issuance", trust_text("none", &[]), unlogged, |r| matches!(r, Refusal::NotIssued(_))),
        ("form", trust_text("none", &[]), good.replace('~', "-"), |r| matches!(r, Refusal::Malformed(_))),
        ("signature", trust_text("none", &[]), format!("{}~{rest}", signer(9).paseto(&claims())), |r| {
            matches!(r, Refusal::UnknownKey { .. })
        }),
        ("checkpoint", other_log, good.clone(), |r| matches!(r, Refusal::Quorum(_))),
        ("checkpoint", trust_text("two", &[]), good.clone(), |r| matches!(r, Refusal::Quorum(_))),
        ("checkpoint", trust_text("none", &[]), paseto.to_owned(), |r| matches!(r, Refusal::NotIssued(_))),
        ("not revoked", trust_text("none", &[(9, revocation("main"))]), good.clone(), |r| {
            matches!(r, Refusal::Revoked { by: 9 })
        }),
    ];
    for (step, trust, token, expected) in cases {
        let trust: Trust = trust.parse().expect(step);
        let report = trust.verify_offline(&token, Purpose::StsSession, &home(), NOW + 5);
        let last = report.steps.last().expect("a step");
        assert!(report.session.as_ref().is_err_and(expected), "{step}: {:?}", report.session);
        assert_eq!((last.what, last.holds), (step, false));
        assert!(report.steps[..report.steps.len() - 1].iter().all(|step| step.holds));
    }
    let trust: Trust = trust_text("none", &[(9, revocation("other"))]).parse().unwrap();
    assert!(trust.verify_offline(&good, Purpose::StsSession, &home(), NOW + 5).session.is_ok(), "another realm's");
}

#[test]
fn a_trust_file_is_understood_whole_or_not_at_all() {
    let good = trust_text("two", &[]);
    let manifest = good.lines().find(|line| line.starts_with("manifest")).unwrap();
    let root = good.lines().find(|line| line.starts_with("root")).unwrap();
    let other = sign_manifest(Forge::default().manifests[0].clone(), &signer(61));
    let unsigned = Trust::text("", [], [&other], []).lines().nth(2).unwrap().to_owned();
    for (what, bad) in [
        ("empty", String::new()),
        ("another version", good.replace("v0", "v1")),
        ("no header", good.split_once('\n').unwrap().1.to_owned()),
        ("an unknown word", format!("{good}believe everybody\n")),
        ("no quorum", good.replace("quorum two\n", "")),
        ("a root twice", format!("{good}{root}\n")),
        ("a manifest twice", format!("{good}{manifest}\n")),
        ("a manifest without root", good.replace(root, "")),
        ("a manifest of another root", good.replace(manifest, &unsigned)),
        ("a manifest cut", good.replace(manifest, &manifest[..manifest.len() - 4])),
        ("a root that is none", good.replace("ed25519:", "rsa:")),
        ("a revocation of nothing", format!("{good}revocation 1 AA==\n")),
        ("a revocation without index", format!("{good}revocation x AA==\n")),
    ] {
        assert!(bad.parse::<Trust>().is_err(), "{what}");
    }
    let error = format!("{good}believe everybody\n").parse::<Trust>().unwrap_err();
    assert_eq!(error.line, good.lines().count() + 1, "{error}");
    let again: Trust = format!("{good}\n# end\n").parse().expect("comments and empty lines");
    assert_eq!((again.manifests().count(), again.keys().iter().count()), (1, 2));
    assert_eq!(again.to_string(), format!("{}\n", root.trim_start_matches("root ")));
}

#[test]
fn nobody_else_signs_what_a_root_signs() {
    let manifest = Forge::default().manifests[0].clone();
    let signature =
        signer(ROOT).sign64(&pre_authentication_encoding(&[b"ringfence issuance v0", &manifest.to_bytes()]));
    let confused = ringfence_format::session::SignedManifest { manifest, signature };
    assert!(!confused.is_signed_by(&signer(ROOT).public()), "what is signed says what it is");
}
