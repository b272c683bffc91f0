//! Calls over the administration socket.

use super::Came;
use super::ground::Ground;
use super::wire::{Answer, Request};

/// Calls that only look. The others are parsed and not made: they write where
/// they are told to.
const LOOKS: [&str; 11] = [
    "status",
    "tenant_list",
    "key_list",
    "site_list",
    "policy_show",
    "policy_check",
    "policy_test",
    "policy_explain",
    "where",
    "usage",
    "log_show",
];

/// What is accepted is written again as it was read. A call that looks ends
/// with an answer or a reason, and is on record in either case.
pub fn calls(ground: &mut Ground, bytes: &[u8]) -> Came {
    let understood = ringfence::fuzz::call(bytes);
    if let Some(call) = &understood {
        assert_eq!(ringfence::fuzz::call(call).as_ref(), Some(call), "what we wrote");
    }
    let call: Option<serde_json::Value> = understood.and_then(|call| serde_json::from_slice(&call).ok());
    let looks = call.as_ref().and_then(|call| call["call"].as_str()).is_some_and(|call| LOOKS.contains(&call));
    if call.is_some() && !looks {
        return 1;
    }
    let stand = ground.server();
    let before = stand.server.records();
    let request = Request::new("POST", "/v1/call").body(bytes.to_vec());
    let answer = Answer::parse(&stand.server.admin(&request.framed(&[])), &request);
    if call.is_none() {
        assert_eq!(answer.status, 400, "{answer:?}");
        return answer.status;
    }
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = answer.text();
    let last = text.lines().last().unwrap_or_default();
    let event: serde_json::Value = serde_json::from_str(last).expect("an event is JSON");
    assert!(event.get("done").is_some() || event.get("failed").is_some(), "no end: {text}");
    assert_ne!(event["failed"]["kind"], "internal", "{text}");
    let nameless = event["failed"]["kind"] == "usage";
    assert!(nameless || stand.server.records() > before, "not on record: {text}");
    answer.status
}
