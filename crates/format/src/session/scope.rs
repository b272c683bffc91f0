//! Where a key may act: realm × tenant × purpose, and at which sites.

use std::fmt;
use std::str::FromStr;

use super::refusal::BadSession;
use crate::names::{Realm, SiteId, Tenant};

/// What a key signs for. A key has one, and what it signs is worth nothing for
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Purpose {
    /// Sessions of S3 clients.
    #[n(0)]
    StsSession,
    /// Sessions for other services, which ask by forward-auth.
    #[n(1)]
    Api,
    /// People at the console.
    #[n(2)]
    Console,
    /// Ringfence's own processes among each other.
    #[n(3)]
    Node,
    /// A tenant's auditor.
    #[n(4)]
    Audit,
    /// Provider support with the customer's approval.
    #[n(5)]
    Lockbox,
    /// Admits issuance into the log; signs no session.
    #[n(6)]
    Admission,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::StsSession, Self::Api, Self::Console, Self::Node, Self::Audit, Self::Lockbox, Self::Admission];

    /// As it stands in tokens, manifests and records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StsSession => "sts-session",
            Self::Api => "api",
            Self::Console => "console",
            Self::Node => "node",
            Self::Audit => "audit",
            Self::Lockbox => "lockbox",
            Self::Admission => "admission",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Purpose {
    type Err = BadSession;

    fn from_str(text: &str) -> Result<Self, BadSession> {
        Self::ALL.into_iter().find(|purpose| purpose.as_str() == text).ok_or(BadSession::Payload("unknown purpose"))
    }
}

impl serde::Serialize for Purpose {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Purpose {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// In what a key may act.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, minicbor::Encode, minicbor::Decode)]
pub struct Scope {
    /// Under which trust root.
    #[n(0)]
    pub realm: Realm,
    /// For whom.
    #[n(1)]
    pub tenant: Tenant,
    /// For what.
    #[n(2)]
    pub purpose: Purpose,
}

impl Scope {
    /// Whether what was signed for `other` is worth anything here: only if it
    /// is the same in every part. There is no scope that holds another.
    pub fn admits(&self, other: &Scope) -> bool {
        self == other
    }

    /// What is signed with each token and not sent (PASETO, "implicit
    /// assertions"): a token that is shown in another scope, or with other
    /// sites, fails as a bad signature. No name holds `|` or `,`.
    pub fn assertion(&self, sites: &Sites) -> Vec<u8> {
        let Self { realm, tenant, purpose } = self;
        format!("ringfence|{realm}|{tenant}|{purpose}|{sites}").into_bytes()
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.realm, self.tenant, self.purpose)
    }
}

/// The gateways that may serve a session, by their sites: 1 to 16, in
/// ascending order, each once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Vec<SiteId>", into = "Vec<SiteId>")]
pub struct Sites(Vec<SiteId>);

/// More sites would not fit the token.
const SITES_MAX: usize = 16;

impl Sites {
    /// Refuses none, too many, and those that stand in another order.
    pub fn new(sites: Vec<SiteId>) -> Result<Self, BadSession> {
        let ascending = sites.windows(2).all(|pair| pair[0] < pair[1]);
        match ascending && (1..=SITES_MAX).contains(&sites.len()) {
            true => Ok(Self(sites)),
            false => Err(BadSession::Payload("sites are not 1 to 16 in ascending order")),
        }
    }

    /// Just one.
    pub fn one(site: SiteId) -> Self {
        Self(vec![site])
    }

    /// Whether the gateway of `site` may serve it.
    pub fn has(&self, site: &SiteId) -> bool {
        self.0.contains(site)
    }

    /// Whether every site is one of `others`.
    pub fn within(&self, others: &Sites) -> bool {
        self.0.iter().all(|site| others.has(site))
    }

    /// In ascending order.
    pub fn iter(&self) -> impl Iterator<Item = &SiteId> {
        self.0.iter()
    }
}

impl TryFrom<Vec<SiteId>> for Sites {
    type Error = BadSession;
    fn try_from(sites: Vec<SiteId>) -> Result<Self, BadSession> {
        Self::new(sites)
    }
}

impl From<Sites> for Vec<SiteId> {
    fn from(sites: Sites) -> Self {
        sites.0
    }
}

impl fmt::Display for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, site) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{site}")?;
        }
        Ok(())
    }
}

impl<C> minicbor::Encode<C> for Sites {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl<'b, C> minicbor::Decode<'b, C> for Sites {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        Self::new(Vec::decode(d, ctx)?).map_err(minicbor::decode::Error::message)
    }
}
