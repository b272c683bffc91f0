"""Sites that go away and come back while the server runs: nobody waits for
them, writes go where policy allows, reads take another copy, and nothing needs
a restart.
"""

import concurrent.futures
import re
import shutil
import time

import pytest

from harness import expect_error, some_bytes
from sigv4 import until
from test_faulty_site import KEY, PUBLIC, SECRET, lying, proxy  # noqa: F401 — fixtures

QUICK = "timeout_s = 4\nretries = 0\nfailures_max = 3\nrest_s = 1\nrest_max_s = 2\n"


def put(server, key, data, bucket="data", headers=PUBLIC):
    return server.raw("PUT", bucket, key, body=data, headers=dict(headers))


def where(server, key, bucket="data"):
    return {copy["site"] for copy in server.cli_json("where", f"s3://{bucket}/{key}")["copies"]}


def site(server, name="cloud"):
    return next(s for s in server.cli_json("site", "list")["sites"] if s["id"] == name)


def metric(server, line):
    found = re.search(rf"^{re.escape(line)} (\S+)$", server.admin("/metrics").body.decode(), flags=re.M)
    return float(found[1]) if found else None


@pytest.fixture
def cloud(new_server, proxy):
    """An installation whose public site is an S3 server behind the proxy."""
    server = new_server(env={"SITE_KEY": KEY, "SITE_SECRET": SECRET}).start()
    server.stop()
    config = server.data / "ringfence.toml"
    there = (
        '[[site]]\nid = "cloud"\nkind = "public"\ntype = "s3"\nprovider = "rclone"\nregion = "us-east-1"\nbucket = "sealed"\n'
        f'endpoint = "http://127.0.0.1:{proxy.server_port}"\naccess_key_id = "env:SITE_KEY"\nsecret_access_key = "env:SITE_SECRET"\n'
        f"{QUICK}\n"
    )
    config.write_text(re.sub(r'\[\[site\]\]\nid = "cloud".*?(?=\n\[labels\])', there, config.read_text(), flags=re.S))
    server.start()
    client = server.client()
    client.create_bucket(Bucket="data")
    client.create_bucket(Bucket="pinned", CreateBucketConfiguration={"LocationConstraint": "cloud"})
    return server


def test_while_a_site_is_down_writes_go_to_the_next_one_that_policy_allows(cloud, proxy, lying):
    assert put(cloud, "before", b"x").status == 200 and where(cloud, "before") == {"cloud"}
    lying("refuses connections")
    until(lambda: put(cloud, "first", b"x").status == 200, "writes to go elsewhere")
    assert where(cloud, "first") == {"home"}
    begun = time.monotonic()
    for i in range(10):
        answer = put(cloud, f"k{i}", some_bytes(100_000, i))
        assert answer.status == 200 and where(cloud, f"k{i}") == {"home"}
        expect_error(put(cloud, f"k{i}", b"x", bucket="pinned"), 503, "ServiceUnavailable")
        expect_error(cloud.raw("GET", "data", "before"), 503, "ServiceUnavailable")
    assert time.monotonic() - begun < 15, "somebody waited for the dead site"
    explained = cloud.cli_json("policy", "explain", answer.headers["x-amz-request-id"])
    assert explained["resource"]["sites"] == ["home"] and "passed over site `cloud`" in explained["resource"]["detail"]
    refused = put(cloud, "again", b"x", bucket="pinned")
    why = cloud.cli_json("policy", "explain", refused.headers["x-amz-request-id"])["core"]["reason"]
    assert "`cloud`" in why, why
    assert site(cloud)["state"] in ("resting", "tried out") and site(cloud, "home")["state"] == "ok"
    assert metric(cloud, 'ringfence_site_breaker{site="cloud"}') in (1, 2)
    assert metric(cloud, 'ringfence_site_breaker{site="home"}') == 0
    ready = cloud.admin("/readyz")
    assert ready.status == 200 and b"1 of 2 sites" in ready.body
    lying("honest")
    until(lambda: site(cloud)["state"] == "ok", "the site's return")
    assert cloud.raw("GET", "data", "before").body == b"x"
    assert put(cloud, "after", b"x").status == 200 and where(cloud, "after") == {"cloud"}
    assert cloud.admin("/readyz").body == b"ready\n"


def test_what_policy_does_not_allow_elsewhere_is_never_placed_elsewhere(cloud, proxy, lying):
    """Home is gone: internal data has no other place, public data has."""
    home = cloud.data / "sites" / "home"
    home.rename(home.with_name("away"))
    seen = len(proxy.seen)
    for i in range(5):
        expect_error(put(cloud, f"k{i}", b"secret", headers={}), 503, "ServiceUnavailable")
        expect_error(put(cloud, f"l{i}", some_bytes(200_000), headers={}), 503, "ServiceUnavailable")
    assert not [s for s in proxy.seen[seen:] if s[0] == "PUT"], "internal data went to the cloud"
    assert put(cloud, "public", b"x").status == 200
    home.with_name("away").rename(home)
    until(lambda: put(cloud, "k", b"secret", headers={}).status == 200, "home's return")


