"""Sessions attacked through the wire: evidence that lies, tokens taken apart,
spliced and shown in the wrong place. test_session_theft.py has the stolen keys.
"""

import concurrent.futures
import json
import random
import re
import time
from urllib.parse import urlencode

import pytest

import forgeries
import paseto
import sts
from harness import expect_error
from idp import SigningKey
from sigv4 import EMPTY_SHA256, Key, Signer
from sigv4 import send as send_bytes
from sts import allow, arn, assume_role, identity, policy

DATA = "acme-data"
REFUSED = ("InvalidToken", "InvalidAccessKeyId", "AccessDenied", "SignatureDoesNotMatch")


@pytest.fixture(scope="module")
def session(world):
    return world.session()


@pytest.fixture(scope="module")
def other(world):
    """Another honest session of the same subject."""
    return world.session()


def refused(answer, *codes, status=(400, 403)):
    assert answer.status in status and answer.code in (codes or REFUSED), answer
    return answer


# --- A1, A2, A3: evidence -------------------------------------------------------------------


@pytest.mark.parametrize("what", forgeries.ALL)
def test_a3_evidence_is_refused_that_has(world, what):
    make, codes = forgeries.ALL[what]
    idp, foreign = world.idps["acme"], world.idps["globex"]
    assert world.ask(idp.token(), name="control").status == 200, "an honest token is taken just before"
    answer = world.ask(make(idp, foreign))
    assert answer.status in (400, 403) and answer.code in codes, answer
    assert b"SecretAccessKey" not in answer.http.body and b"AccessKeyId" not in answer.http.body


def test_a3_the_client_does_not_learn_why(world):
    """One neutral sentence for everything that is simply no evidence."""
    idp, foreign = world.idps["acme"], world.idps["globex"]
    said = set()
    for what, (make, codes) in forgeries.ALL.items():
        if codes == forgeries.INVALID:
            said.add(world.ask(make(idp, foreign)).message)
    assert len(said) <= 2, said


def test_a3_evidence_beyond_the_request_limit_is_not_even_read(world):
    answer = world.ask("x." * 40_000)
    assert answer.status in (400, 413), answer


@pytest.mark.parametrize("mine", ["acme", "initech", "globex"])
@pytest.mark.parametrize("theirs", ["acme", "initech", "globex"])
def test_a1_the_key_of_one_issuer_opens_no_other(world, mine, theirs):
    """Every ordered pair of tenants, two of them of one realm."""
    if mine == theirs:
        assert world.ask(world.idps[mine].token(), tenant=mine).status == 200
        return
    thief, victim = world.idps[theirs], world.idps[mine]
    forged = [
        victim.token(key=thief.key()),
        victim.token(key=thief.key(), header={"kid": victim.key().kid}),
        thief.token(iss=victim.url),
        thief.token(iss=[thief.url, victim.url]),
    ]
    for token in forged:
        refused(world.ask(token, tenant=mine), "InvalidIdentityToken")
    # Honest evidence of theirs, and a role of ours.
    refused(world.ask(thief.token(), tenant=mine), "AccessDenied")


def test_a1_a_session_of_one_tenant_is_nothing_at_another(world, session):
    for tenant in ("initech", "globex"):
        bucket = f"{tenant}-data"
        for method, key in (("GET", "k"), ("PUT", "k"), ("DELETE", "k"), ("GET", None), ("DELETE", None)):
            refused(session.raw(world.server, method, bucket, key), "AccessDenied")
        copy = {"x-amz-copy-source": f"/{bucket}/k"}
        refused(session.raw(world.server, "PUT", DATA, "stolen", headers=copy), "AccessDenied")
        refused(assume_role(world.server, arn(tenant, "worker"), session.signer()), "AccessDenied")
        refused(assume_role(world.server, arn(tenant, "machine"), session.signer()), "AccessDenied")
    assert world.server.client("globex").get_object(Bucket="globex-data", Key="k")["Body"].read() == b"globex"


