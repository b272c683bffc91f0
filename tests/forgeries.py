"""Tokens of an identity provider that must not be believed: name → (what to
send, the error codes that are right). Each is a good token with one thing wrong.
"""

import hashlib
import json
import time

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from idp import AUDIENCE, SigningKey, number
from paseto import b64, unb64

INVALID = ("InvalidIdentityToken",)
REJECTED = ("IDPRejectedClaim", "InvalidIdentityToken")
EXPIRED = ("ExpiredTokenException",)


def now(delta=0):
    return int(time.time()) + delta


def parts(token):
    return token.split(".")


def with_signature(token, signature):
    head, body, _ = parts(token)
    return f"{head}.{body}.{signature}"


def unsigned(idp, alg):
    """What a library accepts that believes the header."""
    head = b64(json.dumps({"alg": alg, "typ": "JWT"}).encode())
    return f"{head}.{b64(json.dumps(idp.claims()).encode())}."


def reworded(idp, change, key=None):
    """The claims as text, changed, and signed by the right key."""
    key = key or idp.key()
    text = change(json.dumps(idp.claims()))
    return idp.signed(json.dumps({"alg": key.alg, "typ": "JWT", "kid": key.kid}), text, key)


def added(member):
    return lambda text: text[:-1] + f", {member}}}"


def header_text(idp, text):
    return idp.signed(text, json.dumps(idp.claims()), idp.key())


def own_key(idp, place, make):
    """Signed by the attacker's key, which the header brings along."""
    key = SigningKey("RS256", kid=idp.key("RS256").kid)
    return idp.token(key=key, header={place: make(idp, key)})


def another_body(idp):
    head, _, signature = parts(idp.token("ann"))
    return f"{head}.{b64(json.dumps(idp.claims('root')).encode())}.{signature}"


def der(idp):
    token = idp.token(key=idp.key("ES256"))
    raw = unb64(parts(token)[2])
    return with_signature(token, b64(encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))))


