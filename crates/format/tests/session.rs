//! Attacks on the one way from a text to a session. Every check of the verifier
//! has a token that breaks it and nothing else: `tests/mutate.py` takes each
//! check away and sees that something here fails.

mod support;

use proptest::prelude::*;
use ringfence_format::leaf::sha256;
use ringfence_format::session::{
    Claims, Issuance, Issued, KeySet, Kid, LIFETIME_S_MAX, ManifestLeaf, PAYLOAD_BYTES_MAX, Parent, PublicKey, Purpose,
    Refusal, Revocation, SESSION_TOKEN_BYTES_MAX, Scope, SessionToken, SignedManifest, Sites, Target,
};
use support::{Forge, NOW, claims, manifest, name, p384, raw_paseto, sign_manifest, sign_raw, signer, sites};

fn refused(forge: &Forge) -> Refusal {
    forge.judge().expect_err("refused")
}

/// A row: what is broken, how, and the refusal's first words.
type Break = (&'static str, fn(&mut Forge), &'static str);

const BREAKS: &[Break] = &[
    ("another purpose is asked for", |f| f.purpose = Purpose::Api, "the token is for `sts-session`"),
    (
        "an admission key signs no session",
        |f| {
            f.claims.purpose = Purpose::Admission;
            f.purpose = Purpose::Admission;
            f.issuer = signer(2);
        },
        "the token is for `admission`",
    ),
    ("no such key", |f| f.issuer = signer(9), "no key `"),
    ("the key is another tenant's", |f| f.manifests[0].keys[0].tenant = name("umbrella"), "key `"),
    ("the key is another realm's", move_key, "key `"),
    ("the key is of another purpose", |f| f.manifests[0].keys[0].purpose = Purpose::Console, "key `"),
    ("signed for another realm", |f| f.implicit = Some(assertion("other", "acme", "home")), "the signature"),
    ("signed for another tenant", |f| f.implicit = Some(assertion("main", "umbrella", "home")), "the signature"),
    ("signed for other sites", |f| f.implicit = Some(assertion("main", "acme", "cloud,home")), "the signature"),
    ("signed without its scope", |f| f.implicit = Some(vec![]), "the signature"),
    ("the key was not yet in force", |f| f.manifests[0].keys[0].from_s = NOW + 1, "key `"),
    (
        "the key's time ended before",
        |f| {
            f.manifests[0].keys[0].until_s = NOW;
            f.now_s = NOW + 900; // the token's own time is over too
        },
        "key `",
    ),
    ("the key's time ended since", |f| f.manifests[0].keys[0].until_s = NOW + 10, "key `"),
    ("the key is not for its sites", |f| f.manifests[0].keys[0].sites = sites(&["cloud"]), "key `"),
    ("it ends as it begins", |f| f.claims.until_s = f.claims.from_s, "its lifetime"),
    ("it counts before it was issued", |f| f.claims.from_s = NOW - 1, "its lifetime"),
    ("it lives too long", |f| f.claims.until_s = NOW + LIFETIME_S_MAX + 1, "its lifetime"),
    ("its time has not come", |f| f.now_s = NOW - 1, "not valid before"),
    ("its time is over", |f| f.now_s = NOW + 900, "expired at"),
    ("another gateway", |f| f.gateway = name("cloud"), "not for the gateway"),
    ("a policy it does not name", |f| f.policy = Some("{}".into()), "the session policy"),
    ("a policy is missing", |f| f.claims.session_policy = sha256(b"{}"), "the session policy"),
    (
        "another policy",
        |f| {
            f.claims.session_policy = sha256(b"{}");
            f.policy = Some("{ }".into());
        },
        "the session policy",
    ),
    (
        "no receipt",
        |f| f.text = |text| text.split('~').next().unwrap().to_owned(),
        "validly signed, but not issued: no",
    ),
    ("a hash of the path", |f| f.receipt = |r| r.path[0].0[0] ^= 1, "validly signed, but not issued: its receipt"),
    ("another index", |f| f.receipt = |r| r.index -= 1, "validly signed, but not issued: its receipt"),
    ("another entry", |f| f.receipt = |r| r.entry[1] ^= 1, "validly signed, but not issued: its receipt"),
    ("another root", |f| f.root = |root| root.1[0] ^= 1, "validly signed, but not issued: its receipt"),
    ("another size", |f| f.root = |root| root.0 -= 1, "validly signed, but not issued: its receipt"),
    ("an entry of another kind", |f| f.entry = |e| e[0] = 3, "validly signed, but not issued: the log has"),
    ("an entry with more behind it", |f| f.entry = |e| e.push(0), "validly signed, but not issued: the log has"),
    ("an entry cut short", |f| f.entry = |e| e.truncate(20), "validly signed, but not issued: the log has"),
    ("a leaf of another version", |f| f.draft = |d| d.version = 1, OTHER),
    ("a leaf of another token", |f| f.draft = |d| d.token_sha256[0] ^= 1, OTHER),
    ("a leaf of another realm", |f| f.draft = |d| d.realm = name("other"), OTHER),
    ("a leaf of another key", |f| f.draft = |d| d.kid.0[0] ^= 1, OTHER),
    ("a leaf of another purpose", |f| f.draft = |d| d.purpose = Purpose::Api, OTHER),
    ("a leaf of another beginning", |f| f.draft = |d| d.from_s -= 1, OTHER),
    ("a leaf of another end", |f| f.draft = |d| d.until_s += 1, OTHER),
    ("a leaf with a parent", |f| f.draft = |d| d.parent = Some(3), OTHER),
    ("a leaf without its parent", |f| f.claims.parent = Some(parent()), OTHER_PARENT),
    ("nobody admitted it", |f| f.issuance = |i| i.admission = [0; 64], ADMISSION),
    ("the issuer admitted it itself", |f| f.admission = signer(1), ADMISSION),
    ("a key of nobody admitted it", |f| f.admission = signer(9), ADMISSION),
    ("the admission key is another tenant's", |f| f.manifests[0].keys[1].tenant = name("umbrella"), ADMISSION),
    ("the admission key is of another purpose", |f| f.manifests[0].keys[1].purpose = Purpose::Audit, ADMISSION),
    ("the admission key came later", |f| f.manifests[0].keys[1].from_s = NOW + 1, ADMISSION),
    ("the admission key was over", |f| f.manifests[0].keys[1].until_s = NOW, ADMISSION),
    ("the leaf was changed after it was admitted", |f| f.issuance = |i| i.draft.tenant[0] ^= 1, ADMISSION),
    (
        "it was revoked",
        |f| f.revocations.add(77, revocation(Target::Key(f.issuer.public().kid()), 0)),
        "revoked by record #77",
    ),
];

