//! A remote site that is slow, cuts, lies, or fails after it has stored: what
//! the store is told, and how often the site was asked.
//!
//! A proxy between the site and a real S3 server does to each request what the
//! test's script says next.

mod services;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ringfence_db::clock::ManualClock;
use ringfence_format::{
    chunk,
    envelope::{DataKey, PartSealer, Sealed},
    names::{BucketId, InstallationId, ObjectVersion, PartId, Realm, SiteId, Tenant, UploadId, VersionUid},
};
use ringfence_store::site::{Patience, RemoteConfig, Service, Site, SiteError, SiteInfo, SiteKind};
use services::Counterpart;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use zeroize::Zeroizing;

const INSTALLATION: InstallationId = InstallationId([3; 16]);
const ATTEMPT: Duration = Duration::from_millis(1500);

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It passes through.
    None,
    /// The connection is cut before anything happened.
    Reset,
    /// An error is answered and nothing happened.
    Answer(u16, &'static str),
    /// It happened, and an error is answered.
    HappenedThen(u16),
    /// It happened, and the connection is cut.
    HappenedThenReset,
    /// It happened, and the answer never comes.
    HappenedThenSilence,
    /// The body ends before its declared length.
    CutBody,
    /// A shorter body, declared as such.
    ShortBody,
    /// A longer body, declared as such.
    LongBody,
    /// A body without end.
    EndlessBody,
    /// One bit of the body is another.
    FlippedBit,
}

/// Requests pass through it to the server behind.
struct Proxy {
    addr: SocketAddr,
    script: Arc<Mutex<VecDeque<Fault>>>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn before(server: &Counterpart) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let proxy = Self { addr: listener.local_addr().expect("bound"), script: Arc::default(), seen: Arc::default() };
        let (behind, script, seen) = (server.addr(), proxy.script.clone(), proxy.seen.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (script, seen) = (script.clone(), seen.clone());
                // A connection that breaks is what this is for.
                tokio::spawn(async move { serve(client, behind, &script, &seen).await.ok() });
            }
        });
        proxy
    }

    /// What becomes of the next requests; those after pass through.
    fn script(&self, faults: &[Fault]) {
        *self.script.lock().expect("not poisoned") = faults.iter().copied().collect();
        self.seen.lock().expect("not poisoned").clear();
    }

    fn requests(&self) -> usize {
        self.seen.lock().expect("not poisoned").len()
    }
}

async fn serve(
    mut client: TcpStream,
    behind: SocketAddr,
    script: &Mutex<VecDeque<Fault>>,
    seen: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let (head, body) = read_message(&mut client).await?;
    let fault = script.lock().expect("not poisoned").pop_front().unwrap_or(Fault::None);
    seen.lock().expect("not poisoned").push(head.lines().next().unwrap_or_default().to_owned());
    let answered = match fault {
        Fault::Reset => return cut(client),
        Fault::Answer(status, code) => return answer(&mut client, status, code).await,
        _ => forward(behind, &head, &body).await?,
    };
    let (head, body) = answered;
    match fault {
        Fault::HappenedThen(status) => answer(&mut client, status, "InternalError").await,
        Fault::HappenedThenReset => cut(client),
        Fault::HappenedThenSilence => {
            tokio::time::sleep(ATTEMPT * 4).await;
            Ok(())
        }
        Fault::CutBody => {
            client.write_all(head.as_bytes()).await?;
            client.write_all(&body[..body.len() / 2]).await?;
            cut(client)
        }
        Fault::ShortBody => send(&mut client, &head, &body[..body.len() / 2]).await,
        Fault::LongBody => send(&mut client, &head, &[&body[..], &body[..]].concat()).await,
        Fault::EndlessBody => {
            let kept = head.trim_end().lines().filter(|l| !l.to_lowercase().starts_with("content-length"));
            let head = kept.collect::<Vec<_>>().join("\r\n");
            client.write_all(format!("{head}\r\n\r\n").as_bytes()).await?;
            loop {
                client.write_all(&[7; 65536]).await?;
            }
        }
        Fault::FlippedBit => {
            let mut body = body;
            let middle = body.len() / 2;
            body[middle] ^= 1;
            send(&mut client, &head, &body).await
        }
        _ => send(&mut client, &head, &body).await,
    }
}

