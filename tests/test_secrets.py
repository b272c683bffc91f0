"""A6: secrets lie in no file, log, metric, error, dump or other process.

Canaries are planted where secrets belong (a key file, the secret of a static
key, a backup's passphrase, the webhook's secret), the server works, fails and
is killed by signals that dump core, and then everything it wrote or answered is
searched for them in every form a careless line might print.
"""

import base64
import os
import pathlib
import re
import resource
import secrets
import signal
import subprocess
import time

import pytest

from harness import BINARY, clean_env, some_bytes
from sigv4 import Key, Signer, until

UNLOCK = secrets.token_bytes(48)
WEBHOOK = secrets.token_bytes(32)
PASSPHRASE = "canary " + secrets.token_hex(20)
NOBODY = 65534


def forms(secret):
    """Every spelling of a secret: raw, hex, base64 at each offset, UTF-16."""
    raw = secret if isinstance(secret, bytes) else secret.encode()
    found = {raw, raw.hex().encode(), raw.hex().upper().encode(), base64.b32encode(raw).rstrip(b"=")}
    for shift in range(3):
        # What base64 of a longer text that holds the secret must contain.
        middle = base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]
        found |= {middle, middle.replace(b"+", b"-").replace(b"/", b"_")}
    if not isinstance(secret, bytes):
        found |= {secret.encode("utf-16-le"), secret.encode("utf-16-be")}
    # `{:?}` of a byte array.
    found.add(", ".join(str(byte) for byte in raw[:12]).encode())
    return {form for form in found if len(form) >= 12}


class Canaries:
    def __init__(self):
        self.forms = {}

    def add(self, name, secret):
        self.forms[name] = forms(secret)

    def hits(self, data):
        return {name for name, spellings in self.forms.items() if any(form in data for form in spellings)}

    def expect_none(self, where, data):
        assert not self.hits(data), f"{self.hits(data)} in {where}"


def test_the_search_would_find_each_form():
    canaries = Canaries()
    canaries.add("text", PASSPHRASE)
    canaries.add("bytes", UNLOCK)
    for secret, name in [(PASSPHRASE.encode(), "text"), (UNLOCK, "bytes")]:
        for shown in [
            b"x" + secret + b"y",
            secret.hex().encode(),
            base64.b64encode(b"a" + secret + b"b"),
            base64.b64encode(b"ab" + secret),
            base64.urlsafe_b64encode(secret + b"abc"),
            str(list(secret)).encode(),
        ]:
            assert canaries.hits(shown) == {name}, shown
    assert canaries.hits(PASSPHRASE.encode("utf-16-le")) == {"text"}
    assert not canaries.hits(os.urandom(1 << 20))


@pytest.fixture
def planted(new_server):
    """A server whose secrets are canaries, worked in every way a client can."""
    webhook = "whsec_" + base64.b64encode(WEBHOOK).decode()
    server = new_server(env={"RINGFENCE_ALARM_SECRET": webhook, "RINGFENCE_TRACE": "trace"})
    server.data.mkdir(mode=0o700)
    key_file = server.data.parent / "unlock.key"
    key_file.write_bytes(UNLOCK)
    key_file.chmod(0o600)
    server.env |= {
        "RINGFENCE__KEYS__KEY_FILE": str(key_file),
        "RINGFENCE__ALARM__WEBHOOK": "http://127.0.0.1:9/hook",
        "RINGFENCE__ALARM__SECRET": "env:RINGFENCE_ALARM_SECRET",
    }
    server.start()
    canaries = Canaries()
    canaries.add("key file", UNLOCK)
    canaries.add("webhook secret", WEBHOOK)
    canaries.add("webhook secret as text", webhook[6:])
    canaries.add("passphrase", PASSPHRASE)
    canaries.add("static key", server.key().secret)
    return server, canaries