const OTHER: &str = "validly signed, but not issued: the leaf at its index";
const OTHER_PARENT: &str = OTHER;
const ADMISSION: &str = "validly signed, but not issued: its leaf was not admitted";

fn assertion(realm: &str, tenant: &str, sites: &str) -> Vec<u8> {
    format!("ringfence|{realm}|{tenant}|sts-session|{sites}").into_bytes()
}

/// Takes the issuer's key out of the forge's realm and lists it in another.
fn move_key(f: &mut Forge) {
    let row = f.manifests[0].keys.remove(0);
    f.manifests.push(manifest("other", vec![row]));
}

fn parent() -> Parent {
    Parent { index: 3, kid: Kid([5; 8]), role: name("writer") }
}

fn revocation(target: Target, from_index: u64) -> Revocation {
    Revocation { version: 0, realm: name("main"), target, from_index, at_s: NOW }
}

#[test]
fn each_check_alone_refuses() {
    let honest = Forge::default().judge().expect("an honest session");
    assert_eq!((honest.index(), honest.claims()), (5, &claims()));
    for (what, change, expected) in BREAKS {
        let mut forge = Forge::default();
        if *expected == OTHER_PARENT && *what == "a leaf without its parent" {
            forge.draft = |draft| draft.parent = None;
        }
        change(&mut forge);
        let refusal = refused(&forge).to_string();
        assert!(refusal.starts_with(expected), "{what}: {refusal}");
    }
}