/// Closes with a reset instead of an orderly end.
fn cut(client: TcpStream) -> std::io::Result<()> {
    client.set_zero_linger()
}

async fn answer(client: &mut TcpStream, status: u16, code: &str) -> std::io::Result<()> {
    let body = format!("<Error><Code>{code}</Code><Message>scripted</Message></Error>");
    let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-type: application/xml\r\n\r\n");
    send(client, &head, body.as_bytes()).await
}

/// Sends a message, its length corrected to its body.
async fn send(client: &mut TcpStream, head: &str, body: &[u8]) -> std::io::Result<()> {
    let kept = head.trim_end().lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_lowercase();
        !matches!(name.as_str(), "content-length" | "connection" | "transfer-encoding" | "content-range")
    });
    let head = kept.collect::<Vec<_>>().join("\r\n");
    let head = format!("{head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    client.write_all(head.as_bytes()).await?;
    client.write_all(body).await?;
    client.shutdown().await
}

async fn forward(behind: SocketAddr, head: &str, body: &[u8]) -> std::io::Result<(String, Vec<u8>)> {
    let mut server = TcpStream::connect(behind).await?;
    let head = format!("{}\r\nconnection: close\r\n\r\n", head.trim_end());
    server.write_all(head.as_bytes()).await?;
    server.write_all(body).await?;
    read_message(&mut server).await
}

/// Head and body of one HTTP message with a declared length.
async fn read_message(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(i) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break i + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).map_err(std::io::Error::other)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = body;
    while body.len() < length.unwrap_or(0) && stream.read_buf(&mut body).await? > 0 {}
    Ok((head, body))
}

/// A site behind a proxy before moto, and what to ask of it.
struct Setting {
    _moto: Counterpart,
    proxy: Proxy,
    site: Site,
}

impl Setting {
    async fn new(patience: Patience) -> Self {
        let moto = Counterpart::moto().await;
        let proxy = Proxy::before(&moto).await;
        let id = SiteId::parse("cloud").expect("a name");
        let info = SiteInfo { patience, ..SiteInfo::new(id, SiteKind::Public, "US", "moto") };
        let config = RemoteConfig {
            service: Service::S3,
            endpoint: Some(format!("http://{}", proxy.addr)),
            bucket: services::BUCKET.into(),
            prefix: String::new(),
            region: None,
        };
        let site = Site::open_remote(info, &config, services::s3_credential()).expect("configured");
        Self { _moto: moto, proxy, site }
    }

    async fn put(&self, upload: u8, sealed: &Sealed, faults: &[Fault]) -> Result<(), SiteError> {
        self.proxy.script(faults);
        self.site.put(&name(upload), vec![sealed.clone()]).await.map(drop)
    }

    async fn get(&self, upload: u8, len: u64, faults: &[Fault]) -> Result<Vec<u8>, SiteError> {
        self.proxy.script(faults);
        self.site.get(&name(upload), None, Some(0..len)).await.map(|f| f.untrusted().to_vec())
    }
}

fn patience() -> Patience {
    Patience {
        attempt_timeout: ATTEMPT,
        attempts_max: 3,
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(5),
        // These tests count requests; the breaker has its own below.
        failures_max: u32::MAX,
        ..Patience::default()
    }
}

fn name(upload: u8) -> String {
    chunk::chunk_name(&INSTALLATION, &UploadId([upload; 16]), 0)
}

/// Real ciphertext: a site takes nothing else.
fn sealed() -> Sealed {
    let object = ObjectVersion {
        realm: Realm::parse("realm").expect("a name"),
        tenant: Tenant::parse("tenant").expect("a name"),
        bucket: BucketId([1; 16]),
        version: VersionUid([2; 16]),
    };
    let key = DataKey::new(Arc::new(object), Zeroizing::new([9; 32]));
    let mut sealer = PartSealer::new(&key, PartId([4; 16]));
    let mut random = |bytes: &mut [u8]| bytes.fill(5);
    let mut pieces: Vec<_> = sealer.push(&[42; 100_000], &mut random).expect("sealed").into_iter().collect();
    pieces.push(sealer.finish(&mut random).expect("sealed"));
    Sealed::join(pieces).expect("of one object")
}

