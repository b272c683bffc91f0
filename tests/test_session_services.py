"""Sessions for other services: token exchange (RFC 8693), the question that
proxies ask (forward-auth), and proofs of possession (DPoP, RFC 9449) attacked.
"""

import hashlib
import json
import time
import uuid
from urllib.parse import urlencode

import pytest

import forgeries
import paseto
import sts
import thief
from harness import free_port
from idp import SigningKey
from paseto import b64
from sigv4 import send, until
from sts import arn

SERVICE = "https://files.example"
GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"


class Holder:
    """A client with a key of its own."""

    def __init__(self, alg="ES256"):
        self.key = SigningKey(alg)

    def jwk(self):
        return {n: v for n, v in self.key.jwk().items() if n not in ("kid", "alg", "use")}

    def proof(self, method, url, token=None, key=None, header=None, **claims):
        """A good proof, but for what `header` and claims say (None leaves out)."""
        key = key or self.key
        head = {"typ": "dpop+jwt", "alg": key.alg, "jwk": self.jwk()} | (header or {})
        said = {"jti": uuid.uuid4().hex, "htm": method, "htu": url, "iat": int(time.time())}
        said |= {"ath": b64(hashlib.sha256(token.encode()).digest())} if token else {}
        said |= claims
        keep = lambda d: json.dumps({n: v for n, v in d.items() if v is not None})  # noqa: E731
        message = f"{b64(keep(head).encode())}.{b64(keep(said).encode())}"
        return f"{message}.{b64(key.sign(message.encode()))}"


class Port:
    """The port for other services."""

    def __init__(self, world, port):
        self.world, self.port = world, port
        self.url = f"http://127.0.0.1:{port}"

    def exchange(self, token, role="worker", tenant="acme", proof=None, headers=None, **more):
        form = {"grant_type": GRANT, "subject_token": token, "subject_token_type": JWT, "resource": arn(tenant, role)} | more
        body = urlencode({n: v for n, v in form.items() if v is not None}).encode()
        headers = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/x-www-form-urlencoded", "Content-Length": len(body)} | (headers or {})
        headers |= {"DPoP": proof} if proof else {}
        return send(("127.0.0.1", self.port), "POST", "/token", headers, body)

    def token(self, holder=None, **more):
        proof = holder.proof("POST", f"{self.url}/token") if holder else None
        answer = self.exchange(self.world.idps["acme"].token("svc"), proof=proof, **more)
        assert answer.status == 200, answer
        said = json.loads(answer.body)
        assert said["token_type"] == ("DPoP" if holder else "Bearer") and 0 < said["expires_in"] <= 3600
        return said["access_token"]

    def ask(self, authorization=None, proof=None, method="GET", path="/a", query="", headers=None):
        """As Traefik asks."""
        proto, host = SERVICE.split("://")
        sent = {"Host": "auth", "X-Forwarded-Method": method, "X-Forwarded-Proto": proto, "X-Forwarded-Host": host, "X-Forwarded-Uri": path}
        sent |= {"Authorization": authorization} if authorization else {}
        sent |= {"DPoP": proof} if proof else {}
        return send(("127.0.0.1", self.port), "GET", "/auth" + query, sent | (headers or {}))


@pytest.fixture(scope="module")
def port():
    number = free_port()
    with sts.world(more=f'\n[auth]\naddr = "127.0.0.1:{number}"\nproxy = "traefik"\n') as world:
        # Proofs of the second of the start are refused: the process before it
        # may have seen them.
        began = int(time.time())
        until(lambda: int(time.time()) > began, "the next second", 3)
        yield Port(world, number)


@pytest.fixture(scope="module")
def world(port):
    return port.world


@pytest.fixture(scope="module")
def holder():
    return Holder()


@pytest.fixture(scope="module")
def bound(port, holder):
    return port.token(holder)


@pytest.fixture(scope="module")
def bearer(port):
    return port.token()


# --- honest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "RS256"])
def test_a_bound_token_with_its_proof_is_good(port, alg):
    mine = Holder(alg)
    token = port.token(mine)
    assert paseto.Token.parse(token).claims["cnf"] == mine.key.thumbprint()
    answer = port.ask(f"DPoP {token}", mine.proof("GET", f"{SERVICE}/a", token))
    assert answer.status == 200, answer
    assert answer.headers["x-ringfence-tenant"] == "acme" and answer.headers["x-ringfence-role"] == "worker"
    assert answer.headers["x-ringfence-principal"] == "acme-idp--svc" and answer.body == b""