#[test]
fn at_home_the_entry_of_the_log_counts_and_not_what_the_receipt_says() {
    let forge = Forge { receipt: |receipt| receipt.entry[40] ^= 1, ..Forge::default() };
    assert!(forge.judge_at_home().is_ok(), "the log was asked");
    assert!(matches!(forge.judge(), Err(Refusal::NotIssued(_))), "only the receipt is there");
    let forge = Forge { draft: |draft| draft.token_sha256 = [0; 32], ..Forge::default() };
    assert!(matches!(forge.judge_at_home(), Err(Refusal::NotIssued(_))));
}

/// A7 — the key is stolen, the signature is right, and it opens nothing.
#[test]
fn a7_what_was_signed_and_not_logged_is_not_issued_and_critical() {
    let forge = Forge::default();
    let made = forge.make();
    let forged = Claims { session: [8; 16], principal: name("mallory"), ..claims() };
    let paseto = forge.issuer.paseto(&forged);
    let receipt = made.text.split_once('~').unwrap().1;
    for (what, text) in [("bare", paseto.clone()), ("with another's receipt", format!("{paseto}~{receipt}"))] {
        for issued in [Issued::Entry(&made.entry), Issued::Root(made.root.0, &made.root.1)] {
            let refusal = forge.judge_text(&text, issued).expect_err(what);
            assert!(matches!(refusal, Refusal::NotIssued(_)) && refusal.is_critical(), "{what}: {refusal}");
        }
    }
}

/// A1 — every ordered pair of scopes, both keys known.
/// Who names a key of ours without having it raises no alarm.
#[test]
fn a_key_of_another_scope_that_did_not_sign_is_just_unknown() {
    let stranger = signer(200);
    let other = signer(7).row("umbrella", Purpose::StsSession);
    let kid = other.public.kid().to_string();
    let manifests = [manifest("main", vec![other])];
    let claims = claims();
    let implicit = claims.scope().assertion(&claims.sites);
    let forged = sign_raw(&stranger, &claims.to_bytes().expect("short"), kid.as_bytes(), &implicit);
    let token = SessionToken::parse(&forged).expect("well-formed");
    let gateway = claims.sites.iter().next().expect("a site").clone();
    let judged = token.check_signature(&KeySet::new(&manifests), claims.purpose, &gateway, NOW + 1);
    let refusal = judged.expect_err("nobody's");
    assert!(matches!(refusal, Refusal::UnknownKey { .. }) && !refusal.is_critical(), "{refusal}");
}

