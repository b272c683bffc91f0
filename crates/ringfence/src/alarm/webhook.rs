//! One message to the webhook, as Standard Webhooks says (its specification
//! 1.0: headers, signature, ids), so that its libraries verify it as it is.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringfence_format::leaf::request_id;
use ringfence_format::record::{Record, Seq};
use serde_json::{Value, json};

use super::{AlarmKind, kind_of};
use crate::cli::{Failure, Kind};
use crate::config;
use crate::retention::time;

/// What a secret begins with; base64 of 24 to 64 bytes follows.
const SECRET_PREFIX: &str = "whsec_";

/// Who is told, and with which key.
pub struct Webhook {
    client: reqwest::Client,
    url: reqwest::Url,
    key: hmac::Key,
    /// The longest pause between two attempts.
    pub retry_max: Duration,
}

impl Webhook {
    /// The configured one, if there is one; its secret is fetched.
    ///
    /// # Errors
    /// Its secret cannot be fetched or is none; no TLS roots can be had.
    pub fn of(config: &config::Alarm, dir: &Path) -> Result<Option<Self>, Failure> {
        let (Some(url), Some(secret)) = (&config.webhook, &config.secret) else { return Ok(None) };
        let wrong = |e: &dyn std::fmt::Display| {
            Failure::new(Kind::Configuration, format!("`[alarm]`: {e}"))
                .next("a secret is made with: echo \"whsec_$(head -c 32 /dev/urandom | base64)\"")
        };
        let text = secret.fetch(dir).map_err(|e| wrong(&e))?;
        let key = key(&text).ok_or_else(|| wrong(&"the secret is not `whsec_` and base64 of 24 to 64 bytes"))?;
        let url: reqwest::Url = url.parse().map_err(|_| wrong(&"`webhook` is not a URL"))?;
        let mut builder = reqwest::Client::builder()
            .timeout(Duration::from_secs(config.timeout_s))
            // Another address is not the one that was configured.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("ringfence/", env!("CARGO_PKG_VERSION")));
        if url.scheme() == "http" {
            // Plain HTTP is for this machine; a proxy is another one.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| wrong(&e.without_url()))?;
        Ok(Some(Self { client, url, key, retry_max: Duration::from_secs(config.retry_max_s) }))
    }

    /// Sends a message; `Ok` if it was acknowledged (2xx).
    ///
    /// # Errors
    /// One line that names neither the address, which may hold a token, nor
    /// what was answered.
    pub async fn send(&self, message: &Message, now_s: u64) -> Result<(), String> {
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", now_s)
            .header("webhook-signature", sign(&self.key, &message.id, now_s, &message.body));
        match request.body(message.body.clone()).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Err("it did not answer in time".to_owned()),
            Err(error) if error.is_connect() => Err("no connection to it".to_owned()),
            Err(error) => Err(error.without_url().to_string()),
        }
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook")
    }
}

/// The key in a secret of the form that Standard Webhooks prescribes.
fn key(secret: &str) -> Option<hmac::Key> {
    let bytes = zeroize::Zeroizing::new(STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?);
    (24..=64).contains(&bytes.len()).then(|| hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

/// `v1,` and base64 of HMAC-SHA256 over `id.timestamp.body`.
fn sign(key: &hmac::Key, id: &str, timestamp_s: u64, body: &str) -> String {
    let signature = hmac::sign(key, format!("{id}.{timestamp_s}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(signature))
}

/// What is told of one alarm; the same at every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The same for the same alarm: who hears it twice can tell.
    pub id: String,
    /// JSON.
    pub body: String,
}

impl Message {
    /// Of the alarm at `seq` of the log called `origin`.
    pub fn of(origin: &str, seq: Seq, record: &Record) -> Option<Self> {
        let kind = kind_of(record)?;
        let body = json!({
            "type": format!("alarm.{}", kind.to_ascii_lowercase()),
            "timestamp": time(record.core.time_us),
            "data": data(origin, seq, kind, record),
        });
        // A dot would end the id in what is signed.
        let log: String = origin.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        Some(Self { id: format!("alarm_{log}_{seq}"), body: body.to_string() })
    }
}

fn data(origin: &str, seq: Seq, kind: &str, record: &Record) -> Value {
    json!({
        "kind": kind,
        "severity": AlarmKind::parse(kind).map(AlarmKind::severity),
        "realm": record.subject.realm,
        "tenant": record.subject.tenant,
        "detail": record.resource.detail,
        "count": record.core.aggregated.max(1),
        "log": origin,
        "record": seq,
        "request_id": record.core.of.map(request_id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks reference libraries' own tests.
    #[test]
    fn the_signature_is_that_of_standard_webhooks() {
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a secret");
        let signed = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, "{\"test\": 2432232314}");
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_has_its_form_or_is_none() {
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        for bad in ["", "whsec_", "hunter2", "whsec_hunter2", &long, &short] {
            assert!(key(bad).is_none(), "{bad}");
        }
    }
}
