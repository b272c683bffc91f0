"""Sessions as honest clients use them: exchanged, narrowed, used, over."""

import concurrent.futures
import datetime
import hashlib
import json
import time

import pytest
from botocore.exceptions import ClientError

import paseto
import sts
import tlog
from harness import expect_error, some_bytes, unique
from sigv4 import Signer, until
from sts import allow, arn, assume_role, deny, identity, policy, web_identity

MIB = 1024 * 1024
DATA = "acme-data"


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def worked(answer):
    assert answer.status == 200, answer
    return answer


@pytest.fixture(scope="module")
def session(world):
    return world.session()


# --- an identity provider's token for a session -------------------------------------------


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "RS256"])
def test_a_token_is_exchanged_for_a_session_that_works(world, alg):
    idp = world.idps["acme"]
    answer = world.ask(idp.token("ann", key=idp.key(alg)), name="a-name")
    session = answer.session
    assert session.key.id.startswith("ASIA") and len(session.key.id) == 20 and len(session.key.secret) == 40
    assert session.arn == "arn:ringfence:sts::acme:assumed-role/worker/a-name"
    assert answer.find("SubjectFromWebIdentityToken") == "ann" and answer.find("Audience") == "ringfence"
    assert answer.find("Provider") == idp.url
    assert len(session.token) <= 4096, "a receipt of 4 KB is the budget"
    assert session.raw(world.server, "GET", DATA, "k").body == b"acme"
    assert session.raw(world.server, "PUT", DATA, "made", body=b"x").status == 200


def test_the_account_number_of_aws_stands_for_the_tenant_of_the_evidence(world):
    token = world.idps["acme"].token()
    assert web_identity(world.server, "arn:aws:iam::000000000000:role/worker", token).session.works(world.server, DATA)


def test_parameters_may_stand_in_the_query(world):
    token = world.idps["acme"].token()
    assert web_identity(world.server, arn("acme", "worker"), token, method="GET").session.works(world.server, DATA)


def test_the_claims_say_what_was_asked_for_and_no_more(world):
    idp = world.idps["acme"]
    token = idp.token("ann", jti="the-id")
    session = world.ask(token).session
    claims = session.claims
    assert (claims["rlm"], claims["tnt"], claims["pur"], claims["rol"]) == ("home", "acme", "sts-session", "worker")
    assert claims["sub"] == "acme-idp--ann" and claims["iss"] == "acme-idp" and claims["par"] is None
    assert claims["evd"] == paseto.b64(hashlib.sha256(token.encode()).digest())
    assert claims["ejt"] == paseto.b64(hashlib.sha256(b"the-id").digest()[:16])
    assert claims["cnf"] == session.key.id and session.expires.timestamp() == claims["exp"]
    assert len(session.parsed.payload) <= 600


def test_a_subject_that_is_no_name_is_known_by_its_digest(world):
    for subject in ("ann@acme.example", "Ünal", "x" * 255, "a--b", "auth0|5f7"):
        session = world.session(sub=subject)
        digest = hashlib.sha256(subject.encode()).hexdigest()[:32]
        expected = f"acme-idp--{subject}" if subject == "a--b" else f"acme-idp---{digest}"
        assert session.claims["sub"] == expected
        assert session.works(world.server, DATA)


@pytest.mark.parametrize("role, asked, life_s", [("worker", None, 3600), ("worker", 1200, 1200), ("worker", 43200, 3600), ("keeper", 3600, 900), ("keeper", None, 900)])
def test_a_session_lasts_as_asked_and_never_longer_than_its_role(world, role, asked, life_s):
    session = world.session(role=role, duration=asked, life_s=3600)
    claims = session.claims
    assert life_s - 5 <= claims["exp"] - claims["iat"] <= life_s


def test_a8_a_session_never_outlives_its_evidence(world):
    began = time.time()
    session = world.session(life_s=300)
    assert session.expires.timestamp() <= began + 301
    narrowed = assume_role(world.server, arn("acme", "reader"), session.signer(), duration=3600).session
    assert narrowed.expires <= session.expires
    again = world.session(duration=3600, life_s=60)
    assert again.expires.timestamp() <= time.time() + 61


