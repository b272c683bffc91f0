//! The policies we ship and their cases, as `ringfence policy test` runs them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ringfence_access::policy::cases::{CaseVerdict, CasesError, run_cases};
use ringfence_access::policy::{DEFAULT_POLICIES, PolicyText};
use ringfence_access::{Labels, PlacementRule, PolicySet, Setting, SiteFacts, SiteKind};

fn set_of(name: &str, text: &str) -> PolicySet {
    let site = |id: &str, kind, jurisdiction: &str| SiteFacts {
        id: id.parse().expect("a site"),
        kind,
        jurisdiction: jurisdiction.to_owned(),
        provider: String::new(),
        dedicated: id == "home",
        tags: vec![],
    };
    let sites = vec![
        site("home", SiteKind::Private, "DE"),
        site("branch", SiteKind::Private, "DE"),
        site("cloud", SiteKind::Public, "DE"),
        site("overseas", SiteKind::Public, "US"),
    ];
    let home = PlacementRule { prefer: vec!["home".parse().expect("a site")], copies: 1 };
    let placement: BTreeMap<_, _> = Labels::default().iter().map(|l| (l.clone(), home.clone())).collect();
    let setting = Setting::new(Labels::default(), sites, placement).expect("it fits");
    let text = PolicyText { name: name.to_owned(), text: text.to_owned() };
    PolicySet::load(Arc::new(setting), &text, &[]).unwrap_or_else(|errors| panic!("{name}: {errors}"))
}

/// Every case passes, and every policy decides at least one case: a policy no
/// case needs could be deleted unnoticed.
fn check(name: &str, policies: &str, cases: &str) {
    let set = set_of(name, policies);
    let report = run_cases(cases, &set).unwrap_or_else(|error| panic!("{name}: {error}"));
    for case in &report.cases {
        assert_eq!(case.verdict, CaseVerdict::Passed, "{name}: {case:#?}");
    }
    assert_eq!(report.failed(), 0);
    let decided: BTreeSet<_> = report.cases.iter().flat_map(|case| &case.policies).collect();
    let idle: Vec<_> = set.policies().map(|policy| &policy.id).filter(|id| !decided.contains(id)).collect();
    assert!(idle.is_empty(), "{name}: no case is decided by {idle:?}");
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_default_policies_keep_what_their_cases_say() {
    let cases = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/default.cases.toml"));
    check("default.cedar", DEFAULT_POLICIES, &cases);
}

#[test]
fn a_case_about_an_operation_that_does_not_exist_proves_nothing_and_is_refused() {
    let set = set_of("default.cedar", DEFAULT_POLICIES);
    let case =
        |op: &str| format!("[[case]]\naction = \"Administer\"\nactor = \"system\"\nop = \"{op}\"\nexpect = \"allow\"");
    assert!(run_cases(&case("system:Sweep"), &set).is_ok());
    for op in ["s3:GetObjekt", "Sweep", &format!("system:{}", "x".repeat(200))] {
        assert!(matches!(run_cases(&case(op), &set), Err(CasesError::Case { case: 1, .. })), "{op}");
    }
    // A server runs cases too: what it remembers of them has an end.
    let remembers = |n| run_cases(&case(&format!("system:Number{n}")), &set).is_ok();
    assert!(!(0..2_000).all(remembers));
}

#[test]
fn every_example_keeps_what_its_cases_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/policies");
    let files = std::fs::read_dir(&folder).expect("the examples are here");
    let files: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
    let cedar: Vec<_> = files.iter().filter(|path| path.extension().is_some_and(|e| e == "cedar")).collect();
    assert!(cedar.len() >= 2, "the examples are gone: {files:?}");
    for path in cedar {
        check(&path.display().to_string(), &read(path), &read(&path.with_extension("cases.toml")));
    }
}

#[test]
fn a_case_that_does_not_come_out_fails_and_says_why() {
    let set = set_of("default.cedar", DEFAULT_POLICIES);
    let case = |rest: &str| format!("[[case]]\naction = \"Place\"\nlabel = \"restricted\"\nsite = \"cloud\"\n{rest}");
    let report = run_cases(&case("expect = \"allow\""), &set).expect("it runs");
    assert_eq!(report.failed(), 1);
    assert_eq!(report.cases[0].name, "Place, label restricted, at site cloud");
    assert_eq!(report.cases[0].reason, "forbidden by `restricted-stays-home`");
    let wrong_policy = case("expect = \"deny\"\npolicy = \"internal-stays-home\"");
    assert_eq!(run_cases(&wrong_policy, &set).expect("it runs").failed(), 1, "denied, but by another policy");
}

