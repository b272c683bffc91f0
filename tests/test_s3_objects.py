"""Objects: ranges, conditions, copies, tags, metadata, deletes."""

import datetime
import threading

import pytest
from botocore.exceptions import ClientError

from harness import expect_error, some_bytes, unique
from sigv4 import CHECKSUMS, checksum, content_md5, encode, md5_hex

SEGMENT = 64 * 1024


def code_of(call, **arguments):
    """The error code and status of a call that must fail."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def body(s3, bucket, key, **more):
    return s3.get_object(Bucket=bucket, Key=key, **more)["Body"].read()


# --- ranges ---------------------------------------------------------------------

LENGTH = 3 * SEGMENT + 777
RANGES = [
    ("bytes=0-0", 0, 1),
    ("bytes=0-99", 0, 100),
    ("bytes=1-1", 1, 2),
    (f"bytes={SEGMENT - 1}-{SEGMENT}", SEGMENT - 1, SEGMENT + 1),
    (f"bytes={SEGMENT}-{2 * SEGMENT - 1}", SEGMENT, 2 * SEGMENT),
    (f"bytes={SEGMENT - 32}-{SEGMENT + 32}", SEGMENT - 32, SEGMENT + 33),
    ("bytes=100-", 100, LENGTH),
    ("bytes=-1", LENGTH - 1, LENGTH),
    ("bytes=-777", LENGTH - 777, LENGTH),
    (f"bytes=-{LENGTH}", 0, LENGTH),
    (f"bytes=-{LENGTH + 1000}", 0, LENGTH),
    (f"bytes={LENGTH - 1}-", LENGTH - 1, LENGTH),
    (f"bytes={LENGTH - 1}-{LENGTH + 1000}", LENGTH - 1, LENGTH),
    ("bytes=0-99999999999999", 0, LENGTH),
    ("bytes=0-", 0, LENGTH),
]


@pytest.fixture(scope="module")
def ranged(s3):
    bucket = unique()
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=some_bytes(LENGTH))
    s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    return bucket


@pytest.mark.parametrize("header, first, end", RANGES)
def test_a_range_gives_exactly_these_bytes(server, ranged, header, first, end):
    data = some_bytes(LENGTH)
    got = server.raw("GET", ranged, "k", headers={"Range": header})
    assert (got.status, got.body) == (206, data[first:end])
    assert got.headers["content-range"] == f"bytes {first}-{end - 1}/{LENGTH}"
    assert got.headers["content-length"] == str(end - first)
    assert got.headers["etag"] == f'"{md5_hex(data)}"'
    head = server.raw("HEAD", ranged, "k", headers={"Range": header})
    assert (head.status, head.headers["content-range"]) == (206, f"bytes {first}-{end - 1}/{LENGTH}")


@pytest.mark.parametrize("header", [f"bytes={LENGTH}-", f"bytes={LENGTH + 5}-{LENGTH + 10}", "bytes=-0"])
def test_a_range_behind_the_end_is_416(server, ranged, header):
    expect_error(server.raw("GET", ranged, "k", headers={"Range": header}), 416, "InvalidRange")


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-5"])
def test_no_range_of_an_empty_object_can_be_satisfied(server, ranged, header):
    expect_error(server.raw("GET", ranged, "empty", headers={"Range": header}), 416, "InvalidRange")


@pytest.mark.parametrize(
    "header",
    ["bytes", "bytes=", "bytes=a-b", "bytes=5-1", "bytes=-", "lines=0-5", "0-5", "bytes=0-1,5-6", "bytes=99999999999999999999999-"],
)
def test_a_range_that_is_none_is_ignored_or_refused_but_never_garbled(server, ranged, header):
    got = server.raw("GET", ranged, "k", headers={"Range": header})
    if got.status == 200:
        assert got.body == some_bytes(LENGTH)
    else:
        assert got.status in (400, 416, 501) and got.code, str(got)


# --- conditions -----------------------------------------------------------------

ONE_ETAG = pytest.mark.xfail(strict=True, reason="s3s takes one ETag and a date that is one; the request is refused, nothing is released")

PAST = "Mon, 01 Jan 2001 00:00:00 GMT"
FUTURE = "Fri, 01 Jan 2100 00:00:00 GMT"
CONDITIONS = [
    # headers, status of GET and HEAD ("E": the ETag, "X": another)
    ({"If-Match": "E"}, 200),
    ({"If-Match": "X"}, 412),
    ({"If-Match": "*"}, 200),
    pytest.param({"If-Match": "X, E"}, 200, marks=ONE_ETAG),
    ({"If-None-Match": "E"}, 304),
    ({"If-None-Match": "X"}, 200),
    ({"If-None-Match": "*"}, 304),
    pytest.param({"If-None-Match": "X, E"}, 304, marks=ONE_ETAG),
    ({"If-Modified-Since": PAST}, 200),
    ({"If-Unmodified-Since": PAST}, 412),
    ({"If-Unmodified-Since": FUTURE}, 200),
    # RFC 9110 13.2.2: the ETag wins over the date.
    ({"If-Match": "E", "If-Unmodified-Since": PAST}, 200),
    ({"If-None-Match": "X", "If-Modified-Since": FUTURE}, 200),
    ({"If-None-Match": "E", "If-Modified-Since": PAST}, 304),
    ({"If-Match": "X", "If-None-Match": "E"}, 412),
    pytest.param({"If-Modified-Since": "not a date"}, 200, marks=ONE_ETAG),
]


@pytest.mark.parametrize("headers, status", CONDITIONS, ids=[str(c[0]) for c in CONDITIONS])
def test_conditions_on_reading(server, s3, bucket, headers, status):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"hello")["ETag"]
    headers = {n: v.replace("E", etag).replace("X", '"0123"') if "Match" in n else v for n, v in headers.items()}
    for method in ("GET", "HEAD"):
        got = server.raw(method, bucket, "k", headers=dict(headers))
        assert got.status == status, str(got)
        if status == 304:
            assert got.body == b"" and got.headers["etag"] == etag and "x-amz-request-id" in got.headers
        if status == 412 and method == "GET":
            expect_error(got, 412, "PreconditionFailed")


def test_not_modified_since_now_is_304(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    since = modified.strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert server.raw("GET", bucket, "k", headers={"If-Modified-Since": since}).status == 304
    assert server.raw("GET", bucket, "k", headers={"If-Unmodified-Since": since}).status == 200


def test_conditions_on_writing(server, s3, bucket):
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfMatch='"0123"') == ("PreconditionFailed", 412)
    assert code_of(s3.put_object, Bucket=bucket, Key="new", Body=b"2", IfMatch=first) == ("NoSuchKey", 404)
    assert body(s3, bucket, "k") == b"1"
    s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=first)
    assert code_of(s3.put_object, Bucket=bucket, Key="k", Body=b"3", IfMatch=first) == ("PreconditionFailed", 412)
    assert body(s3, bucket, "k") == b"2"
    s3.delete_object(Bucket=bucket, Key="k")
    s3.put_object(Bucket=bucket, Key="k", Body=b"4", IfNoneMatch="*")


def test_if_none_match_with_an_etag_on_writing_is_not_silently_ignored(server, s3, bucket):
    answer = server.raw("PUT", bucket, "k", body=b"x", headers={"If-None-Match": '"0123"'})
    expect_error(answer, 501, "NotImplemented")


def test_of_many_who_create_only_one_wins(server, s3, bucket):
    """`If-None-Match: *` is a lock many build on (Terraform, Delta)."""
    results = []

    def create(number):
        try:
            server.client().put_object(Bucket=bucket, Key="lock", Body=b"%d" % number, IfNoneMatch="*")
            results.append(("won", number))
        except ClientError as error:
            results.append((error.response["Error"]["Code"], number))

    threads = [threading.Thread(target=create, args=(n,)) for n in range(16)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    winners = [n for what, n in results if what == "won"]
    assert len(results) == 16 and len(winners) == 1, results
    assert {what for what, _ in results} <= {"won", "PreconditionFailed", "ConditionalRequestConflict"}
    assert body(s3, bucket, "lock") == b"%d" % winners[0]


def test_of_many_compare_and_swaps_none_is_lost(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="n", Body=b"0")

    def add_ten(client):
        done = 0
        while done < 10:
            got = client.get_object(Bucket=bucket, Key="n")
            value = int(got["Body"].read())
            try:
                client.put_object(Bucket=bucket, Key="n", Body=b"%d" % (value + 1), IfMatch=got["ETag"])
                done += 1
            except ClientError as error:
                assert error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict")

    # A client may be used by threads, but not made by several at once.
    threads = [threading.Thread(target=add_ten, args=(client,)) for client in [server.client() for _ in range(4)]]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert body(s3, bucket, "n") == b"40"


def test_conditions_on_deleting(server, s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    assert code_of(s3.delete_object, Bucket=bucket, Key="k", IfMatch='"0123"') == ("PreconditionFailed", 412)
    assert body(s3, bucket, "k") == b"1"
    s3.delete_object(Bucket=bucket, Key="k", IfMatch=etag)
    assert code_of(s3.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)


# --- what an object keeps -----------------------------------------------------------


def test_content_headers_and_metadata_are_kept(server, s3, bucket):
    kept = {
        "ContentType": "text/x-test; charset=utf-8",
        "CacheControl": "max-age=17, public",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "ContentEncoding": "gzip",
        "ContentLanguage": "de-AT",
        "Expires": datetime.datetime(2033, 3, 3, 3, 3, 3, tzinfo=datetime.timezone.utc),
    }
    metadata = {"one": "1", "two-words": "a b  c", "mtime": "1700000000.123456789", "long": "x" * 1500}
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Metadata=metadata, **kept)
    for got in (s3.head_object(Bucket=bucket, Key="k"), s3.get_object(Bucket=bucket, Key="k")):
        assert got["Metadata"] == metadata
        for name, value in kept.items():
            assert got[name] == value, name
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    got = s3.head_object(Bucket=bucket, Key="k")
    assert got["Metadata"] == {} and got["ContentType"] == "binary/octet-stream"


def test_metadata_outside_ascii_survives(server, s3, bucket):
    answer = server.raw("PUT", bucket, "k", body=b"x", headers={"x-amz-meta-name": "=?UTF-8?B?w6k=?="})
    assert answer.status == 200
    got = server.raw("HEAD", bucket, "k")
    assert got.headers["x-amz-meta-name"] == "=?UTF-8?B?w6k=?="


def test_response_overrides_answer_once_and_change_nothing(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentType="text/plain")
    names = ["content-type", "cache-control", "content-disposition", "content-encoding", "content-language", "expires"]
    values = ["a/b", "no-store", "inline", "br", "fr", "Thu, 01 Dec 2033 16:00:00 GMT"]
    query = [(f"response-{n}", v) for n, v in zip(names, values)]
    for method in ("GET", "HEAD"):
        got = server.raw(method, bucket, "k", query=query)
        assert got.status == 200 and [got.headers.get(n) for n in names] == values, str(got)
    assert s3.head_object(Bucket=bucket, Key="k")["ContentType"] == "text/plain"


def test_head_says_what_get_says_without_a_body(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello", Metadata={"a": "b"})
    got, head = server.raw("GET", bucket, "k"), server.raw("HEAD", bucket, "k")
    for name in ("content-length", "content-type", "etag", "last-modified", "accept-ranges", "x-amz-meta-a"):
        assert got.headers.get(name) == head.headers.get(name) is not None, name
    missing = server.raw("HEAD", bucket, "missing")
    assert (missing.status, missing.body) == (404, b"") and missing.headers["x-amz-request-id"]


def test_overwriting_leaves_only_the_new_object(server, s3, bucket):
    for length in (200_000, 10, 0, 70_000):
        s3.put_object(Bucket=bucket, Key="k", Body=some_bytes(length))
        assert body(s3, bucket, "k") == some_bytes(length)
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert [(o["Key"], o["Size"]) for o in listed] == [("k", 70_000)]


def test_a_version_id_names_the_null_version_or_nothing(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert body(s3, bucket, "k", VersionId="null") == b"x"
    code, status = code_of(s3.get_object, Bucket=bucket, Key="k", VersionId="0" * 32)
    assert (code, status) in (("NoSuchVersion", 404), ("InvalidArgument", 400))
    s3.delete_object(Bucket=bucket, Key="k", VersionId="null")
    assert code_of(s3.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)


def test_reading_while_overwriting_gives_one_whole_version(server, s3, bucket):
    bodies = [bytes([n]) * 300_000 for n in range(4)]
    s3.put_object(Bucket=bucket, Key="k", Body=bodies[0])
    stop, torn = threading.Event(), []

    def read():
        client = server.client()
        while not stop.is_set():
            got = client.get_object(Bucket=bucket, Key="k")
            data = got["Body"].read()
            if data not in bodies or got["ETag"] != f'"{md5_hex(data)}"':
                torn.append(data[:10])

    readers = [threading.Thread(target=read) for _ in range(3)]
    [t.start() for t in readers]
    for n in range(24):
        s3.put_object(Bucket=bucket, Key="k", Body=bodies[n % 4])
    stop.set()
    [t.join() for t in readers]
    assert not torn


# --- deleting -----------------------------------------------------------------------


def test_deleting_what_is_not_there_is_204(server, s3, bucket):
    assert server.raw("DELETE", bucket, "never").status == 204
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert [server.raw("DELETE", bucket, "k").status for _ in range(2)] == [204, 204]


def test_delete_objects_answers_for_each_key(server, s3, bucket):
    for n in range(5):
        s3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"x")
    keys = [{"Key": f"k{n}"} for n in range(3)] + [{"Key": "never"}, {"Key": "k3", "VersionId": "null"}]
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
    assert {o["Key"] for o in answer["Deleted"]} == {"k0", "k1", "k2", "never", "k3"} and not answer.get("Errors")
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k4"}], "Quiet": True})
    assert "Deleted" not in quiet and "Errors" not in quiet
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_delete_objects_takes_a_thousand_keys_and_no_more(server, s3, bucket):
    def request(count):
        xml = "<Delete>" + "".join(f"<Object><Key>k{n}</Key></Object>" for n in range(count)) + "</Delete>"
        data = xml.encode()
        return server.raw("POST", bucket, query=[("delete", "")], body=data, headers={"Content-MD5": content_md5(data)})

    assert len(request(1000).xml.findall("Deleted")) == 1000
    expect_error(request(1001), 400, "MalformedXML")


def test_delete_objects_checks_every_digest(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    data = b"<Delete><Object><Key>k</Key></Object></Delete>"
    wrong = server.raw("POST", bucket, query=[("delete", "")], body=data, headers={"Content-MD5": content_md5(b"other")})
    expect_error(wrong, 400, "BadDigest", "InvalidDigest")
    for name in CHECKSUMS:
        bad = {f"x-amz-checksum-{name.lower()}": checksum(name, b"other")}
        expect_error(server.raw("POST", bucket, query=[("delete", "")], body=data, headers=bad), 400, "BadDigest")
    assert body(s3, bucket, "k") == b"x"
    good = {"x-amz-checksum-sha256": checksum("SHA256", data)}
    assert server.raw("POST", bucket, query=[("delete", "")], body=data, headers=good).status == 200


# --- copying ------------------------------------------------------------------------


def test_a_copy_is_the_same_bytes_and_metadata(server, s3, bucket):
    other = unique()
    s3.create_bucket(Bucket=other)
    data = some_bytes(150_000)
    s3.put_object(
        Bucket=bucket, Key="a ü+b", Body=data, Metadata={"m": "1"}, ContentType="a/b", Tagging="t=1", ChecksumAlgorithm="SHA256"
    )
    answer = s3.copy_object(Bucket=other, Key="c", CopySource={"Bucket": bucket, "Key": "a ü+b"})
    assert answer["CopyObjectResult"]["ETag"] == f'"{md5_hex(data)}"' and answer["CopyObjectResult"]["LastModified"]
    got = s3.get_object(Bucket=other, Key="c", ChecksumMode="ENABLED")
    assert (got["Body"].read(), got["Metadata"], got["ContentType"]) == (data, {"m": "1"}, "a/b")
    assert got["ChecksumSHA256"] == checksum("SHA256", data)
    assert s3.get_object_tagging(Bucket=other, Key="c")["TagSet"] == [{"Key": "t", "Value": "1"}]
    s3.delete_object(Bucket=bucket, Key="a ü+b")
    assert body(s3, other, "c") == data, "the copy does not depend on its source"


def test_directives_replace_metadata_and_tags(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x", Metadata={"m": "1"}, ContentType="a/b", Tagging="t=1")
    source = {"Bucket": bucket, "Key": "a"}
    s3.copy_object(
        Bucket=bucket, Key="b", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"}, ContentType="c/d",
        TaggingDirective="REPLACE", Tagging="u=2",
    )
    got = s3.head_object(Bucket=bucket, Key="b")
    assert (got["Metadata"], got["ContentType"]) == ({"n": "2"}, "c/d")
    assert s3.get_object_tagging(Bucket=bucket, Key="b")["TagSet"] == [{"Key": "u", "Value": "2"}]
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, Metadata={"ignored": "yes"})
    assert s3.head_object(Bucket=bucket, Key="c")["Metadata"] == {"m": "1"}


def test_a_self_copy_needs_a_change(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x" * 100_000, Metadata={"m": "1"})
    source = {"Bucket": bucket, "Key": "a"}
    assert code_of(s3.copy_object, Bucket=bucket, Key="a", CopySource=source) == ("InvalidRequest", 400)
    s3.copy_object(Bucket=bucket, Key="a", CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "2"})
    got = s3.get_object(Bucket=bucket, Key="a")
    assert (got["Metadata"], got["Body"].read()) == ({"n": "2"}, b"x" * 100_000)


COPY_CONDITIONS = [
    ({"x-amz-copy-source-if-match": "E"}, 200),
    ({"x-amz-copy-source-if-match": "X"}, 412),
    ({"x-amz-copy-source-if-none-match": "E"}, 412),
    ({"x-amz-copy-source-if-none-match": "X"}, 200),
    ({"x-amz-copy-source-if-modified-since": PAST}, 200),
    ({"x-amz-copy-source-if-unmodified-since": PAST}, 412),
    ({"x-amz-copy-source-if-match": "E", "x-amz-copy-source-if-unmodified-since": PAST}, 200),
    ({"x-amz-copy-source-if-none-match": "E", "x-amz-copy-source-if-modified-since": PAST}, 412),
]


@pytest.mark.parametrize("headers, status", COPY_CONDITIONS, ids=[str(c[0]) for c in COPY_CONDITIONS])
def test_conditions_on_the_source_of_a_copy(server, s3, bucket, headers, status):
    etag = s3.put_object(Bucket=bucket, Key="a", Body=b"hello")["ETag"]
    headers = {n: v.replace("E", etag).replace("X", '"0123"') if "match" in n else v for n, v in headers.items()}
    answer = server.raw("PUT", bucket, "b", headers=headers | {"x-amz-copy-source": f"/{bucket}/a"})
    assert answer.status == status, str(answer)
    if status == 412:
        expect_error(answer, 412, "PreconditionFailed")
        assert code_of(s3.get_object, Bucket=bucket, Key="b") == ("NoSuchKey", 404)


@pytest.mark.parametrize(
    "source, status, codes",
    [
        ("{bucket}/missing", 404, ("NoSuchKey",)),
        ("/{bucket}/missing", 404, ("NoSuchKey",)),
        ("{bucket}/a?versionId=00000000000000000000000000000000", 404, ("NoSuchVersion",)),
        ("{bucket}", 400, ("InvalidArgument",)),
        ("", 400, ("InvalidArgument", "InvalidRequest")),
        ("/", 400, ("InvalidArgument",)),
        ("%zz/%zz", 400, ("InvalidArgument",)),
    ],
)
def test_a_copy_of_nothing_is_refused(server, s3, bucket, source, status, codes):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    answer = server.raw("PUT", bucket, "b", headers={"x-amz-copy-source": source.format(bucket=bucket)})
    assert answer.status in (400, status) and answer.code in (*codes, "InvalidArgument"), str(answer)
    if status == 404:
        expect_error(answer, 404, *codes)


@pytest.mark.parametrize("source", ["{bucket}/{key}", "/{bucket}/{key}", "{bucket}/{key}?versionId=null"])
def test_the_source_of_a_copy_is_percent_decoded_once(server, s3, bucket, source):
    for n, key in enumerate(["a b", "a+b", "a%20b", "ä?", "x/y//z"]):
        s3.put_object(Bucket=bucket, Key=key, Body=b"%d" % n)
        header = source.format(bucket=bucket, key=encode(key))
        answer = server.raw("PUT", bucket, "copy", headers={"x-amz-copy-source": header})
        assert answer.status == 200, str(answer)
        assert body(s3, bucket, "copy") == b"%d" % n


def test_a_copy_with_a_body_or_an_unknown_directive_is_refused(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    for directive in ("x-amz-metadata-directive", "x-amz-tagging-directive"):
        answer = server.raw("PUT", bucket, "b", headers={"x-amz-copy-source": f"{bucket}/a", directive: "MERGE"})
        assert answer.status == 400 and answer.code, str(answer)


# --- tags ---------------------------------------------------------------------------


def tags(**pairs):
    return {"TagSet": [{"Key": k, "Value": v} for k, v in pairs.items()]}


def test_object_tags_are_put_read_replaced_and_removed(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b=two%20words&c=")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tags(a="1", b="two words", c="")["TagSet"]
    assert s3.get_object(Bucket=bucket, Key="k")["TagCount"] == 3
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=tags(z="ü/+=._:-@"))
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tags(z="ü/+=._:-@")["TagSet"]
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []
    got = s3.get_object(Bucket=bucket, Key="k")
    assert got["Body"].read() == b"x" and got["LastModified"] == modified and "TagCount" not in got


BAD_TAGS = [
    ("eleven", {"TagSet": [{"Key": f"k{n}", "Value": "v"} for n in range(11)]}, ("BadRequest", "InvalidTag")),
    ("twice the same key", {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}, ("InvalidTag",)),
    ("key of 129", {"TagSet": [{"Key": "k" * 129, "Value": "v"}]}, ("InvalidTag",)),
    ("value of 257", {"TagSet": [{"Key": "k", "Value": "v" * 257}]}, ("InvalidTag",)),
    ("empty key", {"TagSet": [{"Key": "", "Value": "v"}]}, ("InvalidTag", "MalformedXML")),
    ("aws: prefix", {"TagSet": [{"Key": "aws:a", "Value": "v"}]}, ("InvalidTag",)),
]


@pytest.mark.parametrize("what, tagging, codes", BAD_TAGS, ids=[row[0] for row in BAD_TAGS])
def test_tags_outside_the_limits_are_refused(server, s3, bucket, what, tagging, codes):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1")
    xml = "".join(f"<Tag><Key>{t['Key']}</Key><Value>{t['Value']}</Value></Tag>" for t in tagging["TagSet"])
    data = f"<Tagging><TagSet>{xml}</TagSet></Tagging>".encode()
    answer = server.raw("PUT", bucket, "k", query=[("tagging", "")], body=data, headers={"Content-MD5": content_md5(data)})
    expect_error(answer, 400, *codes)
    if what != "twice the same key":
        header = "&".join(f"{encode(t['Key'])}={encode(t['Value'])}" for t in tagging["TagSet"])
        answer = server.raw("PUT", bucket, "h", body=b"x", headers={"x-amz-tagging": header})
        assert answer.status == 400 and answer.code in (*codes, "InvalidArgument"), str(answer)
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == tags(a="1")["TagSet"]


def test_tags_at_the_limits_are_kept(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    wanted = {"TagSet": [{"Key": f"{n}" + "ü" * 127, "Value": "ß" * 256} for n in range(10)]}
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging=wanted)
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == wanted["TagSet"]


def test_tags_of_nothing_are_404(server, s3, bucket):
    assert code_of(s3.get_object_tagging, Bucket=bucket, Key="no") == ("NoSuchKey", 404)
    assert code_of(s3.put_object_tagging, Bucket=bucket, Key="no", Tagging=tags(a="1")) == ("NoSuchKey", 404)
    assert code_of(s3.delete_object_tagging, Bucket=bucket, Key="no")[1] == 404


# --- what is not there ------------------------------------------------------------------


def test_what_is_not_there_has_its_own_error(server, s3, bucket):
    expect_error(server.raw("GET", bucket, "no"), 404, "NoSuchKey")
    nobody = unique()
    for method, key in [("GET", "k"), ("PUT", "k"), ("DELETE", "k"), ("GET", None), ("DELETE", None)]:
        answer = server.raw(method, nobody, key, body=b"x" if method == "PUT" else b"")
        expect_error(answer, 404, "NoSuchBucket")
    assert server.raw("HEAD", nobody).status == 404
