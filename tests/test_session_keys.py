"""Keys of sessions: manifests, the offline root, rotation, revocation, on the command line."""

import json
import sqlite3
import stat
import time

import pytest

from sigv4 import until

PASSPHRASES = [f"correct horse battery {n}" for n in range(1, 4)]


def root_new(server, out, *how, passphrases=PASSPHRASES[:1], realm="home"):
    typed = "".join(f"{line}\n" for line in passphrases)
    done = server.cli("keys", "root", "new", "--realm", realm, "--out", out, *how, "--json", data=False, stdin=typed)
    return json.loads(done.stdout)


def request(server, path, *how):
    made = server.cli_json("keys", "manifest", "request", *how)
    path.write_text(made["request"])
    return made


def sign(server, roots, request, passphrases, answer="yes", check=True):
    """Offline: neither data directory nor server is named."""
    typed = "".join(f"{line}\n" for line in [answer, *passphrases])
    flags = [flag for root in roots for flag in ("--root", root)]
    return server.cli("keys", "manifest", "sign", *flags, request, data=False, stdin=typed, check=check)


def apply(server, text, path, check=True):
    path.write_text(text)
    return server.cli("keys", "manifest", "apply", path, check=check)


def alarms(server, kind):
    return [alarm for alarm in server.cli_json("alarm", "list")["alarms"] if alarm.get("kind") == kind]


def keys_of(server, purpose="sts-session", tenant="default"):
    listed = server.cli_json("keys", "list")
    return [key for key in listed["keys"] if (key["purpose"], key["tenant"]) == (purpose, tenant)]


@pytest.fixture
def fresh(new_server):
    return new_server().start()


@pytest.fixture
def offline(fresh, tmp_path):
    """A server whose root is in shares: the files, and the manifest it signed first."""
    made = root_new(fresh, tmp_path / "root", "--frost", "2of3", passphrases=PASSPHRASES)
    fresh.cli("keys", "root", "adopt", made["public_file"])
    request(fresh, tmp_path / "request", "--days", "20")
    text = sign(fresh, made["files"][:2], tmp_path / "request", PASSPHRASES[:2]).stdout
    apply(fresh, text, tmp_path / "manifest")
    return fresh, made, text


def test_a_start_makes_keys_by_itself_and_says_that_its_root_protects_nothing(fresh):
    listed = fresh.cli_json("keys", "list")
    assert listed["overdue"] == []
    for purpose in ("sts-session", "api", "admission"):
        keys = keys_of(fresh, purpose)
        assert [key["state"] for key in keys] == ["signing"] + ["future"] * 13
        assert all(key["counts_until_ms"] - key["signs_from_ms"] == 48 * 3600 * 1000 for key in keys)
        assert len({key["kid"] for key in keys}) == 14
    assert len({key["kid"] for key in listed["keys"]}) == 42, "no key serves two scopes"
    assert any("development root" in warning for warning in fresh.cli_json("status")["warnings"])
    assert "development root" in fresh.log_text()
    fresh.add_tenant("accounting")
    assert [key["state"] for key in keys_of(fresh, tenant="accounting")][:1] == ["signing"]
    metrics = fresh.admin("/metrics").body.decode()
    left = next(line for line in metrics.splitlines() if line.startswith("ringfence_session_keys_days_left"))
    assert float(left.split()[1]) > 12


def test_a_fresh_key_takes_over_at_once_and_the_one_before_is_destroyed(fresh):
    before = keys_of(fresh)[0]
    done = fresh.cli_json("keys", "rotate", "--issuer", "--purpose", "sts-session")
    (row,) = done["keys"]
    assert row["destroyed"] == 1
    states = {key["kid"]: key["state"] for key in keys_of(fresh)}
    assert states[before["kid"]] == "verifying only" and states[row["kid"]] == "signing"
    assert [key["state"] for key in keys_of(fresh, "api")][:1] == ["signing"], "the others stay"
    wrong = fresh.cli("keys", "rotate", "--issuer", "--purpose", "everything", check=False)
    assert wrong.returncode == 2


