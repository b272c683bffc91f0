"""The log, checked by a verifier that shares no line with the product (tlog.py)."""

import base64
import os
import random
import shutil

import pytest

import tlog
from harness import some_bytes, unique
from sigv4 import Signer, until


def vkey(server):
    return (server.data / "log" / "log.vkey").read_text()


def verified(server):
    """The log as it lies on disk, once everything recorded is published."""
    return tlog.verify(tlog.Directory(server.data / "log"), vkey(server))


def size(server):
    note = (server.data / "log" / "checkpoint").read_bytes()
    return tlog.Checkpoint.verify(note, tlog.VerifierKey.parse(vkey(server))).size


def grown(server, before, by):
    """Waits until the published log has grown by at least `by` records."""
    return until(lambda: size(server) >= before + by and size(server), f"{by} records after #{before}")


def index_of(request_id):
    """A request id is the record's index in base32: 13 digits of RFC 4648's alphabet."""
    assert len(request_id) == 13, request_id
    index = 0
    for digit in request_id:
        index = index * 32 + "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".index(digit)
    return index


# --- our own verifier is right ------------------------------------------------------------


def test_the_verifier_agrees_with_published_vectors():
    """Roots of RFC 6962's reference tree (certificate-transparency test data)."""
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    hashes = [tlog.leaf_hash(bytes.fromhex(leaf)) for leaf in leaves]
    for n, root in enumerate(roots, 1):
        assert tlog.root_of(hashes[:n]).hex() == root
        for index in range(n):
            proof = tlog.inclusion_proof(hashes[:n], index)
            tlog.check_inclusion(proof, index, n, hashes[index], tlog.root_of(hashes[:n]))
        for old in range(1, n + 1):
            proof = tlog.consistency_proof(hashes[:n], old)
            tlog.check_consistency(proof, old, n, tlog.root_of(hashes[:old]), tlog.root_of(hashes[:n]))
    with pytest.raises(tlog.LogError):
        tlog.check_inclusion(tlog.inclusion_proof(hashes, 3), 4, 8, hashes[3], tlog.root_of(hashes))


def test_the_verifier_names_tiles_as_c2sp_does():
    assert tlog.tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tlog.tile_path(1, 5, 70) == "tile/1/005.p/70"
    assert tlog.tile_path("entries", 0) == "tile/entries/000"
    assert tlog.tile_path(0, 1000) == "tile/0/x001/000"


# --- the product's log --------------------------------------------------------------------


def test_the_log_on_disk_verifies_and_grows_consistently(server, s3, bucket):
    before = verified(server)
    for n in range(300):
        s3.head_bucket(Bucket=bucket)
    grown(server, before.checkpoint.size, 300)
    after = verified(server)
    assert after.checkpoint.origin == before.checkpoint.origin
    old, new = before.checkpoint, after.checkpoint
    proof = tlog.consistency_proof(after.leaves, old.size)
    tlog.check_consistency(proof, old.size, new.size, old.root, new.root)
    for index in random.Random(1).sample(range(new.size), 20):
        proof = tlog.inclusion_proof(after.leaves, index)
        tlog.check_inclusion(proof, index, new.size, after.leaves[index], new.root)
    assert len(set(after.leaves)) == new.size, "no two leaves are equal"


