//! `ringfence gateway` as a process, against a home that can be stopped, set
//! back and made to lie. Prints how long a revocation took.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use ringfence_format::session::{SessionToken, Target};

use self::support::{Files, TestHome};

#[path = "support/home.rs"]
mod support;

fn now_s() -> u64 {
    use ringfence_db::clock::Clock;
    ringfence_db::clock::SystemClock.now_us() / 1_000_000
}

/// Serves the files of a home until it is dropped.
struct Http {
    addr: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Http {
    fn serve(files: &Files, addr: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(addr)).unwrap();
        let addr = listener.local_addr().unwrap();
        let file = async |State(files): State<Files>, UrlPath(path): UrlPath<String>| {
            let found = files.lock().unwrap().get(&path).cloned();
            found.ok_or(StatusCode::NOT_FOUND)
        };
        let router = Router::new().route("/log/{*path}", axum::routing::get(file)).with_state(files.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { addr, runtime: Some(runtime) }
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

struct Gateway {
    child: Child,
    addr: SocketAddr,
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

struct Place {
    dir: tempfile::TempDir,
    home: SocketAddr,
    addr: SocketAddr,
}

impl Place {
    fn new(home: &TestHome, http: &Http) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("trust"), home.trust()).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Self { dir, home: http.addr, addr: free }
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
        command.args(["gateway", "--json", "--site", "cloud"]).args(more);
        command.arg("--trust").arg(self.dir.path().join("trust")).arg("--state").arg(self.state());
        command.args(["--home", &format!("http://{}", self.home), "--listen", &self.addr.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, more: &[&str]) -> Gateway {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut child = self.command(more).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"auth\""), "{line}{}", self.log());
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Gateway { child, addr: self.addr, client, runtime }
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("stderr")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Gateway {
    fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, reqwest::header::HeaderMap, String) {
        let mut request = self.client.get(format!("http://{}{path}", self.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.headers().clone(), answer.text().await.unwrap())
        })
    }

    fn ask(&self, token: &str) -> u16 {
        self.get("/auth", &[("authorization", &format!("Bearer {token}"))]).0
    }

    /// Milliseconds until it answers this.
    fn until(&self, token: &str, status: u16, within: Duration) -> u128 {
        let begun = Instant::now();
        loop {
            let got = self.ask(token);
            if got == status {
                return begun.elapsed().as_millis();
            }
            assert!(begun.elapsed() < within, "{got}, not {status}, after {within:?}");
        }
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", &[]).2;
        let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a14_a_revocation_reaches_the_gateway_and_silence_stops_it() {
    let mut home = TestHome::new(now_s());
    let (alice, bob) = (home.session(1, now_s(), 3600), home.session(2, now_s(), 3600));
    home.publish();
    let http = Http::serve(&home.files, "127.0.0.1:0");
    let place = Place::new(&home, &http);
    let gateway = place.start(&["--fresh", "2", "--most", "4"]);
    gateway.until(&alice, 200, SOON);
    let (status, headers, _) = gateway.get("/auth/some/path", &[("authorization", &format!("bearer {alice}"))]);
    assert_eq!((status, headers["x-ringfence-principal"].to_str().unwrap()), (200, "idp--alice"));
    assert_eq!(gateway.get("/readyz", &[]).0, 200);

    let index = SessionToken::parse(&alice).unwrap().receipt().unwrap().index;
    home.revoke(Target::Session([1; 16], index), 0, now_s());
    home.publish();
    let after = gateway.until(&alice, 401, Duration::from_secs(30));
    println!("revoked at home, refused elsewhere after {after} ms");
    assert!(after < 2500, "polled each second: {after} ms");
    assert_eq!(gateway.ask(&bob), 200);

    // A session that was issued a moment ago is served without waiting for the poll.
    let late = home.session(3, now_s(), 3600);
    home.publish();
    let begun = Instant::now();
    assert_eq!(gateway.ask(&late), 200);
    println!("issued a moment ago, served after {} ms", begun.elapsed().as_millis());

    let addr = http.addr.to_string();
    drop(http);
    let silent = Instant::now();
    let stopped = gateway.until(&bob, 503, Duration::from_secs(30));
    println!("home fell silent, nothing served after {stopped} ms");
    assert!((2500..7000).contains(&stopped), "F_max is 4 s: {stopped} ms");
    assert_eq!(gateway.get("/readyz", &[]).0, 503);
    std::thread::park_timeout(Duration::from_secs(2).saturating_sub(silent.elapsed()));
    let http = Http::serve(&home.files, &addr);
    gateway.until(&bob, 200, SOON);
    assert_eq!(gateway.ask(&alice), 401, "what was revoked stays revoked");
    drop(http);
    assert!(place.log().contains("STALE_CHECKPOINT"), "{}", place.log());
}

#[test]
fn a7_forgeries_and_forks_raise_alarms_and_open_nothing() {
    let mut home = TestHome::new(now_s());
    let honest = home.session(1, now_s(), 3600);
    home.access(300);
    home.publish();
    let http = Http::serve(&home.files, "127.0.0.1:0");
    let place = Place::new(&home, &http);
    let gateway = place.start(&[]);
    gateway.until(&honest, 200, SOON);
    let receipt = SessionToken::parse(&honest).unwrap().receipt().unwrap().clone();
    let forged = TestHome::forge(&TestHome::claims(9, now_s(), 3600));
    assert_eq!(gateway.ask(&SessionToken::staple(&forged, &receipt, None).unwrap()), 401);
    assert_eq!(gateway.metric("ringfence_alarms_total{kind=\"SIG_VALID_NOT_ISSUED\"}"), 1.0);
    assert!(!place.log().contains(&forged), "no token in its lines");

    // The thief has the log's key too: a fork with the forged session in it.
    let mut fork = home.clone();
    fork.entries.truncate(receipt.index as usize);
    let stolen = fork.session(9, now_s(), 3600);
    fork.access(400);
    fork.publish();
    let begun = Instant::now();
    while gateway.metric("ringfence_alarms_total{kind=\"LOG_FORK\"}") < 1.0 {
        assert!(begun.elapsed() < SOON, "{}", place.log());
    }
    println!("a fork was noticed after {} ms", begun.elapsed().as_millis());
    assert_eq!(gateway.ask(&stolen), 401);
    assert_eq!(gateway.ask(&honest), 200, "what was pinned goes on");
    let kept = std::fs::read_dir(place.state())
        .unwrap()
        .filter(|it| it.as_ref().unwrap().file_name().to_string_lossy().starts_with("fork-"));
    assert_eq!(kept.count(), 2);

    // A start in its directory still refuses the fork, and serves nothing by it.
    drop(gateway);
    let gateway = place.start(&[]);
    std::thread::park_timeout(Duration::from_millis(1500));
    assert_eq!((gateway.ask(&stolen), gateway.ask(&honest)), (503, 503));
    home.publish();
    gateway.until(&honest, 200, SOON);
}

#[test]
fn a_kill_at_any_moment_keeps_a_pin_that_home_must_continue() {
    let mut home = TestHome::new(now_s());
    let honest = home.session(1, now_s(), 3600);
    home.publish();
    let http = Http::serve(&home.files, "127.0.0.1:0");
    let place = Place::new(&home, &http);
    let pinned = |state: &Path| -> u64 {
        let kept = std::fs::read_to_string(state.join("pinned.json")).unwrap();
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        kept["note"].as_str().unwrap().lines().nth(1).unwrap().parse().unwrap()
    };
    let mut least = 0;
    for round in 0..12u64 {
        let gateway = place.start(&[]);
        gateway.until(&honest, 200, SOON);
        let used = gateway.metric("ringfence_gateway_pinned_records") as u64;
        home.access(40);
        home.publish();
        // A poke makes it follow at once; the kill comes somewhere within.
        let late = home.session(100 + round as u8, now_s(), 3600);
        home.publish();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let request = client.get(format!("http://{}/auth", place.addr)).bearer_auth(&late).send();
                let _ = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(request);
            });
            std::thread::park_timeout(Duration::from_millis(round * 9));
            drop(gateway);
            asked.join().unwrap();
        });
        let kept = pinned(&place.state());
        assert!(kept >= used.max(least), "{kept} is pinned, {used} was used, {least} before");
        least = kept;
    }
    // Set back to an earlier state, it catches up; a fork behind that is refused.
    let old = std::fs::read(place.state().join("pinned.json")).unwrap();
    home.access(100);
    home.publish();
    let gateway = place.start(&[]);
    gateway.until(&honest, 200, SOON);
    drop(gateway);
    std::fs::write(place.state().join("pinned.json"), old).unwrap();
    let gateway = place.start(&[]);
    gateway.until(&honest, 200, SOON);
}

