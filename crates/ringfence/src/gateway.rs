//! A gateway elsewhere: `ringfence gateway`.
//!
//! A small process that holds nothing secret. It follows home's public log,
//! and answers for other services whether a token of purpose `api` is a
//! session: without asking home for each request, and not at all once it has
//! not heard of home for too long. What it relies on:
//!
//! - the trust file: the log's key, its witnesses, the realms' roots and manifests;
//! - the log, read whole and proved entry by entry to lead from the checkpoint
//!   that was pinned to the newest one: no revocation can be left out;
//! - its own clock, and how old what it knows is.

mod answer;
mod args;
mod dpop;
mod follow;
mod fresh;
mod home;
mod judge;
mod known;
#[cfg(test)]
mod tests;
mod trust;

use std::sync::Arc;
use std::time::Duration;

use ringfence_db::clock::SystemClock;
use ringfence_db::disk::RealDisk;
use ringfence_format::names::SiteId;
use rustix::process::DumpableBehavior;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use self::answer::Gate;
pub use self::args::{GatewayArgs, HELP};
use self::dpop::Proofs;
use self::follow::{Follower, NotFollowed, TrustFile};
use self::fresh::{Limits, Standing};
use self::home::HttpHome;
use self::judge::Judge;
use self::known::Store;
use crate::alarm::AlarmKind;
use crate::cli::{Common, Failure, Kind, Output};
use crate::serve::{self, Stopping};
use crate::telemetry;

/// How often home is asked for a newer checkpoint.
const POLL: Duration = Duration::from_secs(1);
/// It is not asked more often, whoever wants to know.
const POLL_LEAST: Duration = Duration::from_millis(100);

/// Raises an alarm where there is no log to record it in: an error line and a
/// count, for whoever watches this machine.
fn sound(kind: AlarmKind, detail: &str) {
    metrics::counter!("ringfence_alarms_total", "kind" => kind.as_str()).increment(1);
    tracing::error!(kind = kind.as_str(), severity = kind.severity(), detail, "ALARM");
}

/// `ringfence gateway`
pub fn run(_: &Common, arguments: &GatewayArgs, output: &Output) -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|e| Failure::internal(format!("core dumps cannot be turned off: {e}")))?;
    telemetry::trace();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    let done = runtime.block_on(gateway(arguments, output));
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

async fn gateway(arguments: &GatewayArgs, output: &Output) -> Result<(), Failure> {
    let mut interrupted = signal(SignalKind::interrupt()).map_err(Failure::internal)?;
    let mut terminated = signal(SignalKind::terminate()).map_err(Failure::internal)?;
    let usage = |why: String| Failure::new(Kind::Usage, why);
    let site = SiteId::parse(&arguments.site).map_err(|e| usage(format!("`--site {}`: {e}", arguments.site)))?;
    let limits = Limits::at(site.as_str()).lowered(arguments.fresh, arguments.most).map_err(usage)?;
    check_home(&arguments.home)?;
    if !arguments.listen.ip().is_loopback() {
        return Err(usage(format!("`{}` can be reached from outside and has no TLS", arguments.listen))
            .next("bind 127.0.0.1: the proxy that asks runs on this machine"));
    }
    let (file, trust) = TrustFile::open(arguments.trust.clone())
        .map_err(|why| Failure::new(Kind::Configuration, why).next("see docs/operate/gateway.md"))?;
    let home = HttpHome::new(&arguments.home);
    let listener = TcpListener::bind(arguments.listen).await.map_err(|e| {
        Failure::new(Kind::Unavailable, format!("cannot listen on `{}`: {e}", arguments.listen))
            .next("choose another address with `--listen ADDR:PORT`")
    })?;
    let unavailable = |why: String| Failure::new(Kind::Unavailable, why);
    let store = Store::open(RealDisk::shared(), &arguments.state).map_err(unavailable)?;
    let origin = trust.log().name().to_owned();
    let witnessed = trust.asks_witnesses();
    let follower = Follower::new(trust, Box::new(home), store, Arc::new(SystemClock), limits).map_err(|why| {
        unavailable(why).next("a gateway that forgets what it pinned can be shown another history: find out what happened, then move the state away to begin anew")
    })?;
    let follower = Arc::new(follower);
    let (stop, stopping) = serve::stop_channel();
    let metrics = telemetry::count()?;
    let upkeep = tokio::spawn(telemetry::upkeep(metrics.clone()));
    let (followed, heard) = watch::channel(0);
    let poke = Arc::new(Notify::new());
    let judge = Arc::new(Judge::new(follower.clone(), site.clone(), poke.clone(), heard));
    let following = tokio::spawn(follow(follower, file, poke, followed, stopping.clone()));
    let gate = Gate { judge, proofs: Arc::new(Proofs::default()), metrics };
    let answering = tokio::spawn(answer::serve(listener, gate, stopping));
    announce(arguments, &origin, witnessed, limits, output);
    tokio::select! {
        _ = interrupted.recv() => {}
        _ = terminated.recv() => {}
    }
    stop.now();
    for task in [answering, following] {
        let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    }
    upkeep.abort();
    Ok(())
}

