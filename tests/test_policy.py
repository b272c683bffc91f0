"""Policies from outside: changed, refused, explained, and what they do at once."""

import concurrent.futures
import json
import time

import pytest

from harness import expect_error, unique
from sigv4 import until


@pytest.fixture(scope="module")
def original(server):
    return (server.data / "policy.cedar").read_text()


@pytest.fixture
def apply(server, original, tmp_path):
    """Puts policies in force for one test: the usual ones and more."""

    def put(more, base=original, check=True):
        file = tmp_path / "new.cedar"
        file.write_text(base + "\n" + more)
        return server.cli("policy", "apply", file, check=check)

    yield put
    put("")


def status(server, bucket, key="k", **options):
    return server.raw("GET", bucket, key, **options).status


def test_a_new_policy_takes_effect_at_once_and_explains_itself(server, s3, bucket, apply):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_object(Bucket=bucket, Key="hr/k", Body=b"x")
    apply(f'@id("no-hr") forbid (principal, action == Action::"Read", resource) when {{ resource has key && resource.key like "hr/*" }};')
    assert status(server, bucket) == 200
    refused = server.raw("GET", bucket, "hr/k")
    expect_error(refused, 403, "AccessDenied")
    assert "no-hr" in server.cli("policy", "explain", refused.headers["x-amz-request-id"]).stdout
    assert b"no-hr" not in refused.body, "the client is not told which policy"
    assert server.raw("HEAD", bucket, "hr/k").status == 403
    assert server.raw("DELETE", bucket, "hr/k").status == 204, "only reading was forbidden"
    apply("")
    assert status(server, bucket) == 200


def test_placement_follows_the_policy_for_new_objects(server, s3, bucket, apply):
    tagging = {"x-amz-tagging": "ringfence-label=public"}
    apply('@id("nothing-leaves") forbid (principal, action == Action::"Place", resource) when { resource.kind == "public" };')
    assert server.raw("PUT", bucket, "k", body=b"x", headers=tagging).status == 200
    assert '"cloud"' not in json.dumps(server.cli_json("where", f"s3://{bucket}/k")).replace('"prefer": ["cloud"', "")
    pinned = unique()
    s3.create_bucket(Bucket=pinned, CreateBucketConfiguration={"LocationConstraint": "cloud"})
    expect_error(server.raw("PUT", pinned, "k", body=b"x", headers=dict(tagging)), 403, "AccessDenied")


