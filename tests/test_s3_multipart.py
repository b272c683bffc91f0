"""Multipart uploads: order, re-uploads, checksums, copies of parts, limits."""

import hashlib
import threading

import pytest
from botocore.exceptions import ClientError

from harness import expect_error, some_bytes, unique
from sigv4 import CHECKSUMS, b64, checksum, md5_hex

MIB = 1024 * 1024
PART = 5 * MIB
COMPOSITE = ["CRC32", "CRC32C", "SHA1", "SHA256"]
FULL = ["CRC32", "CRC32C", "CRC64NVME"]


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


class Upload:
    """One upload under way, with a client that adds no checksums of its own."""

    def __init__(self, server, bucket, key="k", **create):
        self.s3 = server.client(checksums=False)
        self.at = {"Bucket": bucket, "Key": key}
        self.id = self.s3.create_multipart_upload(**self.at, **create)["UploadId"]

    def part(self, number, data, **more):
        return self.s3.upload_part(**self.at, UploadId=self.id, PartNumber=number, Body=data, **more)

    def complete(self, parts, **more):
        """`parts`: (number, etag) or whole dictionaries."""
        parts = [p if isinstance(p, dict) else {"PartNumber": p[0], "ETag": p[1]} for p in parts]
        return self.s3.complete_multipart_upload(
            **self.at, UploadId=self.id, MultipartUpload={"Parts": parts}, **more
        )

    def body(self, **more):
        return self.s3.get_object(**self.at, **more)["Body"].read()


def etag_of(parts):
    digest = hashlib.md5(b"".join(hashlib.md5(p).digest() for p in parts)).hexdigest()
    return f'"{digest}-{len(parts)}"'


@pytest.fixture(scope="module")
def three():
    return [some_bytes(PART, 1), some_bytes(PART + 12_345, 2), some_bytes(99, 3)]


def test_parts_in_any_order_become_one_object(server, bucket, three):
    upload = Upload(server, bucket, Metadata={"m": "1"}, ContentType="a/b", Tagging="t=1")
    etags = {n: upload.part(n, three[n - 1])["ETag"] for n in (3, 1, 2)}
    assert etags == {n: f'"{md5_hex(three[n - 1])}"' for n in (1, 2, 3)}
    answer = upload.complete([(n, etags[n]) for n in (1, 2, 3)])
    assert answer["ETag"] == etag_of(three) and answer["Bucket"] == bucket and answer["Key"] == "k"
    got = upload.s3.get_object(**upload.at)
    assert got["Body"].read() == b"".join(three)
    assert (got["ETag"], got["Metadata"], got["ContentType"], got["TagCount"]) == (etag_of(three), {"m": "1"}, "a/b", 1)
    listed = upload.s3.list_objects_v2(Bucket=bucket)["Contents"][0]
    assert (listed["Size"], listed["ETag"]) == (sum(map(len, three)), etag_of(three))


def test_part_numbers_may_have_gaps_and_one_part_may_be_small(server, bucket):
    upload = Upload(server, bucket)
    etags = [(n, upload.part(n, b"tiny")["ETag"]) for n in (7,)]
    assert upload.complete(etags)["ETag"] == etag_of([b"tiny"])
    second = Upload(server, bucket, "gaps")
    big = some_bytes(PART)
    etags = [(n, second.part(n, big if n < 10_000 else b"end")["ETag"]) for n in (2, 999, 10_000)]
    second.complete(etags)
    assert second.body() == big + big + b"end"


def test_a_key_that_xml_cannot_say_takes_parts_too(server, bucket):
    upload = Upload(server, bucket, "a\x01b")
    etag = upload.part(1, b"tiny")["ETag"]
    assert [part["ETag"] for part in upload.s3.list_parts(**upload.at, UploadId=upload.id)["Parts"]] == [etag]
    assert upload.complete([(1, etag)])["ETag"] == etag_of([b"tiny"])
    assert upload.body() == b"tiny"


