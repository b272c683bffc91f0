//! AWS's own signing test suite (testdata/sigv4), and every way to be wrong.

use std::path::Path;

use http::request::Parts;
use serde_json::Value;

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 2015-08-30T12:36:00Z
const NOW: u64 = 1_440_938_160;

/// A request as the suite writes it. Its key id is shorter than ours may be;
/// it is not part of what is signed.
fn parsed(text: &str) -> (Parts, Vec<u8>) {
    let text = text.replace("\r\n", "\n").replace("AKIDEXAMPLE", "AKIDEXAMPLE00000");
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let mut lines: Vec<String> = vec![];
    for line in head.lines() {
        match line.strip_prefix([' ', '\t']) {
            // Folded: one line to whoever receives it (RFC 9112, section 5.2).
            Some(more) => lines.last_mut().expect("a line before").push_str(&format!(" {}", more.trim())),
            None => lines.push(line.to_owned()),
        }
    }
    let (method, rest) = lines[0].split_once(' ').expect("a method");
    let target = rest.rsplit_once(' ').filter(|(_, v)| v.starts_with("HTTP/")).map_or(rest, |(target, _)| target);
    let target: String = target
        .bytes()
        .map(|b| if b.is_ascii_graphic() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let mut request = http::Request::builder().method(method).uri(target);
    for line in &lines[1..] {
        let (name, value) = line.split_once(':').expect("a header");
        request = request.header(name, value.trim());
    }
    (request.body(()).expect("a request").into_parts().0, body.as_bytes().to_vec())
}

fn came(text: &str, now: u64, service: &str, secret: &str) -> Result<(), StsCode> {
    let (head, body) = parsed(text);
    let claimed = Claimed::for_service(&head, &body, now, service).map_err(|(error, _)| error.code)?;
    claimed.check(secret).map(|_| ()).map_err(|error| error.code)
}

#[test]
fn the_signing_test_suite_verifies_and_nothing_else_about_it_does() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sigv4");
    let (mut verified, mut others) = (0, vec![]);
    for entry in std::fs::read_dir(folder).expect("vectors") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name");
        let Ok(context) = std::fs::read_to_string(entry.path().join("context.json")) else { continue };
        let context: Value = serde_json::from_str(&context).expect("JSON");
        let text = std::fs::read_to_string(entry.path().join("header-signed-request.txt")).expect("a request");
        let path = text.lines().next().unwrap_or_default().split('?').next().unwrap_or_default();
        let no_http = path.split(' ').count() > 3 || !path.is_ascii();
        if context["normalize"] == false || context["omit_session_token"] == true || no_http {
            others.push((name, came(&text, NOW, "service", SECRET)));
            continue;
        }
        assert_eq!(came(&text, NOW, "service", SECRET), Ok(()), "{name}");
        assert_eq!(came(&text, NOW, "sts", SECRET), Err(StsCode::SignatureDoesNotMatch), "{name}: another service");
        assert_eq!(came(&text, NOW, "service", "another"), Err(StsCode::SignatureDoesNotMatch), "{name}");
        let changed = text.replace("us-east-1/service", "us-east-2/service");
        assert_eq!(came(&changed, NOW, "service", SECRET), Err(StsCode::SignatureDoesNotMatch), "{name}");
        verified += 1;
    }
    assert_eq!((verified, others.len()), (28, 10));
    // S3's way with paths, which STS does not have; paths that no HTTP request
    // can have; and a session token that the signature does not cover.
    for (name, got) in others {
        let plain = ["get-slash-pointless-dot-unnormalized"];
        assert!(got.is_err() || plain.contains(&name.as_str()), "{name}");
    }
}

const GOOD: &str = "POST / HTTP/1.1
Host:example.amazonaws.com
X-Amz-Date:20150830T123600Z
Authorization:AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b

";