#[test]
fn a_case_that_would_prove_nothing_is_an_error() {
    let set = set_of("default.cedar", DEFAULT_POLICIES);
    for (text, expect) in [
        ("", "there is no case in it"),
        ("[[case]]\naction = \"Place\"\nexpect = \"deny\"\nsites = \"cloud\"", "unknown field `sites`"),
        ("[[case]]\naction = \"Plaice\"\nexpect = \"deny\"", "case 1: no action is called `Plaice`"),
        (
            "[[case]]\naction = \"Place\"\nlabel = \"secret\"\nsite = \"cloud\"\nexpect = \"deny\"",
            "`secret` is not a label",
        ),
        (
            "[[case]]\naction = \"Place\"\nlabel = \"public\"\nsite = \"cluod\"\nexpect = \"deny\"",
            "no site is called `cluod`",
        ),
        ("[[case]]\naction = \"Place\"\nlabel = \"public\"\nexpect = \"deny\"", "`Place` needs a `site`"),
        ("[[case]]\naction = \"Read\"\nsite = \"cloud\"\nexpect = \"deny\"", "`site` is for `Place`"),
        ("[[case]]\naction = \"Read\"\nkey = \"a\"\nexpect = \"deny\"", "a `key` needs a `bucket`"),
        ("[[case]]\naction = \"Read\"\nexpect = \"deny\"\npolicy = \"gone\"", "no policy is called `gone`"),
        ("[[case]]\naction = \"Read\"\nexpect = \"deny\"", "nobody can ask this"),
        ("[[case]]\naction = \"LowerLabel\"\nbucket = \"data\"\nexpect = \"deny\"", "`LowerLabel` needs `from`"),
        (
            "[[case]]\naction = \"Administer\"\nactor = \"system\"\nby = \"acme\"\nexpect = \"deny\"",
            "operator and system act for no tenant",
        ),
        ("[[case]]\naction = \"Read\"\nactor = \"user\"\nexpect = \"deny\"", "no actor is a `user`"),
    ] {
        let error: CasesError = run_cases(text, &set).expect_err(text);
        assert!(error.to_string().contains(expect), "{text}\nsays: {error}");
    }
}

// ---- docs/operate/policy.md ---------------------------------------------

fn handbook() -> String {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operate/policy.md"))
}

fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn what_the_handbook_shows_is_valid() {
    let page = handbook();
    let cedar = blocks(&page, "cedar");
    assert_eq!(cedar.len(), 1);
    set_of("the handbook", cedar[0]);
    let backups = r#"@id("backups-only-add") forbid (principal, action == Action::"Delete", resource)
        when { principal.name like "backup-*" };"#;
    for cases in blocks(&page, "toml") {
        let report = run_cases(cases, &set_of("the handbook", &format!("{}{backups}", cedar[0]))).expect("it runs");
        assert_eq!(report.failed(), 0, "{report:#?}");
    }
}

/// Each example in the handbook's tables of what policies can ask.
#[test]
fn every_condition_the_handbook_names_is_valid() {
    let page = handbook();
    let (placing, acting) = page.split_once("## Who may do what").expect("both sections");
    let mut seen = 0;
    for (section, action) in [(placing, "Place"), (acting, "Read")] {
        let rows = section.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 2);
        for example in
            rows.filter_map(|row| row.rsplit(" | ").next()).flat_map(|cell| cell.split('`').skip(1).step_by(2))
        {
            let is_condition = ["==", " in ", " like ", ".contains(", ".isInRange(", "unless", " has "];
            if !is_condition.iter().any(|mark| example.contains(mark)) {
                continue;
            }
            let condition = match example.strip_prefix("unless") {
                Some(_) => example.to_owned(),
                None if example.starts_with("context.source") => format!("when {{ context has source && {example} }}"),
                None => format!("when {{ {example} }}"),
            };
            let resource = if example.contains("resource.key") { "resource is Object" } else { "resource" };
            let policy =
                format!("@id(\"x\") forbid (principal, action == Action::\"{action}\", {resource}) {condition};");
            set_of(example, &policy);
            seen += 1;
        }
    }
    assert!(seen >= 14, "only {seen} examples were found");
}