def test_a2_a_shared_jwks_uri_does_not_load_without_pins(world, new_server):
    """Failure 2 of 2023: consumer and enterprise keys behind one address."""
    common = f"{world.idps['acme'].url}/jwks"
    pins = [world.idps["acme"].key().thumbprint(), world.idps["acme"].key("ES256").thumbprint()]

    def checked(pins_of_two=(None, None), realm_of_two="east", tenant_of_two="globex"):
        text = sts.issuer("one", "acme", world.idps["acme"], "home", jwks_uri=common, pin=pins_of_two[0])
        text += sts.issuer("two", tenant_of_two, world.idps["globex"], realm_of_two, jwks_uri=common, pin=pins_of_two[1])
        first = (world.server.data / "ringfence.toml").read_text().split("# --- of the tests\n")[0]
        file = world.home / "checked.toml"
        file.write_text(first + text)
        return world.server.cli("config", "check", file, data=False, check=False)

    shared = checked()
    assert shared.returncode == 3 and "take their keys from one place" in shared.stderr, shared
    assert checked((pins[:1], None)).returncode == 3, "one of them pinned is not enough"
    assert checked((pins[:1], pins[:1])).returncode == 3, "one key for two realms"
    assert checked((pins[:1], pins[1:])).returncode == 0, checked((pins[:1], pins[1:])).stderr


# --- A7: a session token taken apart ----------------------------------------------------------


