"""Real clients, unchanged: what they upload is what they get back, byte by byte."""

import json
import shutil

import pytest
from boto3.s3.transfer import TransferConfig

from harness import build_tree, clean_env, run, some_bytes, tool, tree_of, unique


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return build_tree(tmp_path_factory.mktemp("tree") / "source")


# --- aws-cli --------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws(server):
    env = server.client_env()

    def call(*arguments, **more):
        return run([tool("aws"), *arguments], env, **more)

    return call


def test_aws_cli_makes_syncs_compares_and_removes(aws, server, tree, tmp_path):
    name = unique()
    aws("s3", "mb", f"s3://{name}")
    aws("s3", "sync", tree, f"s3://{name}/some prefix/", "--only-show-errors")
    assert aws("s3", "sync", tree, f"s3://{name}/some prefix/").stdout == "", "a second sync has nothing to do"
    aws("s3", "sync", f"s3://{name}/some prefix/", tmp_path / "back", "--only-show-errors")
    assert tree_of(tmp_path / "back") == tree_of(tree)
    listing = aws("s3", "ls", "--recursive", f"s3://{name}/").stdout.splitlines()
    assert len(listing) == len(tree_of(tree))
    refused = aws("s3", "rb", f"s3://{name}", check=False)
    assert refused.returncode != 0 and "BucketNotEmpty" in refused.stderr
    aws("s3", "rb", f"s3://{name}", "--force")
    assert name not in aws("s3", "ls").stdout


def test_aws_cli_copies_moves_and_streams(aws, server, tree, tmp_path):
    name = unique()
    aws("s3", "mb", f"s3://{name}")
    large = tree / "large.bin"
    aws("s3", "cp", large, f"s3://{name}/a", "--only-show-errors")
    aws("s3", "cp", f"s3://{name}/a", f"s3://{name}/b", "--only-show-errors")
    aws("s3", "mv", f"s3://{name}/b", f"s3://{name}/c d", "--only-show-errors")
    aws("s3", "cp", f"s3://{name}/c d", tmp_path / "c", "--only-show-errors")
    assert (tmp_path / "c").read_bytes() == large.read_bytes()
    run([tool("aws"), "s3", "cp", "-", f"s3://{name}/stdin"], server.client_env(), stdin="from a pipe")
    assert aws("s3", "cp", f"s3://{name}/stdin", "-").stdout == "from a pipe"
    assert [line.split(None, 3)[3] for line in aws("s3", "ls", f"s3://{name}").stdout.splitlines()] == ["a", "c d", "stdin"]


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_aws_cli_uploads_in_parts_with_every_checksum(aws, tree, algorithm, tmp_path):
    name = unique()
    aws("s3", "mb", f"s3://{name}")
    aws("s3", "cp", tree / "large.bin", f"s3://{name}/k", "--checksum-algorithm", algorithm, "--only-show-errors")
    aws("s3", "cp", f"s3://{name}/k", tmp_path / "k", "--checksum-mode", "ENABLED", "--only-show-errors")
    assert (tmp_path / "k").read_bytes() == (tree / "large.bin").read_bytes()


def test_aws_cli_presigns_what_anybody_may_fetch(aws, server, tmp_path):
    from urllib.request import urlopen

    name = unique()
    aws("s3", "mb", f"s3://{name}")
    (tmp_path / "f").write_bytes(b"shared")
    aws("s3", "cp", tmp_path / "f", f"s3://{name}/a b+c")
    # In us-east-1 SDKs still presign with SigV2 unless told otherwise, which we leave out.
    url = aws("s3", "presign", f"s3://{name}/a b+c", "--expires-in", "60", "--region", "eu-central-1").stdout.strip()
    with urlopen(url) as answer:
        assert answer.read() == b"shared"


