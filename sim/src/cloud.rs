//! The public site's service: as much of S3 as the store uses, in memory, over
//! loopback, so that the real client with its retries and timeouts talks to it.
//!
//! MODELLED. It can be down, slow or full, fail after it has stored, and lie:
//! give out too little, flipped bits, another object's bytes, or what it held
//! some time ago.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringfence_db::clock::{Clock, ManualClock};
use tokio::net::TcpListener;

/// The bucket that the site stores in.
pub const BUCKET: &str = "chunks";

/// What is wrong with the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Every request is answered with 503.
    Down,
    /// The connection ends before anything happened.
    Cut,
    /// It happens, and the answer never comes.
    Slow,
    /// A write or delete happens, and 500 is answered.
    StoredButFailed,
    /// A write is answered with 507.
    Full,
    /// A read gives out half of what is asked for, as if that were all.
    Truncated,
    /// A read gives out one bit changed.
    Flipped,
    /// A read gives out bytes of another object.
    Swapped,
    /// Reads and listings show what was there before the last ten changes.
    Stale,
}

/// Every kind of bad weather.
pub const WEATHER: &[Weather] = &[
    Weather::Down,
    Weather::Cut,
    Weather::Slow,
    Weather::StoredButFailed,
    Weather::Full,
    Weather::Truncated,
    Weather::Flipped,
    Weather::Swapped,
    Weather::Stale,
];

type Objects = BTreeMap<String, (Bytes, u64)>;

#[derive(Default)]
struct State {
    objects: Objects,
    /// What was there before each of the last changes, oldest first.
    before: Vec<Objects>,
    weather: Option<Weather>,
    /// Requests that the weather still strikes.
    strikes: u64,
    struck: u64,
    forgets: bool,
}

/// A service that is running.
#[derive(Clone)]
pub struct Cloud {
    state: Arc<Mutex<State>>,
    clock: Arc<ManualClock>,
    url: String,
}

