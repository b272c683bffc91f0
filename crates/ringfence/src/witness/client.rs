//! Has the log's checkpoints cosigned: shows each published one that is wanted
//! to every witness of the set in force, and hands the log what they sign.
//!
//! All witnesses are shown the same checkpoint, for a quorum is one of a
//! checkpoint: the next one is taken when the quorum is there, or its time is
//! over. One that is slow or dead keeps nobody waiting; it is asked again with
//! growing pauses. With nobody waiting a round is made every [`FRESH`], so that
//! sessions have a checkpoint that is young enough.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, Url};
use ringfence_format::checkpoint::Checkpoint;
use ringfence_format::witness::{WitnessKey, with_cosignatures};
use ringfence_log::{Log, LogError, Witnessed};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::request::AddCheckpoint;
use super::server::SIZE_TYPE;
use crate::serve::Stopping;

/// One question to one witness, answer included.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A checkpoint for which the quorum does not come is given up for the next.
const ROUND: Duration = Duration::from_secs(1);
/// Between two rounds that nobody waits for.
pub const FRESH: Duration = Duration::from_secs(2);
/// Between two looks at the time.
const TICK: Duration = Duration::from_millis(250);
/// The first pause after a witness failed; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Without a quorum for so long, somebody must know.
const LOST: Duration = Duration::from_secs(10);
/// A line or two are expected.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A witness and where it is asked: its submission prefix.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its key.
    pub key: WitnessKey,
    /// `…/add-checkpoint` is asked.
    pub url: Url,
}

/// What a person must hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// No quorum for [`LOST`]; why, by witness.
    QuorumLost(String),
    /// It is back.
    QuorumBack,
    /// A witness has seen another history than this log has, or a longer one:
    /// the log was set back, or somebody else signs with its key.
    Fork(String),
}

/// A checkpoint that every witness is shown.
#[derive(Debug)]
struct Target {
    checkpoint: Checkpoint,
    note: String,
    begun: Instant,
    /// What was the best when it began.
    before: Option<Arc<Witnessed>>,
}

/// Collects until the server stops.
pub async fn collect(log: Arc<Log>, asked: Vec<Asked>, events: mpsc::Sender<Event>, stopping: Stopping) {
    let (show, shown) = watch::channel(None::<Arc<Target>>);
    let mut tasks = tokio::task::JoinSet::new();
    for witness in asked {
        let Ok(client) = client(&witness.url) else { continue };
        let one = One { log: log.clone(), asked: witness, client, events: events.clone(), seen: 0 };
        tasks.spawn(one.run(shown.clone(), stopping.clone()));
    }
    rounds(&log, &show, &events, stopping).await;
    tasks.shutdown().await;
}

async fn rounds(
    log: &Arc<Log>,
    show: &watch::Sender<Option<Arc<Target>>>,
    events: &mpsc::Sender<Event>,
    mut stopping: Stopping,
) {
    let mut news = log.news();
    let mut health = Health { since: Instant::now(), last: None, lost: false };
    loop {
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep(TICK) => {}
            () = stopping.stopped() => return,
        }
        if log.quorum().is_none() {
            health = Health { since: Instant::now(), last: None, lost: false };
            continue;
        }
        health.look(log, events).await;
        let due = show.borrow().as_ref().is_none_or(|target| is_over(log, target) && is_due(log, target));
        if due && let Some((checkpoint, note)) = log.published() {
            let target = Target { checkpoint, note, begun: Instant::now(), before: log.witnessed() };
            show.send_replace(Some(Arc::new(target)));
        }
    }
}

/// Whether the quorum of this round is there, or its time is over.
fn is_over(log: &Log, target: &Target) -> bool {
    let best = log.witnessed();
    let met = best.as_ref().is_some_and(|b| b.size() >= target.checkpoint.size) && best != target.before;
    met || target.begun.elapsed() >= ROUND
}

/// Whether somebody waits for more than there is, or it is time.
fn is_due(log: &Log, target: &Target) -> bool {
    let size = log.witnessed().map_or(0, |best| best.size());
    let wanted = log.wanted().is_some_and(|wanted| wanted > size && log.published_size() >= wanted);
    wanted || target.begun.elapsed() >= FRESH
}

/// Whether there was a quorum lately.
struct Health {
    since: Instant,
    last: Option<Arc<Witnessed>>,
    lost: bool,
}

impl Health {
    async fn look(&mut self, log: &Log, events: &mpsc::Sender<Event>) {
        let best = log.witnessed();
        if best != self.last {
            (self.since, self.last) = (Instant::now(), best);
            if std::mem::take(&mut self.lost) {
                let _ = events.send(Event::QuorumBack).await;
            }
        }
        metrics::gauge!("ringfence_witness_quorum_age_seconds").set(self.since.elapsed().as_secs_f64());
        if !self.lost && self.since.elapsed() >= LOST {
            self.lost = true;
            let failures = log.witness_failures();
            let why: Vec<String> = failures.iter().map(|(name, why)| format!("`{name}`: {why}")).collect();
            let why = if why.is_empty() { "no witness answered".to_owned() } else { why.join("; ") };
            let _ = events.send(Event::QuorumLost(why)).await;
        }
    }
}

fn client(url: &Url) -> reqwest::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("ringfence/", env!("CARGO_PKG_VERSION")));
    // Plain HTTP is for this machine; a proxy is another one.
    if url.scheme() == "http" { builder.no_proxy().build() } else { builder.build() }
}