def test_aws_cli_s3api_speaks_to_every_operation_of_the_data_path(aws, server, tmp_path):
    name = unique()
    (tmp_path / "f").write_bytes(b"hello")
    aws("s3api", "create-bucket", "--bucket", name, "--create-bucket-configuration", "LocationConstraint=home")
    assert json.loads(aws("s3api", "get-bucket-location", "--bucket", name).stdout) == {"LocationConstraint": "home"}
    aws("s3api", "put-object", "--bucket", name, "--key", "k", "--body", tmp_path / "f", "--if-none-match", "*", "--tagging", "a=b")
    again = aws("s3api", "put-object", "--bucket", name, "--key", "k", "--body", tmp_path / "f", "--if-none-match", "*", check=False)
    assert "PreconditionFailed" in again.stderr
    tags = json.loads(aws("s3api", "get-object-tagging", "--bucket", name, "--key", "k").stdout)
    assert tags["TagSet"] == [{"Key": "a", "Value": "b"}]
    refused = aws("s3api", "put-bucket-versioning", "--bucket", name, "--versioning-configuration", "Status=Enabled", check=False)
    assert refused.returncode != 0 and "NotImplemented" in refused.stderr
    aws("s3api", "delete-objects", "--bucket", name, "--delete", json.dumps({"Objects": [{"Key": "k"}]}))
    aws("s3api", "delete-bucket", "--bucket", name)


# --- rclone ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def rclone(server, tmp_path_factory):
    key = server.key()
    config = tmp_path_factory.mktemp("rclone") / "rclone.conf"
    config.write_text(
        f"[r]\ntype = s3\nprovider = Other\naccess_key_id = {key.id}\nsecret_access_key = {key.secret}\n"
        f"endpoint = {server.endpoint}\nregion = us-east-1\nforce_path_style = true\n"
    )

    def call(*arguments, **more):
        base = [tool("rclone"), "--config", config, "--retries", "1", "--low-level-retries", "1"]
        return run([*base, *arguments], clean_env(), **more)

    return call


def test_rclone_syncs_checks_and_copies_on_the_server(rclone, tree, tmp_path):
    name = unique()
    rclone("mkdir", f"r:{name}")
    rclone("sync", tree, f"r:{name}/up", "--s3-chunk-size", "5M", "--s3-upload-cutoff", "6M")
    rclone("check", tree, f"r:{name}/up")
    rclone("check", "--download", tree, f"r:{name}/up")
    idle = rclone("sync", tree, f"r:{name}/up", "-v")
    assert "Transferred:   \t          0 B" in idle.stderr or "There was nothing to transfer" in idle.stderr, idle.stderr
    rclone("copy", f"r:{name}/up", f"r:{name}/copy", "--s3-copy-cutoff", "6M", "--s3-chunk-size", "5M")
    rclone("check", f"r:{name}/up", f"r:{name}/copy")
    rclone("sync", f"r:{name}/copy", tmp_path / "back")
    assert tree_of(tmp_path / "back") == tree_of(tree)
    sizes = json.loads(rclone("size", "--json", f"r:{name}/copy").stdout)
    assert (sizes["count"], sizes["bytes"]) == (len(tree_of(tree)), sum(map(len, tree_of(tree).values())))
    rclone("moveto", f"r:{name}/copy/large.bin", f"r:{name}/moved")
    rclone("purge", f"r:{name}")
    assert name not in rclone("lsd", "r:").stdout


def test_rclone_keeps_modification_times(rclone, tree):
    name = unique()
    rclone("copy", tree / "dir 0", f"r:{name}/t")
    local = {e["Path"]: e["ModTime"][:19] for e in json.loads(rclone("lsjson", "-R", "--files-only", tree / "dir 0").stdout)}
    there = {e["Path"]: e["ModTime"][:19] for e in json.loads(rclone("lsjson", "-R", "--files-only", f"r:{name}/t").stdout)}
    assert local.keys() == there.keys()
    first = rclone("lsl", f"r:{name}/t").stdout
    assert rclone("check", tree / "dir 0", f"r:{name}/t") and first


# --- restic -----------------------------------------------------------------------