def test_a_site_that_hangs_keeps_nobody_else_waiting(cloud, proxy, lying):
    lying("hangs")
    with concurrent.futures.ThreadPoolExecutor(40) as threads:
        stuck = [threads.submit(put, cloud, f"stuck{i}", some_bytes(300_000, i)) for i in range(30)]
        for i in range(20):
            begun = time.monotonic()
            assert put(cloud, f"home{i}", some_bytes(200_000, i), headers={}).status == 200
            assert time.monotonic() - begun < 3.5
        assert all(answer.result().status in (200, 503) for answer in stuck)
    begun = time.monotonic()
    assert put(cloud, "later", b"x").status == 200 and where(cloud, "later") == {"home"}
    assert time.monotonic() - begun < 3.5


def test_a_read_takes_the_next_copy(cloud, proxy, lying):
    config = cloud.data / "ringfence.toml"
    cloud.stop()
    config.write_text(config.read_text().replace('prefer = ["cloud", "home"]\ncopies = 1', 'prefer = ["cloud", "home"]\ncopies = 2'))
    cloud.start()
    data = some_bytes(3_000_000)
    assert put(cloud, "two", data).status == 200 and where(cloud, "two") == {"cloud", "home"}
    away = cloud.data / "sites" / "away"
    (cloud.data / "sites" / "home").rename(away)
    assert cloud.raw("GET", "data", "two").body == data
    away.rename(cloud.data / "sites" / "home")
    lying("hangs")
    begun = time.monotonic()
    assert cloud.raw("GET", "data", "two").body == data
    assert time.monotonic() - begun < 3.5


def test_a_site_left_out_at_the_start_comes_back_without_a_restart(new_server):
    server = new_server().start()
    server.client().create_bucket(Bucket="data")
    assert put(server, "there", b"there").status == 200 and where(server, "there") == {"cloud"}
    server.stop()
    cloud = server.data / "sites" / "cloud"
    cloud.rename(cloud.with_name("away"))
    server.start()
    assert site(server)["state"] == "left out" and metric(server, "ringfence_sites_left_out") == 1
    expect_error(server.raw("GET", "data", "there"), 503, "ServiceUnavailable")
    assert put(server, "meanwhile", b"x").status == 200 and where(server, "meanwhile") == {"home"}
    # An empty mount point and another site's directory are not the site.
    cloud.mkdir()
    time.sleep(2.5)
    assert site(server)["state"] == "left out" and not list(cloud.iterdir())
    cloud.rmdir()
    shutil.copytree(server.data / "sites" / "home", cloud)
    time.sleep(4)
    assert site(server)["state"] == "left out" and "belongs to site `home`" in site(server)["why"]
    shutil.rmtree(cloud)
    cloud.with_name("away").rename(cloud)
    until(lambda: site(server)["state"] == "ok", "the site to be taken in", 60)
    assert server.raw("GET", "data", "there").body == b"there"
    assert put(server, "after", b"x").status == 200 and where(server, "after") == {"cloud"}
    assert server.cli("sweep").returncode == 0


def test_a_directory_that_is_taken_away_loses_nothing_and_forgets_no_erasure(new_server):
    server = new_server().start()
    server.client().create_bucket(Bucket="data")
    data = some_bytes(300_000)
    assert put(server, "kept", data).status == 200 and put(server, "gone", data).status == 200
    cloud = server.data / "sites" / "cloud"
    stored = sum(1 for p in cloud.rglob("*-*") if p.is_file())
    cloud.rename(cloud.with_name("away"))
    expect_error(server.raw("GET", "data", "kept"), 503, "ServiceUnavailable")
    assert server.raw("DELETE", "data", "gone").status == 204
    assert "copies could not be checked" in server.cli("scrub", check=False).stderr, "nothing is said to be lost"
    server.cli("sweep", check=False)
    cloud.with_name("away").rename(cloud)
    until(lambda: server.raw("GET", "data", "kept").body == data, "the directory's return")

    def erased():
        server.cli("sweep", check=False)
        return sum(1 for p in cloud.rglob("*-*") if p.is_file()) < stored

    until(erased, "the erasure after its return", 60, 1)


def test_a_scrub_repairs_a_copy_from_the_other_one(new_server):
    server = new_server().start()
    server.stop()
    config = server.data / "ringfence.toml"
    config.write_text(config.read_text().replace('prefer = ["cloud", "home"]\ncopies = 1', 'prefer = ["cloud", "home"]\ncopies = 2'))
    server.start()
    server.client().create_bucket(Bucket="data")
    large, small = some_bytes(300_000), some_bytes(500)
    assert put(server, "large", large).status == 200 and put(server, "small", small).status == 200
    cloud = server.data / "sites" / "cloud"
    chunk = next(p for p in cloud.rglob("*-*") if p.is_file() and p.stat().st_size > 250_000)
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    for pack in (cloud / "packs").iterdir():
        data = pack.read_bytes()
        pack.write_bytes(data[:100] + bytes(b ^ 0x55 for b in data[100:5000]) + data[5000:])
    repaired = server.cli_json("scrub")
    assert len(repaired["repaired"]) == 2 and not repaired["bad"] and not repaired["unchecked"], repaired
    assert chunk.read_bytes() == whole
    again = server.cli_json("scrub")
    assert not again["repaired"] and not again["bad"]
    records = server.cli_json("log", "show", "--limit", "40")["records"]
    assert "system:Repair" in str(records)
    # The repaired copies alone are enough.
    for path in (server.data / "sites" / "home").rglob("*-*"):
        if path.is_file():
            path.unlink()
    assert server.raw("GET", "data", "large").body == large and server.raw("GET", "data", "small").body == small
    server.cli("log", "verify")
