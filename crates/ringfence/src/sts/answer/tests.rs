use super::*;
use crate::sts::error::StsCode;

fn issued() -> Issued {
    Issued {
        access_key_id: "ASIAEXAMPLEEXAMPLE12".to_owned(),
        secret: Zeroizing::new("se/cr+et".to_owned()),
        session_token: Zeroizing::new("v4.public.x~y~".to_owned()),
        expires_s: 1_440_938_160,
        tenant: Tenant::parse("acme").expect("a tenant"),
        role: Principal::parse("reader").expect("a role"),
        session_name: "me@host".to_owned(),
        evidence: Some(EvidenceSeen {
            subject: "a<b>&\"c\u{1}".to_owned(),
            audience: "ringfence".to_owned(),
            provider: "https://idp.example".to_owned(),
        }),
        packed_policy_percent: Some(6),
        recorded: 7,
    }
}

#[test]
fn a_session_is_answered_in_the_form_sdks_read() {
    let answered = Answered::said("sts:AssumeRoleWithWebIdentity", Said::WebIdentity(issued()));
    assert_eq!((answered.status(), answered.recorded()), (200, Some(7)));
    let id = assumed_role_id(&issued().tenant, &issued().role, "me@host");
    assert!(id.starts_with("AROA") && id.len() == 20 + ":me@host".len(), "{id}");
    assert_eq!(
        answered.document("req-1").as_str(),
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult>\
             <SubjectFromWebIdentityToken>a&lt;b&gt;&amp;&quot;c\u{fffd}</SubjectFromWebIdentityToken>\
             <Audience>ringfence</Audience>\
             <AssumedRoleUser><Arn>arn:ringfence:sts::acme:assumed-role/reader/me@host</Arn>\
             <AssumedRoleId>{id}</AssumedRoleId></AssumedRoleUser>\
             <Credentials><AccessKeyId>ASIAEXAMPLEEXAMPLE12</AccessKeyId><SecretAccessKey>se/cr+et</SecretAccessKey>\
             <SessionToken>v4.public.x~y~</SessionToken><Expiration>2015-08-30T12:36:00Z</Expiration></Credentials>\
             <Provider>https://idp.example</Provider><PackedPolicySize>6</PackedPolicySize>\
             </AssumeRoleWithWebIdentityResult>\
             <ResponseMetadata><RequestId>req-1</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>"
        )
    );
}

#[test]
fn errors_say_code_fault_and_request() {
    for (code, status, fault) in [
        (StsCode::InvalidIdentityToken, 400, "Sender"),
        (StsCode::ExpiredTokenException, 400, "Sender"),
        (StsCode::AccessDenied, 403, "Sender"),
        (StsCode::IdpRejectedClaim, 403, "Sender"),
        (StsCode::IdpCommunicationError, 400, "Sender"),
        (StsCode::ServiceUnavailable, 503, "Receiver"),
    ] {
        let answered = Answered::refused("sts:AssumeRole", StsError::new(code, "a & b").into());
        assert_eq!(answered.status(), status, "{code:?}");
        let expect = format!(
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{fault}</Type>\
             <Code>{}</Code><Message>a &amp; b</Message></Error><RequestId>r</RequestId></ErrorResponse>",
            code.as_str()
        );
        assert_eq!(answered.document("r").as_str(), expect);
    }
}
