"""Witnesses as processes, and their cosignatures checked from the specification
(c2sp.org/tlog-witness, c2sp.org/tlog-cosignature), by code that is not ours.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

import tlog
from harness import BINARY, clean_env, free_port, new_home

COSIGNATURE = 4


@dataclass(frozen=True)
class Key:
    name: str
    hash: bytes
    key: Ed25519PublicKey

    @staticmethod
    def parse(text):
        name, digest, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        tlog.demand(raw[0] == COSIGNATURE and len(raw) == 33, "no key of a witness")
        wanted = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        tlog.demand(bytes.fromhex(digest) == wanted, "the key's hash does not match")
        return Key(name, wanted, Ed25519PublicKey.from_public_bytes(raw[1:]))


def cosigned_by(note, keys):
    """Names of the witnesses whose cosignature of this note verifies."""
    text, _, lines = note.rpartition(b"\n\n")
    text += b"\n"
    good = set()
    for line in lines.decode().splitlines():
        name, _, encoded = line.removeprefix("\u2014 ").partition(" ")
        raw = base64.b64decode(encoded)
        for key in keys:
            if key.name == name and key.hash == raw[:4]:
                when = int.from_bytes(raw[4:12], "big")
                try:
                    key.key.verify(raw[12:], b"cosignature/v1\ntime %d\n" % when + text)
                    good.add(name)
                except InvalidSignature:
                    pass
    return good


class Witness:
    """`ringfence witness` with a directory of its own."""

    def __init__(self, log_vkey, name):
        self.home, self.name, self.log_vkey = new_home("witness-"), name, log_vkey.strip()
        self.port, self.process = free_port(), None

    def start(self):
        command = [
            str(BINARY), "witness", "--state", str(self.home / "state"), "--name", self.name,
            "--listen", f"127.0.0.1:{self.port}", "--log", self.log_vkey, "--json",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=clean_env())
        line = self.process.stdout.readline()
        assert line, "the witness did not start"
        said = json.loads(line)
        self.url, self.vkey = said["url"], said["vkey"]
        return self

    @property
    def key(self):
        return Key.parse(self.vkey)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def add_checkpoint(self, old_size, proof, note):
        """Asks as a log would: status and body."""
        lines = [f"old {old_size}", *(base64.b64encode(p).decode() for p in proof), ""]
        body = "\n".join(lines).encode() + b"\n" + note.encode()
        try:
            with urllib.request.urlopen(f"{self.url}/add-checkpoint", data=body, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
