"""The promises, attacked: placement by label, ciphertext only, tenants apart.

P1: nothing lands at a site its label does not allow, not for a moment.
P2: a site sees ciphertext and no names.
"""

import base64
import json
import os
import pathlib
import threading

import pytest
from botocore.exceptions import ClientError

from harness import expect_error, some_bytes, unique
from sigv4 import md5_hex, until

MIB = 1024 * 1024
LABELS = ["public", "internal", "confidential", "restricted"]


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def label_tag(label):
    return {"TagSet": [{"Key": "ringfence-label", "Value": label}]}


def bytes_at(server, site):
    """Size of everything that lies at a site."""
    folder = server.data / "sites" / site
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            pass  # The sweep may be at work.
    return total


def where(server, bucket, key):
    return server.cli_json("where", f"s3://{bucket}/{key}")


def sites_of(server, bucket, key):
    """The sites `where` names, whatever the exact shape of its answer."""
    text = json.dumps(where(server, bucket, key))
    return {site for site in ("home", "cloud") if f'"{site}"' in text}


@pytest.fixture(scope="module", autouse=True)
def static_keys(server):
    """Where data may lie is what is promised here, whoever puts it there."""
    server.let_static_keys_reach_restricted()


class Watch:
    """Looks at a site's directory without pause, for files that must never be
    there, even for a moment. Names are not known beforehand and packs have
    their full size from the start, so it compares sizes and times: nothing may
    be written there while restricted data is."""

    def __init__(self, server, site="cloud"):
        self.folder = server.data / "sites" / site
        self.seen, self.stop = set(), threading.Event()

    def snapshot(self):
        found = set()
        for base, _, names in os.walk(self.folder):
            for name in names:
                try:
                    path = os.path.join(base, name)
                    status = os.stat(path)
                    found.add((path, (status.st_size, status.st_mtime_ns)))
                except FileNotFoundError:
                    pass
        return found

    def __enter__(self):
        self.before = self.snapshot()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def _look(self):
        while not self.stop.is_set():
            self.seen |= self.snapshot() - self.before

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.seen |= self.snapshot() - self.before


@pytest.fixture(scope="module")
def pinned(server, s3):
    """A bucket pinned to the public site."""
    name = unique("pinned")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "cloud"})
    return name


# --- placement --------------------------------------------------------------------


@pytest.mark.parametrize("label, site", [("public", "cloud"), ("internal", "home"), ("confidential", "home"), ("restricted", "home")])
@pytest.mark.parametrize("length", [0, 500, 300_000])
def test_the_label_of_an_object_decides_its_site(server, s3, bucket, label, site, length):
    with Watch(server, "home") as home, Watch(server, "cloud") as cloud:
        s3.put_object(Bucket=bucket, Key="k", Body=some_bytes(length), Tagging=f"ringfence-label={label}")
    assert (home if site == "home" else cloud).seen, "the object lies where it should"
    assert site == "cloud" or not cloud.seen, f"something was written at the public site: {cloud.seen}"
    assert sites_of(server, bucket, "k") == {site}
    assert where(server, bucket, "k") and label in json.dumps(where(server, bucket, "k"))


