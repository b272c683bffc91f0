//! `alarm list`.

use ringfence_format::leaf::request_id;
use ringfence_format::record::Seq;
use serde_json::{Value, json};

use crate::alarm::{AlarmKind, Delivery, Listed, kind_of};
use crate::cli::{Failure, Kind};
use crate::installation::Installation;
use crate::retention::time;

/// The latest alarms, or those from a record on, with what became of them.
pub(super) async fn list(installation: &Installation, since: Option<Seq>) -> Result<Value, Failure> {
    let alarms = installation.alarms().clone();
    let read = tokio::task::spawn_blocking(move || alarms.list(since)).await;
    let listed = read.map_err(Failure::internal)?.map_err(|e| Failure::new(Kind::Unavailable, e))?;
    let shown: Vec<Value> = listed.iter().map(shown).collect();
    Ok(
        json!({ "size": installation.log().durable_size(), "waiting": installation.alarms().waiting(), "alarms": shown }),
    )
}

fn shown(alarm: &Listed) -> Value {
    let delivery = alarm.delivery.map(|delivery| match delivery {
        Delivery::Delivered => "delivered",
        Delivery::Waiting => "waiting",
        Delivery::NoWebhook => "no webhook",
    });
    let record = match &alarm.record {
        Ok(record) => record,
        Err(gone) => return json!({ "record": alarm.seq, "delivery": delivery, "gone": gone }),
    };
    let kind = kind_of(record).unwrap_or_default();
    json!({
        "record": alarm.seq,
        "time": time(record.core.time_us),
        "kind": kind,
        "severity": AlarmKind::parse(kind).map(AlarmKind::severity),
        "realm": record.subject.realm,
        "tenant": record.subject.tenant,
        "detail": record.resource.detail,
        "count": record.core.aggregated.max(1),
        "request_id": record.core.of.map(request_id),
        "delivery": delivery,
    })
}
