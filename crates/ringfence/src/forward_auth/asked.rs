//! What a proxy was asked for, as it says it.
//!
//! Only what the configured kind of proxy sets itself is looked at: of anything
//! else its client could say what it likes, and have a proof that was made for
//! another service taken for one that was made for this.

use std::net::IpAddr;

use http::HeaderMap;
use http::request::Parts;
use ringfence_access::caller::Origin;

use crate::config::Proxy;

/// Characters of what a client calls itself, in records.
const AGENT_CHARS_MAX: usize = 160;
/// Characters of a URL, in records.
const URL_CHARS_MAX: usize = 512;

/// What the client of a proxy asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) method: Option<String>,
    /// As the client sees it.
    pub(crate) url: Option<String>,
    /// Roles of which it must have one; none: any will do.
    pub(crate) roles: Vec<String>,
}

impl Asked {
    /// Of a question whose path is one of ours; `None` where it is not.
    pub(crate) fn of(head: &Parts, proxy: Proxy) -> Option<Self> {
        let headers = &head.headers;
        let header = |name| one(headers, name).map(str::to_owned);
        let behind = head.uri.path().strip_prefix("/auth")?;
        Some(match proxy {
            Proxy::Envoy if behind.starts_with('/') => Self {
                method: Some(head.method.as_str().to_owned()),
                url: (|| Some(format!("{}{}", site(headers, "host")?, behind_auth(head)?)))(),
                roles: one(headers, "x-ringfence-roles").map_or_else(Vec::new, listed),
            },
            Proxy::Nginx if behind.is_empty() => Self {
                method: header("x-original-method"),
                url: header("x-original-url"),
                roles: roles_of_query(head.uri.query()),
            },
            Proxy::Traefik if behind.is_empty() => Self {
                method: header("x-forwarded-method"),
                url: forwarded(headers),
                roles: roles_of_query(head.uri.query()),
            },
            _ => return None,
        })
    }

    /// Method and URL without its query, for the record.
    pub(super) fn detail(&self) -> String {
        let url = self.url.as_deref().unwrap_or("an unknown URL");
        let url = url.split(['?', '#']).next().unwrap_or_default();
        let shown = url.chars().take(URL_CHARS_MAX).map(|c| if c.is_control() { '.' } else { c });
        format!("{} {}", self.method.as_deref().unwrap_or("?"), shown.collect::<String>())
    }
}

/// Where a form was sent to, as its client sees it: what the proxy says, or
/// where we listen.
pub(super) fn own_url(head: &Parts, proxy: Proxy, addr: std::net::SocketAddr) -> String {
    let headers = &head.headers;
    let said = match proxy {
        Proxy::Nginx => one(headers, "x-original-url").map(str::to_owned),
        Proxy::Traefik => forwarded(headers),
        Proxy::Envoy => site(headers, "host").map(|site| format!("{site}/token")),
    };
    said.unwrap_or_else(|| format!("http://{addr}/token"))
}

/// Where the client is, and what it calls itself.
pub(super) fn origin(headers: &HeaderMap, proxy: Proxy, peer: IpAddr) -> Origin {
    let said = match proxy {
        Proxy::Nginx => one(headers, "x-real-ip"),
        // Each proxy adds at the end who asked it.
        Proxy::Traefik | Proxy::Envoy => headers
            .get_all("x-forwarded-for")
            .iter()
            .next_back()
            .and_then(|value| value.to_str().ok())
            .and_then(|list| list.rsplit(',').next()),
    };
    let ip = said.and_then(|text| text.trim().parse().ok()).unwrap_or(peer);
    let agent = one(headers, "user-agent");
    Origin { ip: Some(ip), user_agent: agent.map(|agent| agent.chars().take(AGENT_CHARS_MAX).collect()) }
}

/// The one header of that name; none where it stands twice.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

fn forwarded(headers: &HeaderMap) -> Option<String> {
    let uri = one(headers, "x-forwarded-uri").filter(|uri| uri.starts_with('/'))?;
    Some(format!("{}{uri}", site(headers, "x-forwarded-host")?))
}

/// `https://host`, of a header that names the host.
fn site(headers: &HeaderMap, host: &str) -> Option<String> {
    let scheme = one(headers, "x-forwarded-proto").filter(|scheme| matches!(*scheme, "http" | "https"))?;
    let host = one(headers, host).filter(|host| !host.contains(['/', '?', '#', '@']))?;
    Some(format!("{scheme}://{host}"))
}

