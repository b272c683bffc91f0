"""A gateway elsewhere: it holds nothing secret, follows home's public log, and is
attacked with everything a thief may have: issuer keys, and the log's own.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import paseto
import sts
import thief
import tlog
import witness
from harness import BINARY, clean_env, free_port, new_home
from sigv4 import send, until
from test_session_services import SERVICE, Holder, Port


def manifests(world, realm):
    """Root and manifest of a realm, as a trust file has them."""
    shown = world.server.cli_json("keys", "manifest", "show", "--realm", realm)
    body = "".join(shown["manifest"]["text"].split("\n")[1:])  # A title, then base64 in lines.
    return [f"root {realm} {root['public']}" for root in shown["roots"]] + [f"manifest {body}"]


def trust(world, witnesses=(), k=0):
    lines = ["ringfence-trust v0", f"log {(world.server.data / 'log' / 'log.vkey').read_text().strip()}"]
    lines += [f"witness w{n} {one.vkey}" for n, one in enumerate(witnesses)]
    lines += [f"group g {k} {' '.join(f'w{n}' for n in range(len(witnesses)))}", "quorum g"] if witnesses else ["quorum none"]
    for realm in sorted(set(world.TENANTS.values())):
        lines += manifests(world, realm)
    return "\n".join(lines) + "\n"


class Relay:
    """Stands between gateway and home; can be cut, or show something else."""

    def __init__(self, target):
        self.target, self.cut, self.instead = target, False, {}
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if relay.cut:
                    self.connection.close()
                    return
                path = self.path.removeprefix("/log/")
                body = relay.instead.get(path, False)
                if body is False:
                    body = tlog.Http(relay.target + "/log").read(path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Gateway:
    def __init__(self, world, home, site="home", most=4, file=None):
        self.world, self.home_url, self.site, self.most = world, home, site, most
        self.folder, self.port, self.process = new_home("gateway-"), free_port(), None
        self.file = self.folder / "trust"
        self.file.write_text(file or trust(world))

    def start(self):
        command = [
            str(BINARY), "gateway", "--trust", str(self.file), "--home", self.home_url, "--site", self.site, "--most", str(self.most), "--proxy", "traefik",
            "--listen", f"127.0.0.1:{self.port}", "--state", str(self.folder / "state"),
        ]  # fmt: skip
        self.log = open(self.folder / "stderr", "ab")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log, env=clean_env())
        until(lambda: self.process.poll() is not None or self.is_ready(), "the gateway", 20)
        assert self.process.poll() is None, self.text()
        return self

    def text(self):
        return (self.folder / "stderr").read_text()

    def get(self, path):
        return send(("127.0.0.1", self.port), "GET", path, {"Host": "gateway"})

    def is_ready(self):
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False

    def counted(self, kind):
        text = self.get("/metrics").body.decode()
        found = sts.re.findall(rf'^ringfence_alarms_total\{{[^}}]*kind="{kind}"[^}}]*\}} (\S+)$', text, flags=sts.re.M)
        return sum(map(float, found))

    def ask(self, token, scheme="Bearer", proof=None):
        proto, host = SERVICE.split("://")
        headers = {"Host": "gateway", "X-Forwarded-Method": "GET", "X-Forwarded-Proto": proto, "X-Forwarded-Host": host, "X-Forwarded-Uri": "/a"}
        headers |= {"Authorization": f"{scheme} {token}"} | ({"DPoP": proof} if proof else {})
        return send(("127.0.0.1", self.port), "GET", "/auth", headers)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def port():
    number = free_port()
    with sts.world(more=f'\n[auth]\naddr = "127.0.0.1:{number}"\nproxy = "traefik"\n') as world:
        began = int(time.time())
        until(lambda: int(time.time()) > began, "the next second, as proofs need it", 3)
        yield Port(world, number)


@pytest.fixture(scope="module")
def relay(port):
    return Relay(f"http://127.0.0.1:{port.world.server.admin_port}")


@pytest.fixture(scope="module")
def gateway(port, relay):
    made = Gateway(port.world, relay.url).start()
    yield made
    made.remove()


@pytest.fixture
def bearer(port):
    return port.token()


def test_a_gateway_answers_without_asking_home_for_each_request(port, gateway, bearer):
    answer = gateway.ask(bearer)
    assert answer.status == 200, (answer, gateway.text()[-2000:])
    assert answer.headers["x-ringfence-principal"] == "acme-idp--svc"
    mine = Holder()
    bound = port.token(mine)
    proofs = []

    def good():  # Proofs of the second in which it started are refused.
        proofs.append(mine.proof("GET", f"{SERVICE}/a", bound))
        return gateway.ask(bound, "DPoP", proofs[-1]).status == 200

    until(good, "a fresh proof to be good", 5, 0.2)
    proof = proofs[-1]
    assert gateway.ask(bound, "DPoP", proof).status == 401, "once"
    assert gateway.ask(bound).status == 401, "not without its proof"


def forged(port, bearer, **other):
    honest = paseto.Token.parse(bearer)
    key = thief.signing(port.world.server.data, "home", "acme", "api")
    now = int(time.time())
    claims = honest.claims | {"jti": uuid.uuid4().hex, "sub": "acme-idp--root", "iat": now, "nbf": now, "exp": now + 3000} | other
    return key, honest, claims


def test_a7_a_forged_token_is_refused_at_a_gateway_that_knows_only_the_log(port, gateway, bearer):
    key, honest, claims = forged(port, bearer)
    for receipt in (None, honest.receipt, paseto.replace(honest.receipt, index=0)):
        before = gateway.counted("SIG_VALID_NOT_ISSUED")
        answer = gateway.ask(paseto.forge(key, claims, receipt).text)
        assert answer.status == 401 and "x-ringfence-tenant" not in answer.headers
        until(lambda: gateway.counted("SIG_VALID_NOT_ISSUED") > before, "the alarm", 5)  # noqa: B023


def test_a1_a_key_of_another_scope_is_refused_at_a_gateway(port, gateway, bearer):
    world, honest = port.world, paseto.Token.parse(bearer)
    for realm, tenant, purpose in (("home", "acme", "sts-session"), ("home", "initech", "api"), ("east", "globex", "api")):
        token = paseto.forge(thief.signing(world.server.data, realm, tenant, purpose), honest.claims, honest.receipt)
        assert gateway.ask(token.text).status == 401
    assert gateway.ask(world.session().token).status == 401, "a session of S3 is no token for services"


def test_a14_a_gateway_follows_a_revocation_within_seconds(port, gateway, bearer):
    assert gateway.ask(bearer).status == 200
    port.world.server.cli("revoke", "session", paseto.Token.parse(bearer).claims["jti"])
    began = time.monotonic()
    until(lambda: gateway.ask(bearer).status == 401, "the gateway to refuse", 6)
    assert time.monotonic() - began < 5, "five seconds at home"
    assert gateway.ask(port.token()).status == 200


def test_a14_a_gateway_that_hears_nothing_of_home_stops_by_itself(port, relay, gateway, bearer):
    assert gateway.ask(bearer).status == 200
    relay.cut = True
    try:
        began = time.monotonic()
        until(lambda: gateway.ask(bearer).status == 503, "the gateway to stop", 12)
        assert time.monotonic() - began < 7, "F_max was set to four seconds"
        assert gateway.get("/readyz").status == 503
    finally:
        relay.cut = False
    until(lambda: gateway.ask(bearer).status == 200, "it to go on", 10)


def test_a7_with_the_logs_key_a_thief_shows_a_gateway_another_history_in_vain(port, relay, gateway, bearer):
    """He answers in home's place, with his own leaf in a log that home's own key
    signed. What the gateway has pinned does not continue there."""
    world = port.world
    key, honest, claims = forged(port, bearer)
    assert gateway.ask(bearer).status == 200
    admits = thief.admission(world.server.data, "home", "acme")
    token = paseto.forge(key, claims)
    draft = paseto.uncbor(tlog.entry_parts(honest.receipt.entry)[2])[0]
    draft = draft | {5: claims["nbf"], 6: claims["exp"], 7: hashlib.sha256(token.paseto.encode()).digest()}
    admission = admits.sign(paseto.encoded(b"ringfence issuance v0", paseto.cbor(draft)))
    entry = b"\x02" + bytes(32) + paseto.cbor({0: draft, 1: bytes.fromhex(paseto.kid_of(admits.public_key())), 2: admission})
    vkey = (world.server.data / "log" / "log.vkey").read_text()
    log = tlog.verify(tlog.Http(relay.target + "/log"), vkey)
    # A history that differs in a record that the gateway has read for sure, and
    # goes on with his.
    early = next(n for n, one in enumerate(log.entries) if one[0] == tlog.ACCESS)
    entries = [*log.entries[:early], b"\x01" + bytes(32), *log.entries[early + 1 :], entry, *[b"\x01" + bytes([n]) * 32 for n in range(8)]]
    leaves = [tlog.leaf_hash(one) for one in entries]
    at = len(log.entries)
    name = tlog.VerifierKey.parse(vkey)
    text = f"{name.name}\n{len(leaves)}\n{base64.b64encode(tlog.root_of(leaves)).decode()}\n"
    signature = base64.b64encode(name.hash + thief.log_key(world.server.data).sign(text.encode())).decode()
    note = f"{text}\n\u2014 {name.name} {signature}\n"
    perfect = token.but(receipt=paseto.Receipt(at, entry, tuple(tlog.inclusion_proof(leaves, at)), note))
    keys = {paseto.kid_of(k.public_key()): k.public_key() for k in (key, admits)}
    paseto.check_issued(perfect.text, vkey, keys)  # It convinces whoever looks at nothing else.
    assert len(entries) <= tlog.WIDTH, "the forgery below is of one tile"
    relay.instead = {
        "checkpoint": note.encode(),
        tlog.tile_path(0, 0, len(leaves)): b"".join(leaves),
        tlog.tile_path("entries", 0, len(leaves)): b"".join(len(e).to_bytes(2, "big") + e for e in entries),
    }
    try:
        answer = gateway.ask(perfect.text)
        assert answer.status in (401, 503), answer
        until(lambda: gateway.counted("LOG_FORK") > 0, "the alarm: two histories of one log", 10)
        for _ in range(3):
            assert gateway.ask(perfect.text).status in (401, 503)
    finally:
        relay.instead = {}
    until(lambda: gateway.ask(port.token()).status == 200, "it to go on with the honest history", 15)
    assert gateway.ask(perfect.text).status in (401, 503)


def test_a7_a_gateway_killed_forgets_nothing_that_it_pinned(port, relay, gateway):
    world, token = port.world, port.token()
    assert gateway.ask(token).status == 200
    vkey = (world.server.data / "log" / "log.vkey").read_text()
    log = tlog.verify(tlog.Http(relay.target + "/log"), vkey)
    gateway.kill()
    name, size = tlog.VerifierKey.parse(vkey), len(log.leaves) - 3
    text = f"{name.name}\n{size}\n{base64.b64encode(tlog.root_of(log.leaves[:size])).decode()}\n"
    signature = base64.b64encode(name.hash + thief.log_key(world.server.data).sign(text.encode())).decode()
    relay.instead = {"checkpoint": f"{text}\n\u2014 {name.name} {signature}\n".encode()}
    command = [str(BINARY), "gateway", "--trust", str(gateway.file), "--home", relay.url, "--site", "home", "--listen", f"127.0.0.1:{gateway.port}", "--state", str(gateway.folder / "state")]
    gateway.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
    try:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                assert gateway.ask(token).status != 200, "an older checkpoint, rightly signed, was believed after a restart"
            except OSError:
                pass
            time.sleep(0.1)
    finally:
        relay.instead = {}
        gateway.kill()
    gateway.start()
    assert gateway.ask(port.token()).status == 200


def test_a1_a_gateway_serves_its_own_site_only(port, relay, bearer):
    elsewhere = Gateway(port.world, relay.url, site="cloud").start()
    try:
        assert elsewhere.ask(bearer).status == 401
    finally:
        elsewhere.remove()


@pytest.mark.parametrize("what", ["manifest of another root", "no title", "no root", "two logs", "a broken line", "an unknown line", "no quorum"])
def test_a4_a_trust_file_that_is_not_whole_is_not_believed(port, relay, what):
    text = trust(port.world)
    lines = text.splitlines()
    foreign = next(line for line in lines if line.startswith("root east"))
    changed = {
        "manifest of another root": text.replace(next(line for line in lines if line.startswith("root home")), foreign.replace("root east", "root home")),
        "no title": text.replace("ringfence-trust v0\n", ""),
        "no root": "\n".join(line for line in lines if not line.startswith("root home")) + "\n",
        "two logs": text.replace("quorum", lines[1].replace("ringfence", "other", 1) + "\nquorum", 1),
        "a broken line": text.replace("manifest ", "manifest !", 1),
        "an unknown line": text + "trust everybody\n",
        "no quorum": text.replace("quorum none\n", ""),
    }[what]
    folder = new_home("gateway-")
    try:
        (folder / "trust").write_text(changed)
        done = subprocess.run(
            [str(BINARY), "gateway", "--trust", str(folder / "trust"), "--home", relay.url, "--site", "home", "--listen", f"127.0.0.1:{free_port()}", "--state", str(folder / "state")],
            capture_output=True, text=True, timeout=20, env=clean_env(),
        )  # fmt: skip
        assert done.returncode in (2, 3), done
        assert "panicked" not in done.stderr
    except subprocess.TimeoutExpired:
        pytest.fail(f"a gateway runs with a trust file with {what}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_exported_trust_file_is_one_for_gateways(port, relay):
    world = port.world
    gateway = Gateway(world, relay.url, file=world.server.cli("trust", "export").stdout)
    try:
        gateway.start()
        until(lambda: gateway.ask(port.token()).status == 200, "a session to be believed", 15)
    finally:
        gateway.remove()


def test_a7_a_gateway_with_a_quorum_believes_no_checkpoint_without_it(port, relay):
    world = port.world
    watching = [witness.Witness((world.server.data / "log" / "log.vkey").read_text(), f"witness.example/{n}").start() for n in range(2)]
    strict = Gateway(world, relay.url, file=trust(world, watching, 2))
    try:
        command = [str(BINARY), "gateway", "--trust", str(strict.file), "--home", relay.url, "--site", "home", "--listen", f"127.0.0.1:{strict.port}", "--state", str(strict.folder / "state")]
        strict.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
        token = port.token()
        until(lambda: _answers(strict), "it to answer at all", 10)
        assert strict.ask(token).status == 503, "home's checkpoint has no cosignature"
        world.more += "".join(sts.table("witness", key=one.vkey, url=one.url) for one in watching)
        world.configure(world.config())
        world.server.cli("log", "witnesses", "--require", "2", *[part for one in watching for part in ("--witness", one.vkey)])
        strict.kill()
        strict.file.write_text(trust(world, watching, 2))
        strict.start()
        until(lambda: strict.ask(port.token()).status == 200, "cosigned checkpoints to be believed", 15)
        assert json.loads(world.server.cli("log", "witnesses", "--json").stdout)["required"] == 2
    finally:
        strict.remove()
        for one in watching:
            one.remove()


def _answers(gateway):
    try:
        return gateway.get("/healthz").status == 200
    except OSError:
        return False
