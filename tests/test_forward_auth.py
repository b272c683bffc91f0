"""Sessions of other services: had at /token, shown to a proxy, asked about at /auth."""

import contextlib
import datetime
import getpass
import hashlib
import http.client
import http.server
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import threading
import time
import uuid
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import paseto
import sts
import thief
from harness import expect_error, free_port
from idp import Idp, SigningKey
from sigv4 import until
from sts import arn

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
TYPE = "urn:ietf:params:oauth:token-type:"
EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "forward-auth" / "nginx.conf"
URL = "https://files.example/reports/1"
IDENTITY = ["realm", "tenant", "principal", "role", "session", "issued"]


@pytest.fixture(scope="module")
def world():
    port = free_port()
    with sts.world(more=f'\n[auth]\naddr = "127.0.0.1:{port}"\n') as made:
        made.auth_port = port
        time.sleep(1.1)  # Proofs of the second of the start are refused.
        yield made


class Answer:
    def __init__(self, response):
        self.status, self.body = response.status, response.read()
        self.headers, self.all = response.headers, response.headers.get_all("www-authenticate") or []

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        return self.json["error"]

    def __repr__(self):
        return f"{self.status} {dict(self.headers)} {self.body[:300]!r}"


def send(port, method, path, headers=(), body=None, context=None):
    """Headers are pairs: one may stand twice."""
    kind = http.client.HTTPSConnection if context else http.client.HTTPConnection
    connection = kind("127.0.0.1", port, timeout=30, **({"context": context} if context else {}))
    with contextlib.closing(connection):
        given = list(headers.items() if isinstance(headers, dict) else headers)
        connection.putrequest(method, path, skip_host=any(name.lower() == "host" for name, _ in given))
        for name, value in given:
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        return Answer(connection.getresponse())


def proof(key, method="GET", url=URL, token=None, header=None, **claims):
    """A DPoP proof; good unless `header` or claims say otherwise."""
    jwk = {name: value for name, value in key.jwk().items() if name not in ("kid", "alg", "use")}
    said = {"jti": uuid.uuid4().hex, "htm": method, "htu": url, "iat": int(time.time())}
    if token:
        said["ath"] = paseto.b64(hashlib.sha256(token.encode()).digest())
    said = {name: value for name, value in (said | claims).items() if value is not None}
    head = {"typ": "dpop+jwt", "alg": key.alg, "jwk": jwk} | (header or {})
    return Idp.signed(json.dumps(head), json.dumps(said), key)


def token_url(world):
    return f"http://127.0.0.1:{world.auth_port}/token"


def exchange(world, evidence=None, role="worker", tenant="acme", key=None, headers=None, **more):
    form = {
        "grant_type": GRANT, "subject_token": evidence or world.idps[tenant].token(),
        "subject_token_type": f"{TYPE}jwt", "resource": arn(tenant, role),
    }  # fmt: skip
    form = {name: value for name, value in (form | more).items() if value is not None}
    given = {"Content-Type": "application/x-www-form-urlencoded"} | (headers or {})
    if key:
        given["DPoP"] = proof(key, "POST", token_url(world))
    return send(world.auth_port, "POST", "/token", given, urlencode(form).encode())


def ask(world, token=None, scheme="Bearer", shown=None, url=URL, method="GET", query="", **headers):
    given = [("X-Original-Method", method), ("X-Original-URL", url), ("X-Real-IP", "192.0.2.7")]
    given += [("Authorization", f"{scheme} {token}")] if token else []
    given += [("DPoP", shown)] if shown else []
    return send(world.auth_port, "GET", f"/auth{query}", given + list(headers.items()))


def restart(world):
    """Goes on in a second after that of the start."""
    world.server.restart()
    time.sleep(1.1)


def record(world, answer):
    said = world.server.cli_json("log", "show", answer.headers["x-ringfence-request-id"])
    return said["records"][0] if "records" in said else said


@pytest.fixture(scope="module", params=["EdDSA", "ES256", "RS256"])
def any_key(request):
    return SigningKey(request.param)


@pytest.fixture(scope="module")
def key():
    return SigningKey("ES256")


@pytest.fixture(scope="module")
def bearer(world):
    return exchange(world).json["access_token"]