def test_without_a_tag_the_tenants_default_label_counts(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert "internal" in json.dumps(where(server, bucket, "k")) and sites_of(server, bucket, "k") == {"home"}


def test_a_tenant_of_which_nothing_is_said_is_the_strictest(server):
    other, name = server.client("other"), unique()
    other.create_bucket(Bucket=name)
    other.put_object(Bucket=name, Key="k", Body=b"x")
    answer = json.dumps(where(server, name, "k"))
    assert "restricted" in answer or "internal" in answer, answer
    assert sites_of(server, name, "k") == {"home"}


def test_the_tag_of_a_bucket_counts_for_its_objects(server, s3, bucket):
    s3.put_bucket_tagging(Bucket=bucket, Tagging=label_tag("public"))
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert sites_of(server, bucket, "k") == {"cloud"}
    s3.put_object(Bucket=bucket, Key="own", Body=b"x", Tagging="ringfence-label=restricted")
    assert sites_of(server, bucket, "own") == {"home"}, "an object's own tag wins"


@pytest.mark.parametrize("label", ["internal", "confidential", "restricted"])
def test_a_pinned_bucket_refuses_what_may_not_lie_there_on_every_way_in(server, s3, bucket, pinned, label):
    data = some_bytes(200_000)
    s3.put_object(Bucket=bucket, Key="source", Body=data, Tagging=f"ringfence-label={label}")
    tagging = f"ringfence-label={label}"
    source = {"Bucket": bucket, "Key": "source"}
    at = {"Bucket": pinned, "Key": f"forbidden-{label}"}
    with Watch(server) as cloud:
        assert code_of(s3.put_object, **at, Body=data, Tagging=tagging) == ("AccessDenied", 403)
        assert code_of(s3.put_object, **at, Body=b"", Tagging=tagging) == ("AccessDenied", 403)
        assert code_of(s3.copy_object, **at, CopySource=source) == ("AccessDenied", 403)
        assert code_of(s3.copy_object, **at, CopySource=source, TaggingDirective="REPLACE", Tagging=tagging) == ("AccessDenied", 403)
        assert code_of(s3.create_multipart_upload, **at, Tagging=tagging) == ("AccessDenied", 403)
    assert not cloud.seen, f"something appeared at the public site: {cloud.seen}"
    assert code_of(s3.get_object, **at)[0] == "NoSuchKey"


def test_an_untagged_write_into_a_pinned_bucket_has_the_inherited_label(server, s3, pinned):
    """The tenant's default is internal, which may not lie in the cloud."""
    with Watch(server) as cloud:
        assert code_of(s3.put_object, Bucket=pinned, Key="untagged", Body=b"x" * 1000) == ("AccessDenied", 403)
        assert code_of(s3.create_multipart_upload, Bucket=pinned, Key="untagged") == ("AccessDenied", 403)
    assert not cloud.seen


def test_public_data_goes_into_the_pinned_bucket_and_comes_back(server, s3, pinned):
    s3.put_object(Bucket=pinned, Key="fine", Body=b"hello", Tagging="ringfence-label=public")
    assert sites_of(server, pinned, "fine") == {"cloud"}
    assert s3.get_object(Bucket=pinned, Key="fine")["Body"].read() == b"hello"


def test_a_part_copied_from_stricter_data_is_refused_in_a_pinned_bucket(server, s3, bucket, pinned):
    """UploadPartCopy would launder restricted bytes into a public upload."""
    secret = some_bytes(6 * MIB)
    s3.put_object(Bucket=bucket, Key="secret", Body=secret, Tagging="ringfence-label=restricted")
    at = {"Bucket": pinned, "Key": "laundered"}
    upload = s3.create_multipart_upload(**at, Tagging="ringfence-label=public")["UploadId"]
    with Watch(server) as cloud:
        copy = {"CopySource": {"Bucket": bucket, "Key": "secret"}, "UploadId": upload, "PartNumber": 1}
        assert code_of(s3.upload_part_copy, **at, **copy) == ("AccessDenied", 403)
        assert code_of(s3.upload_part_copy, **at, **copy, CopySourceRange="bytes=0-99") == ("AccessDenied", 403)
    assert not cloud.seen
    assert not s3.list_parts(**at, UploadId=upload).get("Parts")
    s3.abort_multipart_upload(**at, UploadId=upload)


def test_a_copy_keeps_at_least_the_label_of_its_source(server, s3, bucket):
    """Ruling 5: a copy below its source's label needs LowerLabel; the default
    policy gives that to nobody silently."""
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret", Tagging="ringfence-label=restricted")
    source = {"Bucket": bucket, "Key": "secret"}
    with Watch(server) as cloud:
        code = code_of(s3.copy_object, Bucket=bucket, Key="out", CopySource=source, TaggingDirective="REPLACE", Tagging="ringfence-label=public")
    assert code == ("AccessDenied", 403) and not cloud.seen
    s3.copy_object(Bucket=bucket, Key="kept", CopySource=source)
    assert sites_of(server, bucket, "kept") == {"home"} and "restricted" in json.dumps(where(server, bucket, "kept"))


def test_dropping_the_tag_in_a_copy_does_not_drop_the_label(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="secret", Body=b"secret", Tagging="ringfence-label=restricted")
    source = {"Bucket": bucket, "Key": "secret"}
    code = code_of(s3.copy_object, Bucket=bucket, Key="out", CopySource=source, TaggingDirective="REPLACE", Tagging="a=b")
    assert code == ("AccessDenied", 403)


LOWERINGS = {
    "a tag put": lambda s3, at: s3.put_object_tagging(**at, Tagging=label_tag("public")),
    "a tag put one step lower": lambda s3, at: s3.put_object_tagging(**at, Tagging=label_tag("confidential")),
    "a tag removed": lambda s3, at: s3.delete_object_tagging(**at),
    "other tags put": lambda s3, at: s3.put_object_tagging(**at, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]}),
    "an overwrite": lambda s3, at: s3.put_object(**at, Body=b"new", Tagging="ringfence-label=public"),
    "an untagged overwrite": lambda s3, at: s3.put_object(**at, Body=b"new"),
    "an upload over it": lambda s3, at: s3.create_multipart_upload(**at, Tagging="ringfence-label=public"),
}


