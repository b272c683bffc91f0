#!/usr/bin/env python3
"""Runs the public conformance suite ceph/s3-tests against the real binary.

    tests/s3tests/run.py CHECKOUT [--list implemented|not-yet|excluded] [-k WORD]

CHECKOUT is a clone of the suite; it is not part of this project. Three lists
beside this script name every function of the suite once, with the reason why
it is not run. A function of `implemented` that fails, and one that no list
names, fail the run.
"""

import argparse
import ast
import configparser
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
FILES = ["test_s3.py", "test_headers.py"]
LISTS = ["implemented", "not-yet", "excluded"]
TENANTS = {"s3 main": "default", "s3 alt": "alt", "s3 tenant": "testx", "iam": "iam", "iam root": "root", "iam alt root": "altroot"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=pathlib.Path)
    parser.add_argument("--list", choices=LISTS, default="implemented")
    parser.add_argument("-k", default="")
    parser.add_argument("--endpoint", help="HOST:PORT of a server that runs already, with --credentials FILE")
    parser.add_argument("--credentials", type=pathlib.Path)
    given = parser.parse_args()
    lists = {name: read_list(name) for name in LISTS}
    complete(given.checkout, lists)
    python = venv(given.checkout)
    wanted = [f"s3tests/functional/{test}" for test in lists[given.list] if given.k in test]
    if given.endpoint:
        return suite(given.checkout, python, given.endpoint, given.credentials, wanted)

    from harness import Server, new_home

    home = new_home()
    server = Server(home / "data")
    try:
        server.start()
        for tenant in list(TENANTS.values())[1:]:
            server.add_tenant(tenant)
        return suite(given.checkout, python, f"127.0.0.1:{server.s3_port}", server.credentials_file, wanted)
    finally:
        server.kill()
        shutil.rmtree(home, ignore_errors=True)


def read_list(name):
    """The functions of a list, `file::function`; reasons stand behind `#`."""
    lines = (HERE / f"{name}.txt").read_text().splitlines()
    found = [line.split("#")[0].strip() for line in lines]
    return [line for line in found if line]


def complete(checkout, lists):
    """Every function of the suite stands in exactly one list."""
    functions = set()
    for file in FILES:
        tree = ast.parse((checkout / "s3tests" / "functional" / file).read_text())
        functions |= {f"{file}::{n.name}" for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")}
    named = [test for tests in lists.values() for test in tests]
    twice = sorted({test for test in named if named.count(test) > 1})
    unknown = sorted(functions - set(named))
    if twice or unknown:
        sys.exit(f"in two lists: {twice}\nin no list: {unknown}")


def venv(checkout):
    folder = checkout / "venv"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", checkout / "requirements.txt"], check=True)
    return python


def suite(checkout, python, endpoint, credentials, wanted):
    keys = configparser.ConfigParser()
    keys.read(credentials)
    host, port = endpoint.rsplit(":", 1)
    config = configparser.RawConfigParser()
    config["DEFAULT"] = {"host": host, "port": port, "is_secure": "False", "ssl_verify": "False"}
    config["fixtures"] = {"bucket prefix": "s3tests-{random}-", "iam name prefix": "s3-tests-", "iam path prefix": "/s3-tests/"}
    for section, tenant in TENANTS.items():
        config[section] = {
            "display_name": tenant,
            "user_id": tenant,
            "email": f"{tenant}@example.com",
            "api_name": "",
            "tenant": tenant,
            "access_key": keys[tenant]["aws_access_key_id"],
            "secret_key": keys[tenant]["aws_secret_access_key"],
        }
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        config.write(file)
        file.flush()
        env = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {"S3TEST_CONF": file.name}
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", "-rfE", *wanted]
        return subprocess.run(command, cwd=checkout, env=env).returncode


if __name__ == "__main__":
    sys.exit(main())
