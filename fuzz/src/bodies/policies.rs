//! Policies, a tenant's own policies, and files of cases.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use ringfence_access::policy::PolicyText;
use ringfence_access::policy::cases::{Expect, Report, run_cases};
use ringfence_access::{Labels, PlacementRule, PolicySet, Setting, SiteFacts, SiteKind};
use ringfence_format::names::Tenant;

use super::Came;

/// What separates the provider's policies, a tenant's own, and cases.
const TENANT: &str = "\n--- tenant\n";
const CASES: &str = "\n--- cases\n";

/// Whatever the policies say: no tenant reaches another's data, a tenant's own
/// text only narrows, and the same question has the same answer.
pub fn policies(bytes: &[u8]) -> Came {
    let Ok(input) = std::str::from_utf8(bytes) else { return 0 };
    let (texts, cases) = input.split_once(CASES).unwrap_or((input, ""));
    let (provider, tenant) = texts.split_once(TENANT).unwrap_or((texts, ""));
    let Some(alone) = load(provider, None) else { return 0 };
    let boundary = run_cases(BOUNDARY, &alone).expect("cases that are well-formed");
    for case in &boundary.cases {
        assert_eq!(case.got, Expect::Deny, "{} reaches over the boundary: {}", case.name, case.reason);
    }
    if let Ok(report) = run_cases(cases, &alone) {
        assert_eq!(run_cases(cases, &alone).as_ref(), Ok(&report));
    }
    if let Some(narrowed) = load(provider, Some(tenant)) {
        only_narrows(&asked(&alone), &asked(&narrowed));
    }
    1
}

fn asked(set: &PolicySet) -> Report {
    run_cases(EVERY_ACT, set).expect("cases that are well-formed")
}

fn only_narrows(alone: &Report, narrowed: &Report) {
    for (before, after) in alone.cases.iter().zip(&narrowed.cases) {
        let widened = before.got == Expect::Deny && after.got == Expect::Allow;
        assert!(!widened, "a tenant's own policy allows `{}`", after.name);
    }
}

fn load(provider: &str, tenant: Option<&str>) -> Option<PolicySet> {
    let text = |name: &str, text: &str| PolicyText { name: name.to_owned(), text: text.to_owned() };
    let own = tenant.map(|own| (Tenant::parse("default").expect("a tenant"), text("tenant.cedar", own)));
    let own: Vec<_> = own.into_iter().collect();
    match PolicySet::load(SETTING.clone(), &text("policy.cedar", provider), &own) {
        Ok(set) => Some(set),
        Err(errors) => {
            for error in errors.iter() {
                let lines = provider.split('\n').count().max(tenant.unwrap_or_default().split('\n').count());
                assert!((1..=lines).contains(&error.line()), "{error} names a line that is not there");
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
            }
            None
        }
    }
}

static SETTING: LazyLock<Arc<Setting>> = LazyLock::new(|| {
    let site = |id: &str, kind, jurisdiction: &str| SiteFacts {
        id: id.parse().expect("a site"),
        kind,
        jurisdiction: jurisdiction.to_owned(),
        provider: String::new(),
        dedicated: id == "home",
        tags: vec![],
    };
    let sites = vec![site("home", SiteKind::Private, "DE"), site("cloud", SiteKind::Public, "US")];
    let home = PlacementRule { prefer: vec!["home".parse().expect("a site")], copies: 1 };
    let placement: BTreeMap<_, _> = Labels::default().iter().map(|l| (l.clone(), home.clone())).collect();
    Arc::new(Setting::new(Labels::default(), sites, placement).expect("it fits"))
});

/// Another tenant's key, at every act.
static BOUNDARY: &str = r#"
case = [
    { action = "Read", tenant = "default", by = "other", bucket = "data", key = "a", label = "public", expect = "deny" },
    { action = "Write", tenant = "default", by = "other", bucket = "data", key = "a", label = "public", expect = "deny" },
    { action = "Delete", tenant = "default", by = "other", bucket = "data", key = "a", label = "public", expect = "deny" },
    { action = "List", tenant = "default", by = "other", bucket = "data", label = "public", expect = "deny" },
    { action = "LowerLabel", tenant = "default", by = "other", bucket = "data", key = "a", label = "public", from = "internal", expect = "deny" },
]
"#;

/// The tenant's own key, and every label at every site.
static EVERY_ACT: &str = r#"
case = [
    { action = "Read", tenant = "default", bucket = "data", key = "a", label = "public", expect = "allow" },
    { action = "Read", tenant = "default", bucket = "data", key = "a", label = "restricted", expect = "allow" },
    { action = "Write", tenant = "default", bucket = "data", key = "a", label = "internal", expect = "allow" },
    { action = "Delete", tenant = "default", bucket = "data", key = "a", label = "internal", expect = "allow" },
    { action = "List", tenant = "default", bucket = "data", label = "internal", expect = "allow" },
    { action = "LowerLabel", tenant = "default", bucket = "data", key = "a", label = "public", from = "internal", expect = "allow" },
    { action = "Place", tenant = "default", label = "public", site = "cloud", expect = "allow" },
    { action = "Place", tenant = "default", label = "internal", site = "cloud", expect = "allow" },
    { action = "Place", tenant = "default", label = "restricted", site = "cloud", expect = "allow" },
    { action = "Place", tenant = "default", label = "restricted", site = "home", expect = "allow" },
]
"#;
