#!/usr/bin/env python3
"""A second implementation of the session token, from docs/formats/session.md.

Writes session.txt beside itself; the Rust tests must agree byte for byte. Needs
Python's `cryptography` for Ed25519 and nothing else.
"""

import base64
import hashlib
import json
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).parent
NOW = 1_800_000_000


def sha256(data):
    return hashlib.sha256(data).digest()


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def pae(*pieces):
    return b"".join([len(pieces).to_bytes(8, "little"), *(len(p).to_bytes(8, "little") + p for p in pieces)])


def cbor(value):
    def head(major, n):
        for size, info in ((0, None), (1, 24), (2, 25), (4, 26), (8, 27)):
            if (size == 0 and n < 24) or (size and n < 1 << 8 * size):
                return bytes([major << 5 | (n if info is None else info)]) + (n.to_bytes(size, "big") if size else b"")

    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    there = sorted((k, v) for k, v in value.items() if v is not None)
    return head(5, len(there)) + b"".join(cbor(k) + cbor(v) for k, v in there)


class Key:
    def __init__(self, seed):
        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.kid = sha256(self.public)[:8]

    def sign(self, message):
        return self.private.sign(message)

    def row(self, purpose):
        return {0: [0, [self.public]], 1: "acme", 2: purpose, 3: ["cloud", "home"], 4: NOW - 1000, 5: NOW + 100_000}


def node(left, right):
    return sha256(b"\1" + left + right)


def main():
    issuer, admission, root = Key(1), Key(2), Key(7)
    payload = json.dumps({
        "jti": "07" * 16, "rlm": "main", "tnt": "acme", "pur": "sts-session", "sub": "keycloak--alice",
        "rol": "reader", "pol": b64(b"\1" * 16), "spo": b64(bytes(32)), "iat": NOW, "nbf": NOW, "exp": NOW + 900,
        "sts": ["home"], "evd": b64(b"\2" * 32), "iss": "keycloak", "ejt": b64(b"\3" * 16),
        "cnf": "ASIAABCDEFGHIJKLMNOP", "par": None,
    }, separators=(",", ":")).encode()
    footer, header = issuer.kid.hex().encode(), b"v4.public."
    implicit = b"ringfence|main|acme|sts-session|home"
    signature = issuer.sign(pae(header, payload, footer, implicit))
    paseto = f"{header.decode()}{b64(payload + signature)}.{b64(footer)}"

    draft = {0: 0, 1: "main", 2: b"\x09" * 16, 3: issuer.kid, 4: 0, 5: NOW, 6: NOW + 900, 7: sha256(paseto.encode())}
    admitted = admission.sign(pae(b"ringfence issuance v0", cbor(draft)))
    issuance = cbor({0: draft, 1: admission.kid, 2: admitted})
    entry = b"\2" + b"\xcc" * 32 + issuance

    # A log of seven entries; the leaf of the token is number 5.
    others = [sha256(b"\0" + n.to_bytes(8, "big")) for n in range(5)]
    last = sha256(b"\0" + b"one more")
    path = [others[4], last, node(node(*others[:2]), node(*others[2:4]))]
    receipt = cbor({0: 5, 1: entry, 2: path, 3: "a note\n"})

    manifest = {0: 0, 1: "main", 2: 1, 4: NOW - 2000, 5: [issuer.row(0), admission.row(6)]}
    signed = cbor({0: manifest, 1: root.sign(pae(b"ringfence manifest v0", cbor(manifest)))})
    revocation = cbor({0: 0, 1: "main", 2: [3, [issuer.kid]], 3: 6, 4: NOW})
    salt = b"\4" * 16
    subject = sha256(pae(salt, b"subject", b"main", b"acme", b"keycloak--alice"))
    by_subject = cbor({0: 0, 1: "main", 2: [1, [salt, subject]], 3: 0, 4: NOW})
    lines = ["# A session token, its leaf and its realm's manifest; docs/formats/session.md. Made by session.py.",
             "# Ed25519 keys from seeds of 32 equal bytes: issuer 01, admission 02, root 07.",
             f"token {paseto}~{b64(receipt)}~", f"entry {entry.hex()}", f"manifest {signed.hex()}",
             f"revocation_of_key {revocation.hex()}", f"revocation_of_subject {by_subject.hex()}"]
    (HERE / "session.txt").write_text("\n".join(lines) + "\n")


main()