def test_a_bearer_token_is_good_where_that_was_asked_for(port, bearer):
    for scheme in ("Bearer", "bearer"):
        assert port.ask(f"{scheme} {bearer}").status == 200


def test_roles_can_be_asked_for(port, bearer):
    assert port.ask(f"Bearer {bearer}", query="?role=reader&role=worker").status == 200
    refused = port.ask(f"Bearer {bearer}", query="?role=admin")
    assert refused.status == 403 and "insufficient_scope" in refused.headers["www-authenticate"]


def test_each_answer_is_on_record(port, bearer):
    for answer, word in ((port.ask(f"Bearer {bearer}"), "allow"), (port.ask(f"Bearer {bearer}", query="?role=admin"), "deny")):
        shown = port.world.server.cli("log", "show", answer.headers["x-ringfence-request-id"], "--json").stdout
        assert word in shown and "api:Authorize" in shown and f"GET {SERVICE}/a" in shown, shown


def test_without_a_token_the_challenge_says_what_would_do(port):
    answer = port.ask()
    assert answer.status == 401 and "www-authenticate" in answer.headers


# --- A9: possession -----------------------------------------------------------------------------


def proofs(holder, token):
    """Proofs that prove nothing: name → (proof, and headers that go with it)."""
    url, now = f"{SERVICE}/a", int(time.time())
    good = lambda **more: holder.proof("GET", url, token, **more)  # noqa: E731
    thief_ = Holder()
    secret = SigningKey("EdDSA")
    yield "no proof", None
    yield "another method", holder.proof("PUT", url, token)
    yield "the method in small letters", holder.proof("get", url, token)
    yield "another path", holder.proof("GET", f"{SERVICE}/b", token)
    yield "another host", holder.proof("GET", "https://evil.example/a", token)
    yield "another scheme", holder.proof("GET", url.replace("https", "http"), token)
    yield "another port", holder.proof("GET", url.replace("example", "example:8443"), token)
    yield "a user in the URL", holder.proof("GET", url.replace("://", "://files.example@"), token)
    yield "no URL", good(htu=None)
    yield "no method", good(htm=None)
    yield "another token", holder.proof("GET", url, token + "x")
    yield "no token", holder.proof("GET", url)
    yield "an empty token hash", good(ath="")
    yield "the thief's key", thief_.proof("GET", url, token)
    yield "the thief's key, the owner's JWK", holder.proof("GET", url, token, key=thief_.key)
    yield "no key", good(header={"jwk": None})
    yield "a key id for a key", good(header={"jwk": None, "kid": holder.key.thumbprint()})
    yield "a private key", good(header={"jwk": holder.jwk() | {"d": "AAAA"}})
    yield "an hour old", good(iat=now - 3600)
    yield "two minutes old", good(iat=now - 125)
    yield "of the future", good(iat=now + 125)
    yield "no time", good(iat=None)
    yield "a time with a fraction", good(iat=now + 0.5)
    yield "over", good(exp=now - 1)
    yield "no id", good(jti=None)
    yield "an empty id", good(jti="")
    yield "an id of a kilobyte", good(jti="x" * 1024)
    yield "another type", good(header={"typ": "JWT"})
    yield "no type", good(header={"typ": None})
    yield "crit", good(header={"crit": ["htm"]})
    yield "jku", good(header={"jku": "https://evil.example"})
    yield "alg none", good(header={"alg": "none"}).rpartition(".")[0] + "."
    yield "HS256", good(header={"alg": "HS256"})
    yield "another alg", good(header={"alg": "EdDSA"})
    yield "no signature", good().rpartition(".")[0] + "."
    yield "padded", good() + "="
    yield "an identity provider's token", secret.kid
    yield "twelve kilobytes", good(pad="x" * 12000)
    yield "nothing", ""


def test_a9_a_bound_token_without_a_good_proof_is_refused(port, holder, bound):
    for what, proof in proofs(holder, bound):
        answer = port.ask(f"DPoP {bound}", proof)
        assert answer.status == 401, (what, answer)
        assert "x-ringfence-tenant" not in answer.headers, what
    assert port.ask(f"DPoP {bound}", holder.proof("GET", f"{SERVICE}/a", bound)).status == 200


