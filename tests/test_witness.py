"""Witnesses: what one signs, what it remembers, and a server that asks three.

The log that is shown to a witness here is made in Python, with a key of its
own, so that it can do what a thief of a log's key would.
"""

import base64
import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import tlog
from harness import BINARY, ROOT, clean_env, free_port, new_home
from sigv4 import until

ORIGIN = "example.org/a-log"


class Log:
    """A log whose owner signs whatever he likes."""

    def __init__(self, origin=ORIGIN):
        self.origin = origin
        self.private = Ed25519PrivateKey.generate()
        raw = self.private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        typed = b"\x01" + raw
        self.id = tlog.hashlib.sha256(origin.encode() + b"\n" + typed).digest()[:4]
        self.vkey = f"{origin}+{self.id.hex()}+{base64.b64encode(typed).decode()}"

    @staticmethod
    def leaves(size, branch=0, fork=0):
        return [tlog.leaf_hash(b"%d of %d" % (branch if i >= fork else 0, i)) for i in range(size)]

    def root(self, size, branch=0, fork=0):
        return tlog.root_of(self.leaves(size, branch, fork))

    def note(self, size, branch=0, fork=0):
        root = base64.b64encode(self.root(size, branch, fork)).decode()
        text = f"{self.origin}\n{size}\n{root}\n"
        signature = base64.b64encode(self.id + self.private.sign(text.encode())).decode()
        return f"{text}\n\u2014 {self.origin} {signature}\n"

    def asks(self, old, size, branch=0, fork=0):
        proof = tlog.consistency_proof(self.leaves(size, branch, fork), old) if old <= size else []
        lines = "".join(base64.b64encode(step).decode() + "\n" for step in proof)
        return f"old {old}\n{lines}\n{self.note(size, branch, fork)}"


