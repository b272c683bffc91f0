//! HTTP and SigV4 as a client speaks them, written from the specifications
//! (RFC 9112; "Signature Version 4" of the S3 documentation): nothing here is
//! shared with the server.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use aws_lc_rs::{digest, hmac};
use ringfence::fuzz::Server;
use time::OffsetDateTime;

/// A request before it is signed. Path and query are as meant, not encoded.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// `x-amz-content-sha256`.
    pub(super) payload: String,
}

/// What a request may not say for itself, since it says how the message is
/// framed, or is part of the signature.
const OURS: [&str; 10] = [
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-amz-content-sha256",
    "x-amz-date",
];

impl Request {
    pub(super) fn new(method: &str, path: &str) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: vec![],
            headers: vec![],
            body: vec![],
            payload: "UNSIGNED-PAYLOAD".to_owned(),
        }
    }
    pub(super) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }
    pub(super) fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }
    /// With a header, unless HTTP cannot carry it or it is not for the caller to say.
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
        let sayable =
            !name.is_empty() && name.bytes().all(token) && !value.bytes().any(|c| c < 32 && c != 9 || c == 127);
        if sayable && !OURS.contains(&name.to_ascii_lowercase().as_str()) {
            self.headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The request with its signature by the server's first key, as bytes.
    pub(super) fn signed(&self, server: &Server) -> Vec<u8> {
        let (id, secret) = server.key();
        let (stamp, day) = times(server.now_us());
        let mut pairs: Vec<_> =
            self.query.iter().map(|(name, value)| (encoded(name, ""), encoded(value, ""))).collect();
        pairs.sort();
        let canonical_query = joined(&pairs);
        let path = encoded(&self.path, "/");
        let signed = self.to_sign(&stamp);
        let names = signed.keys().map(String::as_str).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = format!("{}\n{path}\n{canonical_query}\n{lines}\n{names}\n{}", self.method, self.payload);
        let scope = format!("{day}/us-east-1/s3/aws4_request");
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}",
            hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref())
        );
        let mut key = mac(format!("AWS4{secret}").as_bytes(), &day);
        for step in ["us-east-1", "s3", "aws4_request"] {
            key = mac(&key, step);
        }
        let signature = hex(&mac(&key, &to_sign));
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        let with_auth = [
            ("authorization", authorization.as_str()),
            ("x-amz-content-sha256", self.payload.as_str()),
            ("x-amz-date", stamp.as_str()),
        ];
        self.framed(&with_auth)
    }

    /// What S3 wants signed, sorted: the host and everything that begins with
    /// `x-amz-`, lines of one name joined by commas.
    fn to_sign(&self, stamp: &str) -> BTreeMap<String, String> {
        let ours = [("host", "localhost"), ("x-amz-content-sha256", &self.payload), ("x-amz-date", stamp)];
        let given = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut signed = BTreeMap::<String, String>::new();
        for (name, value) in given.filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-amz-")).chain(ours) {
            let value = value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
            let line = signed.entry(name.to_ascii_lowercase());
            line.and_modify(|before| *before = format!("{before},{value}")).or_insert(value);
        }
        signed
    }

    /// The bytes of the request with more headers, framed by its length.
    pub(super) fn framed(&self, more: &[(&str, &str)]) -> Vec<u8> {
        let pairs: Vec<_> = self.query.iter().map(|(name, value)| (encoded(name, ""), encoded(value, ""))).collect();
        let question = if pairs.is_empty() { "" } else { "?" };
        let mut head = format!("{} {}{question}{} HTTP/1.1\r\n", self.method, encoded(&self.path, "/"), joined(&pairs));
        let given = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in given.chain(more.iter().copied()) {
            write!(head, "{name}: {value}\r\n").expect("in memory");
        }
        write!(head, "host: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", self.body.len())
            .expect("in memory");
        [head.as_bytes(), &self.body].concat()
    }
}

/// An answer, taken apart.
pub(super) struct Answer {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} {:?}", self.status, self.headers, self.text())
    }
}

impl Answer {
    /// Panics where the bytes are no whole HTTP answer to that request.
    pub(super) fn parse(bytes: &[u8], request: &Request) -> Self {
        let split = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let split = split.unwrap_or_else(|| panic!("no answer to {request:?}: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..split]).expect("a head is text");
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
        let headers = lines.map(|line| line.split_once(':').expect("a header has a colon"));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let mut answer = Self { status: status.expect("a status"), headers: headers.collect(), body: vec![] };
        let body = &bytes[split + 4..];
        answer.body = match (answer.header("transfer-encoding"), answer.header("content-length")) {
            (Some("chunked"), _) => dechunked(body).expect("chunks to the last"),
            (_, Some(len)) if request.method != "HEAD" && answer.status != 304 => {
                assert_eq!(len.parse(), Ok(body.len()), "a body has the length it says: {request:?}");
                body.to_vec()
            }
            _ => body.to_vec(),
        };
        assert!(request.method != "HEAD" || answer.body.is_empty(), "HEAD has no body: {request:?}");
        answer
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
    /// The text of every element of that name, entities and all.
    pub(super) fn elements(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let text = self.text();
        let found = text.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned()));
        found.collect()
    }
}

/// The body that RFC 9112, section 7.1 frames; `None` where it is cut or malformed.
fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = vec![];
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return (rest == b"\r\n").then_some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// `%41` and `+` undone; what is not well-formed stays as it is.
pub(super) fn decoded(text: &str) -> String {
    let mut out = vec![];
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        let pair = more.get(..2).and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (first, pair) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = &more[2..];
            }
            _ => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn encoded(text: &str, also: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || also.as_bytes().contains(&byte);
        match plain {
            true => out.push(char::from(byte)),
            false => write!(out, "%{byte:02X}").expect("in memory"),
        }
    }
    out
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// The time and the day as a signature writes them.
pub(super) fn times(now_us: u64) -> (String, String) {
    let at = OffsetDateTime::from_unix_timestamp((now_us / 1_000_000) as i64).expect("a time");
    let day = format!("{:04}{:02}{:02}", at.year(), u8::from(at.month()), at.day());
    (format!("{day}T{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second()), day)
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
