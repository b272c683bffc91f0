"""What is asked on the wire, read strictly: parameters of STS, roles of others,
and requests that S3 and STS could take for each other's.
"""

from urllib.parse import urlencode

import pytest

import sts
from sigv4 import send as send_bytes
from sts import arn, web_identity

DATA = "acme-data"


@pytest.fixture(scope="module")
def session(world):
    return world.session()


# --- roles of others, parameters that are not ours -------------------------------------------------------


@pytest.mark.parametrize("role_arn", ["arn:ringfence:iam::globex:role/worker", "arn:ringfence:iam::initech:role/worker", "arn:ringfence:iam::acme:role/none", "arn:aws:iam::globex:role/worker", "arn:ringfence:iam::provider:role/worker"])
def test_a1_a_role_of_somebody_else_is_refused_like_one_that_is_not_there(world, role_arn):
    answer = web_identity(world.server, role_arn, world.idps["acme"].token())
    missing = web_identity(world.server, arn("acme", "not-there"), world.idps["acme"].token())
    assert (answer.status, answer.code, answer.message) == (403, "AccessDenied", missing.message), answer


def test_a3_parameters_are_read_strictly(world):
    token = world.idps["acme"].token()
    good = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": arn("acme", "reader"), "RoleSessionName": "xx", "WebIdentityToken": token}
    text = urlencode(good)
    assert sts.send(world.server, text).status == 200
    wider = urlencode({"RoleArn": arn("acme", "worker")})
    for what, asked in {
        "a role twice": f"{text}&{wider}",
        "a role twice, once disguised": f"{text}&Role%41rn={urlencode({'x': arn('acme', 'worker')})[2:]}",
        "managed policies": f"{text}&PolicyArns.member.1.arn=arn%3Aaws%3Aiam%3A%3Aaws%3Apolicy%2FReadOnlyAccess",
        "something new": f"{text}&NewNarrowingParameter=x",
        "another action": text.replace("AssumeRoleWithWebIdentity", "AssumeRoleWithSAML"),
        "no action": text.replace("Action=AssumeRoleWithWebIdentity&", ""),
        "another version": text.replace("2011-06-15", "2010-05-08"),
        "a broken escape": text + "&x=%zz",
        "no name": text.replace("&RoleSessionName=xx", ""),
        "a name with a slash": text.replace("SessionName=xx", "SessionName=a%2Fb"),
        "too short": text + "&DurationSeconds=899",
        "too long": text + "&DurationSeconds=43201",
        "no number": text + "&DurationSeconds=1e3",
        "below zero": text + "&DurationSeconds=-900",
    }.items():
        answer = sts.send(world.server, asked)
        assert answer.status in (400, 404) and answer.code, (what, answer)
    in_both = sts.send(world.server, text, path="/?" + wider)
    assert in_both.status in (400, 404), in_both


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a3_paths_and_hosts_do_not_confuse_s3_with_sts(world, session, method):
    """Only `/` is STS; nothing that is an object's or a bucket's answers as STS."""
    server, token = world.server, world.idps["acme"].token()
    query = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": arn("acme", "reader"), "RoleSessionName": "xx", "WebIdentityToken": token}
    for path in (f"/{DATA}", f"/{DATA}/", f"/{DATA}/k", "//", "/.", "/%2e", "/%2f", f"/{DATA}/..", "/%00"):
        headers = {"Host": f"127.0.0.1:{server.s3_port}", "Content-Length": 0}
        answer = send_bytes(server.address, method, f"{path}?{urlencode(query)}", headers)
        assert answer.status in (400, 403, 404, 405, 501) and b"Credentials" not in answer.body, (path, answer)
    if method == "POST":
        body = urlencode(query).encode()
        headers = {"Host": f"127.0.0.1:{server.s3_port}", "Content-Type": sts.FORM, "Content-Length": len(body)}
        for path in (f"/{DATA}", f"/{DATA}/k"):
            answer = send_bytes(server.address, "POST", path, headers, body)
            assert answer.status in (400, 403, 405, 501) and b"Credentials" not in answer.body, (path, answer)


def test_a3_an_s3_request_with_action_in_its_query_is_not_half_sts(world, session):
    server = world.server
    listed = server.raw("GET", DATA, query=[("Action", "GetCallerIdentity"), ("Version", "2011-06-15"), ("list-type", "2")], signer=session.signer())
    assert b"GetCallerIdentityResponse" not in listed.body, listed
    put = server.raw("PUT", DATA, "confused", query=[("Action", "AssumeRole")], body=b"x", signer=session.signer())
    assert b"AssumeRoleResponse" not in put.body
    # In virtual-host style the root path is a bucket's.
    host = f"{DATA}.localhost:{server.s3_port}"
    body = b'<Delete><Object><Key>confused</Key></Object></Delete>'
    headers = {"Host": host, "Content-Type": "application/x-www-form-urlencoded", "Content-MD5": sts.sigv4.content_md5(body)}
    session.signer().header("POST", "/", [("delete", "")], headers, sts.sigv4.hashlib.sha256(body).hexdigest())
    answer = send_bytes(server.address, "POST", "/?delete=", headers | {"Content-Length": len(body)}, body)
    assert b"DeleteResult" in answer.body, f"a bucket's POST was taken for STS: {answer}"
