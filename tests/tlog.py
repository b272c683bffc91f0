"""An independent verifier of a C2SP transparency log, from the specifications.

Written without a look at the product: c2sp.org/signed-note, tlog-checkpoint,
tlog-cosignature, tlog-tiles, and RFC 6962 for the tree. It reads a directory or a base URL. Of
an entry it knows what docs/formats/log.md says: whether it has a public part.
"""

import base64
import hashlib
import pathlib
import urllib.error
import urllib.request
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

WIDTH = 256


class LogError(Exception):
    """The log does not verify."""


def demand(true, what):
    if not true:
        raise LogError(what)


# --- signed notes and checkpoints -------------------------------------------------


@dataclass(frozen=True)
class VerifierKey:
    """`<name>+<hash>+<base64(type ‖ key)>`"""

    name: str
    hash: bytes
    key: Ed25519PublicKey

    @staticmethod
    def parse(text):
        name, digest, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        demand(raw[:1] == b"\x01" and len(raw) == 33, "the verifier key is no Ed25519 key")
        demand(name and not any(c.isspace() or c == "+" for c in name), "the key's name is malformed")
        wanted = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        demand(bytes.fromhex(digest) == wanted, "the verifier key's hash does not match its key")
        return VerifierKey(name, wanted, Ed25519PublicKey.from_public_bytes(raw[1:]))


@dataclass(frozen=True)
class Checkpoint:
    origin: str
    size: int
    root: bytes
    extensions: tuple
    text: bytes

    @staticmethod
    def verify(note, verifier):
        """Parses a signed note and checks the signature of `verifier`."""
        text, separator, signatures = note.rpartition(b"\n\n")
        demand(separator, "the note has no signatures")
        text += b"\n"
        demand(note.endswith(b"\n"), "the note does not end with a newline")
        demand(all(c >= 0x20 or c == 0x0A for c in note), "the note holds control characters")
        good = False
        for line in signatures.decode().splitlines():
            demand(line.startswith("\u2014 "), f"no signature line: {line!r}")
            name, _, encoded = line[2:].partition(" ")
            raw = base64.b64decode(encoded, validate=True)
            if name == verifier.name and raw[:4] == verifier.hash:
                try:
                    verifier.key.verify(raw[4:], text)
                except InvalidSignature:
                    raise LogError("the signature of the checkpoint is wrong") from None
                good = True
        demand(good, "the checkpoint carries no signature of this key")
        lines = text.decode().split("\n")[:-1]
        demand(len(lines) >= 3 and lines[0], "a checkpoint has three lines at least")
        size = lines[1]
        demand(size.isascii() and size.isdigit() and (size == "0" or size[0] != "0"), "the size is malformed")
        root = base64.b64decode(lines[2], validate=True)
        demand(len(root) == 32, "the root has 32 bytes")
        return Checkpoint(lines[0], int(size), root, tuple(lines[3:]), text)


@dataclass(frozen=True)
class Witness:
    """A witness's verifier key: type 0x04."""

    name: str
    hash: bytes
    key: Ed25519PublicKey

    @staticmethod
    def parse(text):
        name, digest, encoded = text.strip().split("+", 2)
        raw = base64.b64decode(encoded, validate=True)
        demand(raw[:1] == b"\x04" and len(raw) == 33, "not the key of a witness")
        wanted = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
        demand(bytes.fromhex(digest) == wanted, "the key's hash does not match it")
        return Witness(name, wanted, Ed25519PublicKey.from_public_bytes(raw[1:]))

    def cosigned(self, note):
        """When it cosigned this note, in Unix seconds; None if it did not."""
        text, _, signatures = note.rpartition(b"\n\n")
        times = []
        for line in signatures.decode().splitlines():
            name, _, encoded = line[2:].partition(" ")
            raw = base64.b64decode(encoded, validate=True)
            if name != self.name or raw[:4] != self.hash:
                continue
            demand(len(raw) == 4 + 8 + 64, "a cosignature has 72 bytes")
            time = int.from_bytes(raw[4:12], "big")
            try:
                self.key.verify(raw[12:], b"cosignature/v1\ntime %d\n" % time + text + b"\n")
            except InvalidSignature:
                raise LogError(f"the cosignature of {name} is wrong") from None
            times.append(time)
        return max(times, default=None)


# --- where tiles come from ------------------------------------------------------------


class Directory:
    def __init__(self, path):
        self.path = pathlib.Path(path)

    def read(self, name):
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


class Http:
    def __init__(self, base):
        self.base = base.rstrip("/")
        self.types = {}

    def read(self, name):
        try:
            with urllib.request.urlopen(f"{self.base}/{name}", timeout=20) as answer:
                self.types[name] = answer.headers.get("Content-Type", "")
                return answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise


def tile_path(level, number, width=WIDTH):
    """`tile/<L>/<N>[.p/<W>]`, N in groups of three digits, all but the last with an x."""
    digits = f"{number:03}"
    digits = digits.zfill((len(digits) + 2) // 3 * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    name = "/".join([*(f"x{g}" for g in groups[:-1]), groups[-1]])
    return f"tile/{level}/{name}" + ("" if width == WIDTH else f".p/{width}")


def read_tile(source, level, number, width):
    """A tile's bytes cut to `width` hashes; the full tile may stand in for a partial one."""
    data = source.read(tile_path(level, number, width))
    if data is None and width < WIDTH:
        data = source.read(tile_path(level, number))
    demand(data is not None, f"{tile_path(level, number, width)} is missing")
    return data


# --- RFC 6962 -----------------------------------------------------------------------------


def leaf_hash(entry):
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def root_of(hashes):
    """The root of a tree with these leaves; the empty tree's is SHA-256("")."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    level = list(hashes)
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [node_hash(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)] + odd
    return level[0]


def _split(n):
    """The largest power of two smaller than n."""
    return 1 << ((n - 1).bit_length() - 1)


def inclusion_proof(hashes, index):
    if len(hashes) <= 1:
        return []
    k = _split(len(hashes))
    if index < k:
        return inclusion_proof(hashes[:k], index) + [root_of(hashes[k:])]
    return inclusion_proof(hashes[k:], index - k) + [root_of(hashes[:k])]


def check_inclusion(proof, index, size, leaf, root):
    """RFC 9162, 2.1.3.2."""
    demand(index < size, "the index lies outside the tree")
    fn, sn, got = index, size - 1, leaf
    for step in proof:
        demand(sn > 0, "the proof is too long")
        if fn & 1 or fn == sn:
            got = node_hash(step, got)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            got = node_hash(got, step)
        fn, sn = fn >> 1, sn >> 1
    demand(sn == 0 and got == root, "the inclusion proof does not lead to the root")


def consistency_proof(hashes, old):
    def subproof(m, part, whole):
        n = len(part)
        if m == n:
            return [] if whole else [root_of(part)]
        k = _split(n)
        if m <= k:
            return subproof(m, part[:k], whole) + [root_of(part[k:])]
        return subproof(m - k, part[k:], False) + [root_of(part[:k])]

    return subproof(old, hashes, True) if 0 < old < len(hashes) else []


def check_consistency(proof, old, new, old_root, new_root):
    """RFC 9162, 2.1.4.2."""
    demand(old <= new, "the log became shorter")
    if old == new:
        demand(not proof and old_root == new_root, "two roots of the same size differ")
        return
    if old == 0:
        return
    path = ([old_root] if old & (old - 1) == 0 else []) + list(proof)
    demand(path, "the proof is empty")
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for step in path[1:]:
        demand(sn > 0, "the proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = node_hash(step, fr), node_hash(step, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, step)
        fn, sn = fn >> 1, sn >> 1
    demand(sn == 0 and fr == old_root and sr == new_root, "the two checkpoints are not consistent")


# --- the whole log ---------------------------------------------------------------------------


@dataclass
class Verified:
    checkpoint: Checkpoint
    leaves: list
    entries: list

    def public(self):
        """Index, kind and bytes of every public entry."""
        parts = ((index, *entry_parts(entry)) for index, entry in enumerate(self.entries))
        return [(index, kind, public) for index, kind, _, public in parts if kind != ACCESS]


ACCESS, ISSUANCE, MANIFEST, REVOCATION, WITNESS_SET = range(1, 6)


def entry_parts(entry):
    """Kind, hash of the commitments, and public bytes of an entry."""
    kind, commitments, public = entry[0], entry[1:33], entry[33:]
    demand(len(commitments) == 32, "an entry is too short")
    demand(ACCESS <= kind <= WITNESS_SET, f"an entry of unknown type {kind}")
    demand((len(public) == 0) if kind == ACCESS else (0 < len(public) <= 8192), "an entry has a wrong length")
    return kind, commitments, public


def verify(source, vkey, checkpoint=None):
    """Verifies every tile and entry of a log against its signed checkpoint."""
    verifier = VerifierKey.parse(vkey)
    note = checkpoint or source.read("checkpoint")
    demand(note is not None, "there is no checkpoint")
    head = Checkpoint.verify(note, verifier)
    leaves, entries = [], []
    for number in range((head.size + WIDTH - 1) // WIDTH):
        width = min(WIDTH, head.size - number * WIDTH)
        data = read_tile(source, 0, number, width)
        demand(len(data) >= 32 * width and len(data) % 32 == 0, f"level 0 tile {number} has a wrong length")
        leaves += [data[i * 32 : i * 32 + 32] for i in range(width)]
        entries += read_bundle(source, number, width)
    for index, (leaf, entry) in enumerate(zip(leaves, entries, strict=True)):
        demand(leaf_hash(entry) == leaf, f"entry {index} does not hash to its leaf")
        entry_parts(entry)
    demand(root_of(leaves) == head.root, "the tiles do not lead to the signed root")
    verify_upper_tiles(source, head.size, leaves)
    return Verified(head, leaves, entries)


def read_bundle(source, number, width):
    """The entries of one bundle: each two bytes of length, then itself."""
    data = read_tile(source, "entries", number, width)
    entries, at = [], 0
    while at < len(data) and len(entries) < width:
        length = int.from_bytes(data[at : at + 2], "big")
        entry = data[at + 2 : at + 2 + length]
        demand(len(entry) == length, f"entry bundle {number} is cut")
        entries.append(entry)
        at += 2 + length
    demand(len(entries) == width, f"entry bundle {number} holds too few entries")
    return entries


def verify_upper_tiles(source, size, leaves):
    hashes, level = leaves, 1
    while len(hashes) >= WIDTH:
        hashes = [root_of(hashes[i : i + WIDTH]) for i in range(0, len(hashes) - WIDTH + 1, WIDTH)]
        for number in range((len(hashes) + WIDTH - 1) // WIDTH):
            width = min(WIDTH, len(hashes) - number * WIDTH)
            data = read_tile(source, level, number, width)
            wanted = b"".join(hashes[number * WIDTH : number * WIDTH + width])
            demand(data[: 32 * width] == wanted, f"level {level} tile {number} does not match the leaves")
        level += 1