def test_the_ceremony_needs_no_server_and_any_two_of_three_shares_sign(fresh, tmp_path):
    made = root_new(fresh, tmp_path / "root", "--frost", "2of3", passphrases=PASSPHRASES)
    assert (made["needed"], len(made["files"])) == (2, 3)
    for file in made["files"]:
        assert stat.S_IMODE((tmp_path / "root" / file).stat().st_mode) == 0o600
    adopted = fresh.cli_json("keys", "root", "adopt", made["public_file"])
    assert adopted["was_development"] and adopted["fingerprint"] == made["fingerprint"]
    assert not any("development root" in warning for warning in fresh.cli_json("status")["warnings"])
    refused = fresh.cli("keys", "rotate", "--issuer", check=False)
    assert refused.returncode == 4 and "offline" in refused.stderr
    path = tmp_path / "request"
    asked = request(fresh, path, "--days", "20")
    pairs = [(0, 1), (0, 2), (2, 1)]
    signed = []
    for one, other in pairs:
        done = sign(fresh, [made["files"][one], made["files"][other]], path, [PASSPHRASES[one], PASSPHRASES[other]])
        assert f"manifest #{asked['seq']} of realm `home`, 60 keys" in done.stderr, "what changes is said first"
        signed.append(done.stdout)
    for text in signed[1:]:
        assert text != signed[0], "FROST is randomised"
    for roots, passphrases, answer in [
        (made["files"][:1], PASSPHRASES[:1], "yes"),
        (made["files"][:1] * 2, PASSPHRASES[:1] * 2, "yes"),
        (made["files"][:2], PASSPHRASES[1:], "yes"),
        (made["files"][:2], PASSPHRASES[:2], "no"),
    ]:
        refused = sign(fresh, roots, path, passphrases, answer, check=False)
        assert refused.returncode != 0 and refused.stdout == "" and "panicked" not in refused.stderr
    other = root_new(fresh, tmp_path / "other")
    forged = sign(fresh, other["files"], path, PASSPHRASES[:1]).stdout
    refused = apply(fresh, forged, tmp_path / "forged", check=False)
    assert refused.returncode == 4 and "not signed by the root" in refused.stderr
    apply(fresh, signed[2], tmp_path / "manifest")
    assert len(keys_of(fresh)) == 20
    shown = fresh.cli_json("keys", "manifest", "show")
    assert shown["manifest"]["seq"] == asked["seq"] and not shown["development_root"]
    fresh.restart()
    assert fresh.cli_json("keys", "manifest", "show") == shown
    assert fresh.cli_json("keys", "list")["overdue"] == []


def test_a4_an_older_manifest_is_refused_and_raises_an_alarm(offline, tmp_path):
    server, made, first = offline
    request(server, tmp_path / "next", "--days", "25")
    second = sign(server, made["files"][1:], tmp_path / "next", PASSPHRASES[1:]).stdout
    apply(server, second, tmp_path / "second")
    kids = [key["kid"] for key in keys_of(server)]
    for older in (first, second):
        refused = apply(server, older, tmp_path / "older", check=False)
        assert refused.returncode == 4 and "not newer" in refused.stderr
    assert alarms(server, "MANIFEST_ROLLBACK")
    server.kill()
    server.start()
    assert [key["kid"] for key in keys_of(server)] == kids


def test_a4_a_changed_database_resurrects_no_manifest_and_loses_no_revocation(offline, tmp_path):
    server, made, _ = offline
    server.stop()
    with sqlite3.connect(server.data / "catalog.db") as db:
        (old,) = db.execute("SELECT body FROM manifest").fetchone()
    server.start()
    request(server, tmp_path / "next", "--days", "25")
    apply(server, sign(server, made["files"][:2], tmp_path / "next", PASSPHRASES[:2]).stdout, tmp_path / "second")
    server.cli("revoke", "subject", "default/ann")
    server.cli("revoke", "role", "default/reader")
    server.stop()
    with sqlite3.connect(server.data / "catalog.db") as db:
        (new, seq) = db.execute("SELECT body, seq FROM manifest").fetchone()
        db.execute("UPDATE manifest SET body = ?, seq = seq - 1", (old,))
    server.start()
    listed = server.cli_json("keys", "list")
    assert listed["keys"] == [] and len(listed["overdue"]) == 3, "nothing of it counts, and nothing is issued"
    assert alarms(server, "MANIFEST_ROLLBACK")
    server.stop()
    with sqlite3.connect(server.data / "catalog.db") as db:
        db.execute("UPDATE manifest SET body = ?, seq = ?", (new, seq))
        rows = db.execute("SELECT * FROM revocation ORDER BY seq").fetchall()
        db.execute("DELETE FROM revocation WHERE seq = ?", (rows[1][0],))
    server.spawn()
    until(lambda: not server.is_alive(), "the server's word on lost revocations")
    assert "revocations of realm `home`" in server.log_tail() and "ringfence recover" in server.log_tail()
    with sqlite3.connect(server.data / "catalog.db") as db:
        db.execute("INSERT INTO revocation VALUES(?, ?, ?)", rows[1])
    server.start()
    assert len(server.cli_json("revoke", "list")["revocations"]) == 2


