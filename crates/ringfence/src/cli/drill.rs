//! `ringfence drill storm-0558`: the break-in of 2023 against a running
//! instance, with realms, issuers, keys and a log of its own.
//!
//! Each step says what the attacker holds, what they try, what happened, which
//! alarm rose and after how long. What must work works too: an honest client's
//! way stands first and last, so that refusing everything is no success.

mod idp;
mod log_key;
mod sts;
mod thief;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringfence_format::session::{Receipt, SessionToken};
use serde_json::{Value, json};

pub use self::idp::AUDIENCE;
use self::idp::{Idp, IdpKey};
use self::sts::{Endpoint, S3, Session, must};
use self::thief::StolenKey;
use super::demo::Refusal;
use super::{Common, Failure, Kind, Output, connect};
use crate::admin::call::{Call, DrillBegin, Revoke, What};

/// Realms and tenants of the drill; nobody else's may have these names.
pub const CONSUMER: &str = "drill-consumer";
/// See [`CONSUMER`].
pub const ENTERPRISE: &str = "drill-enterprise";
/// The role of the drill, in both tenants.
pub const ROLE: &str = "mail-reader";

/// How long an alarm may take.
const ALARM_WAIT: Duration = Duration::from_secs(5);
/// Issuers are not asked for their keys again sooner.
const ISSUER_PAUSE: Duration = Duration::from_millis(6100);
/// Equal alarms within a second are one.
const BETWEEN_ALARMS: Duration = Duration::from_millis(1100);

/// Runs it.
pub fn run(common: &Common, output: &Output) -> Result<(), Failure> {
    let needs = || {
        Failure::new(Kind::Unavailable, "a drill needs a running instance")
            .next("start one with `ringfence serve`, then run the drill in another terminal")
    };
    std::os::unix::net::UnixStream::connect(common.data.join("admin.sock")).map_err(|_| needs())?;
    let status = connect::call(common, Call::Status {}, output)?;
    let endpoint = Endpoint::new(&format!("http://{}", status["s3"].as_str().ok_or_else(needs)?))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("no threads to work with: {e}")))?;
    let mut drill = runtime.block_on(Drill::begin(common, output, endpoint))?;
    let played = runtime.block_on(drill.play());
    let ended = drill.end();
    played.and(ended)?;
    drill.report()
}

/// What must become of an attempt.
enum Expect {
    /// Refused with one of these codes, and this alarm.
    Refused(&'static [&'static str], Option<&'static str>),
    /// It works, with no alarm.
    Works,
}

/// One step, played.
struct Step {
    name: &'static str,
    holds: &'static str,
    tries: String,
    happened: String,
    alarm: Option<(String, u128)>,
    as_expected: bool,
}

struct Drill<'a> {
    common: &'a Common,
    output: &'a Output,
    endpoint: Endpoint,
    idp: Idp,
    keys: IdpKeys,
    stolen: Stolen,
    bucket: String,
    /// Alarms before this record are not ours.
    seen: u64,
    steps: Vec<Step>,
}

struct IdpKeys {
    consumer: Arc<IdpKey>,
    enterprise: Arc<IdpKey>,
    /// What the enterprise's issuer signed with in 2016.
    of_2016: Arc<IdpKey>,
}

struct Stolen {
    /// A session key of the enterprise's realm, in force.
    enterprise: StolenKey,
    /// One of the consumers' realm, in force.
    consumer: StolenKey,
    /// One of the enterprise's realm whose time is over.
    retired: StolenKey,
}

impl<'a> Drill<'a> {
    async fn begin(common: &'a Common, output: &'a Output, endpoint: Endpoint) -> Result<Self, Failure> {
        output.heading("Storm-0558, replayed");
        output.say("  with realms, identity providers and keys of its own; nothing of yours is touched");
        let idp = Idp::start().await?;
        let keys = IdpKeys {
            consumer: IdpKey::new("consumer-2021")?,
            enterprise: IdpKey::new("enterprise-2023")?,
            of_2016: IdpKey::new("enterprise-2016")?,
        };
        idp.publish(CONSUMER, &[&keys.consumer]);
        idp.publish(ENTERPRISE, &[&keys.enterprise]);
        let stolen = Stolen { enterprise: StolenKey::new()?, consumer: StolenKey::new()?, retired: StolenKey::new()? };
        let what = DrillBegin {
            consumer: idp.url(CONSUMER),
            enterprise: idp.url(ENTERPRISE),
            stolen: stolen.enterprise.public().to_string(),
            stolen_of_consumers: stolen.consumer.public().to_string(),
            retired: stolen.retired.public().to_string(),
        };
        let begun = call_within(common, Call::DrillBegin(what), output)?;
        let seen = begun["records"].as_u64().unwrap_or(0);
        let bucket = format!("drill-{}", &hex::encode(idp::random_bytes())[..12]);
        Ok(Self { common, output, endpoint, idp, keys, stolen, bucket, seen, steps: vec![] })
    }

