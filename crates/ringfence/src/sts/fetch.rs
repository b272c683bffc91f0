//! Fetches identity providers' documents: the one place where their bytes come
//! in. What may be fetched is decided in `ringfence_access::evidence`.

use std::sync::OnceLock;
use std::time::Duration;

use futures::StreamExt as _;
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use ringfence_access::evidence::NotFetched;

/// Seconds until a document is given up, connecting included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client for documents. Made when the first is asked for: it reads the
/// machine's root certificates.
#[derive(Default)]
pub struct Fetcher {
    outside: OnceLock<Result<Client, String>>,
    /// No proxy stands between this machine and itself.
    loopback: OnceLock<Result<Client, String>>,
}

impl Fetcher {
    /// Follows no redirection: a document of another place is another issuer's.
    fn client(&self, scheme: &str) -> Result<&Client, String> {
        let builder = || Client::builder().redirect(Policy::none()).timeout(TIMEOUT).user_agent("ringfence");
        let built = |client: reqwest::Result<Client>| client.map_err(|error| error.to_string());
        let client = match scheme {
            "http" => self.loopback.get_or_init(|| built(builder().no_proxy().build())),
            _ => self.outside.get_or_init(|| built(builder().https_only(true).build())),
        };
        client.as_ref().map_err(Clone::clone)
    }

    /// The body of `GET url`, if it is answered by 200 and has at most `max` bytes.
    ///
    /// # Errors
    /// Why not, for the operator.
    pub async fn get(&self, url: &str, max: usize) -> Result<Vec<u8>, NotFetched> {
        let failed = |why: &dyn std::fmt::Display| NotFetched(format!("`{url}`: {why}"));
        let parsed = Url::parse(url).map_err(|error| failed(&error))?;
        let client = self.client(parsed.scheme()).map_err(|error| failed(&error))?;
        let request = client.get(parsed).header(http::header::ACCEPT, "application/json");
        let response = request.send().await.map_err(|error| failed(&causes(&error)))?;
        if response.status() != StatusCode::OK {
            return Err(failed(&format!("answered {}", response.status())));
        }
        let mut stream = response.bytes_stream();
        let mut bytes = vec![];
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| failed(&causes(&error)))?;
            if bytes.len() + chunk.len() > max {
                return Err(failed(&format!("more than {max} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// An error with what caused it, in one line and without its URL.
fn causes(error: &reqwest::Error) -> String {
    let mut text = String::from("no answer");
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
