//! Labels: how strict an object is, where that comes from, and when it is
//! lowered.
//!
//! Ruling: an object's own tag wins; else the strictest of its bucket's tag
//! and the prefix rules; else its tenant's default; else the strictest label
//! there is. Nothing said means the strictest, so that forgetting is safe.
//! Anything that ends below what an object inherits, below what it replaces,
//! or below what it was copied from needs
//! [`LowerLabel`](crate::permit::LowerLabel); [`LabelRules::lowerings`] says
//! from what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use ringfence_format::names::{BucketName, Label, ObjectKey, Tenant};
use ringfence_format::redo::{LabelSource, Pairs};

/// The tag that carries a label, on objects and on buckets.
pub const LABEL_TAG: &str = "ringfence-label";

/// The labels there are, from the least strict to the strictest.
///
/// Never empty, no label twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Vec<Label>);

/// A text is not one of the configured labels: answer 400 `InvalidTag`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a label: use one of {known}")]
pub struct UnknownLabel {
    given: String,
    known: String,
}

/// An order of labels that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("labels must be given once each, and at least one, from the least strict to the strictest")]
pub struct BadOrder;

impl Default for Labels {
    fn default() -> Self {
        let label = |text| Label::parse(text).expect("a valid label");
        Self(["public", "internal", "confidential", "restricted"].map(label).into())
    }
}

impl Labels {
    /// From the least strict to the strictest.
    pub fn new(order: Vec<Label>) -> Result<Self, BadOrder> {
        let distinct: BTreeSet<_> = order.iter().collect();
        match !order.is_empty() && distinct.len() == order.len() {
            true => Ok(Self(order)),
            false => Err(BadOrder),
        }
    }

    /// From the least strict to the strictest.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Label> {
        self.0.iter()
    }

    /// 0 for the least strict; `None` for a label that is not configured.
    pub fn rank(&self, label: &Label) -> Option<usize> {
        self.0.iter().position(|l| l == label)
    }

    /// The strictest label there is: what an object has of which nothing is known.
    pub fn strictest(&self) -> &Label {
        self.0.last().expect("never empty")
    }

    /// A label by its name, as a tag gives it.
    pub fn find(&self, text: &str) -> Result<&Label, UnknownLabel> {
        self.0.iter().find(|l| l.as_str() == text).ok_or_else(|| UnknownLabel {
            given: text.chars().take(80).collect(),
            known: self.0.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether going from one label to the other makes an object less strict.
    /// A label that is not configured any more counts as the strictest.
    pub fn lowers(&self, from: &Label, to: &Label) -> bool {
        self.weight(to) < self.weight(from)
    }

    /// The stricter of two.
    pub fn stricter<'a>(&self, a: &'a Label, b: &'a Label) -> &'a Label {
        if self.lowers(a, b) { a } else { b }
    }

    fn weight(&self, label: &Label) -> usize {
        self.rank(label).unwrap_or(self.0.len())
    }
}

/// Keys that match have at least this label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrefixRule {
    /// Only buckets of this tenant; `None`: of every tenant.
    pub tenant: Option<Tenant>,
    /// Only buckets whose name matches, where `*` stands for any characters;
    /// `None`: every bucket.
    pub bucket: Option<String>,
    /// Only keys that begin with this; empty: every key.
    pub prefix: String,
    /// The label.
    pub label: Label,
}

impl PrefixRule {
    fn covers(&self, tenant: &Tenant, bucket: &BucketName) -> bool {
        self.tenant.as_ref().is_none_or(|t| t == tenant)
            && self.bucket.as_ref().is_none_or(|glob| matches_glob(glob, bucket.as_str()))
    }
}

/// Where labels come from when the object itself does not say one.
#[derive(Clone, Debug, Default)]
pub struct LabelRules {
    labels: Labels,
    tenants: BTreeMap<Tenant, Label>,
    /// What tenants were made with, where the configuration says nothing.
    told: Arc<RwLock<BTreeMap<Tenant, Label>>>,
    prefixes: Vec<PrefixRule>,
}

/// An object's label and why it has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The effective label.
    pub label: Label,
    /// Where it comes from.
    pub source: LabelSource,
    /// What the object would have without a tag of its own.
    pub inherited: Label,
}

/// What a new label is lower than.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Above {
    /// What the object inherits from bucket, prefix or tenant.
    Inherited,
    /// The version that is replaced, or the label the version had.
    Replaced,
    /// The source it is copied from: ask for `LowerLabel` on that source.
    Source,
}

