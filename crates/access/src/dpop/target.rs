//! `htu`: which URL a proof is for (RFC 9449, section 4.3, point 9).

use std::fmt::Write as _;

use url::Url;

/// Bytes of a URL.
const URL_BYTES_MAX: usize = 4096;

/// Scheme, host, port and path in one spelling (RFC 3986, sections 6.2.2 and
/// 6.2.3), without query and fragment. `None` for what is no plain `http` or
/// `https` URL.
pub(super) fn normal(url: &str) -> Option<String> {
    // The parser passes over tabs and line ends, and takes `\` for `/`.
    let plain = url.bytes().all(|c| c.is_ascii_graphic() && c != b'\\');
    if !plain || url.len() > URL_BYTES_MAX || !escapes_are_whole(url) {
        return None;
    }
    let parsed = Url::parse(url).ok()?;
    let known = matches!(parsed.scheme(), "http" | "https");
    if !known || !parsed.username().is_empty() || parsed.password().is_some() {
        return None;
    }
    let (host, port) = (parsed.host_str()?, parsed.port_or_known_default()?);
    Some(format!("{}://{host}:{port}{}", parsed.scheme(), unescaped(parsed.path())))
}

/// Every `%` has its two digits.
fn escapes_are_whole(url: &str) -> bool {
    url.split('%').skip(1).all(|rest| rest.len() >= 2 && rest.as_bytes()[..2].iter().all(u8::is_ascii_hexdigit))
}

/// Escapes of unreserved characters undone, the others in capitals.
fn unescaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut pieces = path.split('%');
    out.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        match u8::from_str_radix(digits, 16) {
            Ok(c) if c.is_ascii_alphanumeric() || b"-._~".contains(&c) => out.push(char::from(c)),
            Ok(c) => {
                let _ = write!(out, "%{c:02X}");
            }
            Err(_) => {
                let _ = write!(out, "%{digits}");
            }
        }
        out.push_str(rest);
    }
    out
}