    async fn play(&mut self) -> Result<(), Failure> {
        let honest = self.honest_client().await?;
        self.identity_tokens().await;
        self.sessions_as_evidence(&honest).await;
        self.bearer(&honest).await;
        self.issuer_key(&honest).await?;
        self.kill_switch(&honest).await?;
        log_key::play(self).await
    }

    /// 1. What must work.
    async fn honest_client(&mut self) -> Result<Session, Failure> {
        let evidence = self.keys.enterprise.sign(&self.idp.claims(ENTERPRISE, "alice"));
        let honest =
            must("an honest client gets no session", self.endpoint.exchange(&evidence, ENTERPRISE, ROLE).await)?;
        let s3 = self.endpoint.s3(&honest);
        must("an honest client cannot make a bucket", s3.make_bucket(&self.bucket).await)?;
        must("an honest client cannot write", s3.put(&self.bucket, "mail", "a letter\n").await)?;
        self.works("an honest client", "a token of the enterprise's identity provider", &s3).await;
        Ok(honest)
    }

    /// 2 to 6. Identity tokens that should open nothing.
    async fn identity_tokens(&mut self) {
        const NO_EVIDENCE: &[&str] = &["InvalidIdentityToken"];
        let token = self.keys.consumer.sign(&self.idp.claims(CONSUMER, "mallory"));
        self.exchange(
            "a consumer asks for the enterprise's role",
            "an honest account at the consumers' identity provider",
            &token,
            Expect::Refused(&["AccessDenied"], None),
        )
        .await;

        let enterprise = self.idp.url(ENTERPRISE);
        let mut as_enterprise = self.idp.claims(CONSUMER, "alice");
        as_enterprise["iss"] = json!(enterprise);

        let token = self.keys.consumer.sign(&as_enterprise);

        // The enterprise's issuer serves the consumers' key too, as the common
        // endpoint did in 2023.
        self.idp.publish(ENTERPRISE, &[&self.keys.enterprise, &self.keys.consumer]);
        self.output.say("\n  (waiting until issuers may be asked for their keys again)");
        tokio::time::sleep(ISSUER_PAUSE).await;
        self.exchange(
            "a consumer key for the enterprise, both keys in one JWKS",
            "the signing key of the consumers' identity provider",
            &token,
            Expect::Refused(NO_EVIDENCE, Some("JWKS_CHANGED")),
        )
        .await;
        self.idp.publish(ENTERPRISE, &[&self.keys.enterprise]);
        self.exchange(
            "the same, when the mistake was mended",
            "the signing key of the consumers' identity provider",
            &token,
            Expect::Refused(NO_EVIDENCE, None),
        )
        .await;

        let token = self.keys.of_2016.sign(&self.idp.claims(ENTERPRISE, "alice"));
        self.exchange(
            "a key of 2016, long out of use",
            "an old signing key of the enterprise's identity provider",
            &token,
            Expect::Refused(NO_EVIDENCE, None),
        )
        .await;

        for (name, iss) in [("no issuer in the token", Value::Null), ("a list of issuers", json!([enterprise]))] {
            let mut claims = self.idp.claims(ENTERPRISE, "alice");
            match iss {
                Value::Null => drop(claims.as_object_mut().and_then(|claims| claims.remove("iss"))),
                iss => claims["iss"] = iss,
            }
            let token = self.keys.enterprise.sign(&claims);
            let holds = "the enterprise's own signing key, and a verifier that forgets to look";
            self.exchange(name, holds, &token, Expect::Refused(NO_EVIDENCE, None)).await;
        }
    }

    /// 7. A session is no evidence: it does not renew itself.
    async fn sessions_as_evidence(&mut self, honest: &Session) {
        let expect = Expect::Refused(&["InvalidIdentityToken"], None);
        self.exchange("a session renews itself", "a session of the enterprise", &honest.token, expect).await;
    }

    /// 8. The token alone, as it passes through a proxy's log.
    async fn bearer(&mut self, honest: &Session) {
        let thief = Session { secret: "guessed".repeat(5), ..honest.clone() };
        let expect = Expect::Refused(&["SignatureDoesNotMatch"], None);
        self.read("a session token without its secret", "the token, from somebody's log", &thief, expect).await;
    }

