"""AWS Signature Version 4, written from the specification, so that a test can
get any single step of it wrong on purpose.

Nothing here is shared with botocore: the real clients cover that path.
"""

import base64
import datetime
import hashlib
import hmac
import socket
import time
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import dataclass, field
from http.client import HTTPResponse
from urllib.parse import quote

from awscrt import checksums as crt

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Key:
    id: str
    secret: str


@dataclass
class Response:
    status: int
    headers: dict
    body: bytes

    @property
    def xml(self):
        """The body as XML without its namespace."""
        root = ElementTree.fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    @property
    def code(self):
        """The S3 error code, or None where the body is no S3 error."""
        if not self.body.lstrip().startswith(b"<"):
            return None
        root = self.xml
        return root.findtext("Code") if root.tag == "Error" else None

    def __str__(self):
        return f"{self.status} {self.code or ''} {self.headers} {self.body[:600]!r}"


def encode(text, safe="-_.~"):
    """Percent-encodes as SigV4 wants it: everything but A-Z a-z 0-9 - _ . ~"""
    return quote(text, safe=safe)


def path_of(bucket, key=None):
    """The encoded path of a bucket or of an object, path style."""
    return f"/{bucket}" + ("" if key is None else "/" + encode(key, safe="-_.~/"))


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def _hmac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


@dataclass
class Signer:
    key: Key
    region: str = "us-east-1"
    service: str = "s3"
    when: datetime.datetime = field(default_factory=now)
    token: str | None = None

    @property
    def stamp(self):
        return self.when.strftime("%Y%m%dT%H%M%SZ")

    @property
    def scope(self):
        return f"{self.stamp[:8]}/{self.region}/{self.service}/aws4_request"

    def _hex_signature(self, text):
        key = _hmac(("AWS4" + self.key.secret).encode(), self.stamp[:8])
        for step in (self.region, self.service, "aws4_request"):
            key = _hmac(key, step)
        return _hmac(key, text).hex()

    def _sign_request(self, method, path, query, headers, payload):
        names = sorted(name.lower() for name in headers)
        lower = {name.lower(): " ".join(str(value).split()) for name, value in headers.items()}
        pairs = sorted((encode(name), encode(value)) for name, value in query)
        canonical = "\n".join(
            [
                method,
                path,
                "&".join(f"{name}={value}" for name, value in pairs),
                *(f"{name}:{lower[name]}" for name in names),
                "",
                ";".join(names),
                payload,
            ]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        return self._hex_signature(f"AWS4-HMAC-SHA256\n{self.stamp}\n{self.scope}\n{digest}")

    def header(self, method, path, query, headers, payload):
        """Adds the signature to `headers` and returns it."""
        headers.setdefault("x-amz-date", self.stamp)
        headers.setdefault("x-amz-content-sha256", payload)
        if self.token:
            headers["x-amz-security-token"] = self.token
        signature = self._sign_request(method, path, query, headers, payload)
        signed = ";".join(sorted(name.lower() for name in headers))
        headers["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.key.id}/{self.scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        return signature

    def presign(self, method, path, query, headers, expires_s):
        """The query of a presigned URL."""
        query = list(query) + [
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", f"{self.key.id}/{self.scope}"),
            ("X-Amz-Date", self.stamp),
            ("X-Amz-Expires", str(expires_s)),
            ("X-Amz-SignedHeaders", ";".join(sorted(name.lower() for name in headers))),
        ]
        signature = self._sign_request(method, path, query, headers, "UNSIGNED-PAYLOAD")
        return query + [("X-Amz-Signature", signature)]

    def chunk(self, previous, data):
        """Signature of one chunk of a streaming upload."""
        return self._hex_signature(
            "AWS4-HMAC-SHA256-PAYLOAD\n"
            f"{self.stamp}\n{self.scope}\n{previous}\n{EMPTY_SHA256}\n{hashlib.sha256(data).hexdigest()}"
        )

    def trailer(self, previous, text):
        """Signature of the trailing headers of a streaming upload."""
        return self._hex_signature(
            "AWS4-HMAC-SHA256-TRAILER\n"
            f"{self.stamp}\n{self.scope}\n{previous}\n{hashlib.sha256(text.encode()).hexdigest()}"
        )


# --- checksums -----------------------------------------------------------

CHECKSUMS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: crt.crc32c(data).to_bytes(4, "big"),
    "CRC64NVME": lambda data: crt.crc64nvme(data).to_bytes(8, "big"),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def b64(data):
    return base64.b64encode(data).decode()


def checksum(algorithm, data):
    return b64(CHECKSUMS[algorithm](data))


def content_md5(data):
    return b64(hashlib.md5(data).digest())


def md5_hex(data):
    return hashlib.md5(data).hexdigest()


# --- the body of a streaming upload ----------------------------------------


def streaming_signed(signer, seed, data, chunk_bytes, trailer=None, spoil=None):
    """An aws-chunked body with signed chunks. `trailer` is (name, value).
    `spoil` is ("chunk", n) or "final" or "trailer": which signature is wrong."""
    pieces = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)] + [b""]
    previous, out = seed, bytearray()
    for number, piece in enumerate(pieces):
        previous = signer.chunk(previous, piece)
        shown = previous
        if spoil == ("chunk", number) or (spoil == "final" and not piece):
            shown = ("0" if shown[0] != "0" else "1") + shown[1:]
        out += f"{len(piece):x};chunk-signature={shown}\r\n".encode() + piece
        out += b"\r\n" if piece or not trailer else b""
    if trailer:
        line = f"{trailer[0]}:{trailer[1]}\n"
        signature = signer.trailer(previous, line)
        if spoil == "trailer":
            signature = signature[::-1]
        out += f"{trailer[0]}:{trailer[1]}\r\nx-amz-trailer-signature:{signature}\r\n\r\n".encode()
    return bytes(out)


