#!/usr/bin/env python3
"""A second implementation of the keyring, from docs/formats/keyring.md.

Writes keys/ and expected.txt beside itself; the vault must open the keyrings and
find what expected.txt says. Needs Python's `cryptography`. Run it again only when
the format changes, which needs a new format byte.
"""

import hashlib
import hmac
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).parent


def expand(prk, info, length):
    out, block, i = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([i]), hashlib.sha512).digest()
        out, i = out + block, i + 1
    return out[:length]


def wrap(under, label, context, salt, plain):
    info = b"ringfence wrap 0"
    for field in [label, *context]:
        info += len(field).to_bytes(4, "big") + field
    okm = expand(hmac.new(salt, under, hashlib.sha512).digest(), info, 76)
    return salt + okm[44:] + AESGCM(okm[:32]).encrypt(okm[32:44], plain, b"")


# --- CBOR, as much of it as a keyring needs ------------------------------------

def head(major, n):
    for size, code in [(1, 24), (2, 25), (4, 26), (8, 27)]:
        if n < 24:
            return bytes([major << 5 | n])
        if n < 1 << 8 * size:
            return bytes([major << 5 | code]) + n.to_bytes(size, "big")


def cbor(value):
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    present = {k: v for k, v in value.items() if v is not None}
    return head(5, len(present)) + b"".join(cbor(k) + cbor(v) for k, v in sorted(present.items()))


# --- the keyring ------------------------------------------------------------------

def pattern(length, start):
    return bytes((start + i * 7) % 251 for i in range(length))


LABELS = [b"tenant kek", b"evidence", b"access secrets", b"log signing", b"named secret", b"keyring integrity"]


def keyring(owner, owner_text, key_file, start, keys):
    """`keys` are (purpose, tenant, version, name, named secret, key)."""
    salt, root = pattern(16, start), pattern(32, start + 1)
    slot_key = expand(hmac.new(salt, key_file, hashlib.sha512).digest(), b"ringfence key file 0", 32)
    wrapped_root = wrap(slot_key, b"root kek", [owner_text], pattern(24, start + 2), root)
    integrity = pattern(32, start + 3)
    rows = key_rows(owner_text, root, start, integrity, keys)
    body = {0: owner, 1: [0, [salt]], 2: wrapped_root, 3: 1, 4: rows, 5: b""}
    body[5] = hmac.new(integrity, cbor(body), hashlib.sha256).digest()
    encoded = cbor(body)
    file = b"RFkeys\r\n" + b"\0" + len(encoded).to_bytes(4, "big") + encoded
    return file + hashlib.sha256(file).digest(), {0: owner, 1: rows, 2: 1, 3: root}


def key_rows(owner_text, root, start, integrity, keys):
    rows = []
    for n, (purpose, tenant, version, name, secret, key) in enumerate([(5, None, 1, None, None, integrity), *keys]):
        row_id = pattern(16, start + 10 + n)
        context = [owner_text, (tenant or "").encode(), version.to_bytes(4, "big"), row_id, (name or "").encode()]
        wrapped = wrap(root, LABELS[purpose], context, pattern(24, start + 40 + n), key)
        sealed = b""
        if secret:
            sealed = wrap(key, b"named secret text", [name.encode()], pattern(24, start + 70), secret)
        rows.append({0: purpose, 1: tenant, 2: version, 3: row_id, 4: wrapped, 5: name, 6: sealed})
    return rows


def backup(passphrase, exported):
    """A backup; the cost is far below what is written in earnest, for the test's sake."""
    salt, memory_kib, passes, lanes = pattern(16, 130), 1024, 1, 1
    key = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(passphrase)
    slot = cbor([1, [salt, memory_kib, passes, lanes]])
    header = b"RFbackup" + b"\0" + len(slot).to_bytes(4, "big") + slot
    return header + wrap(key, b"key backup", [header], pattern(24, 131), cbor(exported))


def main():
    keys = HERE / "keys"
    keys.mkdir(exist_ok=True)
    key_file = pattern(32, 200)
    (keys / "development.key").write_bytes(key_file)
    seed, access, kek = pattern(32, 100), pattern(32, 101), pattern(32, 102)
    installation, exported_1 = keyring(
        [0, ["ringfence.example/log"]], b"the installation", key_file, 1,
        [(3, None, 1, None, None, seed), (1, None, 1, None, None, pattern(32, 103)),
         (4, None, 1, "site/cloud", b"credential", pattern(32, 104))])
    realm, exported_2 = keyring(
        [1, ["main"]], b"realm `main`", key_file, 2,
        [(0, "acme", 1, None, None, pattern(32, 105)), (0, "acme", 2, None, None, kek),
         (1, "acme", 1, None, None, pattern(32, 106)), (2, "acme", 1, None, None, access)])
    (keys / "installation.keyring").write_bytes(installation)
    (keys / "realm-main.keyring").write_bytes(realm)
    (HERE / "backup").write_bytes(backup(b"a passphrase for the safe", [exported_1, exported_2]))

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    secret = wrap(access, b"access key secret", [b"main", b"acme", b"AKEXAMPLE0123456"], pattern(24, 110), b"s3cret")
    version, dek = pattern(16, 120), pattern(32, 121)
    wrapped_dek = wrap(kek, b"dek", [b"main", b"acme", (2).to_bytes(4, "big"), version], pattern(24, 122), dek)
    lines = ["# log key; secret `s3cret` of AKEXAMPLE0123456; DEK of a version under KEK version 2 and that KEK's id",
             f"log_public_key {public.hex()}", f"access_key_secret {secret.hex()}", f"version {version.hex()}",
             f"dek {dek.hex()}", f"wrapped_dek {wrapped_dek.hex()}", f"kek_id {pattern(16, 2 + 10 + 2).hex()}"]
    (HERE / "expected.txt").write_text("\n".join(lines) + "\n")


main()
