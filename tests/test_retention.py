"""Retention and erasure: fields go, the proof that there was a record stays."""

import shutil
import subprocess
import time

import tlog
from harness import BINARY, clean_env
from sigv4 import until

def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def a_moment_later():
    """Times on the command line are whole seconds."""
    began = now()
    until(lambda: now() != began, "the next second")
    return now()


def records(server):
    return server.cli_json("log", "show", "--from", "0", "--limit", "10000")["records"]


def verified(server):
    report = server.cli_json("log", "verify")
    assert report["verified"]
    vkey = (server.data / "log" / "log.vkey").read_text()
    # A verifier that shares no line with the product says the same.
    assert tlog.verify(tlog.Directory(server.data / "log"), vkey).checkpoint.size >= report["size"]
    return report


def fill(server):
    """Objects that stay, that go, that are written over, an upload under way."""
    s3 = server.client()
    s3.create_bucket(Bucket="kept")
    s3.create_bucket(Bucket="gone")
    for n in range(8):
        s3.put_object(Bucket="kept", Key=f"k{n}", Body=b"old %d" % n, Metadata={"n": str(n)})
        s3.put_object(Bucket="gone", Key=f"g{n}", Body=b"gone")
    for n in range(0, 8, 2):
        s3.put_object(Bucket="kept", Key=f"k{n}", Body=b"new %d" % n)
    s3.put_object_tagging(Bucket="kept", Key="k1", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    upload = s3.create_multipart_upload(Bucket="kept", Key="multi")["UploadId"]
    part = s3.upload_part(Bucket="kept", Key="multi", UploadId=upload, PartNumber=1, Body=b"m" * 70000)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket="kept", Key="multi", UploadId=upload, MultipartUpload=parts)
    s3.upload_part(
        Bucket="kept", Key="under-way", PartNumber=1, Body=b"u" * 10,
        UploadId=s3.create_multipart_upload(Bucket="kept", Key="under-way")["UploadId"],
    )  # fmt: skip
    for n in range(8):
        s3.delete_object(Bucket="gone", Key=f"g{n}")
    s3.delete_object(Bucket="kept", Key="k7")
    s3.delete_bucket(Bucket="gone")
    for n in range(30):
        s3.head_object(Bucket="kept", Key="k1")
    return s3


def content(server):
    s3 = server.client()
    found = {}
    for bucket in s3.list_buckets()["Buckets"]:
        name = bucket["Name"]
        for key in s3.list_objects_v2(Bucket=name).get("Contents", []):
            got = s3.get_object(Bucket=name, Key=key["Key"])
            tags = s3.get_object_tagging(Bucket=name, Key=key["Key"])["TagSet"]
            found[name, key["Key"]] = (got["Body"].read(), got["Metadata"], got["ETag"], str(tags))
        uploads = s3.list_multipart_uploads(Bucket=name).get("Uploads", [])
        found[name] = sorted(u["Key"] for u in uploads)
    return found


def lose_catalogue(server):
    for file in server.data.glob("catalog.db*"):
        file.unlink()


def erased_at_sites(server):
    return server.cli_json("status")["catalogue"]["garbage"] == 0