@pytest.mark.parametrize("what", LOWERINGS)
def test_a_label_is_not_lowered_without_permission_by(server, s3, bucket, what):
    at = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**at, Body=b"secret", Tagging="ringfence-label=restricted")
    with Watch(server) as cloud:
        try:
            answer = LOWERINGS[what](s3, at)
            if "UploadId" in answer:  # Create may pass; then Complete must not.
                part = s3.upload_part(**at, UploadId=answer["UploadId"], PartNumber=1, Body=b"new")
                parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
                s3.complete_multipart_upload(**at, UploadId=answer["UploadId"], MultipartUpload=parts)
            pytest.fail(f"{what} was accepted: {json.dumps(where(server, bucket, 'k'))}")
        except ClientError as error:
            assert error.response["Error"]["Code"] == "AccessDenied", error
    if "upload" not in what:
        assert not cloud.seen
    assert s3.get_object(**at)["Body"].read() == b"secret"
    assert "restricted" in json.dumps(where(server, bucket, "k"))


def test_raising_a_label_beyond_its_site_moves_or_refuses_but_never_lies(server, s3, bucket):
    """Ruling 6: a synchronous re-put plus erasure before the 200, or 409."""
    at = {"Bucket": bucket, "Key": "k"}
    data = some_bytes(300_000)
    s3.put_object(**at, Body=data, Tagging="ringfence-label=public")
    assert sites_of(server, bucket, "k") == {"cloud"}
    before = bytes_at(server, "cloud")
    try:
        s3.put_object_tagging(**at, Tagging=label_tag("restricted"))
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 409, error
        assert sites_of(server, bucket, "k") == {"cloud"} and "restricted" not in json.dumps(where(server, bucket, "k"))
    else:
        assert sites_of(server, bucket, "k") == {"home"}
        assert bytes_at(server, "cloud") <= before - 300_000, "the public copy is erased before the 200"
    assert s3.get_object(**at)["Body"].read() == data


def test_raising_a_label_that_its_site_allows_keeps_the_object_where_it_is(server, s3, bucket):
    at = {"Bucket": bucket, "Key": "k"}
    s3.put_object(**at, Body=b"x")
    s3.put_object_tagging(**at, Tagging=label_tag("restricted"))
    assert sites_of(server, bucket, "k") == {"home"} and "restricted" in json.dumps(where(server, bucket, "k"))
    assert s3.get_object(**at)["Body"].read() == b"x"


def test_a_pinned_bucket_refuses_a_tag_its_site_may_not_hold(server, s3, pinned):
    at = {"Bucket": pinned, "Key": "tagged"}
    s3.put_object(**at, Body=b"hello", Tagging="ringfence-label=public")
    code, status = code_of(s3.put_object_tagging, **at, Tagging=label_tag("restricted"))
    assert status in (403, 409), (code, status)
    code, status = code_of(s3.delete_object_tagging, **at)
    assert status in (403, 409), "without its tag it would be internal, which may not lie there"
    assert s3.get_object(**at)["Body"].read() == b"hello"