#[test]
fn each_thing_that_is_wrong_is_told_in_the_words_of_aws() {
    assert_eq!(came(GOOD, NOW, "service", SECRET), Ok(()));
    let with = |from: &str, to: &str| {
        assert!(GOOD.contains(from), "{from}");
        came(&GOOD.replacen(from, to, 1), NOW, "service", SECRET)
    };
    let incomplete = Err(StsCode::IncompleteSignature);
    let mismatch = Err(StsCode::SignatureDoesNotMatch);
    assert_eq!(with("Authorization:", "X-Other:"), Err(StsCode::MissingAuthenticationToken));
    assert_eq!(with("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA1 "), incomplete);
    assert_eq!(with("AWS4-HMAC-SHA256 ", "Bearer "), incomplete);
    assert_eq!(with("Signature=5d", "Signature=5e"), mismatch);
    assert_eq!(with("Signature=5d", "Signature=5D"), incomplete);
    assert_eq!(with("Signature=5d", "Signature="), incomplete);
    assert_eq!(with(", Signature=", ", Signature=00, Signature="), incomplete);
    assert_eq!(with(", Signature=", ", Extra=1, Signature="), incomplete);
    assert_eq!(with("host;x-amz-date", "x-amz-date"), incomplete);
    assert_eq!(with("host;x-amz-date", "host"), incomplete);
    assert_eq!(with("host;x-amz-date", "x-amz-date;host"), incomplete);
    assert_eq!(with("host;x-amz-date", "host;host;x-amz-date"), incomplete);
    assert_eq!(with("host;x-amz-date", "Host;x-amz-date"), incomplete);
    assert_eq!(with("host;x-amz-date", "host;x-amz-date;x-not-there"), incomplete);
    assert_eq!(with("X-Amz-Date:20150830T123600Z\n", ""), incomplete);
    assert_eq!(with("X-Amz-Date:", "X-Amz-Date:20150830T123600Z\nX-Amz-Date:"), incomplete);
    assert_eq!(with("20150830T123600Z", "20150830T1236Z"), incomplete);
    assert_eq!(with("20150830T123600Z", "20150830T123601Z"), mismatch);
    assert_eq!(with("/20150830/", "/20150829/"), mismatch);
    assert_eq!(with("aws4_request", "aws5_request"), incomplete);
    assert_eq!(with("AKIDEXAMPLE/", "AK/"), Err(StsCode::InvalidClientTokenId));
    assert_eq!(with("us-east-1", ""), incomplete);
    assert_eq!(with("POST", "GET"), mismatch);
    assert_eq!(with("POST / ", "POST /?a=b "), mismatch);
    assert_eq!(with("example.amazonaws.com", "example.amazonaws.org"), mismatch);
    // What is not signed must not change what is asked.
    assert_eq!(with("X-Amz-Date:", "X-Amz-Security-Token:abc\nX-Amz-Date:"), incomplete);
    assert_eq!(with("X-Amz-Date:", "X-Amz-Content-Sha256:UNSIGNED-PAYLOAD\nX-Amz-Date:"), incomplete);
    assert_eq!(came(&format!("{GOOD}Action=AssumeRole"), NOW, "service", SECRET), mismatch, "another body");
}

#[test]
fn a_request_is_good_for_fifteen_minutes_either_way() {
    for (now, expect) in [
        (NOW + 900, Ok(())),
        (NOW - 900, Ok(())),
        (NOW + 901, Err(StsCode::SignatureDoesNotMatch)),
        (NOW - 901, Err(StsCode::SignatureDoesNotMatch)),
    ] {
        assert_eq!(came(GOOD, now, "service", SECRET), expect, "{now}");
    }
    let (head, body) = parsed(GOOD);
    let (error, key) = Claimed::for_service(&head, &body, NOW + 901, "service").expect_err("skewed");
    assert_eq!(
        error.message,
        "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T125101Z - 15 min.)"
    );
    assert_eq!(key.map(|key| key.to_string()), Some("AKIDEXAMPLE00000".to_owned()), "whose record it is");
}
