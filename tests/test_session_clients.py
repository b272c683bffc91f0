"""Sessions through real, unmodified clients: boto3 and aws-cli find token file,
role and endpoints in the environment and renew by themselves.
"""

import json

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from harness import build_tree, clean_env, run, some_bytes, tool, tree_of
from sts import allow, arn, policy

DATA = "acme-data"
CONFIG = Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})


@pytest.fixture
def token_file(world, tmp_path):
    """Where a platform puts a workload's token."""
    path = tmp_path / "token"
    path.write_text(world.idps["acme"].token("workload", life_s=3600))
    return path


def environment(world, token_file, role="worker", **more):
    return clean_env(
        AWS_WEB_IDENTITY_TOKEN_FILE=str(token_file),
        AWS_ROLE_ARN=arn("acme", role),
        AWS_ROLE_SESSION_NAME="workload",
        AWS_ENDPOINT_URL_STS=world.server.endpoint,
        AWS_ENDPOINT_URL_S3=world.server.endpoint,
        AWS_DEFAULT_REGION="us-east-1",
        AWS_CONFIG_FILE="/dev/null",
        AWS_SHARED_CREDENTIALS_FILE="/dev/null",
        **more,
    )


@pytest.fixture
def sdk(world, token_file, monkeypatch):
    """boto3 as a program uses it: nothing but the environment."""
    for name, value in environment(world, token_file).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return boto3.session.Session()


def test_boto3_finds_everything_in_the_environment(sdk):
    s3 = sdk.client("s3", config=CONFIG)
    assert s3.get_object(Bucket=DATA, Key="k")["Body"].read() == b"acme"
    s3.put_object(Bucket=DATA, Key="boto", Body=some_bytes(100_000))
    assert s3.get_object(Bucket=DATA, Key="boto")["Body"].read() == some_bytes(100_000)
    assert sdk.get_credentials().method == "assume-role-with-web-identity"


def test_boto3_says_who_it_is(sdk):
    said = sdk.client("sts").get_caller_identity()
    assert said["Account"] == "acme" and said["Arn"] == "arn:ringfence:sts::acme:assumed-role/worker/acme-idp--workload"


def test_boto3_narrows_itself(world, sdk):
    narrowed = sdk.client("sts").assume_role(
        RoleArn=arn("acme", "reader"), RoleSessionName="narrow", DurationSeconds=900,
        Policy=json.dumps(policy(allow("s3:GetObject", f"{DATA}/k"))),
    )  # fmt: skip
    given = narrowed["Credentials"]
    s3 = boto3.session.Session().client(
        "s3", config=CONFIG, endpoint_url=world.server.endpoint, aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"], aws_session_token=given["SessionToken"],
    )  # fmt: skip
    assert s3.get_object(Bucket=DATA, Key="k")["Body"].read() == b"acme"
    for call, arguments in ((s3.get_object, {"Key": "internal"}), (s3.put_object, {"Key": "k", "Body": b"x"}), (s3.delete_object, {"Key": "k"})):
        with pytest.raises(ClientError, match="AccessDenied"):
            call(Bucket=DATA, **arguments)


def test_boto3_makes_presigned_urls_that_others_can_use(sdk):
    import urllib.request

    url = sdk.client("s3", config=CONFIG).generate_presigned_url("get_object", Params={"Bucket": DATA, "Key": "k"}, ExpiresIn=300)
    assert urllib.request.urlopen(url).read() == b"acme"


def test_boto3_renews_its_session_by_itself(world, sdk, token_file):
    """A session that is about to end is renewed from the file, whose token the
    platform has replaced meanwhile."""
    token_file.write_text(world.idps["acme"].token("workload", life_s=300))
    s3 = sdk.client("s3", config=CONFIG)
    first = sdk.get_credentials().get_frozen_credentials()
    token_file.write_text(world.idps["acme"].token("workload", life_s=3600))
    s3.get_object(Bucket=DATA, Key="k")  # Less than ten minutes left: botocore renews.
    second = sdk.get_credentials().get_frozen_credentials()
    assert second.access_key != first.access_key
    assert s3.get_object(Bucket=DATA, Key="k")["Body"].read() == b"acme"


def test_boto3_understands_our_errors(world, sdk, token_file):
    client = sdk.client("sts")
    token_file.write_text(world.idps["acme"].token(iat=1, exp=2))
    with pytest.raises(client.exceptions.ExpiredTokenException):
        client.assume_role_with_web_identity(RoleArn=arn("acme", "worker"), RoleSessionName="xx", WebIdentityToken=token_file.read_text())
    with pytest.raises(client.exceptions.InvalidIdentityTokenException):
        client.assume_role_with_web_identity(RoleArn=arn("acme", "worker"), RoleSessionName="xx", WebIdentityToken="a.b.c")
    with pytest.raises(ClientError, match="AccessDenied"):
        client.assume_role_with_web_identity(RoleArn=arn("globex", "worker"), RoleSessionName="xx", WebIdentityToken=world.idps["acme"].token())
    with pytest.raises(client.exceptions.MalformedPolicyDocumentException):
        client.assume_role_with_web_identity(RoleArn=arn("acme", "worker"), RoleSessionName="xx", WebIdentityToken=world.idps["acme"].token(), Policy="{}")


