"""Listings: order, prefixes, delimiters, markers, encodings, limits.

The oracle is a listing computed here from the set of keys.
"""

import pytest

from harness import expect_error, unique

KEYS = sorted(
    [
        "", "a", "a/", "a/b", "a/b/c", "a/b/d", "a/c", "a//x", "ab", "abc", "b", "b/1", "b/2", "b/3", "c-1", "c-2", "d e", "d+e",
        "d&e", "e/ü/1", "e/ü/2", "e/日本", "f%20g", "f<g>", "z", "\U0001f512/1", "\U0001f512/2", "\ue000", "\uffee",
        *(f"many/{n:03}" for n in range(40)), *(f"dirs/{n:02}/x" for n in range(25)),
    ],
    key=str.encode,
)[1:]  # fmt: skip


def expected(keys, prefix="", delimiter="", after=""):
    """(kind, name) in order: what a listing without limits shows."""
    shown = []
    for key in keys:
        if not key.startswith(prefix):
            continue
        rest = key[len(prefix) :]
        if delimiter and delimiter in rest:
            name = ("prefix", prefix + rest[: rest.index(delimiter) + len(delimiter)])
        else:
            name = ("key", key)
        if name in shown:
            continue
        # A marker skips keys at or before it, and groups it lies in or behind.
        if after and (name[1].encode() <= after.encode() or (name[0] == "prefix" and after.startswith(name[1]))):
            continue
        shown.append(name)
    return shown


def shown(page):
    names = [("key", o["Key"]) for o in page.get("Contents", [])]
    names += [("prefix", p["Prefix"]) for p in page.get("CommonPrefixes", [])]
    return sorted(names, key=lambda n: n[1].encode())


@pytest.fixture(scope="module")
def full(s3):
    bucket = unique()
    s3.create_bucket(Bucket=bucket)
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


CASES = [
    {},
    {"prefix": "a"},
    {"prefix": "a/"},
    {"prefix": "nothing"},
    {"delimiter": "/"},
    {"prefix": "a/", "delimiter": "/"},
    {"prefix": "a", "delimiter": "/"},
    {"prefix": "e/", "delimiter": "/"},
    {"prefix": "dirs/", "delimiter": "/"},
    {"delimiter": "b"},
    {"delimiter": "//"},
    {"delimiter": "ü"},
    {"prefix": "d", "delimiter": " "},
    {"after": "b"},
    {"after": "b/2"},
    {"after": "a0"},
    {"after": "zzzz"},
    {"after": "many/", "prefix": "many/"},
    {"prefix": "\U0001f512"},
]


@pytest.mark.parametrize("page_size", [1000, 1, 3, 7])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_version_2_lists_exactly_this_in_pages_of_any_size(s3, full, case, page_size):
    if page_size == 1 and not case:
        page_size = 2
    wanted = expected(KEYS, **case)
    arguments = {"Bucket": full, "MaxKeys": page_size, "Prefix": case.get("prefix", ""), "Delimiter": case.get("delimiter", "")}
    if "after" in case:
        arguments["StartAfter"] = case["after"]
    found, tokens = [], set()
    while True:
        page = s3.list_objects_v2(**arguments)
        names = shown(page)
        assert page["KeyCount"] == len(names) <= page_size
        found += names
        if not page["IsTruncated"]:
            assert "NextContinuationToken" not in page
            break
        assert len(names) == page_size, "a truncated page is full"
        token = page["NextContinuationToken"]
        assert token not in tokens, "a token repeats: endless listing"
        tokens.add(token)
        arguments["ContinuationToken"] = token
    assert found == wanted