def test_a_session_ends_when_its_evidence_does(world):
    session = world.session(life_s=3)
    assert session.works(world.server, DATA)
    ended = until(lambda: (a := session.raw(world.server, "GET", DATA, "k")).status != 200 and a, "the session to end", 8)
    expect_error(ended, 400, "ExpiredToken")
    assert now() >= session.expires, "not before its time"
    answer = identity(world.server, session.signer())
    assert (answer.status, answer.code) == (400, "ExpiredTokenException"), answer
    assert assume_role(world.server, arn("acme", "reader"), session.signer()).code == "ExpiredTokenException"


def test_claims_open_a_role_that_asks_for_them(world):
    idp = world.idps["acme"]
    assert world.ask(idp.token(groups=["staff", "admins"]), role="admin").session
    assert world.ask(idp.token(groups="admins"), role="admin").session
    for claims in ({}, {"groups": ["staff"]}, {"groups": []}, {"groups": [["admins"]]}, {"groups": {"admins": True}}, {"groups": "admins "}):
        answer = world.ask(idp.token(**claims), role="admin")
        assert (answer.status, answer.code) == (403, "AccessDenied"), (claims, answer)
    assert world.ask(idp.token("svc-backup"), role="service").session
    assert world.ask(idp.token("ann-svc-backup"), role="service").code == "AccessDenied"


# --- down-scoping ---------------------------------------------------------------------------


def test_a_session_assumes_a_narrower_role(world, session):
    narrowed = assume_role(world.server, arn("acme", "reader"), session.signer()).session
    assert narrowed.raw(world.server, "GET", DATA, "k").status == 200
    expect_error(narrowed.raw(world.server, "PUT", DATA, "no", body=b"x"), 403, "AccessDenied")
    claims = narrowed.claims
    assert claims["par"] == f"{session.index}.{session.parsed.kid}.worker"
    assert claims["sub"] == session.claims["sub"] and claims["evd"] == session.claims["evd"]


def test_a_narrowed_session_has_its_parents_limits_whatever_its_role_allows(world):
    reader = world.session(role="reader")
    wider = assume_role(world.server, arn("acme", "worker"), reader.signer())
    if wider.status == 200:
        expect_error(wider.session.raw(world.server, "PUT", DATA, "no", body=b"x"), 403, "AccessDenied")
        expect_error(wider.session.raw(world.server, "GET", DATA, "confidential"), 403, "AccessDenied")
    else:
        assert wider.code == "AccessDenied", wider


def test_the_session_policies_of_a_chain_all_count(world):
    first = world.session(policy=policy(allow(["s3:GetObject", "s3:PutObject"], f"{DATA}/a*", f"{DATA}/k")))
    second = assume_role(world.server, arn("acme", "worker"), first.signer(), policy=policy(allow("s3:GetObject"))).session
    assert second.works(world.server, DATA)
    expect_error(second.raw(world.server, "GET", DATA, "internal"), 403, "AccessDenied")
    expect_error(second.raw(world.server, "PUT", DATA, "a", body=b"x"), 403, "AccessDenied")
    assert first.raw(world.server, "PUT", DATA, "a", body=b"x").status == 200


def test_a_static_key_assumes_a_role_that_takes_static_keys(world):
    key = world.server.key("acme")
    session = assume_role(world.server, arn("acme", "machine"), Signer(key)).session
    assert session.works(world.server, DATA)
    assert session.claims["iss"] == "static-key" and session.claims["evd"] == paseto.b64(bytes(32))
    for role in ("worker", "keeper", "no-such-role"):
        answer = assume_role(world.server, arn("acme", role), Signer(key))
        assert (answer.status, answer.code) == (403, "AccessDenied"), (role, answer)


def test_get_caller_identity_says_who(world, session):
    answer = worked(identity(world.server, session.signer()))
    assert answer.find("Account") == "acme" and ":assumed-role/worker/" in answer.find("Arn")
    static = worked(identity(world.server, Signer(world.server.key("acme"))))
    assert static.find("Account") == "acme" and static.find("UserId") == world.server.key("acme").id
    narrowed = assume_role(world.server, arn("acme", "reader"), session.signer(), name="other-name").session
    assert ":assumed-role/reader/" in worked(identity(world.server, narrowed.signer())).find("Arn")


# --- session policies ----------------------------------------------------------------------


