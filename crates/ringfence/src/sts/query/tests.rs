use super::*;
use crate::sts::is_asked;

fn head(method: &str, target: &str, form: bool) -> Parts {
    let request = http::Request::builder().method(method).uri(target);
    let request =
        if form { request.header("content-type", "application/x-www-form-urlencoded; charset=utf-8") } else { request };
    request.body(()).expect("a request").into_parts().0
}

fn post(body: &str) -> Result<Given, StsError> {
    read(&head("POST", "/", true), body.as_bytes())
}

const GOOD: &str = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aringfence%3Aiam%3A%3Aacme%3Arole%2Freader&RoleSessionName=me%40host&WebIdentityToken=a.b.c";

#[test]
fn what_an_sdk_sends_is_understood() {
    let Ok(Given::WithWebIdentity(ask)) = post(GOOD) else { panic!("{:?}", post(GOOD)) };
    assert_eq!((ask.role.tenant.as_ref().map(Tenant::as_str), ask.role.name.as_str()), (Some("acme"), "reader"));
    assert_eq!((ask.session_name.as_str(), ask.evidence.as_str()), ("me@host", "a.b.c"));
    assert_eq!((ask.duration_s, ask.policy), (None, None));
    let more = format!("{GOOD}&DurationSeconds=900&Policy=%7B%7D");
    let Ok(Given::WithWebIdentity(ask)) = post(&more) else { panic!("{:?}", post(&more)) };
    assert_eq!((ask.duration_s, ask.policy.as_deref()), (Some(900), Some("{}")));
    let by_query = read(&head("GET", &format!("/?{GOOD}"), false), b"");
    assert!(matches!(by_query, Ok(Given::WithWebIdentity(_))), "{by_query:?}");
    assert!(matches!(post("Action=GetCallerIdentity&Version=2011-06-15"), Ok(Given::CallerIdentity)));
    let role = GOOD.replace("WithWebIdentity&", "&").replace("&WebIdentityToken=a.b.c", "");
    assert!(matches!(post(&role), Ok(Given::AssumeRole(_))), "{:?}", post(&role));
}

#[test]
fn each_thing_that_is_wrong_is_told_in_the_words_of_aws() {
    let refused = |body: &str, code: StsCode, words: &str| {
        let error = post(body).expect_err(body);
        assert_eq!(error.code, code, "{body}: {error:?}");
        assert!(error.message.contains(words), "{body}: {}", error.message);
    };
    let with = |from: &str, to: &str, code, words: &str| {
        assert!(GOOD.contains(from), "{from}");
        refused(&GOOD.replacen(from, to, 1), code, words);
    };
    use StsCode::{InvalidAction, InvalidParameterValue, MalformedQueryString, MissingAction, MissingParameter};
    use StsCode::{NoSuchVersion, ValidationError};
    refused("", MissingAction, "Missing Action");
    refused("Version=2011-06-15", MissingAction, "");
    refused("Action=GetCallerIdentity", MissingParameter, "Version");
    with("Version=2011-06-15", "Version=2011-06-16", NoSuchVersion, "(2011-06-16)");
    with(
        "AssumeRoleWithWebIdentity",
        "AssumeRoot",
        InvalidAction,
        "Could not find operation AssumeRoot for version 2011-06-15",
    );
    with("AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", InvalidAction, "");
    with("AssumeRoleWithWebIdentity", "assumeRoleWithWebIdentity", InvalidAction, "");
    let constraint =
        "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null";
    with("RoleArn=arn%3Aringfence%3Aiam%3A%3Aacme%3Arole%2Freader&", "", ValidationError, constraint);
    refused("Action=AssumeRoleWithWebIdentity&Version=2011-06-15", ValidationError, "3 validation errors detected: ");
    with("RoleSessionName=me%40host", "RoleSessionName=m", ValidationError, "length greater than or equal to 2");
    with("me%40host", &"m".repeat(65), ValidationError, "length less than or equal to 64");
    with("me%40host", "me+host", ValidationError, r"[\w+=,.@-]*");
    with("RoleArn=arn%3Aringfence%3Aiam%3A%3Aacme%3Arole%2Freader", "RoleArn=short", ValidationError, "equal to 20");
    with(
        "arn%3Aringfence%3Aiam%3A%3Aacme%3Arole%2Freader",
        "arn:ringfence:iam::acme:user/reader",
        ValidationError,
        "Request ARN is invalid",
    );
    with("WebIdentityToken=a.b.c", "WebIdentityToken=abc", ValidationError, "'webIdentityToken'");
    for (value, words) in [
        ("899", "to 900"),
        ("43201", "to 43200"),
        ("9e2", "integer"),
        ("-1", "integer"),
        ("", "integer"),
        ("4294967297", "integer"),
    ] {
        refused(&format!("{GOOD}&DurationSeconds={value}"), ValidationError, words);
    }
    refused(&format!("{GOOD}&Policy={}", "x".repeat(2049)), ValidationError, "less than or equal to 2048");
    refused(&format!("{GOOD}&Policy="), ValidationError, "'policy'");
    refused(&format!("{GOOD}&RoleSessionName=me"), MalformedQueryString, "`RoleSessionName` stands twice");
    refused(&format!("{GOOD}&Role%53essionName=me"), MalformedQueryString, "stands twice");
    refused(&format!("{GOOD}&a=%"), MalformedQueryString, "percent-encoded");
    refused(&format!("{GOOD}&a=%4"), MalformedQueryString, "percent-encoded");
    refused(&format!("{GOOD}&a=%zz"), MalformedQueryString, "percent-encoded");
    refused(&format!("{GOOD}&a=%ff"), MalformedQueryString, "percent-encoded");
    refused(&format!("{GOOD}&ProviderId=www.example"), InvalidParameterValue, "ProviderId");
    for lost in ["PolicyArns.member.1.arn=x", "Tags.member.1.Key=a", "SourceIdentity=me", "ExternalId=x", "new=1"] {
        refused(&format!("{GOOD}&{lost}"), InvalidParameterValue, "not supported");
    }
    refused("Action=GetCallerIdentity&Version=2011-06-15&RoleArn=x", InvalidParameterValue, "`RoleArn`");
    let both = read(&head("POST", "/?Action=GetCallerIdentity", true), GOOD.as_bytes()).expect_err("both");
    assert_eq!(both.code, MalformedQueryString);
    assert_eq!(read(&head("POST", "/", true), &[b'a', b'=', 0xff]).expect_err("bytes").code, MalformedQueryString);
}