def streaming_unsigned(data, chunk_bytes, trailer=None):
    pieces = [data[i : i + chunk_bytes] for i in range(0, len(data), chunk_bytes)]
    out = bytearray()
    for piece in pieces:
        out += f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    out += b"0\r\n"
    if trailer:
        out += f"{trailer[0]}:{trailer[1]}\r\n".encode()
    return bytes(out + b"\r\n")


# --- sending ---------------------------------------------------------------


def send(address, method, target, headers, body=b"", close_after=None, wait_for_continue=False, timeout_s=60):
    """Sends exactly these bytes and reads one answer.

    `close_after`: send only that many bytes of the body, then close our half.
    """
    with socket.create_connection(address, timeout=timeout_s) as connection:
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        connection.sendall("\r\n".join(lines).encode("utf-8"))
        if wait_for_continue:
            interim = connection.recv(4096)
            if not interim.startswith(b"HTTP/1.1 100"):
                return _answer(method, connection, interim)
        try:
            connection.sendall(body if close_after is None else body[:close_after])
            if close_after is not None:
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The server may answer before it has read everything.
        return _answer(method, connection)


class _Replay:
    """A socket whose first bytes were already read."""

    def __init__(self, connection, first):
        self.connection, self.first = connection, first

    def makefile(self, mode):
        import io

        class Joined(io.RawIOBase):
            def readable(_):
                return True

            def readinto(_, buffer):
                piece = self.first[: len(buffer)] if self.first else self.connection.recv(len(buffer))
                self.first = self.first[len(piece) :] if self.first else b""
                buffer[: len(piece)] = piece
                return len(piece)

        return io.BufferedReader(Joined())


def _answer(method, connection, first=b""):
    answer = HTTPResponse(_Replay(connection, first), method=method)
    answer.begin()
    body = answer.read()
    headers = {}
    for name, value in answer.getheaders():
        headers[name.lower()] = value
    return Response(answer.status, headers, body)


def until(check, what, deadline_s=30.0, interval_s=0.02):
    """Polls `check` until it returns something true, and returns that."""
    end = time.monotonic() + deadline_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {deadline_s} s in vain for {what}")
        time.sleep(interval_s)