def test_a_session_policy_narrows_and_never_widens(world):
    server = world.server
    reads = world.session(policy=policy(allow("s3:GetObject", f"{DATA}/k")))
    assert reads.works(server, DATA)
    for method, key in (("PUT", "k"), ("DELETE", "k"), ("GET", "internal"), ("GET", None)):
        expect_error(reads.raw(server, method, DATA, key, body=b"x" if method == "PUT" else b""), 403, "AccessDenied")
    everything = world.session(role="reader", policy=policy(allow("*")))
    expect_error(everything.raw(server, "PUT", DATA, "no", body=b"x"), 403, "AccessDenied")
    expect_error(everything.raw(server, "GET", "globex-data", "k"), 403, "AccessDenied")
    not_k = world.session(policy=policy(allow("s3:*"), deny("s3:GetObject", f"{DATA}/k")))
    expect_error(not_k.raw(server, "GET", DATA, "k"), 403, "AccessDenied")
    assert not_k.raw(server, "GET", DATA, "internal").status == 200


def test_a_session_policy_is_asked_on_both_sides_of_a_copy(world):
    name = unique()
    s3 = world.server.client("acme")
    s3.create_bucket(Bucket=name)
    client = world.session(policy=policy(allow(["s3:GetObject", "s3:PutObject"], f"{name}/*"), allow("s3:PutObject", f"{DATA}/*"))).s3(world.server)
    client.put_object(Bucket=name, Key="own", Body=b"x")
    client.copy_object(Bucket=DATA, Key="copied", CopySource=f"{name}/own")
    assert code_of(client.copy_object, Bucket=name, Key="out", CopySource=f"{DATA}/k") == "AccessDenied"
    upload = client.create_multipart_upload(Bucket=name, Key="parts")["UploadId"]
    part = dict(Bucket=name, Key="parts", UploadId=upload, PartNumber=1, CopySource=f"{DATA}/k")
    assert code_of(client.upload_part_copy, **part) == "AccessDenied"


@pytest.mark.parametrize(
    "text, code",
    [
        ("not json", "MalformedPolicyDocument"),
        ("{}", "MalformedPolicyDocument"),
        (json.dumps(policy(allow("s3:*") | {"Condition": {}})), "MalformedPolicyDocument"),
        (json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "NotAction": "s3:Delete*", "Resource": "*"}]}), "MalformedPolicyDocument"),
        ('{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Effect":"Allow","Action":"*","Resource":"*"}]}', "MalformedPolicyDocument"),
        (json.dumps(policy(allow("s3:GetObject", "x" * 2048))), "ValidationError"),
    ],
)  # fmt: skip
def test_a_session_policy_that_is_not_understood_gives_no_session(world, text, code):
    answer = world.ask(world.idps["acme"].token(), policy=text)
    assert answer.status == 400 and answer.code in (code, "PackedPolicyTooLarge"), answer


# --- the role's ceiling ---------------------------------------------------------------------