def test_restic_backs_up_checks_prunes_and_restores(server, tree, tmp_path):
    name = unique()
    env = server.client_env(RESTIC_REPOSITORY=f"s3:{server.endpoint}/{name}/repo", RESTIC_PASSWORD="password", RESTIC_CACHE_DIR=str(tmp_path / "cache"))

    def restic(*arguments):
        return run([tool("restic"), *arguments], env, cwd=tree.parent)

    work = tmp_path / "work"
    shutil.copytree(tree, work / "source")
    restic("init")
    restic("backup", tree)
    (tree.parent / "more.txt").write_bytes(some_bytes(300_000))
    restic("backup", tree, tree.parent / "more.txt")
    restic("check", "--read-data")
    restic("restore", "latest", "--target", tmp_path / "restored")
    assert tree_of(tmp_path / "restored" / tree.relative_to("/")) == tree_of(tree)
    restic("forget", "--keep-last", "1", "--prune")
    restic("check", "--read-data")
    assert len(json.loads(restic("snapshots", "--json").stdout)) >= 1


# --- s3cmd ------------------------------------------------------------------------


def test_s3cmd_puts_syncs_and_gets(server, tree, tmp_path):
    key = server.key()
    config = tmp_path / "s3cfg"
    config.write_text(
        f"[default]\naccess_key = {key.id}\nsecret_key = {key.secret}\nhost_base = 127.0.0.1:{server.s3_port}\n"
        f"host_bucket = 127.0.0.1:{server.s3_port}\nuse_https = False\nsignature_v2 = False\nmultipart_chunk_size_mb = 5\n"
    )

    def s3cmd(*arguments, **more):
        return run([tool("s3cmd"), "-c", config, *arguments], clean_env(LC_ALL="C.UTF-8"), **more)

    name = unique()
    s3cmd("mb", f"s3://{name}")
    s3cmd("sync", "--no-progress", f"{tree}/", f"s3://{name}/up/")
    (tmp_path / "back").mkdir()
    s3cmd("sync", "--no-progress", f"s3://{name}/up/", f"{tmp_path}/back/")
    assert tree_of(tmp_path / "back") == tree_of(tree)
    s3cmd("cp", f"s3://{name}/up/large.bin", f"s3://{name}/copied")
    s3cmd("get", "--no-progress", f"s3://{name}/copied", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == (tree / "large.bin").read_bytes()
    assert "MD5 sum" in s3cmd("info", f"s3://{name}/copied").stdout
    s3cmd("modify", "--add-header=Cache-Control: max-age=5", f"s3://{name}/copied")
    # `info` does not print this header: another client tells.
    assert server.client().head_object(Bucket=name, Key="copied")["CacheControl"] == "max-age=5"
    s3cmd("del", "--recursive", "--force", f"s3://{name}/")
    s3cmd("rb", f"s3://{name}")


# --- boto3 ------------------------------------------------------------------------


@pytest.mark.parametrize("checksums", [True, False], ids=["today", "before 2025"])
def test_boto3_transfers_in_parallel_parts(server, s3, tmp_path, checksums, bucket):
    client = server.client(checksums=checksums)
    config = TransferConfig(multipart_threshold=6 * 2**20, multipart_chunksize=5 * 2**20, max_concurrency=8)
    data = some_bytes(23 * 2**20 + 17)
    (tmp_path / "f").write_bytes(data)
    client.upload_file(str(tmp_path / "f"), bucket, "k", Config=config, ExtraArgs={"Metadata": {"a": "b"}})
    client.download_file(bucket, "k", str(tmp_path / "g"), Config=config)
    assert (tmp_path / "g").read_bytes() == data
    client.copy({"Bucket": bucket, "Key": "k"}, bucket, "copy", Config=config)
    client.download_file(bucket, "copy", str(tmp_path / "h"), Config=config)
    assert (tmp_path / "h").read_bytes() == data
    assert client.head_object(Bucket=bucket, Key="copy")["ContentLength"] == len(data)


def test_two_clients_share_one_bucket(aws, rclone, tree, tmp_path):
    name = unique()
    rclone("copy", tree / "dir 1", f"r:{name}/x")
    aws("s3", "cp", "--recursive", f"s3://{name}/x", tmp_path / "back", "--only-show-errors")
    assert tree_of(tmp_path / "back") == tree_of(tree / "dir 1")
