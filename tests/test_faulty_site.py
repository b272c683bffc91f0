"""A foreign site that is slow, down, full or lies.

The public site is an S3 server that is not ours (rclone), behind a proxy that
misbehaves on demand. Whatever it does: the right bytes or an error, nothing
acknowledged lost, and the private site unharmed.
"""

import http.client
import http.server
import re
import subprocess
import threading

import pytest

from harness import clean_env, expect_error, free_port, some_bytes, tool
from sigv4 import until

KEY, SECRET = "SITEACCESSKEY0000001", "site-secret-site-secret-site-secret-0001"
PUBLIC = {"x-amz-tagging": "ringfence-label=public"}


class Proxy(http.server.ThreadingHTTPServer):
    """Forwards to the real site; `mode` says how it lies."""

    daemon_threads = True

    def __init__(self, backend):
        super().__init__(("127.0.0.1", 0), Handler)
        self.backend, self.mode, self.seen = backend, "honest", []
        self.released = threading.Event()
        self.other_body = None

    def handle_error(self, request, client_address):
        pass  # Cut connections are what this proxy is for.


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_any(self):
        proxy, mode = self.server, self.server.mode
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        proxy.seen.append((self.command, self.path, body))
        writes, reads = self.command in ("PUT", "POST", "DELETE"), self.command == "GET" and "list-type" not in self.path
        if mode == "refuses connections":
            return self.cut()
        if mode == "answers 503" or (mode == "is full" and writes):
            return self.answer(507 if mode == "is full" else 503, b"")
        if mode == "erases nothing" and self.command == "DELETE":
            return self.answer(503, b"")
        if mode == "hangs":
            proxy.released.wait(20)
            return self.cut()
        if mode == "loses everything" and reads:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        status, headers, data = self.forward(body)
        if mode == "fails but has stored" and writes:
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>")
        if mode == "cuts after it has stored" and writes:
            return self.cut()
        if reads and 200 <= status < 300 and data:
            if mode == "corrupts":
                data = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
            elif mode == "truncates":
                data = data[: len(data) // 2]
            elif mode == "cuts in the middle":
                return self.answer(status, data[: len(data) // 2], headers, claim=len(data))
            elif mode == "answers with something else" and proxy.other_body:
                data = (proxy.other_body * (len(data) // len(proxy.other_body) + 1))[: len(data)]
        return self.answer(status, data, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def forward(self, body):
        connection = http.client.HTTPConnection(*self.server.backend, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        data = answer.read()
        headers = [(n, v) for n, v in answer.getheaders() if n.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")]
        if self.command == "HEAD":
            headers.append(("Content-Length", answer.getheader("Content-Length", "0")))
        return answer.status, headers, data

    def answer(self, status, data, headers=(), claim=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD" and status != 204:
            self.send_header("Content-Length", str(len(data) if claim is None else claim))
        elif status != 204 and not headers:
            self.send_header("Content-Length", "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if claim is not None:
            self.cut()

    def cut(self):
        self.close_connection = True
        self.connection.close()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "sealed").mkdir()
    port = free_port()
    command = [tool("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}", str(folder)]
    with open(folder.parent / "rclone.log", "wb") as log:
        site = subprocess.Popen(command, env=clean_env(), stdout=log, stderr=log)

    def up():
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=2).request("GET", "/")
            return True
        except OSError:
            return False

    until(up, "the foreign site")
    proxy = Proxy(("127.0.0.1", port))
    proxy.folder = folder / "sealed"
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    yield proxy
    proxy.released.set()
    proxy.shutdown()
    site.kill()
    site.wait()


@pytest.fixture(scope="module")
def cloud(server, proxy):
    """The installation, its public site being the proxy."""
    server.stop()
    config = server.data / "ringfence.toml"
    site = (
        '[[site]]\nid = "cloud"\nkind = "public"\ntype = "s3"\nprovider = "rclone"\nregion = "us-east-1"\nbucket = "sealed"\n'
        f'endpoint = "http://127.0.0.1:{proxy.server_port}"\naccess_key_id = "env:SITE_KEY"\nsecret_access_key = "env:SITE_SECRET"\n'
        # What one request meets is looked at here; the breaker has test_site_health.py.
        'timeout_s = 2\nretries = 1\nretry_budget = 10000\nfailures_max = 1000000\n\n'
    )
    text = re.sub(r'\[\[site\]\]\nid = "cloud".*?(?=\n\[labels\])', site, config.read_text(), flags=re.S)
    assert "env:SITE_KEY" in text
    text = text.replace('prefer = ["cloud", "home"]', 'prefer = ["cloud"]')
    config.write_text(text)
    server.env = {"SITE_KEY": KEY, "SITE_SECRET": SECRET}
    server.start().let_static_keys_reach_restricted()
    server.client().create_bucket(Bucket="faulty")
    return server


@pytest.fixture
def lying(proxy):
    """Sets how the site lies, for one test."""

    def set_mode(mode):
        proxy.mode = mode

    proxy.released.clear()
    yield set_mode
    proxy.mode = "honest"
    proxy.released.set()


def put(server, key, data):
    return server.raw("PUT", "faulty", key, body=data, headers=dict(PUBLIC))


def read(server, key, wanted):
    try:
        answer = server.raw("GET", "faulty", key)
    except http.client.IncompleteRead as cut:
        assert wanted.startswith(cut.partial), "wrong bytes before the cut"
        return "cut"
    except (ConnectionError, http.client.BadStatusLine):
        return "cut"
    if answer.status >= 500:
        expect_error(answer, answer.status, "InternalError", "ServiceUnavailable", "SlowDown")
        return "error"
    assert answer.status == 200 and answer.body == wanted, f"wrong bytes: {answer.status}"
    return "right"


@pytest.mark.parametrize("size", [0, 100, 300_000, 17_000_000])
def test_an_honest_foreign_site_stores_and_returns(cloud, proxy, size):
    data = some_bytes(size)
    assert put(cloud, f"honest-{size}", data).status == 200
    assert read(cloud, f"honest-{size}", data) == "right"
    assert cloud.raw("DELETE", "faulty", f"honest-{size}").status == 204


READ_FAULTS = ["refuses connections", "answers 503", "hangs", "loses everything", "corrupts", "truncates", "cuts in the middle", "answers with something else"]


@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize("mode", READ_FAULTS)
def test_reading_from_a_site_that(cloud, proxy, lying, mode, size):
    data = some_bytes(size)
    assert put(cloud, "k", data).status == 200
    assert put(cloud, "other", some_bytes(size, 9)).status == 200
    proxy.other_body = next((body for verb, _, body in reversed(proxy.seen) if verb == "PUT" and len(body) > 50), None)
    cloud.restart()  # Nothing in memory helps out.
    lying(mode)
    assert read(cloud, "k", data) in ("error", "cut"), f"a site that {mode} went unseen"
    assert cloud.raw("PUT", "faulty", "at-home", body=b"x").status == 200, "the private site is unharmed"
    lying("honest")
    until(lambda: read(cloud, "k", data) == "right", "the site's recovery")


WRITE_FAULTS = ["refuses connections", "answers 503", "hangs", "is full", "fails but has stored", "cuts after it has stored"]


@pytest.mark.parametrize("size", [100, 300_000])
@pytest.mark.parametrize("mode", WRITE_FAULTS)
def test_writing_to_a_site_that(cloud, proxy, lying, mode, size):
    old, new = some_bytes(size, 1), some_bytes(size, 2)
    assert put(cloud, "k", old).status == 200
    lying(mode)
    answer = put(cloud, "k", new)
    lying("honest")
    if answer.status == 200:
        assert mode in ("fails but has stored", "cuts after it has stored"), "a retry may find it stored"
        assert read(cloud, "k", new) == "right"
    else:
        expect_error(answer, 503, "ServiceUnavailable", "SlowDown")
        assert read(cloud, "k", old) == "right", "the old object is untouched"
    assert cloud.client().list_objects_v2(Bucket="faulty", Prefix="k")["KeyCount"] == 1


def test_deleting_works_while_the_site_is_down_and_the_bytes_go_later(cloud, proxy, lying):
    data = some_bytes(500_000)

    def stored_bytes():
        return sum(p.stat().st_size for p in proxy.folder.rglob("*") if p.is_file())

    before = stored_bytes()
    assert put(cloud, "gone", data).status == 200
    assert stored_bytes() > before + 400_000
    lying("refuses connections")
    assert cloud.raw("DELETE", "faulty", "gone").status == 204
    assert cloud.raw("GET", "faulty", "gone").status == 404
    cloud.cli("sweep", check=False)
    lying("honest")

    def erased():
        cloud.cli("sweep", check=False)
        return stored_bytes() < before + 400_000

    until(erased, "the erasure after the site's return", 90, 1)


def test_what_the_foreign_site_saw_was_never_plaintext_or_a_name(cloud, proxy):
    data = b"CANARY-SITE-BODY-" * 1000
    assert put(cloud, "canary-site-key", data).status == 200
    for _, path, body in proxy.seen:
        for word in (b"CANARY-SITE-BODY", b"canary-site-key", b"faulty", b"ringfence-label"):
            assert word not in body and word not in path.encode(), f"{word} was sent to the site"


def test_restricted_data_never_reaches_the_foreign_site(cloud, proxy):
    before = len([s for s in proxy.seen if s[0] in ("PUT", "POST")])
    for n in range(5):
        cloud.raw("PUT", "faulty", f"secret-{n}", body=some_bytes(200_000), headers={"x-amz-tagging": "ringfence-label=restricted"})
    assert len([s for s in proxy.seen if s[0] in ("PUT", "POST")]) == before


def test_the_log_verifies_after_all_this(cloud):
    cloud.cli("log", "verify")
