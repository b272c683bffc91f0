"""Buckets, their tags and places, and everything that is not implemented."""

import pytest
from botocore.exceptions import ClientError

import sigv4
from harness import expect_error, unique
from sigv4 import content_md5


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_bucket_is_made_listed_and_deleted(server, s3):
    name = unique()
    made = server.raw("PUT", name)
    assert made.status == 200 and made.headers.get("location") == f"/{name}", str(made)
    buckets = {b["Name"]: b["CreationDate"] for b in s3.list_buckets()["Buckets"]}
    assert name in buckets and s3.list_buckets()["Owner"]["ID"]
    assert server.raw("HEAD", name).status == 200
    assert server.raw("DELETE", name).status == 204
    assert server.raw("HEAD", name).status == 404
    assert name not in {b["Name"] for b in s3.list_buckets()["Buckets"]}
    expect_error(server.raw("DELETE", name), 404, "NoSuchBucket")


def test_a_bucket_made_anew_is_empty(server, s3):
    name = unique()
    for _ in range(2):
        s3.create_bucket(Bucket=name)
        assert s3.list_objects_v2(Bucket=name)["KeyCount"] == 0
        s3.put_object(Bucket=name, Key="k", Body=b"x")
        s3.delete_object(Bucket=name, Key="k")
        s3.delete_bucket(Bucket=name)


def test_a_bucket_with_objects_or_uploads_stays(server, s3):
    name = unique()
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="k", Body=b"x")
    assert code_of(s3.delete_bucket, Bucket=name) == ("BucketNotEmpty", 409)
    assert s3.get_object(Bucket=name, Key="k")["Body"].read() == b"x"


@pytest.mark.parametrize(
    "name", ["ab", "a" * 64, "Upper", "under_score", "-a-b", "a-b-", "a..b", "192.168.1.1", "a b", "ü" * 5, "xn--abc", "abc-s3alias", "..", "a.-b", "%00abc"]
)
def test_a_name_outside_the_rules_is_refused(server, name):
    if name == "a.-b":
        pytest.skip("AWS forbids it only for virtual-host use")
    path = "/" + (name if name.startswith("%") else sigv4.encode(name))
    answer = server.raw("PUT", path=path)
    expect_error(answer, 400, "InvalidBucketName")


def test_a_taken_name_says_whose(server, s3, bucket):
    other = server.client("other")
    assert code_of(s3.create_bucket, Bucket=bucket) == ("BucketAlreadyOwnedByYou", 409)
    assert code_of(other.create_bucket, Bucket=bucket) == ("BucketAlreadyExists", 409)


@pytest.mark.parametrize("constraint, wanted", [(None, None), ("", None), ("us-east-1", None), ("home", "home"), ("cloud", "cloud")])
def test_the_location_constraint_pins_a_bucket_and_is_told(server, s3, constraint, wanted):
    name = unique()
    body = b""
    if constraint is not None:
        body = f"<CreateBucketConfiguration><LocationConstraint>{constraint}</LocationConstraint></CreateBucketConfiguration>".encode()
    assert server.raw("PUT", name, body=body).status == 200
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == wanted
    assert s3.head_bucket(Bucket=name).get("BucketRegion", "us-east-1") in ("us-east-1", wanted)


@pytest.mark.parametrize("constraint", ["mars", "eu-central-1", "HOME", "../home", "x" * 1000])
def test_a_location_that_is_no_site_is_refused(server, s3, constraint):
    name = unique()
    code, status = code_of(s3.create_bucket, Bucket=name, CreateBucketConfiguration={"LocationConstraint": constraint})
    assert status == 400 and code in ("InvalidLocationConstraint", "IllegalLocationConstraintException")
    assert server.raw("HEAD", name).status == 404


def test_bucket_tags_are_put_read_and_removed(server, s3, bucket):
    assert code_of(s3.get_bucket_tagging, Bucket=bucket) == ("NoSuchTagSet", 404)
    wanted = [{"Key": f"k{n}", "Value": f"v ü {n}"} for n in range(50)]
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": wanted})
    got = s3.get_bucket_tagging(Bucket=bucket)["TagSet"]
    assert sorted(t["Key"] for t in got) == sorted(t["Key"] for t in wanted) and all(t in wanted for t in got)
    more = wanted + [{"Key": "one-more", "Value": "x"}]
    assert code_of(s3.put_bucket_tagging, Bucket=bucket, Tagging={"TagSet": more})[1] == 400
    s3.delete_bucket_tagging(Bucket=bucket)
    assert code_of(s3.get_bucket_tagging, Bucket=bucket) == ("NoSuchTagSet", 404)


