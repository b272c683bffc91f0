//! The theft of a log's key, on a log of its own: a real log, three real
//! witnesses and a real gateway, each a process, and a thief who signs whatever
//! history is wanted.

mod log;
mod process;
mod realm;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use ringfence_format::session::{Purpose, Refusal, SessionToken, Trust};
use ringfence_format::witness::{Quorum, WitnessKey};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::log::{DrillLog, History};
use self::process::{Child, Folder};
use self::realm::DrillRealm;
use super::idp::now_s;
use super::{Drill, Step};
use crate::cli::{Failure, Kind};
use crate::serve;
use crate::witness::client::{self, Asked};
use crate::witness::request::AddCheckpoint;

/// Of three witnesses, so many must cosign.
const QUORUM: usize = 2;
/// How long witnesses and gateway may take for what they do in milliseconds.
const WAIT: Duration = Duration::from_secs(20);
const HOLDS: &str = "the log's signing key, and the keys of the sessions' issuer and of admission";

/// Files of a log by their path, as home serves them.
type Served = Arc<RwLock<BTreeMap<String, Vec<u8>>>>;

/// Plays it. Whatever was started is ended, whatever was written is removed.
pub async fn play(drill: &mut Drill<'_>) -> Result<(), Failure> {
    let mut scene = Scene::set().await?;
    let honest = scene.honest_session().await?;
    scene.must_be_served(&honest).await?;
    let same = scene.log.fork_of_the_same_size()?;
    let mut larger = scene.log.fork_from(scene.log.size()? / 2)?;
    let forged = scene.realm.issue(&mut larger)?;

    let step = scene.show_witnesses("a fork of the same size", &same).await?;
    drill.settled(step);
    let step = scene.show_witnesses("a larger fork, with a forged session in it", &larger).await?;
    drill.settled(step);
    let token = scene.realm.staple(&larger, &forged, larger.note())?;
    drill.settled(scene.show_verifier("the forged session, proved under the fork", &token, &honest));
    let step = scene.show_gateway(&larger, &token, &honest).await?;
    drill.settled(step);
    Ok(())
}

impl Drill<'_> {
    fn settled(&mut self, step: Step) {
        self.steps.push(step);
        self.show_last();
    }
}

struct Scene {
    log: DrillLog,
    realm: DrillRealm,
    trust: Trust,
    quorum: Quorum,
    witnesses: Vec<(String, Child)>,
    served: Served,
    home: String,
    http: reqwest::Client,
    /// Last, so that it goes when nobody is left in it.
    folder: Folder,
}

impl Scene {
    async fn set() -> Result<Self, Failure> {
        let folder = Folder::new()?;
        let log = DrillLog::open(&folder.path().join("log"))?;
        let realm = DrillRealm::new()?;
        log.say(40, &realm).await?;
        let vkey = log.key().to_string();
        let (mut witnesses, mut keys) = (vec![], vec![]);
        for number in 1..=3 {
            let state = folder.path().join(format!("witness-{number}"));
            let name = format!("drill.example/witness-{number}");
            let arguments = ["witness", "--name", &name, "--log", &vkey, "--listen", "127.0.0.1:0", "--state"];
            let (child, ready) = Child::start(&arguments, &state).await?;
            let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
            keys.push(text("vkey").parse::<WitnessKey>().map_err(Failure::internal)?);
            witnesses.push((text("url"), child));
        }
        let quorum = Quorum::new(keys, QUORUM).map_err(Failure::internal)?;
        let http = reqwest::Client::builder().no_proxy().timeout(WAIT).build().map_err(Failure::internal)?;
        let served = Served::default();
        let home = serve_files(served.clone()).await?;
        let trust = realm.trust_file(log.key(), &quorum).parse().map_err(Failure::internal)?;
        Ok(Self { log, realm, trust, quorum, witnesses, served, home, http, folder })
    }

    /// A session that is issued as it must be: logged, witnessed, then given.
    async fn honest_session(&self) -> Result<String, Failure> {
        let log = self.log.open_log();
        log.set_quorum(Some(self.quorum.clone()));
        let (issuance, paseto) = self.realm.draft()?;
        let index = self.log.record(issuance).await?;
        let asked = self
            .quorum
            .witnesses()
            .iter()
            .zip(&self.witnesses)
            .map(|(key, (url, _))| Ok(Asked { key: key.clone(), url: url.parse().map_err(Failure::internal)? }));
        let asked = asked.collect::<Result<Vec<_>, Failure>>()?;
        let (events, mut heard) = mpsc::channel(16);
        let (stop, stopping) = serve::stop_channel();
        let collecting = tokio::spawn(client::collect(log.clone(), asked, events, stopping));
        let drained = tokio::spawn(async move { while heard.recv().await.is_some() {} });
        let receipt = log.receipt(index, WAIT).await;
        stop.now();
        let _ = collecting.await;
        drained.abort();
        let receipt = receipt?;
        let mut files = self.log.history()?.files();
        files.insert("checkpoint.cosigned".to_owned(), receipt.checkpoint.clone().into_bytes());
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = files;
        SessionToken::staple(&paseto, &receipt, None).map_err(Failure::internal)
    }

    /// Refusing everything would be no success.
    async fn must_be_served(&self, honest: &str) -> Result<(), Failure> {
        self.verify(honest).map_err(|why| Failure::new(Kind::Wrong, format!("an honest session is refused: {why}")))
    }

    /// What an outsider does with the public keys: nothing is asked of anybody.
    fn verify(&self, token: &str) -> Result<(), Refusal> {
        let report = self.trust.verify_offline(token, Purpose::Api, &realm::site(), now_s());
        report.session.map(drop)
    }