def test_a_range_reads_across_parts_and_a_part_number_reads_one(server, bucket, three):
    upload = Upload(server, bucket)
    upload.complete([(n, upload.part(n, three[n - 1])["ETag"]) for n in (1, 2, 3)])
    whole = b"".join(three)
    for first, last in [(PART - 1, PART), (PART - 70_000, PART + 70_000), (0, len(whole) - 1), (len(whole) - 100, len(whole) - 1)]:
        got = upload.s3.get_object(**upload.at, Range=f"bytes={first}-{last}")
        assert got["Body"].read() == whole[first : last + 1]
    for number in (1, 2, 3):
        got = upload.s3.get_object(**upload.at, PartNumber=number)
        assert got["Body"].read() == three[number - 1] and got["PartsCount"] == 3
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        head = upload.s3.head_object(**upload.at, PartNumber=number)
        assert (head["ContentLength"], head["PartsCount"]) == (len(three[number - 1]), 3)
    for number in ("4", "10001", "0", "-1", "abc"):
        answer = server.raw("GET", bucket, "k", query=[("partNumber", number)])
        assert answer.status in (400, 416) and answer.code in ("InvalidPartNumber", "InvalidArgument", "InvalidPart", "InvalidRange"), str(answer)
    both = server.raw("GET", bucket, "k", query=[("partNumber", "1")], headers={"Range": "bytes=0-1"})
    assert both.status == 400, str(both)