#[tokio::test]
async fn a_put_is_repeated_until_the_site_says_yes() {
    let setting = Setting::new(patience()).await;
    let sealed = sealed();
    let cases: &[(&[Fault], usize)] = &[
        (&[], 1),
        (&[Fault::Reset], 2),
        (&[Fault::Answer(500, "InternalError")], 2),
        (&[Fault::Answer(503, "SlowDown"), Fault::Answer(503, "SlowDown")], 3),
        (&[Fault::HappenedThen(500)], 2),
        (&[Fault::HappenedThenReset], 2),
        (&[Fault::HappenedThenSilence], 2),
    ];
    for (i, (faults, requests)) in cases.iter().enumerate() {
        setting.put(i as u8, &sealed, faults).await.unwrap_or_else(|e| panic!("{faults:?}: {e}"));
        assert_eq!(setting.proxy.requests(), *requests, "{faults:?}");
        let back = setting.get(i as u8, sealed.len() as u64, &[]).await.expect("stored");
        assert_eq!(back, sealed.bytes()[..], "{faults:?}");
    }
}

#[tokio::test]
async fn a_put_that_ends_in_an_error_says_what_to_do_about_it() {
    let setting = Setting::new(patience()).await;
    let sealed = sealed();
    let always = |fault| [fault; 3];
    let down = setting.put(1, &sealed, &always(Fault::Reset)).await.expect_err("down");
    assert!(matches!(down, SiteError::Retryable { .. }) && setting.proxy.requests() == 3, "{down}");
    let silent = setting.put(2, &sealed, &always(Fault::HappenedThenSilence)).await.expect_err("silent");
    assert!(matches!(silent, SiteError::Timeout { .. }) && setting.proxy.requests() == 3, "{silent}");
    // It happened all the same: the next call with the same bytes succeeds.
    setting.put(2, &sealed, &[]).await.expect("names are never reused, so a repetition is the same");
    type Check = fn(&SiteError) -> bool;
    let cases: &[(Fault, Check)] = &[
        (Fault::Answer(403, "AccessDenied"), |e| matches!(e, SiteError::Refused { .. })),
        (Fault::Answer(404, "NoSuchBucket"), |e| matches!(e, SiteError::Config { .. })),
        (Fault::Answer(507, "InsufficientStorage"), |e| matches!(e, SiteError::Full { .. })),
        (Fault::Answer(400, "QuotaExceeded"), |e| matches!(e, SiteError::Full { .. })),
    ];
    for (fault, wanted) in cases {
        let error = setting.put(3, &sealed, &[*fault]).await.expect_err("refused");
        assert!(wanted(&error), "{fault:?}: {error:?}");
        assert_eq!(setting.proxy.requests(), 1, "{fault:?} is not asked again");
        let text = error.to_string();
        assert!(!text.contains("127.0.0.1") && !text.contains("Credential"), "{text}");
    }
}

#[tokio::test]
async fn a_get_is_whole_or_an_error_and_never_short() {
    let setting = Setting::new(patience()).await;
    let sealed = sealed();
    let len = sealed.len() as u64;
    setting.put(1, &sealed, &[]).await.expect("stored");
    for faults in [&[][..], &[Fault::Reset], &[Fault::CutBody], &[Fault::CutBody, Fault::Answer(500, "InternalError")]]
    {
        let got = setting.get(1, len, faults).await.unwrap_or_else(|e| panic!("{faults:?}: {e}"));
        assert_eq!(got, sealed.bytes()[..], "{faults:?}");
        assert_eq!(setting.proxy.requests(), faults.len() + 1, "{faults:?}");
    }
    for fault in [Fault::ShortBody, Fault::LongBody, Fault::EndlessBody] {
        let error = setting.get(1, len, &[fault; 3]).await.expect_err("not the range");
        assert!(matches!(error, SiteError::Corrupt { .. }), "{fault:?}: {error:?}");
    }
    let cut = setting.get(1, len, &[Fault::CutBody; 3]).await.expect_err("always cut");
    assert!(cut.is_retryable(), "{cut:?}");
    // What a site cannot know, the envelope will: the bytes come as they are.
    let flipped = setting.get(1, len, &[Fault::FlippedBit]).await.expect("as many as asked for");
    assert!(flipped.len() == sealed.len() && flipped != sealed.bytes()[..]);
}

