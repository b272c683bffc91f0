//! `ringfence alarm list`

use serde_json::Value;

use super::output::plain;
use super::{Common, Failure, Output, connect};
use crate::admin::call::Call;

/// Prints a line for each alarm, newest last.
pub(super) fn list(common: &Common, since: Option<u64>, output: &Output) -> Result<(), Failure> {
    let listed = connect::call(common, Call::AlarmList { since }, output)?;
    output.answer(&listed, |o| {
        let rows: Vec<Value> = listed["alarms"].as_array().into_iter().flatten().map(row).collect();
        if rows.is_empty() {
            o.say("no alarms");
            return;
        }
        let columns = [
            ("#", "record"),
            ("TIME", "time"),
            ("KIND", "kind"),
            ("REALM", "realm"),
            ("TENANT", "tenant"),
            ("TIMES", "count"),
            ("TOLD", "delivery"),
            ("DETAIL", "detail"),
        ];
        o.table(&rows.into(), &columns);
        if let Some(waiting) = listed["waiting"].as_u64().filter(|n| *n > 0) {
            o.warn(&format!("{waiting} wait for the webhook to acknowledge them"));
        }
    });
    Ok(())
}

/// What is gone says so where its kind would stand.
fn row(alarm: &Value) -> Value {
    let mut row = alarm.clone();
    if let Some(gone) = alarm.get("gone") {
        row["kind"] = gone.clone();
    }
    row["detail"] = plain(&row["detail"]).chars().take(120).collect::<String>().into();
    row
}