def test_a9_a_proof_is_good_once(port, holder, bound):
    proof = holder.proof("GET", f"{SERVICE}/a", bound)
    assert port.ask(f"DPoP {bound}", proof).status == 200
    for _ in range(3):
        again = port.ask(f"DPoP {bound}", proof)
        assert again.status == 401 and "invalid_dpop_proof" in again.headers["www-authenticate"]
    port.world.server.restart()
    assert port.ask(f"DPoP {bound}", proof).status == 401, "a restart forgets no proof"
    until(lambda: port.ask(f"DPoP {bound}", holder.proof("GET", f"{SERVICE}/a", bound)).status == 200, "fresh proofs to be good", 5)


def test_a9_many_at_once_use_a_proof_once(port, holder, bound):
    import concurrent.futures

    proof = holder.proof("GET", f"{SERVICE}/a", bound)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = sorted(pool.map(lambda _: port.ask(f"DPoP {bound}", proof).status, range(32)))
    assert answers == [200] + [401] * 31


def test_a9_schemes_are_not_exchanged(port, holder, bound, bearer):
    assert port.ask(f"Bearer {bound}").status == 401, "a bound token is no bearer token"
    assert port.ask(f"DPoP {bearer}", holder.proof("GET", f"{SERVICE}/a", bearer)).status == 401
    good = holder.proof("GET", f"{SERVICE}/a", bound)
    for authorization in (f"Basic {bound}", bound, "DPoP", "DPoP ", f"DPoP {bound} {bound}", f"DPoP {bound},{bearer}", f"Token {bound}"):
        assert port.ask(authorization, good).status == 401, authorization[:12]
    assert port.ask(f"Bearer {bearer}", headers={"authorization": f"DPoP {bound}"}).status == 401, "two credentials"
    assert port.ask(f"DPoP {bound}", good, headers={"dpop": holder.proof("GET", f"{SERVICE}/a", bound)}).status == 401, "two proofs"


def test_a9_a_client_cannot_say_what_the_proxy_should(port, holder, bound):
    """The proof was made for another service; headers of another kind of proxy
    say that it was asked for there."""
    elsewhere = holder.proof("GET", "https://other.example/x", bound)
    spoofed = {"X-Original-URL": "https://other.example/x", "X-Original-Method": "GET", "Forwarded": "host=other.example;proto=https"}
    assert port.ask(f"DPoP {bound}", elsewhere, headers=spoofed).status == 401
    twice = {"x-forwarded-host": "other.example"}
    assert port.ask(f"DPoP {bound}", elsewhere, headers=twice).status == 401


def test_a9_the_proof_of_an_exchange_is_no_proof_of_use(port, holder, bound):
    proof = holder.proof("POST", f"{port.url}/token")
    token = json.loads(port.exchange(port.world.idps["acme"].token("svc"), proof=proof).body)["access_token"]
    assert port.ask(f"DPoP {token}", proof).status == 401
    again = port.exchange(port.world.idps["acme"].token("svc"), proof=proof)
    assert again.status == 400 and json.loads(again.body)["error"] == "invalid_dpop_proof"
    wrong = port.exchange(port.world.idps["acme"].token("svc"), proof=holder.proof("POST", "https://evil.example/token"))
    assert wrong.status == 400 and b"access_token" not in wrong.body


# --- A1, A8: purposes are apart --------------------------------------------------------------------


def test_a1_a_token_for_services_is_no_session_at_s3_and_the_other_way(port, bearer, bound):
    world = port.world
    session = world.session()
    assert port.ask(f"Bearer {session.token}").status == 401
    for token in (bearer, bound):
        shown = session.but(token=token)
        assert shown.raw(world.server, "GET", "acme-data", "k").status in (400, 403)
        assert sts.assume_role(world.server, arn("acme", "reader"), shown.signer()).status in (400, 403)


def test_a8_no_session_is_exchanged_for_another(port, bearer, bound):
    world = port.world
    for token in (bearer, bound, world.session().token, paseto.Token.parse(bearer).paseto):
        assert world.ask(token).code == "InvalidIdentityToken"
        for kind in (JWT, "urn:ietf:params:oauth:token-type:access_token", "urn:ietf:params:oauth:token-type:id_token"):
            answer = port.exchange(token, subject_token_type=kind)
            assert answer.status == 400 and b"access_token\"" not in answer.body, answer