@pytest.fixture(scope="module")
def bound(world, key):
    return exchange(world, key=key).json["access_token"]


# --- having a session -------------------------------------------------------------------


def test_a_token_is_exchanged_for_one_that_says_who_it_is(world):
    answer = exchange(world, role="reader")
    assert answer.status == 200, answer
    said = answer.json
    assert said["token_type"] == "Bearer" and said["issued_token_type"] == f"{TYPE}access_token"
    assert 0 < said["expires_in"] <= 3600
    assert answer.headers["cache-control"] == "no-store"
    claims = paseto.Token.parse(said["access_token"]).claims
    assert (claims["pur"], claims["cnf"], claims["rol"]) == ("api", "", "reader")

    good = ask(world, said["access_token"])
    assert good.status == 200, good
    found = {name: good.headers[f"x-ringfence-{name}"] for name in IDENTITY}
    assert found["realm"] == "home" and found["tenant"] == "acme" and found["role"] == "reader"
    assert found["principal"] == claims["sub"] == "acme-idp--ann" and found["session"] == claims["jti"]
    assert int(found["issued"]) == paseto.Token.parse(said["access_token"]).receipt.index
    on_record = record(world, good)
    assert on_record["core"]["op"] == "api:Authorize" and on_record["core"]["decision"] in ("allow", "Allow")
    assert on_record["resource"]["detail"] == f"GET {URL}"
    assert on_record["subject"]["session"] == claims["jti"] and on_record["subject"]["source"] == "192.0.2.7"


def test_a_session_is_bound_to_the_key_that_asked_for_it(world, any_key):
    answer = exchange(world, key=any_key)
    assert answer.status == 200 and answer.json["token_type"] == "DPoP", answer
    token = answer.json["access_token"]
    assert paseto.Token.parse(token).claims["cnf"] == any_key.thumbprint()
    good = ask(world, token, "DPoP", proof(any_key, token=token))
    assert good.status == 200 and good.headers["x-ringfence-tenant"] == "acme", good


@pytest.mark.parametrize("change, code", [
    ({"grant_type": None}, "invalid_request"),
    ({"grant_type": "client_credentials"}, "unsupported_grant_type"),
    ({"subject_token": "x.y.z"}, "invalid_request"),
    ({"subject_token_type": None}, "invalid_request"),
    ({"subject_token_type": f"{TYPE}saml2"}, "invalid_request"),
    ({"resource": None}, "invalid_target"),
    ({"resource": "arn:ringfence:iam::acme:role/nobody"}, "invalid_target"),
    ({"resource": "arn:ringfence:iam::globex:role/worker"}, "invalid_target"),
    ({"resource": "https://files.example"}, "invalid_target"),
    ({"requested_token_type": f"{TYPE}refresh_token"}, "invalid_request"),
    ({"scope": "all"}, "invalid_request"),
    ({"audience": "files"}, "invalid_request"),
    ({"actor_token": "x"}, "invalid_request"),
])  # fmt: skip
def test_what_cannot_be_exchanged_is_said_as_oauth_says_it(world, change, code):
    answer = exchange(world, **change)
    assert (answer.status, answer.error) == (400, code), answer
    assert answer.headers["cache-control"] == "no-store"


def test_a_form_is_read_strictly(world):
    good = {"grant_type": GRANT, "subject_token": world.idps["acme"].token(), "subject_token_type": f"{TYPE}jwt", "resource": arn("acme", "worker")}
    form = urlencode(good)
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert send(world.auth_port, "POST", "/token", kind, f"{form}&unknown=1&client_id=x".encode()).status == 200
    for method, path, headers, body in [
        ("POST", "/token", kind, f"{form}&grant_type={GRANT}"),
        ("POST", "/token", {"Content-Type": "application/json"}, json.dumps(good)),
        ("POST", f"/token?{form}", kind, ""),
        ("POST", "/token", kind, form + "&x=%zz"),
        ("POST", "/token", kind, form + "&x=" + "x" * 33000),
        ("GET", f"/token?{form}", {}, ""),
    ]:
        answer = send(world.auth_port, method, path, headers, body.encode())
        assert (answer.status, answer.error) == (400, "invalid_request"), (path, answer)
    assert send(world.auth_port, "GET", "/other").status == 404


