//! `log show` and `policy explain`.
//!
//! The operator reads control-plane records whole and tenants' records without
//! what they name (ruling 14). A request id opens its one record whole: who
//! knows it was given it with the answer, and reading it is itself recorded.

use ringfence_format::leaf::{parse_request_id, request_id};
use ringfence_format::record::{ActorKind, Core, Record, Seq};
use ringfence_log::{LogError, OpenError};
use serde_json::{Value, json};

use crate::cli::{Failure, Kind, public_json};
use crate::installation::Installation;
use crate::retention::time;

/// Records that one answer may hold.
const SHOWN_MAX: u64 = 10_000;
/// Outcomes belong to a request that ended at most this many records before.
const OUTCOME_WITHIN: u64 = 50_000;

/// A page of records.
pub(super) fn show(installation: &Installation, from: Option<u64>, limit: u64) -> Result<Value, Failure> {
    let size = installation.log().durable_size();
    let limit = limit.min(SHOWN_MAX);
    let from = from.unwrap_or_else(|| size.saturating_sub(limit));
    let mut records = Vec::new();
    for seq in from..size.min(from.saturating_add(limit)) {
        records.push(match lookup(installation, seq)? {
            Read::Whole(record) => shown(seq, &record, is_control_plane(&record)),
            Read::Gone(why, core) => gone(seq, why, core.as_deref()),
        });
    }
    Ok(json!({ "size": size, "records": records }))
}

/// The record of one request.
pub(super) fn show_one(installation: &Installation, id: &str) -> Result<Value, Failure> {
    let size = installation.log().durable_size();
    let seq = request(installation, id)?;
    let record = match lookup(installation, seq)? {
        Read::Whole(record) => shown(seq, &record, true),
        Read::Gone(why, core) => gone(seq, why, core.as_deref()),
    };
    Ok(json!({ "size": size, "records": [record] }))
}

/// The record of one request, what came of it, and the policies that decided.
pub(super) fn explain(installation: &Installation, id: &str) -> Result<Value, Failure> {
    let (seq, record) = requested(installation, id)?;
    let set = installation.engine().set();
    let policies = record.core.policy_ids.iter().map(|id| match set.policy(id) {
        Some(info) => serde_json::to_value(info).expect("a policy is JSON"),
        None => json!({ "id": id, "text": null }),
    });
    let mut explained = shown(seq, &record, true);
    explained["policies"] = policies.collect();
    explained["policies_changed_since"] = json!(record.core.policy_epoch != installation.engine().epoch());
    explained["outcomes"] = outcomes(installation, seq).into();
    Ok(explained)
}

/// The proof that a request is on record, as C2SP tlog-proof: whoever has the
/// log's public key can check it, without us and without any other key.
pub(super) async fn prove(installation: &Installation, id: &str) -> Result<Value, Failure> {
    let seq = request(installation, id)?;
    let log = installation.log().clone();
    // Waits for a checkpoint that covers the record.
    let proof = tokio::task::spawn_blocking(move || log.publish().and_then(|()| log.prove(seq))).await;
    let proof = proof.map_err(Failure::internal)?.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    let key = installation.log().verifier_key();
    let checkpoint = proof.verify(key).map_err(Failure::internal)?;
    Ok(json!({
        "request_id": request_id(seq),
        "index": seq,
        "size": checkpoint.size,
        "verifier_key": key.to_string(),
        "proof": proof.to_text(),
    }))
}

/// What was recorded later about how a request ended.
fn outcomes(installation: &Installation, of: Seq) -> Vec<Value> {
    let log = installation.log();
    log.read(of + 1)
        .take(usize::try_from(OUTCOME_WITHIN).unwrap_or(usize::MAX))
        .filter_map(Result::ok)
        .filter(|(_, record)| record.core.of == Some(of))
        .map(|(seq, record)| shown(seq, &record, true))
        .collect()
}

fn requested(installation: &Installation, id: &str) -> Result<(Seq, Box<Record>), Failure> {
    let seq = request(installation, id)?;
    match lookup(installation, seq)? {
        Read::Whole(record) => Ok((seq, record)),
        Read::Gone(why, _) => Err(Failure::new(Kind::Wrong, format!("record #{seq} cannot be read: {why}"))),
    }
}

/// The record that a request id names.
fn request(installation: &Installation, id: &str) -> Result<Seq, Failure> {
    let found = parse_request_id(id).filter(|seq| *seq < installation.log().durable_size());
    found.ok_or_else(|| {
        let shown: String = id.chars().take(64).collect();
        Failure::new(Kind::Usage, format!("no request `{shown}` is on record"))
            .next("the request id stands in `x-amz-request-id` and in every S3 error")
    })
}

enum Read {
    Whole(Box<Record>),
    /// Why, and what happened where that is left.
    Gone(String, Option<Box<Core>>),
}

fn lookup(installation: &Installation, seq: Seq) -> Result<Read, Failure> {
    let log = installation.log();
    match log.lookup(seq) {
        Ok(record) => Ok(Read::Whole(Box::new(record))),
        Err(LogError::Unreadable { why, .. }) => {
            let core = matches!(why, OpenError::Erased { .. }).then(|| log.core(seq).ok().map(Box::new)).flatten();
            Ok(Read::Gone(why.to_string(), core))
        }
        Err(error) => Err(Failure::new(Kind::Unavailable, error)),
    }
}

fn gone(seq: Seq, why: String, core: Option<&Core>) -> Value {
    let time = core.map(|core| time(core.time_us));
    json!({ "seq": seq, "request_id": request_id(seq), "time": time, "core": core, "gone": why })
}

/// What no tenant's credential caused: the operator's own and the system's.
fn is_control_plane(record: &Record) -> bool {
    matches!(record.subject.actor, ActorKind::Operator | ActorKind::System | ActorKind::Anonymous)
        && !record.core.op.0.starts_with("s3:")
}

fn shown(seq: Seq, record: &Record, whole: bool) -> Value {
    let mut resource = json!(record.resource);
    let mut subject = json!(record.subject);
    if !whole {
        for field in ["key", "source", "prefix", "names"] {
            resource[field] = Value::Null;
        }
        for field in ["source", "user_agent", "issuer_subject"] {
            subject[field] = Value::Null;
        }
    }
    json!({
        "seq": seq,
        "request_id": request_id(seq),
        "time": time(record.core.time_us),
        "core": record.core,
        "subject": subject,
        "resource": resource,
        "public": record.public.as_ref().map(public_json),
        "redacted": !whole,
    })
}