def work(server, canaries):
    """Requests, refusals, errors and administration; every answer is searched."""
    key = server.key()
    wrong = Signer(Key(key.id, secrets.token_hex(20)))
    answers = [
        server.raw("PUT", "canary"),
        server.raw("PUT", "canary", "a", body=some_bytes(100_000)),
        server.put_streaming("canary", "b", some_bytes(200_000)),
        server.raw("GET", "canary", "a"),
        server.presigned("GET", "canary", "a"),
        server.raw("GET", "canary", "a", signer=wrong),
        server.raw("PUT", "canary", "a", body=b"x", payload="0" * 64),
        server.raw("GET", "canary", query=[("no-such-thing", "")]),
        server.raw("POST", "canary", query=[("delete", "")], body=b"<not xml"),
        # A client that mistakes its secret for its key id tells us itself; it
        # must not be told to others.
        server.raw("GET", "canary", "none"),
    ]
    assert {200, 403, 404} <= {answer.status for answer in answers}
    for answer in answers:
        canaries.expect_none(f"the answer {answer.status}", answer.body + repr(answer.headers).encode())
    for command in (
        ["status"],
        ["key", "list"],
        ["tenant", "list"],
        ["site", "list"],
        ["policy", "show"],
        ["log", "show"],
        ["alarm", "list"],
        ["keys", "rotate"],
        ["config", "check"],
        ["scrub"],
        ["log", "prove", answers[1].headers["x-amz-request-id"]],
        ["policy", "explain", answers[5].headers["x-amz-request-id"]],
    ):
        done = server.cli(*command, "--json", check=False)
        canaries.expect_none(f"`{' '.join(command)}`", (done.stdout + done.stderr).encode())
    backup = server.data.parent / "keys.backup"
    done = server.cli("keys", "backup", backup, stdin=f"{PASSPHRASE}\n{PASSPHRASE}\n")
    canaries.expect_none("`keys backup`", (done.stdout + done.stderr).encode())
    for path in ("/metrics", "/healthz", "/readyz", "/log/checkpoint", "/nothing"):
        canaries.expect_none(path, server.admin(path).body)


def expect_no_files(server, canaries, allowed=("credentials",)):
    """Nothing below the data directory, or beside it, but what may."""
    searched = 0
    for path in server.data.parent.rglob("*"):
        if path.is_file() and path.name not in (*allowed, "unlock.key"):
            canaries.expect_none(path, path.read_bytes())
            searched += 1
    assert searched > 10


def cores(*places):
    return [path for place in places for path in pathlib.Path(place).glob("*core*")]


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT])
def test_a6_a_server_that_dies_of_a_signal_leaves_its_secrets_nowhere(planted, how):
    server, canaries = planted
    # What a first start shows once stands in its output; from here on nothing may.
    server.stop()
    server.log_path.write_text("")
    server.start()
    work(server, canaries)
    limit = int(re.search(r"Max core file size +(\d+)", pathlib.Path(f"/proc/{server.process.pid}/limits").read_text())[1])
    assert limit == 0
    before = cores(".", server.data, server.data.parent, "/tmp")
    process = server.process
    process.send_signal(how)
    # Rust's own handler of SIGSEGV takes the first that no instruction caused
    # for a stack overflow that passed; the second is as deadly as everywhere.
    time.sleep(0.5)
    process.send_signal(how)
    assert process.wait(20) == -how
    assert cores(".", server.data, server.data.parent, "/tmp") == before, "it left a core"
    server.kill()
    expect_no_files(server, canaries)
    canaries.expect_none("its output", server.log_path.read_bytes())


def test_a6_a_first_start_keeps_no_secret_but_in_its_credentials_file(planted):
    server, canaries = planted
    work(server, canaries)
    server.stop()
    # Its output shows the first key's secret once, as it says.
    expect_no_files(server, canaries, allowed=("credentials", server.log_path.name))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("what", ["mem", "environ", "maps", "fd"])
