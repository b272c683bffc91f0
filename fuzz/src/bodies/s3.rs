//! The S3 endpoint, whole: each input becomes a request that a client could
//! send, with a signature that fits unless the target is about signatures.

use super::Came;
use super::ground::{Ground, KNOWN, Stand};
use super::wire::{Answer, Request, decoded};

/// Stands in inputs for the bucket of today, and the id of our key.
const BUCKET: &str = "{bucket}";
const KEY: &str = "{key}";
/// And for today, as a signature's scope writes it.
const DAY: &str = "{day}";

/// A method, a path with its query, headers and a body, as text:
/// `GET /{bucket}/known?versionId=null`, a line for each header, an empty
/// line, the body.
pub fn requests(ground: &mut Ground, bytes: &[u8]) -> Came {
    let stand = ground.server();
    let Some(request) = read_request(bytes, stand) else { return 0 };
    let answer = stand.ask(&request);
    let written = !matches!(request.method.as_str(), "GET" | "HEAD") && answer.status < 300;
    if written {
        reads_back(stand, &request, &answer);
    }
    tells_the_truth(stand, &request, &answer);
    if written {
        stand.mend();
    }
    answer.status
}

fn read_request(bytes: &[u8], stand: &Stand) -> Option<Request> {
    let split = bytes.windows(2).position(|two| two == b"\n\n");
    let (head, body) = split.map_or((bytes, &[][..]), |at| (&bytes[..at], &bytes[at + 2..]));
    let head = std::str::from_utf8(head).ok()?.replace(BUCKET, &stand.bucket());
    let mut lines = head.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method_is_one = !method.is_empty() && method.bytes().all(|c| c.is_ascii_uppercase());
    // A path that begins with two slashes is an authority to HTTP.
    if !method_is_one || !path.starts_with('/') || method == "CONNECT" {
        return None;
    }
    let mut request = Request::new(method, &decoded(path)).body(body.to_vec());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        request = request.query(&decoded(name), &decoded(value));
    }
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        request = request.header(name, value.trim());
    }
    // Beyond this a head is HTTP's business, not ours.
    let head_bytes: usize = request.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    (head_bytes + target.len() < 8_000 && request.headers.len() < 64).then_some(request)
}

/// What was put is what is got.
fn reads_back(stand: &Stand, request: &Request, answer: &Answer) {
    let plain = request.method == "PUT" && answer.status == 200 && request.query.is_empty();
    let object =
        request.path.strip_prefix('/').and_then(|path| path.split_once('/')).is_some_and(|(_, key)| !key.is_empty());
    if !plain || !object || request.value("x-amz-copy-source").is_some() {
        return;
    }
    let got = stand.ask(&Request::new("GET", &request.path));
    assert_eq!((got.status, &got.body), (200, &request.body), "{request:?}");
}

/// What is told of [`KNOWN`] is so, and no page is longer than a page.
fn tells_the_truth(stand: &Stand, request: &Request, answer: &Answer) {
    let known = Stand::known();
    let reads = request.method == "GET" && request.path == format!("/{}/{KNOWN}", stand.bucket());
    match answer.status {
        200 if reads && request.query.is_empty() => assert_eq!(answer.body, known, "{request:?}"),
        206 if reads => {
            let range = answer.header("content-range").expect("what part it is");
            let (range, size) = range.strip_prefix("bytes ").and_then(|r| r.split_once('/')).expect("RFC 9110, 14.4");
            let (first, last) = range.split_once('-').expect("RFC 9110, 14.4");
            let (first, last): (usize, usize) = (first.parse().expect("a number"), last.parse().expect("a number"));
            assert_eq!(size.parse(), Ok(known.len()));
            assert_eq!(answer.body, known[first..=last], "{request:?}");
        }
        _ => {}
    }
    assert!(answer.elements("Contents").len() <= 1000, "{request:?}");
}

