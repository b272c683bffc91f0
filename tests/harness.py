"""Starts the real binary, stops it in every way, and talks to it.

Everything a test file needs comes from here: `Server` (one installation in one
directory), clients for it, and `raw` for requests no client would send.
"""

import configparser
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid

import boto3
from botocore.config import Config

import sigv4
from sigv4 import Key, Response, Signer, encode, path_of, until

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = pathlib.Path(os.environ.get("RINGFENCE_BIN", ROOT / "target" / "debug" / "ringfence")).absolute()
BIN = pathlib.Path(sys.executable).parent  # where the venv keeps aws, rclone, s3cmd

# Servers that run now; a failing test shows the end of their logs.
running = []


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tool(name):
    """Path of a client: the venv's, else the system's; a missing one fails."""
    own = BIN / name
    found = str(own) if own.exists() else shutil.which(name)
    assert found, f"`{name}` is not installed: see tests/requirements.txt and tests/packages.txt"
    return found


def clean_env(**more):
    """The environment without whatever AWS settings the developer has."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RINGFENCE_", "RCLONE_", "RESTIC_"))}
    return env | {"AWS_EC2_METADATA_DISABLED": "true", "NO_COLOR": "1"} | more


class Server:
    """One installation: a data directory and, while it runs, a process."""

    def __init__(self, data, *arguments, env=None, prefix=()):
        self.data = pathlib.Path(data)
        self.arguments = list(arguments)
        self.env = env or {}
        self.prefix = list(prefix)
        self.process = None
        self.s3_port = free_port()
        self.admin_port = free_port()
        self.log_path = self.data.parent / f"{self.data.name}.stderr"

    # -- life ---------------------------------------------------------------

    def command(self):
        return [
            *self.prefix,
            str(BINARY),
            "serve",
            "--data",
            str(self.data),
            "--s3",
            f"127.0.0.1:{self.s3_port}",
            "--admin",
            f"127.0.0.1:{self.admin_port}",
            *self.arguments,
        ]

    def spawn(self):
        """Starts the process without waiting for it to be ready."""
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_env(**self.env)
            )
        if self not in running:
            running.append(self)
        return self

    def start(self, deadline_s=60):
        self.spawn()
        until(self.is_ready, "the server to become ready", deadline_s)
        return self

    def is_ready(self):
        code = self.process.poll()
        assert code is None, f"the server ended with {code} before it was ready:\n{self.log_tail()}"
        with contextlib.suppress(OSError, urllib.error.URLError):
            return self.admin("/readyz").status == 200
        return False

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, how=signal.SIGTERM, deadline_s=30):
        """Ends it politely; returns the exit code."""
        if not self.process:
            return None
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            code = self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop within {deadline_s} s of {how.name}") from None
        self.process = None
        if self in running:
            running.remove(self)
        return code

    def kill(self):
        """kill -9, as a power cut sees it from the process."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
        if self in running:
            running.remove(self)

    def restart(self):
        self.stop()
        return self.start()

    def log_text(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, characters=6000):
        return self.log_text()[-characters:]

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    # -- clients ------------------------------------------------------------

    @property
    def address(self):
        return ("127.0.0.1", self.s3_port)

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.s3_port}"

    @property
    def credentials_file(self):
        return self.data / "credentials"

    def key(self, profile="default"):
        parser = configparser.ConfigParser()
        parser.read(self.credentials_file)
        section = parser[profile]
        return Key(section["aws_access_key_id"], section["aws_secret_access_key"])

    def client(self, profile="default", checksums=True, region="us-east-1", style="path", retries=1, host="127.0.0.1", **config):
        """A boto3 client; `checksums=False` is how SDKs behaved before 2025."""
        key = self.key(profile)
        wanted = "when_supported" if checksums else "when_required"
        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"http://{host}:{self.s3_port}",
            aws_access_key_id=key.id,
            aws_secret_access_key=key.secret,
            region_name=region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": style},
                request_checksum_calculation=wanted,
                response_checksum_validation=wanted,
                retries={"total_max_attempts": retries, "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
                **config,
            ),
        )

    def client_env(self, profile="default", **more):
        """Environment for aws-cli and everything else that reads AWS's own names."""
        return clean_env(
            AWS_SHARED_CREDENTIALS_FILE=str(self.credentials_file),
            AWS_PROFILE=profile,
            AWS_DEFAULT_REGION="us-east-1",
            AWS_ENDPOINT_URL=self.endpoint,
            AWS_CONFIG_FILE="/dev/null",
            **more,
        )

    def admin(self, path):
        """GET on the administration port."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=10) as answer:
                return Response(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            return Response(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())

    # -- the command line -----------------------------------------------------

    def cli(self, *arguments, check=True, timeout_s=120, data=True, stdin=""):
        """Runs `ringfence ARGUMENTS --data DIR`."""
        command = [str(BINARY), *map(str, arguments)] + (["--data", str(self.data)] if data else [])
        done = subprocess.run(
            command, capture_output=True, text=True, input=stdin, env=clean_env(**self.env), timeout=timeout_s
        )
        if check:
            assert done.returncode == 0, f"`ringfence {' '.join(map(str, arguments))}` failed:\n{done.stdout}\n{done.stderr}"
        return done

    def cli_json(self, *arguments, **options):
        return json.loads(self.cli(*arguments, "--json", **options).stdout)

    def add_tenant(self, name, default_label="internal"):
        """A tenant with a default label: without one everything it has is
        restricted, which static keys do not reach."""
        with open(self.data / "ringfence.toml", "a") as config:
            config.write(f'\n[[tenant]]\nname = "{name}"\ndefault_label = "{default_label}"\n')
        if self.is_alive():
            self.restart()
        self.cli("tenant", "add", name)
        return self.key(name)

    def let_static_keys_reach_restricted(self):
        """For tests of another promise than that: the policies in force, but
        for the one that refuses static keys (ruling 20)."""
        text = (self.data / "policy.cedar").read_text()
        without = re.sub(r'@id\("no-static-keys-for-restricted"\).*?};\n', "", text, flags=re.S)
        assert without != text
        file = self.data.parent / "static-keys.cedar"
        file.write_text(without)
        self.cli("policy", "apply", file)
        return self

    # -- raw requests ---------------------------------------------------------

    def raw(
        self,
        method,
        bucket=None,
        key=None,
        query=(),
        headers=None,
        body=b"",
        payload=None,
        signer=None,
        path=None,
        host=None,
        unsigned_headers=None,
        **sending,
    ):
        """One signed request, byte for byte as asked for.

        `payload` is what `x-amz-content-sha256` says; the digest of the body
        unless given. `unsigned_headers` are added after signing (None as a
        value removes a header), to spoil a request.
        """
        signer = signer or Signer(self.key())
        path = path or (path_of(bucket, key) if bucket else "/")
        headers = {"Host": host or f"127.0.0.1:{self.s3_port}"} | (headers or {})
        if payload is None:
            payload = sigv4.hashlib.sha256(body).hexdigest()
        signer.header(method, path, query, headers, payload)
        if body and "Content-Length" not in headers:
            headers["Content-Length"] = len(body)
        elif method in ("PUT", "POST") and "Content-Length" not in headers:
            headers["Content-Length"] = 0
        for name, value in (unsigned_headers or {}).items():
            if value is None:
                headers.pop(name, None)
            else:
                headers[name] = value
        return sigv4.send(self.address, method, target_of(path, query), headers, body, **sending)

    def presigned(
        self, method, bucket, key=None, query=(), body=b"", expires_s=300, signer=None, headers=None, spoil=None
    ):
        """One request through a presigned URL; `spoil` changes its query."""
        signer = signer or Signer(self.key())
        headers = {"Host": f"127.0.0.1:{self.s3_port}"} | (headers or {})
        path = path_of(bucket, key)
        query = signer.presign(method, path, query, headers, expires_s)
        if spoil:
            query = spoil(query)
        if body or method in ("PUT", "POST"):
            headers["Content-Length"] = len(body)
        return sigv4.send(self.address, method, target_of(path, query), headers, body)

    def put_streaming(
        self,
        bucket,
        key,
        data,
        chunk_bytes=64 * 1024,
        mode="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        trailer=None,
        spoil=None,
        headers=None,
        query=(),
        decoded_length=None,
        mangle=None,
        signer=None,
    ):
        """PUT with an aws-chunked body; see `sigv4.streaming_signed`."""
        signer = signer or Signer(self.key())
        path = path_of(bucket, key)
        headers = {
            "Host": f"127.0.0.1:{self.s3_port}",
            "Content-Encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(data) if decoded_length is None else decoded_length),
        } | (headers or {})
        if trailer:
            headers["x-amz-trailer"] = trailer[0]
        seed = signer.header("PUT", path, query, headers, mode)
        if mode.startswith("STREAMING-AWS4"):
            body = sigv4.streaming_signed(signer, seed, data, chunk_bytes, trailer, spoil)
        else:
            body = sigv4.streaming_unsigned(data, chunk_bytes, trailer)
        if mangle:
            body = mangle(body)
        headers["Content-Length"] = len(body)
        return sigv4.send(self.address, "PUT", target_of(path, query), headers, body)


def target_of(path, query):
    if not query:
        return path
    return path + "?" + "&".join(f"{encode(n)}={encode(v)}" if v else encode(n) for n, v in query)


# --- data --------------------------------------------------------------------


def unique(prefix="b"):
    """A bucket name no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def some_bytes(length, seed=0):
    """The same pseudo-random bytes for the same length and seed."""
    return random.Random(f"{length}/{seed}").randbytes(length)


