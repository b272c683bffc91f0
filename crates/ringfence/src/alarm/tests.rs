//! From raising to an acknowledgement, over a receiver that fails in every way.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringfence_format::names::{Realm, Tenant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::flood::Pace;
use super::*;
use crate::installation::{Installation, Options};
use crate::serve::stop_channel;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How the receiver treats one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Answers(u16),
    Hangs,
    Breaks,
}

/// What it heard, and how it treated it.
struct Heard {
    head: String,
    body: serde_json::Value,
    did: Does,
}

/// A webhook that behaves as told, then acknowledges.
async fn receiver(does: &[Does]) -> (u16, mpsc::UnboundedReceiver<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (heard, hears) = mpsc::unbounded_channel();
    let does: Arc<Mutex<VecDeque<Does>>> = Arc::new(Mutex::new(does.iter().copied().collect()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, does.clone(), heard.clone()));
        }
    });
    (port, hears)
}

async fn answer(mut stream: TcpStream, does: Arc<Mutex<VecDeque<Does>>>, heard: mpsc::UnboundedSender<Heard>) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length: usize =
                head.split("content-length: ").nth(1).and_then(|n| n.lines().next()?.parse().ok()).expect("a length");
            if body.len() >= length {
                let did = does.lock().expect("no panic").pop_front().unwrap_or(Does::Answers(204));
                let body = serde_json::from_str(body).expect("JSON");
                let _ = heard.send(Heard { head, body, did });
                match did {
                    Does::Answers(status) => {
                        let answer = format!("HTTP/1.1 {status} x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n");
                        let _ = stream.write_all(answer.as_bytes()).await;
                        bytes.clear();
                        continue;
                    }
                    Does::Hangs => std::future::pending().await,
                    Does::Breaks => return,
                }
            }
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

fn stolen(tenant: &str, detail: &str) -> Alarm {
    Alarm {
        kind: AlarmKind::SigValidNotIssued,
        realm: Some(Realm::parse("home").expect("a realm")),
        tenant: Some(Tenant::parse(tenant).expect("a tenant")),
        detail: detail.to_owned(),
        of: None,
    }
}

async fn open(dir: &Path, port: u16) -> Installation {
    std::fs::write(dir.join("alarm.secret"), format!("{SECRET}\n")).expect("written");
    let mut config = crate::config::Config::parse(Path::new("t"), crate::config::FIRST, []).expect("valid");
    config.alarm.webhook = Some(format!("http://127.0.0.1:{port}/hook"));
    config.alarm.secret = Some(crate::config::SecretRef::File("alarm.secret".into()));
    (config.alarm.timeout_s, config.alarm.retry_max_s) = (1, 1);
    let dir = crate::installation::DataDir::take(dir).expect("locked");
    Installation::open_in(dir, config, Options { create: true }).await.expect("it opens")
}

/// Tells alarms until the returned handle is dropped.
fn telling(at: &Installation) -> (crate::serve::Stop, tokio::task::JoinHandle<()>) {
    let (stop, stopping) = stop_channel();
    let webhook = Webhook::of(&at.config.alarm, at.dir()).expect("a secret").expect("configured");
    (stop, tokio::spawn(deliver(at.alarms.clone(), Some(webhook), at.clock.clone(), stopping)))
}

async fn next(hears: &mut mpsc::UnboundedReceiver<Heard>) -> Heard {
    tokio::time::timeout(Duration::from_secs(20), hears.recv()).await.expect("in time").expect("the receiver lives")
}