#[test]
fn a1_a_key_of_one_scope_signs_for_no_other() {
    let names = [("main", "acme"), ("main", "umbrella"), ("other", "hospital")];
    let purposes = &Purpose::ALL[..6];
    let sites = [sites(&["home"]), sites(&["cloud"]), sites(&["cloud", "home"])];
    let mut scopes = vec![];
    for (realm, tenant) in names {
        for purpose in purposes {
            scopes.extend(sites.iter().map(|sites| (realm, tenant, *purpose, sites.clone())));
        }
    }
    let row = |n: usize| {
        let (_, tenant, purpose, sites) = &scopes[n];
        support::signer(n as u8 + 10).row(tenant, *purpose).sites_of(sites)
    };
    let of = |realm| manifest(realm, (0..scopes.len()).filter(|n| scopes[*n].0 == realm).map(row).collect());
    let manifests = [of("main"), of("other")];
    let keys = KeySet::new(&manifests);
    assert_eq!(keys.iter().count(), scopes.len());
    let (mut pairs, mut critical) = (0, 0);
    for (i, own) in scopes.iter().enumerate() {
        let signer = signer(i as u8 + 10);
        for (j, (realm, tenant, purpose, sites)) in scopes.iter().enumerate() {
            let claims = Claims {
                realm: name(realm),
                tenant: name(tenant),
                purpose: *purpose,
                sites: sites.clone(),
                ..claims()
            };
            let token = SessionToken::parse(&signer.paseto(&claims)).expect("well-formed");
            let gateway = sites.iter().next().expect("a site");
            let judged = token.check_signature(&keys, *purpose, gateway, NOW + 1);
            // Within one realm, tenant and purpose a key of more sites may sign for fewer.
            let narrower = (own.0, own.1, own.2) == (*realm, *tenant, *purpose) && sites.within(&own.3);
            assert_eq!(judged.is_ok(), narrower, "{own:?} for {:?}", scopes[j]);
            pairs += usize::from(i != j);
            critical += usize::from(judged.is_err_and(|refusal| refusal.is_critical()));
        }
    }
    assert_eq!((pairs, critical), (54 * 53, 54 * 54 - 3 * 6 * 5), "each misuse is noticed");
}

trait SitesOf {
    fn sites_of(self, sites: &Sites) -> Self;
}

impl SitesOf for ringfence_format::session::KeyRow {
    fn sites_of(mut self, sites: &Sites) -> Self {
        self.sites = sites.clone();
        self
    }
}

#[test]
fn a_key_that_is_listed_twice_opens_nothing_anywhere() {
    let row = signer(1).row("acme", Purpose::StsSession);
    for second in [
        manifest("other", vec![row.clone()]),
        manifest("main2", vec![signer(1).row("umbrella", Purpose::StsSession)]),
        manifest("main2", vec![signer(1).row("acme", Purpose::Admission)]),
    ] {
        let mut forge = Forge::default();
        forge.manifests.push(second);
        assert!(matches!(refused(&forge), Refusal::UnknownKey { .. }));
    }
    let mut forge = Forge::default();
    forge.manifests[0].keys.push(row);
    assert!(matches!(refused(&forge), Refusal::UnknownKey { .. }), "not even in one scope");
}

/// A4 — a key's end is the verifier's own clock's matter, and a removed key is
/// known by who it was.
#[test]
fn a4_a_retired_key_is_refused_and_noticed_and_a_stale_token_is_only_stale() {
    let mut forge = Forge::default();
    forge.earlier = vec![forge.manifests[0].clone()];
    forge.manifests[0].keys.remove(0);
    assert!(matches!(refused(&forge), Refusal::RetiredKey { .. }));
    forge.now_s = NOW + 900;
    assert!(matches!(refused(&forge), Refusal::UnknownKey { .. }), "an honest client that slept");
    forge.now_s = NOW + 10;
    forge.implicit = Some(vec![]);
    assert!(matches!(refused(&forge), Refusal::UnknownKey { .. }), "nobody signed this");

    let mut slept = Forge { now_s: NOW + 200_000, ..Forge::default() };
    assert_eq!(refused(&slept), Refusal::Expired(NOW + 900));
    slept.manifests[0].keys[0].until_s = NOW;
    assert!(refused(&slept).is_critical(), "signed after the key's end, whenever it is shown");
}