@pytest.mark.parametrize("page_size", [1000, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_version_1_lists_exactly_this_in_pages_of_any_size(s3, full, case, page_size):
    wanted = expected(KEYS, **case)
    arguments = {"Bucket": full, "MaxKeys": page_size, "Prefix": case.get("prefix", ""), "Delimiter": case.get("delimiter", ""), "Marker": case.get("after", "")}
    found = []
    while True:
        page = s3.list_objects(**arguments)
        names = shown(page)
        found += names
        if not page["IsTruncated"]:
            break
        assert names, "a truncated page is not empty"
        arguments["Marker"] = page.get("NextMarker") or names[-1][1]
        if case.get("delimiter"):
            assert page.get("NextMarker"), "with a delimiter, version 1 says where to go on"
    assert found == wanted


@pytest.mark.parametrize("case", [{}, {"delimiter": "/"}, {"prefix": "a"}], ids=str)
def test_versions_of_an_unversioned_bucket_are_null(s3, full, case):
    found, markers = [], {}
    while True:
        page = s3.list_object_versions(Bucket=full, MaxKeys=7, Prefix=case.get("prefix", ""), Delimiter=case.get("delimiter", ""), **markers)
        versions = page.get("Versions", [])
        assert all(v["VersionId"] == "null" and v["IsLatest"] for v in versions) and not page.get("DeleteMarkers")
        found += shown({"Contents": versions, "CommonPrefixes": page.get("CommonPrefixes", [])})
        if not page["IsTruncated"]:
            break
        markers = {"KeyMarker": page["NextKeyMarker"]}
        if page.get("NextVersionIdMarker"):
            markers["VersionIdMarker"] = page["NextVersionIdMarker"]
    assert found == expected(KEYS, **case)


def test_an_entry_says_size_etag_time_and_class(server, s3, full):
    page = s3.list_objects_v2(Bucket=full, Prefix="a/b/c")
    entry = page["Contents"][0]
    head = s3.head_object(Bucket=full, Key="a/b/c")
    assert (entry["Size"], entry["ETag"], entry["StorageClass"]) == (5, head["ETag"], "STANDARD")
    assert abs((entry["LastModified"] - head["LastModified"]).total_seconds()) < 1
    assert (page["Name"], page["Prefix"], page["MaxKeys"]) == (full, "a/b/c", 1000)
    without = server.raw("GET", full, query=[("list-type", "2"), ("max-keys", "1")])
    assert without.xml.find("Contents/Owner") is None
    with_owner = server.raw("GET", full, query=[("list-type", "2"), ("max-keys", "1"), ("fetch-owner", "true")])
    assert with_owner.xml.find("Contents/Owner/ID") is not None
    assert server.raw("GET", full, query=[("max-keys", "1")]).xml.find("Contents/Owner/ID") is not None


def test_max_keys_zero_is_an_empty_page_that_is_not_truncated(s3, full):
    for call in (s3.list_objects, s3.list_objects_v2, s3.list_object_versions):
        page = call(Bucket=full, MaxKeys=0)
        assert not page["IsTruncated"] and not shown(page) and not page.get("Versions") and page["MaxKeys"] == 0


def test_max_keys_above_a_thousand_is_a_thousand(s3, full):
    assert s3.list_objects_v2(Bucket=full, MaxKeys=5000)["MaxKeys"] in (1000, 5000)
    assert s3.list_objects_v2(Bucket=full, MaxKeys=5000)["KeyCount"] == len(KEYS)


@pytest.mark.parametrize("version", ["1", "2", "versions"])
@pytest.mark.parametrize("name, value", [("max-keys", "-1"), ("max-keys", "abc"), ("max-keys", "99999999999999999999"), ("encoding-type", "base64")])
def test_arguments_that_make_no_sense_are_refused(server, full, version, name, value):
    query = {"1": [], "2": [("list-type", "2")], "versions": [("versions", "")]}[version]
    expect_error(server.raw("GET", full, query=[*query, (name, value)]), 400, "InvalidArgument")


@pytest.mark.parametrize("token", ["", "x", "AAAA", "..", "ü", "9" * 3000])
def test_a_token_that_is_none_of_ours_is_refused_or_harmless(server, full, token):
    answer = server.raw("GET", full, query=[("list-type", "2"), ("continuation-token", token)])
    assert answer.status == 200 or (answer.status == 400 and answer.code == "InvalidArgument"), str(answer)


def test_encoding_type_url_encodes_every_name(server, full):
    for query in ([("list-type", "2")], [], [("versions", "")]):
        answer = server.raw("GET", full, query=[*query, ("encoding-type", "url"), ("prefix", "d"), ("delimiter", "&")])
        xml = answer.xml
        assert xml.findtext("EncodingType") == "url", str(answer)
        names = [e.text for e in xml.iter("Key")]
        assert "d+e" not in names and "d%2Be" in names and ("d+e".replace("+", "%20") in names or "d+e" in names), names
        assert xml.findtext("Delimiter") == "%26"
        assert [e.text for e in xml.findall("CommonPrefixes/Prefix")] == ["d%26"]


def test_names_that_xml_cannot_say_are_listed_encoded(server, s3):
    bucket = unique()
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="a\x01b", Body=b"x")
    answer = server.raw("GET", bucket, query=[("list-type", "2"), ("encoding-type", "url")])
    assert answer.xml.findtext("Contents/Key") == "a%01b", str(answer)
    for query in ([], [("list-type", "2")], [("versions", "")]):
        answer = expect_error(server.raw("GET", bucket, query=query), 400, "InvalidArgument")
        assert "encoding-type=url" in answer.xml.findtext("Message"), str(answer)
    # What the page does not show is no obstacle.
    assert server.raw("GET", bucket, query=[("prefix", "b")]).status == 200


def test_a_new_object_is_listed_and_a_deleted_one_is_not_at_once(server, s3, bucket):
    for n in range(30):
        s3.put_object(Bucket=bucket, Key=f"k{n}", Body=b"x")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
        s3.delete_object(Bucket=bucket, Key=f"k{n}")
        assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_listing_that_pages_while_keys_come_and_go_shows_each_untouched_key_once(server, s3, bucket):
    steady = [f"s{n:03}" for n in range(60)]
    for key in steady:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    found, token = [], {}
    while True:
        page = s3.list_objects_v2(Bucket=bucket, MaxKeys=9, **token)
        found += [o["Key"] for o in page["Contents"]]
        last = found[-1]
        s3.put_object(Bucket=bucket, Key=last + "-behind", Body=b"x")
        s3.put_object(Bucket=bucket, Key="a-before", Body=b"x")
        s3.delete_object(Bucket=bucket, Key="a-before")
        if not page["IsTruncated"]:
            break
        token = {"ContinuationToken": page["NextContinuationToken"]}
    assert [k for k in found if k in steady] == steady