fn behind_auth(head: &Parts) -> Option<&str> {
    head.uri.path_and_query()?.as_str().strip_prefix("/auth")
}

/// `role=NAME`, as often as there are roles. The query is the configuration's:
/// these proxies do not pass on their client's.
fn roles_of_query(query: Option<&str>) -> Vec<String> {
    let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name == "role").map(|(_, role)| role.to_owned()).collect()
}

fn listed(text: &str) -> Vec<String> {
    text.split(',').map(|role| role.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method("PUT").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn url(uri: &str, proxy: Proxy, headers: &[(&str, &str)]) -> Option<String> {
        Asked::of(&head(uri, headers), proxy).expect("a path of ours").url
    }

    const FORWARDED: [(&str, &str); 4] = [
        ("x-forwarded-method", "GET"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "files.example"),
        ("x-forwarded-uri", "/a?b=c"),
    ];

    #[test]
    fn each_proxy_is_read_in_its_own_words() {
        let nginx = [("x-original-method", "GET"), ("x-original-url", "https://files.example/a?b=c")];
        let asked = Asked::of(&head("/auth?role=reader&role=writer", &nginx), Proxy::Nginx).expect("ours");
        assert_eq!(asked.method.as_deref(), Some("GET"));
        assert_eq!(asked.roles, ["reader", "writer"]);
        assert_eq!(asked.detail(), "GET https://files.example/a");
        let asked = Asked::of(&head("/auth", &FORWARDED), Proxy::Traefik).expect("ours");
        assert_eq!(asked.url.as_deref(), Some("https://files.example/a?b=c"));
        let envoy =
            [("host", "files.example"), ("x-forwarded-proto", "https"), ("x-ringfence-roles", "reader, writer")];
        let asked = Asked::of(&head("/auth/a?role=admin", &envoy), Proxy::Envoy).expect("ours");
        assert_eq!(asked.method.as_deref(), Some("PUT"));
        assert_eq!(asked.url.as_deref(), Some("https://files.example/a?role=admin"));
        assert_eq!(asked.roles, ["reader", "writer"], "the query is the client's own");
    }

    /// A client that says what another kind of proxy would say is not heard.
    #[test]
    fn what_the_proxy_does_not_set_is_not_looked_at() {
        assert_eq!(url("/auth", Proxy::Nginx, &FORWARDED), None);
        let original = [("x-original-method", "GET"), ("x-original-url", "https://evil.example/")];
        assert_eq!(url("/auth", Proxy::Traefik, &original), None);
        assert_eq!(url("/auth/a", Proxy::Envoy, &original), None);
        let twice = [("x-original-url", "https://a.example/"), ("x-original-url", "https://b.example/")];
        assert_eq!(url("/auth", Proxy::Nginx, &twice), None);
        for (name, bad) in [("x-forwarded-host", "a@b"), ("x-forwarded-proto", "ftp"), ("x-forwarded-uri", "@b/")] {
            let with = FORWARDED.map(|(known, value)| (known, if known == name { bad } else { value }));
            assert_eq!(url("/auth", Proxy::Traefik, &with), None, "{name}");
        }
        for (uri, proxy) in [
            ("/auth/a", Proxy::Nginx),
            ("/auth/a", Proxy::Traefik),
            ("/auth", Proxy::Envoy),
            ("/authx", Proxy::Envoy),
            ("/", Proxy::Nginx),
        ] {
            assert_eq!(Asked::of(&head(uri, &FORWARDED), proxy), None, "{uri}");
        }
    }

    #[test]
    fn the_address_is_the_one_the_proxy_saw() {
        let peer = IpAddr::from([127, 0, 0, 1]);
        let ip = |proxy, headers: &[(&str, &str)]| origin(&head("/auth", headers).headers, proxy, peer).ip;
        assert_eq!(ip(Proxy::Nginx, &[("x-real-ip", "192.0.2.7")]), Some(IpAddr::from([192, 0, 2, 7])));
        assert_eq!(ip(Proxy::Nginx, &[("x-forwarded-for", "192.0.2.7")]), Some(peer));
        let two = [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.9, 192.0.2.7")];
        assert_eq!(ip(Proxy::Envoy, &two), Some(IpAddr::from([192, 0, 2, 7])));
    }
}