def loose_bits(idp):
    """Another spelling of the same signature: the unused bits of base64url."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = idp.token()
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def flattened(idp):
    head, body, signature = parts(idp.token())
    return json.dumps({"protected": head, "payload": body, "signature": signature})


def encrypted(idp):
    return ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}'), "", b64(bytes(12)), b64(b"x" * 40), b64(bytes(16))])


def digests_only(idp):
    """The signature is the digest of what is signed: for who compares digests."""
    token = idp.token()
    return with_signature(token, b64(hashlib.sha256(token.rpartition(".")[0].encode()).digest() * 2))


SIGNATURES = {
    "alg none": lambda idp, other: unsigned(idp, "none"),
    "alg None": lambda idp, other: unsigned(idp, "None"),
    "alg nOnE": lambda idp, other: unsigned(idp, "nOnE"),
    "alg empty": lambda idp, other: unsigned(idp, ""),
    "alg none with the old signature": lambda idp, other: idp.token(header={"alg": "none"}),
    "no alg": lambda idp, other: idp.token(header={"alg": None}),
    "alg a list": lambda idp, other: idp.token(header={"alg": ["EdDSA"]}),
    "alg in lower case": lambda idp, other: idp.token(header={"alg": "eddsa"}),
    "HS256 with the public key as PEM": lambda idp, other: idp.with_hmac(idp.key("RS256").pem()),
    "HS256 with the public key's bytes": lambda idp, other: idp.with_hmac(unb64(idp.key().jwk()["x"])),
    "HS256 with the JWK": lambda idp, other: idp.with_hmac(json.dumps(idp.key().jwk()).encode()),
    "HS256 with nothing": lambda idp, other: idp.with_hmac(b""),
    "an algorithm the issuer does not use": lambda idp, other: idp.token(key=idp.key("RS256"), header={"alg": "RS512"}),
    "an algorithm of another key": lambda idp, other: idp.token(header={"alg": "ES256"}),
    "another key's id": lambda idp, other: idp.token(header={"kid": idp.key("ES256").kid}),
    "a signature cut off": lambda idp, other: with_signature(idp.token(), ""),
    "a signature of zeros": lambda idp, other: with_signature(idp.token(), b64(bytes(64))),
    "a psychic signature": lambda idp, other: with_signature(idp.token(key=idp.key("ES256")), b64(bytes(64))),
    "a signature in DER": lambda idp, other: der(idp),
    "the digest for a signature": lambda idp, other: digests_only(idp),
    "the signature of another token": lambda idp, other: another_body(idp),
    "a key that nobody serves": lambda idp, other: idp.token(key=SigningKey("EdDSA")),
    "a key of ours under a known id": lambda idp, other: idp.token(key=SigningKey("EdDSA", kid=idp.key().kid)),
}

KEYS = {
    "the kid of another issuer": lambda idp, other: idp.token(header={"kid": other.key().kid}),
    "the key of another issuer": lambda idp, other: idp.token(key=other.key()),
    "the key of another issuer under our kid": lambda idp, other: idp.token(key=other.key(), header={"kid": idp.key().kid}),
    "no kid and another issuer's key": lambda idp, other: idp.token(key=other.key(), header={"kid": None}),
    "a kid that is a path": lambda idp, other: idp.token(header={"kid": "../../../../dev/null"}),
    "a kid that is a number": lambda idp, other: idp.token(header={"kid": 1}),
    "an empty kid": lambda idp, other: idp.token(header={"kid": ""}),
    "a kid of a kilobyte": lambda idp, other: idp.token(header={"kid": "k" * 1024}),
    "jku": lambda idp, other: own_key(idp, "jku", lambda i, k: f"{other.url}/jwks"),
    "jku of its own issuer": lambda idp, other: idp.token(header={"jku": f"{idp.url}/jwks"}),
    "jwk": lambda idp, other: own_key(idp, "jwk", lambda i, k: k.jwk()),
    "x5u": lambda idp, other: own_key(idp, "x5u", lambda i, k: f"{other.url}/cert"),
    "x5c": lambda idp, other: own_key(idp, "x5c", lambda i, k: [number(k.public.public_numbers().n)]),
    "crit": lambda idp, other: idp.token(header={"crit": ["exp"]}),
    "crit that is empty": lambda idp, other: idp.token(header={"crit": []}),
    "crit of something new": lambda idp, other: idp.token(header={"crit": ["urn:x"], "urn:x": True}),
    "b64 false": lambda idp, other: idp.token(header={"b64": False}),
    "zip": lambda idp, other: idp.token(header={"zip": "DEF"}),
    "another type": lambda idp, other: idp.token(header={"typ": "at+jwt"}),
    "a logout token": lambda idp, other: idp.token(header={"typ": "logout+jwt"}),
    "a type that is no text": lambda idp, other: idp.token(header={"typ": 1}),
}

CLAIMS = {
    "two audiences": (lambda idp, other: idp.token(aud=[AUDIENCE, "other"]), INVALID),
    "two audiences and azp": (lambda idp, other: idp.token(aud=[AUDIENCE, "other"], azp=AUDIENCE), INVALID),
    "ourselves twice": (lambda idp, other: idp.token(aud=[AUDIENCE, AUDIENCE]), INVALID),
    "another audience": (lambda idp, other: idp.token(aud="other"), INVALID),
    "an audience that begins like ours": (lambda idp, other: idp.token(aud=AUDIENCE + "-dev"), INVALID),
    "no audience": (lambda idp, other: idp.token(aud=None), INVALID),
    "an empty list of audiences": (lambda idp, other: idp.token(aud=[]), INVALID),
    "an audience in a list in a list": (lambda idp, other: idp.token(aud=[[AUDIENCE]]), INVALID),
    "iss in a list": (lambda idp, other: idp.token(iss=[idp.url]), INVALID),
    "iss in a list with another": (lambda idp, other: idp.token(iss=[idp.url, other.url]), INVALID),
    "no iss": (lambda idp, other: idp.token(iss=None), INVALID),
    "an empty iss": (lambda idp, other: idp.token(iss=""), INVALID),
    "iss with a slash": (lambda idp, other: idp.token(iss=idp.url + "/"), INVALID),
    "iss by another name": (lambda idp, other: idp.token(iss=idp.url.replace("127.0.0.1", "localhost")), INVALID),
    "iss in capitals": (lambda idp, other: idp.token(iss=idp.url.upper()), INVALID),
    "the iss of another issuer": (lambda idp, other: idp.token(iss=other.url), INVALID),
    "iss nobody knows": (lambda idp, other: idp.token(iss="https://login.example"), INVALID),
    "exp with a fraction": (lambda idp, other: idp.token(exp=now(600) + 0.5), INVALID),
    "exp as a float": (lambda idp, other: reworded(idp, lambda t: t.replace('"exp": ', '"exp": 1e0, "x": ')), INVALID),
    "exp as a power of ten": (lambda idp, other: reworded(idp, lambda t: sub_exp(t, "3e9")), INVALID),
    "exp as text": (lambda idp, other: idp.token(exp=str(now(600))), INVALID),
    "exp below zero": (lambda idp, other: idp.token(exp=-1), INVALID + EXPIRED),
    "exp null": (lambda idp, other: reworded(idp, lambda t: sub_exp(t, "null")), INVALID),
    "no exp": (lambda idp, other: idp.token(exp=None), INVALID),
    "exp at the end of time": (lambda idp, other: idp.token(exp=2**63 - 1), REJECTED),
    "exp beyond any number": (lambda idp, other: reworded(idp, lambda t: sub_exp(t, "9" * 40)), INVALID),
    "expired": (lambda idp, other: idp.token(iat=now(-1200), exp=now(-600)), EXPIRED),
    "expired a second ago": (lambda idp, other: idp.token(iat=now(-600), exp=now(-1)), EXPIRED),
    "longer than its issuer may give": (lambda idp, other: idp.token(exp=now(3700)), REJECTED),
    "iat in the future": (lambda idp, other: idp.token(iat=now(300), exp=now(600)), REJECTED),
    "iat after exp": (lambda idp, other: idp.token(iat=now(25), exp=now(20)), REJECTED),
    "no iat": (lambda idp, other: idp.token(iat=None), INVALID),
    "iat with a fraction": (lambda idp, other: idp.token(iat=now() - 0.5), INVALID),
    "iat as text": (lambda idp, other: idp.token(iat=str(now())), INVALID),
    "nbf in the future": (lambda idp, other: idp.token(nbf=now(300)), REJECTED),
    "nbf as text": (lambda idp, other: idp.token(nbf="0"), INVALID),
    "no sub": (lambda idp, other: idp.token(sub=None), INVALID),
    "an empty sub": (lambda idp, other: idp.token(sub=""), INVALID),
    "sub in a list": (lambda idp, other: idp.token(sub=["ann"]), INVALID),
    "sub of 256 bytes": (lambda idp, other: idp.token(sub="s" * 256), INVALID),
    "sub with a line break": (lambda idp, other: idp.token(sub="ann\nroot"), INVALID),
    "jti that is no text": (lambda idp, other: idp.token(jti=7), INVALID),
    "sub twice": (lambda idp, other: reworded(idp, added('"sub": "root"')), INVALID),
    "sub twice, once disguised": (lambda idp, other: reworded(idp, added('"\\u0073ub": "root"')), INVALID),
    "exp twice": (lambda idp, other: reworded(idp, added(f'"exp": {now(900)}')), INVALID),
    "aud twice": (lambda idp, other: reworded(idp, added('"aud": "other"')), INVALID),
    "iss twice": (lambda idp, other: reworded(idp, added(f'"iss": "{other.url}"')), INVALID),
    "a member twice, deep inside": (lambda idp, other: reworded(idp, added('"x": {"a": 1, "a": 2}')), INVALID),
    "alg twice": (lambda idp, other: header_text(idp, f'{{"alg":"none","alg":"EdDSA","typ":"JWT","kid":"{idp.key().kid}"}}'), INVALID),
    "words behind the claims": (lambda idp, other: reworded(idp, lambda t: t + " {}"), INVALID),
    "a byte order mark": (lambda idp, other: reworded(idp, lambda t: "\ufeff" + t), INVALID),
    "a comment": (lambda idp, other: reworded(idp, lambda t: t[:-1] + " /* x */}"), INVALID),
    "claims that are a list": (lambda idp, other: reworded(idp, lambda t: f"[{t}]"), INVALID),
    "not UTF-8": (lambda idp, other: idp.signed(json.dumps({"alg": "EdDSA", "typ": "JWT", "kid": idp.key().kid}), json.dumps(idp.claims()).encode()[:-1] + b', "x": "\xff"}', idp.key()), INVALID),
    "nested without end": (lambda idp, other: reworded(idp, added('"x": ' + "[" * 2000 + "]" * 2000)), INVALID),
    "a NUL": (lambda idp, other: idp.token(sub="ann\0"), INVALID),
    "17 KiB": (lambda idp, other: idp.token(pad="x" * 13000), INVALID),
}


def sub_exp(text, value):
    said = json.loads(text)
    return text.replace(f'"exp": {said["exp"]}', f'"exp": {value}')


SHAPES = {
    "four parts": lambda idp, other: idp.token() + ".x",
    "two parts": lambda idp, other: idp.token().rpartition(".")[0],
    "padded": lambda idp, other: idp.token() + "==",
    "loose bits": lambda idp, other: loose_bits(idp),
    "the other alphabet": lambda idp, other: idp.token(x="???>>>~~~").replace("_", "/").replace("-", "+") + "/",
    "a space behind": lambda idp, other: idp.token() + " ",
    "a line break in front": lambda idp, other: "\n" + idp.token(),
    "Bearer in front": lambda idp, other: "Bearer " + idp.token(),
    "JSON": lambda idp, other: flattened(idp),
    "encrypted": lambda idp, other: encrypted(idp),
    "two tokens": lambda idp, other: idp.token() + "," + idp.token(),
    "only dots": lambda idp, other: "....",
    "emoji": lambda idp, other: "🔑.🔑.🔑",
}

ALL = {f"{name}": (make, INVALID) for group in (SIGNATURES, KEYS, SHAPES) for name, make in group.items()} | CLAIMS