/// A document that a client sends: which, in the first byte, then its bytes.
pub fn documents(ground: &mut Ground, bytes: &[u8]) -> Came {
    let stand = ground.server();
    let Some((which, body)) = bytes.split_first() else { return 0 };
    let bucket = stand.bucket();
    let known = format!("/{bucket}/{KNOWN}");
    match which {
        b'c' => completed(stand, body),
        b'd' => {
            let request = Request::new("POST", &format!("/{bucket}")).query("delete", "").body(body.to_vec());
            let answer = stand.ask(&with_digest(request));
            let named = answer.elements("Deleted").len() + answer.elements("Error").len();
            assert!(named <= 1000, "{named} of at most 1,000");
            stand.mend();
            answer.status
        }
        b't' => tagged(stand, &known, body, 10),
        b'b' => tagged(stand, &format!("/{bucket}"), body, 50),
        b'l' => {
            let path = format!("/{bucket}-made");
            let made = stand.ask(&Request::new("PUT", &path).body(body.to_vec()));
            if made.status == 200 {
                let location = stand.ask(&Request::new("GET", &path).query("location", ""));
                assert!(
                    ["", "cloud", "home"].iter().any(|site| location.text().contains(&format!(">{site}<")))
                        || location.text().contains("/>"),
                    "{location:?}"
                );
                assert_eq!(stand.ask(&Request::new("DELETE", &path)).status, 204);
            }
            made.status
        }
        _ => 0,
    }
}

fn with_digest(request: Request) -> Request {
    use base64::Engine as _;
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &request.body);
    let sum = base64::engine::general_purpose::STANDARD.encode(sum);
    request.header("x-amz-checksum-sha256", &sum)
}

/// Tags that were taken come back within S3's limits, and are taken again.
fn tagged(stand: &mut Stand, path: &str, body: &[u8], max: usize) -> Came {
    let tagging = |method: &str| Request::new(method, path).query("tagging", "");
    let put = stand.ask(&with_digest(tagging("PUT").body(body.to_vec())));
    if put.status < 300 {
        let got = stand.ask(&tagging("GET"));
        let names = got.elements("Key");
        assert!(names.len() <= max, "{} tags of at most {max}", names.len());
        assert!(names.iter().all(|name| !name.is_empty() && !name.starts_with("aws:")), "{names:?}");
        // A label may forbid its own key the next change; then it says so.
        let again = stand.ask(&with_digest(tagging("PUT").body(got.body.clone())));
        assert!(again.status < 300 || again.status == 403, "{again:?} to {got:?}");
        assert!(again.status == 403 || stand.ask(&tagging("GET")).body == got.body);
        stand.mend();
    }
    put.status
}

/// A completed upload is made of its parts and of nothing else.
fn completed(stand: &mut Stand, body: &[u8]) -> Came {
    let path = format!("/{}/uploaded", stand.bucket());
    let begun = stand.ask(&Request::new("POST", &path).query("uploads", ""));
    assert_eq!(begun.status, 200, "{begun:?}");
    let upload = begun.elements("UploadId").remove(0);
    let parts = [b"the first part".to_vec(), b"and the second".to_vec()];
    let mut text = body.to_vec();
    for (number, part) in ["1", "2"].iter().zip(&parts) {
        let put = Request::new("PUT", &path).query("partNumber", number).query("uploadId", &upload).body(part.clone());
        let etag = stand.ask(&put).header("etag").expect("a part has one").trim_matches('"').to_owned();
        text = replaced(&text, format!("{{etag{number}}}").as_bytes(), etag.as_bytes());
    }
    let answer = stand.ask(&Request::new("POST", &path).query("uploadId", &upload).body(text));
    if answer.status == 200 && !answer.text().contains("<Error>") {
        let got = stand.ask(&Request::new("GET", &path));
        assert!(parts.contains(&got.body), "made of something else: {got:?}");
    }
    let _ = stand.ask(&Request::new("DELETE", &path).query("uploadId", &upload));
    answer.status
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let Some(at) = text.windows(from.len()).position(|window| window == from) else { return text.to_vec() };
    [&text[..at], to, &text[at + from.len()..]].concat()
}

