"""A token explained, judged and proved with the command line: with the exported
trust file, in an empty directory, and nothing else of the installation.
"""

import base64
import datetime
import json
import os
import subprocess
import time

import pytest

import paseto
import sts
import thief
import tlog
import witness
from harness import BINARY, clean_env
from sigv4 import until
from sts import allow, arn, assume_role, policy
from test_session_theft import forged_claims

WAYS = ["file", "stdin", "environment"]


class Desk:
    """An empty directory somewhere else, with a trust file in it."""

    def __init__(self, folder, world):
        self.folder, self.world = folder, world
        self.number = 0

    def export(self, name="home.trust"):
        file = self.folder / name
        said = self.world.server.cli_json("trust", "export", file)
        assert said["text"] == file.read_text()
        return file

    def run(self, *arguments, token=None, way="file", check=None):
        """`ringfence token …` far from the data; nothing is in the environment
        but the token, if that is its way."""
        env, stdin, more = clean_env(), "", []
        for name in ("RINGFENCE_DATA", "AWS_SESSION_TOKEN"):
            env.pop(name, None)
        if way == "file" and token is not None:
            self.number += 1
            file = self.folder / f"token-{self.number}"
            file.write_text(token + "\n")
            more = ["--file", str(file)]
        elif way == "stdin":
            stdin = token + "\n"
        elif way == "environment":
            env["AWS_SESSION_TOKEN"] = token
        done = subprocess.run(
            [str(BINARY), "token", *map(str, arguments), *more], input=stdin, env=env, cwd=self.folder,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        if check is not None:
            assert done.returncode == check, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert not (self.folder / "ringfence-data").exists(), "nothing is made here"
        return done

    def verify(self, token, *arguments, trust="home.trust", code=0):
        done = self.run("verify", "--trust", self.folder / trust, "--json", *arguments, token=token, check=code)
        return json.loads(done.stdout)

    def refused(self, token, at_step, *arguments, why="", trust="home.trust"):
        """Exit 1, at this step and no later one; every step before it holds."""
        said = self.verify(token, *arguments, trust=trust, code=1)
        *before, last = said["steps"]
        assert not said["verified"] and said["session"] is None and said["index"] is None, said
        assert all(step["holds"] for step in before) and not last["holds"], said
        assert last["what"] == at_step and why in said["refusal"] and last["detail"] == said["refusal"], said
        return said


@pytest.fixture(scope="module")
def desk(world, tmp_path_factory):
    world.session("acme"), world.session("initech"), world.session("globex")
    desk = Desk(tmp_path_factory.mktemp("desk"), world)
    desk.export()
    return desk


@pytest.fixture(scope="module")
def session(world, desk):
    return world.session()


# --- the trust file -------------------------------------------------------------------------


def test_the_trust_file_says_what_the_installation_says_and_nothing_secret(world, desk):
    text = (desk.folder / "home.trust").read_text()
    lines = [line.split(" ") for line in text.splitlines() if not line.startswith("#")]
    assert lines[0] == ["ringfence-trust", "v0"]
    assert ["log", (world.server.data / "log" / "log.vkey").read_text().strip()] in lines and ["quorum", "none"] in lines
    for realm in ("home", "east"):
        shown = world.server.cli_json("keys", "manifest", "show", "--realm", realm)
        body = "".join(shown["manifest"]["text"].split("\n")[1:])
        assert ["root", realm, shown["roots"][-1]["public"]] in lines
        assert base64.b64decode(body) in [base64.b64decode(words[1]) for words in lines if words[0] == "manifest"]
    assert {words[0] for words in lines} <= {"ringfence-trust", "log", "quorum", "root", "manifest", "revocation"}
    records = world.server.cli_json("log", "show", "--limit", "200")["records"]
    assert any(r["core"]["op"] == "admin:TrustExport" for r in records if "core" in r), "the export is on record"


def test_without_a_file_the_trust_file_goes_to_standard_output(world, desk):
    printed = world.server.cli("trust", "export").stdout
    strip = lambda text: [line for line in text.splitlines() if not line.startswith("#")]  # noqa: E731
    assert strip(printed) == strip((desk.folder / "home.trust").read_text())


# --- an honest token ------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_an_honest_token_verifies_with_the_trust_file_alone(desk, session, way):
    done = desk.run("verify", "--trust", "home.trust", "--site", "home", token=session.token, way=way, check=0)
    marks = [line.split()[0] for line in done.stdout.splitlines()[:5]]
    assert marks == ["✓"] * 5 and "verified: acme-idp--ann of acme in role worker" in done.stdout, done.stdout


def test_each_step_is_told_and_whose_session_it_is(desk, session):
    said = desk.verify(session.token, "--site", "home")
    assert [step["what"] for step in said["steps"]] == ["form", "signature", "checkpoint", "issuance", "not revoked"]
    assert said["index"] == session.index and said["kid"] == session.parsed.kid
    assert said["session"]["session"] == session.claims["jti"] and said["session"]["principal"] == session.claims["sub"]


def test_a_token_narrowed_by_role_and_policy_verifies(world, desk, session):
    narrowed = assume_role(world.server, arn("acme", "reader"), session.signer(), policy=policy(allow("s3:GetObject"))).session
    said = desk.verify(narrowed.token)
    assert said["session"]["parent"]["index"] == session.index and said["session"]["role"] == "reader"


def test_tenants_of_every_realm_verify(world, desk):
    for tenant, realm in world.TENANTS.items():
        said = desk.verify(world.session(tenant).token)
        assert (said["session"]["tenant"], said["session"]["realm"]) == (tenant, realm)


def test_at_home_the_installation_is_the_trust_file(world, session):
    said = world.server.cli_json("token", "verify", stdin=session.token)
    assert said["verified"]


def test_away_from_home_without_a_trust_file_it_says_what_to_do(desk, session):
    done = desk.run("verify", token=session.token, check=2)
    assert "trust export" in done.stderr


# --- refused --------------------------------------------------------------------------------


def test_a_tampered_byte_anywhere_is_refused(desk, session):
    token, letters = session.token, "AB"
    paseto_end = token.index("~")
    for at in [*range(12, paseto_end, 41), *range(paseto_end + 1, len(token) - 1, 97)]:
        other = letters[token[at] == letters[0]]
        said = desk.verify(token[:at] + other + token[at + 1 :], code=1)
        assert not said["verified"] and not said["steps"][-1]["holds"], (at, said)


def test_claims_that_were_changed_are_refused_by_their_signature(desk, session):
    payload = session.parsed.payload.replace(b"acme-idp--ann", b"acme-idp--bob")
    desk.refused(session.parsed.but(payload=payload).text, "signature", why="does not verify")


def test_another_purpose_or_site_is_refused(desk, session):
    desk.refused(session.token, "signature", "--purpose", "api", why="only `api` counts")
    desk.refused(session.token, "signature", "--site", "elsewhere", why="not for the gateway at site `elsewhere`")
    done = desk.run("verify", "--trust", "home.trust", "--purpose", "everything", token=session.token, check=2)
    assert "sts-session" in done.stderr


def test_before_and_after_its_time_it_is_refused(desk, session):
    at = lambda s: datetime.datetime.fromtimestamp(s, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: E731
    claims = session.claims
    desk.refused(session.token, "signature", "--at", at(claims["exp"]), why="expired")
    desk.refused(session.token, "signature", "--at", at(claims["nbf"] - 1), why="not valid before")
    assert desk.verify(session.token, "--at", at(claims["exp"] - 1))["verified"]
    assert desk.verify(session.token, "--at", at(claims["nbf"]))["verified"]


def test_a_revoked_token_is_refused_by_a_newer_trust_file(world, desk):
    session = world.session(sub="revoked")
    assert desk.verify(session.token)["verified"]
    done = world.server.cli_json("revoke", "session", session.claims["jti"])
    desk.export("newer.trust")
    desk.refused(session.token, "not revoked", trust="newer.trust", why=f"revoked by record #{done['record']}")
    assert desk.verify(session.token)["verified"], "the older file does not know: the help says so"
    assert desk.verify(world.session(sub="another").token, trust="newer.trust")["verified"]


def test_a_revocation_that_was_taken_back_is_not_exported(world, desk):
    session = world.session(sub="back")
    done = world.server.cli_json("revoke", "subject", "acme/acme-idp--back")
    desk.export("subject.trust")
    desk.refused(session.token, "not revoked", trust="subject.trust")
    world.server.cli("revoke", "lift", done["record"])
    desk.export("lifted.trust")
    assert desk.verify(session.token, trust="lifted.trust")["verified"]


def test_a_token_without_its_receipt_is_refused(desk, session):
    desk.refused(session.parsed.but(receipt=None).text, "checkpoint", why="no receipt")
    desk.refused(session.token.split("~")[0], "checkpoint", why="no receipt")


def test_a_forged_token_is_refused_and_said_to_be_of_a_stolen_key(world, desk, session):
    key = thief.signing(world.server.data, "home", "acme")
    forged = paseto.forge(key, forged_claims(session, sub="acme-idp--root"))
    stapled = forged.but(receipt=session.parsed.receipt)
    for token, step in ((forged, "checkpoint"), (stapled, "issuance"), (stapled.received(index=0), "issuance")):
        said = desk.refused(token.text, step, why="not issued")
        assert said["stolen_key"], said


def test_a_log_of_the_thief_is_not_the_log_of_the_trust_file(desk, session):
    other = paseto.key_of(os.urandom(32))
    note = session.parsed.receipt.checkpoint
    text, _, line = note.rpartition("\n\n")
    name, signature = line.split(" ")[1], base64.b64decode(line.split(" ")[2])
    forged = base64.b64encode(signature[:4] + other.sign((text + "\n").encode())).decode()
    desk.refused(session.parsed.received(checkpoint=f"{text}\n\n— {name} {forged}\n").text, "checkpoint")


def test_a_key_of_another_scope_is_refused(world, desk, session):
    key = thief.signing(world.server.data, "home", "initech")
    forged = paseto.forge(key, forged_claims(session)).but(receipt=session.parsed.receipt)
    said = desk.refused(forged.text, "signature", why="signed for scope home/acme")
    assert said["stolen_key"]


@pytest.mark.parametrize("spoil", ["another root", "no root", "a broken manifest", "an unknown line", "no first line"])
def test_a_trust_file_that_is_not_whole_judges_nothing(desk, session, spoil):
    text = (desk.folder / "home.trust").read_text()
    roots = [line for line in text.splitlines() if line.startswith("root ")]
    home, east = (next(r for r in roots if r.startswith(f"root {realm} ")) for realm in ("home", "east"))
    changed = {
        "another root": text.replace(home, east.replace("root east", "root home")),
        "no root": text.replace(home + "\n", ""),
        "a broken manifest": text.replace("manifest ", "manifest AAAA", 1),
        "an unknown line": text + "trust everybody\n",
        "no first line": text.split("\n", 1)[1],
    }[spoil]
    assert changed != text
    (desk.folder / "spoilt.trust").write_text(changed)
    done = desk.run("verify", "--trust", "spoilt.trust", token=session.token, check=2)
    assert "✓" not in done.stdout


# --- shown, not verified --------------------------------------------------------------------


def test_show_says_every_claim_and_that_it_verified_nothing(desk, session):
    claims, receipt = session.claims, session.parsed.receipt
    done = desk.run("show", token=session.token, check=0)
    assert done.stdout.startswith("NOT VERIFIED")
    head = tlog.Checkpoint.verify(receipt.checkpoint.encode(), tlog.VerifierKey.parse((desk.world.server.data / "log" / "log.vkey").read_text().strip()))
    for word in (
        claims["jti"], claims["sub"], claims["rol"], claims["rlm"], claims["tnt"], claims["pur"], session.parsed.kid, claims["cnf"],
        f"record #{receipt.index} of a log of {head.size} records", head.origin, head.root.hex(), "home", "left", "by no witness",
        paseto.unb64(claims["evd"]).hex(), paseto.unb64(claims["pol"]).hex(), "[[issuer]]` acme-idp",
    ):  # fmt: skip
        assert word in done.stdout, f"{word} is not in\n{done.stdout}"
    said = json.loads(desk.run("show", "--json", token=session.token, check=0).stdout)
    assert said["verified"] is False and said["state"] == "its time"
    assert said["receipt"]["index"] == receipt.index and said["receipt"]["size"] == head.size
    assert 0 < said["left_s"] <= claims["exp"] - time.time() + 5


def test_show_explains_a_token_that_does_not_verify(world, desk, session):
    forged = paseto.forge(paseto.key_of(os.urandom(32)), forged_claims(session, sub="acme-idp--root"))
    desk.verify(forged.text, code=1)
    done = desk.run("show", token=forged.text, check=0)
    assert "NOT VERIFIED" in done.stdout and "acme-idp--root" in done.stdout and "nothing proves" in done.stdout
    done = desk.run("show", token=session.parsed.received(checkpoint="\x1b[31mno note").text, check=0)
    assert "\x1b" not in done.stdout and "cannot be read" in done.stdout


def test_what_is_no_token_is_said_to_be_none(desk):
    for text in ("AQoDYXdzEJr", "v4.public.", "a~b~c", "x" * 20_000):
        assert "no session token" in desk.run("show", token=text, check=1).stderr
        desk.verify(text, code=1)
    for way in WAYS:
        assert "there is no token" in desk.run("show", token=" ", way=way, check=2).stderr


def test_a_token_is_never_an_argument_and_the_help_says_why(desk, session):
    done = desk.run("show", session.token, check=2)
    assert session.token not in done.stdout
    for command in ("show", "verify", "proof"):
        assert "never an argument" in desk.run(command, "--help", check=0).stdout


# --- the proof ------------------------------------------------------------------------------


def test_the_proof_of_a_token_verifies_as_a_proof_of_any_transparency_log(world, desk, session):
    text = desk.run("proof", token=session.token, check=0).stdout
    head, _, note = text.partition("\n\n")
    first, extra, index, *path = head.split("\n")
    assert first == "c2sp.org/tlog-proof@v1" and extra.startswith("extra ") and index == f"index {session.index}"
    entry, path = base64.b64decode(extra.removeprefix("extra ")), [base64.b64decode(step) for step in path]
    vkey = (world.server.data / "log" / "log.vkey").read_text().strip()
    checkpoint = tlog.Checkpoint.verify(note.encode(), tlog.VerifierKey.parse(vkey))
    tlog.check_inclusion(path, session.index, checkpoint.size, tlog.leaf_hash(entry), checkpoint.root)
    # And it is the entry that the log serves to everybody.
    verified = until(lambda: (v := tlog.verify(tlog.Directory(world.server.data / "log"), vkey)).checkpoint.size >= checkpoint.size and v, "the log", 20)
    assert verified.entries[session.index] == entry
    _, _, public = tlog.entry_parts(entry)
    assert paseto.Issuance.parse(public).token_sha256.hex() == json.loads(desk.run("show", "--json", token=session.token).stdout)["sha256"]


def test_without_a_receipt_there_is_no_proof(desk, session):
    desk.run("proof", token=session.parsed.but(receipt=None).text, check=1)


# --- witnesses; last, for it changes the installation ----------------------------------------


@pytest.fixture(scope="module")
def cosigned(world, desk):
    """A session whose receipt two witnesses cosigned, and the trust file that asks for both."""
    vkey = (world.server.data / "log" / "log.vkey").read_text()
    watching = [witness.Witness(vkey, f"witness.example/{n}").start() for n in range(2)]
    try:
        world.more += "".join(sts.table("witness", key=one.vkey, url=one.url) for one in watching)
        world.configure(world.config())
        world.server.cli("log", "witnesses", "--require", "2", *[part for one in watching for part in ("--witness", one.vkey)])
        desk.export("witnessed.trust")
        lines_of = lambda text: sum("witness.example/" in line for line in text.splitlines())  # noqa: E731
        yield until(lambda: (s := world.session()) and lines_of(s.parsed.receipt.checkpoint) == 2 and s, "cosigned receipts", 30)
    finally:
        for one in watching:
            one.remove()


def test_the_trust_file_asks_for_the_quorum_in_force(desk, cosigned):
    text = (desk.folder / "witnessed.trust").read_text()
    assert "group witnesses 2 w1 w2\nquorum witnesses\n" in text
    steps = desk.verify(cosigned.token, trust="witnessed.trust")["steps"]
    assert all(f"witness.example/{n}" in steps[2]["detail"] for n in range(2))
    note = cosigned.parsed.receipt.checkpoint
    for n in range(2):
        fewer = "".join(line for line in note.splitlines(keepends=True) if f"witness.example/{n}" not in line)
        desk.refused(cosigned.parsed.received(checkpoint=fewer).text, "checkpoint", trust="witnessed.trust", why="not met")
        assert desk.verify(cosigned.parsed.received(checkpoint=fewer).text)["verified"], "the older file asked for none"


def test_show_says_who_claims_to_have_cosigned_and_when(desk, cosigned):
    said = json.loads(desk.run("show", "--json", token=cosigned.token, check=0).stdout)
    assert {one["name"] for one in said["receipt"]["cosigned"]} == {"witness.example/0", "witness.example/1"}
    assert all(abs(one["at_ms"] / 1000 - time.time()) < 60 for one in said["receipt"]["cosigned"]), said
    assert "by witness.example/0 at 20" in desk.run("show", token=cosigned.token, check=0).stdout
