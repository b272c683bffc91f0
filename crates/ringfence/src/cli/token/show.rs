//! What a token says of itself, in words. Nothing here is verified.

use ringfence_format::session::{Claims, Receipt, SessionToken};
use ringfence_format::witness::Claimed;
use serde_json::{Value, json};

use super::super::output::plain;
use super::super::{Failure, Output};
use crate::retention::time;

/// `ringfence token show`
pub(super) fn run(token: &SessionToken, now_s: u64, output: &Output) -> Result<(), Failure> {
    let said = token.claimed();
    let answer = json!({
        "verified": false,
        "kid": token.kid().to_string(),
        "sha256": hex::encode(token.sha256()),
        "claims": claims(said),
        "state": state(said, now_s),
        "left_s": said.until_s.saturating_sub(now_s.max(said.from_s)),
        "policy": token.policy(),
        "receipt": token.receipt().map(receipt),
    });
    output.answer(&answer, |o| {
        o.say(
            &o.bold(&o.bad("NOT VERIFIED: this is what the token says of itself. Anybody can write one that says it.")),
        );
        o.say("`ringfence token verify` judges it.\n");
        in_words(o, token, now_s);
        o.say("");
        receipt_in_words(o, &answer["receipt"]);
    });
    Ok(())
}

/// The payload, with its names spelt out.
pub(super) fn claims(said: &Claims) -> Value {
    json!({
        "session": hex::encode(said.session),
        "realm": said.realm,
        "tenant": said.tenant,
        "purpose": said.purpose,
        "principal": said.principal,
        "role": said.role,
        "sites": said.sites,
        "issued_ms": said.issued_s.saturating_mul(1000),
        "from_ms": said.from_s.saturating_mul(1000),
        "until_ms": said.until_s.saturating_mul(1000),
        "issuer": said.issuer,
        "evidence_sha256": hex::encode(said.evidence),
        "evidence_id": hex::encode(said.evidence_id),
        "policies": hex::encode(said.policies),
        "session_policy_sha256": hex::encode(said.session_policy),
        "bound_to": said.confirmation,
        "parent": said.parent.as_ref().map(|parent| json!({
            "index": parent.index, "kid": parent.kid.to_string(), "role": parent.role,
        })),
    })
}

fn state(said: &Claims, now_s: u64) -> &'static str {
    match now_s {
        now_s if now_s >= said.until_s => "over",
        now_s if now_s < said.from_s => "not yet",
        _ => "its time",
    }
}

fn in_words(o: &Output, token: &SessionToken, now_s: u64) {
    let said = token.claimed();
    let at = |seconds: u64| time(seconds.saturating_mul(1_000_000));
    o.field("session", &hex::encode(said.session));
    o.field("who", &format!("{}, in role {}", said.principal, said.role));
    o.field("scope", &format!("realm {}, tenant {}, purpose {}", said.realm, said.tenant, said.purpose));
    o.field("sites", &format!("{}: only gateways there may serve it", said.sites.to_string().replace(',', ", ")));
    o.field("key", &format!("{}: the key that is said to have signed it", token.kid()));
    o.field("issued", &at(said.issued_s));
    o.field("counts", &format!("from {} until {} ({})", at(said.from_s), at(said.until_s), left(said, now_s)));
    o.field("bound to", &bound(said));
    o.field("issuer", &from(said));
    o.field("evidence", &format!("SHA-256 {}", hex::encode(said.evidence)));
    if said.evidence_id != [0; 16] {
        o.field("", &format!("with a `jti` whose SHA-256 begins {}", hex::encode(said.evidence_id)));
    }
    o.field("policies", &format!("SHA-256 begins {}: those in force when it was issued", hex::encode(said.policies)));
    match (token.policy(), said.session_policy == [0; 32]) {
        (None, true) => o.field("narrowed by", "no session policy"),
        (None, false) => o.field("narrowed by", "a session policy that is not beside it"),
        (Some(policy), _) => {
            o.field("narrowed by", &format!("a session policy, SHA-256 {}", hex::encode(said.session_policy)));
            o.field("", &plain(&json!(policy)));
        }
    }
    match &said.parent {
        None => o.field("parent", "none: it was exchanged for the evidence itself"),
        Some(parent) => o.field(
            "parent",
            &format!(
                "record #{} in role {}, signed by {}: what ends that session ends this one",
                parent.index, parent.role, parent.kid
            ),
        ),
    }
}

fn bound(said: &Claims) -> String {
    match (said.confirmation.as_str(), said.purpose.as_str()) {
        ("", _) => "nothing: whoever has it can use it".to_owned(),
        (id, "sts-session") => format!("access key {id}: its secret signs every request"),
        (thumbprint, _) => format!("the DPoP key with thumbprint {thumbprint}"),
    }
}

fn from(said: &Claims) -> String {
    match said.issuer.as_str() {
        "static-key" => "a static access key of ours".to_owned(),
        entry => format!("a token of `[[issuer]]` {entry}"),
    }
}

fn left(said: &Claims, now_s: u64) -> String {
    let duration = |s: u64| format!("{} min {} s", s / 60, s % 60);
    match state(said, now_s) {
        "over" => format!("over for {}", duration(now_s - said.until_s)),
        "not yet" => format!("begins in {}", duration(said.from_s - now_s)),
        _ => format!("{} left", duration(said.until_s - now_s)),
    }
}

fn receipt(receipt: &Receipt) -> Value {
    let claimed = Claimed::of(&receipt.checkpoint);
    let head = claimed.as_ref().ok().map(|claimed| &claimed.checkpoint);
    // The log's own line has no time; a witness's has.
    let cosigned = claimed
        .iter()
        .flat_map(|claimed| &claimed.by)
        .filter_map(|(name, time_s)| Some(json!({ "name": name, "at_ms": (*time_s)?.saturating_mul(1000) })));
    json!({
        "index": receipt.index,
        "size": head.map(|head| head.size),
        "origin": head.map(|head| &head.origin),
        "root": head.map(|head| hex::encode(head.root)),
        "path": receipt.path.len(),
        "cosigned": cosigned.collect::<Vec<_>>(),
        "unreadable": claimed.as_ref().err().map(ToString::to_string),
    })
}

fn receipt_in_words(o: &Output, receipt: &Value) {
    if receipt.is_null() {
        return o.field("receipt", &o.bad("none: nothing proves that it was issued, and every gateway refuses it"));
    }
    if let Some(why) = receipt["unreadable"].as_str() {
        return o.field("receipt", &o.bad(&format!("record #{}, {why}", receipt["index"])));
    }
    o.field("receipt", &format!("record #{} of a log of {} records", receipt["index"], receipt["size"]));
    o.field("checkpoint", &format!("of log {}, root {}", plain(&receipt["origin"]), plain(&receipt["root"])));
    let cosigned = receipt["cosigned"].as_array().map(Vec::as_slice).unwrap_or_default();
    if cosigned.is_empty() {
        o.field("cosigned", "by no witness");
    }
    for witness in cosigned {
        let at_us = witness["at_ms"].as_u64().unwrap_or_default().saturating_mul(1000);
        o.field("cosigned", &format!("by {} at {}", plain(&witness["name"]), time(at_us)));
    }
}
