//! Requests of STS, by nobody.

use super::wire::{Answer, Request};
use super::{Came, Ground};

/// A form that nobody signed, to a server that trusts no provider: it is an
/// error in the words of AWS, on record, and repeats no token.
pub fn sts(ground: &mut Ground, bytes: &[u8]) -> Came {
    let stand = ground.server();
    let form = "application/x-www-form-urlencoded";
    let request = Request::new("POST", "/").header("content-type", form).body(bytes.to_vec());
    let before = stand.server.records();
    let answer = Answer::parse(&stand.server.s3(&request.framed(&[])), &request);
    stand.is_in_order(&answer, before, &request);
    assert!(answer.status >= 400, "done for nobody: {answer:?}");
    let text = answer.text();
    for part in
        ["<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">", "<Type>Sender</Type>", "<RequestId>"]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(!text.contains("SECRET-TOKEN"), "{text}");
    assert!(!text.bytes().any(|byte| byte < 0x20 && !b"\t\n\r".contains(&byte)), "no XML: {text:?}");
    answer.status
}