    /// Shows a history that the log's key signed to every witness.
    async fn show_witnesses(&self, name: &'static str, fork: &History) -> Result<Step, Failure> {
        let begun = Instant::now();
        let mut answers = vec![];
        for (url, _) in &self.witnesses {
            let old = self.log.size()?;
            let asked = AddCheckpoint { old, proof: fork.extension_of(old), note: fork.note() };
            let answer = self.http.post(format!("{url}/add-checkpoint")).body(asked.to_body()).send().await;
            let answer = answer.map_err(|e| Failure::internal(format!("a witness does not answer: {e}")))?;
            answers.push(answer.status());
        }
        let after = begun.elapsed().as_millis();
        let refused =
            answers.iter().all(|status| matches!(*status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY));
        let told: Vec<_> = answers.iter().map(|status| status.as_u16().to_string()).collect();
        Ok(Step {
            name,
            holds: HOLDS,
            tries: format!("to have {} records cosigned that are not those of before", fork.size()),
            happened: format!("the three witnesses answered {}, after {after} ms", told.join(", ")),
            alarm: None,
            as_expected: refused && answers.len() == 3,
        })
    }

    /// Shows the forged session to who has nothing but the public keys.
    fn show_verifier(&self, name: &'static str, forged: &str, honest: &str) -> Step {
        let begun = Instant::now();
        let judged = self.verify(forged);
        let after = begun.elapsed().as_millis();
        let for_its_quorum = matches!(judged, Err(Refusal::Quorum(_)));
        Step {
            name,
            holds: HOLDS,
            tries: "to be believed by who verifies offline, with a leaf, a path and a signed checkpoint that are right"
                .to_owned(),
            happened: match &judged {
                Ok(()) => "it worked".to_owned(),
                Err(why) => format!("refused after {after} ms: {why}"),
            },
            alarm: None,
            as_expected: for_its_quorum && self.verify(honest).is_ok(),
        }
    }

    /// Serves the fork in home's place to a gateway that knows the honest log.
    async fn show_gateway(&mut self, fork: &History, forged: &str, honest: &str) -> Result<Step, Failure> {
        let trust = self.folder.path().join("trust");
        let text = self.realm.trust_file(self.log.key(), &self.quorum);
        std::fs::write(&trust, text).map_err(Failure::internal)?;
        let trust = trust.display().to_string();
        let listen = free_address().await?;
        let site = realm::site().to_string();
        let arguments =
            ["gateway", "--trust", &trust, "--home", &self.home, "--site", &site, "--listen", &listen, "--state"];
        let (gateway, ready) = Child::start(&arguments, &self.folder.path().join("gateway")).await?;
        let auth = ready["auth"].as_str().unwrap_or_default().to_owned();
        self.until(|| self.ask(&auth, honest), StatusCode::OK).await?;
        // The checkpoint with a quorum stays; the newest one is the thief's.
        let mut files = fork.files();
        {
            let mut served = self.served.write().unwrap_or_else(PoisonError::into_inner);
            files.extend(served.remove("checkpoint.cosigned").map(|note| ("checkpoint.cosigned".to_owned(), note)));
            *served = files;
        }
        let begun = Instant::now();
        let metrics = auth.replace("/auth", "/metrics");
        let noticed = loop {
            let text = self.http.get(&metrics).send().await.map_err(Failure::internal)?;
            let text = text.text().await.map_err(Failure::internal)?;
            if text.contains("ringfence_alarms_total{kind=\"LOG_FORK\"}") {
                break Some(begun.elapsed().as_millis());
            }
            if begun.elapsed() > WAIT {
                break None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let (forged, honest) = (self.ask(&auth, forged).await?, self.ask(&auth, honest).await?);
        drop(gateway);
        Ok(Step {
            name: "the fork, in home's place, to a gateway elsewhere",
            holds: HOLDS,
            tries: "to be served as the forged session, by the history that it is in".to_owned(),
            happened: format!(
                "the gateway kept to what it had pinned: {} for the forged session, {} for the honest one",
                forged.as_u16(),
                honest.as_u16()
            ),
            alarm: noticed.map(|after| ("LOG_FORK".to_owned(), after)),
            as_expected: noticed.is_some() && forged != StatusCode::OK && honest == StatusCode::OK,
        })
    }

    async fn ask(&self, auth: &str, token: &str) -> Result<StatusCode, Failure> {
        let answer = self.http.get(auth).bearer_auth(token).send().await;
        answer.map(|answer| answer.status()).map_err(|e| Failure::internal(format!("the gateway does not answer: {e}")))
    }

    async fn until<F>(&self, mut ask: impl FnMut() -> F, wanted: StatusCode) -> Result<(), Failure>
    where
        F: Future<Output = Result<StatusCode, Failure>>,
    {
        let begun = Instant::now();
        loop {
            let got = ask().await?;
            if got == wanted {
                return Ok(());
            }
            if begun.elapsed() > WAIT {
                return Err(Failure::new(Kind::Wrong, format!("the gateway answers {got} to an honest session")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Serves files as home's administration port does; ends with the process.
async fn serve_files(served: Served) -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Failure::internal)?;
    let home = format!("http://{}", listener.local_addr().map_err(Failure::internal)?);
    let file = async |State(served): State<Served>, Path(path): Path<String>| {
        let found = served.read().unwrap_or_else(PoisonError::into_inner).get(&path).cloned();
        found.ok_or(StatusCode::NOT_FOUND)
    };
    let router = Router::new().route("/log/{*path}", get(file)).with_state(served);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(home)
}

async fn free_address() -> Result<String, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(Failure::internal)?;
    Ok(listener.local_addr().map_err(Failure::internal)?.to_string())
}
