"""What we print for pasting works when it is pasted: the README's blocks, the
lines a start prints, and the commands that the Makefile builds on them.

A block or a section that nobody here knows fails: whoever adds one says what
it is.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess

import pytest

from harness import BIN, BINARY, ROOT, clean_env

README = (ROOT / "README.md").read_text()
# Where the README says that a start listens.
README_S3 = "127.0.0.1:9300"


def blocks():
    """The fenced blocks of the README, in order."""
    return re.findall(r"^```\w*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def kind_of(block):
    first = block.strip().split()[0] if block.strip() else ""
    if "─" in block:
        return "picture"
    return {"make": "make", "export": "shell", "aws": "shell"}.get(first, f"unknown, begins with `{first}`")


def paste(script, folder):
    """Runs lines as a user's shell does, stopping at the first that fails. The
    clients are the ones of the tests; nothing else of ours is in the way."""
    env = clean_env(AWS_CONFIG_FILE="/dev/null", PATH=f"{BIN}:{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"pasted:\n{script}\ncame to {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def checkout(tmp_path):
    """A folder that looks like this one to what is pasted in it."""
    shutil.copy(ROOT / "README.md", tmp_path)
    (tmp_path / "target" / "release").mkdir(parents=True)
    (tmp_path / "target" / "release" / "ringfence").symlink_to(BINARY)
    return tmp_path


def test_every_block_of_the_readme_is_known():
    assert [kind_of(block) for block in blocks()] == ["picture", "make", "shell"]


def test_the_lines_of_the_readme_do_what_they_say(new_server, checkout):
    server = new_server().start()
    (checkout / "ringfence-data").symlink_to(server.data)
    told = f"127.0.0.1:{server.s3_port}"
    [script] = [block for block in blocks() if kind_of(block) == "shell"]
    assert script.count(README_S3) >= 2, "the README names the address a start listens at"
    assert f'addr = "{README_S3}"' in (server.data / "ringfence.toml").read_text()
    printed = paste(script.replace(README_S3, told), checkout)
    assert "make_bucket: first" in printed and "s3://first/README.md" in printed and "internal" in printed, printed
    stored = server.client().get_object(Bucket="first", Key="README.md")["Body"].read()
    assert stored.decode() == README


# --- what a start prints -----------------------------------------------------------------------

HEADINGS = {"Ringfence is ready": "fields", "aws-cli": "shell", "rclone": "shell", "boto3": "shell"}


def sections(printed):
    """Heading → lines below it; what follows the last section by its first word."""
    found, current = {}, None
    for line in printed.splitlines():
        if line.startswith("  ") and current is not None:
            found[current].append(line.strip())
        elif line.startswith(("warning:", "Ctrl-C", "20")) or not line.strip():
            current = None
        else:
            current = line.strip()
            assert current not in found, f"`{current}` is printed twice"
            found[current] = []
    return found


def test_every_line_a_start_prints_for_pasting_works(new_server, checkout):
    server = new_server().start()
    printed = sections(server.log_text())
    [credentials] = [heading for heading in printed if heading.startswith("Credentials of tenant `default`")]
    assert set(printed) - {credentials} == set(HEADINGS), "a section nobody knows, or one that is gone"
    said = {}
    for heading, kind in HEADINGS.items():
        assert printed[heading], f"nothing below `{heading}`"
        if kind == "shell":
            said[heading] = paste("\n".join(printed[heading]), checkout)
    assert "make_bucket: first" in said["aws-cli"]
    assert "README.md" in said["rclone"]
    assert "'first'" in said["boto3"]


def test_a_start_says_where_everything_is_and_its_secret_once(new_server):
    server = new_server().start()
    first = server.log_text()
    fields = dict(line.split(None, 1) for line in sections(first)["Ringfence is ready"] if not line.startswith(("S3", "site")))
    assert fields["data"] == str(server.data.resolve()) and fields["config"] == f"{server.data.resolve()}/ringfence.toml"
    assert fields["credentials"].startswith(f"{server.data.resolve()}/credentials")
    assert f"S3 endpoint  {server.endpoint}" in first and f"http://127.0.0.1:{server.admin_port}" in fields["admin"]
    for site in ("home", "cloud"):
        assert re.search(rf"site {site} +(private|public), {re.escape(str(server.data.resolve()))}/sites/{site}", first)
    key = server.key()
    assert first.count(key.secret) == 1 and key.id in first
    assert "development key file" in first and "keys backup" in first and "Ctrl-C" in first
    server.stop(signal.SIGINT)
    server.log_path.unlink()
    server.start()
    second = server.log_text()
    assert key.secret not in second and "Credentials of tenant" not in second and "keys backup" not in second
    assert set(sections(second)) == set(HEADINGS)


def test_a_start_for_programs_prints_one_document(new_server):
    server = new_server("--json").start()
    [document] = [json.loads(line) for line in server.log_text().splitlines() if line.startswith("{")]
    assert document["endpoint"] == server.endpoint and document["credentials"] == str(server.credentials_file.resolve())
    assert server.key().secret not in server.log_text()


# --- make ----------------------------------------------------------------------------------------


def expanded(target):
    """The lines that `make TARGET` would run."""
    # Not the developer's choice of folders: the README's.
    env = {k: v for k, v in clean_env().items() if k not in ("CARGO_TARGET_DIR", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(["make", "-n", target], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.lstrip("@") for line in done.stdout.splitlines() if line.strip()]


def test_every_target_that_the_readme_names_is_one():
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"run", "demo", "test"} <= named
    for target in named:
        assert expanded(target), f"`make {target}` does nothing"


@pytest.mark.parametrize("target, command", [("run", "serve"), ("demo", "demo")])
def test_make_builds_and_starts_what_exists(target, command):
    build, start = map(shlex.split, expanded(target))
    assert shutil.which(build[0]) and build[1:2] == ["build"] and "--release" in build, build
    package = build[build.index("-p") + 1]
    metadata = subprocess.run(
        [build[0], "metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    [made] = [found for found in json.loads(metadata.stdout)["packages"] if found["name"] == package]
    binaries = [found["name"] for found in made["targets"] if "bin" in found["kind"]]
    assert start[:2] == ["exec", f"target/release/{binaries[0]}"] and start[2] == command, start
    # The same arguments, understood: an unknown one would come to 2.
    done = subprocess.run([BINARY, *start[2:], "--help"], env=clean_env(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    for flag in (word for word in start if word.startswith("--")):
        assert flag in done.stdout, f"`{command} --help` does not know `{flag}`"


def test_every_command_that_the_readme_names_exists():
    for line in set(re.findall(r"`ringfence ([a-z ]+)`", README)):
        done = subprocess.run([BINARY, *line.split(), "--help"], env=clean_env(), capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, f"`ringfence {line}`: {done.stderr}"
