#!/usr/bin/env python3
"""A second implementation of the sealed object, from docs/formats/sealed-object.md.

Writes wrap.txt, part.txt and head.txt beside itself; the Rust tests must agree
byte for byte. Needs Python's `cryptography` for AES-GCM and nothing else.
Run it again only when the format changes, which needs a new format byte.
"""

import hashlib
import hmac
import pathlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = pathlib.Path(__file__).parent
SEGMENT = 64 * 1024


def expand(prk, info, length, algorithm):
    out, block, i = b"", b"", 1
    while len(out) < length:
        block = hmac.new(prk, block + info + bytes([i]), algorithm).digest()
        out, i = out + block, i + 1
    return out[:length]


# --- wrap ---------------------------------------------------------------------

def wrap(under, label, context, salt, plain):
    info = b"ringfence wrap 0"
    for field in [label, *context]:
        info += len(field).to_bytes(4, "big") + field
    prk = hmac.new(salt, under, hashlib.sha512).digest()
    okm = expand(prk, info, 76, hashlib.sha512)
    return salt + okm[44:] + AESGCM(okm[:32]).encrypt(okm[32:44], plain, b"")


# --- parts (FLOE) ---------------------------------------------------------------

def lp(name):
    return bytes([len(name)]) + name


def floe_kdf(key, iv, aad, purpose, length):
    params = bytes([0, 0]) + SEGMENT.to_bytes(4, "big") + (32).to_bytes(4, "big")
    return params, expand(key, params + iv + purpose + aad, length, hashlib.sha384)


def seal_part(dek, obj, part, segment_ivs, plain):
    realm, tenant, bucket, version = obj
    derived = expand(dek, b"part" + part, 64, hashlib.sha512)
    key, iv = derived[:32], derived[32:]
    aad = b"\0" + lp(realm) + lp(tenant) + bucket + version + part
    params, tag = floe_kdf(key, iv, aad, b"HEADER_TAG:", 32)
    _, message_key = floe_kdf(key, iv, aad, b"MESSAGE_KEY:", 48)
    out = params + iv + tag
    size = SEGMENT - 32
    pieces = [plain[i:i + size] for i in range(0, len(plain), size)] or [b""]
    for position, piece in enumerate(pieces):
        final = position + 1 == len(pieces)
        masked = position >> 20 << 20
        _, aead = floe_kdf(message_key, iv, aad, b"DEK:" + masked.to_bytes(8, "big"), 32)
        segment_iv = segment_ivs(position)
        body = AESGCM(aead).encrypt(segment_iv, piece, position.to_bytes(8, "big") + bytes([final]))
        length = 4 + 12 + len(body) if final else 0xFFFFFFFF
        out += length.to_bytes(4, "big") + segment_iv + body
    return out


# --- head -----------------------------------------------------------------------

def seal_head(dek, obj, kek_id, seq, wrapped_dek, manifest, salt):
    realm, tenant, _, version = obj
    clear = b"RFhead\r\n" + b"\0" + kek_id + version + seq.to_bytes(8, "big") + wrapped_dek
    manifest += bytes(-len(manifest) % 256)
    key = expand(dek, b"manifest", 32, hashlib.sha512)
    return clear + wrap(key, b"manifest", [realm, tenant, clear], salt, manifest)


# --- the vectors ------------------------------------------------------------------

def pattern(length, start=0):
    return bytes((start + i * 7) % 251 for i in range(length))


def h(data):
    return data.hex() or "-"


def main():
    cases = [
        (bytes(32), bytes(24), b"dek", [b""], bytes(32)),
        (pattern(32), pattern(24, 3), b"tenant kek", [b"realm `main`", b"acme", b"\0\0\0\1"], pattern(32, 9)),
        (pattern(32, 1), pattern(24, 4), b"access key secret", [b"main", b"acme", b"AKEXAMPLE"], b"a secret"),
        (pattern(32, 2), pattern(24, 5), b"manifest", [b"main", b"acme", pattern(153)], pattern(300)),
        (pattern(32, 2), pattern(24, 6), b"x", [b"", b""], b""),
    ]
    lines = ["# under salt label context,… plain sealed (hexadecimal; - is empty)"]
    for under, salt, label, context, plain in cases:
        sealed = wrap(under, label, context, salt, plain)
        fields = [h(under), h(salt), h(label), ",".join(map(h, context)), h(plain), h(sealed)]
        lines.append(" ".join(fields))
    (HERE / "wrap.txt").write_text("\n".join(lines) + "\n")

    obj = (b"main", b"acme", pattern(16, 10), pattern(16, 20))
    dek, part = pattern(32, 30), pattern(16, 40)
    lines = ["# realm main, tenant acme; bucket, version, dek, part as in docs/formats/sealed-object.md",
             "# plaintext bytes (byte i is i*7 mod 251; IV of segment p is twelve bytes p), SHA-256 of the message"]
    for length in [0, 1, 4096, 65503, 65504, 65505, 131008, 200000]:
        message = seal_part(dek, obj, part, lambda p: bytes([p]) * 12, pattern(length))
        lines.append(f"{length} {hashlib.sha256(message).hexdigest()}")
    short = seal_part(dek, obj, part, lambda p: bytes([p]) * 12, b"hello")
    lines.append(f"# the message of `hello`\nhello {short.hex()}")
    (HERE / "part.txt").write_text("\n".join(lines) + "\n")

    kek = pattern(32, 50)
    wrapped = wrap(kek, b"dek", [b"main", b"acme", (3).to_bytes(4, "big"), obj[3]], pattern(24, 60), dek)
    manifest = (HERE / "manifest.hex").read_text().strip()
    head = seal_head(dek, obj, pattern(16, 70), 7, wrapped, bytes.fromhex(manifest), pattern(24, 80))
    lines = ["# head of the same object under KEK version 3, head sequence 7; manifest in manifest.hex",
             f"kek {kek.hex()}", f"wrapped_dek {wrapped.hex()}", f"head {head.hex()}"]
    (HERE / "head.txt").write_text("\n".join(lines) + "\n")


main()
