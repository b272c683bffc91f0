"""The wire: signatures, payload modes, checksums, malformed requests.

Every request here is written byte by byte (sigv4.py), because no client would
send most of them. After each, the process and the data must be untouched.
"""

import datetime
import hashlib
import http.client
import json
import socket

import pytest

import sigv4
from harness import expect_error, some_bytes, target_of, unique
from sigv4 import CHECKSUMS, Key, Signer, checksum, content_md5, now, path_of

SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
ALGORITHMS = sorted(CHECKSUMS)


def stored(s3, bucket, key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def absent(s3, bucket, key):
    answer = s3.list_objects_v2(Bucket=bucket, Prefix=key)
    return answer["KeyCount"] == 0


# --- our own signer is right ---------------------------------------------------


def test_the_signer_agrees_with_the_published_examples():
    """The worked examples of the S3 documentation: "Signature calculations …
    transferring payload in multiple chunks", with and without a trailer."""
    when = datetime.datetime(2013, 5, 24, tzinfo=datetime.timezone.utc)
    signer = Signer(Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), when=when)
    headers = {
        "Host": "s3.amazonaws.com",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "Content-Encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "Content-Length": "66824",
    }
    seed = signer.header("PUT", "/examplebucket/chunkObject.txt", [], headers, SIGNED)
    assert seed == "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    body = sigv4.streaming_signed(signer, seed, b"a" * 66560, 65536)
    assert len(body) == 66824
    for signature in (
        "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ):
        assert signature.encode() in body
    headers = {
        "Host": "s3.amazonaws.com",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
        "Content-Encoding": "aws-chunked",
        "x-amz-decoded-content-length": "66560",
        "x-amz-trailer": "x-amz-checksum-crc32c",
    }
    seed = signer.header("PUT", "/examplebucket/chunkObject.txt", [], headers, SIGNED_TRAILER)
    assert seed == "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    trailer = ("x-amz-checksum-crc32c", checksum("CRC32C", b"a" * 66560))
    body = sigv4.streaming_signed(signer, seed, b"a" * 66560, 65536, trailer)
    assert trailer[1] == "sOO8/Q=="
    for signature in (
        "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
        "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435",
    ):
        assert signature.encode() in body, signature


# --- payload modes -------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 8192, 65536, 200_001])
@pytest.mark.parametrize("mode", ["signed", "unsigned", SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER, "presigned"])
def test_every_payload_mode_stores_exactly_the_bytes_sent(server, s3, bucket, mode, length):
    data = some_bytes(length)
    if mode == "signed":
        answer = server.raw("PUT", bucket, "k", body=data)
    elif mode == "unsigned":
        answer = server.raw("PUT", bucket, "k", body=data, payload="UNSIGNED-PAYLOAD")
    elif mode == "presigned":
        answer = server.presigned("PUT", bucket, "k", body=data)
    else:
        trailer = ("x-amz-checksum-crc32c", checksum("CRC32C", data)) if "TRAILER" in mode else None
        answer = server.put_streaming(bucket, "k", data, mode=mode, trailer=trailer)
    assert answer.status == 200, str(answer)
    assert answer.headers["etag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert stored(s3, bucket, "k") == data


def test_aws_chunked_is_not_kept_as_content_encoding(server, s3, bucket):
    server.put_streaming(bucket, "only", b"abc", headers={"Content-Encoding": "aws-chunked"})
    server.put_streaming(bucket, "both", b"abc", headers={"Content-Encoding": "gzip,aws-chunked"})
    assert s3.head_object(Bucket=bucket, Key="only").get("ContentEncoding") in (None, "")
    assert s3.head_object(Bucket=bucket, Key="both")["ContentEncoding"] == "gzip"


def test_an_empty_body_that_waits_for_100_ends_its_connection(server, bucket):
    """botocore gets the final answer where it waits for 100 Continue, and
    mistakes the next one on that connection (seen with `aws s3 sync`)."""
    answer = server.raw("PUT", bucket, "empty", body=b"", unsigned_headers={"Expect": "100-continue"})
    assert answer.status == 200 and answer.headers.get("connection") == "close", str(answer)
    assert server.raw("PUT", bucket, "empty", body=b"").headers.get("connection") is None


def test_expect_100_continue_is_answered_before_the_body(server, s3, bucket):
    data = some_bytes(1000)
    answer = server.raw("PUT", bucket, "k", body=data, unsigned_headers={"Expect": "100-continue"}, wait_for_continue=True)
    assert answer.status == 200, str(answer)
    assert stored(s3, bucket, "k") == data


def test_a_refused_request_with_expect_100_gets_the_error_without_the_body(server, bucket):
    wrong = Signer(Key(server.key().id, "wrong" * 8))
    answer = server.raw(
        "PUT", bucket, "k", body=b"x" * 1000, signer=wrong, unsigned_headers={"Expect": "100-continue"}, wait_for_continue=True
    )
    expect_error(answer, 403, "SignatureDoesNotMatch")


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1", "auto", "garage"])
def test_any_region_is_accepted(server, region):
    assert server.raw("GET", signer=Signer(server.key(), region=region)).status == 200


# --- who are you -----------------------------------------------------------------


def test_a_wrong_secret_is_refused(server, bucket):
    signer = Signer(Key(server.key().id, "0" * 40))
    expect_error(server.raw("GET", bucket, signer=signer), 403, "SignatureDoesNotMatch")
    expect_error(server.raw("PUT", bucket, "k", body=b"x", signer=signer), 403, "SignatureDoesNotMatch")


def test_an_unknown_access_key_is_refused(server, bucket):
    signer = Signer(Key("AKIAIOSFODNN7EXAMPLE", "0" * 40))
    expect_error(server.raw("GET", bucket, signer=signer), 403, "InvalidAccessKeyId")


@pytest.mark.parametrize("minutes", [-16, 16, -60 * 24 * 2, 60 * 24 * 2])
def test_a_clock_that_is_off_by_more_than_15_minutes_is_refused(server, bucket, minutes):
    signer = Signer(server.key(), when=now() + datetime.timedelta(minutes=minutes))
    expect_error(server.raw("GET", bucket, signer=signer), 403, "RequestTimeTooSkewed")


@pytest.mark.parametrize("minutes", [-13, 13])
def test_a_clock_that_is_off_by_less_is_accepted(server, bucket, minutes):
    signer = Signer(server.key(), when=now() + datetime.timedelta(minutes=minutes))
    assert server.raw("GET", bucket, signer=signer).status == 200


def test_a_request_without_a_signature_is_refused(server, bucket):
    for method, key in [("GET", None), ("GET", "k"), ("PUT", "k"), ("DELETE", "k")]:
        answer = sigv4.send(
            server.address, method, path_of(bucket, key), {"Host": "127.0.0.1", "Content-Length": 0}
        )
        expect_error(answer, 403, "AccessDenied")


@pytest.mark.parametrize(
    "authorization, status, codes",
    [
        ("", (400, 403), None),
        ("AWS4-HMAC-SHA256", (400, 403), None),
        ("AWS4-HMAC-SHA256 Credential=, SignedHeaders=, Signature=", (400, 403), None),
        ("AWS4-HMAC-SHA256 Credential=a/b/c/d/e/f, SignedHeaders=host, Signature=00", (400, 403), None),
        ("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/99999999/x/s3/aws4_request, SignedHeaders=host, Signature=00", (400, 403), None),
        ("AWS AKIAIOSFODNN7EXAMPLE:c2lnbmF0dXJl", (400, 403, 501), None),
        ("Bearer abc", (400, 403), None),
        ("Basic Zm9vOmJhcg==", (400, 403), None),
        ("AWS4-HMAC-SHA256 " + "A" * 8000, (400, 403), None),
    ],
)
def test_a_malformed_authorization_is_refused(server, bucket, authorization, status, codes):
    answer = server.raw("GET", bucket, unsigned_headers={"Authorization": authorization})
    assert answer.status in status and answer.code, str(answer)


def test_a_header_that_was_signed_cannot_be_changed(server, bucket):
    answer = server.raw(
        "PUT", bucket, "k", body=b"x", headers={"x-amz-meta-a": "1"}, unsigned_headers={"x-amz-meta-a": "2"}
    )
    expect_error(answer, 403, "SignatureDoesNotMatch")


def test_an_amz_header_that_was_not_signed_is_refused(server, s3, bucket):
    answer = server.raw("PUT", bucket, "k", body=b"x", unsigned_headers={"x-amz-tagging": "ringfence-label=public"})
    expect_error(answer, 403, "AccessDenied", "SignatureDoesNotMatch")
    assert absent(s3, bucket, "k")


def test_a_query_or_path_that_was_signed_cannot_be_changed(server, bucket):
    signer = Signer(server.key())
    headers = {"Host": f"127.0.0.1:{server.s3_port}"}
    signer.header("GET", path_of(bucket), [("prefix", "a")], headers, sigv4.EMPTY_SHA256)
    for target in (target_of(path_of(bucket), [("prefix", "b")]), path_of(bucket, "x") + "?prefix=a"):
        expect_error(sigv4.send(server.address, "GET", target, headers), 403, "SignatureDoesNotMatch")


def test_a_session_token_nobody_issued_is_refused(server, bucket):
    signer = Signer(server.key(), token="FwoGZXIvYXdzEXAMPLE")
    answer = server.raw("GET", bucket, signer=signer)
    assert answer.status in (400, 403) and answer.code in ("InvalidToken", "AccessDenied"), str(answer)


# --- presigned -------------------------------------------------------------------


def test_presigned_urls_work_for_every_verb(server, s3, bucket):
    assert server.presigned("PUT", bucket, "k", body=b"hello").status == 200
    got = server.presigned("GET", bucket, "k")
    assert (got.status, got.body) == (200, b"hello")
    head = server.presigned("HEAD", bucket, "k")
    assert (head.status, head.headers["content-length"]) == (200, "5")
    override = server.presigned("GET", bucket, "k", query=[("response-content-type", "text/x-test")])
    assert override.headers["content-type"] == "text/x-test"
    assert server.presigned("GET", bucket, query=[("list-type", "2")]).status == 200
    assert server.presigned("DELETE", bucket, "k").status == 204
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize(
    "what, options, codes",
    [
        ("expired", {"expires_s": 60, "age_s": 120}, ("AccessDenied",)),
        ("longer than seven days", {"expires_s": 604801}, ("AuthorizationQueryParametersError",)),
        ("negative life", {"expires_s": -1}, ("AuthorizationQueryParametersError",)),
        ("no number", {"expires_s": "abc"}, ("AuthorizationQueryParametersError",)),
        ("from the future", {"expires_s": 60, "age_s": -3600}, ("AccessDenied", "RequestTimeTooSkewed")),
    ],
)
def test_a_presigned_url_outside_its_life_is_refused(server, s3, bucket, what, options, codes):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    signer = Signer(server.key(), when=now() - datetime.timedelta(seconds=options.pop("age_s", 0)))
    answer = server.presigned("GET", bucket, "k", signer=signer, **options)
    assert answer.status in (400, 403) and answer.code in codes, f"{what}: {answer}"


@pytest.mark.parametrize("name", ["X-Amz-Signature", "X-Amz-Expires", "X-Amz-Date", "X-Amz-Credential", "X-Amz-SignedHeaders"])
def test_a_presigned_url_with_a_changed_or_missing_parameter_is_refused(server, s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    without = server.presigned("GET", bucket, "k", spoil=lambda query: [p for p in query if p[0] != name])
    assert without.status in (400, 403) and without.code, str(without)
    changed = server.presigned(
        "GET", bucket, "k", spoil=lambda query: [(n, v[:-1] + ("1" if v[-1] != "1" else "2")) if n == name else (n, v) for n, v in query]
    )
    assert changed.status in (400, 403) and changed.code, str(changed)


def test_a_presigned_get_is_no_presigned_put(server, s3, bucket):
    signer = Signer(server.key())
    headers = {"Host": f"127.0.0.1:{server.s3_port}"}
    query = signer.presign("GET", path_of(bucket, "k"), [], headers, 60)
    answer = sigv4.send(
        server.address, "PUT", target_of(path_of(bucket, "k"), query), headers | {"Content-Length": 1}, b"x"
    )
    expect_error(answer, 403, "SignatureDoesNotMatch")
    assert absent(s3, bucket, "k")


# --- bodies that are not what was promised -------------------------------------------


def test_a_body_with_another_digest_than_signed_is_refused_and_not_stored(server, s3, bucket):
    answer = server.raw("PUT", bucket, "k", body=b"hello", payload=hashlib.sha256(b"other").hexdigest())
    expect_error(answer, 400, "XAmzContentSHA256Mismatch")
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize("payload", ["", "zz", "UNSIGNED", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "0" * 63])
def test_an_unknown_payload_mode_is_refused(server, s3, bucket, payload):
    answer = server.raw("PUT", bucket, "k", body=b"hello", payload=payload)
    assert answer.status in (400, 403, 501) and answer.code, str(answer)
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize(
    "spoil", [("chunk", 0), ("chunk", 1), ("chunk", 3), "final"], ids=["first", "second", "last", "final"]
)
@pytest.mark.parametrize("mode", [SIGNED, SIGNED_TRAILER])
def test_a_streamed_chunk_with_a_wrong_signature_is_refused_and_not_stored(server, s3, bucket, mode, spoil):
    data = some_bytes(4 * 8192)
    trailer = ("x-amz-checksum-crc32", checksum("CRC32", data)) if mode == SIGNED_TRAILER else None
    answer = server.put_streaming(bucket, "k", data, chunk_bytes=8192, mode=mode, trailer=trailer, spoil=spoil)
    expect_error(answer, 403, "SignatureDoesNotMatch")
    assert absent(s3, bucket, "k")


def test_a_trailer_with_a_wrong_signature_is_refused_and_not_stored(server, s3, bucket):
    data = some_bytes(10_000)
    trailer = ("x-amz-checksum-crc32", checksum("CRC32", data))
    answer = server.put_streaming(bucket, "k", data, mode=SIGNED_TRAILER, trailer=trailer, spoil="trailer")
    expect_error(answer, 403, "SignatureDoesNotMatch")
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize("mode", [SIGNED_TRAILER, UNSIGNED_TRAILER])
def test_a_promised_trailer_that_does_not_come_is_refused_and_not_stored(server, s3, bucket, mode):
    data = some_bytes(10_000)
    answer = server.put_streaming(
        bucket, "k", data, mode=mode, headers={"x-amz-trailer": "x-amz-checksum-crc32"}, trailer=None
    )
    assert answer.status in (400, 403) and answer.code, str(answer)
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize("difference", [-1, 1, 1000])
def test_a_decoded_length_that_is_not_true_is_refused_and_not_stored(server, s3, bucket, difference):
    data = some_bytes(10_000)
    answer = server.put_streaming(bucket, "k", data, decoded_length=len(data) + difference)
    assert answer.status in (400, 403) and answer.code, str(answer)
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize(
    "what, mangle",
    [
        ("no sizes at all", lambda body: b"hello world, this is not chunked at all"),
        ("size that is no number", lambda body: b"zz" + body[2:]),
        ("size beyond 64 bits", lambda body: b"fffffffffffffffffffff" + body[body.index(b";") :]),
        ("endless size line", lambda body: b"1" * 100_000),
        ("no CRLF after data", lambda body: body.replace(b"\r\n", b"\n")),
        ("cut in the middle", lambda body: body[: len(body) // 2]),
        pytest.param(
            "no final chunk",
            lambda body: body[: body.rindex(b"0;chunk-signature")],
            marks=pytest.mark.xfail(strict=True, reason="s3s takes the decoded length for the end; every byte stored is signed"),
        ),
        ("bytes after the end", lambda body: body + b"trailing rubbish" * 10),
    ],
)
def test_a_malformed_aws_chunked_body_is_refused_and_not_stored(server, s3, bucket, what, mangle):
    answer = server.put_streaming(bucket, "k", some_bytes(20_000), chunk_bytes=8192, mangle=mangle)
    assert answer.status in (400, 403) and answer.code, f"{what}: {answer}"
    assert absent(s3, bucket, "k"), what


@pytest.mark.parametrize("payload", [None, "UNSIGNED-PAYLOAD"], ids=["signed", "unsigned"])
@pytest.mark.parametrize("sent", [0, 1, 50_000, 99_999])
def test_a_truncated_body_is_refused_and_not_stored(server, s3, bucket, sent, payload):
    data = some_bytes(100_000)
    try:
        answer = server.raw("PUT", bucket, "k", body=data, payload=payload, close_after=sent)
        expect_error(answer, 400, "IncompleteBody", "RequestTimeout")
    except (http.client.BadStatusLine, ConnectionError):
        pass  # The client has hung up: an answer is a courtesy.
    assert absent(s3, bucket, "k")


def test_bytes_beyond_the_content_length_are_not_part_of_the_object(server, s3, bucket):
    data = b"0123456789"
    answer = server.raw(
        "PUT", bucket, "k", body=data, headers={"Content-Length": "4"}, payload="UNSIGNED-PAYLOAD"
    )
    assert answer.status == 200, str(answer)
    assert stored(s3, bucket, "k") == b"0123"


def test_a_body_without_a_length_is_refused(server, s3, bucket):
    answer = server.raw(
        "PUT", bucket, "k", body=b"5\r\nhello\r\n0\r\n\r\n", payload="UNSIGNED-PAYLOAD",
        headers={"Content-Length": "0"}, unsigned_headers={"Content-Length": None, "Transfer-Encoding": "chunked"},
    )
    assert answer.status in (403, 411), str(answer)
    signer = Signer(server.key())
    headers = {"Host": f"127.0.0.1:{server.s3_port}"}
    signer.header("PUT", path_of(bucket, "k"), [], headers, "UNSIGNED-PAYLOAD")
    headers["Transfer-Encoding"] = "chunked"
    answer = sigv4.send(server.address, "PUT", path_of(bucket, "k"), headers, b"5\r\nhello\r\n0\r\n\r\n")
    expect_error(answer, 411, "MissingContentLength")
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize("length", ["5368709121", "99999999999999999999", "-1", "abc", "1e3", "0x10"])
def test_an_absurd_content_length_is_refused(server, s3, bucket, length):
    answer = server.raw(
        "PUT", bucket, "k", body=b"", payload="UNSIGNED-PAYLOAD", headers={"Content-Length": length}, close_after=0
    )
    assert answer.status == 400, str(answer)
    if length == "5368709121":
        expect_error(answer, 400, "EntityTooLarge")
    assert absent(s3, bucket, "k")


# --- checksums -----------------------------------------------------------------------


@pytest.mark.parametrize("payload", [None, "UNSIGNED-PAYLOAD"], ids=["signed", "unsigned"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_right_checksum_in_a_header_is_kept_and_returned(server, s3, bucket, algorithm, payload):
    data = some_bytes(70_000)
    name, value = f"x-amz-checksum-{algorithm.lower()}", checksum(algorithm, data)
    answer = server.raw("PUT", bucket, "k", body=data, payload=payload, headers={name: value})
    assert answer.status == 200 and answer.headers.get(name) == value, str(answer)
    plain = server.raw("HEAD", bucket, "k")
    assert name not in plain.headers, "checksums are shown only when asked for"
    for method in ("GET", "HEAD"):
        asked = server.raw(method, bucket, "k", headers={"x-amz-checksum-mode": "ENABLED"})
        assert asked.headers.get(name) == value, str(asked.headers)
        assert asked.headers.get("x-amz-checksum-type") == "FULL_OBJECT"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrong_checksum_in_a_header_is_refused_and_not_stored(server, s3, bucket, algorithm):
    value = checksum(algorithm, b"other")
    answer = server.raw("PUT", bucket, "k", body=b"data", headers={f"x-amz-checksum-{algorithm.lower()}": value})
    expect_error(answer, 400, "BadDigest")
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("mode", [SIGNED_TRAILER, UNSIGNED_TRAILER])
def test_a_checksum_in_a_trailer_is_checked_and_kept(server, s3, bucket, mode, algorithm):
    data = some_bytes(70_000)
    name = f"x-amz-checksum-{algorithm.lower()}"
    wrong = server.put_streaming(bucket, "wrong", data, mode=mode, trailer=(name, checksum(algorithm, b"other")))
    expect_error(wrong, 400, "BadDigest")
    assert absent(s3, bucket, "wrong")
    right = server.put_streaming(bucket, "k", data, mode=mode, trailer=(name, checksum(algorithm, data)))
    assert right.status == 200, str(right)
    asked = server.raw("HEAD", bucket, "k", headers={"x-amz-checksum-mode": "ENABLED"})
    assert asked.headers.get(name) == checksum(algorithm, data), str(asked.headers)


@pytest.mark.parametrize("value", ["", "AAAA", "not base64!", "AAAAAAAAAAAAAAAAAAAAAAAA"])
def test_a_checksum_that_is_none_is_refused(server, s3, bucket, value):
    answer = server.raw("PUT", bucket, "k", body=b"data", headers={"x-amz-checksum-crc32": value})
    assert answer.status == 400 and answer.code in ("InvalidRequest", "BadDigest", "InvalidDigest"), str(answer)
    assert absent(s3, bucket, "k")


def test_two_checksum_headers_are_refused(server, s3, bucket):
    headers = {f"x-amz-checksum-{name.lower()}": checksum(name, b"data") for name in ("CRC32", "SHA256")}
    expect_error(server.raw("PUT", bucket, "k", body=b"data", headers=headers), 400, "InvalidRequest")
    assert absent(s3, bucket, "k")


def test_an_unknown_checksum_algorithm_is_refused(server, s3, bucket):
    answer = server.raw("PUT", bucket, "k", body=b"data", headers={"x-amz-sdk-checksum-algorithm": "MD4"})
    assert answer.status == 400 and answer.code == "InvalidRequest", str(answer)
    assert absent(s3, bucket, "k")


def test_content_md5_is_checked(server, s3, bucket):
    assert server.raw("PUT", bucket, "k", body=b"data", headers={"Content-MD5": content_md5(b"data")}).status == 200
    wrong = server.raw("PUT", bucket, "w", body=b"data", headers={"Content-MD5": content_md5(b"other")})
    expect_error(wrong, 400, "BadDigest")
    for invalid in ("", "abc", "not base64 at all!!", "AAAA"):
        answer = server.raw("PUT", bucket, "w", body=b"data", headers={"Content-MD5": invalid})
        expect_error(answer, 400, "InvalidDigest")
    assert absent(s3, bucket, "w")


# --- malformed everything ---------------------------------------------------------------

XML_OPERATIONS = [
    ("DeleteObjects", "POST", None, [("delete", "")]),
    ("PutObjectTagging", "PUT", "k", [("tagging", "")]),
    ("PutBucketTagging", "PUT", None, [("tagging", "")]),
    ("CreateBucket", "PUT", "NEW", []),
    ("CompleteMultipartUpload", "POST", "k", "upload"),
]
BAD_XML = [
    ("empty", b""),
    ("no XML", b"hello"),
    ("unclosed", b"<Delete><Object><Key>a</Key>"),
    ("wrong root", b"<Banana/>"),
    ("not UTF-8", b"<Delete><Object><Key>\xff\xfe</Key></Object></Delete>"),
    ("entities", b'<!DOCTYPE d [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>'),
    ("deep", b"<a>" * 20_000),
    ("json", json.dumps({"Objects": []}).encode()),
]


@pytest.mark.parametrize("what, body", BAD_XML, ids=[what for what, _ in BAD_XML])
@pytest.mark.parametrize("operation, method, key, query", XML_OPERATIONS, ids=[row[0] for row in XML_OPERATIONS])
def test_malformed_xml_is_refused(server, s3, bucket, operation, method, key, query, what, body):
    if operation == "CreateBucket":
        if not body:
            pytest.skip("CreateBucket without a body is the usual way")
        bucket, key = unique(), None
    else:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    if query == "upload":
        query = [("uploadId", s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"])]
    answer = server.raw(method, bucket, key, query=query, body=body, headers={"Content-MD5": content_md5(body)})
    assert answer.status == 400 and answer.code in ("MalformedXML", "InvalidRequest", "MissingRequestBodyError"), str(answer)


def test_an_xml_body_that_is_too_long_is_refused(server, bucket):
    body = b"<Delete>" + b"<Object><Key>aaaaaaaaaaaaaaaa</Key></Object>" * 100_000 + b"</Delete>"
    answer = server.raw("POST", bucket, query=[("delete", "")], body=body, headers={"Content-MD5": content_md5(body)})
    assert answer.status == 400 and answer.code in ("MalformedXML", "EntityTooLarge", "MaxMessageLengthExceeded"), str(answer)


@pytest.mark.parametrize(
    "what, headers",
    [
        ("one huge header", {"x-amz-meta-a": "a" * 100_000}),
        ("very many headers", {f"x-h-{n}": "v" for n in range(5000)}),
        ("metadata of 3 KB", {"x-amz-meta-a": "a" * 3000}),
        ("metadata of 3 KB in many pieces", {f"x-amz-meta-{n:04}": "v" * 20 for n in range(100)}),
    ],
)
def test_absurd_headers_are_refused(server, s3, bucket, what, headers):
    try:
        answer = server.raw("PUT", bucket, "k", body=b"x", headers=headers)
    except (ConnectionError, http.client.BadStatusLine):
        pytest.fail(f"{what}: no answer")
    assert answer.status in (400, 431), str(answer)
    if "metadata" in what:
        expect_error(answer, 400, "MetadataTooLarge")
    assert absent(s3, bucket, "k")


@pytest.mark.parametrize(
    "first_line",
    [
        b"GET\r\n\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET " + b"/a" * 50_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    ],
    ids=["no path", "binary", "version", "long path", "method", "two lengths", "no host", "bad uri", "tls"],
)
def test_what_is_not_http_is_refused_and_harms_nobody(server, s3, first_line):
    with socket.create_connection(server.address, timeout=20) as connection:
        connection.sendall(first_line)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 5")), answer[:300]
    s3.list_buckets()


def test_a_connection_survives_an_error(server, bucket):
    """An error answer leaves the connection in step: the next request works."""
    connection = http.client.HTTPConnection(*server.address, timeout=30)
    for wanted in (404, 200, 404, 200):
        key = None if wanted == 200 else "nothing-here"
        headers = {"Host": f"127.0.0.1:{server.s3_port}"}
        Signer(server.key()).header("GET", path_of(bucket, key), [], headers, sigv4.EMPTY_SHA256)
        connection.request("GET", path_of(bucket, key), headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == wanted
    connection.close()


# --- odd keys --------------------------------------------------------------------------------

ODD_KEYS = [
    " ", " leading", "trailing ", "a b", "a+b", "a%20b", "%", "%zz", "a//b", "//", "/", "/leading", "trailing/",
    "dir/", ".", "..", "../up", "a/../b", "a/./b", "./a", "a/..", "?", "a?b=c", "#", "a#b", "a&b", "a=b", "a;b",
    "a:b", "a@b", "a,b", "a'b", 'a"b', "a\\b", "a|b", "a<b>c", "<xml/>", "]]>", "a{b}", "a[b]", "a^b", "a`b", "~",
    "*", "!", "$", "(", ")", "tab\there", "newline\nhere", "cr\rhere", "del\x7f", "\x01", "é", "e\u0301", "日本語", "\U0001f512",
    "\u202eright-to-left", "\ufeff", "\u00a0", "\uffff", "x" * 1024, "é" * 512, "a/" * 512, "\U0001f512" * 256,
    "null", "undefined", "None", "uploads", "aws-chunked", "con", "a\u2028b",
]  # fmt: skip


def test_every_odd_key_can_be_put_listed_read_copied_and_deleted(server, s3):
    bucket = unique()
    s3.create_bucket(Bucket=bucket)
    plain = server.client(checksums=False)
    for number, key in enumerate(ODD_KEYS):
        s3.put_object(Bucket=bucket, Key=key, Body=f"{number}".encode())
    for number, key in enumerate(ODD_KEYS):
        assert plain.get_object(Bucket=bucket, Key=key)["Body"].read() == f"{number}".encode(), repr(key)
        assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(f"{number}"), repr(key)
    listed = [
        item["Key"]
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
        for item in page.get("Contents", [])
    ]
    assert listed == sorted(ODD_KEYS, key=lambda key: key.encode()), "listings are in UTF-8 order and complete"
    for key in ODD_KEYS:
        s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": key})
    s3.delete_object(Bucket=bucket, Key="copy")
    half = len(ODD_KEYS) // 2
    for key in ODD_KEYS[:half]:
        s3.delete_object(Bucket=bucket, Key=key)
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in ODD_KEYS[half:]]})
    # XML 1.0 cannot carry every character: such a name is deleted in silence.
    sayable = {key for key in ODD_KEYS[half:] if all(c in "\t\n\r" or " " <= c <= "\ufffd" or c > "\uffff" for c in key)}
    assert {item["Key"] for item in answer["Deleted"]} == sayable and "Errors" not in answer
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("key, codes", [("x" * 1025, ("KeyTooLongError",)), ("é" * 513, ("KeyTooLongError",))])
def test_a_key_of_more_than_1024_bytes_is_refused(server, bucket, key, codes):
    for method in ("PUT", "GET", "DELETE"):
        answer = server.raw(method, bucket, key, body=b"x" if method == "PUT" else b"")
        expect_error(answer, 400, *codes)


@pytest.mark.parametrize("path", ["/{}/%ff%fe", "/{}/%c0%af", "/{}/a%ed%a0%80"])
def test_a_key_that_is_not_utf8_is_refused(server, bucket, path):
    answer = server.raw("PUT", body=b"x", path=path.format(bucket))
    assert answer.status == 400 and answer.code, str(answer)


def test_keys_that_look_like_paths_never_become_paths(server, s3, bucket):
    """`..` is a name like any other: it does not climb out of bucket or site."""
    other = unique()
    s3.create_bucket(Bucket=other)
    s3.put_object(Bucket=bucket, Key=f"../{other}/k", Body=b"1")
    assert s3.list_objects_v2(Bucket=other)["KeyCount"] == 0
    assert [o["Key"] for o in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [f"../{other}/k"]
    raw = server.raw("GET", path=f"/{bucket}/../{other}/k")
    assert (raw.status, raw.body) == (200, b"1"), str(raw)


# --- virtual-host style ------------------------------------------------------------------------


def test_a_bucket_can_be_named_by_the_host(server, s3, bucket):
    host = f"{bucket}.localhost:{server.s3_port}"
    put = server.raw("PUT", host=host, path="/a%20b/c", body=b"hello")
    assert put.status == 200, str(put)
    assert stored(s3, bucket, "a b/c") == b"hello"
    listed = server.raw("GET", host=host, path="/", query=[("list-type", "2")])
    assert [k.text for k in listed.xml.findall("Contents/Key")] == ["a b/c"], str(listed)


def test_botocore_uses_virtual_host_style_unchanged(server, bucket, monkeypatch):
    resolve = socket.getaddrinfo
    monkeypatch.setattr(  # not every resolver knows *.localhost
        socket, "getaddrinfo", lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)
    )
    client = server.client(style="virtual", host="localhost")
    hosts = []
    client.meta.events.register("before-send.s3", lambda request, **_: hosts.append(request.url))
    client.put_object(Bucket=bucket, Key="v", Body=b"virtual")
    assert client.get_object(Bucket=bucket, Key="v")["Body"].read() == b"virtual"
    assert all(url.startswith(f"http://{bucket}.localhost:") for url in hosts), hosts


# --- every answer ---------------------------------------------------------------------------------


def test_every_answer_carries_a_request_id_and_no_two_are_equal(server, s3, bucket):
    seen = set()
    for method, key in [("GET", None), ("GET", "no"), ("PUT", "k"), ("HEAD", "k"), ("GET", "k"), ("DELETE", "k")]:
        answer = server.raw(method, bucket, key, body=b"x" if method == "PUT" else b"")
        seen.add(answer.headers.get("x-amz-request-id"))
    assert None not in seen and len(seen) == 6


def test_errors_never_tell_more_than_the_code(server, bucket):
    """No path, no Rust name, no policy, no site leaks through an error."""
    answers = [
        server.raw("GET", bucket, "nothing"),
        server.raw("GET", unique()),
        server.raw("GET", bucket, query=[("versioning", "")]),
        server.raw("POST", bucket, query=[("delete", "")], body=b"<"),
    ]
    for answer in answers:
        text = answer.body.decode().lower()
        for leak in (str(server.data).lower(), "sites/", ".rs", "::", "sqlite", "cedar", "panick"):
            assert leak not in text, f"{leak!r} in {text}"