def spoiled(session, world):
    """Every part of a token with one bit, or one field, changed."""
    token = session.parsed
    flip = lambda data, at, bit=1: data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]  # noqa: E731
    for at in (0, 1, 10, 40, len(token.payload) // 2, len(token.payload) - 2):
        yield f"payload byte {at}", token.but(payload=flip(token.payload, at)).text
    for name, value in {
        "sub": "acme-idp--root", "rol": "keeper", "tnt": "globex", "rlm": "east", "pur": "console", "exp": 2**33,
        "cnf": "ASIA" + "A" * 16, "sts": ["cloud", "home"], "par": "1.0000000000000000.worker", "iss": "globex-idp",
    }.items():  # fmt: skip
        said = json.dumps(token.claims | {name: value}, separators=(",", ":")).encode()
        yield f"claim {name}", token.but(payload=said).text
    yield "claim twice", token.but(payload=token.payload[:-1] + b',"sub":"root"}').text
    yield "claim unknown", token.but(payload=token.payload[:-1] + b',"x":1}').text
    yield "claim missing", token.but(payload=re.sub(rb',"par":[^,}]*', b"", token.payload)).text
    yield "payload with a space", token.but(payload=token.payload.replace(b":", b": ", 1)).text
    for at in (0, 31, 32, 63):
        yield f"signature byte {at}", token.but(signature=flip(token.signature, at)).text
    # s + L: the same point, for a verifier that forgets to reduce.
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(token.signature[32:], "little") + order
    yield "signature, another form", token.but(signature=token.signature[:32] + s.to_bytes(32, "little")).text
    yield "signature of zeros", token.but(signature=bytes(64)).text
    yield "footer of another key", token.but(footer=b"0" * 16).text
    yield "footer in capitals", token.but(footer=token.footer.upper() if token.footer.upper() != token.footer else b"ABCDEF0123456789").text
    yield "no footer", session.token.replace("." + paseto.b64(token.footer) + "~", "~", 1)
    yield "another version", session.token.replace("v4.public.", "v3.public.", 1)
    yield "a local token", session.token.replace("v4.public.", "v4.local.", 1)
    yield "another leaf's index", token.received(index=token.receipt.index - 1).text
    yield "an index beyond the log", token.received(index=2**40).text
    yield "an index beyond any number", token.received(index=2**64 - 1).text
    yield "no receipt", token.but(receipt=None).text
    yield "only the PASETO", token.paseto
    yield "receipt cut", session.token.replace(paseto.b64(token.receipt.bytes()), paseto.b64(token.receipt.bytes()[:-9]), 1)
    yield "receipt with bytes behind", session.token.replace(paseto.b64(token.receipt.bytes()), paseto.b64(token.receipt.bytes() + b"\0"), 1)
    yield "a path without end", token.received(path=(bytes(32),) * 65).text
    yield "a policy added", token.but(policy=json.dumps(policy(allow("*")))).text
    yield "a fourth part", session.token + "~"
    yield "two tokens", session.token + "," + session.token
    yield "nine kilobytes", session.token + "A" * 9000
    yield "nothing", "~~"
    yield "an AWS token", "FwoGZXIvYXdzE" + "A" * 300


def test_a7_a_session_token_changed_anywhere_is_refused(world, session):
    assert session.works(world.server, DATA)
    for what, text in spoiled(session, world):
        for kind, answer in used_everywhere(world, session.but(token=text)):
            assert answer.status in (400, 403), (what, kind, answer)
            assert answer.code in (*REFUSED, "InvalidClientTokenId", "RequestHeaderSectionTooLarge", "InvalidArgument", "InvalidRequest"), (what, kind, answer)
    assert session.works(world.server, DATA), "what was done to copies of it does not hurt it"


def test_a7_no_character_of_what_is_signed_can_change(world):
    """Each one in turn, by its neighbour in the alphabet: another spelling of
    the same bytes is another token too."""
    session = world.session(policy=policy(allow("s3:GetObject", f"{DATA}/k")))
    assert session.works(world.server, DATA)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = session.token
    receipt = range(text.index("~"), text.rindex("~"))
    for at, character in enumerate(text):
        if at in receipt or character not in alphabet:
            continue
        changed = text[:at] + alphabet[alphabet.index(character) ^ 1] + text[at + 1 :]
        answer = session.but(token=changed).raw(world.server, "GET", DATA, "k")
        assert answer.status in (400, 403), f"character {at} of {text[:at][-20:]}…: {answer}"


def used_everywhere(world, session):
    """One session in every way that reaches data or another session."""
    server = world.server
    yield "header", session.raw(server, "GET", DATA, "k")
    yield "presigned", server.presigned("GET", DATA, "k", query=[("X-Amz-Security-Token", session.token)], signer=Signer(session.key))
    yield "sts", assume_role(server, arn("acme", "reader"), session.signer())


def test_a7_what_the_receipt_says_of_the_tree_makes_no_session_better(world, session):
    """At home the leaf is looked up in the log itself; elsewhere path and
    checkpoint decide. Spoiled, they open nothing that was closed."""
    token, closed = session.parsed, f"{'globex'}-data"
    receipt = token.receipt
    for changed in (
        token.received(path=(bytes(32), *receipt.path[1:])),
        token.received(path=()),
        token.received(entry=receipt.entry[:-1] + bytes([receipt.entry[-1] ^ 1])),
        token.received(checkpoint=receipt.checkpoint.replace("\n", "\nx", 1)),
        token.received(checkpoint=receipt.checkpoint[:-8] + "AAAAAA=\n"),
        token.received(checkpoint=""),
    ):
        answer = session.but(token=changed.text).raw(world.server, "GET", DATA, "k")
        assert answer.status in (200, 400, 403), answer
        refused(session.but(token=changed.text).raw(world.server, "GET", closed, "k"))


def test_a7_a_receipt_of_another_session_proves_nothing(world, session, other):
    for spliced in (
        session.parsed.but(receipt=other.parsed.receipt),
        session.parsed.received(index=other.index),
        session.parsed.received(entry=other.parsed.receipt.entry, index=other.index),
        other.parsed.but(receipt=session.parsed.receipt),
    ):
        owner = session if spliced.claims["jti"] == session.claims["jti"] else other
        refused(owner.but(token=spliced.text).raw(world.server, "GET", DATA, "k"))


def test_a7_an_issuance_leaf_without_its_token_is_no_session(world, session):
    """Everything public of a session (its leaf, its path, the checkpoint) with
    claims of one's own, signed by a key of one's own."""
    mine = SigningKey("EdDSA").private
    for claims in (session.claims, session.claims | {"sub": "acme-idp--root"}):
        for kid in (None, session.parsed.kid):
            forged = paseto.forge(mine, claims, session.parsed.receipt, kid=kid)
            refused(session.but(token=forged.text).raw(world.server, "GET", DATA, "k"))


# --- A9: the token is not the key -----------------------------------------------------------------


def test_a9_a_stolen_token_without_its_secret_is_useless(world, session, other):
    server = world.server
    static = server.key("acme")
    guesses = {
        "a made-up secret": session.but(key=Key(session.key.id, "x" * 40)),
        "no secret": session.but(key=Key(session.key.id, "")),
        "another session's secret": session.but(key=Key(session.key.id, other.key.secret)),
        "another session's key": session.but(key=other.key),
        "a static key": session.but(key=static),
        "a static key of another tenant": session.but(key=server.key("globex")),
        "a static secret under its id": session.but(key=Key(session.key.id, static.secret)),
        "the token for a secret": session.but(key=Key(session.key.id, session.token)),
    }
    for what, stolen in guesses.items():
        for kind, answer in used_everywhere(world, stolen):
            assert answer.status in (400, 403), (what, kind, answer)
        assert identity(server, stolen.signer()).status == 403, what


def test_a9_a_sessions_key_without_its_token_is_unknown(world, session):
    expect_error(world.server.raw("GET", DATA, "k", signer=Signer(session.key)), 403, "InvalidAccessKeyId")
    refused(world.server.presigned("GET", DATA, "k", signer=Signer(session.key)), "InvalidAccessKeyId")
    refused(identity(world.server, Signer(session.key)), "InvalidClientTokenId")


def test_a9_a_bearer_header_is_no_signature(world, session):
    for value in (f"Bearer {session.token}", f"AWS4-HMAC-SHA256 Credential={session.key.id}", session.token):
        headers = {"Host": f"127.0.0.1:{world.server.s3_port}", "Authorization": value, "x-amz-security-token": session.token}
        answer = send_bytes(world.server.address, "GET", f"/{DATA}/k", headers)
        assert answer.status in (400, 403), (value[:20], answer)
    answer = send_bytes(world.server.address, "GET", f"/{DATA}/k?" + urlencode({"X-Amz-Security-Token": session.token}), {"Host": "127.0.0.1"})
    assert answer.status in (400, 403), answer


def test_a9_the_token_stands_in_one_place_only(world, session, other):
    server = world.server
    both = [("X-Amz-Security-Token", session.token)]
    in_both = server.raw("GET", DATA, "k", query=both, signer=session.signer())
    assert in_both.status in (400, 403), in_both
    other_in_query = server.raw("GET", DATA, "k", query=[("X-Amz-Security-Token", other.token)], signer=session.signer())
    assert other_in_query.status in (400, 403), other_in_query
    twice_in_query = server.presigned("GET", DATA, "k", query=[*both, ("X-Amz-Security-Token", other.token)], signer=Signer(session.key))
    assert twice_in_query.status in (400, 403), twice_in_query
    header_too = {"x-amz-security-token": other.token}
    presigned = server.presigned("GET", DATA, "k", query=both, signer=Signer(session.key), headers=header_too)
    assert presigned.status in (400, 403), presigned
    headers = {"Host": f"127.0.0.1:{server.s3_port}"}
    session.signer().header("GET", f"/{DATA}/k", [], headers, EMPTY_SHA256)
    headers["X-AMZ-Security-Token"] = other.token  # Beside the signed one: two of them.
    answer = send_bytes(server.address, "GET", f"/{DATA}/k", headers)
    assert answer.status in (400, 403), answer


def test_a9_the_token_is_covered_by_the_signature(world, session):
    answer = world.server.raw("GET", DATA, "k", signer=Signer(session.key), unsigned_headers={"x-amz-security-token": session.token})
    assert answer.status in (400, 403), answer
    spoil = lambda query: [*query, ("X-Amz-Security-Token", session.token)]  # noqa: E731
    answer = world.server.presigned("GET", DATA, "k", signer=Signer(session.key), spoil=spoil)
    assert answer.status in (400, 403), answer


def test_a9_a_token_under_a_disguised_name_is_no_token(world, session):
    """What decodes to `X-Amz-Security-Token` is not seen by one layer and
    believed by the next."""
    for name in ("X-Amz-Security%2DToken", "X-Amz-Security-Toke%6E", "%58-Amz-Security-Token"):
        spoil = lambda query: [*query, (name, session.token)]  # noqa: E731, B023
        answer = world.server.presigned("GET", DATA, "k", signer=Signer(session.key), spoil=spoil)
        assert answer.status in (400, 403), (name, answer)
    query = [("X-Amz-Security-Token", session.token)]
    target = Signer(session.key).presign("GET", f"/{DATA}/k", query, {"Host": f"127.0.0.1:{world.server.s3_port}"}, 300)
    text = "&".join(f"{sts.sigv4.encode(n)}={sts.sigv4.encode(v)}" for n, v in target)
    for spelled, status in ((text, (200,)), (text.replace("X-Amz-Security-Token", "X-Amz-Security%2DToken"), (200, 400, 403))):
        answer = send_bytes(world.server.address, "GET", f"/{DATA}/k?{spelled}", {"Host": f"127.0.0.1:{world.server.s3_port}"})
        assert answer.status in status, (spelled[:80], answer)


def test_a9_a_signature_is_good_for_one_service_and_one_request(world, session):
    """STS-signed at S3 and the other way round, and a captured request elsewhere."""
    server = world.server
    form = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
    answer = sts.send(server, form, signer=session.signer(service="s3"))
    refused(answer, "SignatureDoesNotMatch")
    at_s3 = server.raw("GET", DATA, "k", signer=session.signer(service="sts"))
    assert at_s3.status in (400, 403, 501) and b"acme" not in at_s3.body, at_s3
    body, headers = urlencode(form).encode(), {"Host": f"127.0.0.1:{server.s3_port}", "Content-Type": sts.FORM}
    session.signer(service="sts").header("POST", "/", [], headers, sts.sigv4.hashlib.sha256(body).hexdigest())
    headers["Content-Length"] = len(body)
    assert send_bytes(server.address, "POST", "/", headers, body).status == 200, "the captured request is good where it belongs"
    for method, target in (("POST", f"/{DATA}?delete"), ("PUT", f"/{DATA}/k"), ("POST", f"/{DATA}/k?uploads"), ("POST", "/?delete")):
        answer = send_bytes(server.address, method, target, headers, body)
        assert answer.status in (400, 403, 404, 405, 501), (method, target, answer)
    wider = urlencode({"Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": arn("acme", "reader"), "RoleSessionName": "xx"}).encode()
    answer = send_bytes(server.address, "POST", "/", headers | {"Content-Length": len(wider)}, wider)
    assert answer.status == 403, answer
    assert server.client("acme").get_object(Bucket=DATA, Key="k")["Body"].read() == b"acme"


def test_a9_a_presigned_sts_request_is_not_taken(world, session):
    """It would be made to be handed to others."""
    query = [("Action", "GetCallerIdentity"), ("Version", "2011-06-15"), ("X-Amz-Security-Token", session.token)]
    headers = {"Host": f"127.0.0.1:{world.server.s3_port}"}
    query = Signer(session.key, service="sts").presign("GET", "/", query, headers, 300)
    answer = send_bytes(world.server.address, "GET", "/?" + urlencode(query), headers)
    assert answer.status in (400, 403) and b"<Arn>" not in answer.body, answer


# --- session policies, exchanged ---------------------------------------------------------------------


def test_a3_the_session_policy_cannot_be_exchanged_or_dropped(world):
    narrow = world.session(policy=policy(allow("s3:GetObject", f"{DATA}/k")))
    wide = world.session(policy=policy(allow("*")))
    plain = world.session()
    token = narrow.parsed
    assert narrow.works(world.server, DATA)
    for changed in (
        token.but(policy=""),
        token.but(policy=wide.parsed.policy),
        token.but(policy=token.policy + " "),
        token.but(policy=token.policy + "\x1e" + token.policy),
        token.but(payload=token.payload.replace(token.claims["spo"].encode(), plain.claims["spo"].encode()), policy=""),
        plain.parsed.but(policy=token.policy),
    ):
        owner = plain if changed.claims["jti"] == plain.claims["jti"] else narrow
        for method, key in (("GET", "k"), ("GET", "internal"), ("PUT", "x")):
            refused(owner.but(token=changed.text).raw(world.server, method, DATA, key))


def test_a3_a_policy_cannot_smuggle_another_one_in(world):
    """Policies of a chain are stapled together; the separator cannot be sent."""
    smuggled = json.dumps(policy(allow("s3:GetObject", f"{DATA}/k"))) + "\x1e" + json.dumps(policy(allow("*")))
    answer = world.ask(world.idps["acme"].token(), policy=smuggled)
    assert answer.status == 400 and answer.code == "MalformedPolicyDocument", answer


# --- A8: renewal of itself ----------------------------------------------------------------------------


def test_a8_a_session_is_never_evidence(world, session):
    """Failure 8 of 2023, in all the forms that a session token can be given."""
    token = session.parsed
    jwt_like = f"{paseto.b64(json.dumps({'alg': 'EdDSA', 'typ': 'JWT', 'kid': token.kid}).encode())}.{paseto.b64(token.payload)}.{paseto.b64(token.signature)}"
    for text in (session.token, token.paseto, token.paseto.rpartition(".")[0], jwt_like, token.text.replace("~", ".")):
        for role in ("worker", "reader", "keeper"):
            answer = world.ask(text, role=role)
            assert (answer.status, answer.code) == (400, "InvalidIdentityToken"), answer


def test_a8_a_narrowed_session_is_not_narrowed_again(world, session):
    first = assume_role(world.server, arn("acme", "worker"), session.signer()).session
    again = assume_role(world.server, arn("acme", "reader"), first.signer())
    refused(again, "AccessDenied", status=(403,))
    machine = assume_role(world.server, arn("acme", "machine"), Signer(world.server.key("acme"))).session
    child = assume_role(world.server, arn("acme", "reader"), machine.signer())
    if child.status == 200:  # A session of a static key is depth 0.
        refused(assume_role(world.server, arn("acme", "reader"), child.session.signer()), "AccessDenied")


def test_a8_over_any_sequence_of_exchanges_nothing_lives_longer_than_its_evidence(world):
    """Property, on a random walk: exp ≤ evidence, ≤ role, ≤ parent."""
    rng = random.Random(8)
    idp = world.idps["acme"]
    limits = {"worker": 3600, "reader": 3600, "keeper": 900}
    for _ in range(12):
        life = rng.choice([30, 200, 899, 1000, 3600])
        role = rng.choice(list(limits))
        began = time.time()
        session = world.ask(idp.token(life_s=life), role=role, duration=rng.choice([None, 900, 3600, 43200])).session
        assert session.claims["exp"] <= began + min(life, limits[role]) + 2
        narrower = rng.choice(list(limits))
        child = assume_role(world.server, arn("acme", narrower), session.signer(), duration=rng.choice([None, 900, 43200]))
        if child.status == 200:
            claims = child.session.claims
            assert claims["exp"] <= session.claims["exp"] and claims["exp"] - claims["iat"] <= limits[narrower]
            refused(assume_role(world.server, arn("acme", "worker"), child.session.signer()), "AccessDenied")


PAYROLL = """
@id("payroll-is-for-admins")
forbid (principal, action == Action::"Read", resource is Object)
when { resource.key like "payroll/*" }
unless { principal has role && principal.role == "admin" };
"""


def test_a8_a_session_does_not_reach_roles_that_its_evidence_does_not(world):
    """`admin` asks for a group that ann is not in. A policy written for that
    role must not let her in by way of AssumeRole."""
    server, rules = world.server, world.home / "payroll.cedar"
    rules.write_text((server.data / "policy.cedar").read_text() + PAYROLL)
    server.cli("policy", "apply", rules)
    ann, admin = world.session(), world.session(role="admin", groups=["admins"])
    assert ann.raw(server, "PUT", DATA, "payroll/2026", body=b"x").status == 200
    assert admin.works(server, DATA, "payroll/2026") and not ann.works(server, DATA, "payroll/2026")
    answer = assume_role(server, arn("acme", "admin"), ann.signer())
    if answer.status == 200:
        refused(answer.session.raw(server, "GET", DATA, "payroll/2026"), "AccessDenied")
    other = assume_role(server, arn("acme", "service"), ann.signer())
    assert other.status == 403 or not other.session.works(server, DATA, "payroll/2026")


def test_a8_an_access_key_is_not_exchanged_for_restricted_data(world):
    key = world.server.key("acme")
    for role in ("keeper", "worker", "admin"):
        refused(assume_role(world.server, arn("acme", role), Signer(key)), "AccessDenied")


# --- A12: everything is on record -------------------------------------------------------------------------


def test_a12_every_issuance_and_every_refusal_of_somebody_known_is_on_record(world, session):
    server = world.server
    denied = world.ask(world.idps["acme"].token(), role="admin")
    text = world.reason(denied)
    assert all(word in text for word in ("sts:AssumeRoleWithWebIdentity", "AccessDenied", "acme-idp--ann", "role/admin")), text
    issued = world.ask(world.idps["acme"].token())
    assert "sts:AssumeRoleWithWebIdentity" in world.reason(issued)
    wrong = session.but(key=Key(session.key.id, "x" * 40)).raw(server, "GET", DATA, "k")
    assert "signature does not match" in world.reason(wrong)
    assert b"signature does not match" not in wrong.body.lower() or wrong.code == "SignatureDoesNotMatch"
    expired = world.ask(world.idps["acme"].token(iat=forgeries.now(-900), exp=forgeries.now(-300)))
    assert "over" in world.reason(expired), "authentic evidence stands alone, with the precise reason"


def test_a12_there_is_no_switch_that_turns_recording_off(world):
    schema = world.server.cli("config", "schema", data=False).stdout
    for word in ('"disable', '"record"', '"recording"', '"audit"', '"log_issuance"'):
        assert word not in schema.lower(), f"the configuration knows {word}"


# --- EVIDENCE_REUSE --------------------------------------------------------------------------------------------


def test_a9_evidence_that_is_exchanged_too_often_raises_the_alarm_and_goes_on_working(world):
    token = world.idps["initech"].token("often")
    before = world.counted("EVIDENCE_REUSE")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: world.ask(token, tenant="initech").status, range(80)))
    assert set(answers) == {200}, "its subject may be right"
    sts.sigv4.until(lambda: world.counted("EVIDENCE_REUSE") > before, "the alarm", 10)
    alarm = world.alarms("EVIDENCE_REUSE")[-1]
    assert alarm["tenant"] == "initech" and token not in json.dumps(alarm)