    /// 9 to 13. Our own issuer key is stolen.
    async fn issuer_key(&mut self, honest: &Session) -> Result<(), Failure> {
        const INVALID: &[&str] = &["InvalidToken"];
        const HOLDS: &str = "the signing key of the enterprise's sessions, in force";
        let bad = |e| Failure::internal(format!("an honest token cannot be read: {e}"));
        let token = SessionToken::parse(&honest.token).map_err(bad)?;
        let receipt = token.receipt().cloned();
        let claims = thief::forged_like(token.claimed(), ROLE);
        let paseto = self.stolen.enterprise.sign(&claims)?;
        let forged = |token: String| Session {
            access_key_id: claims.confirmation.clone(),
            secret: "the thief chose it".to_owned(),
            token,
        };
        let not_issued = || Expect::Refused(INVALID, Some("SIG_VALID_NOT_ISSUED"));

        let bare = forged(thief::staple(&paseto, None)?);
        self.read("a forged session", HOLDS, &bare, not_issued()).await;

        tokio::time::sleep(BETWEEN_ALARMS).await;
        let spliced = forged(thief::staple(&paseto, receipt.as_ref())?);
        self.read("the same with an honest session's receipt", HOLDS, &spliced, not_issued()).await;

        tokio::time::sleep(BETWEEN_ALARMS).await;
        let beyond = receipt.as_ref().map(|receipt| Receipt { index: u64::from(u32::MAX), ..receipt.clone() });
        let beyond = forged(thief::staple(&paseto, beyond.as_ref())?);
        self.read("the same with a receipt for a record to come", HOLDS, &beyond, not_issued()).await;

        let crossed = forged(thief::staple(&self.stolen.consumer.sign(&claims)?, receipt.as_ref())?);
        let expect = Expect::Refused(INVALID, Some("KEY_OUTSIDE_SCOPE"));
        let holds = "the signing key of the consumers' sessions: the key of 2023";
        self.read("a consumer key signs for the enterprise", holds, &crossed, expect).await;

        let old = forged(thief::staple(&self.stolen.retired.sign(&claims)?, receipt.as_ref())?);
        let expect = Expect::Refused(INVALID, Some("RETIRED_KEY"));
        let holds = "a signing key of the enterprise's sessions whose time is over";
        self.read("a retired key signs", holds, &old, expect).await;
        Ok(())
    }

    /// 15 to 17. Our issuer key is declared stolen from a record on: sessions
    /// from before live, new ones are under another key; then one is ended.
    async fn kill_switch(&mut self, honest: &Session) -> Result<(), Failure> {
        let bad = |e| Failure::internal(format!("an honest token cannot be read: {e}"));
        let token = SessionToken::parse(&honest.token).map_err(bad)?;
        let from = call_within(self.common, Call::Status {}, self.output)?["log"]["size"].as_u64();
        self.revoke(What::Key, &token.kid().to_string(), from)?;
        let s3 = self.endpoint.s3(honest);
        self.works("the key that signs is revoked from here on", "a session from before", &s3).await;

        let evidence = self.keys.enterprise.sign(&self.idp.claims(ENTERPRISE, "bob"));
        let begun = Instant::now();
        let fresh = self.endpoint.exchange(&evidence, ENTERPRISE, ROLE).await;
        let other = fresh.as_ref().ok().and_then(|fresh| SessionToken::parse(&fresh.token).ok());
        let replaced = other.is_some_and(|other| other.kid() != token.kid());
        let result = fresh.map(|_| ());
        self.settle(
            "a new session after that",
            "an honest account",
            "to get one".to_owned(),
            result,
            Expect::Works,
            begun,
        )
        .await;
        if let Some(step) = self.steps.last_mut().filter(|_| !replaced) {
            step.as_expected = false;
        }

        let begun = Instant::now();
        self.revoke(What::Session, &hex::encode(token.claimed().session), None)?;
        let result = s3.get(&self.bucket, "mail").await.map(|_| ());
        let after = begun.elapsed().as_millis();
        let refused = matches!(&result, Err(refusal) if refusal.code == "InvalidToken");
        self.steps.push(Step {
            name: "a revoked session",
            holds: "the honest client's laptop",
            tries: "to read the mail, right after `ringfence revoke session`".to_owned(),
            happened: format!("{}, {after} ms after the command", told(&result)),
            alarm: None,
            as_expected: refused && after < 1000,
        });
        self.show_last();
        Ok(())
    }

    fn revoke(&self, what: What, which: &str, from_index: Option<u64>) -> Result<(), Failure> {
        let (reason, realm) = (Some("drill storm-0558".to_owned()), Some(ENTERPRISE.to_owned()));
        let call = Call::Revoke(Revoke { what, which: which.to_owned(), from_index, reason, realm });
        call_within(self.common, call, self.output).map(drop)
    }

    async fn works(&mut self, name: &'static str, holds: &'static str, s3: &S3) {
        let result = s3.get(&self.bucket, "mail").await.map(|_| ());
        self.settle(name, holds, "to read the mail".to_owned(), result, Expect::Works, Instant::now()).await;
    }