def test_part_number_one_reads_an_object_that_was_put_whole(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello")
    assert s3.get_object(Bucket=bucket, Key="k", PartNumber=1)["Body"].read() == b"hello"
    answer = server.raw("GET", bucket, "k", query=[("partNumber", "2")])
    assert answer.status in (400, 416), str(answer)


def test_a_part_sent_again_replaces_the_first(server, bucket):
    upload = Upload(server, bucket)
    first = upload.part(1, b"first")["ETag"]
    second = upload.part(1, b"second")["ETag"]
    assert code_of(upload.complete, parts=[(1, first)]) == ("InvalidPart", 400)
    upload.complete([(1, second)])
    assert upload.body() == b"second"


def test_complete_names_what_is_wrong(server, bucket):
    upload = Upload(server, bucket)
    etags = [upload.part(n, some_bytes(PART if n == 2 else 1000, n))["ETag"] for n in (1, 2)]
    wrong = '"' + "0" * 32 + '"'
    cases = [
        ([(2, etags[1]), (1, etags[0])], "InvalidPartOrder"),
        ([(1, etags[0]), (1, etags[0])], "InvalidPartOrder"),
        ([(1, wrong)], "InvalidPart"),
        ([(3, wrong)], "InvalidPart"),
        ([(1, etags[0]), (2, etags[1])], "EntityTooSmall"),
        ([(0, etags[0])], "InvalidPart"),
    ]
    for parts, code in cases:
        got, status = code_of(upload.complete, parts=parts)
        assert status == 400 and got in (code, "InvalidArgument" if parts[0][0] == 0 else code), (parts, got)
    empty = b"<CompleteMultipartUpload></CompleteMultipartUpload>"
    expect_error(server.raw("POST", bucket, "k", query=[("uploadId", upload.id)], body=empty), 400, "MalformedXML")
    upload.complete([(2, etags[1])])
    assert upload.body() == some_bytes(PART, 2), "a part that Complete does not name is not in the object"


@pytest.mark.parametrize("number", ["0", "10001", "-1", "abc", "", "99999999999999999999"])
def test_a_part_number_outside_1_to_10000_is_refused(server, bucket, number):
    upload = Upload(server, bucket)
    query = [("partNumber", number), ("uploadId", upload.id)]
    answer = server.raw("PUT", bucket, "k", query=query, body=b"x")
    expect_error(answer, 400, "InvalidArgument")


def test_10001_parts_in_a_complete_are_refused(server, bucket):
    upload = Upload(server, bucket)
    etag = upload.part(1, b"x")["ETag"]
    xml = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{etag}</ETag></Part>" for n in range(1, 10_002))
    body = f"<CompleteMultipartUpload>{xml}</CompleteMultipartUpload>".encode()
    answer = server.raw("POST", bucket, "k", query=[("uploadId", upload.id)], body=body)
    assert answer.status == 400 and answer.code in ("MalformedXML", "InvalidArgument", "InvalidPart"), str(answer)


def test_an_upload_that_is_not_there_is_404(server, s3, bucket):
    upload = Upload(server, bucket)
    upload.part(1, b"x")
    upload.s3.abort_multipart_upload(**upload.at, UploadId=upload.id)
    for bad in (upload.id, "0" * 32, "../../etc", "ü", "x" * 2000):
        at = [("uploadId", bad)]
        expect_error(server.raw("PUT", bucket, "k", query=[("partNumber", "1"), *at], body=b"x"), 404, "NoSuchUpload")
        expect_error(server.raw("GET", bucket, "k", query=at), 404, "NoSuchUpload")
        expect_error(server.raw("DELETE", bucket, "k", query=at), 404, "NoSuchUpload")
        complete = b'<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>"0"</ETag></Part></CompleteMultipartUpload>'
        expect_error(server.raw("POST", bucket, "k", query=at, body=complete), 404, "NoSuchUpload")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_an_upload_belongs_to_its_key_and_bucket(server, s3, bucket):
    upload = Upload(server, bucket)
    upload.part(1, b"x")
    for target in ("other", "k/"):
        query = [("partNumber", "1"), ("uploadId", upload.id)]
        expect_error(server.raw("PUT", bucket, target, query=query, body=b"x"), 404, "NoSuchUpload")
    second = unique()
    s3.create_bucket(Bucket=second)
    expect_error(server.raw("GET", second, "k", query=[("uploadId", upload.id)]), 404, "NoSuchUpload")


def test_complete_can_be_repeated_and_says_the_same(server, bucket):
    upload = Upload(server, bucket)
    etags = [(1, upload.part(1, b"data")["ETag"])]
    first = upload.complete(etags)
    again = upload.complete(etags)
    assert first["ETag"] == again["ETag"]
    upload.s3.put_object(**upload.at, Body=b"newer")
    with pytest.raises(ClientError) as caught:
        upload.complete(etags)
        raise ClientError({"Error": {"Code": "OK"}}, "CompleteMultipartUpload")
    assert caught.value.response["Error"]["Code"] in ("OK", "NoSuchUpload")
    assert upload.body() == b"newer", "a repeated Complete brings nothing old back"


def test_overlapping_completes_make_one_object(server, s3, bucket):
    uploads = [Upload(server, bucket) for _ in range(4)]
    parts = [[(1, u.part(1, b"upload %d" % n)["ETag"])] for n, u in enumerate(uploads)]
    outcomes = []

    def complete(n):
        try:
            outcomes.append((n, uploads[n % 4].complete(parts[n % 4])["ETag"]))
        except ClientError as error:
            outcomes.append((n, error.response["Error"]["Code"]))

    threads = [threading.Thread(target=complete, args=(n,)) for n in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(outcomes) == 12
    for n, outcome in outcomes:
        assert outcome in (etag_of([b"upload %d" % (n % 4)]), "NoSuchUpload", "ConditionalRequestConflict"), outcomes
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() in [b"upload %d" % n for n in range(4)]
    assert len(s3.list_object_versions(Bucket=bucket)["Versions"]) == 1
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_a_part_cannot_slip_in_after_complete(server, bucket):
    upload = Upload(server, bucket)
    upload.complete([(1, upload.part(1, b"data")["ETag"])])
    assert code_of(upload.part, number=1, data=b"late") == ("NoSuchUpload", 404)
    assert upload.body() == b"data"


def test_conditions_on_complete(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"there")
    upload = Upload(server, bucket)
    parts = [(1, upload.part(1, b"data")["ETag"])]
    assert code_of(upload.complete, parts=parts, IfNoneMatch="*") == ("PreconditionFailed", 412)
    assert code_of(upload.complete, parts=parts, IfMatch='"0123"') == ("PreconditionFailed", 412)
    assert upload.body() == b"there"
    upload.complete(parts, IfMatch=f'"{md5_hex(b"there")}"')
    assert upload.body() == b"data"
    fresh = Upload(server, bucket, "fresh")
    fresh.complete([(1, fresh.part(1, b"data")["ETag"])], IfNoneMatch="*")
    assert fresh.body() == b"data"


def test_a_mismatched_object_size_is_refused(server, bucket):
    upload = Upload(server, bucket)
    parts = [(1, upload.part(1, b"data")["ETag"])]
    assert code_of(upload.complete, parts=parts, MpuObjectSize=5)[1] == 400
    upload.complete(parts, MpuObjectSize=4)
    assert upload.body() == b"data"


# --- checksums ---------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", COMPOSITE)
def test_a_composite_checksum_is_over_the_parts_checksums(server, bucket, three, algorithm):
    field = f"Checksum{algorithm}"
    upload = Upload(server, bucket, ChecksumAlgorithm=algorithm)
    parts = []
    for n in (1, 2, 3):
        answer = upload.part(n, three[n - 1], **{field: checksum(algorithm, three[n - 1])})
        assert answer[field] == checksum(algorithm, three[n - 1])
        parts.append({"PartNumber": n, "ETag": answer["ETag"], field: answer[field]})
    wanted = b64(CHECKSUMS[algorithm](b"".join(CHECKSUMS[algorithm](p) for p in three))) + "-3"
    answer = upload.complete(parts)
    assert (answer[field], answer["ChecksumType"]) == (wanted, "COMPOSITE")
    head = upload.s3.head_object(**upload.at, ChecksumMode="ENABLED")
    assert (head[field], head["ChecksumType"]) == (wanted, "COMPOSITE")


@pytest.mark.parametrize("algorithm", FULL)
def test_a_full_object_checksum_is_over_the_whole(server, bucket, three, algorithm):
    field = f"Checksum{algorithm}"
    whole = checksum(algorithm, b"".join(three))
    upload = Upload(server, bucket, ChecksumAlgorithm=algorithm, ChecksumType="FULL_OBJECT")
    parts = []
    for n in (1, 2, 3):
        etag = upload.part(n, three[n - 1], **{field: checksum(algorithm, three[n - 1])})["ETag"]
        parts.append({"PartNumber": n, "ETag": etag, field: checksum(algorithm, three[n - 1])})
    wrong = checksum(algorithm, b"other")
    assert code_of(upload.complete, parts=parts, ChecksumType="FULL_OBJECT", **{field: wrong})[1] == 400
    answer = upload.complete(parts, ChecksumType="FULL_OBJECT", **{field: whole})
    assert (answer[field], answer["ChecksumType"]) == (whole, "FULL_OBJECT")
    got = upload.s3.get_object(**upload.at, ChecksumMode="ENABLED")
    assert got[field] == whole and got["Body"].read() == b"".join(three)


@pytest.mark.parametrize("algorithm", sorted(CHECKSUMS))
def test_a_part_with_a_wrong_checksum_is_refused(server, bucket, algorithm):
    upload = Upload(server, bucket, ChecksumAlgorithm=algorithm)
    bad = {f"Checksum{algorithm}": checksum(algorithm, b"other")}
    assert code_of(upload.part, number=1, data=b"data", **bad) == ("BadDigest", 400)
    assert not upload.s3.list_parts(**upload.at, UploadId=upload.id).get("Parts")


def test_complete_with_another_checksum_than_the_parts_is_refused(server, bucket):
    upload = Upload(server, bucket, ChecksumAlgorithm="SHA256")
    etag = upload.part(1, b"data", ChecksumSHA256=checksum("SHA256", b"data"))["ETag"]
    bad = {"PartNumber": 1, "ETag": etag, "ChecksumSHA256": checksum("SHA256", b"other")}
    code, status = code_of(upload.complete, parts=[bad])
    assert status == 400 and code in ("InvalidPart", "BadDigest")


def test_todays_sdk_defaults_work_unchanged(server, s3, bucket, three):
    """boto3 sends CRC trailers by itself since 2025."""
    at = {"Bucket": bucket, "Key": "k"}
    upload = s3.create_multipart_upload(**at)
    parts = []
    for n, data in enumerate(three, 1):
        answer = s3.upload_part(**at, UploadId=upload["UploadId"], PartNumber=n, Body=data)
        parts.append({"PartNumber": n, **{k: v for k, v in answer.items() if k.startswith(("ETag", "Checksum")) and k != "ChecksumType"}})
    s3.complete_multipart_upload(**at, UploadId=upload["UploadId"], MultipartUpload={"Parts": parts})
    assert s3.get_object(**at)["Body"].read() == b"".join(three)


# --- copies of parts -----------------------------------------------------------------


def test_parts_copied_with_ranges_become_one_object(server, s3, bucket):
    source = some_bytes(2 * PART + 100)
    s3.put_object(Bucket=bucket, Key="source", Body=source)
    upload = Upload(server, bucket)
    ranges = [(0, PART - 1), (PART + 1, 2 * PART + 50), (0, 0)]
    parts = []
    for n, (first, last) in enumerate(ranges, 1):
        answer = upload.s3.upload_part_copy(
            **upload.at, UploadId=upload.id, PartNumber=n, CopySource={"Bucket": bucket, "Key": "source"},
            CopySourceRange=f"bytes={first}-{last}",
        )["CopyPartResult"]
        assert answer["ETag"] == f'"{md5_hex(source[first : last + 1])}"'
        parts.append((n, answer["ETag"]))
    upload.complete(parts)
    assert upload.body() == b"".join(source[first : last + 1] for first, last in ranges)


def test_a_part_copied_whole_is_the_source(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="source", Body=b"all of it")
    upload = Upload(server, bucket)
    answer = upload.s3.upload_part_copy(**upload.at, UploadId=upload.id, PartNumber=1, CopySource=f"{bucket}/source")
    upload.complete([(1, answer["CopyPartResult"]["ETag"])])
    assert upload.body() == b"all of it"


@pytest.mark.parametrize(
    "header", ["bytes=0-10", "bytes=10-20", "bytes=5-", "bytes=-5", "bytes=5-1", "0-5", "bytes=a-b", "bytes=0-1,3-4"]
)
def test_a_copy_range_outside_the_source_or_malformed_is_refused(server, s3, bucket, header):
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    upload = Upload(server, bucket)
    answer = server.raw(
        "PUT", bucket, "k", query=[("partNumber", "1"), ("uploadId", upload.id)],
        headers={"x-amz-copy-source": f"{bucket}/source", "x-amz-copy-source-range": header},
    )
    assert answer.status in (400, 416) and answer.code in ("InvalidArgument", "InvalidRange", "InvalidRequest"), str(answer)


# --- listings -------------------------------------------------------------------------


def test_list_parts_pages_through_all(server, bucket):
    upload = Upload(server, bucket)
    etags = {n: upload.part(n, b"part %d" % n)["ETag"] for n in (1, 2, 5, 7, 10_000)}
    pages = list(
        upload.s3.get_paginator("list_parts").paginate(**upload.at, UploadId=upload.id, PaginationConfig={"PageSize": 2})
    )
    assert [[p["PartNumber"] for p in page["Parts"]] for page in pages] == [[1, 2], [5, 7], [10_000]]
    for page in pages:
        for part in page["Parts"]:
            assert part["ETag"] == etags[part["PartNumber"]] and part["Size"] == len(b"part %d" % part["PartNumber"])
    assert pages[0]["IsTruncated"] and not pages[-1]["IsTruncated"]
    for name, value in (("max-parts", "-1"), ("max-parts", "abc"), ("part-number-marker", "abc")):
        answer = server.raw("GET", bucket, "k", query=[("uploadId", upload.id), (name, value)])
        expect_error(answer, 400, "InvalidArgument")


def test_list_uploads_pages_filters_and_groups(server, s3, bucket):
    keys = ["a/1", "a/2", "b", "b", "c/x/1", "c/x/2", "ä ö"]
    ids = [(key, s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]) for key in keys]
    found, markers = [], {}
    for _ in range(20):
        page = s3.list_multipart_uploads(Bucket=bucket, MaxUploads=2, **markers)
        found += [(u["Key"], u["UploadId"]) for u in page.get("Uploads", [])]
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
    assert [k for k, _ in found] == sorted(keys, key=str.encode) and sorted(found) == sorted(ids)
    grouped = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")
    assert [p["Prefix"] for p in grouped["CommonPrefixes"]] == ["a/", "c/"]
    assert [u["Key"] for u in grouped["Uploads"]] == ["b", "b", "ä ö"]
    assert [u["Key"] for u in s3.list_multipart_uploads(Bucket=bucket, Prefix="c/x/")["Uploads"]] == ["c/x/1", "c/x/2"]
    for key, upload in ids:
        s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_an_upload_under_way_is_no_object_and_keeps_no_bucket_alive_silently(server, s3, bucket):
    upload = Upload(server, bucket)
    upload.part(1, b"x")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert code_of(s3.get_object, Bucket=bucket, Key="k") == ("NoSuchKey", 404)