/// Until every acknowledgement was seen: a stop in between tells again.
async fn all_told(at: &Installation) {
    for _ in 0..2000 {
        if at.alarms.waiting() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{} alarms still wait", at.alarms.waiting());
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_else(|| panic!("{name} in {head}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_is_on_record_at_once_and_told_until_it_is_acknowledged() {
    let bad = [Does::Answers(500), Does::Answers(302), Does::Hangs, Does::Breaks, Does::Answers(410)];
    let (port, mut hears) = receiver(&bad).await;
    let dir = tempfile::tempdir().expect("a directory");
    let at = open(dir.path(), port).await;
    let told = telling(&at);
    let before = at.log.durable_size();
    at.alarms.raise(stolen("default", "session 0123")).await;
    let record = at.log.lookup(before).expect("durable when raising returns");
    assert_eq!((record.core.op.0.as_str(), record.core.aggregated), ("alarm:SIG_VALID_NOT_ISSUED", 0));
    let mut ids = std::collections::BTreeSet::new();
    for expected in bad.into_iter().chain([Does::Answers(204)]) {
        let heard = next(&mut hears).await;
        assert_eq!(heard.did, expected);
        ids.insert(header(&heard.head, "webhook-id").to_owned());
        assert!(header(&heard.head, "webhook-signature").starts_with("v1,"));
        assert_eq!(heard.body["type"], "alarm.sig_valid_not_issued");
        assert_eq!(heard.body["data"]["severity"], "critical");
        assert_eq!(heard.body["data"]["tenant"], "default");
        assert_eq!(heard.body["data"]["detail"], "session 0123");
        assert_eq!(heard.body["data"]["record"], before);
    }
    assert_eq!(ids.len(), 1, "one alarm, one id");
    // One more shows that the first is not told again.
    at.alarms.raise(Alarm { of: Some(before), ..stolen("default", "x").with(AlarmKind::LogFork) }).await;
    let heard = next(&mut hears).await;
    assert_eq!(heard.body["data"]["kind"], "LOG_FORK");
    assert!(!heard.body["data"]["request_id"].is_null());
    all_told(&at).await;
    drop(told.0);
    told.1.await.expect("it ends");
    let listed = at.alarms.list(None).expect("readable");
    let shown: Vec<_> = listed.iter().map(|l| (l.seq, l.delivery)).collect();
    assert_eq!(shown, [(before, Some(Delivery::Delivered)), (before + 1, Some(Delivery::Delivered))]);
    at.close().await;
}

impl Alarm {
    fn with(self, kind: AlarmKind) -> Self {
        Self { kind, ..self }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_raised_before_a_crash_is_told_after_it_and_what_was_told_is_not() {
    let (port, mut hears) = receiver(&[]).await;
    let dir = tempfile::tempdir().expect("a directory");
    let at = open(dir.path(), port).await;
    // Nothing tells, and nothing is closed in order.
    at.alarms.raise(stolen("default", "before the crash")).await;
    drop(at);
    let at = open(dir.path(), port).await;
    let told = telling(&at);
    assert_eq!(next(&mut hears).await.body["data"]["detail"], "before the crash");
    all_told(&at).await;
    drop(told.0);
    told.1.await.expect("it ends");
    drop(at);
    let at = open(dir.path(), port).await;
    let told = telling(&at);
    at.alarms.raise(stolen("default", "later")).await;
    assert_eq!(next(&mut hears).await.body["data"]["detail"], "later", "the other one was acknowledged");
    all_told(&at).await;
    drop(told.0);
    told.1.await.expect("it ends");
    at.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_reads_little_of_the_log_once_its_end_was_followed() {
    let (port, mut hears) = receiver(&[]).await;
    let dir = tempfile::tempdir().expect("a directory");
    let at = open(dir.path(), port).await;
    let told = telling(&at);
    at.alarms.raise(stolen("default", "x")).await;
    let _heard = next(&mut hears).await;
    let size = at.log.durable_size();
    assert!(size > 1, "a first start records");
    all_told(&at).await;
    drop(told.0);
    told.1.await.expect("it ends");
    drop(at);
    let at = open(dir.path(), 9).await;
    let behind = at.alarms.0.book().behind();
    assert!(behind.is_none_or(|from| from >= size), "{behind:?}");
    at.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_a_few_records_that_add_up_and_other_tenants_are_not_hidden_by_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let at = open(dir.path(), 9).await;
    let pace = Pace { first: Duration::from_millis(50), longest: Duration::from_millis(50) };
    let alarms = Alarms::paced(dir.path(), at.log.clone(), false, pace);
    let before = at.log.durable_size();
    for n in 0..500 {
        alarms.raise(stolen("default", &format!("session {n}"))).await;
    }
    alarms.raise(stolen("other", "alone")).await;
    alarms.flush().await;
    let listed = alarms.list(Some(before)).expect("readable");
    let records: Vec<_> = listed.iter().map(|l| l.record.as_ref().expect("readable")).collect();
    let of = |tenant: &str| {
        records.iter().filter(|r| r.subject.tenant.as_ref().is_some_and(|t| t.as_str() == tenant)).count()
    };
    assert_eq!(of("other"), 1);
    assert!((2..100).contains(&of("default")), "{}", of("default"));
    assert_eq!(records.iter().map(|r| r.core.aggregated.max(1)).sum::<u64>(), 501, "none is lost");
    assert_eq!(records[0].resource.detail.as_deref(), Some("session 0"), "the first is there by itself");
    at.close().await;
}

#[test]
fn every_kind_has_its_own_name_and_a_long_detail_is_cut_on_a_character() {
    let names: std::collections::BTreeSet<_> = AlarmKind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), AlarmKind::ALL.len());
    assert!(AlarmKind::ALL.iter().all(|kind| AlarmKind::parse(kind.as_str()) == Some(*kind)));
    let long = Alarm { detail: "é".repeat(3000), ..stolen("default", "") };
    let detail = long.to_record(1).resource.detail.expect("said");
    assert_eq!(detail, "é".repeat(ALARM_DETAIL_BYTES_MAX / 2));
}
