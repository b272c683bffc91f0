"""Keys at home: backup, restore, rotation, and what happens without them."""

import contextlib
import shutil
import sqlite3
import subprocess
import time

import pytest

from harness import BINARY, clean_env, some_bytes
from sigv4 import Signer, until

BODIES = {f"{label}/{n}": (label, some_bytes(size, n)) for label in ("public", "internal", "restricted") for n, size in enumerate([0, 500, 70_000, 300_000])}
PASSPHRASE = "a passphrase of the operator's\n"


def keyring(server):
    """The files without which nothing opens: the keyring and what unlocks it."""
    found = [p for p in server.data.iterdir() if "key" in p.name.lower()]
    assert found, sorted(p.name for p in server.data.iterdir())
    return found


@pytest.fixture
def filled(new_server):
    server = new_server().start().let_static_keys_reach_restricted()
    s3 = server.client()
    s3.create_bucket(Bucket="sealed")
    for key, (label, body) in BODIES.items():
        s3.put_object(Bucket="sealed", Key=key, Body=body, Tagging=f"ringfence-label={label}")
    return server


def expect_all(server):
    s3 = server.client()
    for key, (_, body) in BODIES.items():
        assert s3.get_object(Bucket="sealed", Key=key)["Body"].read() == body, key


def remove(paths, to):
    to.mkdir()
    for path in paths:
        shutil.move(path, to / path.name)


def test_a_backup_brings_the_keys_back(filled, tmp_path):
    server, backup = filled, tmp_path / "keys.backup"
    server.cli("keys", "backup", backup, stdin=PASSPHRASE * 2)
    assert backup.stat().st_mode & 0o077 == 0, "a backup is readable by its owner only"
    server.stop()
    remove(keyring(server), tmp_path / "lost")
    server.spawn()
    until(lambda: not server.is_alive() or ready(server), "the server's word on a lost keyring")
    assert not server.is_alive() and server.process.returncode != 0, "it made new keys over sealed data"
    assert "restore" in server.log_tail(), "it says what to do next"
    wrong = server.cli("keys", "restore", backup, stdin="wrong\n", check=False)
    assert wrong.returncode != 0 and "panicked" not in wrong.stderr
    server.cli("keys", "restore", backup, stdin=PASSPHRASE)
    server.start()
    expect_all(server)


def ready(server):
    try:
        return server.is_ready()
    except AssertionError:
        return True


def test_a_backup_and_recover_bring_back_everything_without_the_catalogue(filled, tmp_path):
    server, backup = filled, tmp_path / "keys.backup"
    server.cli("keys", "backup", backup, stdin=PASSPHRASE * 2)
    server.stop()
    remove(keyring(server), tmp_path / "lost")
    for path in [p for p in server.data.rglob("*") if p.is_file() and p.open("rb").read(15) == b"SQLite format 3"]:
        for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            name.unlink(missing_ok=True)
    server.cli("keys", "restore", backup, stdin=PASSPHRASE)
    server.cli("recover", timeout_s=300)
    server.start()
    expect_all(server)


def test_a_backup_holds_no_key_in_the_clear(filled, tmp_path):
    backup = tmp_path / "keys.backup"
    filled.cli("keys", "backup", backup, stdin=PASSPHRASE * 2)
    data = backup.read_bytes()
    assert filled.key().secret.encode() not in data and filled.key().id.encode() not in data


def test_rotation_changes_the_version_and_keeps_everything_readable(filled):
    server = filled
    for _ in range(3):
        done = server.cli("keys", "rotate")
        assert done.stdout.strip() or done.stderr.strip(), "it says what it did"
        expect_all(server)
    server.restart()
    expect_all(server)


def test_rotation_while_clients_work_disturbs_nobody(filled):
    import threading

    server, stop, wrong = filled, threading.Event(), []

    def work(number):
        s3 = server.client()
        try:
            for n in range(1000):
                if stop.is_set():
                    return
                body = some_bytes(20_000, n)
                s3.put_object(Bucket="sealed", Key=f"w{number}", Body=body)
                assert s3.get_object(Bucket="sealed", Key=f"w{number}")["Body"].read() == body
        except Exception as error:  # noqa: BLE001 — reported below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    [t.start() for t in threads]
    for _ in range(4):
        server.cli("keys", "rotate")
    stop.set()
    [t.join() for t in threads]
    assert not wrong, wrong
    expect_all(server)