#[test]
fn a_token_of_a_hardware_key_is_judged_alike_and_versions_are_not_confused() {
    let mut forge = Forge { issuer: p384(), ..Forge::default() };
    forge.manifests[0].keys[0] = forge.issuer.row("acme", Purpose::StsSession);
    assert!(forge.judge().is_ok());

    // The payload of one under the header of the other, signed rightly for each.
    let payload = claims().to_bytes().unwrap();
    let footer = forge.issuer.public().kid().to_string();
    let implicit = claims().scope().assertion(&claims().sites);
    let good = forge.issuer.paseto(&claims());
    let made = forge.make();
    let judge = |text: &str| forge.judge_text(text, Issued::Entry(&made.entry)).expect_err("refused");
    assert!(matches!(judge(&good), Refusal::NotIssued(_)), "another signature, not in the log: critical");
    let short = sign_raw(&signer(1), &payload, footer.as_bytes(), &implicit);
    assert_eq!(judge(&short), Refusal::Version(forge.issuer.public().kid()));
    let ed = Forge::default();
    let long = raw_paseto("v3.public.", &payload, ed.issuer.public().kid().to_string().as_bytes(), &[1; 96]);
    let refusal = ed.judge_text(&long, Issued::Entry(&made.entry)).expect_err("refused");
    assert_eq!(refusal, Refusal::Version(ed.issuer.public().kid()));
}

/// Whoever holds an honest token of a P-384 key could else make a second one,
/// validly signed and not logged, and sound the alarm of a stolen key.
#[test]
fn the_other_form_of_a_signature_is_no_signature_and_no_alarm() {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    const ORDER: &str =
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973";
    let mut forge = Forge { issuer: p384(), ..Forge::default() };
    forge.manifests[0].keys[0] = forge.issuer.row("acme", Purpose::StsSession);
    let made = forge.make();
    let (paseto, rest) = made.text.split_once('~').unwrap();
    let parts: Vec<&str> = paseto.split('.').collect();
    let mut body = BASE64.decode(parts[2]).unwrap();
    let (at, order) = (body.len() - 48, hex::decode(ORDER).unwrap());
    let mut borrow = 0;
    for i in (0..48).rev() {
        let difference = i32::from(order[i]) - i32::from(body[at + i]) - borrow;
        borrow = i32::from(difference < 0);
        body[at + i] = difference.rem_euclid(256) as u8;
    }
    let text = format!("v3.public.{}.{}~{rest}", BASE64.encode(body), parts[3]);
    let refusal = forge.judge_text(&text, Issued::Entry(&made.entry)).expect_err("refused");
    assert!(matches!(refusal, Refusal::Signature(_)) && !refusal.is_critical(), "{refusal}");
}

