"""Session tokens by code that is not ours: PASETO v4.public, the receipt, the leaf.

From paseto.io (specification v4), RFC 8949 and docs/formats/session.md. It makes
what a thief would make and checks what an auditor would check.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, replace

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import tlog

HEADER = "v4.public."
PURPOSES = ["sts-session", "api", "console", "node", "audit", "lockbox", "admission"]


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- PASETO ------------------------------------------------------------------------


def encoded(*pieces):
    """PAE: how many pieces, then each with its length, 64 bits little-endian."""
    out = len(pieces).to_bytes(8, "little")
    for piece in pieces:
        out += len(piece).to_bytes(8, "little") + piece
    return out


def raw(public):
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def kid_of(public):
    """16 hexadecimal digits: the first 8 bytes of SHA-256 of the key."""
    return hashlib.sha256(raw(public)).hexdigest()[:16]


def sign(key, payload, footer=b"", implicit=b""):
    signature = key.sign(encoded(HEADER.encode(), payload, footer, implicit))
    return HEADER + b64(payload + signature) + ("." + b64(footer) if footer else "")


def opened(public, text, implicit=b""):
    """The payload, if this key signed it with these implicit words."""
    body, _, footer = text.removeprefix(HEADER).partition(".")
    tlog.demand(text.startswith(HEADER), "no v4.public token")
    data, footer = unb64(body), unb64(footer)
    payload, signature = data[:-64], data[-64:]
    try:
        public.verify(signature, encoded(HEADER.encode(), payload, footer, implicit))
    except InvalidSignature:
        raise tlog.LogError("the signature of the token is wrong") from None
    return payload


def assertion(claims, **other):
    """What is signed with a token and not sent: realm, tenant, purpose, sites."""
    said = claims | other
    return f"ringfence|{said['rlm']}|{said['tnt']}|{said['pur']}|{','.join(said['sts'])}".encode()


# --- CBOR, as much of it as receipts and keyrings need --------------------------------


def cbor(value):
    if value is None or isinstance(value, bool):
        return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[value]
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        return _head(3, len(value.encode())) + value.encode()
    if isinstance(value, (list, tuple)):
        return _head(4, len(value)) + b"".join(map(cbor, value))
    return _head(5, len(value)) + b"".join(cbor(k) + cbor(v) for k, v in sorted(value.items()))


def _head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    size, code = next((s, c) for s, c in [(1, 24), (2, 25), (4, 26), (8, 27)] if n < 1 << 8 * s)
    return bytes([major << 5 | code]) + n.to_bytes(size, "big")


def uncbor(data):
    value, at = _read(data, 0)
    tlog.demand(at == len(data), "bytes follow the CBOR")
    return value


def _read(data, at):
    first, at = data[at], at + 1
    major, n = first >> 5, first & 31
    if major == 7:
        return {20: False, 21: True, 22: None}[n], at
    if n > 23:
        size = {24: 1, 25: 2, 26: 4, 27: 8}[n]
        n, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major == 0:
        return n, at
    if major in (2, 3):
        piece = data[at : at + n]
        tlog.demand(len(piece) == n, "the CBOR is cut")
        return (piece if major == 2 else piece.decode()), at + n
    if major == 4:
        items = []
        for _ in range(n):
            item, at = _read(data, at)
            items.append(item)
        return items, at
    tlog.demand(major == 5, f"CBOR of major type {major}")
    found = {}
    for _ in range(n):
        key, at = _read(data, at)
        found[key], at = _read(data, at)
    return found, at


# --- the session token --------------------------------------------------------------


@dataclass(frozen=True)
class Receipt:
    index: int
    entry: bytes
    path: tuple
    checkpoint: str

    @staticmethod
    def parse(data):
        found = uncbor(data)
        return Receipt(found[0], found[1], tuple(found[2]), found[3])

    def bytes(self):
        return cbor({0: self.index, 1: self.entry, 2: list(self.path), 3: self.checkpoint})


@dataclass(frozen=True)
class Token:
    """`<paseto>~<receipt>~<session policy>`, taken apart."""

    payload: bytes
    signature: bytes
    footer: bytes
    receipt: Receipt | None
    policy: str

    @staticmethod
    def parse(text):
        paseto, receipt, policy = text.split("~")
        body, _, footer = paseto.removeprefix(HEADER).partition(".")
        data = unb64(body)
        receipt = Receipt.parse(unb64(receipt)) if receipt else None
        return Token(data[:-64], data[-64:], unb64(footer), receipt, unb64(policy).decode())

    @property
    def claims(self):
        return json.loads(self.payload)

    @property
    def kid(self):
        return self.footer.decode()

    @property
    def paseto(self):
        return f"{HEADER}{b64(self.payload + self.signature)}.{b64(self.footer)}"

    @property
    def text(self):
        receipt = b64(self.receipt.bytes()) if self.receipt else ""
        return f"{self.paseto}~{receipt}~{b64(self.policy.encode())}"

    def but(self, **changes):
        """The same token with parts exchanged; nothing is signed again."""
        return replace(self, **changes)

    def received(self, **changes):
        """The same with parts of its receipt exchanged."""
        return replace(self, receipt=replace(self.receipt, **changes))


def forge(key, claims, receipt=None, policy="", implicit=None, kid=None):
    """What whoever holds `key` can make: claims as they like, validly signed."""
    payload = json.dumps(claims, separators=(",", ":")).encode()
    footer = (kid or kid_of(key.public_key())).encode()
    signature = key.sign(encoded(HEADER.encode(), payload, footer, implicit or assertion(claims)))
    return Token(payload, signature, footer, receipt, policy)


def key_of(seed):
    return Ed25519PrivateKey.from_private_bytes(seed)


# --- the leaf -----------------------------------------------------------------------


@dataclass(frozen=True)
class Issuance:
    """The public part of an issuance."""

    realm: str
    tenant: bytes
    kid: str
    purpose: str
    from_s: int
    until_s: int
    token_sha256: bytes
    parent: int | None
    admitted_by: str
    admission: bytes
    draft: bytes

    @staticmethod
    def parse(public):
        found = uncbor(public)
        draft = found[0]
        tlog.demand(draft[0] == 0, "an issuance of unknown version")
        names = ["realm", "tenant", "kid", "purpose", "from_s", "until_s", "token_sha256"]
        said = {name: draft[n] for n, name in enumerate(names, 1)}
        said |= {"kid": draft[3].hex(), "purpose": PURPOSES[draft[4]]}
        return Issuance(
            **said, parent=draft.get(8), admitted_by=found[1].hex(), admission=found[2], draft=cbor(draft)
        )

    def is_admitted(self, public):
        """Whether the admission key signed this very draft."""
        try:
            public.verify(self.admission, encoded(b"ringfence issuance v0", self.draft))
        except InvalidSignature:
            return False
        return True


def check_issued(text, log_key, keys):
    """What an auditor checks of a session token, with public things only: the
    log's verifier key, and the public keys of the realm by id. Returns claims,
    leaf and position."""
    token = Token.parse(text)
    claims, receipt = token.claims, token.receipt
    tlog.demand(receipt is not None, "no receipt")
    payload = opened(keys[token.kid], token.paseto, assertion(claims))
    tlog.demand(payload == token.payload, "another payload")
    head = tlog.Checkpoint.verify(receipt.checkpoint.encode(), tlog.VerifierKey.parse(log_key))
    leaf = tlog.leaf_hash(receipt.entry)
    tlog.check_inclusion(receipt.path, receipt.index, head.size, leaf, head.root)
    kind, _, public = tlog.entry_parts(receipt.entry)
    tlog.demand(kind == tlog.ISSUANCE, "the leaf is no issuance")
    issuance = Issuance.parse(public)
    tlog.demand(issuance.token_sha256 == hashlib.sha256(token.paseto.encode()).digest(), "the leaf is another token's")
    same = (issuance.realm, issuance.kid, issuance.purpose) == (claims["rlm"], token.kid, claims["pur"])
    tlog.demand(same and (issuance.from_s, issuance.until_s) == (claims["nbf"], claims["exp"]), "leaf and token differ")
    tlog.demand(issuance.is_admitted(keys[issuance.admitted_by]), "the leaf is not admitted")
    return claims, issuance, receipt


def public_key(text):
    """`ed25519:<base64url>`, as manifests and the command line show it."""
    kind, _, encoded_key = text.partition(":")
    tlog.demand(kind == "ed25519", f"a key of kind {kind}")
    return Ed25519PublicKey.from_public_bytes(unb64(encoded_key))