def test_a_label_nobody_knows_is_refused(server, s3, bucket):
    for call, arguments in [
        (s3.put_bucket_tagging, {"Bucket": bucket, "Tagging": {"TagSet": [{"Key": "ringfence-label", "Value": "top-secret"}]}}),
        (s3.put_object, {"Bucket": bucket, "Key": "k", "Body": b"x", "Tagging": "ringfence-label=top-secret"}),
    ]:
        code, status = code_of(call, **arguments)
        assert status == 400 and code in ("InvalidTag", "InvalidArgument"), (code, status)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_listing_buckets_pages(server, s3):
    prefix = unique("paged")
    names = sorted(f"{prefix}-{n}" for n in range(7))
    for name in names:
        s3.create_bucket(Bucket=name)
    found, token = [], {}
    while True:
        page = s3.list_buckets(Prefix=prefix, MaxBuckets=3, **token)
        found += [b["Name"] for b in page["Buckets"]]
        if not page.get("ContinuationToken"):
            break
        token = {"ContinuationToken": page["ContinuationToken"]}
    assert found == names


# --- tenants ----------------------------------------------------------------------


def test_a_tenant_sees_and_touches_nothing_of_another(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret", Tagging="a=b")
    other = server.client("other")
    assert bucket not in {b["Name"] for b in other.list_buckets()["Buckets"]}
    mine = unique("mine")
    other.create_bucket(Bucket=mine)
    at = {"Bucket": bucket, "Key": "k"}
    upload = s3.create_multipart_upload(**at)["UploadId"]
    calls = [
        (other.list_objects_v2, {"Bucket": bucket}),
        (other.list_objects, {"Bucket": bucket}),
        (other.list_object_versions, {"Bucket": bucket}),
        (other.list_multipart_uploads, {"Bucket": bucket}),
        (other.get_bucket_location, {"Bucket": bucket}),
        (other.get_bucket_tagging, {"Bucket": bucket}),
        (other.put_bucket_tagging, {"Bucket": bucket, "Tagging": {"TagSet": []}}),
        (other.delete_bucket, {"Bucket": bucket}),
        (other.get_object, at),
        (other.get_object, at | {"Key": "missing"}),
        (other.put_object, at | {"Body": b"x"}),
        (other.delete_object, at),
        (other.get_object_tagging, at),
        (other.put_object_tagging, at | {"Tagging": {"TagSet": []}}),
        (other.copy_object, {"Bucket": mine, "Key": "stolen", "CopySource": at}),
        (other.copy_object, {"Bucket": mine, "Key": "stolen", "CopySource": at | {"Key": "missing"}}),
        (other.create_multipart_upload, at),
        (other.list_parts, at | {"UploadId": upload}),
        (other.upload_part, at | {"UploadId": upload, "PartNumber": 1, "Body": b"x"}),
        (other.abort_multipart_upload, at | {"UploadId": upload}),
    ]
    for call, arguments in calls:
        assert code_of(call, **arguments) == ("AccessDenied", 403), call.__name__
    assert server.raw("HEAD", bucket, signer=sigv4.Signer(server.key("other"))).status == 403
    assert code_of(other.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": "k"}]}) == ("AccessDenied", 403)
    assert s3.get_object(**at)["Body"].read() == b"secret"
    assert other.list_objects_v2(Bucket=mine)["KeyCount"] == 0


def test_a_foreign_bucket_and_a_missing_one_look_the_same_where_it_matters(server, s3, bucket):
    """Ruling 10: whether a foreign bucket exists is told by CreateBucket only."""
    signer = sigv4.Signer(server.key("other"))
    foreign = server.raw("GET", bucket, "k", signer=signer)
    expect_error(foreign, 403, "AccessDenied")


# --- everything else: 501, never a silent 200 ------------------------------------------

BUCKET_SUBRESOURCES = [
    "accelerate", "acl", "analytics", "cors", "encryption", "intelligent-tiering", "inventory", "lifecycle", "logging", "metrics",
    "notification", "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication",
    "requestPayment", "versioning", "website", "metadataTable", "metadataConfiguration", "abac",
]  # fmt: skip
OBJECT_SUBRESOURCES = ["acl", "legal-hold", "retention", "torrent", "attributes", "restore", "select", "encryption", "annotation", "renameObject"]


def refused_as_not_built(answer, method):
    """501; or the complaint about this test's senseless body or missing id."""
    assert answer.status in (400, 405, 501), f"{method}: {answer}"
    expect_error(answer, answer.status, "NotImplemented", "MethodNotAllowed", "MalformedXML", "InvalidRequest")


def test_well_formed_requests_for_what_is_not_built_are_501(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    at = {"Bucket": bucket}
    calls = [
        (s3.put_bucket_versioning, at | {"VersioningConfiguration": {"Status": "Enabled"}}),
        (s3.get_bucket_versioning, at),
        (s3.put_bucket_acl, at | {"ACL": "public-read"}),
        (s3.put_object_acl, at | {"Key": "k", "ACL": "public-read"}),
        (s3.put_bucket_policy, at | {"Policy": "{}"}),
        (s3.put_bucket_cors, at | {"CORSConfiguration": {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}}),
        (s3.put_bucket_lifecycle_configuration, at | {"LifecycleConfiguration": {"Rules": [{"ID": "a", "Status": "Enabled", "Prefix": "", "Expiration": {"Days": 1}}]}}),
        (s3.put_object_lock_configuration, at | {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}),
        (s3.put_object_legal_hold, at | {"Key": "k", "LegalHold": {"Status": "ON"}}),
        (s3.put_public_access_block, at | {"PublicAccessBlockConfiguration": {"BlockPublicAcls": True}}),
        (s3.get_object_attributes, at | {"Key": "k", "ObjectAttributes": ["ETag"]}),
        (s3.restore_object, at | {"Key": "k", "RestoreRequest": {"Days": 1}}),
        (s3.get_bucket_replication, at),
        (s3.get_object_torrent, at | {"Key": "k"}),
    ]
    for call, arguments in calls:
        assert code_of(call, **arguments) == ("NotImplemented", 501), call.__name__


@pytest.mark.parametrize("name", ["acl", "versioning", "logging", "policyStatus", "requestPayment", "a-query-nobody-knows"])
def test_deleting_a_subresource_never_deletes_the_bucket_or_object(server, s3, name):
    bucket = unique()
    s3.create_bucket(Bucket=bucket)
    answer = server.raw("DELETE", bucket, query=[(name, "")])
    assert answer.status in (400, 405, 501), str(answer)
    assert server.raw("HEAD", bucket).status == 200, "the empty bucket is gone"
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    answer = server.raw("DELETE", bucket, "k", query=[(name, "")])
    assert answer.status in (400, 405, 501), str(answer)
    assert server.raw("GET", bucket, "k").body == b"x", "the object is gone"


def test_conditions_of_directory_buckets_are_refused_and_not_ignored(server, s3, bucket):
    """A delete whose condition is not understood must not delete."""
    import datetime

    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
    for condition in ({"Size": 99}, {"LastModifiedTime": long_ago}, {"ETag": "0123"}):
        try:
            answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", **condition}]})
            assert not answer.get("Deleted"), f"{condition} was ignored"
        except ClientError as error:
            assert error.response["Error"]["Code"] == "NotImplemented"
        assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


@pytest.mark.parametrize("name", BUCKET_SUBRESOURCES)
def test_a_bucket_subresource_that_is_not_built_is_501(server, s3, bucket, name):
    body = b"<Anything/>"
    for method in ("GET", "PUT", "DELETE"):
        data = body if method == "PUT" else b""
        answer = server.raw(method, bucket, query=[(name, "")], body=data, headers={"Content-MD5": content_md5(data)} if data else {})
        refused_as_not_built(answer, method)
    assert server.raw("HEAD", bucket).status == 200, "DELETE ?sub did not delete the bucket"


@pytest.mark.parametrize("name", OBJECT_SUBRESOURCES)
def test_an_object_subresource_that_is_not_built_is_501(server, s3, bucket, name):
    s3.put_object(Bucket=bucket, Key="k", Body=b"original")
    for method in ("GET", "PUT", "POST", "DELETE"):
        data = b"<Anything/>" if method in ("PUT", "POST") else b""
        answer = server.raw(method, bucket, "k", query=[(name, "")], body=data)
        refused_as_not_built(answer, method)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"original"


@pytest.mark.parametrize("method, query", [("GET", "a-query-nobody-knows"), ("PUT", "a-query-nobody-knows"), ("DELETE", "a-query-nobody-knows")])
def test_a_subresource_nobody_knows_never_falls_through_to_the_object(server, s3, bucket, method, query):
    """`x-id` and other plain parameters are fine; here only DELETE and PUT of
    whole buckets would be fatal, so the bucket must still be there."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"original")
    server.raw(method, bucket, query=[(query, "")])
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"original"


HEADERS_NOT_BUILT = [
    {"x-amz-server-side-encryption": "aws:kms"},
    {"x-amz-server-side-encryption-customer-algorithm": "AES256", "x-amz-server-side-encryption-customer-key": "a" * 43 + "=", "x-amz-server-side-encryption-customer-key-md5": "a" * 22 + "=="},
    {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": "2040-01-01T00:00:00Z"},
    {"x-amz-object-lock-legal-hold": "ON"},
    {"x-amz-acl": "public-read"},
    {"x-amz-acl": "public-read-write"},
    {"x-amz-grant-read": "uri=http://acs.amazonaws.com/groups/global/AllUsers"},
    {"x-amz-website-redirect-location": "/elsewhere"},
    {"x-amz-storage-class": "GLACIER"},
    {"x-amz-write-offset-bytes": "0"},
]


def refused(answer):
    """A storage class that we do not have is an invalid one."""
    status = 400 if answer.code == "InvalidStorageClass" else 501
    expect_error(answer, status, "NotImplemented", "InvalidStorageClass")


@pytest.mark.parametrize("headers", HEADERS_NOT_BUILT, ids=lambda h: next(iter(h)) + "=" + next(iter(h.values()))[:20])
def test_a_header_that_promises_what_is_not_built_is_refused(server, s3, bucket, headers):
    """Accepting a lock, an ACL or a customer key and ignoring it is a lie."""
    answer = server.raw("PUT", bucket, "k", body=b"x", headers=headers)
    refused(answer)
    upload = server.raw("POST", bucket, "k", query=[("uploads", "")], headers=dict(headers))
    if "x-amz-write-offset-bytes" not in headers:
        refused(upload)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_object_lock_at_creation_is_501_and_makes_no_bucket(server):
    name = unique()
    answer = server.raw("PUT", name, headers={"x-amz-bucket-object-lock-enabled": "true"})
    expect_error(answer, 501, "NotImplemented")
    assert server.raw("HEAD", name).status == 404


def test_a_form_upload_is_501(server, bucket):
    answer = sigv4.send(
        server.address, "POST", f"/{bucket}", {"Host": "127.0.0.1", "Content-Type": "multipart/form-data; boundary=b", "Content-Length": "9"}, b"--b--\r\n\r\n"
    )
    assert answer.status in (400, 403, 501) and answer.code, str(answer)


def test_private_acl_headers_of_old_clients_are_accepted(server, bucket):
    """`private` is what every object is: saying so is no request for ACLs."""
    assert server.raw("PUT", bucket, "k", body=b"x", headers={"x-amz-acl": "private"}).status == 200


def test_the_standard_storage_class_is_accepted(server, bucket):
    assert server.raw("PUT", bucket, "k", body=b"x", headers={"x-amz-storage-class": "STANDARD"}).status == 200


def test_sse_s3_is_accepted_or_refused_but_not_ignored(server, s3, bucket):
    answer = server.raw("PUT", bucket, "k", body=b"x", headers={"x-amz-server-side-encryption": "AES256"})
    if answer.status == 200:
        assert answer.headers.get("x-amz-server-side-encryption") == "AES256"
    else:
        expect_error(answer, 501, "NotImplemented")