class Witness:
    """One witness process with its state."""

    def __init__(self, home, name, logs):
        self.state, self.name, self.logs, self.port = home / name, f"witness.example/{name}", logs, free_port()
        self.process = self.key = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def command(self):
        logs = [word for log in self.logs for word in ("--log", log)]
        name = ["--name", self.name, "--state", str(self.state), "--listen", f"127.0.0.1:{self.port}"]
        return [str(BINARY), "witness", "--json", *name, *logs]

    def start(self):
        self.process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_env())
        ready = json.loads(self.process.stdout.readline() or "null")
        assert ready, f"the witness ended with {self.process.wait(10)}"
        key = tlog.Witness.parse(ready["vkey"])
        assert self.key is None or key.hash == self.key.hash, "it has another key than before"
        self.key, self.vkey = key, ready["vkey"]
        return self

    def kill(self, how=signal.SIGKILL):
        if self.process:
            self.process.send_signal(how)
            self.process.wait(20)
            self.process.stdout.close()
            self.process = None

    def add(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/add-checkpoint", body.encode() if isinstance(body, str) else body)
            answer = connection.getresponse()
            return answer.status, answer.headers.get("content-type"), answer.read()


@pytest.fixture
def home():
    made = new_home()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def witness(home):
    log = Log()
    made = Witness(home, "one", [log.vkey])
    made.log = log
    made.start()
    yield made
    made.kill()


def test_it_answers_as_the_specification_says(witness):
    log = witness.log
    status, kind, line = witness.add(log.asks(0, 10))
    assert status == 200 and kind.startswith("text/plain"), line
    now = time.time()
    assert abs(witness.key.cosigned(log.note(10).encode() + line) - now) < 60
    assert witness.add(log.asks(0, 12)) == (409, "text/x.tlog.size", b"10\n")
    assert witness.add(log.asks(9, 12)) == (409, "text/x.tlog.size", b"10\n")
    assert witness.add(log.asks(10, 10))[0] == 200
    status, kind, _ = witness.add(log.asks(10, 10, branch=1))
    assert status == 409 and kind != "text/x.tlog.size"
    assert witness.add(log.asks(10, 12, branch=1))[0] == 422
    assert witness.add(log.asks(11, 10))[0] == 400
    assert witness.add(log.asks(10, 12).replace(ORIGIN, "example.org/other"))[0] == 404
    assert witness.add(log.asks(10, 12).replace("\n12\n", "\n13\n"))[0] == 403
    stranger = Log()
    assert witness.add(stranger.asks(10, 12))[0] == 403
    for malformed in ["", "old 10\n", "old 010\n\n" + log.note(12), "old -1\n\n" + log.note(12), b"\xff" * 20]:
        assert witness.add(malformed)[0] == 400, malformed
    assert witness.add("x" * (1 << 20))[0] == 413
    assert witness.add(log.asks(10, 3000))[0] == 200


def test_it_survives_kill_9_at_any_moment_and_never_signs_two_histories(witness):
    """Grows a log as fast as it can while the witness is killed again and
    again; after each restart it is shown forks of what it has signed."""
    log, chance = witness.log, random.Random(1)
    signed, stop, lock = {}, threading.Event(), threading.Lock()

    def note(size, line, branch=0, fork=0):
        assert witness.key.cosigned(log.note(size, branch, fork).encode() + line)
        root = log.root(size, branch, fork)
        with lock:
            assert signed.setdefault(size, root) == root, f"two trees of {size} are signed"

    def grow():
        size = seen = 0
        while not stop.is_set():
            try:
                status, kind, body = witness.add(log.asks(seen, max(size, seen)))
            except (OSError, http.client.HTTPException):
                time.sleep(0.002)
                continue
            if status == 200:
                seen = max(size, seen)
                note(seen, body)
                size = seen + 1
            elif kind == "text/x.tlog.size":
                seen = int(body)
                size = max(size, seen)
            else:
                raise AssertionError(f"{status} {body}")

    failures = []

    def run():
        try:
            grow()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(25):
            time.sleep(chance.uniform(0, 0.15))
            witness.kill()
            with lock:
                most = max(signed, default=0)
            witness.start()
            _, kind, body = witness.add(log.asks(0, 0) if most == 0 else log.asks(1, most))
            if kind == "text/x.tlog.size":
                assert int(body) >= most, "it forgot what it signed"
            fork = chance.randrange(most + 1)
            for old in {0, most, int(body) if kind == "text/x.tlog.size" else most}:
                for size in (old, old + 3):
                    # A branch from `fork` on contradicts what was signed beyond it.
                    status, _, body = witness.add(log.asks(old, size, branch=1, fork=min(fork, max(old - 1, 0))))
                    if status == 200:
                        note(size, body, branch=1, fork=min(fork, max(old - 1, 0)))
            assert not failures, failures
    finally:
        stop.set()
        thread.join(30)
    assert not failures, failures
    assert len(signed) > 50, "too little was signed for this to mean anything"
    # Everything that was ever signed is one history.
    sizes = sorted(signed)
    for size in sizes:
        assert signed[size] == log.root(size), f"a fork of {size} was signed"


def test_a_state_has_one_process_and_is_never_begun_anew(witness):
    log = witness.log
    assert witness.add(log.asks(0, 10))[0] == 200
    second = subprocess.run([*witness.command()[:-1], log.vkey], capture_output=True, text=True, env=clean_env(), timeout=30)
    assert second.returncode == 5 and "another process" in second.stderr
    witness.kill(signal.SIGTERM)
    files = [path for path in witness.state.rglob("*") if path.is_file() and path.name != "lock"]
    assert len(files) == 3
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    for path in files:
        kept = path.read_bytes()
        for damage in (kept[: len(kept) // 2], b"", kept.replace(b"10", b"11", 1) if b"\n10\n" in kept else kept[:-2], None):
            path.unlink() if damage is None else path.write_bytes(damage)
            done = subprocess.run(witness.command(), capture_output=True, text=True, env=clean_env(), timeout=30)
            assert done.returncode == 1, (path, damage, done.stderr)
            path.write_bytes(kept)
            path.chmod(0o600)
    witness.start()
    assert witness.add(log.asks(10, 12))[0] == 200


# --- a server with three of them ---------------------------------------------------


def configure(server, witnesses):
    with open(server.data / "ringfence.toml", "a") as config:
        for witness in witnesses:
            config.write(f'\n[[witness]]\nkey = "{witness.vkey}"\nurl = "{witness.url}"\n')


@pytest.fixture
def watched(new_server, home):
    """A server and three witnesses, of which two must cosign."""
    server = new_server().start()
    vkey = (server.data / "log" / "log.vkey").read_text().strip()
    witnesses = [Witness(home, f"w{n}", [vkey]).start() for n in range(3)]
    configure(server, witnesses)
    server.restart()
    keys = [word for witness in witnesses for word in ("--witness", witness.vkey)]
    server.cli("log", "witnesses", "--require", 2, *keys)
    until(lambda: cosigned(server, witnesses) >= 2, "a quorum")
    yield server, witnesses
    for witness in witnesses:
        witness.kill()


def cosigned(server, witnesses):
    """How many witnesses stand under the newest cosigned checkpoint."""
    path = server.data / "log" / "checkpoint.cosigned"
    if not path.exists():
        return 0
    note = path.read_bytes()
    tlog.Checkpoint.verify(note, tlog.VerifierKey.parse((server.data / "log" / "log.vkey").read_text()))
    return sum(witness.key.cosigned(note) is not None for witness in witnesses)


def witnessed(server):
    return server.cli_json("log", "witnesses")["witnessed"] or 0


def alarms(server, kind):
    return [alarm for alarm in server.cli_json("alarm", "list")["alarms"] if alarm["kind"] == kind]


def test_a_server_has_its_checkpoints_cosigned_while_a_quorum_lives(watched):
    server, witnesses = watched
    # Anybody can read who must cosign, and check that what was is in the log.
    def verified():
        return tlog.verify(tlog.Directory(server.data / "log"), (server.data / "log" / "log.vkey").read_text())

    def sets(log):
        return [entry for entry in log.public() if entry[1] == tlog.WITNESS_SET]

    until(lambda: sets(verified()), "the set under a checkpoint")
    log = verified()
    [(index, kind, public)] = sets(log)
    assert kind == tlog.WITNESS_SET and all(witness.vkey.encode() in public for witness in witnesses)
    note = server.admin("/log/checkpoint.cosigned").body
    head = tlog.Checkpoint.verify(note, tlog.VerifierKey.parse((server.data / "log" / "log.vkey").read_text()))
    assert head.root == tlog.root_of(log.leaves[: head.size]) or head.size > len(log.leaves)
    # One may die, and a server that is killed goes on where it was.
    witnesses[0].kill()
    before = witnessed(server)
    until(lambda: witnessed(server) > before, "a quorum of the other two")
    server.kill()
    server.start()
    before = witnessed(server)
    until(lambda: witnessed(server) > before, "the quorum after a crash")
    # Two may not.
    witnesses[1].kill()
    until(lambda: alarms(server, "QUORUM_LOST"), "the alarm", 60)
    lost = witnessed(server)
    time.sleep(1)
    assert witnessed(server) == lost
    for witness in witnesses[:2]:
        witness.start()
    until(lambda: cosigned(server, witnesses) == 3 and witnessed(server) > lost, "all three again", 60)


def size_of(server):
    note = (server.data / "log" / "checkpoint").read_bytes()
    return tlog.Checkpoint.verify(note, tlog.VerifierKey.parse((server.data / "log" / "log.vkey").read_text())).size


def test_a_lower_quorum_is_an_alarm_and_an_unsigned_set_is_none(watched, home):
    server, witnesses = watched
    keys = [word for witness in witnesses for word in ("--witness", witness.vkey)]
    request = home / "set.cbor"
    server.cli("log", "witnesses", "--require", 1, *keys, "--request", request)
    assert server.cli_json("log", "witnesses")["required"] == 2, "a request changes nothing"
    # {0: set, 1: signature}, with a signature of nobody.
    forged = home / "forged.cbor"
    forged.write_bytes(b"\xa2\x00" + request.read_bytes() + b"\x01\x58\x40" + os.urandom(64))
    done = server.cli("log", "witnesses", "--signed", forged, check=False)
    assert done.returncode == 1 and "has not signed it" in done.stderr
    assert not alarms(server, "QUORUM_LOWERED")
    changed = server.cli_json("log", "witnesses", "--require", 1, *keys)
    assert (changed["set"], changed["required"]) == (2, 1)
    until(lambda: alarms(server, "QUORUM_LOWERED"), "the alarm")
    server.restart()
    assert server.cli_json("log", "witnesses")["set"] == 2, "it stands in the log"


def test_a_log_that_was_set_back_is_told_by_its_witnesses(watched, home):
    server, witnesses = watched
    server.stop()
    copy = home / "copy"
    shutil.copytree(server.data, copy, ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
    server.start()
    before = witnessed(server)
    for _ in range(20):
        server.cli("status")
    until(lambda: witnessed(server) >= before + 20, "the records to be witnessed")
    server.kill()
    shutil.rmtree(server.data)
    shutil.copytree(copy, server.data)
    server.start()
    alarm = until(lambda: alarms(server, "LOG_FORK"), "the alarm", 60)[0]
    assert "cosigned" in alarm["detail"]


def test_the_example_runs():
    """As examples/witnesses says."""
    ports = {"S3_PORT": free_port(), "ADMIN_PORT": free_port(), "WITNESS_PORT": random.randrange(20000, 30000)}
    done = subprocess.run(
        [ROOT / "examples" / "witnesses" / "run.sh", BINARY],
        capture_output=True,
        text=True,
        timeout=180,
        env=clean_env(**{name: str(port) for name, port in ports.items()}),
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stdout + done.stderr