def test_aws_cli_syncs_a_tree_with_a_session(world, token_file, tmp_path):
    env, tree = environment(world, token_file), build_tree(tmp_path / "tree", files=12)
    aws = lambda *arguments, **more: run([tool("aws"), *arguments], env, **more)  # noqa: E731
    aws("s3", "sync", tree, f"s3://{DATA}/tree/", "--only-show-errors")
    aws("s3", "sync", f"s3://{DATA}/tree/", tmp_path / "back", "--only-show-errors")
    assert tree_of(tmp_path / "back") == tree_of(tree)
    who = json.loads(aws("sts", "get-caller-identity", "--output", "json").stdout)
    assert who["Account"] == "acme" and ":assumed-role/worker/" in who["Arn"]
    refused = aws("s3", "ls", "s3://globex-data/", check=False)
    assert refused.returncode != 0 and "AccessDenied" in refused.stderr


def test_aws_cli_with_a_narrowed_session_in_its_environment(world, token_file):
    env = environment(world, token_file)
    given = json.loads(
        run([tool("aws"), "sts", "assume-role", "--role-arn", arn("acme", "reader"), "--role-session-name", "cli", "--output", "json"], env).stdout
    )["Credentials"]  # fmt: skip
    narrow = clean_env(
        AWS_ACCESS_KEY_ID=given["AccessKeyId"], AWS_SECRET_ACCESS_KEY=given["SecretAccessKey"], AWS_SESSION_TOKEN=given["SessionToken"],
        AWS_ENDPOINT_URL=world.server.endpoint, AWS_DEFAULT_REGION="us-east-1", AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null",
    )  # fmt: skip
    assert run([tool("aws"), "s3", "cp", f"s3://{DATA}/k", "-"], narrow).stdout == "acme"
    refused = run([tool("aws"), "s3", "rm", f"s3://{DATA}/k"], narrow, check=False)
    assert refused.returncode != 0 and "AccessDenied" in refused.stderr


def test_aws_cli_reads_a_role_from_its_configuration_file(world, token_file, tmp_path):
    """`source_profile`: a static key assumes a role, as many set-ups do."""
    key = world.server.key("acme")
    config = tmp_path / "config"
    config.write_text(
        f"[profile base]\naws_access_key_id = {key.id}\naws_secret_access_key = {key.secret}\n\n"
        f"[profile machine]\nrole_arn = {arn('acme', 'machine')}\nsource_profile = base\nrole_session_name = from-file\n"
    )
    env = clean_env(AWS_CONFIG_FILE=str(config), AWS_PROFILE="machine", AWS_ENDPOINT_URL=world.server.endpoint, AWS_DEFAULT_REGION="us-east-1")
    env["HOME"] = str(tmp_path)  # aws-cli keeps sessions of roles in ~/.aws/cli/cache.
    env["AWS_SHARED_CREDENTIALS_FILE"] = "/dev/null"
    assert run([tool("aws"), "s3", "cp", f"s3://{DATA}/k", "-"], env).stdout == "acme"
    assert ":assumed-role/machine/" in run([tool("aws"), "sts", "get-caller-identity"], env).stdout


@pytest.mark.parametrize("client", ["rclone", "s3cmd"])
def test_other_clients_take_a_session_token(world, client, tmp_path):
    session = world.session()
    source = tmp_path / "file"
    source.write_bytes(some_bytes(300_000))
    if client == "rclone":
        env = clean_env(
            RCLONE_CONFIG="/dev/null", RCLONE_CONFIG_HERE_TYPE="s3", RCLONE_CONFIG_HERE_PROVIDER="Other", RCLONE_CONFIG_HERE_ENDPOINT=world.server.endpoint,
            RCLONE_CONFIG_HERE_ACCESS_KEY_ID=session.key.id, RCLONE_CONFIG_HERE_SECRET_ACCESS_KEY=session.key.secret,
            RCLONE_CONFIG_HERE_SESSION_TOKEN=session.token, RCLONE_S3_NO_CHECK_BUCKET="true",
        )  # fmt: skip
        run([tool("rclone"), "copyto", source, f"here:{DATA}/by-rclone"], env)
        back = run([tool("rclone"), "copyto", f"here:{DATA}/by-rclone", tmp_path / "back"], env)
    else:
        config = tmp_path / "s3cfg"
        host = f"127.0.0.1:{world.server.s3_port}"
        config.write_text(
            f"[default]\naccess_key = {session.key.id}\nsecret_key = {session.key.secret}\naccess_token = {session.token}\n"
            f"host_base = {host}\nhost_bucket = {host}/%(bucket)\nuse_https = False\nsignature_v2 = False\n"
        )
        run([tool("s3cmd"), "-c", config, "put", source, f"s3://{DATA}/by-s3cmd"], clean_env())
        back = run([tool("s3cmd"), "-c", config, "get", "--force", f"s3://{DATA}/by-s3cmd", tmp_path / "back"], clean_env())
    assert (tmp_path / "back").read_bytes() == source.read_bytes(), back.stderr