def test_restricted_data_is_reached_only_in_a_role_that_may(world):
    server, name = world.server, unique()
    keeper, worker = world.session(role="keeper", life_s=3600), world.session()
    made = keeper.raw(server, "PUT", name)
    assert made.status == 200, made
    assert keeper.raw(server, "PUT", name, "r", body=b"secret", headers={"x-amz-tagging": "ringfence-label=restricted"}).status == 200
    assert keeper.raw(server, "GET", name, "r").body == b"secret"
    assert (keeper.expires - now()).total_seconds() <= 901
    for method in ("GET", "HEAD", "DELETE", "PUT"):
        assert worker.raw(server, method, name, "r").status == 403, method
    expect_error(worker.raw(server, "PUT", name, "n", body=b"x", headers={"x-amz-tagging": "ringfence-label=restricted"}), 403, "AccessDenied")
    source = {"x-amz-copy-source": f"/{name}/r", "x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "ringfence-label=public"}
    expect_error(worker.raw(server, "PUT", name, "out", headers=source), 403, "AccessDenied")
    assert keeper.raw(server, "GET", name, "r").body == b"secret"
    denied = worker.raw(server, "GET", name, "r")
    assert "role-ceiling" in server.cli("policy", "explain", denied.headers["x-amz-request-id"], "--json").stdout


def test_a8_a_static_key_does_not_reach_restricted_data(world):
    """Whoever has restricted data has it for a quarter of an hour at a time."""
    server, name, key = world.server, unique(), Signer(world.server.key("acme"))
    keeper = world.session(role="keeper")
    assert keeper.raw(server, "PUT", name).status == 200
    assert keeper.raw(server, "PUT", name, "r", body=b"x", headers={"x-amz-tagging": "ringfence-label=restricted"}).status == 200
    expect_error(server.raw("GET", name, "r", signer=key), 403, "AccessDenied")
    assert server.raw("HEAD", name, "r", signer=Signer(server.key("acme"))).status == 403
    machine = assume_role(server, arn("acme", "machine"), Signer(server.key("acme"))).session
    expect_error(machine.raw(server, "GET", name, "r"), 403, "AccessDenied")


def test_a_reader_up_to_internal_does_not_see_what_is_stricter(world):
    reader = world.session(role="reader")
    assert [reader.raw(world.server, "GET", DATA, k).status for k in ("public", "internal", "confidential")] == [200, 200, 403]


# --- every way of using a session --------------------------------------------------------------


def test_a_presigned_url_of_a_session_works_as_long_as_the_session(world, session):
    token = [("X-Amz-Security-Token", session.token)]
    signer = Signer(session.key)
    assert world.server.presigned("GET", DATA, "k", query=token, signer=signer).body == b"acme"
    assert world.server.presigned("PUT", DATA, "presigned", query=token, signer=signer, body=b"x").status == 200
    short = world.session(life_s=2)
    token = [("X-Amz-Security-Token", short.token)]
    url = lambda: world.server.presigned("GET", DATA, "k", query=token, signer=Signer(short.key), expires_s=3600)  # noqa: E731
    assert url().status == 200
    ended = until(lambda: (a := url()).status != 200 and a, "the presigned URL to end with its session", 8)
    expect_error(ended, 400, "ExpiredToken")


def test_a_multipart_upload_is_made_and_completed_by_sessions(world, session):
    data = [some_bytes(5 * MIB, 1), some_bytes(1000, 2)]
    client, other = session.s3(world.server), world.session().s3(world.server)
    at = {"Bucket": DATA, "Key": "parts"}
    upload = client.create_multipart_upload(**at)["UploadId"]
    parts = [
        {"PartNumber": n, "ETag": who.upload_part(**at, UploadId=upload, PartNumber=n, Body=d)["ETag"]}
        for n, (who, d) in enumerate(zip((client, other), data), 1)
    ]
    client.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})
    assert client.get_object(**at)["Body"].read() == b"".join(data)


def test_a_signed_stream_carries_a_session(world, session):
    data = some_bytes(200_000)
    assert world.server.put_streaming(DATA, "stream", data, signer=session.signer()).status == 200
    assert session.raw(world.server, "GET", DATA, "stream").body == data


def test_any_region_is_served_at_home(world, session):
    for region in ("us-east-1", "eu-central-1", "home", "aws-global"):
        assert world.server.raw("GET", DATA, "k", signer=session.signer(region=region)).status == 200


# --- many at once -----------------------------------------------------------------------------


def test_the_first_uses_of_one_session_may_be_many_at_once(world):
    session = world.session()
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda _: session.raw(world.server, "GET", DATA, "k").status, range(64)))
    assert answers == [200] * 64


def test_one_token_exchanged_many_times_at_once_gives_different_sessions(world):
    token = world.idps["acme"].token()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        sessions = [answer.session for answer in pool.map(lambda _: world.ask(token), range(12))]
    assert len({s.key.id for s in sessions}) == len({s.index for s in sessions}) == len({s.key.secret for s in sessions}) == 12
    assert all(s.works(world.server, DATA) for s in sessions)


# --- realms and tenants -------------------------------------------------------------------------


def test_tenants_and_realms_are_apart(world):
    sessions = {tenant: world.session(tenant) for tenant in world.TENANTS}
    for tenant, session in sessions.items():
        assert session.claims["rlm"] == world.TENANTS[tenant]
        for other in world.TENANTS:
            answer = session.raw(world.server, "GET", f"{other}-data", "k")
            if tenant == other:
                assert answer.body == tenant.encode()
            else:
                expect_error(answer, 403, "AccessDenied")
                expect_error(session.raw(world.server, "PUT", f"{other}-data", "no", body=b"x"), 403, "AccessDenied")
        listed = session.raw(world.server, "GET").body.decode()
        assert f"{tenant}-data" in listed
        assert not any(f"{other}-data" in listed for other in world.TENANTS if other != tenant)
    assert len({s.parsed.kid for s in sessions.values()}) == 3, "each tenant has an issuer key of its own"


# --- what stands in the log -----------------------------------------------------------------------


def public_keys(world):
    """Every public key of the installation by id, as its manifests say."""
    found = {}
    for text in set(sts.re.findall(r"ed25519:[A-Za-z0-9_-]{43}", world.server.cli("keys", "list", "--json").stdout)):
        key = paseto.public_key(text)
        found[paseto.kid_of(key)] = key
    return found