def test_trimmed_fields_go_the_log_verifies_and_the_catalogue_is_rebuilt_exactly(new_server):
    server = new_server().start()
    fill(server)
    request = server.raw("HEAD", "kept", "k1").headers["x-amz-request-id"]
    proof = server.cli("log", "prove", request).stdout
    (server.data / "old.proof").write_text(proof)
    checkpoint = server.data.parent / "old.checkpoint"
    shutil.copy(server.data / "log" / "checkpoint", checkpoint)
    before = content(server)
    until(lambda: erased_at_sites(server), "what was deleted to be erased", 60)
    segment = min((server.data / "log" / "records").glob("*-*"))
    size_before = segment.stat().st_size

    cutoff = a_moment_later()
    would = server.cli_json("log", "trim", "--before", cutoff, "--dry-run")
    assert would["dry_run"] and would["trimmed"] > 60 and would["redos"] > 10, would
    done = server.cli_json("log", "trim", "--before", cutoff)
    assert (done["trimmed"], done["redos"]) == (would["trimmed"], would["redos"]), (would, done)
    again = server.cli_json("log", "trim", "--before", cutoff)
    assert again["trimmed"] == again["redos"] == 0, again

    shown = {r["seq"]: r for r in records(server)}
    by = done["record"]
    gone = [r for r in shown.values() if r.get("gone")]
    assert len(gone) == done["trimmed"] and all(r["gone"] == f"trimmed by record #{by}" for r in gone)
    assert shown[by]["core"]["op"] == "admin:LogTrim" and shown[by]["subject"]["principal"].startswith("uid-")
    ops = [r["core"]["op"] for r in shown.values() if not r.get("gone")]
    assert not [op for op in ops if op.startswith("s3:")], "control-plane records stay"
    assert "system:FirstKey" in ops
    shown_one = server.cli_json("log", "show", request)["records"][0]
    assert shown_one["gone"] == f"trimmed by record #{by}"

    report = verified(server)
    assert report["trimmed"] == done["trimmed"] and report["trimmed_by"] == [by]
    server.cli("log", "verify", "--against", checkpoint)
    server.cli("log", "check", server.data / "old.proof")
    new_proof = server.data / "new.proof"
    new_proof.write_text(server.cli("log", "prove", request).stdout)
    assert server.cli_json("log", "check", new_proof)["subject"] is None
    assert content(server) == before, "reading goes on as before"
    assert segment.stat().st_size < 1024 * 1024 < size_before, "a segment is cut to what is left in it"

    # A restart, then a lost database: what is restored is what there was.
    server.restart()
    assert content(server) == before
    server.stop()
    lose_catalogue(server)
    recovered = server.cli_json("recover")
    assert recovered["from_log"] and recovered["unconfirmed"] == 0, recovered
    assert recovered["trimmed_changes"] == done["redos"], recovered
    server.start()
    assert content(server) == before
    sweep = server.cli_json("sweep", "--dry-run")
    assert all(site["unknown"] == site["recoverable"] == 0 for site in sweep["sites"]), sweep
    key = server.key()
    assert [k["state"] for k in server.cli_json("key", "list")["keys"] if k["access_key_id"] == key.id] == ["active"]


def test_an_older_database_does_not_run_on_a_log_that_was_trimmed_beyond_it(new_server):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    s3.put_object(Bucket="abc", Key="a", Body=b"a")
    server.stop()
    aside = server.data.parent / "older"
    aside.mkdir()
    for file in server.data.glob("catalog.db*"):
        shutil.copy(file, aside)
    server.start()
    s3 = server.client()
    s3.delete_object(Bucket="abc", Key="a")
    s3.put_object(Bucket="abc", Key="b", Body=b"b")
    until(lambda: erased_at_sites(server), "the deleted object to be erased", 60)
    server.cli("log", "trim", "--before", a_moment_later())
    server.stop()
    lose_catalogue(server)
    for file in aside.iterdir():
        shutil.copy(file, server.data)
    server.spawn()
    assert server.process.wait(60) == 5
    assert "ringfence recover" in server.log_text()
    server.process = None
    lose_catalogue(server)
    server.cli("recover")
    server.start()
    assert [k for k in content(server) if isinstance(k, tuple)] == [("abc", "b")]


def test_a_kill_at_any_moment_of_a_trim_loses_nothing(new_server):
    server = new_server().start()
    fill(server)
    before = content(server)
    until(lambda: erased_at_sites(server), "what was deleted to be erased", 60)
    for delay in (0.0, 0.01, 0.03, 0.06, 0.1, 0.2):
        cutoff = a_moment_later()
        command = [BINARY, "log", "trim", "--before", cutoff, "--data", server.data]
        trimming = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
        time.sleep(delay)
        server.kill()
        trimming.wait(30)
        server.start()
        verified(server)
        assert content(server) == before
    server.cli("log", "trim", "--before", a_moment_later())
    server.stop()
    lose_catalogue(server)
    assert server.cli_json("recover")["from_log"]
    server.start()
    assert content(server) == before


