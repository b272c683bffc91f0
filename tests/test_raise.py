"""A label is raised beyond what the sites of an object may hold: when the
client has its 200, nothing of the object lies there any more.
"""

import concurrent.futures
import random
import threading
import time

import pytest

from harness import expect_error, some_bytes
from sigv4 import until
from test_faulty_site import PUBLIC, lying, proxy  # noqa: F401 — fixtures
from test_site_health import cloud, put, where  # noqa: F401 — fixtures

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def s3(server):
    server.let_static_keys_reach_restricted()
    client = server.client()
    client.create_bucket(Bucket="data")
    client.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "cloud"})
    return client


def labelled(label):
    return {"TagSet": [{"Key": "ringfence-label", "Value": label}, {"Key": "who", "Value": "me"}]}


def files(server):
    folder = server.data / "sites" / "cloud"
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.endswith(".json")}


def ciphertext(before, after):
    """Blocks that came to a folder and look like nothing but ciphertext."""
    blocks = []
    for path, data in after.items():
        was = before.get(path, b"")
        stride = 64 * (1 + len(data) // 1_000_000)
        blocks += [data[i : i + 64] for i in range(0, len(data), stride) if data[i : i + 64] != was[i : i + 64]]
    return [block for block in blocks if len(set(block)) > 45]


def tag(server, key, label, bucket="data"):
    body = f"<Tagging><TagSet><Tag><Key>ringfence-label</Key><Value>{label}</Value></Tag></TagSet></Tagging>"
    return server.raw("PUT", bucket, key, query=[("tagging", "")], body=body.encode())


@pytest.mark.parametrize("size", [0, 700, 300_000, 17 * MIB])
def test_nothing_is_left_where_the_new_label_may_not_be(server, s3, size):
    key, data = f"k{size}", some_bytes(size)
    there = files(server)
    s3.put_object(Bucket="data", Key=key, Body=data, Metadata={"kept": "yes"}, ContentType="text/x", Tagging="ringfence-label=public")
    before = s3.head_object(Bucket="data", Key=key)
    assert where(server, key) == {"cloud"}
    blocks = ciphertext(there, files(server))
    assert blocks
    s3.put_object_tagging(Bucket="data", Key=key, Tagging=labelled("confidential"))
    now = files(server)
    assert not [block for block in blocks if any(block in data for data in now.values())]
    assert where(server, key) == {"home"}
    found = server.cli_json("where", f"s3://data/{key}")
    assert found["label"] == "confidential" and not found["drift"]
    after = s3.get_object(Bucket="data", Key=key)
    assert after["Body"].read() == data
    for same in ("ETag", "LastModified", "ContentLength", "ContentType", "Metadata"):
        assert after[same] == before[same], same
    assert s3.get_object_tagging(Bucket="data", Key=key)["TagSet"] == labelled("confidential")["TagSet"]
    assert s3.list_objects_v2(Bucket="data", Prefix=key)["Contents"][0]["Size"] == size


def test_a_multipart_object_is_raised_part_by_part(server, s3):
    parts = [some_bytes(6 * MIB, 1), some_bytes(5 * MIB, 2), some_bytes(10, 3)]
    upload = s3.create_multipart_upload(Bucket="data", Key="parts", Tagging="ringfence-label=public")["UploadId"]
    done = []
    for number, data in enumerate(parts, 1):
        etag = s3.upload_part(Bucket="data", Key="parts", UploadId=upload, PartNumber=number, Body=data)["ETag"]
        done.append({"PartNumber": number, "ETag": etag})
    s3.complete_multipart_upload(Bucket="data", Key="parts", UploadId=upload, MultipartUpload={"Parts": done})
    etag = s3.head_object(Bucket="data", Key="parts")["ETag"]
    assert where(server, "parts") == {"cloud"}
    s3.put_object_tagging(Bucket="data", Key="parts", Tagging=labelled("internal"))
    assert where(server, "parts") == {"home"} and not [p for p in files(server) if "-" in p.name and p.stat().st_size > MIB]
    got = s3.get_object(Bucket="data", Key="parts")
    assert got["Body"].read() == b"".join(parts) and got["ETag"] == etag
    assert s3.get_object(Bucket="data", Key="parts", PartNumber=2)["Body"].read() == parts[1]


def test_the_tag_that_goes_raises_the_label_too(server, s3):
    s3.put_object(Bucket="data", Key="untagged", Body=b"x", Tagging="ringfence-label=public")
    assert where(server, "untagged") == {"cloud"}
    s3.delete_object_tagging(Bucket="data", Key="untagged")
    assert where(server, "untagged") == {"home"}


def test_where_it_cannot_be_done_nothing_changes(server, s3):
    s3.put_object(Bucket="pinned", Key="k", Body=b"x", Tagging="ringfence-label=public")
    answer = tag(server, "k", "restricted", "pinned")
    expect_error(answer, 409, "OperationAborted")
    assert where(server, "k", "pinned") == {"cloud"}
    why = server.cli_json("policy", "explain", answer.headers["x-amz-request-id"])["core"]["reason"]
    assert "pinned" in why, why
    # A source that cannot be read.
    data = some_bytes(300_000)
    there = set(files(server))
    s3.put_object(Bucket="data", Key="damaged", Body=data, Tagging="ringfence-label=public")
    chunk = next(p for p in files(server) if p not in there and p.stat().st_size > 250_000)
    good = chunk.read_bytes()
    chunk.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    expect_error(tag(server, "damaged", "restricted"), 409, "OperationAborted")
    assert where(server, "damaged") == {"cloud"}
    assert s3.get_object_tagging(Bucket="data", Key="damaged")["TagSet"] == [{"Key": "ringfence-label", "Value": "public"}]
    chunk.write_bytes(good)
    assert tag(server, "damaged", "restricted").status == 200
    assert s3.get_object(Bucket="data", Key="damaged")["Body"].read() == data


def test_what_overwrites_it_meanwhile_wins(server, s3):
    stop = threading.Event()

    def overwrite(key):
        last = None
        while not stop.is_set():
            last = some_bytes(200_000, random.randrange(10**6))
            assert server.raw("PUT", "data", key, body=last, headers=dict(PUBLIC)).status in (200, 403)
        return last

    for i in range(5):
        key = f"race{i}"
        stop.clear()
        assert put(server, key, b"first").status == 200
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            writer = thread.submit(overwrite, key)
            # `public` may take the place of `internal`: the default policy lets the owner lower it.
            answers = [tag(server, key, "internal").status for _ in range(6)]
            stop.set()
            last = writer.result()
        assert set(answers) <= {200, 409, 503}, answers
        assert server.raw("GET", "data", key).body == last
        found = server.cli_json("where", f"s3://data/{key}")
        assert not found["drift"], found
    assert server.cli("scrub").returncode == 0


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(new_server):
    server = new_server().start()
    server.client().create_bucket(Bucket="data")
    data = some_bytes(20 * MIB)
    for i in range(4):
        key = f"k{i}"
        assert put(server, key, data).status == 200
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            answer = thread.submit(tag, server, key, "internal")
            time.sleep(random.uniform(0.05, 1.5))
            server.kill()
            try:
                acknowledged = answer.result().status == 200
            except Exception:
                acknowledged = False
        server.start()
        assert server.raw("GET", "data", key).body == data
        found = server.cli_json("where", f"s3://data/{key}")
        assert not found["drift"]
        if acknowledged:
            assert found["label"] == "internal"
        if found["label"] == "public":
            assert tag(server, key, "internal").status == 200
        assert server.raw("DELETE", "data", key).status == 204
    until(lambda: not [p for p in files(server) if p.stat().st_size > MIB], "the erasure at the cloud", 60, 1)
    server.cli("log", "verify")


def test_nobody_is_told_so_before_it_is_erased(cloud, proxy, lying):  # noqa: F811
    data = some_bytes(300_000)

    def stored():
        return [p for p in proxy.folder.rglob("*") if p.is_file()]

    assert put(cloud, "k", data).status == 200 and where(cloud, "k") == {"cloud"}
    there = set(stored())
    lying("erases nothing")
    for _ in range(2):
        expect_error(tag(cloud, "k", "internal"), 503, "ServiceUnavailable")
    assert set(stored()) == there
    assert cloud.raw("GET", "data", "k").body == data
    lying("honest")
    until(lambda: tag(cloud, "k", "internal").status == 200, "the erasure")
    assert where(cloud, "k") == {"home"}
    assert not [p for p in stored() if p in there]