    async fn exchange(&mut self, name: &'static str, holds: &'static str, token: &str, expect: Expect) {
        let begun = Instant::now();
        let result = self.endpoint.exchange(token, ENTERPRISE, ROLE).await.map(|_| ());
        let tries = format!("AssumeRoleWithWebIdentity for {ENTERPRISE}/{ROLE}");
        self.settle(name, holds, tries, result, expect, begun).await;
    }

    async fn read(&mut self, name: &'static str, holds: &'static str, session: &Session, expect: Expect) {
        let begun = Instant::now();
        let result = self.endpoint.s3(session).get(&self.bucket, "mail").await.map(|_| ());
        self.settle(name, holds, "to read the mail".to_owned(), result, expect, begun).await;
    }

    /// Holds what happened against what must.
    async fn settle(
        &mut self,
        name: &'static str,
        holds: &'static str,
        tries: String,
        result: Result<(), Refusal>,
        expect: Expect,
        begun: Instant,
    ) {
        let (refused, wanted) = match (&expect, &result) {
            (Expect::Works, Ok(())) => (true, None),
            (Expect::Refused(codes, alarm), Err(refusal)) => (codes.contains(&refusal.code.as_str()), *alarm),
            _ => (false, None),
        };
        let alarm = match wanted {
            Some(kind) => self.alarm(kind, begun).await,
            None => None,
        };
        let as_expected = refused && wanted.is_none() == alarm.is_none();
        self.steps.push(Step { name, holds, tries, happened: told(&result), alarm, as_expected });
        self.show_last();
    }

    /// Waits until an alarm of this kind is on record, and says how long that took.
    async fn alarm(&mut self, kind: &str, begun: Instant) -> Option<(String, u128)> {
        while begun.elapsed() < ALARM_WAIT {
            let listed = call_within(self.common, Call::AlarmList { since: Some(self.seen) }, self.output).ok()?;
            let after = begun.elapsed().as_millis();
            let all = listed["alarms"].as_array().cloned().unwrap_or_default();
            let record =
                all.iter().find(|alarm| alarm["kind"] == json!(kind)).and_then(|alarm| alarm["record"].as_u64());
            if let Some(record) = record {
                self.seen = record + 1;
                return Some((kind.to_owned(), after));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    fn show_last(&self) {
        let Some(step) = self.steps.last() else { return };
        let o = self.output;
        o.heading(&format!("{:>2}. {}", self.steps.len(), step.name));
        o.field("holds", step.holds);
        o.field("tries", &step.tries);
        o.field("happened", &step.happened);
        if let Some((kind, after)) = &step.alarm {
            o.field("alarm", &format!("{kind} after {after} ms"));
        }
        o.field("", if step.as_expected { "as it must be" } else { "NOT AS IT MUST BE" });
    }

    /// Takes the drill's realms out of force; what was recorded stays.
    fn end(&self) -> Result<(), Failure> {
        call_within(self.common, Call::DrillEnd {}, self.output).map(drop)
    }

    fn report(&self) -> Result<(), Failure> {
        let wrong = self.steps.iter().filter(|step| !step.as_expected).count();
        let steps: Vec<Value> = self.steps.iter().map(Step::to_json).collect();
        let document = json!({ "drill": "storm-0558", "steps": steps, "wrong": wrong });
        self.output.answer(&document, |o| {
            o.say("");
            o.say(&match wrong {
                0 => format!("All {} steps ended as they must.", steps.len()),
                wrong => format!("{wrong} of {} steps did not end as they must.", steps.len()),
            });
        });
        match wrong {
            0 => Ok(()),
            _ => Err(Failure::new(Kind::Wrong, "the drill found something open")
                .next("see the steps marked NOT AS IT MUST BE, and `ringfence log show`")),
        }
    }
}

impl Step {
    fn to_json(&self) -> Value {
        json!({
            "step": self.name,
            "holds": self.holds,
            "tries": self.tries,
            "happened": self.happened,
            "alarm": self.alarm.as_ref().map(|(kind, _)| kind),
            "alarm_after_ms": self.alarm.as_ref().map(|(_, after)| *after as u64),
            "as_expected": self.as_expected,
        })
    }
}

fn told(result: &Result<(), Refusal>) -> String {
    match result {
        Ok(()) => "it worked".to_owned(),
        Err(refusal) => format!("refused: {} {}", refusal.status, refusal.code),
    }
}

/// An administrative call from within the drill's runtime.
fn call_within(common: &Common, call: Call, output: &Output) -> Result<Value, Failure> {
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            scope
                .spawn(|| connect::call(common, call, output))
                .join()
                .map_err(|_| Failure::internal("a call panicked"))?
        })
    })
}