def test_retention_runs_by_itself_and_control_plane_records_have_their_own_time(new_server):
    # A day is the least: nothing of today goes, whatever the round says.
    env = {"RINGFENCE__BACKGROUND__TRIM_EVERY_S": "1", "RINGFENCE__LOG__KEEP_ACCESS_DAYS": "1"}
    server = new_server(env=env).start()
    fill(server)
    until(lambda: b'task="log-trim",outcome="ok"' in server.admin("/metrics").body.replace(b" ", b""), "a round")
    assert not [r for r in records(server) if r.get("gone")]
    assert not [r for r in records(server) if r["core"]["op"] == "system:LogTrim"], "nothing due, nothing recorded"
    refused = server.cli("log", "trim", "--before", "2999-01-01", check=False)
    assert refused.returncode == 2 and "future" in refused.stderr


def test_a_schedule_that_keeps_less_of_the_control_plane_is_refused(new_server):
    env = {"RINGFENCE__LOG__KEEP_CONTROL_DAYS": "30"}
    server = new_server(env=env).spawn()
    assert server.process.wait(30) == 3
    assert "KEEP_CONTROL_DAYS" in server.log_text()
    server.process = None


# --- erasure ------------------------------------------------------------------------------


def key_files(server):
    return b"".join(f.read_bytes() for f in sorted((server.data / "keys").glob("*.keyring")))


def test_what_one_principal_did_is_erased_and_the_rest_is_proved_as_before(new_server):
    server = new_server().start()
    server.cli("key", "add", "--name", "alice")
    server.cli("key", "add", "--name", "bob")
    alice, bob = server.client("default-alice"), server.client("default-bob")
    alice.create_bucket(Bucket="abc")
    by_alice = alice.put_object(Bucket="abc", Key="a-name", Body=b"a")["ResponseMetadata"]["RequestId"]
    by_bob = bob.put_object(Bucket="abc", Key="b-name", Body=b"b")["ResponseMetadata"]["RequestId"]
    for _ in range(5):
        alice.head_object(Bucket="abc", Key="b-name")
        bob.head_object(Bucket="abc", Key="a-name")
    of = lambda name: [r["seq"] for r in records(server) if not r.get("gone") and r["subject"]["principal"] == name]
    alices, bobs = of("alice"), of("bob")
    assert len(alices) == 7 and len(bobs) == 6
    copy = server.data.parent / "copy-of-log"
    shutil.copytree(server.data / "log", copy)
    old_keys = key_files(server)
    checkpoint = server.data.parent / "old.checkpoint"
    shutil.copy(server.data / "log" / "checkpoint", checkpoint)
    bobs_proof = server.data.parent / "bob.proof"
    bobs_proof.write_text(server.cli("log", "prove", by_bob).stdout)

    asked = ("log", "erase", "--tenant", "default", "--principal", "alice", "--reason", "her request of 20 November")
    would = server.cli_json(*asked)
    assert would["dry_run"] and would["records"] == 7 and would["keys"] == 1, would
    assert of("alice") == alices, "nothing was erased yet"
    done = server.cli_json(*asked, "--confirm")
    by = done["record"]
    assert done["records"] == 7 and done["keys"] == 1 and done["under_lasting_keys"] == 0, done
    assert key_files(server) != old_keys

    shown = {r["seq"]: r for r in records(server)}
    for seq in alices:
        assert shown[seq]["gone"] == f"erased by record #{by}"
        assert "subject" not in shown[seq] and "resource" not in shown[seq]
        assert shown[seq]["core"]["op"].startswith("s3:"), "what happened is left"
    assert of("bob") == bobs
    said = shown[by]
    assert said["core"]["op"] == "admin:LogErase" and "her request of 20 November" in said["resource"]["detail"]
    assert "principal `alice`" in said["resource"]["detail"] and said["subject"]["principal"].startswith("uid-")

    report = verified(server)
    assert report["erased"] == 7 and report["erased_by"] == [by]
    server.cli("log", "verify", "--against", checkpoint)
    server.cli("log", "check", bobs_proof)
    for request, who in ((by_bob, "bob"), (by_alice, None)):
        proof = server.data.parent / "new.proof"
        proof.write_text(server.cli("log", "prove", request).stdout)
        checked = server.cli_json("log", "check", proof)
        assert (checked["subject"] or {}).get("principal") == who, checked
        assert checked["core"]["op"] == "s3:PutObject"

    # The log as it was, put back under the keyring of now: hers are closed.
    assert server.client().get_object(Bucket="abc", Key="a-name")["Body"].read() == b"a"
    server.stop()
    now_log = server.data / "log"
    for segment in (copy / "records").glob("*-*"):
        shutil.copy(segment, now_log / "records" / segment.name)
    listed = subprocess.run(
        [BINARY, "log", "show", "--from", str(alices[0]), "--limit", "1", "--json", "--data", server.data],
        capture_output=True, text=True, env=clean_env(),
    )  # fmt: skip
    assert "alice" not in listed.stdout and "a-name" not in listed.stdout