def test_a_multipart_upload_is_placed_by_the_label_of_its_create(server, s3, bucket):
    for label, site in [("public", "cloud"), ("restricted", "home")]:
        at = {"Bucket": bucket, "Key": label}
        with Watch(server) as cloud:
            upload = s3.create_multipart_upload(**at, Tagging=f"ringfence-label={label}")["UploadId"]
            data = [some_bytes(5 * MIB, 1), some_bytes(1000, 2)]
            parts = [{"PartNumber": n, "ETag": s3.upload_part(**at, UploadId=upload, PartNumber=n, Body=d)["ETag"]} for n, d in enumerate(data, 1)]
            s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
        assert bool(cloud.seen) == (site == "cloud")
        assert sites_of(server, bucket, label) == {site}
        assert s3.get_object(**at)["Body"].read() == b"".join(data)


# --- refusals are explained ---------------------------------------------------------------


def test_a_refusal_is_explained_by_its_request_id(server, s3, pinned):
    answer = server.raw("PUT", pinned, "no", body=b"x", headers={"x-amz-tagging": "ringfence-label=restricted"})
    expect_error(answer, 403, "AccessDenied")
    request_id = answer.headers["x-amz-request-id"]
    told = server.cli("policy", "explain", request_id).stdout
    assert "restricted" in told and "cloud" in told, told
    machine = server.cli("policy", "explain", request_id, "--json").stdout
    explained = json.loads(machine)
    assert "restricted" in machine and ("polic" in machine), explained
    assert b"polic" not in answer.body.lower() or b"explain" in answer.body.lower(), "the client learns no policy"


def test_explain_of_what_never_was_says_so(server):
    for request_id in ("0000000000000000", "not-an-id", "", "ZZZZZZZZZZZZZZZZZZZZZZZZZZ"):
        done = server.cli("policy", "explain", request_id, check=False)
        assert done.returncode != 0 and done.stderr.strip() and "panicked" not in done.stderr, (request_id, done)


def test_where_tells_label_sites_size_and_policy(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a b/ü", Body=b"x" * 1000, Tagging="ringfence-label=public")
    text = server.cli("where", f"s3://{bucket}/a b/ü").stdout
    assert "public" in text and "cloud" in text
    assert isinstance(where(server, bucket, "a b/ü"), (dict, list))
    for missing in (f"s3://{bucket}/no", "s3://no-such-bucket-here/k", "not a url", f"s3://{bucket}"):
        done = server.cli("where", missing, check=False)
        assert done.returncode != 0 and done.stderr.strip() and "panicked" not in done.stderr, missing


# --- ciphertext only --------------------------------------------------------------------------

BODY = b"CANARY-BODY-52c1-" * 400
CANARIES = {
    "bucket": unique("canary-bucket"),
    "key": "canary-key-52c1/deep/canary-name-52c1.txt",
    "metadata name": "canary-meta-name-52c1",
    "metadata value": "canary-meta-value-52c1",
    "tag": "canary-tag-52c1",
    "content type": "application/x-canary-52c1",
    "disposition": "canary-disposition-52c1",
}


def forms_of(secret):
    """How a secret could lie open: plain, hex, base64 in each alignment, UTF-16, reversed."""
    forms = {"plain": secret, "hex": secret.hex().encode(), "HEX": secret.hex().upper().encode(), "reversed": secret[::-1]}
    forms["utf-16"] = secret.decode("latin-1").encode("utf-16-le")
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        forms[f"base64+{shift}"] = encoded[4 if shift else 0 :].rstrip(b"=")[:-1]
        forms[f"base64url+{shift}"] = forms[f"base64+{shift}"].replace(b"+", b"-").replace(b"/", b"_")
    return forms


@pytest.fixture(scope="module")
def canaries(server, s3):
    """Public and secret objects of every shape, full of words to look for."""
    c = CANARIES
    s3.create_bucket(Bucket=c["bucket"])
    for label in ("public", "internal"):
        tagging = f"ringfence-label={label}&{c['tag']}={c['tag']}"
        more = {"Metadata": {c["metadata name"]: c["metadata value"]}, "ContentType": c["content type"], "ContentDisposition": c["disposition"]}
        for size, data in [("small", BODY[:100]), ("medium", BODY), ("large", BODY * 300)]:
            s3.put_object(Bucket=c["bucket"], Key=f"{c['key']}-{label}-{size}", Body=data, Tagging=tagging, **more)
        at = {"Bucket": c["bucket"], "Key": f"{c['key']}-{label}-parts"}
        upload = s3.create_multipart_upload(**at, Tagging=tagging, **more)["UploadId"]
        parts = [{"PartNumber": 1, "ETag": s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=BODY * 10)["ETag"]}]
        s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
        s3.copy_object(Bucket=c["bucket"], Key=f"{c['key']}-{label}-copy", CopySource=at)
    return server


