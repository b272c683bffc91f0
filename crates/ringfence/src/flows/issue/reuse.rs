//! How often one piece of evidence is exchanged: its subject may, until it
//! ends (SDKs do). Very often, or from two networks, is a sign that somebody
//! else has it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ringfence_access::caller::Origin;
use ringfence_access::evidence::VerifiedEvidence;
use ringfence_format::leaf::Hash;

use crate::alarm::{Alarm, AlarmKind};
use crate::installation::Installation;

/// Pieces of evidence that are watched at a time; the oldest give way.
const WATCHED_MAX: usize = 64 * 1024;
const HOUR_S: u64 = 3600;

/// What was seen of evidence during the last hour.
#[derive(Default)]
pub struct Reuse(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    uses: HashMap<Hash, Uses>,
    order: VecDeque<Hash>,
}

/// What is no cause for alarm.
#[derive(Clone, Copy)]
struct Rule {
    uses_per_hour: u32,
    networks: u32,
}

struct Uses {
    since_s: u64,
    count: u32,
    networks: BTreeSet<IpAddr>,
    told: bool,
}

impl Reuse {
    /// Notes a use; says what is wrong with it, once an hour.
    fn note(&self, evidence: &Hash, network: Option<IpAddr>, now_s: u64, rule: Rule) -> Option<String> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.uses.contains_key(evidence) {
            while seen.order.len() >= WATCHED_MAX {
                let oldest = seen.order.pop_front()?;
                seen.uses.remove(&oldest);
            }
            seen.order.push_back(*evidence);
        }
        let fresh = || Uses { since_s: now_s, count: 0, networks: BTreeSet::new(), told: false };
        let uses = seen.uses.entry(*evidence).or_insert_with(fresh);
        if now_s.saturating_sub(uses.since_s) >= HOUR_S {
            *uses = fresh();
        }
        uses.count = uses.count.saturating_add(1);
        if uses.networks.len() <= rule.networks as usize {
            uses.networks.extend(network);
        }
        let wrong = if uses.networks.len() > rule.networks as usize {
            let names: Vec<String> = uses.networks.iter().map(ToString::to_string).collect();
            Some(format!("from networks {}", names.join(", ")))
        } else {
            let often = uses.count > rule.uses_per_hour;
            often.then(|| format!("more than {} times within an hour", rule.uses_per_hour))
        };
        wrong.filter(|_| !std::mem::replace(&mut uses.told, true))
    }
}

/// Raises the alarm where evidence is exchanged beyond the rule; it is not
/// refused for that, since its subject may be right.
pub(super) async fn watch(at: &Arc<Installation>, evidence: &VerifiedEvidence, origin: &Origin) {
    let now_s = at.clock.now_us() / 1_000_000;
    let sts = &at.config.sts;
    let rule = Rule { uses_per_hour: sts.evidence_uses_per_hour, networks: sts.evidence_networks };
    let network = origin.ip.map(network_of);
    let Some(wrong) = at.reuse.note(evidence.token_sha256(), network, now_s, rule) else { return };
    let detail = format!(
        "evidence {} of `{}` at issuer `{}` is exchanged {wrong}",
        hex::encode(evidence.token_sha256()),
        evidence.subject(),
        evidence.issuer()
    );
    let (realm, tenant) = (Some(evidence.realm().clone()), Some(evidence.tenant().clone()));
    at.alarms.raise(Alarm { kind: AlarmKind::EvidenceReuse, realm, tenant, detail, of: None }).await;
}

/// /24 of IPv4, /48 of IPv6.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_networks_or_too_often_are_told_once_an_hour() {
        let reuse = Reuse::default();
        let [home, away] = ["192.0.2.7", "198.51.100.7"].map(|ip| network_of(ip.parse().expect("an address")));
        let note = |evidence: u8, network, now_s| {
            reuse.note(&[evidence; 32], Some(network), now_s, Rule { uses_per_hour: 3, networks: 1 })
        };
        assert!((0..3).all(|now| note(1, home, now).is_none()));
        assert!(note(1, home, 4).is_some_and(|why| why.contains("more than 3")));
        assert_eq!(note(1, home, 5), None, "once an hour");
        assert_eq!(note(1, home, 4 + HOUR_S), None, "a new hour");
        assert_eq!(note(2, home, 0), None);
        assert!(note(2, away, 1).is_some_and(|why| why.contains("198.51.100.0")));
    }
}