/// A body in `aws-chunked`: how its length was announced, which trailer was,
/// and its bytes, lines of text but for the last:
/// `STREAMING-UNSIGNED-PAYLOAD-TRAILER 11 x-amz-checksum-crc32`.
pub fn chunked(ground: &mut Ground, bytes: &[u8]) -> Came {
    let stand = ground.server();
    let split = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let Ok(said) = std::str::from_utf8(&bytes[..split]) else { return 0 };
    let body = bytes.get(split + 1..).unwrap_or_default();
    let mut said = said.split(' ');
    let (kind, len, trailer) = (said.next().unwrap_or_default(), said.next().unwrap_or_default(), said.next());
    if !kind.bytes().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'-') {
        return 0;
    }
    let path = format!("/{}/chunked", stand.bucket());
    let mut request = Request::new("PUT", &path).body(body.to_vec()).header("content-encoding", "aws-chunked");
    request = request.header("x-amz-decoded-content-length", len);
    if let Some(trailer) = trailer {
        request = request.header("x-amz-trailer", trailer);
    }
    request.payload = kind.to_owned();
    let answer = stand.ask(&request);
    if answer.status == 200 {
        let got = stand.ask(&Request::new("GET", &path)).body;
        match kind {
            "UNSIGNED-PAYLOAD" => assert_eq!(got, body),
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER" => {
                let meant = dechunked(body);
                assert_eq!(meant.as_deref(), Some(&got[..]), "{:?}", String::from_utf8_lossy(body));
                assert_eq!(len.parse(), Ok(got.len()), "not as long as was announced");
            }
            _ => panic!("`{kind}` was accepted, whose signature nobody made: {request:?}"),
        }
    }
    answer.status
}

/// What the chunks of an unsigned body say: sizes in hex, data, the last chunk
/// of size 0, then trailers. The library is laxer than S3 in two ways: it reads
/// up to eight digits of a size and passes over what follows them, and once all
/// data has come it does not mind that the last chunk did not.
fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut data = vec![];
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Some(data) };
        let digits = rest[..end].iter().take(8).take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..digits]).ok()?, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(data);
        }
        data.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// A head that nobody signed: a method and path, then headers as they come.
/// Nothing that this target sends may ever be done.
pub fn heads(ground: &mut Ground, bytes: &[u8]) -> Came {
    let stand = ground.server();
    let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
    let text = text.replace(KEY, stand.server.key().0).replace(BUCKET, &stand.bucket());
    let text = text.replace(DAY, &stand.day());
    let mut lines = text.lines();
    let Some((method, target)) = lines.next().and_then(|line| line.split_once(' ')) else { return 0 };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if !["GET", "PUT", "POST", "DELETE", "HEAD"].contains(&method) || !path.starts_with('/') {
        return 0;
    }
    let mut request = Request::new(method, &decoded(path));
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        request = request.query(&decoded(name), &decoded(value));
    }
    let mut signatures = vec![];
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match ["authorization", "x-amz-date", "x-amz-content-sha256"].iter().find(|n| n.eq_ignore_ascii_case(name)) {
            Some(name) if value.bytes().all(|c| (32..127).contains(&c)) => signatures.push((*name, value)),
            _ => request = request.header(name, value),
        }
    }
    if text.len() > 8_000 || request.headers.len() > 64 {
        return 0;
    }
    let before = stand.server.records();
    let answer = Answer::parse(&stand.server.s3(&request.framed(&signatures)), &request);
    stand.is_in_order(&answer, before, &request);
    assert!(answer.status >= 400, "done for nobody: {request:?} {answer:?}");
    answer.status
}