def test_a_session_is_no_evidence_for_another(world, bearer):
    for kind in ("jwt", "access_token", "id_token"):
        assert exchange(world, bearer, subject_token_type=f"{TYPE}{kind}").error == "invalid_request"
    assert world.ask(bearer).code == "InvalidIdentityToken"


def test_a_proof_at_the_token_endpoint_is_for_it_and_shown_once(world, key):
    good = proof(key, "POST", token_url(world))
    assert exchange(world, headers={"DPoP": good}).status == 200
    for bad in [
        good, proof(key, "GET", token_url(world)), proof(key, "POST", "https://elsewhere.example/token"),
        proof(key, "POST", token_url(world), iat=int(time.time()) - 90), "x",
    ]:  # fmt: skip
        answer = exchange(world, headers={"DPoP": bad})
        assert (answer.status, answer.error) == (400, "invalid_dpop_proof"), answer


# --- showing it -------------------------------------------------------------------------


def refused(answer, scheme, error):
    assert answer.status == 401, answer
    assert any(said.startswith(scheme) and f'error="{error}"' in said for said in answer.all), answer.all
    assert not any(answer.headers.get(f"x-ringfence-{name}") for name in IDENTITY)
    return answer


def test_who_shows_nothing_is_told_how(world):
    answer = ask(world)
    assert answer.status == 401 and not any("error" in said for said in answer.all[:1] if said.startswith("Bearer"))
    assert [said.split()[0] for said in answer.all] == ["DPoP", "Bearer"]
    assert ask(world, "x", "Basic").status == 401


def test_a_proof_that_breaks_one_rule_is_refused_and_why_is_on_record(world, key, bound):
    now, other = int(time.time()), SigningKey("ES256")
    again = proof(key, token=bound)
    assert ask(world, bound, "DPoP", again).status == 200
    jwk_with_d = key.jwk() | {"d": "AAAA"}
    for bad, why in [
        (again, "shown before"),
        (proof(key, token=bound, url="https://other.example/reports/1"), "another URL"),
        (proof(key, token=bound, url="https://files.example/reports/2"), "another URL"),
        (proof(key, token=bound, url="http://files.example/reports/1"), "another URL"),
        (proof(key, "POST", token=bound), "another method"),
        (proof(key, token=bound, iat=now - 90), "not of now"),
        (proof(key, token=bound, iat=now + 90), "not of now"),
        (proof(key, token="another"), "another token"),
        (proof(key), "another token"),
        (proof(key, token=bound, jti=None), "no id"),
        (proof(key, token=bound, header={"typ": "JWT"}), "type"),
        (proof(key, token=bound, header={"alg": "none"}), "algorithm"),
        (proof(key, token=bound, header={"crit": ["x"]}), "critical"),
        (proof(key, token=bound, header={"jku": "https://x.example"}), "forbidden header"),
        (proof(key, token=bound, header={"jwk": jwk_with_d}), "no public key"),
        (proof(key, token=bound, header={"jwk": other.jwk()}), "signature"),
        (proof(other, token=bound), "bound to another key"),
        ("x" * 9000, "too long"),
        ("x.y.z", "malformed"),
        (None, "malformed"),
    ]:  # fmt: skip
        answer = refused(ask(world, bound, "DPoP", bad), "DPoP", "invalid_dpop_proof")
        on_record = record(world, answer)
        assert why in on_record["core"]["reason"], (why, on_record["core"]["reason"])
        assert why not in str(answer), "never to the client"
        assert on_record["subject"]["tenant"] == "acme" and on_record["core"]["status"] == 401
    twice = ask(world, bound, "DPoP", proof(key, token=bound), DPoP=proof(key, token=bound))
    refused(twice, "DPoP", "invalid_dpop_proof")
    assert ask(world, bound, "DPoP", proof(key, token=bound)).status == 200, "the honest client goes on"


def test_a_bound_token_is_worth_nothing_to_a_bearer_and_the_other_way(world, key, bound, bearer):
    refused(ask(world, bound), "Bearer", "invalid_token")
    refused(ask(world, bound, shown=proof(key, token=bound)), "Bearer", "invalid_token")
    refused(ask(world, bearer, "DPoP", proof(key, token=bearer)), "DPoP", "invalid_dpop_proof")