BROKEN = {
    "syntax": 'forbid (principal, action, resource',
    "an action nobody knows": '@id("x") forbid (principal, action == Action::"Fly", resource);',
    "an attribute nobody knows": '@id("x") forbid (principal, action == Action::"Read", resource) when { resource.colour == "red" };',
    "no id": 'forbid (principal, action == Action::"Read", resource);',
    "the same id twice": '@id("own-data") forbid (principal, action == Action::"Read", resource);',
    "a type error": '@id("x") forbid (principal, action == Action::"Place", resource) when { resource.kind == 5 };',
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_policy_that_does_not_validate_is_refused_and_the_old_ones_stay(server, s3, bucket, original, tmp_path, what):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    file = tmp_path / "broken.cedar"
    file.write_text(original + "\n" + BROKEN[what])
    checked = server.cli("policy", "check", file, check=False)
    applied = server.cli("policy", "apply", file, check=False)
    if what == "no id" and checked.returncode == 0:
        pytest.skip("a policy without an id gets one")
    for done in (checked, applied):
        assert done.returncode != 0 and done.stderr.strip() + done.stdout.strip() and "panicked" not in done.stderr, done
    assert status(server, bucket) == 200
    assert server.cli("policy", "show").returncode == 0


def test_a_broken_policy_file_at_start_refuses_to_start(new_server):
    server = new_server().start()
    server.stop()
    (server.data / "policy.cedar").write_text("forbid (")
    server.spawn()
    until(lambda: not server.is_alive(), "the server to refuse")
    assert server.process.returncode != 0 and "policy.cedar" in server.log_text()


def test_a_policy_change_is_recorded(server, apply):
    apply('@id("recorded-change") forbid (principal, action == Action::"Read", resource) when { resource has key && resource.key == "zz" };')
    shown = server.cli("log", "show", "--limit", "5", "--json").stdout
    assert "olicy" in shown and "recorded-change" in shown, shown


def test_the_truth_table_says_which_label_may_lie_where(server):
    table = server.cli("policy", "test").stdout
    for word in ("public", "internal", "confidential", "restricted", "home", "cloud"):
        assert word in table
    assert json.loads(server.cli("policy", "test", "--json").stdout)


def test_commands_that_change_nothing_need_no_damage(server, original, tmp_path):
    file = tmp_path / "same.cedar"
    file.write_text(original)
    assert server.cli("policy", "check", file).returncode == 0
    assert server.cli("site", "list").returncode == 0
    probed = server.cli("site", "check")
    assert "home" in probed.stdout and "cloud" in probed.stdout
    assert json.loads(server.cli("status", "--json").stdout)


@pytest.mark.parametrize("bulk", [False, True])
def test_a_delete_is_decided_by_the_label_of_what_it_would_take_away(new_server, bulk):
    """A version that may not be deleted comes between decision and commit:
    whatever the order, it is there in the end."""
    server = new_server().start().let_static_keys_reach_restricted()
    policy = server.data / "policy.cedar"
    policy.write_text(
        policy.read_text()
        + '\n@id("restricted-stays")\nforbid (principal, action == Action::"Delete", resource)\n'
        + 'when { context.label in Label::"restricted" && principal.actor == "static-key" };\n'
    )
    server.cli("policy", "apply", policy)
    client = server.client()
    client.create_bucket(Bucket="data")
    restricted = {"x-amz-tagging": "ringfence-label=restricted"}
    assert server.raw("PUT", "data", "sure", body=b"x", headers=dict(restricted)).status == 200
    expect_error(server.raw("DELETE", "data", "sure"), 403, "AccessDenied")

    def delete(key):
        if bulk:
            client.delete_objects(Bucket="data", Delete={"Objects": [{"Key": key}, {"Key": "absent"}]})
        else:
            server.raw("DELETE", "data", key)

    def replace(key):
        assert server.raw("PUT", "data", key, body=b"kept", headers=dict(restricted)).status == 200

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for i in range(150):
            key = f"k{i}"
            assert server.raw("PUT", "data", key, body=b"x").status == 200
            both = [threads.submit(delete, key), threads.submit(replace, key)]
            [done.result() for done in both]
            assert server.raw("GET", "data", key).body == b"kept", f"{key}: a restricted object was deleted"
# --- the file itself -----------------------------------------------------------------------

NO_HEAD = '@id("no-gone") forbid (principal, action == Action::"Read", resource) when { resource has key && resource.key == "gone" };\n'


def changes(server):
    records = server.cli_json("log", "show", "--from", "0", "--limit", "10000")["records"]
    return [r for r in records if r["core"]["op"] == "admin:PolicyApply" and r["core"]["decision"] == "allow"]


def epoch(server):
    return server.cli_json("policy", "show")["epoch"]


def prepared(new_server, **options):
    server = new_server(**options).start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    s3.put_object(Bucket="abc", Key="gone", Body=b"x")
    return server


def test_an_edited_policy_file_takes_effect_after_its_diff_and_owner_are_recorded(new_server):
    server = prepared(new_server)
    file = server.data / "policy.cedar"
    original = file.read_text()
    before = epoch(server)
    file.write_text(original + NO_HEAD)
    until(lambda: status(server, "abc", "gone") == 403, "the edited file to be in force", 20)
    [change] = changes(server)
    assert epoch(server) == before + 1
    detail = change["resource"]["detail"]
    assert "+ no-gone" in detail and "watched file" in detail and f"user {file.stat().st_uid}" in detail, detail
    assert change["subject"]["actor"] == "operator" and change["subject"]["principal"] == f"uid-{file.stat().st_uid}"
    refused = server.raw("GET", "abc", "gone").headers["x-amz-request-id"]
    explained = server.cli_json("policy", "explain", refused)
    assert explained["seq"] > change["seq"], "nothing was decided by it before it was on record"
    # `policy apply` writes the file too: that is no second change.
    server.cli("policy", "apply", server.data / "policy.in-force.cedar")
    file.write_text(original)
    until(lambda: status(server, "abc", "gone") == 200, "the file as it was", 20)
    assert epoch(server) == before + 2 and len(changes(server)) == 2
    server.restart()
    assert epoch(server) == before + 2


def refused_gauge(server):
    lines = server.admin("/metrics").body.decode().splitlines()
    return next((line.split()[-1] for line in lines if line.startswith("ringfence_policy_file_refused ")), None)


def test_a_broken_or_foreign_edit_is_refused_loudly_and_changes_nothing(new_server):
    server = prepared(new_server)
    file = server.data / "policy.cedar"
    original = file.read_text()
    before = epoch(server)
    assert refused_gauge(server) == "0"
    file.write_text(original + "forbid (principal")
    until(lambda: refused_gauge(server) == "1", "the refusal to show", 20)
    assert epoch(server) == before and status(server, "abc", "gone") == 200
    assert "not put in force" in server.log_text()
    told = server.log_text().count("not put in force")
    file.write_text(original)
    until(lambda: refused_gauge(server) == "0", "the file to be mended", 20)
    assert epoch(server) == before and not changes(server)
    file.chmod(0o666)
    file.write_text(original + NO_HEAD)
    until(lambda: refused_gauge(server) == "1", "a file that anybody may write to be refused", 20)
    assert status(server, "abc", "gone") == 200 and "others than its owner" in server.log_text()
    assert server.log_text().count("not put in force") == told + 1, "told once, not at every look"


def test_an_unwatched_file_waits_for_apply_or_the_next_start_which_records_the_diff(new_server):
    server = prepared(new_server, env={"RINGFENCE__POLICY__WATCH": "false"})
    file = server.data / "policy.cedar"
    before = epoch(server)
    file.write_text(file.read_text() + NO_HEAD)
    time.sleep(6)  # three looks of a watch that must not be there
    assert status(server, "abc", "gone") == 200 and epoch(server) == before
    server.restart()
    assert status(server, "abc", "gone") == 403 and epoch(server) == before + 1
    [change] = changes(server)
    detail = change["resource"]["detail"]
    assert "found at start" in detail and "+ no-gone" in detail, detail
    assert change["subject"]["principal"] == f"uid-{file.stat().st_uid}"
    server.restart()
    assert epoch(server) == before + 1 and len(changes(server)) == 1


def test_a_configuration_found_changed_at_start_is_recorded_too(new_server):
    server = prepared(new_server)
    before = epoch(server)
    server.stop()
    config = server.data / "ringfence.toml"
    config.write_text(config.read_text().replace('prefer = ["cloud", "home"]', 'prefer = ["home"]'))
    server.start()
    assert epoch(server) == before + 1
    assert "~ labels, sites or placement tables" in changes(server)[0]["resource"]["detail"]


def test_a_start_refuses_an_edited_file_that_anybody_may_write(new_server):
    server = prepared(new_server)
    server.stop()
    file = server.data / "policy.cedar"
    file.write_text(file.read_text() + NO_HEAD)
    file.chmod(0o666)
    server.spawn()
    assert server.process.wait(30) == 4
    assert "others than its owner" in server.log_text()
    server.process = None
    file.chmod(0o600)
    server.start()
    assert status(server, "abc", "gone") == 403