def test_a6_another_user_can_read_neither_memory_nor_environment(planted, what):
    server, _ = planted
    path = f"/proc/{server.process.pid}/{what}"
    script = f"import os; print(os.listdir({path!r}) if {what == 'fd'} else open({path!r}, 'rb').read(1))"
    done = subprocess.run(
        ["python3", "-c", script], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True
    )
    assert done.returncode != 0 and "Permission denied" in done.stderr, (done.stdout, done.stderr)


def test_a6_not_even_its_own_user_may_read_a_server(planted):
    """Undumpable: /proc/PID belongs to root, so that another program of the
    same user cannot read the keys."""
    server, _ = planted
    assert os.stat(f"/proc/{server.process.pid}/mem").st_uid == 0
    mode = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    assert "TracerPid:\t0" in mode


OVERLAP = 512  # longer than any form


def memory_of(pid):
    """What lies in the writable memory of a process, in pieces that overlap;
    pages that were never written to are left out."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        first, last, rights = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
        if "w" not in rights or "[v" in line:
            continue
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            at, end = int(first, 16), int(last, 16)
            while at < end:
                try:
                    memory.seek(at)
                    piece = memory.read(min(end - at, (1 << 20) + OVERLAP))
                except OSError:
                    piece = b""
                if piece.strip(b"\0"):
                    yield piece
                at += 1 << 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of an undumpable process")
def test_a6_no_process_that_needs_no_key_holds_one(planted):
    """A command that asks the running server has the answer in its memory, and
    nothing else: it is stopped in the middle and its memory searched."""
    server, canaries = planted
    command = [str(BINARY), "scrub", "--data", str(server.data)]
    # The webhook's secret is in the server's environment only.
    env = {name: value for name, value in clean_env(**server.env).items() if name != "RINGFENCE_ALARM_SECRET"}
    searched = 0
    for pause in range(1, 25, 2):
        asking = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(pause / 1000)
        # Stopped it stays; one that has ended already shows no memory.
        os.kill(asking.pid, signal.SIGSTOP)
        time.sleep(0.01)
        for part in memory_of(asking.pid):
            canaries.expect_none("the memory of a client of the socket", part)
            searched += len(part)
        asking.kill()
        asking.wait()
    assert searched > 1 << 20, "every one of them had ended"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read the memory of an undumpable process")
def test_a6_a_server_keeps_no_copy_of_a_static_secret_after_its_requests(planted):
    """The secret is opened for one check and wiped: neither our copies nor the
    S3 library's stay behind. The memory is searched after the last request."""
    server, canaries = planted
    server.stop()
    server.start()
    only = Canaries()
    only.forms = {name: found for name, found in canaries.forms.items() if name in ("static key", "key file", "passphrase")}
    for n in range(30):
        assert server.raw("PUT" if n == 0 else "HEAD", "canary").status == 200
    # The search finds what is there: the webhook's secret stands in the environment.
    there = {hit for part in memory_of(server.process.pid) for hit in canaries.hits(part)}
    assert "webhook secret as text" in there
    left = lambda: {hit for part in memory_of(server.process.pid) for hit in only.hits(part)}
    until(lambda: not left(), "the secrets to be wiped", 10)


def test_memory_is_locked_where_it_may_be_and_told_where_not(new_server):
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    effective = int(re.search(r"CapEff:\s+([0-9a-f]+)", pathlib.Path("/proc/self/status").read_text())[1], 16)
    may = unlimited or effective & (1 << 14)
    server = new_server().start()
    told = "may reach the swap space" in server.log_text()
    locked = re.search(rb"^ringfence_memory_locked (\d)", server.admin("/metrics").body, re.M)[1] == b"1"
    assert (locked, told) in ([(True, False), (False, True)] if may else [(False, True)])
    if locked:
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        assert int(re.search(r"VmLck:\s+(\d+) kB", status)[1]) > 1000