def test_two_credentials_are_none(world, bearer):
    refused_ = ask(world, bearer, Authorization=f"Bearer {bearer}")
    assert refused_.status == 401


def test_a_url_is_what_the_proxy_says_and_nothing_else(world, key, bound):
    elsewhere = "https://other.example/x"
    shown = lambda: proof(key, token=bound, url=elsewhere)  # noqa: E731
    forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "other.example", "X-Forwarded-Uri": "/x", "X-Forwarded-Method": "GET"}
    assert ask(world, bound, "DPoP", shown(), **forwarded).status == 401
    assert ask(world, bound, "DPoP", shown(), **{"X-Original-URL": elsewhere}).status == 401, "it stands twice"
    given = {"Authorization": f"DPoP {bound}", "DPoP": shown()} | forwarded
    assert send(world.auth_port, "GET", "/auth", given).status == 401


def test_sessions_are_good_for_their_purpose_only(world, bearer, bound):
    session = world.session()
    refused(ask(world, session.token), "Bearer", "invalid_token")
    for token in (bearer, bound):
        expect_error(session.but(token=token).raw(world.server, "GET", "acme-data", "k"), 400, "InvalidToken")
    assert session.works(world.server, "acme-data")


def test_a_role_that_is_asked_for_is_needed(world):
    reader = exchange(world, role="reader").json["access_token"]
    assert ask(world, reader, query="?role=reader").status == 200
    assert ask(world, reader, query="?role=worker&role=reader").status == 200
    for query in ("?role=worker", "?role=", "?role=reader2", "?role=worker&role=admin"):
        answer = ask(world, reader, query=query)
        assert answer.status == 403 and not answer.headers.get("x-ringfence-tenant"), (query, answer)
        assert 'error="insufficient_scope"' in answer.all[0]
        assert "none of" in record(world, answer)["core"]["reason"]


def test_a_session_ends_here_too(world):
    token = exchange(world, world.idps["acme"].token(life_s=3)).json["access_token"]
    assert ask(world, token).status == 200
    until(lambda: ask(world, token).status == 401, "the session to end", 8)


def test_a7_a_stolen_key_opens_no_service_and_is_noticed(world, bearer):
    stolen = thief.signing(world.server.data, "home", "acme", "api")
    real = paseto.Token.parse(bearer)
    before = world.counted("SIG_VALID_NOT_ISSUED")
    forged = paseto.forge(stolen, real.claims | {"jti": "ab" * 16, "rol": "admin"}, real.receipt)
    answer = refused(ask(world, forged.text), "Bearer", "invalid_token")
    assert world.counted("SIG_VALID_NOT_ISSUED") == before + 1
    assert record(world, answer)["subject"]["tenant"] == "acme"


def test_a14_a_revoked_session_and_role_open_no_service_either(world, key):
    one, other = exchange(world).json["access_token"], exchange(world).json["access_token"]
    bound = exchange(world, role="service", key=key, evidence=world.idps["acme"].token("svc-1")).json["access_token"]
    shown = lambda: ask(world, bound, "DPoP", proof(key, token=bound))  # noqa: E731
    assert ask(world, one).status == 200 and shown().status == 200
    world.server.cli("revoke", "session", str(paseto.Token.parse(one).receipt.index))
    answer = refused(ask(world, one), "Bearer", "invalid_token")
    assert "revoked" in record(world, answer)["core"]["reason"]
    assert ask(world, other).status == 200, "and no other"
    said = world.server.cli_json("revoke", "role", "acme/service")
    refused(shown(), "DPoP", "invalid_token")
    world.server.cli("revoke", "lift", str(said["record"]))
    assert shown().status == 200


def test_changed_tokens_are_nobodys(world, bearer):
    parsed = paseto.Token.parse(bearer)
    text = bearer.split(".")
    for changed in ["x", "v4.public.x~y~", bearer[:-10], ".".join([*text[:2], "A" + text[2][1:], *text[3:]]), bearer + "~"]:
        refused(ask(world, changed), "Bearer", "invalid_token")
    assert parsed.claims and ask(world, bearer).status == 200


