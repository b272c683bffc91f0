//! Refusals that name no key of ours, counted per minute, network and reason:
//! a flood of them must fill neither the log nor the memory.
//!
//! Ruling 16: requests that name no valid key are aggregated in a durable
//! record; every refusal of a key that exists stands alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringfence_format::record::{ActorKind, Core, Decision, Op, Phase, Record, Resource, Subject, TimeUs};
use ringfence_log::Entry;

use crate::caller::Unauthenticated;

const MINUTE_US: u64 = 60 * 1_000_000;

/// Networks counted apart in one minute; those beyond share one count, so
/// that a scan from many networks costs a bounded number of records.
const NETWORKS_MAX: usize = 1024;

/// Counts refusals until their minute is over.
#[derive(Debug, Default)]
pub struct Noise(Mutex<BTreeMap<Kind, u64>>);

/// What is counted together. Ordered by minute first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    minute: u64,
    op: &'static str,
    network: String,
    status: u16,
    code: &'static str,
    reason: String,
}

/// So many refusals of one kind from one network in one minute.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoisyMinute {
    kind: Kind,
    count: u64,
}

impl Noise {
    /// Counts one refusal.
    pub fn count(&self, refused: &Unauthenticated, now_us: TimeUs) {
        let (status, code) = refused.answer();
        let mut counts = self.lock();
        let network = match refused.origin().ip.map(network) {
            Some(network) if counts.len() < NETWORKS_MAX => network,
            Some(_) => "others".to_owned(),
            None => "local".to_owned(),
        };
        let reason = refused.reason().to_string();
        *counts
            .entry(Kind { minute: now_us / MINUTE_US, op: refused.op(), network, status, code, reason })
            .or_default() += 1;
    }

    /// Takes out what belongs to minutes that are over: record each.
    pub fn finished(&self, now_us: TimeUs) -> Vec<NoisyMinute> {
        self.take(now_us / MINUTE_US)
    }

    /// Takes out everything, for a shutdown.
    pub fn all(&self) -> Vec<NoisyMinute> {
        self.take(u64::MAX)
    }

    fn take(&self, before_minute: u64) -> Vec<NoisyMinute> {
        let mut counts = self.lock();
        let (over, running) = std::mem::take(&mut *counts).into_iter().partition(|(k, _)| k.minute < before_minute);
        *counts = running;
        let over: BTreeMap<Kind, u64> = over;
        over.into_iter().map(|(kind, count)| NoisyMinute { kind, count }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry for NoisyMinute {
    fn to_record(&self, _: TimeUs) -> Record {
        Record {
            core: Core {
                time_us: self.kind.minute * MINUTE_US,
                op: Op(self.kind.op.to_owned()),
                phase: Phase::Intent,
                decision: Decision::Deny,
                status: self.kind.status,
                error_code: Some(self.kind.code.to_owned()),
                reason: Some(self.kind.reason.clone()),
                aggregated: self.count,
                ..Core::default()
            },
            subject: Subject {
                actor: ActorKind::Anonymous,
                source: Some(self.kind.network.clone()),
                ..Subject::default()
            },
            resource: Resource::default(),
            redo: None,
            public: None,
        }
    }
}

/// The /24 or /48 an address lies in: about what one party holds.
fn network(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::{AuthnReason, Origin};

    fn refused(ip: &str, reason: AuthnReason) -> Unauthenticated {
        let ip = Some(ip.parse().expect("an address"));
        Unauthenticated::new(reason, None, Origin { ip, user_agent: None })
    }

    #[test]
    fn a_minute_of_noise_is_one_record_per_network_and_reason() {
        let noise = Noise::default();
        for host in 1..=200 {
            noise.count(&refused(&format!("192.0.2.{host}"), AuthnReason::Missing), 1);
        }
        noise.count(&refused("::ffff:192.0.2.9", AuthnReason::UnknownKey), 2);
        noise.count(&refused("2001:db8:1::1", AuthnReason::Missing), MINUTE_US);
        assert!(noise.finished(MINUTE_US - 1).is_empty(), "its minute is not over");

        let over = noise.finished(MINUTE_US);
        let seen: Vec<_> = over.iter().map(|m| m.to_record(0)).map(|r| (r.subject.source, r.core.aggregated)).collect();
        assert_eq!(seen, [(Some("192.0.2.0/24".into()), 200), (Some("192.0.2.0/24".into()), 1)]);
        assert_eq!(noise.all()[0].to_record(0).subject.source.as_deref(), Some("2001:db8:1::/48"));
        assert!(noise.all().is_empty(), "counted once");
    }

    #[test]
    fn a_scan_from_everywhere_costs_a_bounded_number_of_records() {
        let noise = Noise::default();
        for n in 0..10_000_u32 {
            let ip = IpAddr::from([10, (n >> 8) as u8, n as u8, 1]);
            noise.count(&refused(&ip.to_string(), AuthnReason::Missing), 1);
        }
        let over = noise.finished(MINUTE_US);
        assert!(over.len() <= NETWORKS_MAX + 1, "{}", over.len());
        assert_eq!(over.iter().map(|m| m.count).sum::<u64>(), 10_000, "none is lost");
    }
}