def test_an_erasure_survives_a_lost_database_and_objects_are_as_they_were(new_server):
    server = new_server().start()
    fill(server)
    before = content(server)
    server.cli("log", "erase", "--tenant", "default", "--reason", "all of it", "--confirm")
    assert content(server) == before
    server.stop()
    lose_catalogue(server)
    assert server.cli_json("recover")["from_log"]
    server.start()
    assert content(server) == before
    left = [r for r in records(server) if not r.get("gone") and r["core"]["op"].startswith("s3:")]
    assert all(r["seq"] > records(server)[0]["seq"] for r in left)


def test_one_record_is_erased_by_its_request_id_and_operators_acts_are_not(new_server):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    request = server.raw("GET", "abc", "names-a-patient").headers["x-amz-request-id"]
    for missing in (("--tenant", "default"), (request,)):
        refused = server.cli("log", "erase", *missing, check=False)
        assert refused.returncode == 2 and "--reason" in refused.stderr
    refused = server.cli("log", "erase", "--reason", "x", "--confirm", check=False)
    assert refused.returncode == 2 and "--tenant" in refused.stderr
    done = server.cli_json("log", "erase", request, "--reason", "names a patient", "--confirm")
    assert done["records"] == 1, done
    again = server.cli_json("log", "erase", request, "--reason", "names a patient", "--confirm")
    assert again["records"] == 0, again
    issue = next(r for r in records(server) if not r.get("gone") and r["core"]["op"] == "system:FirstKey")
    kept = server.cli_json("log", "erase", issue["request_id"], "--reason", "hide it", "--confirm")
    assert kept["records"] == 0, "what the operator and Ringfence did is not erased"
    verified(server)


def test_an_erasure_that_was_cut_off_is_done_by_the_next_start(new_server):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    note = server.data / "erasing"
    cut_off = 0
    for n in range(12):
        for _ in range(20):
            s3.head_bucket(Bucket="abc")
        command = [BINARY, "log", "erase", "--tenant", "default", "--reason", "r", "--confirm", "--data", server.data]
        erasing = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_env())
        if n % 2:
            while not note.exists() and erasing.poll() is None:
                pass
            time.sleep(0.004 * n)
        else:
            time.sleep(0.02 * n)
        server.kill()
        erasing.wait(30)
        noted = note.exists()
        cut_off += noted
        server.start()
        verified(server)
        assert not note.exists(), "the next start ends what was begun"
        if noted:
            task_by = max(r["seq"] for r in records(server) if not r.get("gone") and r["core"]["op"] == "admin:LogErase")
            left = [
                r["seq"]
                for r in records(server)
                if not r.get("gone") and r["core"]["op"].startswith("s3:") and r["seq"] < task_by
            ]
            assert not left, f"records before #{task_by} are left: {left[:5]}"
        s3 = server.client()
    assert cut_off, "no erasure was ever cut off: the test does not test"
