//! What policies talk about: the labels, the sites, and the table that chooses
//! among the sites policy allows.
//!
//! Comes from the configuration, checked once: every name a table uses exists.

use std::collections::{BTreeMap, BTreeSet};

use ringfence_format::names::{Label, SiteId};
use serde::{Deserialize, Serialize};

use crate::labels::{Labels, UnknownLabel};

/// Whether a site is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// Ours: at home.
    Private,
    /// Somebody else's: sees ciphertext only.
    Public,
}

impl SiteKind {
    /// As policies write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
        }
    }
}

/// What policies can ask of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteFacts {
    /// Its name.
    pub id: SiteId,
    /// Whether it is ours.
    pub kind: SiteKind,
    /// ISO 3166-1 code, upper case; `ZZ` is unknown.
    pub jurisdiction: String,
    /// Who runs it; may be empty.
    pub provider: String,
    /// Whether no other customer's data shares its machines.
    pub dedicated: bool,
    /// Free words.
    pub tags: Vec<String>,
}

/// `[placement.LABEL]`: which of the allowed sites are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementRule {
    /// Sites in order of preference; no other site is used unless a bucket is pinned to it.
    pub prefer: Vec<SiteId>,
    /// Complete copies, each at another site.
    pub copies: usize,
}

/// Labels, sites and placement tables that fit each other.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    #[serde(serialize_with = "as_list")]
    labels: Labels,
    sites: Vec<SiteFacts>,
    placement: BTreeMap<Label, PlacementRule>,
}

/// Why labels, sites and placement tables do not fit: fix the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum SettingError {
    #[error("site `{0}` stands twice: give each site another id")]
    SiteTwice(SiteId),
    #[error("`[placement.{label}]`: no site is called `{site}`")]
    NoSuchSite { label: Label, site: SiteId },
    #[error("`[placement.{label}]` names site `{site}` twice: name each site once")]
    PreferredTwice { label: Label, site: SiteId },
    #[error("`[placement.{label}]`: {copies} copies cannot lie at {sites} sites")]
    Copies { label: Label, copies: usize, sites: usize },
    #[error("label `{0}` has no placement: add `[placement.{0}]`")]
    NoPlacement(Label),
    #[error("`[placement]`: {0}")]
    Label(#[from] UnknownLabel),
}

impl Setting {
    /// Checks that the tables name labels and sites that exist, and that every
    /// label has a table.
    pub fn new(
        labels: Labels,
        sites: Vec<SiteFacts>,
        placement: BTreeMap<Label, PlacementRule>,
    ) -> Result<Self, SettingError> {
        let mut seen = BTreeSet::new();
        if let Some(twice) = sites.iter().find(|s| !seen.insert(&s.id)) {
            return Err(SettingError::SiteTwice(twice.id.clone()));
        }
        for (label, rule) in &placement {
            labels.find(label.as_str())?;
            check_rule(label, rule, &sites)?;
        }
        let unplaced = labels.iter().find(|l| !placement.contains_key(*l)).cloned();
        match unplaced {
            Some(label) => Err(SettingError::NoPlacement(label)),
            None => Ok(Self { labels, sites, placement }),
        }
    }

    /// The labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The sites, in the order of the configuration.
    pub fn sites(&self) -> &[SiteFacts] {
        &self.sites
    }

    /// One site.
    pub fn site(&self, id: &SiteId) -> Option<&SiteFacts> {
        self.sites.iter().find(|s| s.id == *id)
    }

    /// The table for a label; a label that is not configured any more is
    /// placed like the strictest.
    pub fn placement(&self, label: &Label) -> &PlacementRule {
        let strictest = || self.placement.get(self.labels.strictest());
        self.placement.get(label).or_else(strictest).expect("`new` asks for a table of every label")
    }
}

fn check_rule(label: &Label, rule: &PlacementRule, sites: &[SiteFacts]) -> Result<(), SettingError> {
    let mut seen = BTreeSet::new();
    for site in &rule.prefer {
        if !sites.iter().any(|s| s.id == *site) {
            return Err(SettingError::NoSuchSite { label: label.clone(), site: site.clone() });
        }
        if !seen.insert(site) {
            return Err(SettingError::PreferredTwice { label: label.clone(), site: site.clone() });
        }
    }
    match rule.copies {
        0 => Err(SettingError::Copies { label: label.clone(), copies: 0, sites: rule.prefer.len() }),
        n if n > rule.prefer.len() => {
            Err(SettingError::Copies { label: label.clone(), copies: n, sites: rule.prefer.len() })
        }
        _ => Ok(()),
    }
}

fn as_list<S: serde::Serializer>(labels: &Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(labels.iter())
}