def test_a_proof_from_before_a_restart_is_not_taken_after_it(world, key, bound):
    old = proof(key, token=bound)
    assert ask(world, bound, "DPoP", old).status == 200
    restart(world)
    refused(ask(world, bound, "DPoP", old), "DPoP", "invalid_dpop_proof")
    assert ask(world, bound, "DPoP", proof(key, token=bound)).status == 200


@pytest.fixture(params=["traefik", "envoy"])
def other_proxy(world, request):
    """The same installation behind another kind of proxy; asks in its words."""

    def ask_as(token, shown=None, method="GET", uri="/reports/1?q=1&role=worker", role="reader", **more):
        given = {"Authorization": f"{'DPoP' if shown else 'Bearer'} {token}", "X-Forwarded-Proto": "https"} | ({"DPoP": shown} if shown else {})
        given["X-Forwarded-For"] = "203.0.113.1, 192.0.2.7"
        if request.param == "envoy":
            given |= {"Host": "files.example"} | ({"X-Ringfence-Roles": role} if role else {})
            return send(world.auth_port, method, f"/auth{uri}", given | more)
        given |= {"X-Forwarded-Method": method, "X-Forwarded-Host": "files.example", "X-Forwarded-Uri": uri}
        return send(world.auth_port, "GET", f"/auth?role={role}" if role else "/auth", given | more)

    world.server.env["RINGFENCE__AUTH__PROXY"] = request.param
    restart(world)
    yield ask_as
    del world.server.env["RINGFENCE__AUTH__PROXY"]
    restart(world)


def test_other_proxies_ask_in_their_own_words(world, other_proxy, key):
    token = exchange(world, role="reader").json["access_token"]
    good = other_proxy(token)
    assert good.status == 200 and good.headers["x-ringfence-role"] == "reader", good
    on_record = record(world, good)
    assert on_record["resource"]["detail"] == f"GET {URL}" and on_record["subject"]["source"] == "192.0.2.7"
    assert other_proxy(token, role=None).status == 200
    assert other_proxy(token, role="worker").status == 403, "whatever the client's own query says"
    bound = exchange(world, role="reader", headers={"DPoP": proof(key, "POST", f"http://127.0.0.1:{world.auth_port}/token")})
    bound = bound.json["access_token"]
    for method in ("GET", "DELETE"):
        shown = proof(key, method, URL, bound)
        assert other_proxy(bound, shown, method).status == 200
        refused(other_proxy(bound, shown, method), "DPoP", "invalid_dpop_proof")
    elsewhere = {"X-Original-URL": "https://other.example/x", "X-Original-Method": "GET"}
    refused(other_proxy(bound, proof(key, "GET", "https://other.example/x", bound), **elsewhere), "DPoP", "invalid_dpop_proof")


def test_the_log_verifies(world):
    world.server.cli("log", "verify")


# --- nginx in front, by the example -----------------------------------------------------


class Service:
    """What stands behind the proxy: says what it was sent."""

    def __init__(self):
        service = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                service.seen.append(self.path)
                body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_PUT = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "files.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("files.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture(scope="module")