@pytest.mark.parametrize("site", ["cloud", "home"])
def test_no_plaintext_and_no_name_lies_at_a_site(canaries, site):
    server = canaries
    secrets = {name: value.encode() for name, value in CANARIES.items()}
    secrets |= {
        "body": BODY[:17],
        "key's last part": b"canary-name-52c1",
        "access key": server.key().id.encode(),
        "secret key": server.key().secret.encode(),
        "md5 of the body": md5_hex(BODY).encode(),
        "raw md5 of the body": bytes.fromhex(md5_hex(BODY)),
        "label tag": b"ringfence-label",
    }
    forms = [(name, form, data) for name, secret in secrets.items() for form, data in forms_of(secret).items() if len(data) >= 8]
    files = [p for p in (server.data / "sites" / site).rglob("*")]
    assert sum(p.is_file() for p in files) > 0, "the site holds something"
    for path in files:
        name = str(path.relative_to(server.data / "sites" / site)).encode()
        data = path.read_bytes() if path.is_file() else b""
        for secret, form, wanted in forms:
            assert wanted not in data, f"{secret} lies open ({form}) in {path}"
            assert wanted not in name, f"{secret} is in the name {path}"


def test_names_at_the_public_site_are_random_hex(canaries):
    """Nothing but hex, digits and the site's own structure: no word can hide."""
    import re

    site = canaries.data / "sites" / "cloud"
    for path in site.rglob("*"):
        for piece in path.relative_to(site).parts:
            assert piece == "ringfence-site.json" or re.fullmatch(r"[0-9a-f-]{1,80}|c|h|p|packs?|pack-[0-9a-f]+|tmp|staging|[0-9a-z-]{1,12}(\.[a-z]{1,5})?|[0-9a-f]{8,64}\.[a-z]{1,5}", piece), path


def test_equal_objects_look_different_at_a_site(server, s3, bucket):
    """No deduplication, no convergent encryption: equality is not told."""
    watch = Watch(server)
    before = {p for p, _ in watch.snapshot()}
    for n in range(2):
        s3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"same" * 100_000, Tagging="ringfence-label=public")
    new = [pathlib.Path(p) for p in sorted({p for p, _ in watch.snapshot()} - before)]
    bodies = [p.read_bytes() for p in new if p.stat().st_size >= 400_000]
    assert len(bodies) >= 2 and len(set(bodies)) == len(bodies)
    for size in (32, 4096):
        pieces = [body[i : i + size] for body in bodies for i in range(0, len(body) - size, size)]
        assert len(set(pieces)) == len(pieces), "a block repeats in the ciphertext"


def test_the_ciphertext_is_as_random_as_it_should_be(server, s3, bucket):
    import zlib

    watch = Watch(server)
    before = {p for p, _ in watch.snapshot()}
    s3.put_object(Bucket=bucket, Key="zeros", Body=b"\0" * 1_000_000, Tagging="ringfence-label=public")
    new = [pathlib.Path(p).read_bytes() for p in {p for p, _ in watch.snapshot()} - before]
    large = max(new, key=len)
    assert len(zlib.compress(large, 6)) > 0.99 * len(large), "a million zeros compress: this is no ciphertext"