#[tokio::test]
async fn an_erasure_that_failed_but_happened_is_success() {
    let setting = Setting::new(patience()).await;
    let sealed = sealed();
    for (i, faults) in
        [&[Fault::HappenedThen(500)][..], &[Fault::HappenedThenReset], &[Fault::Reset]].iter().enumerate()
    {
        setting.put(i as u8, &sealed, &[]).await.expect("stored");
        setting.proxy.script(faults);
        setting.site.delete(&name(i as u8), None).await.unwrap_or_else(|e| panic!("{faults:?}: {e}"));
        let gone = setting.site.stat(&name(i as u8), None).await.expect_err("gone");
        assert!(gone.is_not_found(), "{gone}");
    }
}

#[tokio::test]
async fn a_site_that_is_down_is_not_answered_with_a_storm() {
    let calm = Patience { retry_budget: 5, ..patience() };
    let setting = Setting::new(calm).await;
    setting.proxy.script(&[Fault::Answer(500, "InternalError"); 100]);
    let sealed = sealed();
    for i in 0..20 {
        let put = setting.site.put(&name(i), vec![sealed.clone()]).await;
        assert!(put.expect_err("down").is_retryable());
    }
    assert_eq!(setting.proxy.requests(), 20 + 5, "each call asks once, and five retries are shared by all");
}

#[tokio::test]
async fn a_hanging_site_holds_nobody_longer_than_the_timeout_says() {
    let setting = Setting::new(Patience { attempts_max: 1, ..patience() }).await;
    let begun = Instant::now();
    let error = setting.put(1, &sealed(), &[Fault::HappenedThenSilence]).await.expect_err("silent");
    assert!(matches!(error, SiteError::Timeout { after_ms: 1500, .. }), "{error}");
    assert!(begun.elapsed() < ATTEMPT * 3);
}

#[tokio::test]
async fn a_dead_site_is_left_in_peace_and_comes_back_by_a_trial() {
    let setting = Setting::new(Patience { failures_max: 5, ..patience() }).await;
    let clock = Arc::new(ManualClock::new(1_000_000_000));
    setting.site.keep_time(clock.clone());
    let sealed = sealed();
    setting.proxy.script(&[Fault::Reset; 100]);
    for i in 0..20 {
        setting.site.put(&name(i), vec![sealed.clone()]).await.expect_err("down");
    }
    assert_eq!(setting.proxy.requests(), 5, "five attempts say it, and nobody waits after that");
    let resting = setting.site.get(&name(1), None, Some(0..9)).await.err().expect("left in peace");
    assert!(matches!(resting, SiteError::Resting { .. }), "{resting}");
    setting.site.try_again(INSTALLATION).await;
    assert_eq!(setting.proxy.requests(), 5, "its rest is not over");
    clock.advance_us(5_000_000);
    setting.site.try_again(INSTALLATION).await;
    assert!(!setting.site.is_asked(), "the trial failed");
    setting.proxy.script(&[]);
    clock.advance_us(9_000_000);
    setting.site.try_again(INSTALLATION).await;
    assert!(!setting.site.is_asked(), "the second rest is longer");
    clock.advance_us(1_000_000);
    setting.site.try_again(INSTALLATION).await;
    assert!(setting.site.is_asked());
    setting.put(1, &sealed, &[]).await.expect("as before");
}

#[tokio::test]
async fn a_busy_site_is_not_a_dead_one() {
    let setting = Setting::new(Patience { failures_max: 2, ..patience() }).await;
    let sealed = sealed();
    for i in 0..5 {
        let busy = setting.put(i, &sealed, &[Fault::Answer(429, "TooManyRequests"); 3]).await.expect_err("busy");
        assert!(busy.is_retryable(), "{busy:?}");
    }
    assert!(setting.site.is_asked());
}
