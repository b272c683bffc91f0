"""A real OpenID provider (npm oidc-provider) with two realms, and real clients
that know nothing of us: a token file and two endpoints."""

import json
import os
import subprocess

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

import oidc
import sts
from harness import Server, clean_env, new_home, tool
from sigv4 import until

ROLE = "worker"


@pytest.fixture(scope="module")
def providers():
    with oidc.providers("corp", "guests") as running:
        yield running


@pytest.fixture(scope="module")
def server(providers):
    home = new_home()
    with Server(home / "data") as server:
        more = {"typ": "at+jwt", "algorithms": ["RS256", "ES256"]}
        text = '\n[[tenant]]\nname = "acme"\ndefault_label = "internal"\n'
        text += sts.issuer("corp", "acme", providers.url("corp"), **more)
        text += sts.role("acme", ROLE, ["corp"], claims={"groups": "workers"})
        text += '\n[[tenant]]\nname = "globex"\ndefault_label = "internal"\n'
        text += sts.issuer("guests", "globex", providers.url("guests"), **more)
        text += sts.role("globex", ROLE, ["guests"], claims={"groups": "workers"})
        for tenant in ("acme", "globex"):
            sts.add_tenant(server, tenant)
        server.stop()
        file = server.data / "ringfence.toml"
        file.write_text(file.read_text() + text)
        server.start()
        server.client("acme").create_bucket(Bucket="acme-data")
        server.client("acme").put_object(Bucket="acme-data", Key="k", Body=b"acme")
        yield server


def environment(server, tmp_path, token, tenant="acme"):
    """What an operator sets for any AWS SDK, and nothing else."""
    file = tmp_path / "token"
    file.write_text(token)
    return {
        "AWS_WEB_IDENTITY_TOKEN_FILE": str(file),
        "AWS_ROLE_ARN": sts.arn(tenant, ROLE),
        "AWS_ROLE_SESSION_NAME": "job",
        "AWS_ENDPOINT_URL_STS": server.endpoint,
        "AWS_ENDPOINT_URL_S3": server.endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_boto3_gets_a_session_from_a_token_file_and_uses_it(server, providers, tmp_path, monkeypatch, algorithm):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment(server, tmp_path, providers.token("corp", algorithm=algorithm)).items():
        monkeypatch.setenv(name, value)
    session = boto3.Session()
    client = session.client("s3", config=Config(s3={"addressing_style": "path"}))
    assert client.get_object(Bucket="acme-data", Key="k")["Body"].read() == b"acme"
    assert session.get_credentials().access_key.startswith("ASIA")
    told = session.client("sts").get_caller_identity()
    assert told["Account"] == "acme" and f"assumed-role/{ROLE}/" in told["Arn"], told


def test_the_command_line_of_aws_gets_a_session_from_a_token_file(server, providers, tmp_path):
    env = clean_env(**environment(server, tmp_path, providers.token("corp")))
    done = subprocess.run(
        [tool("aws"), "s3", "cp", "s3://acme-data/k", "-"], env=env, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, b"acme"), done.stderr.decode()


@pytest.mark.parametrize("tenant, realm", [("acme", "guests"), ("globex", "corp")])
def test_a_token_of_one_realm_gets_no_role_of_the_other(server, providers, tenant, realm):
    answer = sts.web_identity(server, sts.arn(tenant, ROLE), providers.token(realm))
    assert (answer.status, answer.code) == (403, "AccessDenied"), answer


def test_a_token_for_another_service_is_none_for_us(server, providers):
    answer = sts.web_identity(server, sts.arn("acme", ROLE), providers.token("corp", audience="mail"))
    assert (answer.status, answer.code) == (400, "InvalidIdentityToken"), answer


def test_new_keys_of_a_provider_are_taken_and_put_on_record(server, providers):
    old = providers.token("corp")
    assert sts.web_identity(server, sts.arn("acme", ROLE), old).status == 200
    before = len(server.cli_json("alarm", "list", "--since", "0")["alarms"])
    providers.restart()

    def new_token_works():
        return sts.web_identity(server, sts.arn("acme", ROLE), providers.token("corp")).status == 200

    until(new_token_works, "the new keys", interval_s=0.5)
    raised = server.cli_json("alarm", "list", "--since", "0")["alarms"][before:]
    assert any("JWKS_CHANGED" in json.dumps(alarm) for alarm in raised), raised
    answer = sts.web_identity(server, sts.arn("acme", ROLE), old)
    assert (answer.status, answer.code) == (400, "InvalidIdentityToken"), "its key is gone"


def test_text_that_is_no_token_is_told_so_in_the_words_of_aws(server):
    client = boto3.client(
        "sts", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
    )
    with pytest.raises(ClientError) as caught:
        client.assume_role_with_web_identity(
            RoleArn=sts.arn("acme", ROLE), RoleSessionName="job", WebIdentityToken="not.a.token"
        )
    assert caught.value.response["Error"]["Code"] == "InvalidIdentityToken"