impl LabelRules {
    /// Rules over these labels; a tenant that is not named has no default.
    /// Every label named must be one of `labels`.
    pub fn new(
        labels: Labels,
        tenants: BTreeMap<Tenant, Label>,
        prefixes: Vec<PrefixRule>,
    ) -> Result<Self, UnknownLabel> {
        for label in tenants.values().chain(prefixes.iter().map(|rule| &rule.label)) {
            labels.find(label.as_str())?;
        }
        Ok(Self { labels, tenants, told: Arc::default(), prefixes })
    }

    /// The default label that a tenant was made with; one the configuration
    /// gives it counts instead, and a label that is none any more as the
    /// strictest.
    pub fn tell(&self, tenant: &Tenant, label: Label) {
        let mut told = self.told.write().unwrap_or_else(PoisonError::into_inner);
        told.insert(tenant.clone(), label);
    }

    /// The label of a tenant's objects where nothing else says one.
    pub fn of_tenant(&self, tenant: &Tenant) -> Option<Label> {
        if let Some(label) = self.tenants.get(tenant) {
            return Some(label.clone());
        }
        let told = self.told.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned();
        told.filter(|label| self.labels.rank(label).is_some())
    }

    /// The labels there are.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The label an object has (`object_tags`), or would have, and what it
    /// inherits. An unknown label in the object's tag is the client's
    /// mistake; one in the bucket's tag was valid once and counts as the
    /// strictest.
    pub fn effective(
        &self,
        tenant: &Tenant,
        bucket: &BucketName,
        bucket_tags: &Pairs,
        key: &ObjectKey,
        object_tags: &Pairs,
    ) -> Result<Labelled, UnknownLabel> {
        let (inherited, from) = self.inherited(tenant, bucket, bucket_tags, key.as_str());
        let (label, source) = match tag(object_tags) {
            Some(text) => (self.labels.find(text)?.clone(), LabelSource::Tag),
            None => (inherited.clone(), from),
        };
        Ok(Labelled { label, source, inherited })
    }

    /// The label of a bucket itself, for decisions about the bucket: what an
    /// object inherits there that no prefix rule narrower than the whole
    /// bucket covers.
    pub fn of_bucket(&self, tenant: &Tenant, bucket: &BucketName, bucket_tags: &Pairs) -> Label {
        self.inherited(tenant, bucket, bucket_tags, "").0
    }

    /// Checks a label tag a client wants to put on a bucket or an object.
    pub fn check_tags(&self, tags: &Pairs) -> Result<(), UnknownLabel> {
        tag(tags).map_or(Ok(()), |text| self.labels.find(text).map(|_| ()))
    }

    /// What `new` is lower than: each needs its own `LowerLabel` from the
    /// label beside it. Empty where nothing is lowered.
    pub fn lowerings(
        &self,
        new: &Label,
        inherited: &Label,
        replaced: Option<&Label>,
        sources: &[&Label],
    ) -> Vec<(Above, Label)> {
        let candidates = [(Above::Inherited, inherited)].into_iter();
        let candidates = candidates.chain(replaced.map(|l| (Above::Replaced, l)));
        let candidates = candidates.chain(sources.iter().map(|l| (Above::Source, *l)));
        candidates.filter(|(_, from)| self.labels.lowers(from, new)).map(|(above, l)| (above, l.clone())).collect()
    }

    fn inherited(&self, tenant: &Tenant, bucket: &BucketName, bucket_tags: &Pairs, key: &str) -> (Label, LabelSource) {
        let strictest = self.labels.strictest();
        let tagged = tag(bucket_tags).map(|text| (self.labels.find(text).unwrap_or(strictest), LabelSource::Bucket));
        let ruled = self.prefixes.iter().filter(|r| r.covers(tenant, bucket) && key.starts_with(&r.prefix));
        let ruled = ruled.map(|r| (&r.label, LabelSource::Prefix));
        let stricter = |a: (_, _), b: (_, _)| if self.labels.lowers(b.0, a.0) { b } else { a };
        let said = tagged.into_iter().chain(ruled).reduce(stricter);
        let said = said.map(|(label, source)| (label.clone(), source));
        let default = || self.of_tenant(tenant).map(|label| (label, LabelSource::Tenant));
        said.or_else(default).unwrap_or_else(|| (strictest.clone(), LabelSource::Strictest))
    }
}

fn tag(tags: &Pairs) -> Option<&str> {
    tags.iter().find(|(name, _)| name == LABEL_TAG).map(|(_, value)| value.as_str())
}