#[test]
fn only_the_one_form_of_a_token_is_read() {
    let made = Forge::default().make();
    let text = made.text.as_str();
    let (paseto, rest) = text.split_once('~').unwrap();
    let (receipt, _) = rest.split_once('~').unwrap();
    let payload = String::from_utf8(claims().to_bytes().unwrap()).unwrap();
    let kid = signer(1).public().kid().to_string();
    let as_token = |payload: &str, footer: &str| {
        sign_raw(&signer(1), payload.as_bytes(), footer.as_bytes(), &claims().scope().assertion(&claims().sites))
    };
    assert_eq!(as_token(&payload, &kid), paseto);
    let change = |from: &str, to: &str| {
        assert!(payload.contains(from), "{from}");
        as_token(&payload.replace(from, to), &kid)
    };
    for (what, bad) in [
        ("nothing", String::new()),
        ("local", paseto.replace("public", "local")),
        ("another version", paseto.replace("v4", "v2")),
        ("upper case", paseto.replace("v4.public", "V4.PUBLIC")),
        ("space before", format!(" {text}")),
        ("newline behind", format!("{text}\n")),
        ("one part more", format!("{text}~")),
        ("a part missing", format!("{paseto}~{receipt}")),
        ("padded receipt", format!("{paseto}~{receipt}=~")),
        ("receipt cut", format!("{paseto}~{}~", &receipt[..receipt.len() - 4])),
        ("receipt with more behind", format!("{paseto}~{receipt}AAAA~")),
        ("policy not base64url", format!("{paseto}~{receipt}~%7B")),
        ("policy not UTF-8", format!("{paseto}~{receipt}~_w")),
        ("no footer", paseto.rsplit_once('.').unwrap().0.to_owned()),
        ("two footers", format!("{paseto}.{}", paseto.rsplit_once('.').unwrap().1)),
        ("empty footer", as_token(&payload, "")),
        ("upper-case key id", as_token(&payload, &kid.to_uppercase())),
        ("JSON footer", as_token(&payload, &format!("{{\"kid\":\"{kid}\"}}"))),
        ("short body", raw_paseto("v4.public.", b"", kid.as_bytes(), &[0; 63])),
        ("unknown field", change("{", "{\"x\":1,")),
        ("field twice", change("{\"jti\"", "{\"pur\":\"api\",\"jti\"")),
        ("parent missing", change(",\"par\":null", "")),
        ("other order", change("\"iat\":1800000000,\"nbf\":1800000000", "\"nbf\":1800000000,\"iat\":1800000000")),
        ("white space", change("{", "{ ")),
        ("white space behind", as_token(&format!("{payload} "), &kid)),
        ("escaped", change("acme", "\\u0061cme")),
        ("number as text", change("1800000900", "\"1800000900\"")),
        ("number as float", change("1800000900", "1800000900.0")),
        ("negative", change("1800000900", "-1")),
        ("array for one", change("\"main\"", "[\"main\"]")),
        ("upper-case id", change("07070707070707070707070707070707", "0A070707070707070707070707070707")),
        ("padded hash", change("AQEBAQEBAQEBAQEBAQEBAQ", "AQEBAQEBAQEBAQEBAQEBAQ==")),
        ("bits behind a hash", change("AQEBAQEBAQEBAQEBAQEBAQ", "AQEBAQEBAQEBAQEBAQEBAR")),
        ("no site", change("[\"home\"]", "[]")),
        ("sites twice", change("[\"home\"]", "[\"home\",\"home\"]")),
        ("sites in another order", change("[\"home\"]", "[\"home\",\"cloud\"]")),
        ("a separator in a name", change("acme", "ac|me")),
        ("unknown purpose", change("sts-session", "sts")),
        ("confirmation with a space", change("ASIAABCD", "ASIA BCD")),
        ("payload too long", change("ASIAABCDEFGHIJKLMNOP", &"A".repeat(PAYLOAD_BYTES_MAX))),
        ("a parent without role", change("null", "\"3.0505050505050505\"")),
        ("a parent written otherwise", change("null", "\"03.0505050505050505.writer\"")),
        ("not JSON", as_token("x", &kid)),
        ("too long", format!("{text}{}", "A".repeat(SESSION_TOKEN_BYTES_MAX))),
    ] {
        assert!(SessionToken::parse(&bad).is_err(), "{what}");
    }
    assert!(SessionToken::parse(text).is_ok());
    assert!(SessionToken::parse(&change("ASIAABCDEFGHIJKLMNOP", "")).is_ok(), "a bearer token is bound to nothing");
    assert!(SessionToken::parse(paseto).is_ok_and(|token| token.receipt().is_none()));
    let long_path = Forge { receipt: |receipt| receipt.path = vec![receipt.path[0]; 65], ..Forge::default() };
    assert!(SessionToken::parse(&long_path.make().text).is_err(), "a path longer than any tree is high");
}

#[test]
fn a_policy_beside_the_token_is_the_one_it_names() {
    let policy = "{\"Version\":\"2012-10-17\"}";
    let mut forge = Forge { policy: Some(policy.to_owned()), ..Forge::default() };
    forge.claims.session_policy = sha256(policy.as_bytes());
    assert_eq!(forge.judge().expect("a session").policy(), Some(policy));
}