def nginx(world, tmp_path_factory):
    """The example as it stands, but for ports and the certificate."""
    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert binary, "nginx is missing: apt-get install nginx-light (tests/packages.txt)"
    folder, service, port = tmp_path_factory.mktemp("nginx"), Service(), free_port()
    certificate(folder)
    text = EXAMPLE.read_text()
    for ours, theirs in [
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/files.example.pem", str(folder / "cert.pem")),
        ("/etc/ssl/files.example.key", str(folder / "key.pem")),
        ("127.0.0.1:9302", f"127.0.0.1:{world.auth_port}"),
        ("127.0.0.1:8080", f"127.0.0.1:{service.port}"),
    ]:
        assert ours in text, f"the example has no `{ours}` any more"
        text = text.replace(ours, theirs)
    paths = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"{f'user {getpass.getuser()};' if os.geteuid() == 0 else ''}\ndaemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{paths}{text}}}\n"
    )
    process = subprocess.Popen([binary, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    context.check_hostname = False  # It is reached by its address.

    def send_to(method, path, *more, body=None, **headers):
        given = [("Host", "files.example"), *headers.items(), *more]
        return send(port, method, path, given, body, context)

    def is_up():
        assert process.poll() is None, (folder / "error.log").read_text()
        with contextlib.suppress(OSError):
            return send_to("GET", "/").status
        return None

    try:
        until(is_up, "nginx to listen", 10)
        service.seen.clear()
        yield type("Nginx", (), {"send": staticmethod(send_to), "service": service})
    finally:
        process.terminate()
        process.wait(10)
        service.server.shutdown()


def had_through(nginx, world, key=None, role="reader"):
    form = {"grant_type": GRANT, "subject_token": world.idps["acme"].token(), "subject_token_type": f"{TYPE}jwt", "resource": arn("acme", role)}
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    headers |= {"DPoP": proof(key, "POST", "https://files.example/token")} if key else {}
    answer = nginx.send("POST", "/token", body=urlencode(form).encode(), **headers)
    assert answer.status == 200, answer
    return answer.json["access_token"]


def test_nginx_lets_through_who_has_a_session_and_says_who_it_is(world, nginx, key):
    token = had_through(nginx, world)
    answer = nginx.send("GET", "/reports/1?q=1&role=admin", Authorization=f"Bearer {token}")
    assert answer.status == 200, answer
    seen = answer.json
    assert (seen["x-ringfence-tenant"], seen["x-ringfence-principal"], seen["x-ringfence-role"]) == ("acme", "acme-idp--ann", "reader")
    assert "authorization" not in seen and "dpop" not in seen
    bound = had_through(nginx, world, key)
    url = "https://files.example/reports/1"
    for method in ("GET", "POST", "PUT"):
        body = b"x" * 100_000 if method != "GET" else None
        answer = nginx.send(method, "/reports/1?q=1", body=body, Authorization=f"DPoP {bound}", DPoP=proof(key, method, url, bound))
        assert answer.status == 200, answer


def test_nginx_stops_everybody_else(world, nginx, key):
    token, bound = had_through(nginx, world), had_through(nginx, world, key)
    worker = had_through(nginx, world, role="worker")
    url = "https://files.example/reports/1"
    good = proof(key, "GET", url, bound)
    assert nginx.send("GET", "/reports/1", Authorization=f"DPoP {bound}", DPoP=good).status == 200
    nginx.service.seen.clear()
    spoofed = [("X-Original-URL", "https://other.example/x"), ("X-Original-Method", "GET"), ("X-Ringfence-Tenant", "acme")]
    elsewhere = proof(key, "GET", "https://other.example/x", bound)
    for expected, headers, more in [
        (401, {}, ()),
        (401, {}, spoofed),
        (401, {"Authorization": f"Bearer {token}x"}, ()),
        (401, {"Authorization": f"Bearer {bound}"}, ()),
        (401, {"Authorization": f"DPoP {bound}", "DPoP": good}, ()),
        (401, {"Authorization": f"DPoP {bound}", "DPoP": elsewhere}, spoofed),
        (401, {"Authorization": f"DPoP {bound}", "DPoP": proof(key, "POST", url, bound)}, ()),
        (403, {"Authorization": f"Bearer {worker}"}, ()),
    ]:  # fmt: skip
        answer = nginx.send("GET", "/reports/1", *more, **headers)
        assert answer.status == expected, (headers, answer)
        if expected == 401:
            assert answer.all, "nginx passes the challenge on"
    assert nginx.send("GET", "/reports/1?role=worker", Authorization=f"Bearer {worker}").status == 403
    assert nginx.send("GET", "/_ringfence", Authorization=f"Bearer {token}").status == 404, "internal"
    assert nginx.service.seen == [], "nothing reached the service"


def test_nginx_lets_nobody_through_while_nobody_can_be_asked(world, nginx):
    token = had_through(nginx, world)
    world.server.stop()
    try:
        nginx.service.seen.clear()
        assert nginx.send("GET", "/reports/1", Authorization=f"Bearer {token}").status == 500
        assert nginx.service.seen == []
    finally:
        world.server.start()
    assert nginx.send("GET", "/reports/1", Authorization=f"Bearer {token}").status == 200
