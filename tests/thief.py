"""A thief with the disk: opens keyrings as docs/formats/keyring.md says, with
the development key file that lies beside them, and takes the signing keys.

What the threat model says of somebody who holds the issuer's key is tried with
the very key that the installation signs with.
"""

import hashlib
import hmac
import pathlib
import time

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import paseto

LABELS = [
    "tenant kek", "evidence", "access secrets", "log signing", "named secret",
    "keyring integrity", "session issuer", "admission",
]  # fmt: skip
ACCESS_SECRETS, LOG_SIGNING, ISSUER, ADMISSION = 2, 3, 6, 7


def hkdf(salt, key, info, length):
    """HKDF with SHA-512 (RFC 5869)."""
    prk = hmac.new(salt, key, hashlib.sha512).digest()
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([n]), hashlib.sha512).digest()
        out, n = out + block, n + 1
    return out[:length]


def unwrap(under, label, context, wrapped):
    salt, commitment, sealed = wrapped[:24], wrapped[24:56], wrapped[56:]
    info = b"ringfence wrap 0"
    for field in [label.encode(), *context]:
        info += len(field).to_bytes(4, "big") + field
    okm = hkdf(salt, under, info, 76)
    assert okm[44:] == commitment, f"the wrap of a {label} does not open: the format changed"
    return AESGCM(okm[:32]).decrypt(okm[32:44], sealed, b"")


class Keyring:
    """An opened keyring of an installation that uses the development key file."""

    def __init__(self, data, name):
        keys = pathlib.Path(data) / "keys"
        file = (keys / name).read_bytes()
        assert file[:9] == b"RFkeys\r\n\0", "another format of keyring"
        length = int.from_bytes(file[9:13], "big")
        self.body = paseto.uncbor(file[13 : 13 + length])
        variant, salt = self.body[1]
        assert variant == 0, "not unlocked by a key file"
        slot = hkdf(salt[0], (keys / "development.key").read_bytes(), b"ringfence key file 0", 32)
        kind, owner = self.body[0]
        self.owner = (b"the installation", b"realm `%s`" % str(owner[0]).encode())[kind]
        self.root = unwrap(slot, "root kek", [self.owner], self.body[2])

    def keys(self, purpose, tenant=None):
        """The keys of one kind and tenant with their rows, oldest first."""
        rows = [row for row in self.body[4] if row[0] == purpose and row.get(1) == tenant]
        return [(self._open(row), row) for row in sorted(rows, key=lambda row: row[2])]

    def _open(self, row):
        context = [self.owner, (row.get(1) or "").encode(), row[2].to_bytes(4, "big"), row[3], (row.get(5) or "").encode()]
        context += [paseto.cbor(row[7])] if row.get(7) is not None else []
        return unwrap(self.root, LABELS[row[0]], context, row[4])


def signing(data, realm, tenant, purpose="sts-session", kind=ISSUER, when=None):
    """The private key of a scope that signs at a time (now), as the server uses
    it: of those whose day has come the latest; None where there is none."""
    when = when or time.time()
    rows = Keyring(data, f"realm-{realm}.keyring").keys(kind, tenant)
    mine = [(signs[1], key) for key, signs in ((key, row[7]) for key, row in rows) if paseto.PURPOSES[signs[0]] == purpose]
    begun = [(from_s, key) for from_s, key in mine if from_s <= when]
    return paseto.key_of(max(begun)[1]) if begun else None


def admission(data, realm, tenant):
    return signing(data, realm, tenant, "admission", ADMISSION)


def log_key(data):
    return paseto.key_of(Keyring(data, "installation.keyring").keys(LOG_SIGNING)[-1][0])