def test_the_log_over_http_is_the_log_on_disk(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    source = tlog.Http(f"http://127.0.0.1:{server.admin_port}/log")
    over_http = tlog.verify(source, vkey(server))
    assert over_http.leaves == verified(server).leaves[: over_http.checkpoint.size]
    assert source.types["checkpoint"].startswith("text/plain")
    assert source.read("log.vkey").decode() == vkey(server)
    for secret in ("records", "records/", "wal", "../credentials", "..%2fcredentials", "%2e%2e/credentials", "tile/../../credentials", ""):
        answer = source.read(secret) if secret else None
        assert answer is None, f"/log/{secret} was served"


def test_old_checkpoints_stay_true_over_restarts(new_server):
    server = new_server().start()
    client = server.client()
    client.create_bucket(Bucket="abc")
    checkpoints = []
    for n in range(4):
        client.put_object(Bucket="abc", Key="k", Body=b"%d" % n)
        grown(server, size(server) - 1, 1)
        checkpoints.append(verified(server).checkpoint)
        server.stop() if n % 2 else server.kill()
        server.start()
    now = verified(server)
    for old in checkpoints:
        proof = tlog.consistency_proof(now.leaves, old.size)
        tlog.check_consistency(proof, old.size, now.checkpoint.size, old.root, now.checkpoint.root)


def test_every_kind_of_request_leaves_a_record(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    other = Signer(server.key("other"))
    requests = {
        "GET": lambda: server.raw("GET", bucket, "k"),
        "HEAD": lambda: server.raw("HEAD", bucket, "k"),
        "LIST": lambda: server.raw("GET", bucket, query=[("list-type", "2")]),
        "LIST v1": lambda: server.raw("GET", bucket),
        "LIST versions": lambda: server.raw("GET", bucket, query=[("versions", "")]),
        "LIST buckets": lambda: server.raw("GET"),
        "HEAD bucket": lambda: server.raw("HEAD", bucket),
        "PUT": lambda: server.raw("PUT", bucket, "k", body=b"y"),
        "tags": lambda: server.raw("GET", bucket, "k", query=[("tagging", "")]),
        "GET of nothing": lambda: server.raw("GET", bucket, "nothing"),
        "denied GET": lambda: server.raw("GET", bucket, "k", signer=other),
        "denied PUT": lambda: server.raw("PUT", bucket, "k", body=b"z", signer=other),
        "304": lambda: server.raw("GET", bucket, "k", headers={"If-None-Match": "*"}),
        "range": lambda: server.raw("GET", bucket, "k", headers={"Range": "bytes=0-0"}),
        "DELETE": lambda: server.raw("DELETE", bucket, "k"),
        "DELETE of nothing": lambda: server.raw("DELETE", bucket, "nothing"),
        "location": lambda: server.raw("GET", bucket, query=[("location", "")]),
    }
    for what, request in requests.items():
        before = size(server)
        answer = request()
        assert answer.status < 500, f"{what}: {answer}"
        grown(server, before, 1), what


def test_a_request_id_is_the_index_of_its_record(server, s3, bucket):
    """INVARIANT 1, from outside: whoever got data holds the index of the record."""
    data = some_bytes(100_000)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    last = -1
    for _ in range(5):
        before = size(server)
        answer = server.raw("GET", bucket, "k")
        assert answer.body == data
        index = index_of(answer.headers["x-amz-request-id"])
        assert index > last and index >= before
        last = index
        grown(server, index, 1)
        log = verified(server)
        proof = tlog.inclusion_proof(log.leaves, index)
        tlog.check_inclusion(proof, index, log.checkpoint.size, tlog.leaf_hash(log.entries[index]), log.checkpoint.root)


def test_log_show_tells_what_a_request_id_stands_for(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="some key", Body=b"hello")
    answer = server.raw("GET", bucket, "some key")
    request_id = answer.headers["x-amz-request-id"]
    shown = server.cli("log", "show", request_id, "--json").stdout
    for word in ("s3:GetObject", bucket, "some key", server.key().id):
        assert word in shown, shown


def test_denials_by_an_identified_key_each_have_their_own_record(server, s3, bucket):
    other = Signer(server.key("other"))
    ids = set()
    for _ in range(5):
        answer = server.raw("GET", bucket, "k", signer=Signer(server.key("other")))
        assert answer.status == 403
        ids.add(answer.headers["x-amz-request-id"])
    assert len(ids) == 5 and other.key != server.key()
    shown = [server.cli("log", "show", request_id, "--json").stdout for request_id in ids]
    assert all("deny" in text and "AccessDenied" in text for text in shown), shown[0]


def test_no_name_and_no_plaintext_lies_in_the_published_part_of_the_log(server, s3):
    name = unique("canary-bucket")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="canary-key-7f3a", Body=b"canary-body-7f3a", Metadata={"m": "canary-meta-7f3a"})
    s3.get_object(Bucket=name, Key="canary-key-7f3a")["Body"].read()
    everything = b"".join(p.read_bytes() for p in sorted((server.data / "log").rglob("*")) if p.is_file())
    for word in (name, "canary-key-7f3a", "canary-body-7f3a", "canary-meta-7f3a", server.key().id, "GetObject"):
        assert word.encode() not in everything, f"{word} lies open in the log directory"
        assert base64.b64encode(word.encode())[:-4] not in everything


# --- tampering -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def a_log(server, s3, tmp_path_factory):
    """A copy of a log with a few hundred records, and an earlier checkpoint of it."""
    name = unique()
    s3.create_bucket(Bucket=name)
    earlier = tmp_path_factory.mktemp("log") / "earlier"
    shutil.copy(server.data / "log" / "checkpoint", earlier)
    for n in range(330):
        s3.head_bucket(Bucket=name)
    grown(server, size(server) - 1, 1)
    server.stop()
    copy = tmp_path_factory.mktemp("log") / "copy"
    shutil.copytree(server.data / "log", copy)
    server.start()
    return copy, earlier


def offline(server, directory, *arguments):
    """`log verify` on a copy, with nothing but the public key."""
    return server.cli("log", "verify", "--log", directory, *arguments, check=False, data=False)


def test_log_verify_accepts_an_honest_copy(server, a_log, tmp_path):
    copy, earlier = a_log
    shutil.copytree(copy, tmp_path / "log")
    done = offline(server, tmp_path / "log")
    assert done.returncode == 0, done.stdout + done.stderr
    done = offline(server, tmp_path / "log", "--against", earlier)
    assert done.returncode == 0, done.stdout + done.stderr


def test_log_verify_needs_no_records_and_no_server(server, a_log, tmp_path):
    """An auditor who mirrored the public part can check it."""
    copy, _ = a_log
    (tmp_path / "log").mkdir()
    shutil.copytree(copy / "tile", tmp_path / "log" / "tile")
    for name in ("checkpoint", "log.vkey"):
        shutil.copy(copy / name, tmp_path / "log" / name)
    done = offline(server, tmp_path / "log")
    assert done.returncode == 0, done.stdout + done.stderr


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 1
    path.write_bytes(data)


def tiles(folder, kind):
    """The tiles of a level that count: full ones and the partial one of the
    checkpoint; what is left of smaller checkpoints proves nothing."""
    total = int((folder / "checkpoint").read_text().split("\n")[1]) // (256 if kind == "1" else 1)
    found = [tlog.tile_path(kind, number) for number in range(total // 256)]
    if total % 256:
        found.append(tlog.tile_path(kind, total // 256, total % 256))
    return [folder / name for name in found]


TAMPERINGS = {
    "a leaf hash": lambda log: flip(tiles(log, "0")[0], 32 * 7),
    "a hash in the last tile": lambda log: flip(tiles(log, "0")[-1], 5),
    "an entry": lambda log: flip(tiles(log, "entries")[0], 40),
    "an entry's length": lambda log: flip(tiles(log, "entries")[0], 1),
    "an upper tile": lambda log: flip(tiles(log, "1")[0], 3),
    "a tile cut short": lambda log: os.truncate(tiles(log, "0")[0], 32 * 100),
    "a bundle cut short": lambda log: os.truncate(tiles(log, "entries")[0], 1000),
    "a tile missing": lambda log: tiles(log, "0")[0].unlink(),
    "a bundle missing": lambda log: tiles(log, "entries")[0].unlink(),
    "the checkpoint missing": lambda log: (log / "checkpoint").unlink(),
    "the checkpoint's size": lambda log: edit(log, lambda lines: [lines[0], str(int(lines[1]) - 1), *lines[2:]]),
    "the checkpoint's root": lambda log: edit(log, lambda lines: [*lines[:2], base64.b64encode(b"\0" * 32).decode(), *lines[3:]]),
    "the checkpoint's origin": lambda log: edit(log, lambda lines: ["other.example/log", *lines[1:]]),
    "the signature": lambda log: flip(log / "checkpoint", -10),
    "two entries swapped": lambda log: swap(tiles(log, "entries")[0]),
}


def edit(log, change):
    path = log / "checkpoint"
    path.write_text("\n".join(change(path.read_text().split("\n"))))


def swap(path):
    data = path.read_bytes()
    first = 2 + int.from_bytes(data[:2], "big")
    second = 2 + int.from_bytes(data[first : first + 2], "big")
    path.write_bytes(data[first : first + second] + data[:first] + data[first + second :])


@pytest.mark.parametrize("what", TAMPERINGS)
def test_log_verify_finds_a_change_of(server, a_log, tmp_path, what):
    copy, _ = a_log
    log = tmp_path / "log"
    shutil.copytree(copy, log)
    TAMPERINGS[what](log)
    with pytest.raises((tlog.LogError, ValueError, UnicodeDecodeError)):
        tlog.verify(tlog.Directory(log), (log / "log.vkey").read_text())
    done = offline(server, log)
    assert done.returncode != 0, f"{what} went unseen: {done.stdout}"
    assert "panicked" not in done.stderr and done.stderr.strip(), "it says what is wrong"


def test_a_rewritten_history_fails_against_an_earlier_checkpoint(server, new_server, a_log, tmp_path):
    """A different log under the same directory layout passes its own checks,
    but not against a checkpoint that somebody else kept."""
    copy, earlier = a_log
    other = new_server().start()
    other.client().create_bucket(Bucket="abc")
    for _ in range(20):
        other.client().list_buckets()
    other.stop()
    done = offline(server, other.data / "log", "--against", earlier)
    assert done.returncode != 0, done.stdout


def test_log_verify_works_while_the_server_runs(server, s3):
    s3.list_buckets()
    done = server.cli("log", "verify")
    assert done.returncode == 0


def used_for_a_while(new_server):
    server = new_server().start()
    server.client().create_bucket(Bucket="abc")
    for _ in range(20):
        server.client().list_buckets()
    server.stop()
    return server


def test_a_damaged_tile_is_made_anew_from_the_records(new_server):
    server = used_for_a_while(new_server)
    before = verified(server).checkpoint
    flip(tiles(server.data / "log", "0")[-1], 40)
    server.start()
    log = verified(server)
    assert tlog.root_of(log.leaves[: before.size]) == before.root
    server.cli("log", "verify")


def test_records_that_were_tampered_with_refuse_to_start(new_server):
    """A root that cannot be reproduced refuses to start (design 05)."""
    server = used_for_a_while(new_server)
    records = next(p for p in sorted((server.data / "log" / "records").iterdir()) if p.name[0].isdigit())
    flip(records, 5000)
    server.spawn()
    code = until(lambda: server.process.poll() is not None or server_ready(server), "the server to refuse")
    assert code and server.process.poll() not in (None, 0), "it started on a log it cannot reproduce"
    assert server.log_tail().strip()


def server_ready(server):
    try:
        return server.is_ready()
    except AssertionError:
        return True