@pytest.mark.parametrize("what", sorted(forgeries.ALL)[::6])
def test_a3_evidence_is_held_against_the_same_rules_here(port, what):
    make, _ = forgeries.ALL[what]
    answer = port.exchange(make(port.world.idps["acme"], port.world.idps["globex"]))
    assert answer.status in (400, 503) and json.loads(answer.body)["error"] in ("invalid_request", "invalid_target"), answer


@pytest.mark.parametrize(
    "more",
    [{"scope": "all"}, {"audience": "other"}, {"actor_token": "x"}, {"grant_type": "client_credentials"}, {"grant_type": None}, {"resource": None},
     {"resource": "https://files.example"}, {"resource": "arn:ringfence:iam::globex:role/worker"}, {"resource": "arn:aws:iam::000000000000:role/worker"},
     {"subject_token_type": "urn:ietf:params:oauth:token-type:saml2"}, {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}],
)  # fmt: skip
def test_a3_what_would_narrow_or_widen_is_not_passed_over(port, more):
    answer = port.exchange(port.world.idps["acme"].token("svc"), **more)
    assert answer.status == 400 and "error" in json.loads(answer.body), answer


# --- A7, A14 -----------------------------------------------------------------------------------------------


def test_a7_a_forged_token_for_services_is_refused_and_told(port, bearer):
    world = port.world
    key = thief.signing(world.server.data, "home", "acme", "api")
    honest = paseto.Token.parse(bearer)
    now = int(time.time())
    forged = paseto.forge(key, honest.claims | {"jti": uuid.uuid4().hex, "sub": "acme-idp--root", "iat": now, "nbf": now, "exp": now + 3000}, honest.receipt)
    before = world.counted("SIG_VALID_NOT_ISSUED")
    assert port.ask(f"Bearer {forged.text}").status == 401
    until(lambda: world.counted("SIG_VALID_NOT_ISSUED") > before, "the alarm", 5)
    s3_key = thief.signing(world.server.data, "home", "acme", "sts-session")
    before = world.counted("KEY_OUTSIDE_SCOPE")
    forged = paseto.forge(s3_key, honest.claims | {"jti": uuid.uuid4().hex}, honest.receipt)
    assert port.ask(f"Bearer {forged.text}").status == 401
    until(lambda: world.counted("KEY_OUTSIDE_SCOPE") > before, "the alarm", 5)


def test_a7_a_token_for_services_changed_anywhere_is_refused(port, bearer):
    token = paseto.Token.parse(bearer)
    flip = lambda data, at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]  # noqa: E731
    for changed in (
        token.but(payload=flip(token.payload, 20)), token.but(signature=flip(token.signature, 5)), token.but(footer=b"0" * 16),
        token.but(receipt=None), token.received(index=0), token.but(policy="{}"),
        token.but(payload=token.payload.replace(b'"cnf":""', b'"cnf":"x"')),
    ):  # fmt: skip
        assert port.ask(f"Bearer {changed.text}").status == 401
    assert port.ask("Bearer " + "A" * 20_000).status in (401, 431)


def test_a14_a_revoked_token_for_services_is_refused_at_once(port):
    token = port.token()
    assert port.ask(f"Bearer {token}").status == 200
    port.world.server.cli("revoke", "session", paseto.Token.parse(token).claims["jti"])
    answer = port.ask(f"Bearer {token}")
    assert answer.status == 401 and "revoked" not in str(answer.headers)


def test_a6_no_token_or_proof_stands_in_logs_and_metrics(port, holder, bound, bearer):
    world = port.world
    proof = holder.proof("GET", f"{SERVICE}/a", bound)
    port.ask(f"DPoP {bound}", proof), port.ask(f"Bearer {bearer}"), port.ask(f"Bearer {bearer}x")
    everywhere = world.server.log_text().encode() + world.server.admin("/metrics").body
    everywhere += b"".join(p.read_bytes() for p in world.server.data.rglob("*") if p.is_file())
    for secret in (paseto.Token.parse(bound).paseto, paseto.Token.parse(bearer).paseto, proof, proof.rpartition(".")[2]):
        assert secret.encode() not in everywhere