def test_a_root_hands_over_only_by_its_own_signature(offline, tmp_path):
    server, made, _ = offline
    new = root_new(server, tmp_path / "new")
    refused = server.cli("keys", "root", "adopt", new["public_file"], check=False)
    assert refused.returncode == 4 and "did not sign" in refused.stderr
    typed = f"{PASSPHRASES[0]}\n"
    stranger = root_new(server, tmp_path / "stranger")
    forged = server.cli("keys", "root", "handover", "--root", stranger["files"][0], new["public_file"], data=False, stdin=typed)
    (tmp_path / "forged").write_text(forged.stdout)
    assert server.cli("keys", "root", "adopt", tmp_path / "forged", check=False).returncode == 4
    typed = "".join(f"{line}\n" for line in PASSPHRASES[:2])
    flags = ["--root", made["files"][0], "--root", made["files"][1]]
    signed = server.cli("keys", "root", "handover", *flags, new["public_file"], data=False, stdin=typed)
    (tmp_path / "hand-over").write_text(signed.stdout)
    server.cli("keys", "root", "adopt", tmp_path / "hand-over")
    request(server, tmp_path / "next", "--days", "30")
    old = sign(server, made["files"][:2], tmp_path / "next", PASSPHRASES[:2]).stdout
    assert apply(server, old, tmp_path / "old", check=False).returncode == 4, "the old root has no say any more"
    apply(server, sign(server, new["files"], tmp_path / "next", PASSPHRASES[:1]).stdout, tmp_path / "m")
    server.restart()
    assert [root["since_seq"] for root in server.cli_json("keys", "manifest", "show")["roots"]] == [1, 2, 3]


def test_revocations_are_listed_taken_back_and_survive_a_kill(fresh):
    made = [
        fresh.cli_json("revoke", "subject", "default/ann", "--reason", "left"),
        fresh.cli_json("revoke", "role", "default/reader", "--from-index", "3"),
        fresh.cli_json("revoke", "site", "cloud"),
        fresh.cli_json("revoke", "key", keys_of(fresh)[0]["kid"]),
    ]
    fresh.cli("revoke", "lift", made[0]["record"], "--reason", "back")
    fresh.kill()
    fresh.start()
    listed = {row["record"]: row for row in fresh.cli_json("revoke", "list")["revocations"]}
    assert [listed[one["record"]]["state"] for one in made] == ["taken back", "in force", "in force", "in force"]
    assert "left" in listed[made[0]["record"]]["detail"] and listed[made[1]["record"]]["from_index"] == 3
    for record in (made[0]["record"], made[3]["record"], 0, 10**9):
        refused = fresh.cli("revoke", "lift", record, check=False)
        assert refused.returncode == 2, "taken back already; a key stays dead; nothing there"
    for wrong in (["subject", "ann"], ["subject", "nobody/ann"], ["key", "x"], ["session", "zz"], ["session", "0"]):
        refused = fresh.cli("revoke", *wrong, check=False)
        assert refused.returncode == 2 and "panicked" not in refused.stderr


def test_a_revoked_key_signs_no_more_and_the_development_root_gives_another(fresh):
    kid = keys_of(fresh)[0]["kid"]
    began = time.monotonic()
    fresh.cli("revoke", "key", kid)
    assert time.monotonic() - began < 5
    states = {key["kid"]: key["state"] for key in keys_of(fresh)}
    assert states[kid] == "revoked" and list(states.values()).count("signing") == 1
    assert fresh.cli_json("keys", "list")["overdue"] == []


def test_with_an_offline_root_a_revoked_key_stops_issuing_and_says_so(offline):
    server, _, _ = offline
    kid = keys_of(server)[0]["kid"]
    server.cli("revoke", "key", kid)
    assert server.cli_json("keys", "list")["overdue"] == ["home/default/sts-session"]
    assert any("nothing is issued" in warning for warning in server.cli_json("status")["warnings"])


def test_manifests_and_revocations_stand_in_the_log_for_everybody(fresh):
    done = fresh.cli_json("revoke", "site", "cloud")
    records = fresh.cli_json("log", "show", "--from", "0")["records"]
    public = {record["seq"]: record["public"]["kind"] for record in records if record.get("public")}
    assert public[done["record"]] == "revocation" and "manifest" in public.values()
