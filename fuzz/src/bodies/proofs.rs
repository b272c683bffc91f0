//! DPoP proofs: header and claims of the input, signed by a key that is known,
//! so that what stands behind the signature is reached.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ringfence_access::dpop::{Proofs, Reason, Request, SKEW_S_MAX};
use serde_json::Value;

use super::Came;

const NOW_S: u64 = 1_790_000_000;
const ASKED: Request<'static> =
    Request { method: "GET", url: "https://files.example/a", token: Some("token"), bound_to: None };

/// The input is a header, a line end, and claims; or, without one, a whole
/// proof. What is accepted says what it must, for this request alone, once, and
/// its key is the one that signed.
pub fn proofs(bytes: &[u8]) -> Came {
    let Ok(text) = std::str::from_utf8(bytes) else { return 0 };
    let Some((header, claims)) = text.split_once('\n') else {
        assert!(prove(&Proofs::new(9, 0), text, &ASKED).is_err(), "nobody signed this");
        return 0;
    };
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes");
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    let proof = format!("{message}.{}", BASE64.encode(key.sign(message.as_bytes())));
    let seen = Proofs::new(9, 0);
    let Ok(thumbprint) = prove(&seen, &proof, &ASKED) else { return 0 };

    assert_eq!(prove(&seen, &proof, &ASKED), Err(Reason::Replayed), "once");
    let x = BASE64.encode(key.public_key());
    assert_eq!(thumbprint, hash(&format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#)), "RFC 7638");
    for other in [
        Request { method: "POST", ..ASKED },
        Request { url: "https://files.example/b", ..ASKED },
        Request { url: "http://files.example/a", ..ASKED },
        Request { token: Some("another"), ..ASKED },
        Request { bound_to: Some("another"), ..ASKED },
    ] {
        assert!(prove(&Proofs::new(9, 0), &proof, &other).is_err(), "{other:?}");
    }
    for late in [NOW_S - 2 * SKEW_S_MAX - 1, NOW_S + 2 * SKEW_S_MAX + 1] {
        assert!(Proofs::new(9, 0).prove(&proof, &ASKED, late).is_err(), "{late}");
    }
    let says = |json: &Value, name: &str| json.get(name).cloned().unwrap_or(Value::Null);
    let header: Value = serde_json::from_str(header).expect("it was read");
    let claims: Value = serde_json::from_str(claims).expect("it was read");
    assert_eq!((says(&header, "typ"), says(&header, "alg")), ("dpop+jwt".into(), "EdDSA".into()));
    assert!(says(&header, "crit").is_null() && says(&header, "jku").is_null() && says(&header["jwk"], "d").is_null());
    assert_eq!((says(&claims, "htm"), says(&claims, "ath")), ("GET".into(), hash("token").into()));
    assert!(claims["iat"].as_u64().is_some_and(|iat| iat.abs_diff(NOW_S) <= SKEW_S_MAX));
    assert!(claims["jti"].as_str().is_some_and(|id| (1..=255).contains(&id.len())));
    1
}

fn prove(proofs: &Proofs, proof: &str, request: &Request<'_>) -> Result<String, Reason> {
    proofs.prove(proof, request, NOW_S).map(|key| key.thumbprint().to_owned())
}

fn hash(text: &str) -> String {
    BASE64.encode(digest(&SHA256, text.as_bytes()))
}
