"""Crashes and faults: nothing acknowledged is lost, nothing deleted comes back,
no wrong byte is ever served.

RINGFENCE_KILLS says how many times the server is killed (50 by default,
thousands in `make soak`); RINGFENCE_SEED repeats a run.
"""

import contextlib
import http.client
import os
import random
import shutil
import subprocess
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

import tlog
from harness import Server, expect_error, some_bytes, unique
from sigv4 import checksum, until

MIB = 1024 * 1024
KILLS = int(os.environ.get("RINGFENCE_KILLS", "50"))
SEED = int(os.environ.get("RINGFENCE_SEED", time.time_ns() % 1_000_000))

# --- kill -9 -----------------------------------------------------------------------

SIZES = [0, 1, 1000, 40_000, 65_535, 65_536, 65_537, 150_000, 400_000]
WORKERS = 4
KEYS_EACH = 6


class Lost(Exception):
    """The connection or the server is gone: the outcome is unknown."""


class Worker:
    """One client with keys of its own. It knows, for each key, every state that
    would be right: exactly one after an acknowledged change, the old and the
    new one after a change that was cut off."""

    def __init__(self, server, bucket, number, seed):
        self.server, self.bucket, self.number = server, bucket, number
        self.random = random.Random(f"{seed}/{number}")
        kinds = ["pub", "int"]
        self.keys = [f"{kinds[n % 2]}/{number}/{n}" for n in range(KEYS_EACH)]
        self.right = {key: {None} for key in self.keys}  # a state: None or (body, tags)
        self.version = 0
        self.acknowledged = 0
        self.wrong = []  # what the server answered though nobody pulled a plug

    # -- states --

    def new_body(self):
        self.version += 1
        length = self.random.choice(SIZES)
        return f"{self.number}/{self.version}/".encode()[:length] + self.random.randbytes(max(0, length - 16))

    def tags(self, key):
        label = {"ringfence-label": "public"} if key.startswith("pub") else {}
        return label | {"v": str(self.random.randrange(1000))}

    # -- one change --

    def change(self, changes, call):
        """`changes`: key → new state. Both are right until the answer is there."""
        before = {key: self.right[key] for key in changes}
        for key, state in changes.items():
            self.right[key] = before[key] | {state}
        try:
            call()
        except ClientError as error:
            status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            if status >= 500 or status == 0:
                raise Lost from error
            for key in changes:  # Refused: nothing may have changed.
                self.right[key] = before[key]
            code = error.response["Error"]["Code"]
            if code != "ConditionalRequestConflict":  # That one means: ask again.
                self.wrong.append(f"{sorted(changes)}: {code}: {error}")
            return
        except (BotoCoreError, HTTPClientError, OSError, http.client.HTTPException) as error:
            raise Lost from error
        for key, state in changes.items():
            self.right[key] = {state}
        self.acknowledged += 1

    def step(self, s3):
        key = self.random.choice(self.keys)
        at = {"Bucket": self.bucket, "Key": key}
        act = self.random.choice(["put"] * 5 + ["parts"] * 2 + ["copy"] * 2 + ["delete", "deletes", "tag", "tag", "get"])
        tags = self.tags(key)
        tagging = "&".join(f"{k}={v}" for k, v in tags.items())
        frozen = frozenset(tags.items())
        if act == "put":
            body = self.new_body()
            self.change({key: (body, frozen)}, lambda: s3.put_object(**at, Body=body, Tagging=tagging))
        elif act == "parts":
            body = self.new_body() + b"end"
            self.change({key: (body, frozen)}, lambda: self.upload(s3, at, body, tagging))
        elif act == "copy":
            sources = [k for k in self.keys if k[:3] == key[:3] and k != key and len(self.right[k]) == 1 and None not in self.right[k]]
            if sources:
                source = self.random.choice(sources)
                (body, _), = self.right[source]
                self.change(
                    {key: (body, frozen)},
                    lambda: s3.copy_object(**at, CopySource={"Bucket": self.bucket, "Key": source}, TaggingDirective="REPLACE", Tagging=tagging),
                )
        elif act == "delete":
            self.change({key: None}, lambda: s3.delete_object(**at))
        elif act == "deletes":
            gone = self.random.sample(self.keys, 2)
            self.change({k: None for k in gone}, lambda: s3.delete_objects(Bucket=self.bucket, Delete={"Objects": [{"Key": k} for k in gone]}))
        elif act == "tag" and len(self.right[key]) == 1 and None not in self.right[key]:
            (body, _), = self.right[key]
            tag_set = [{"Key": k, "Value": v} for k, v in tags.items()]
            self.change({key: (body, frozen)}, lambda: s3.put_object_tagging(**at, Tagging={"TagSet": tag_set}))
        elif act == "get":
            self.check_key(s3, key)

    def upload(self, s3, at, body, tagging):
        upload = s3.create_multipart_upload(**at, Tagging=tagging)["UploadId"]
        etag = s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=body)["ETag"]
        s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]})

    def run(self, stop):
        s3 = self.server.client()
        try:
            while not stop.is_set():
                self.step(s3)
        except Lost:
            pass
        except AssertionError as error:
            self.wrong.append(str(error))
        except (BotoCoreError, HTTPClientError, OSError, http.client.HTTPException):
            pass  # A read was cut off.

    # -- what the server says --

    def state(self, s3, key):
        try:
            answer = s3.get_object(Bucket=self.bucket, Key=key)
            body = answer["Body"].read()
            tags = s3.get_object_tagging(Bucket=self.bucket, Key=key)["TagSet"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "NoSuchKey":
                return None
            raise Lost(str(error)) from error
        return body, frozenset((t["Key"], t["Value"]) for t in tags)

    def check_key(self, s3, key):
        found = self.state(s3, key)
        if found not in self.right[key]:
            raise AssertionError(f"{key}: found {describe(found)}, right would be {[describe(r) for r in self.right[key]]}")
        self.right[key] = {found}

    def check(self, s3):
        for key in self.keys:
            self.check_key(s3, key)

    def present(self):
        return {key for key in self.keys if self.right[key] != {None}}


def describe(state):
    return "nothing" if state is None else f"{len(state[0])} bytes beginning {state[0][:12]!r} with tags {sorted(state[1])}"


def operator(server, stop, seed):
    """Rotates keys and sweeps while the clients work."""
    choice = random.Random(f"{seed}/operator")
    while not stop.is_set():
        act = choice.choice([("keys", "rotate"), ("sweep",), ("sweep",)])
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.cli(*act, check=False, timeout_s=60)
        stop.wait(choice.random() * 0.3)


def cut(server, workers, choice):
    """Lets everybody work for a random moment, then pulls the plug."""
    stop = threading.Event()
    threads = [threading.Thread(target=w.run, args=(stop,), daemon=True) for w in workers]
    threads.append(threading.Thread(target=operator, args=(server, stop, choice.random()), daemon=True))
    for thread in threads:
        thread.start()
    stop.wait(choice.uniform(0.02, 1.0))
    server.kill()
    stop.set()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert not [w.wrong for w in workers if w.wrong], [w.wrong for w in workers]


def start_with_cuts(server, choice):
    """Starts; now and then it is killed while it starts, too."""
    while choice.random() < 0.2:
        server.spawn()
        threading.Event().wait(choice.uniform(0.0, 0.5))
        server.kill()
    server.start()


def test_nothing_acknowledged_is_lost_whenever_the_server_is_killed(new_server):
    print(f"repeat with RINGFENCE_SEED={SEED} RINGFENCE_KILLS={KILLS}")
    choice = random.Random(SEED)
    server = new_server().start()
    assert server.cli("sweep", check=False).returncode == 0, "`ringfence sweep` runs"
    server.cli("keys", "rotate")
    bucket = "crash"
    server.client().create_bucket(Bucket=bucket)
    workers = [Worker(server, bucket, n, SEED) for n in range(WORKERS)]
    checkpoint = None
    for kill in range(KILLS):
        cut(server, workers, choice)
        start_with_cuts(server, choice)
        where = f"after kill {kill + 1} of seed {SEED}"
        checkpoint = check_log(server, checkpoint, where)
        check_everything(server, bucket, workers, where)
    assert sum(w.acknowledged for w in workers) > KILLS, "the load did something"
    server.restart()
    check_everything(server, bucket, workers, "after the last clean restart")
    assert "unconfirmed" not in server.cli("sweep").stdout


def check_log(server, before, where):
    """The product's verifier and ours agree, and history was only added to."""
    done = server.cli("log", "verify", check=False)
    assert done.returncode == 0, f"{where}: {done.stdout}{done.stderr}"
    log = tlog.verify(tlog.Directory(server.data / "log"), (server.data / "log" / "log.vkey").read_text())
    if before:
        proof = tlog.consistency_proof(log.leaves, before.size)
        tlog.check_consistency(proof, before.size, log.checkpoint.size, before.root, log.checkpoint.root)
    return log.checkpoint


def check_everything(server, bucket, workers, where):
    s3, wrong = server.client(), []

    def check(worker):
        try:
            worker.check(server.client())
        except Exception as error:  # noqa: BLE001 — collected and raised below
            wrong.append(f"{where}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=check, args=(w,)) for w in workers]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong, "\n".join(wrong)
    listed = {o["Key"] for o in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}
    wanted = set().union(*(w.present() for w in workers))
    assert listed == wanted, f"{where}: listed but gone {listed - wanted}, there but not listed {wanted - listed}"


def test_a_kill_in_the_middle_of_a_body_leaves_the_old_object(new_server):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    s3.put_object(Bucket="abc", Key="k", Body=b"old")
    outcome = []

    def put():
        with contextlib.suppress(Exception):
            outcome.append(server.raw("PUT", "abc", "k", body=some_bytes(8 * MIB), close_after=3 * MIB))

    thread = threading.Thread(target=put)
    thread.start()
    thread.join(0.3)
    server.kill()
    thread.join()
    server.start()
    assert server.client().get_object(Bucket="abc", Key="k")["Body"].read() == b"old"
    assert not any(o.status == 200 for o in outcome)


# --- damaged files at a site ---------------------------------------------------------------


@pytest.fixture(scope="module")
def objects(server):
    """Two objects of each size, and the files that hold them: {name: files}."""
    s3 = server.client()
    s3.create_bucket(Bucket="damage")
    files = {}
    for size in (20_000, 1_000_000, 17_500_000):
        for n in range(2):
            before = site_files(server)
            s3.put_object(Bucket="damage", Key=f"{size}-{n}", Body=some_bytes(size, n))
            files[size, n] = sorted(site_files(server) - before)
    return files


def site_files(server):
    return {p for p in (server.data / "sites" / "home").rglob("*") if p.is_file()}


def read_damaged(server, key, data, start=0, end=None):
    """Reads and asserts: the right bytes, an error status, or a cut connection."""
    headers = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
    wanted = data[start:end]
    try:
        answer = server.raw("GET", "damage", key, headers=headers)
    except http.client.IncompleteRead as cut_short:
        assert wanted.startswith(cut_short.partial), "wrong bytes before the cut"
        return "cut"
    except (ConnectionError, http.client.BadStatusLine):
        return "cut"
    if answer.status >= 500:
        expect_error(answer, answer.status, "InternalError", "ServiceUnavailable")
        return "error"
    assert answer.status in (200, 206) and answer.body == wanted, f"wrong bytes: {answer.status}"
    return "right"


def flip(at):
    def damage(path, _):
        data = bytearray(path.read_bytes())
        data[int((len(data) - 1) * at)] ^= 0x40
        path.write_bytes(data)

    return damage


def swap(path, other):
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


DAMAGES = {
    "first byte flipped": flip(0.0),
    "a byte in the middle flipped": flip(0.5),
    "last byte flipped": flip(1.0),
    "cut in half": lambda path, _: os.truncate(path, path.stat().st_size // 2),
    "one byte short": lambda path, _: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path, _: os.truncate(path, 0),
    "deleted": lambda path, _: path.unlink(),
    "swapped with another object's": swap,
}


@pytest.mark.parametrize("size", [1_000_000, 17_500_000])
@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_chunk_gives_an_error_and_never_wrong_bytes(server, objects, what, size):
    mine = sorted(objects[size, 0], key=lambda p: p.stat().st_size)
    theirs = sorted(objects[size, 1], key=lambda p: p.stat().st_size)
    saved = {path: path.read_bytes() for path in (*mine, *theirs)}
    data = some_bytes(size, 0)
    try:
        for victim in {mine[-1], mine[0]} if size > 16 * MIB else {mine[-1]}:
            DAMAGES[what](victim, theirs[mine.index(victim)])
            whole = read_damaged(server, f"{size}-0", data)
            assert whole != "right" or saved[victim] == (victim.read_bytes() if victim.exists() else None) or victim.stat().st_size < 100_000
            for start, end in [(0, 1), (size - 1, size), (size // 2, size // 2 + 70_000)]:
                read_damaged(server, f"{size}-0", data, start, end)
            for path, content in saved.items():
                path.write_bytes(content)
    finally:
        for path, content in saved.items():
            path.write_bytes(content)
    assert read_damaged(server, f"{size}-0", data) == "right", "restored, it reads again"
    assert read_damaged(server, f"{size}-1", some_bytes(size, 1)) == "right"


def test_damaged_pack_files_give_errors_and_never_wrong_bytes(server, objects):
    """Small objects share files: each 997th byte is flipped, one file after another."""
    names = [f"20000-{n}" for n in range(2)]
    small = {name: some_bytes(20_000, n) for n, name in enumerate(names)}
    saved = {path: path.read_bytes() for path in site_files(server) if path.suffix == ".pack"}
    assert saved
    outcomes = set()
    try:
        for path, content in saved.items():
            path.write_bytes(bytes(b ^ 0x20 if i % 997 == 0 else b for i, b in enumerate(content)))
            server.kill()
            server.spawn()  # What was in memory helps no more.
            until(lambda: not server.is_alive() or is_ready(server), "a start over a damaged site")
            assert server.is_alive(), server.log_tail()
            outcomes |= {read_damaged(server, name, data) for name, data in small.items()}
            path.write_bytes(content)
    finally:
        for path, content in saved.items():
            path.write_bytes(content)
    assert outcomes - {"right"}, "some damage hit these objects"
    assert all(read_damaged(server, name, data) == "right" for name, data in small.items())


def test_scrub_finds_what_is_damaged(new_server):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="damage")
    s3.put_object(Bucket="damage", Key="k", Body=some_bytes(1_000_000))
    assert server.cli("scrub").returncode == 0
    chunk = next(p for p in site_files(server) if 1_000_000 < p.stat().st_size < 1_010_000)
    flip(0.5)(chunk, None)
    done = server.cli("scrub", check=False)
    assert done.returncode != 0 or "1" in done.stdout, done.stdout + done.stderr
    assert read_damaged(server, "k", some_bytes(1_000_000)) != "right"


# --- databases lost and old ------------------------------------------------------------------


def databases(server):
    """Every SQLite file of the installation, with its WAL."""
    found = []
    for path in server.data.rglob("*"):
        if path.is_file() and path.open("rb").read(15) == b"SQLite format 3":
            found += [p for p in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")) if p.exists()]
    return found


def fill(server):
    """Objects of every shape, some deleted again. Returns what must be there."""
    s3 = server.client()
    s3.create_bucket(Bucket="kept")
    s3.create_bucket(Bucket="empty")
    s3.put_bucket_tagging(Bucket="kept", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    there = {}
    for n, size in enumerate([0, 1, 5_000, 70_000, 1_000_000, 17_000_000]):
        for label in ("public", "internal"):
            key, body = f"{label}/ü {n}", some_bytes(size, n)
            s3.put_object(Bucket="kept", Key=key, Body=body, Tagging=f"ringfence-label={label}", Metadata={"n": str(n)}, ContentType="a/b")
            there[key] = body
    at = {"Bucket": "kept", "Key": "parts"}
    upload = s3.create_multipart_upload(**at)["UploadId"]
    pieces = [some_bytes(5 * MIB, 1), b"tail"]
    parts = [{"PartNumber": n, "ETag": s3.upload_part(**at, UploadId=upload, PartNumber=n, Body=p)["ETag"]} for n, p in enumerate(pieces, 1)]
    s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
    there["parts"] = b"".join(pieces)
    s3.put_object(Bucket="kept", Key="overwritten", Body=b"old")
    s3.put_object(Bucket="kept", Key="overwritten", Body=b"new")
    there["overwritten"] = b"new"
    for key in ("deleted", "public-deleted"):
        s3.put_object(Bucket="kept", Key=key, Body=b"gone" * 50_000, Tagging="ringfence-label=" + ("public" if "public" in key else "internal"))
        s3.delete_object(Bucket="kept", Key=key)
    return there


def expect_filled(server, there):
    s3 = server.client()
    listed = {o["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket="kept") for o in page.get("Contents", [])}
    assert listed == set(there)
    for key, body in there.items():
        answer = s3.get_object(Bucket="kept", Key=key)
        assert answer["Body"].read() == body, key
        if "ü" in key:
            assert answer["Metadata"] and answer["ContentType"] == "a/b", key
            tags = s3.get_object_tagging(Bucket="kept", Key=key)["TagSet"]
            assert tags == [{"Key": "ringfence-label", "Value": key.split("/")[0]}]
    assert s3.get_bucket_tagging(Bucket="kept")["TagSet"] == [{"Key": "a", "Value": "b"}]
    assert s3.list_objects_v2(Bucket="empty")["KeyCount"] == 0


def test_recover_brings_everything_back_but_what_was_deleted(new_server):
    server = new_server().start()
    server.add_tenant("other")
    server.client("other").create_bucket(Bucket="others")
    there = fill(server)
    server.stop()
    lost = databases(server)
    assert lost
    for path in lost:
        path.unlink()
    server.spawn()
    code = until(lambda: server.process.poll() is not None or is_ready(server), "the server's word on a lost database", 60)
    assert code
    if server.is_alive():
        expect_filled(server, there)  # It may rebuild from the log by itself.
        server.stop()
        for path in databases(server):
            path.unlink()
    else:
        assert "recover" in server.log_tail(), "it says what to do next"
    server.kill()
    done = server.cli("recover", check=False, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    server.start()
    expect_filled(server, there)
    assert [b["Name"] for b in server.client("other").list_buckets()["Buckets"]] == ["others"]
    server.cli("log", "verify")
    server.client().put_object(Bucket="kept", Key="after", Body=b"works")


def is_ready(server):
    try:
        return server.is_ready()
    except AssertionError:
        return True


def test_recover_without_the_log_brings_back_what_the_sites_hold(new_server):
    """Ruling 13: without the log everything is restored and marked unconfirmed."""
    server = new_server().start()
    there = fill(server)
    server.stop()
    for path in databases(server):
        path.unlink()
    shutil.move(server.data / "log", server.data.parent / "log-lost")
    done = server.cli("recover", check=False, timeout_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unconfirmed" in (done.stdout + done.stderr).lower()
    server.start()
    s3 = server.client()
    for key, body in there.items():
        assert s3.get_object(Bucket="kept", Key=key)["Body"].read() == body, key


def test_an_older_database_catches_up_and_nothing_newer_is_swept(new_server):
    server = new_server().start()
    there = fill(server)
    server.stop()
    saved = server.data.parent / "saved"
    saved.mkdir()
    for path in databases(server):
        shutil.copy2(path, saved / path.name)
    names = {path.name: path for path in databases(server)}
    server.start()
    s3 = server.client()
    for n in range(10):
        there[f"newer-{n}"] = some_bytes([100, 200_000][n % 2], n)
        s3.put_object(Bucket="kept", Key=f"newer-{n}", Body=there[f"newer-{n}"], Tagging="ringfence-label=" + ["public", "internal"][n // 5])
    s3.delete_object(Bucket="kept", Key="overwritten")
    del there["overwritten"]
    server.kill()
    for path in databases(server):
        path.unlink()
    for name, path in names.items():
        shutil.copy2(saved / name, path)
    server.start()
    server.cli("sweep", check=False)
    expect_filled(server, there)
    server.restart()
    expect_filled(server, there)


def test_a_lost_log_is_not_silently_begun_anew(new_server):
    server = new_server().start()
    server.client().create_bucket(Bucket="abc")
    server.stop()
    shutil.move(server.data / "log", server.data.parent / "log-lost")
    server.spawn()
    until(lambda: not server.is_alive() or is_ready(server), "the server's word on a lost log")
    assert not server.is_alive() and server.process.returncode != 0, "it began a new log over old data"
    server.kill()
    shutil.rmtree(server.data / "log", ignore_errors=True)
    shutil.move(server.data.parent / "log-lost", server.data / "log")
    server.start()


# --- full and read-only disks -------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """Mounts a small tmpfs over a folder."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"]).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    mounted = []

    def mount(folder, mib, source=None):
        keep = folder.parent / f"{folder.name}.was"
        shutil.copytree(folder, keep, dirs_exist_ok=True) if folder.exists() else keep.mkdir(parents=True)
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(folder)], check=True)
        mounted.append(folder)
        shutil.copytree(keep, folder, dirs_exist_ok=True)
        shutil.rmtree(keep)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill_disk(folder):
    """Leaves no free byte."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as out:
        while True:
            out.write(b"\0" * 65536)
            out.flush()
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as out:
        while True:
            out.write(b"\0" * 512)
    return filler


def put_status(server, key, body):
    try:
        return server.raw("PUT", "abc", key, body=body)
    except (ConnectionError, http.client.HTTPException):
        return None


def test_a_full_disk_at_home_refuses_writes_and_loses_nothing(new_server, small_disk):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    s3.put_object(Bucket="abc", Key="before", Body=b"x" * 200_000)
    server.stop()
    small_disk(server.data / "sites" / "home", 24)
    server.start()
    stored, refused = {}, 0
    for n in range(120):
        body = some_bytes([400_000, 30_000][n % 2], n)
        answer = put_status(server, f"k{n}", body)
        if answer and answer.status == 200:
            stored[f"k{n}"] = body
        elif answer:
            expect_error(answer, 503, "ServiceUnavailable", "SlowDown")
            refused += 1
    assert stored and refused, f"{len(stored)} stored, {refused} refused"
    s3 = server.client()
    for key, body in stored.items():
        assert s3.get_object(Bucket="abc", Key=key)["Body"].read() == body
    for key in list(stored)[: len(stored) // 2]:
        s3.delete_object(Bucket="abc", Key=key)
        del stored[key]
    def writes_again():
        answer = put_status(server, "again", b"y" * 300_000)
        return answer and answer.status == 200

    until(writes_again, "room after deletes", 90)
    server.restart()
    s3 = server.client()
    for key, body in stored.items():
        assert s3.get_object(Bucket="abc", Key=key)["Body"].read() == body
    server.cli("log", "verify")


def test_a_full_log_disk_refuses_data_but_still_deletes(new_server, small_disk):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    for n in range(5):
        s3.put_object(Bucket="abc", Key=f"k{n}", Body=b"x" * 1000)
    server.stop()
    used = sum(p.stat().st_size for p in (server.data / "log").rglob("*") if p.is_file()) // MIB
    small_disk(server.data / "log", used + 200)
    server.start()
    filler = fill_disk(server.data / "log")
    statuses = []

    def stops_writing():
        answer = put_status(server, f"new-{len(statuses)}", some_bytes(200, len(statuses)))
        statuses.append(answer.status if answer else 0)
        return statuses[-1] == 503

    with contextlib.suppress(AssertionError):
        until(stops_writing, "writes to stop", 60, 0)
    assert set(statuses) <= {200, 503}
    if statuses[-1] == 503:
        assert server.raw("DELETE", "abc", "k0").status == 204, "a delete may use the reserve"
    server.kill()
    filler.unlink()
    server.start()
    s3 = server.client()
    listed = {o["Key"] for o in s3.list_objects_v2(Bucket="abc")["Contents"]}
    acknowledged = {f"new-{n}" for n, status in enumerate(statuses) if status == 200}
    assert len(acknowledged - listed) == 0 or s3.list_objects_v2(Bucket="abc")["IsTruncated"]
    server.cli("log", "verify")


def test_a_read_only_site_refuses_writes_and_still_reads(new_server, small_disk):
    server = new_server().start()
    small_disk(server.data / "sites" / "cloud", 64)
    server.restart()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    s3.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "cloud"})
    s3.put_object(Bucket="abc", Key="there", Body=b"x" * 100_000, Tagging="ringfence-label=public")
    site = server.data / "sites" / "cloud"
    done = subprocess.run(["mount", "-o", "remount,ro", str(site)], capture_output=True, text=True)
    if done.returncode != 0:  # A file is open for writing: close it first.
        server.stop()
        subprocess.run(["mount", "-o", "remount,ro", str(site)], check=True)
        server.spawn()
        until(lambda: not server.is_alive() or is_ready(server), "a start with a read-only site")
        assert server.is_alive(), f"one site that is down does not stop the others:\n{server.log_tail()}"
    public = {"x-amz-tagging": "ringfence-label=public"}
    for body in (b"y" * 100_000, b"y"):
        answer = server.raw("PUT", "pinned", "new", body=body, headers=dict(public))
        expect_error(answer, 503, "ServiceUnavailable", "SlowDown")
    # Policy allows the other site too, and nobody asked for this one.
    assert server.raw("PUT", "abc", "elsewhere", body=b"y", headers=dict(public)).status == 200
    assert "home" in server.cli("where", "s3://abc/elsewhere").stdout
    assert server.raw("GET", "abc", "there").body == b"x" * 100_000
    assert server.raw("PUT", "abc", "at-home", body=b"z").status == 200


def test_a_site_that_is_gone_is_503_for_its_objects_only(new_server):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    s3.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "cloud"})
    bodies = {"public": b"p" * 100_000, "internal": b"i" * 100_000}
    for label, body in bodies.items():
        s3.put_object(Bucket="abc", Key=label, Body=body, Tagging=f"ringfence-label={label}")
    away = server.data / "sites" / "cloud.away"
    (server.data / "sites" / "cloud").rename(away)
    for _ in range(2):
        answer = server.raw("GET", "abc", "public")
        assert answer.status >= 500 and answer.code, str(answer)
        answer = server.raw("PUT", "pinned", "more", body=b"x" * 100_000, headers={"x-amz-tagging": "ringfence-label=public"})
        expect_error(answer, 503, "ServiceUnavailable", "SlowDown")
        assert server.raw("GET", "abc", "internal").body == bodies["internal"]
        assert server.raw("PUT", "abc", "home", body=b"x").status == 200
    assert server.raw("HEAD", "abc", "public").status == 200, "names and sizes are known at home"
    if (server.data / "sites" / "cloud").exists():
        shutil.rmtree(server.data / "sites" / "cloud")
    away.rename(server.data / "sites" / "cloud")
    until(lambda: server.raw("GET", "abc", "public").body == bodies["public"], "the site's return")
    assert server.client().list_objects_v2(Bucket="abc")["KeyCount"] == 3


# --- one at a time -----------------------------------------------------------------------------


def test_a_second_instance_on_the_same_data_refuses(server):
    second = Server(server.data)
    second.log_path = server.data.parent / "second.stderr"
    second.spawn()
    try:
        until(lambda: second.process.poll() is not None, "the second instance to refuse", 30)
        assert second.process.returncode != 0
        text = second.log_text().lower()
        assert str(server.data).lower() in text or "already" in text or "in use" in text, text
        assert "panicked" not in text
    finally:
        second.kill()
    assert server.client().list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_checksums_survive_a_restart(server):
    s3, name = server.client(), unique()
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"data", ChecksumAlgorithm="SHA256")
    server.restart()
    answer = server.client().get_object(Bucket=name, Key="k", ChecksumMode="ENABLED")
    assert answer["ChecksumSHA256"] == checksum("SHA256", b"data") and answer["Body"].read() == b"data"
