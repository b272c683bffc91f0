use proptest::prelude::*;

use super::*;
use crate::policy::S3_OPS;

fn policy(statements: &str) -> Result<Narrowing, BadPolicy> {
    Narrowing::parse(&format!(r#"{{"Version":"2012-10-17","Statement":{statements}}}"#))
}

fn one(effect: &str, action: &str, resource: &str) -> String {
    format!(r#"{{"Effect":"{effect}","Action":{action},"Resource":{resource}}}"#)
}

#[test]
fn a_policy_allows_what_it_names_and_nothing_else() {
    let reads = policy(&format!(
        "[{}]",
        one("Allow", r#"["s3:GetObject","s3:ListBucket"]"#, r#"["arn:aws:s3:::data","arn:aws:s3:::data/a/*"]"#)
    ));
    let reads = reads.expect("a policy");
    for (op, bucket, key, expect) in [
        ("s3:GetObject", Some("data"), Some("a/b"), true),
        ("s3:HeadObject", Some("data"), Some("a/b"), true),
        ("s3:GetObject", Some("data"), Some("b"), false),
        ("s3:GetObject", Some("data2"), Some("a/b"), false),
        ("s3:GetObjectTagging", Some("data"), Some("a/b"), false),
        ("s3:GetObjectAttributes", Some("data"), Some("a/b"), false),
        ("s3:PutObject", Some("data"), Some("a/b"), false),
        ("s3:ListObjectsV2", Some("data"), None, true),
        ("s3:ListObjects", Some("data"), None, true),
        ("s3:HeadBucket", Some("data"), None, true),
        ("s3:HeadBucket", Some("dat"), None, false),
        ("s3:ListObjectVersions", Some("data"), None, false),
        ("s3:ListBuckets", None, None, false),
        ("s3:CopyObject", Some("data"), Some("a/b"), false),
        ("s3:Other", Some("data"), Some("a/b"), false),
    ] {
        assert_eq!(reads.allows(op, bucket, key), expect, "{op} {bucket:?} {key:?}");
    }
    assert!(reads.allows_side("s3:CopyObject", Side::Source, Some("data"), Some("a/b")));
    assert!(!reads.allows_side("s3:CopyObject", Side::Target, Some("data"), Some("a/b")));
}

#[test]
fn a_deny_wins_wherever_it_stands() {
    let all = one("Allow", r#""*""#, r#""*""#);
    let no = one("Deny", r#""s3:delete*""#, r#""arn:aws:s3:::data/keep/*""#);
    for text in [format!("[{all},{no}]"), format!("[{no},{all}]")] {
        let narrowing = policy(&text).expect("a policy");
        assert!(!narrowing.allows("s3:DeleteObject", Some("data"), Some("keep/x")));
        assert!(!narrowing.allows("s3:DeleteObjects", Some("data"), Some("keep/x")));
        assert!(narrowing.allows("s3:DeleteObject", Some("data"), Some("other")));
        assert!(narrowing.allows("s3:ListBuckets", None, None));
    }
    let only_no = policy(&no).expect("one statement without a list");
    assert!(!only_no.allows("s3:GetObject", Some("data"), Some("x")), "nothing is allowed by a deny");
}

#[test]
fn every_operation_of_s3_has_its_row_or_cannot_be_allowed() {
    let everything = policy(&one("Allow", r#""*""#, r#""*""#)).expect("a policy");
    let never: Vec<&str> = S3_OPS.into_iter().filter(|op| !everything.allows(op, Some("b"), Some("k"))).collect();
    assert_eq!(never, ["s3:Authenticate"]);
    for op in S3_OPS.into_iter().filter(|op| *op != "s3:Authenticate") {
        for side in [Side::Source, Side::Target] {
            for action in required(op, side).expect("a row") {
                let text = one("Allow", &format!("{:?}", action.to_uppercase().replacen("S3", "s3", 1)), r#""*""#);
                let narrowing = policy(&text).expect("a policy");
                let alone = required(op, side).expect("a row").len() == 1;
                assert_eq!(narrowing.allows_side(op, side, Some("b"), Some("k")), alone, "{op} by {action}");
            }
        }
    }
}

#[test]
fn what_the_subset_does_not_know_is_refused() {
    let allow = one("Allow", r#""s3:GetObject""#, r#""*""#);
    assert!(policy(&format!("[{allow}]")).is_ok());
    assert!(
        Narrowing::parse(&format!(
            r#"{{"Id":"x","Version":"2012-10-17","Statement":{}}}"#,
            allow.replacen('{', r#"{"Sid":"A1","#, 1)
        ))
        .is_ok()
    );
    let bad_statement = |from: &str, to: &str| {
        assert!(allow.contains(from), "{from}");
        let text = allow.replacen(from, to, 1);
        assert!(policy(&text).is_err(), "{text}");
    };
    bad_statement("\"Action\"", "\"NotAction\"");
    bad_statement("\"Resource\"", "\"NotResource\"");
    bad_statement("\"Effect\"", "\"effect\"");
    bad_statement("\"Allow\"", "\"allow\"");
    bad_statement("{", r#"{"Condition":{},"#);
    bad_statement("{", r#"{"Principal":"*","#);
    bad_statement("{", r#"{"Sid":"a b","#);
    bad_statement("{", r#"{"Effect":"Deny","#);
    bad_statement("\"s3:GetObject\"", "[]");
    bad_statement("\"s3:GetObject\"", "[1]");
    bad_statement("\"s3:GetObject\"", "\"GetObject\"");
    bad_statement("\"s3:GetObject\"", "\"s3:\"");
    bad_statement("\"s3:GetObject\"", "\"s*:GetObject\"");
    bad_statement("\"s3:GetObject\"", "\"s3:Get Object\"");
    bad_statement("\"*\"", "\"data/*\"");
    bad_statement("\"*\"", "\"arn:aws:s3:::\"");
    bad_statement("\"*\"", "\"arn:aws:s3:us-east-1::data\"");
    bad_statement("\"*\"", "\"arn:aws:s3:::${aws:username}/*\"");
    bad_statement("\"*\"", "\"arn:aws:*\"");
    for text in [
        "".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        allow.clone(),
        r#"{"Version":"2012-10-17","Statement":[]}"#.to_owned(),
        r#"{"Version":"2012-10-17"}"#.to_owned(),
        format!(r#"{{"Version":"2008-10-17","Statement":{allow}}}"#),
        format!(r#"{{"Statement":{allow}}}"#),
        format!(r#"{{"Version":"2012-10-17","Statement":{allow},"Statement":{allow}}}"#),
        format!(r#"{{"Version":"2012-10-17","Statement":{allow},"More":1}}"#),
        format!(r#"{{"Version":"2012-10-17","Statement":{allow}}}{}"#, " ".repeat(2048)),
    ] {
        assert!(Narrowing::parse(&text).is_err(), "{text}");
    }
}

#[test]
fn a_role_is_a_list_of_actions_and_places() {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let role = Narrowing::of_role(&list(&["s3:Get*", "s3:List*"]), &list(&["data", "data/a*"])).expect("a role");
    assert!(role.allows("s3:GetObject", Some("data"), Some("a1")));
    assert!(!role.allows("s3:GetObject", Some("data"), Some("b1")));
    assert!(role.allows("s3:ListObjectsV2", Some("data"), None));
    assert!(!role.allows("s3:ListBuckets", None, None), "no bucket is every bucket's list");
    assert!(Narrowing::of_role(&list(&[]), &list(&["*"])).is_err());
    assert!(Narrowing::of_role(&list(&["s3:Get*"]), &list(&[])).is_err());
    assert!(Narrowing::of_role(&list(&["Get*"]), &list(&["*"])).is_err());
    assert!(Narrowing::of_role(&list(&["s3:Get*"]), &list(&[""])).is_err());
}

#[test]
fn a_pattern_matches_the_whole_text() {
    for (pattern, text, expect) in [
        ("*", "", true),
        ("", "", true),
        ("", "a", false),
        ("a*c", "abbbc", true),
        ("a*c", "abbbd", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("?", "ß", true),
        ("??", "ß", false),
        ("*ab*ab", "ababab", true),
        ("*.txt", "a/b.txt", true),
        ("a**b", "ab", true),
        ("[a]", "a", false),
        ("a\\*", "a\\x", true),
        ("*ß", "aßß", true),
    ] {
        assert_eq!(Glob::new(pattern).matches(text), expect, "{pattern} {text}");
    }
    // The worst there is takes 2,048 times 1,024 steps, not 2 to the power of them.
    let evil = Glob::new(&format!("{}b", "*a".repeat(1000)));
    assert!(!evil.matches(&"a".repeat(1024)));
}

/// By definition, without regard to time.
fn slowly(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => slowly(rest, text) || (!text.is_empty() && slowly(pattern, &text[1..])),
        (['?', rest @ ..], [_, more @ ..]) => slowly(rest, more),
        ([c, rest @ ..], [d, more @ ..]) => c == d && slowly(rest, more),
        _ => false,
    }
}

fn statements() -> impl Strategy<Value = String> {
    let action = prop::sample::select(vec![
        "*",
        "s3:*",
        "s3:Get*",
        "s3:GetObject",
        "s3:PutObject",
        "s3:List*",
        "s3:Delete?bject",
    ]);
    let place =
        prop::sample::select(vec!["*", "arn:aws:s3:::*", "arn:aws:s3:::a", "arn:aws:s3:::a/*", "arn:aws:s3:::?/k*"]);
    let statement = (any::<bool>(), action, place).prop_map(|(allow, action, place)| {
        one(if allow { "Allow" } else { "Deny" }, &format!("{action:?}"), &format!("{place:?}"))
    });
    prop::collection::vec(statement, 1..5).prop_map(|list| format!("[{}]", list.join(",")))
}

proptest! {
    #[test]
    fn patterns_mean_what_their_definition_says(pattern in "[ab*?ß]{0,8}", text in "[abß]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(Glob::new(&pattern).matches(&text), slowly(&chars(&pattern), &chars(&text)));
    }

    /// What role and session policy allow together is never more than either,
    /// and a further statement that denies only takes away.
    #[test]
    fn a_session_policy_only_narrows(role in statements(), session in statements(), no in statements(), op in prop::sample::select(S3_OPS.to_vec()),
                                     bucket in prop::option::of("[ab]"), key in prop::option::of("[ka]{1,2}")) {
        let (role, session_policy) = (policy(&role).expect("a policy"), policy(&session).expect("a policy"));
        let (bucket, key) = (bucket.as_deref(), key.as_deref());
        let both = role.allows(op, bucket, key) && session_policy.allows(op, bucket, key);
        prop_assert!(!both || role.allows(op, bucket, key));
        let denied = no.replace("Allow", "Deny");
        let with_denial = format!("{},{}", &session[..session.len() - 1], &denied[1..]);
        if let Ok(less) = policy(&with_denial) {
            prop_assert!(!less.allows(op, bucket, key) || session_policy.allows(op, bucket, key));
        }
        // A copy as a whole is at most each of its sides.
        if session_policy.allows("s3:CopyObject", bucket, key) {
            prop_assert!(session_policy.allows_side("s3:CopyObject", Side::Source, bucket, key));
            prop_assert!(session_policy.allows("s3:PutObject", bucket, key) && session_policy.allows("s3:GetObject", bucket, key));
        }
    }

    #[test]
    fn any_text_is_a_policy_or_an_error(text in ".{0,200}") {
        let _ = Narrowing::parse(&text);
    }
}
