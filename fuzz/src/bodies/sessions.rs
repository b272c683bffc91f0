//! Session tokens, the entries and manifests behind them, and trust files.

use std::sync::LazyLock;

use ringfence_format::names::SiteId;
use ringfence_format::session::{
    BadSession, Issuance, ManifestLeaf, Purpose, Revocation, SESSION_TOKEN_BYTES_MAX, SessionToken, SignedManifest,
    Trust,
};

use super::Came;

/// While the token of the seed counts, in Unix seconds.
const NOW_S: u64 = 1_800_000_005;
const TRUST: &str = include_str!("../../seeds/sessions/1-trust");
const TOKEN: &str = include_str!("../../seeds/sessions/1-token");

static TRUSTED: LazyLock<Trust> = LazyLock::new(|| without_kind(TRUST).parse().expect("a trust file"));

fn without_kind(seed: &str) -> &str {
    seed.split_once('\n').expect("a kind").1
}

/// The first line says which kind of bytes follow it.
pub fn sessions(bytes: &[u8]) -> Came {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return 0 };
    let (kind, bytes) = (&bytes[..end], &bytes[end + 1..]);
    match kind {
        b"token" => std::str::from_utf8(bytes).map_or(0, token),
        b"trust" => std::str::from_utf8(bytes).map_or(0, trust),
        b"issuance" => one_form(bytes, Issuance::from_bytes, Issuance::to_bytes),
        b"manifest" => one_form(bytes, SignedManifest::from_bytes, SignedManifest::to_bytes),
        b"manifest-leaf" => one_form(bytes, ManifestLeaf::from_bytes, ManifestLeaf::to_bytes),
        b"revocation" => one_form(bytes, Revocation::from_bytes, Revocation::to_bytes),
        _ => 0,
    }
}

/// What is read is written again as it was read.
fn one_form<T>(bytes: &[u8], read: fn(&[u8]) -> Result<T, BadSession>, write: fn(&T) -> Vec<u8>) -> Came {
    let Ok(value) = read(bytes) else { return 0 };
    assert_eq!(write(&value), bytes);
    1
}

/// A token that parses has the one form of what it says. Only the one that was
/// issued is accepted, for its purpose, at its site and in its time; a refusal
/// names the step that does not hold.
fn token(text: &str) -> Came {
    let site = |name: &str| SiteId::parse(name).expect("a site");
    let judge = |purpose, at: &str, now_s| TRUSTED.verify_offline(text, purpose, &site(at), now_s);
    let report = judge(Purpose::StsSession, "home", NOW_S);
    let (last, before) = report.steps.split_last().expect("a step");
    assert!(before.iter().all(|step| step.holds) && last.holds == report.session.is_ok(), "{:?}", report.steps);
    let Ok(parsed) = SessionToken::parse(text) else {
        assert!(report.session.is_err() && before.is_empty());
        return 0;
    };
    assert!(text.len() <= SESSION_TOKEN_BYTES_MAX);
    let paseto = text.split('~').next().expect("a part");
    if let Some(receipt) = parsed.receipt() {
        assert_eq!(SessionToken::staple(paseto, receipt, parsed.policy()).as_deref(), Ok(text));
    }
    for refused in [
        judge(Purpose::Api, "home", NOW_S),
        judge(Purpose::Admission, "home", NOW_S),
        judge(Purpose::StsSession, "elsewhere", NOW_S),
        judge(Purpose::StsSession, "home", NOW_S - 3600),
        judge(Purpose::StsSession, "home", NOW_S + 3600),
    ] {
        assert!(refused.session.is_err(), "{text}");
    }
    let Ok(session) = report.session else { return 0 };
    assert_eq!(paseto, without_kind(TOKEN).split('~').next().expect("a part"), "nobody issued it");
    assert_eq!(report.steps.len(), 5);
    assert_eq!((session.claims(), session.kid()), (parsed.claimed(), parsed.kid()));
    1
}

/// Whatever a trust file says that is read, its manifests are those that a root
/// signed, and here that is one.
fn trust(text: &str) -> Came {
    let Ok(trust) = text.parse::<Trust>() else { return 0 };
    let signed = TRUSTED.manifests().next().expect("a manifest");
    assert!(trust.manifests().all(|manifest| manifest == signed));
    let home = SiteId::parse("home").expect("a site");
    let report = trust.verify_offline(without_kind(TOKEN), Purpose::StsSession, &home, NOW_S);
    assert!(report.session.is_err() || !trust.policy().logs.is_empty(), "no log says that it was issued");
    1
}