#[test]
fn what_cannot_be_started_says_why() {
    let home = TestHome::new(now_s());
    let http = Http::serve(&home.files, "127.0.0.1:0");
    let place = Place::new(&home, &http);
    for (more, code, says) in [
        (vec!["--fresh", "31"], 2, "only be lowered"),
        (vec!["--most", "61"], 2, "only be lowered"),
        (vec!["--site", "Cloud!"], 2, "--site"),
        (vec!["--home", "http://203.0.113.7:9301"], 2, "this machine"),
        (vec!["--listen", "0.0.0.0:0"], 2, "no TLS"),
        (vec!["--trust", "/dev/null"], 3, "trust file"),
    ] {
        let mut command = place.command(&[]);
        // The last of a flag given twice would be refused: take ours instead.
        let given: Vec<_> = command.get_args().map(|it| it.to_string_lossy().into_owned()).collect();
        let at = given.iter().position(|it| it == more[0]);
        let mut arguments = given.clone();
        match at {
            Some(at) => arguments[at + 1] = more[1].to_owned(),
            None => arguments.extend(more.iter().map(|it| (*it).to_owned())),
        }
        command = Command::new(env!("CARGO_BIN_EXE_ringfence"));
        let done = command.args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "{more:?}: {text}");
        assert!(text.contains(says), "{more:?}: {text}");
    }
}