/// One witness, as this log knows it.
struct One {
    log: Arc<Log>,
    asked: Asked,
    client: reqwest::Client,
    events: mpsc::Sender<Event>,
    /// The size of the newest checkpoint that it is known to have cosigned.
    seen: u64,
}

/// Why a witness did not cosign.
enum Silent {
    /// It may the next time.
    Why(String),
    /// What it has seen and this log contradict each other.
    Fork(String),
    /// It has seen more than it is shown; a newer one is shown next.
    Ahead,
}

impl One {
    async fn run(mut self, mut shown: watch::Receiver<Option<Arc<Target>>>, mut stopping: Stopping) {
        let mut pause = None::<Duration>;
        loop {
            let next = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => drop(shown.changed().await),
                }
            };
            tokio::select! {
                () = next => {}
                () = stopping.stopped() => return,
            }
            let target = shown.borrow_and_update().clone();
            let Some(target) = target.filter(|_| self.counts()) else {
                pause = None;
                continue;
            };
            let begun = Instant::now();
            let cosigned = self.ask(&target).await;
            let name = self.asked.key.name().to_owned();
            metrics::histogram!("ringfence_witness_seconds", "witness" => name.clone())
                .record(begun.elapsed().as_secs_f64());
            let outcome = if cosigned.is_ok() { "ok" } else { "failed" };
            metrics::counter!("ringfence_witness_asked_total", "witness" => name.clone(), "outcome" => outcome)
                .increment(1);
            pause = match cosigned {
                Ok(()) | Err(Silent::Ahead) => None,
                Err(Silent::Why(why)) => {
                    tracing::debug!(witness = name, why, "no cosignature");
                    self.log.witness_failed(&name, &why);
                    Some(pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX)))
                }
                Err(Silent::Fork(why)) => {
                    tracing::error!(witness = name, why, "LOG_FORK: a witness has seen another history of this log");
                    self.log.witness_failed(&name, &why);
                    let _ = self.events.send(Event::Fork(format!("witness `{name}`: {why}"))).await;
                    Some(PAUSE_MAX)
                }
            };
        }
    }

    fn counts(&self) -> bool {
        self.log.quorum().is_some_and(|quorum| quorum.witnesses().contains(&self.asked.key))
    }

    /// Has a checkpoint cosigned. The first question of all only tells what
    /// the witness has seen, so there may be two.
    async fn ask(&mut self, target: &Target) -> Result<(), Silent> {
        for _ in 0..3 {
            let size = target.checkpoint.size;
            if self.seen > size {
                return if self.seen > self.log.published_size() {
                    Err(Silent::Fork(format!("it has cosigned {} records, and this log has {size}", self.seen)))
                } else {
                    Err(Silent::Ahead)
                };
            }
            let (log, old) = (self.log.clone(), self.seen);
            let proof = blocking(move || log.consistency_between(old, size)).await?;
            let asked = AddCheckpoint { old, proof, note: target.note.clone() };
            let (status, kind, body) = self.post(asked.to_body()).await?;
            match status {
                StatusCode::OK => return self.take(target, &body).await,
                StatusCode::CONFLICT if kind == SIZE_TYPE => {
                    let told = body.strip_suffix('\n').and_then(|digits| digits.parse().ok());
                    self.seen = told.ok_or_else(|| Silent::Why("it answered with no size".to_owned()))?;
                }
                StatusCode::CONFLICT => {
                    return Err(Silent::Fork(format!("it has cosigned another tree of {size} records")));
                }
                StatusCode::UNPROCESSABLE_ENTITY => {
                    return Err(Silent::Fork(format!("what it has cosigned of {old} records is no part of this log")));
                }
                other => return Err(Silent::Why(format!("it answered {}", other.as_u16()))),
            }
        }
        Err(Silent::Why("what it has seen changes while it is asked: another log uses this key".to_owned()))
    }

    async fn take(&mut self, target: &Target, lines: &str) -> Result<(), Silent> {
        let note = with_cosignatures(&target.note, lines);
        if !matches!(self.asked.key.cosigned(&note), Ok(Some(_))) {
            return Err(Silent::Why("it answered with no cosignature of its own".to_owned()));
        }
        self.seen = target.checkpoint.size;
        let log = self.log.clone();
        blocking(move || log.add_cosignatures(&note)).await.map(drop)
    }

    async fn post(&self, body: String) -> Result<(StatusCode, String, String), Silent> {
        let failed = |error: reqwest::Error| {
            Silent::Why(match error.is_timeout() {
                true => "it did not answer in time".to_owned(),
                false if error.is_connect() => "no connection to it".to_owned(),
                false => error.without_url().to_string(),
            })
        };
        let mut url = self.asked.url.clone();
        url.set_path(&format!("{}/add-checkpoint", url.path().trim_end_matches('/')));
        let mut answer = self.client.post(url).body(body).send().await.map_err(failed)?;
        let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let (status, kind) = (answer.status(), kind.to_owned());
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Silent::Why("its answer is too long".to_owned()));
            }
        }
        let text = String::from_utf8(bytes).map_err(|_| Silent::Why("its answer is no text".to_owned()))?;
        Ok((status, kind, text))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, Silent> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Silent::Why(error.to_string())),
        Err(_) => Err(Silent::Why("a fault of ours".to_owned())),
    }
}