def expect_error(answer, status, *codes):
    """The answer is exactly this S3 error, with a request id in head and body."""
    assert answer.status == status and (answer.code in codes), f"wanted {status} {'/'.join(codes)}, got {answer}"
    request_id = answer.headers.get("x-amz-request-id")
    assert request_id, f"no x-amz-request-id: {answer}"
    assert answer.xml.findtext("RequestId") == request_id, f"two request ids: {answer}"
    assert answer.headers.get("content-type", "").startswith("application/xml"), f"an error is XML: {answer}"
    return answer


def tree_of(folder):
    """Every file below `folder`: relative name → bytes."""
    folder = pathlib.Path(folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def build_tree(folder, files=40, seed=1, large_bytes=11 * 1024 * 1024):
    """A folder with odd names, empty files, nested folders and one file that
    every client sends in parts."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True)
    for number in range(files):
        name = ["plain.txt", "with space.bin", "ümläut.dat", "plus+and&amp.txt", "100%.txt", "日本.txt"][number % 6]
        path = folder / f"dir {number % 5}" / f"sub{number % 3}" / f"{number:03}-{name}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(some_bytes([0, 1, 100, 4096, 65536, 65537, 200_000][number % 7], seed * 1000 + number))
    (folder / "large.bin").write_bytes(some_bytes(large_bytes, seed))
    return folder


def run(command, env, cwd=None, check=True, timeout_s=240, stdin=None):
    """Runs a client and returns what it printed."""
    done = subprocess.run(
        [str(part) for part in command], env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout_s, input=stdin
    )
    if check:
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def new_home(prefix="ringfence-test-"):
    """A short directory of its own (unix socket paths are limited to 107 bytes)."""
    return pathlib.Path(tempfile.mkdtemp(prefix=prefix))