/// What is read is public and checked, but who listens would learn when; and
/// without witnesses, who answers in home's place could hold back what is new.
fn check_home(url: &str) -> Result<(), Failure> {
    let bad = |why: &str| Failure::new(Kind::Usage, format!("`--home {url}`: {why}"));
    let parsed = reqwest::Url::parse(url).map_err(|e| bad(&e.to_string()))?;
    let loopback = match parsed.host_str() {
        Some("localhost") => true,
        host => host.is_some_and(|host| {
            host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }),
    };
    match parsed.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        _ => Err(bad("plain http is for this machine only")
            .next("let a TLS-terminating proxy serve home's /log/ and give its https address")),
    }
}

/// Asks home again and again, and says what changed.
async fn follow(
    follower: Arc<Follower>,
    mut file: TrustFile,
    poke: Arc<Notify>,
    followed: watch::Sender<u64>,
    mut stopping: Stopping,
) {
    let mut told: Option<String> = None;
    let mut was = Standing::Stale;
    loop {
        let asked = tokio::time::Instant::now();
        if was != Standing::Stale && follower.standing() == Standing::Stale {
            sound(AlarmKind::StaleCheckpoint, "home was not heard of for too long: nothing is served");
        }
        match file.changed() {
            Ok(None) => {}
            Ok(Some(trust)) => match follower.retrust(trust) {
                Ok(()) => tracing::info!("the trust file changed and is in force"),
                Err(why) => tracing::error!("the trust file changed and is not in force: {why}"),
            },
            Err(why) => tracing::error!("the trust file changed and is not in force: {why}"),
        }
        let followed_now = tokio::select! {
            done = follower.step() => done,
            () = stopping.stopped() => return,
        };
        let now = followed_now.as_ref().err().map(NotFollowed::to_string);
        match &now {
            None if told.is_some() => tracing::info!("home's log is followed again"),
            Some(why) if told != now => tracing::warn!("home's log is not followed: {why}"),
            _ => {}
        }
        told = now;
        if followed_now.is_ok() {
            followed.send_modify(|n| *n += 1);
        }
        measure(&follower, &followed_now);
        was = follower.standing();
        tokio::select! {
            () = tokio::time::sleep_until(asked + POLL) => {}
            () = async { poke.notified().await; tokio::time::sleep_until(asked + POLL_LEAST).await } => {}
            () = stopping.stopped() => return,
        }
    }
}

fn measure(follower: &Follower, followed: &Result<(), NotFollowed>) {
    let outcome = match followed {
        Ok(()) => "followed",
        Err(NotFollowed::Home(_)) => "home",
        Err(NotFollowed::Unsigned(_)) => "unsigned",
        Err(NotFollowed::Older { .. }) => "older",
        Err(NotFollowed::Fork { .. }) => "fork",
        Err(NotFollowed::State(_)) => "state",
    };
    metrics::counter!("ringfence_gateway_polls_total", "outcome" => outcome).increment(1);
    let view = follower.view();
    metrics::gauge!("ringfence_gateway_pinned_records").set(view.known.edge.size() as f64);
    metrics::gauge!("ringfence_gateway_revocations").set(view.known.revocations.len() as f64);
    metrics::gauge!("ringfence_gateway_manifests_missing").set(view.missing.len() as f64);
    metrics::gauge!("ringfence_gateway_age_seconds").set(follower.age_s().unwrap_or(f64::INFINITY));
}

fn announce(arguments: &GatewayArgs, origin: &str, witnessed: bool, limits: Limits, output: &Output) {
    let auth = format!("http://{}/auth", arguments.listen);
    if output.is_json() {
        let document = serde_json::json!({
            "auth": auth, "site": arguments.site, "home": arguments.home, "log_origin": origin,
            "state": arguments.state, "witnesses": witnessed,
            "fresh_s": limits.fresh.as_secs(), "most_s": limits.most.as_secs(),
        });
        return output.line(&document.to_string());
    }
    output.heading("The gateway answers");
    output.field("ask", &auth);
    output.field("site", &arguments.site);
    output.field("log", &format!("{origin}  at {}", arguments.home));
    output.field("state", &arguments.state.display().to_string());
    output
        .field("fresh", &format!("{} s; nothing is served after {} s", limits.fresh.as_secs(), limits.most.as_secs()));
    if !witnessed {
        output.warn("the trust file asks for no witnesses: a thief of the log's key, or who answers in home's place, could hold back what is new");
    }
}