def test_a_damaged_keyring_is_refused(filled):
    server = filled
    server.stop()
    for path in [file for found in keyring(server) for file in (found, *found.rglob("*"))]:
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    server.spawn()
    until(lambda: not server.is_alive() or ready(server), "the server's word on a damaged keyring")
    assert not server.is_alive() and server.process.returncode != 0
    assert "panicked" not in server.log_text()


def test_new_keys_are_added_listed_and_disabled(filled):
    server = filled
    added = server.cli("key", "add", "--name", "backup")
    profile = "default-backup"
    assert server.key(profile).id in added.stdout or server.key(profile).id in server.cli("key", "list").stdout
    assert server.client(profile).list_objects_v2(Bucket="sealed")["KeyCount"] == len(BODIES)
    server.cli("key", "disable", server.key(profile).id)
    answer = server.raw("GET", "sealed", signer=Signer(server.key(profile)))
    assert answer.status == 403
    server.restart()
    assert server.raw("GET", "sealed", signer=Signer(server.key(profile))).status == 403
    assert server.cli("key", "disable", "NOSUCHKEY00000000000", check=False).returncode != 0


def test_two_tenants_of_one_name_or_bad_names_are_refused(filled):
    for name in ("default", "UPPER", "a b", "", "x" * 64, "../x"):
        done = filled.cli("tenant", "add", name, check=False)
        assert done.returncode != 0 and done.stderr.strip() and "panicked" not in done.stderr, name


# --- issued and disabled on record only -----------------------------------------------------


@contextlib.contextmanager
def catalogue_that_takes_no_change(server):
    """Holds the database's write lock: reads go on, nothing can be committed."""
    other = sqlite3.connect(server.data / "catalog.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def state_of(server, key):
    return next(k["state"] for k in server.cli_json("key", "list")["keys"] if k["access_key_id"] == key.id)


def test_a_key_whose_disabling_cannot_be_recorded_is_refused_and_said_to_be(new_server):
    server = new_server().start()
    server.cli("key", "add", "--name", "lost")
    key = server.key("default-lost")
    assert server.raw("GET", signer=Signer(key)).status == 200
    with catalogue_that_takes_no_change(server):
        failed = server.cli("key", "disable", key.id, check=False)
        assert failed.returncode == 5 and "not on record" in failed.stderr, failed.stderr
        assert server.raw("GET", signer=Signer(key)).status == 403, "who wanted it dead must not be wrong"
        assert server.raw("GET").status == 200, "other keys live on"
    assert state_of(server, key).startswith("suspended")
    records = server.cli_json("log", "show", "--from", "0", "--limit", "10000")["records"]
    assert not [r for r in records if r["core"]["op"] == "admin:KeyDisable"]
    # Told so, and true: what is not on record does not outlive the process.
    server.kill()
    server.start()
    assert state_of(server, key) == "active" and server.raw("GET", signer=Signer(key)).status == 200
    server.cli("key", "disable", key.id)
    assert state_of(server, key) == "disabled" and server.raw("GET", signer=Signer(key)).status == 403
    server.kill()
    server.start()
    assert state_of(server, key) == "disabled" and server.raw("GET", signer=Signer(key)).status == 403


def test_a_key_that_could_not_be_recorded_was_never_issued(new_server):
    server = new_server().start()
    before = server.credentials_file.read_text()
    with catalogue_that_takes_no_change(server):
        failed = server.cli("key", "add", "--name", "never", check=False)
        assert failed.returncode == 5, failed.stderr
    assert server.credentials_file.read_text() == before and not (server.data / "credentials.new").exists()
    assert "RF" not in failed.stdout
    server.restart()
    assert len(server.cli_json("key", "list")["keys"]) == 1


def test_a_kill_around_a_disabling_leaves_what_the_record_says(new_server):
    server = new_server().start()
    seen = set()
    for n in range(8):
        server.cli("key", "add", "--name", f"k{n}")
        key = server.key(f"default-k{n}")
        command = [BINARY, "key", "disable", key.id, "--data", server.data]
        disabling = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
        time.sleep(0.004 * n)
        # Both at once: a command that finds no server would do it by itself.
        answered = disabling.poll() == 0
        disabling.kill()
        server.kill()
        disabling.wait(30)
        server.start()
        records = server.cli_json("log", "show", "--from", "0", "--limit", "10000")["records"]
        on_record = any(r["core"]["op"] == "admin:KeyDisable" and r["resource"]["detail"] == key.id for r in records)
        disabled = state_of(server, key) == "disabled"
        assert disabled == on_record and (disabled or not answered)
        assert (server.raw("GET", signer=Signer(key)).status == 403) == disabled
        seen.add(disabled)
    assert seen == {True, False}, "the kills came too early or too late to say anything"