#[test]
fn a_token_is_repeated_by_no_error() {
    for body in [
        GOOD.replace("a.b.c", "S3C"),
        format!("{}&extra=1", GOOD.replace("a.b.c", "S3CRET.S3CRET")),
        format!("{}&WebIdentityToken=S3CRET", GOOD.replace("a.b.c", "S3CRET")),
    ] {
        let error = post(&body).expect_err(&body);
        assert!(!error.message.contains("S3C"), "{}", error.message);
    }
    let Ok(ask) = post(&GOOD.replace("a.b.c", "S3CRET.b.c")) else { panic!("well-formed") };
    let shown = format!("{:?}", ask.op());
    assert!(!shown.contains("S3CRET"));
}

#[test]
fn roles_are_named_by_our_arns_and_by_those_that_tools_insist_on() {
    let role = |arn: &str| role_of(arn).map(|role| (role.tenant.map(|t| t.to_string()), role.name.to_string()));
    let of = |tenant: Option<&str>| Some((tenant.map(str::to_owned), "reader".to_owned()));
    assert_eq!(role("arn:ringfence:iam::acme:role/reader"), of(Some("acme")));
    assert_eq!(role("arn:aws:iam::acme:role/reader"), of(Some("acme")));
    assert_eq!(role("arn:aws:iam::123456789012:role/reader"), of(None));
    assert_eq!(role("arn:ringfence:iam::123456789012:role/reader"), of(Some("123456789012")));
    for bad in [
        "arn:aws:iam::123456789012:role/a/reader",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::123456789012:user/reader",
        "arn:aws:iam:::role/reader",
        "arn:aws:s3::123456789012:role/reader",
        "arn:aws-cn:iam::123456789012:role/reader",
        "arn:aws:iam::ACME:role/reader",
        "arn:aws:iam::acme:role/Reader",
    ] {
        assert_eq!(role(bad), None, "{bad}");
    }
}

#[test]
fn sts_is_told_from_s3_by_root_and_form_or_action() {
    let asked = |method: &str, target: &str, form| is_asked(&head(method, target, form), &[]);
    assert!(asked("POST", "/", true));
    assert!(asked("POST", "/?Action=GetCallerIdentity", false));
    assert!(asked("GET", "/?Action=GetCallerIdentity&Version=2011-06-15", false));
    assert!(!asked("GET", "/", false), "ListBuckets");
    assert!(!asked("GET", "/?x-id=ListBuckets", false));
    assert!(!asked("POST", "/bucket?delete", true));
    assert!(!asked("PUT", "/?Action=x", true));
    assert!(!asked("POST", "/", false));
}