@pytest.fixture(scope="module")
def issued(world):
    """Sessions of every kind, and the log afterwards."""
    sessions = [world.session(tenant, sub="canary-subject") for tenant in world.TENANTS for _ in range(3)]
    sessions += [assume_role(world.server, arn("acme", "reader"), sessions[0].signer()).session]
    sessions += [assume_role(world.server, arn("acme", "machine"), Signer(world.server.key("acme"))).session]
    vkey = (world.server.data / "log" / "log.vkey").read_text()
    source = tlog.Http(f"http://127.0.0.1:{world.server.admin_port}/log")
    return sessions, vkey, tlog.verify(source, vkey)


def test_a7_every_session_proves_its_issuance_to_an_outsider(world, issued):
    sessions, vkey, log = issued
    keys = public_keys(world)
    for session in sessions:
        claims, issuance, receipt = paseto.check_issued(session.token, vkey, keys)
        assert log.entries[receipt.index] == receipt.entry, "the leaf is in the public entries"
        assert issuance.parent == (int(claims["par"].split(".")[0]) if claims["par"] else None)
        head = tlog.Checkpoint.verify(receipt.checkpoint.encode(), tlog.VerifierKey.parse(vkey))
        proof = tlog.consistency_proof(log.leaves, head.size)
        tlog.check_consistency(proof, head.size, log.checkpoint.size, head.root, log.checkpoint.root)
    tenants = {paseto.check_issued(s.token, vkey, keys)[1].tenant: s.claims["tnt"] for s in sessions}
    assert len(tenants) == 3 and len(set(tenants.values())) == 3, "one pseudonym for each tenant"


def test_a12_the_public_log_names_nobody(world, issued):
    _, _, log = issued
    assert any(kind == tlog.ISSUANCE for _, kind, _ in log.public())
    published = [p for p in sorted((world.server.data / "log").rglob("*")) if p.is_file() and "records" not in p.parts]
    everything = b"".join(p.read_bytes() for p in published)
    words = ["acme", "globex", "initech", "canary-subject", "worker", "reader", "acme-data", world.idps["acme"].url, "AROA", "ASIA"]
    for word in words + [s.key.id for s in issued[0]]:
        assert word.encode() not in everything, f"`{word}` stands in the public log"


def test_a11_issuances_and_accesses_name_each_other(world, issued):
    """Every use of a session names a leaf that is an issuance, and every
    issuance leaf is of a session that its record tells of."""
    sessions, _, _ = issued
    for session in sessions[:3]:
        answer = session.raw(world.server, "GET", f"{session.claims['tnt']}-data", "k")
        record = world.server.cli_json("log", "show", answer.headers["x-amz-request-id"])
        subject = (record.get("records") or [record])[0]["subject"]
        assert subject["issued"] == session.index and subject["signed_by"] == session.parsed.kid, subject
        assert subject["session"] == session.claims["jti"] and subject["role"] == "worker"
    records = world.server.cli_json("log", "show", "--from", "0", "--limit", "100000")["records"]
    by_index = {record["seq"]: record for record in records}
    issuances = {i for i, record in by_index.items() if (record.get("public") or {}).get("kind") == "issuance"}
    used = {record["subject"]["issued"] for record in records if (record.get("subject") or {}).get("issued") is not None}
    assert used and used <= issuances, "each access names an issuance"
    assert all(by_index[i]["core"]["op"].startswith("sts:AssumeRole") for i in issuances)
    assert {s.index for s in sessions} <= issuances


def test_a13_trimming_takes_no_issuance_out_of_the_public_log(world):
    """Fields go, leaves stay: what a key signed can be counted for ever."""
    vkey = (world.server.data / "log" / "log.vkey").read_text()
    source = tlog.Directory(world.server.data / "log")
    session = world.session()
    before = tlog.verify(source, vkey)
    until(lambda: time.time() > session.claims["iat"] + 1, "the next second")
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    world.server.cli("log", "trim", "--before", stamp)
    after = tlog.verify(source, vkey)
    assert after.public()[: len(before.public())] == before.public()
    proof = tlog.consistency_proof(after.leaves, before.checkpoint.size)
    tlog.check_consistency(proof, before.checkpoint.size, after.checkpoint.size, before.checkpoint.root, after.checkpoint.root)
    assert world.server.cli_json("log", "verify")["verified"]
    assert session.works(world.server, DATA), "a trimmed record does not end a session"