/// `*` stands for any characters; everything else for itself.
fn matches_glob(glob: &str, text: &str) -> bool {
    let mut pieces = glob.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(text: &str) -> Label {
        Label::parse(text).expect("a label")
    }

    fn tags(value: &str) -> Pairs {
        if value.is_empty() { vec![] } else { vec![(LABEL_TAG.to_owned(), value.to_owned())] }
    }

    fn rules() -> LabelRules {
        let acme = Tenant::parse("acme").expect("a tenant");
        let rule = |tenant: Option<&Tenant>, bucket: Option<&str>, prefix: &str, to: &str| PrefixRule {
            tenant: tenant.cloned(),
            bucket: bucket.map(str::to_owned),
            prefix: prefix.to_owned(),
            label: label(to),
        };
        let prefixes = vec![
            rule(None, None, "hr/", "restricted"),
            rule(None, Some("www-*"), "", "public"),
            rule(Some(&acme), Some("*-books"), "2026/", "confidential"),
        ];
        LabelRules::new(Labels::default(), BTreeMap::from([(acme, label("internal"))]), prefixes).expect("known labels")
    }

    #[test]
    fn the_strictest_thing_said_wins_unless_the_object_says_otherwise() {
        let cases = [
            // tenant, bucket, bucket tag, key, object tag → label, source, inherited
            ("acme", "data", "", "a", "", "internal", LabelSource::Tenant, "internal"),
            ("other", "data", "", "a", "", "restricted", LabelSource::Strictest, "restricted"),
            ("acme", "data", "", "hr/a", "", "restricted", LabelSource::Prefix, "restricted"),
            ("acme", "data", "public", "hr/a", "", "restricted", LabelSource::Prefix, "restricted"),
            ("acme", "data", "public", "a", "", "public", LabelSource::Bucket, "public"),
            ("acme", "data", "confidential", "a", "public", "public", LabelSource::Tag, "confidential"),
            ("acme", "www-de", "", "index.html", "", "public", LabelSource::Prefix, "public"),
            ("acme", "www-de", "confidential", "index.html", "", "confidential", LabelSource::Bucket, "confidential"),
            ("acme", "my-books", "", "2026/q1", "", "confidential", LabelSource::Prefix, "confidential"),
            ("other", "my-books", "", "2026/q1", "", "restricted", LabelSource::Strictest, "restricted"),
            ("acme", "data", "withdrawn", "a", "", "restricted", LabelSource::Bucket, "restricted"),
            ("acme", "data", "", "a", "restricted", "restricted", LabelSource::Tag, "internal"),
        ];
        for (tenant, bucket, bucket_tag, key, object_tag, expect, source, inherited) in cases {
            let got = rules()
                .effective(
                    &Tenant::parse(tenant).expect("a tenant"),
                    &BucketName::parse(bucket).expect("a bucket"),
                    &tags(bucket_tag),
                    &ObjectKey::parse(key).expect("a key"),
                    &tags(object_tag),
                )
                .expect("known labels");
            let expect = Labelled { label: label(expect), source, inherited: label(inherited) };
            assert_eq!(got, expect, "{tenant} {bucket} {bucket_tag} {key} {object_tag}");
        }
    }

    #[test]
    fn an_unknown_label_in_a_tag_is_named_with_those_that_exist() {
        let error = rules().check_tags(&tags("secret")).expect_err("no such label");
        assert_eq!(
            error.to_string(),
            "`secret` is not a label: use one of `public`, `internal`, `confidential`, `restricted`"
        );
        assert!(rules().check_tags(&tags("")).is_ok());
    }

    #[test]
    fn lowering_is_seen_against_what_is_inherited_replaced_and_copied() {
        let (public, internal, restricted) = (label("public"), label("internal"), label("restricted"));
        let rules = rules();
        assert!(rules.lowerings(&internal, &internal, Some(&public), &[&internal]).is_empty());
        assert_eq!(
            rules.lowerings(&public, &internal, Some(&restricted), &[&public, &restricted]),
            [(Above::Inherited, internal), (Above::Replaced, restricted.clone()), (Above::Source, restricted)]
        );
    }

    #[test]
    fn a_label_that_was_withdrawn_counts_as_the_strictest() {
        let labels = Labels::default();
        assert!(labels.lowers(&label("withdrawn"), &label("restricted")));
        assert!(!labels.lowers(&label("restricted"), &label("withdrawn")));
    }

    #[test]
    fn globs_match_as_a_reader_expects() {
        for (glob, text, expect) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
            ("www-*", "www", false),
        ] {
            assert_eq!(matches_glob(glob, text), expect, "{glob} {text}");
        }
    }

    #[test]
    fn an_order_names_each_label_once() {
        assert_eq!(Labels::new(vec![]), Err(BadOrder));
        assert_eq!(Labels::new(vec![label("a"), label("a")]), Err(BadOrder));
    }
}
