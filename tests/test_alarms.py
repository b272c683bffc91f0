"""Alarms reach their webhook, whatever it does and whatever is killed.

The trigger is the real one: a session forged with the issuer's own key.
"""

import base64
import hashlib
import hmac
import http.server
import json
import secrets
import threading
import time

import pytest

import paseto
import sts
import thief
from harness import free_port
from sigv4 import until

KEY = secrets.token_bytes(32)
DATA = "acme-data"


class Receiver:
    """A webhook that does as told: `mode` is a status, `hang` or `break`."""

    def __init__(self):
        self.port = free_port()
        self.heard, self.mode, self.server = [], 204, None

    def start(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                mode = outer.mode
                outer.heard.append((mode, dict(self.headers.items()), body))
                if mode == "hang":
                    time.sleep(5)
                if mode in ("hang", "break"):
                    self.close_connection = True
                    return
                self.send_response(mode)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self):
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def messages(self, detail):
        """Those heard about an alarm, each with its signature verified here."""
        return [(mode, head, checked(head, body)) for mode, head, body in self.heard if detail.encode() in body]


def checked(headers, body):
    """The body, if it is signed as Standard Webhooks says."""
    headers = {name.lower(): value for name, value in headers.items()}
    message, at = headers["webhook-id"], headers["webhook-timestamp"]
    assert abs(int(at) - time.time()) < 300 and "." not in message
    expected = hmac.new(KEY, f"{message}.{at}.".encode() + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()
    return message, json.loads(body)


@pytest.fixture(scope="module")
def receiver():
    made = Receiver().start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def world(receiver):
    env = {
        "ALARM_SECRET": "whsec_" + base64.b64encode(KEY).decode(),
        "RINGFENCE__ALARM__WEBHOOK": f"http://127.0.0.1:{receiver.port}/hook",
        "RINGFENCE__ALARM__SECRET": "env:ALARM_SECRET",
        "RINGFENCE__ALARM__TIMEOUT_S": "1",
        "RINGFENCE__ALARM__RETRY_MAX_S": "1",
    }
    with sts.world(env=env) as made:
        yield made


@pytest.fixture
def attack(world):
    """Shows a session that was never issued; returns its id, which the alarm names."""
    real = world.session()
    key = thief.signing(world.server.data, "home", "acme")
    # An equal alarm less than a second before would be counted with it.
    time.sleep(2.5)

    def show():
        session = secrets.token_hex(16)
        forged = paseto.forge(key, real.parsed.claims | {"jti": session}, real.parsed.receipt)
        answer = real.but(token=forged.text).raw(world.server, "GET", DATA, "k")
        assert answer.status in (400, 403), answer
        assert session.encode() not in answer.body and b"SIG_VALID" not in answer.body, "the client is told nothing"
        return session

    return show


def listed(world, session):
    return [alarm for alarm in world.server.cli_json("alarm", "list")["alarms"] if session in (alarm.get("detail") or "")]


def test_an_alarm_is_told_until_it_is_acknowledged_and_then_no_more(world, receiver, attack):
    receiver.mode = 500
    session = attack()
    [alarm] = listed(world, session)
    assert alarm["kind"] == "SIG_VALID_NOT_ISSUED" and alarm["severity"] == "critical" and alarm["tenant"] == "acme"
    assert alarm["delivery"] == "waiting" and "alarms wait" in world.server.cli("status").stderr
    for mode in (500, "hang", "break", 302, 204):
        receiver.mode = mode
        until(lambda: mode in [m for m, _, _ in receiver.messages(session)], f"an attempt answered with {mode}", 20)
    until(lambda: listed(world, session)[0]["delivery"] == "delivered", "the acknowledgement")
    messages = receiver.messages(session)
    assert len({message for _, _, (message, _) in messages}) == 1, "one alarm, one id"
    body = messages[-1][2][1]
    assert body["type"] == "alarm.sig_valid_not_issued" and body["data"]["record"] == alarm["record"]
    count = len(messages)
    time.sleep(3)
    assert len(receiver.messages(session)) == count, "it was acknowledged"
    record = world.server.cli_json("log", "show", "--from", alarm["record"], "--limit", "1")["records"][0]
    assert record["core"]["op"] == "alarm:SIG_VALID_NOT_ISSUED"


def test_an_alarm_is_told_after_the_server_was_killed_before_it_could(world, receiver, attack):
    receiver.mode = 503
    session = attack()
    world.server.kill()
    receiver.mode = 204
    world.server.start()
    told = lambda: [m for m, _, _ in receiver.messages(session) if m == 204]
    until(told, "the alarm after the start", 30)
    until(lambda: listed(world, session)[0]["delivery"] == "delivered", "the acknowledgement")
    world.server.kill()
    world.server.start()
    time.sleep(3)
    assert len(told()) == 1, "acknowledged is acknowledged, over a kill as well"


def test_an_alarm_waits_for_a_receiver_that_is_dead(world, receiver, attack):
    receiver.stop()
    session = attack()
    time.sleep(2)
    assert listed(world, session)[0]["delivery"] == "waiting"
    receiver.mode = 204
    receiver.start()
    until(lambda: receiver.messages(session), "the alarm once it lives", 20)


def test_a_flood_is_few_records_that_add_up_and_the_first_is_told_at_once(world, receiver, attack):
    receiver.mode = 204
    size = world.server.cli_json("alarm", "list")["size"]
    counted = world.counted("SIG_VALID_NOT_ISSUED")
    began = time.monotonic()
    first = attack()
    until(lambda: receiver.messages(first), "the first of them", 10)
    shown = 1 + sum(1 for _ in range(60) if attack())
    assert world.counted("SIG_VALID_NOT_ISSUED") == counted + shown, "the metric counts each"

    def on_record():
        return [a for a in world.server.cli_json("alarm", "list", "--since", size)["alarms"] if a["kind"] == "SIG_VALID_NOT_ISSUED"]

    until(lambda: sum(a["count"] for a in on_record()) == shown, "every one on record", 90, 1)
    assert len(on_record()) <= 4 + (time.monotonic() - began), on_record()
    assert on_record()[0]["count"] == 1 and first in on_record()[0]["detail"]


@pytest.mark.parametrize(
    "value, message",
    [("hunter2hunter2", "whsec_"), ("whsec_" + base64.b64encode(b"short").decode(), "24 to 64 bytes")],
)
def test_a_secret_that_signs_nothing_worth_stops_the_start_and_is_not_repeated(new_server, value, message):
    server = new_server(
        env={
            "ALARM_SECRET": value,
            "RINGFENCE__ALARM__WEBHOOK": "https://alarms.example/",
            "RINGFENCE__ALARM__SECRET": "env:ALARM_SECRET",
        }
    )
    server.spawn()
    until(lambda: not server.is_alive(), "the refusal")
    assert server.process.returncode == 3 and message in server.log_text() and value not in server.log_text()