#[test]
fn revocations_hit_what_they_name_from_their_index_on_and_nothing_else() {
    let kid = signer(1).public().kid();
    let subject = |who| Target::subject([4; 16], &name("main"), &name("acme"), &name(who));
    let role = |role| Target::role([4; 16], &name("main"), &name("acme"), &name(role));
    // The session's leaf is at 5, its parent's at 3.
    for (target, from, alone, narrowed) in [
        (Target::Key(kid), 0, true, true),
        (Target::Key(kid), 5, true, true),
        (Target::Key(kid), 6, false, false),
        (Target::Key(Kid([5; 8])), 0, false, true),
        (Target::Key(Kid([5; 8])), 3, false, true),
        (Target::Key(Kid([5; 8])), 4, false, false),
        (Target::Key(Kid([6; 8])), 0, false, false),
        (Target::Session([7; 16], 5), 0, true, true),
        (Target::Session([0; 16], 3), 0, false, true),
        (Target::Session([0; 16], 4), 0, false, false),
        (subject("keycloak--alice"), 0, true, true),
        (subject("keycloak--bob"), 0, false, false),
        (role("reader"), 0, true, true),
        (role("writer"), 0, false, true),
        (role("keycloak--alice"), 0, false, false),
        (Target::Site(name("home")), 0, true, true),
        (Target::Site(name("cloud")), 0, false, false),
    ] {
        for (parent, expected) in [(None, alone), (Some(parent()), narrowed)] {
            let mut forge = Forge::default();
            forge.claims.parent = parent.clone();
            let revocation = revocation(target.clone(), from);
            let stays = matches!(target, Target::Key(_) | Target::Session(..));
            forge.revocations.add(8, revocation.clone());
            assert_eq!(forge.judge().is_err(), expected, "{target:?} from {from}, parent {parent:?}");
            forge.revocations.add(9, Revocation { realm: name("other"), ..self::revocation(Target::Lift(8), 0) });
            assert_eq!(forge.judge().is_err(), expected, "another realm lifts nothing");
            forge.revocations.add(10, self::revocation(Target::Lift(8), 0));
            assert_eq!(forge.judge().is_err(), expected && stays, "{target:?} lifted");
            let mut foreign = Forge::default();
            foreign.claims.parent = parent;
            foreign.revocations.add(8, Revocation { realm: name("other"), ..revocation });
            assert!(foreign.judge().is_ok(), "another realm revokes nothing");
        }
    }
}

#[test]
fn leaves_and_manifests_have_one_form() {
    let forge = Forge::default();
    let made = forge.make();
    let issuance = made.entry[33..].to_vec();
    let signed = sign_manifest(forge.manifests[0].clone(), &signer(7));
    assert!(signed.is_signed_by(&signer(7).public()) && !signed.is_signed_by(&signer(8).public()));
    let mut changed = signed.clone();
    changed.manifest.keys[0].until_s += 1;
    assert!(!changed.is_signed_by(&signer(7).public()));
    let revocation = revocation(Target::Site(name("home")), 4);
    type Reads = fn(&[u8]) -> bool;
    let cases: [(Vec<u8>, Reads); 4] = [
        (issuance, |b| Issuance::from_bytes(b).is_ok()),
        (signed.to_bytes(), |b| SignedManifest::from_bytes(b).is_ok()),
        (signed.leaf().to_bytes(), |b| ManifestLeaf::from_bytes(b).is_ok()),
        (revocation.to_bytes(), |b| Revocation::from_bytes(b).is_ok()),
    ];
    for (bytes, reads) in cases {
        assert!(reads(&bytes));
        assert!(!reads(&[&bytes[..], &[0]].concat()), "more behind it");
        assert!(!reads(&bytes[..bytes.len() - 1]), "cut");
        // A map of one entry more, with a key that is not known; then of no fixed length.
        assert!(!reads(&[&[bytes[0] + 1], &bytes[1..], &[0x18, 99, 0]].concat()), "an unknown field");
        assert!(!reads(&[&[0xbf], &bytes[1..], &[0xff]].concat()), "a map of no fixed length");
    }
}