# --- A6: secrets stay where they are ------------------------------------------------------------------------------


def test_a6_no_secret_lies_in_a_file_a_metric_or_a_log_line(world, session):
    """Canaries: everything secret of a few sessions, looked for everywhere."""
    server = world.server
    evidence = world.idps["acme"].token("canary-of-a6")
    issued = world.ask(evidence)
    mine = issued.session
    assert world.ask(evidence, method="GET").status == 200, "a token in the query is the same secret"
    answers = [
        issued,
        mine.raw(server, "GET", DATA, "k"),
        mine.but(key=Key(mine.key.id, "wrong" * 8)).raw(server, "GET", DATA, "k"),
        server.presigned("GET", DATA, "k", query=[("X-Amz-Security-Token", mine.token)], signer=Signer(mine.key)),
        assume_role(server, arn("acme", "reader"), mine.signer()),
        assume_role(server, arn("acme", "nothing"), mine.signer()),
        world.ask(evidence, role="admin"),
    ]
    mine.but(token=mine.token[:-3] + "AAA").raw(server, "GET", DATA, "k")
    world.ask(evidence[:-4] + "AAAA")
    secrets = {
        "secret key": mine.key.secret,
        "session token": mine.parsed.paseto,
        "signature of the token": paseto.b64(mine.parsed.signature),
        "receipt": paseto.b64(mine.parsed.receipt.bytes())[:200],
        "evidence": evidence,
        "signature of the evidence": evidence.rpartition(".")[2],
    }
    places = {"metrics": server.admin("/metrics").body, "log lines": server.log_text().encode()}
    places |= {str(p): p.read_bytes() for p in server.data.rglob("*") if p.is_file() and p.name != "credentials"}
    places["what its process was started with"] = open(f"/proc/{server.process.pid}/cmdline", "rb").read()
    # Records are sealed where they lie: the opened ones are looked through too.
    places |= {f"the record of answer {n}": world.reason(answer).encode() for n, answer in enumerate(answers)}
    for what, secret in secrets.items():
        for place, content in places.items():
            assert secret.encode() not in content, f"the {what} lies in {place}"
    metrics = places["metrics"].decode()
    for name in ("acme", "globex", "initech", "ann", "canary-of-a6", mine.key.id):
        assert name not in metrics, f"`{name}` stands in the metrics"