impl Cloud {
    /// Starts it on a free port, within the current runtime.
    pub async fn start(clock: Arc<ManualClock>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let cloud = Self { state: Arc::default(), clock, url };
        let served = cloud.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let cloud = served.clone();
                let service = hyper::service::service_fn(move |request| cloud.clone().answer(request));
                // A connection that breaks is what this is for.
                tokio::spawn(async move {
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
                });
            }
        });
        Ok(cloud)
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next `strikes` requests that it concerns meet this weather.
    pub fn set_weather(&self, weather: Weather, strikes: u64) {
        let mut state = self.state();
        (state.weather, state.strikes) = (Some(weather), strikes);
    }

    /// The sun shines.
    pub fn calm(&self) {
        let mut state = self.state();
        (state.weather, state.strikes) = (None, 0);
    }

    /// How many requests met bad weather so far.
    pub fn struck(&self) -> u64 {
        self.state().struck
    }

    /// SABOTAGE: from now on it acknowledges writes and keeps nothing.
    pub fn forget_writes(&self) {
        self.state().forgets = true;
    }

    /// SABOTAGE: puts something there behind everybody's back.
    pub fn plant(&self, name: &str, bytes: &[u8]) {
        self.state().objects.insert(name.to_owned(), (Bytes::copy_from_slice(bytes), 0));
    }

    /// Everything that lies there.
    pub fn objects(&self) -> Vec<(String, Bytes)> {
        self.state().objects.iter().map(|(name, (bytes, _))| (name.clone(), bytes.clone())).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let weather = self.state().strike(&parts.method);
        match weather {
            Some(Weather::Down) => return Ok(failed(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")),
            Some(Weather::Cut) => return Err(Cut),
            Some(Weather::Full) => return Ok(failed(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage")),
            _ => {}
        }
        let name = parts.uri.path().strip_prefix(&format!("/{BUCKET}")).unwrap_or_default();
        let name = name.trim_start_matches('/').to_owned();
        let range = parts.headers.get("range").and_then(|range| range.to_str().ok()).and_then(range_of);
        let stale = weather == Some(Weather::Stale);
        let answer = match parts.method {
            Method::PUT => self.put(name, body),
            Method::DELETE => self.delete(&name),
            Method::GET if name.is_empty() => self.list(parts.uri.query().unwrap_or_default(), stale),
            Method::GET | Method::HEAD => self.get(&name, range, weather, parts.method == Method::HEAD),
            _ => failed(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        };
        match weather {
            Some(Weather::Slow) => {
                tokio::time::sleep(Duration::from_secs(3600)).await;
                Err(Cut)
            }
            Some(Weather::StoredButFailed) => Ok(failed(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")),
            _ => Ok(answer),
        }
    }

    fn put(&self, name: String, body: Bytes) -> Response<Full<Bytes>> {
        let now_ms = self.clock.now_us() / 1000;
        let mut state = self.state();
        state.remember();
        if !state.forgets {
            state.objects.insert(name, (body, now_ms));
        }
        response(StatusCode::OK, Bytes::new(), &[("etag", "\"0\"")])
    }

    fn delete(&self, name: &str) -> Response<Full<Bytes>> {
        let mut state = self.state();
        state.remember();
        state.objects.remove(name);
        response(StatusCode::NO_CONTENT, Bytes::new(), &[])
    }

    fn get(
        &self,
        name: &str,
        range: Option<(u64, u64)>,
        weather: Option<Weather>,
        head: bool,
    ) -> Response<Full<Bytes>> {
        let state = self.state();
        let objects = state.as_seen(weather == Some(Weather::Stale));
        let Some((bytes, _)) = objects.get(name) else { return failed(StatusCode::NOT_FOUND, "NoSuchKey") };
        let mut bytes = bytes.clone();
        if weather == Some(Weather::Swapped)
            && let Some((_, (other, _))) =
                objects.iter().find(|(other, (b, _))| *other != name && b.len() >= bytes.len())
        {
            bytes = other.slice(..bytes.len());
        }
        drop(state);
        let len = bytes.len() as u64;
        if head {
            let len = len.to_string();
            return response(StatusCode::OK, Bytes::new(), &[("content-length", len.as_str()), ("etag", "\"0\"")]);
        }
        let (first, last) = range.unwrap_or((0, len.saturating_sub(1)));
        let last = last.min(len.saturating_sub(1));
        if first > last || first >= len {
            return failed(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let mut part = bytes.slice(first as usize..=last as usize);
        match weather {
            Some(Weather::Truncated) => part = part.slice(..part.len() / 2),
            Some(Weather::Flipped) => {
                let mut changed = part.to_vec();
                let middle = changed.len() / 2;
                changed[middle] ^= 4;
                part = changed.into();
            }
            _ => {}
        }
        let content_range = format!("bytes {first}-{}/{len}", (first + part.len() as u64).saturating_sub(1));
        let status = if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        response(status, part, &[("content-range", content_range.as_str()), ("etag", "\"0\"")])
    }

    fn list(&self, query: &str, stale: bool) -> Response<Full<Bytes>> {
        let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default();
        let prefix = prefix.replace("%2F", "/").replace("%2f", "/");
        let mut text = format!("<ListBucketResult><Name>{BUCKET}</Name><IsTruncated>false</IsTruncated>");
        let state = self.state();
        for (name, (bytes, at_ms)) in state.as_seen(stale).iter().filter(|(name, _)| name.starts_with(&prefix)) {
            text.push_str(&format!(
                "<Contents><Key>{name}</Key><LastModified>{}</LastModified><ETag>\"0\"</ETag><Size>{}</Size></Contents>",
                date(*at_ms),
                bytes.len()
            ));
        }
        text.push_str("</ListBucketResult>");
        response(StatusCode::OK, text.into(), &[("content-type", "application/xml")])
    }
}

impl State {
    fn remember(&mut self) {
        self.before.push(self.objects.clone());
        if self.before.len() > 10 {
            self.before.remove(0);
        }
    }

    fn as_seen(&self, stale: bool) -> &Objects {
        if stale { self.before.first().unwrap_or(&self.objects) } else { &self.objects }
    }

    /// The weather of one request.
    fn strike(&mut self, method: &Method) -> Option<Weather> {
        let weather = self.weather?;
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let concerned = match weather {
            Weather::Down | Weather::Cut | Weather::Slow => true,
            Weather::StoredButFailed => !reads,
            Weather::Full => *method == Method::PUT,
            Weather::Truncated | Weather::Flipped | Weather::Swapped | Weather::Stale => reads,
        };
        if !concerned {
            return None;
        }
        self.strikes = self.strikes.checked_sub(1)?;
        self.struck += 1;
        Some(weather)
    }
}

/// Ends the connection without an answer.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the connection is cut")
    }
}

impl std::error::Error for Cut {}

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

fn response(status: StatusCode, body: Bytes, headers: &[(&str, &str)]) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body)).expect("headers of plain text")
}

fn failed(status: StatusCode, code: &str) -> Response<Full<Bytes>> {
    let text = format!("<Error><Code>{code}</Code><Message>simulated</Message></Error>");
    response(status, text.into(), &[("content-type", "application/xml")])
}

/// `bytes=A-B`, both included.
fn range_of(header: &str) -> Option<(u64, u64)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().unwrap_or(u64::MAX)))
}

fn date(at_ms: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp((at_ms / 1000) as i64);
    let at = at.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default()
}