fn any_name() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?"
}

proptest! {
    /// What makes the implicit assertion safe: no two scopes have the same.
    #[test]
    fn two_scopes_never_have_the_same_assertion(
        a in (any_name(), any_name(), 0..7usize, any_name(), any_name()),
        b in (any_name(), any_name(), 0..7usize, any_name(), any_name()),
    ) {
        let of = |(realm, tenant, purpose, one, two): &(String, String, usize, String, String)| {
            let mut both = vec![name(one), name(two)];
            both.sort();
            both.dedup();
            let scope = Scope { realm: name(realm), tenant: name(tenant), purpose: Purpose::ALL[*purpose] };
            let sites = Sites::new(both).expect("in order");
            (scope.assertion(&sites), (scope, sites))
        };
        let ((a_text, a), (b_text, b)) = (of(&a), of(&b));
        prop_assert_eq!(a_text == b_text, a == b);
    }

    /// Any change of any character of an honest token is refused.
    #[test]
    fn a_changed_token_is_refused(at in any::<proptest::sample::Index>(), to in 33u8..127) {
        let forge = Forge::default();
        let made = forge.make();
        let mut text = made.text.clone().into_bytes();
        let at = at.index(text.len());
        prop_assume!(text[at] != to);
        text[at] = to;
        let text = String::from_utf8(text).expect("ASCII");
        let judged = forge.judge_text(&text, Issued::Root(made.root.0, &made.root.1));
        // The checkpoint is text beside the proof: the caller checks it and gives its root.
        let same_proof = SessionToken::parse(&text).is_ok_and(|token| {
            let honest = SessionToken::parse(&made.text).expect("honest");
            let (now, then) = (token.receipt().cloned(), honest.receipt().cloned());
            token.sha256() == honest.sha256() && now.zip(then).is_some_and(|(now, then)| {
                (now.index, now.entry, now.path) == (then.index, then.entry, then.path)
            }) && token.policy() == honest.policy()
        });
        prop_assert_eq!(judged.is_ok(), same_proof);
    }

    #[test]
    fn claims_read_back_as_they_were_written(session in any::<[u8; 16]>(), from in 0..u64::MAX / 2, parent in any::<Option<u64>>()) {
        let parent = parent.map(|index| Parent { index, ..parent_of() });
        let claims = Claims { session, from_s: from, parent, ..claims() };
        let bytes = claims.to_bytes().expect("small");
        prop_assert_eq!(Claims::from_bytes(&bytes), Ok(claims));
    }
}

fn parent_of() -> Parent {
    parent()
}

#[test]
fn a_public_key_of_the_wrong_kind_verifies_nothing() {
    assert!(!PublicKey::P384([2; 49]).signed(b"", &[0; 96]), "no point of the curve");
    assert!(!PublicKey::Ed25519([0; 32]).signed(b"", &[0; 64]), "a point of small order signs nothing");
}

/// testdata/session.py made these from docs/formats/session.md alone.
#[test]
fn a_second_implementation_makes_the_same_bytes() {
    let forge = Forge::default();
    let made = forge.make();
    let kid = signer(1).public().kid();
    let subject = Target::subject([4; 16], &name("main"), &name("acme"), &name("keycloak--alice"));
    let ours = [
        ("token", made.text),
        ("entry", hex::encode(made.entry)),
        ("manifest", hex::encode(sign_manifest(forge.manifests[0].clone(), &signer(7)).to_bytes())),
        ("revocation_of_key", hex::encode(revocation(Target::Key(kid), 6).to_bytes())),
        ("revocation_of_subject", hex::encode(revocation(subject, 0).to_bytes())),
    ];
    let theirs: Vec<_> = include_str!("../testdata/session.txt")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(word, _)| *word != "#")
        .collect();
    assert_eq!(ours.each_ref().map(|(what, bytes)| (*what, bytes.as_str())).as_slice(), theirs);
}