def test_the_marker_at_a_site_names_nothing_but_the_installation(canaries):
    marker = json.loads((canaries.data / "sites" / "cloud" / "ringfence-site.json").read_text())
    assert set(marker) == {"format", "installation", "site"}, marker


def test_secrets_in_the_data_directory_are_readable_by_the_owner_only(server):
    assert server.data.stat().st_mode & 0o777 == 0o700
    for path in server.data.rglob("*"):
        if path.is_file() and path.relative_to(server.data).parts[0] != "sites" and "log/tile" not in str(path):
            open_to = path.stat().st_mode & 0o077
            if path.name in ("credentials", "admin.sock") or "key" in path.name.replace("vkey", "") or path.suffix == ".key":
                assert open_to == 0, f"{path} is open to others: {oct(path.stat().st_mode)}"
    assert (server.data / "credentials").stat().st_mode & 0o777 == 0o600


def test_no_secret_is_printed_after_the_first_start(server):
    """The secret is printed once, when it is made; a restart does not repeat it."""
    first = len(server.log_text())
    server.restart()
    assert server.key().secret not in server.log_text()[first:]


# --- deleted is deleted ------------------------------------------------------------------------


@pytest.fixture
def sweeping(new_server):
    """An installation that sweeps every second, with a bucket."""
    server = new_server(env={"RINGFENCE__BACKGROUND__SWEEP_EVERY_S": "1"}).start()
    server.client().create_bucket(Bucket="swept")
    return server


@pytest.mark.parametrize("label, site", [("public", "cloud"), ("internal", "home")])
def test_deleted_and_aborted_bytes_leave_the_sites(sweeping, label, site):
    s3, before = sweeping.client(), bytes_at(sweeping, site)
    tagging = f"ringfence-label={label}"
    for n in range(3):
        s3.put_object(Bucket="swept", Key=f"k{n}", Body=some_bytes(2 * MIB), Tagging=tagging)
        s3.put_object(Bucket="swept", Key=f"small{n}", Body=some_bytes(1000), Tagging=tagging)
    at = {"Bucket": "swept", "Key": "parts"}
    upload = s3.create_multipart_upload(**at, Tagging=tagging)["UploadId"]
    s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=some_bytes(2 * MIB))
    full = bytes_at(sweeping, site)
    assert full > before + 7 * MIB
    s3.put_object(Bucket="swept", Key="k0", Body=b"overwritten", Tagging=tagging)
    for key in ("k1", "small0", "small1"):
        s3.delete_object(Bucket="swept", Key=key)
    s3.abort_multipart_upload(**at, UploadId=upload)
    until(lambda: bytes_at(sweeping, site) < full - 5 * MIB, "the erasure", deadline_s=60)
    assert s3.get_object(Bucket="swept", Key="k2")["Body"].read() == some_bytes(2 * MIB)
    assert s3.get_object(Bucket="swept", Key="small2")["Body"].read() == some_bytes(1000)


# --- keys ----------------------------------------------------------------------------------------


def test_a_disabled_key_is_refused_at_once_and_others_live_on(server, s3):
    server.cli("tenant", "add", "short-lived")
    client = server.client("short-lived")
    client.list_buckets()
    server.cli("key", "disable", server.key("short-lived").id)
    code, status = code_of(client.list_buckets)
    assert status == 403 and code in ("InvalidAccessKeyId", "AccessDenied"), code
    s3.list_buckets()
    assert server.key("short-lived").id in server.cli("key", "list").stdout


def test_rotation_rewraps_and_everything_stays_readable(server, s3, bucket):
    bodies = {f"k{n}": some_bytes([10, 70_000, 300_000][n % 3], n) for n in range(9)}
    for n, (key, data) in enumerate(bodies.items()):
        s3.put_object(Bucket=bucket, Key=key, Body=data, Tagging=f"ringfence-label={LABELS[n % 4]}")
    server.cli("keys", "rotate")
    server.restart()
    client = server.client()
    for key, data in bodies.items():
        assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == data


def test_the_log_verifies_after_all_this(server):
    assert server.cli("log", "verify").returncode == 0
