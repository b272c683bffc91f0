"""The life of the process: first start, what it prints, how it stops."""

import configparser
import os
import random
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import BINARY, clean_env, free_port, some_bytes
from sigv4 import send, until

SEED = int(os.environ.get("RINGFENCE_SEED", time.time_ns() % 1_000_000))


def test_the_first_start_makes_what_a_user_needs(new_server):
    server = new_server().start()
    assert (server.data / "ringfence.toml").is_file()
    parser = configparser.ConfigParser()
    parser.read(server.credentials_file)
    assert parser.sections() == ["default"] and parser["default"]["aws_access_key_id"]
    assert server.credentials_file.stat().st_mode & 0o777 == 0o600
    for site in ("home", "cloud"):
        assert (server.data / "sites" / site).is_dir()
    assert (server.data / "log" / "log.vkey").is_file() and (server.data / "log" / "checkpoint").is_file()
    printed = server.log_text()
    for words in ("aws", "rclone", "boto3", server.endpoint, "development"):
        assert words in printed, f"the first start tells about {words}"
    assert server.admin("/healthz").status == 200 and server.admin("/readyz").status == 200
    metrics = server.admin("/metrics")
    assert metrics.status == 200 and b"# TYPE" in metrics.body
    assert server.cli("config", "check").returncode == 0


def test_metrics_name_no_tenant_and_no_bucket(new_server):
    server = new_server().start()
    server.add_tenant("canary-tenant")
    server.client("canary-tenant").create_bucket(Bucket="canary-bucket")
    text = server.admin("/metrics").body
    assert b"canary" not in text and server.key().id.encode() not in text


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_drains_and_a_restart_keeps_everything(new_server, how):
    server = new_server().start()
    s3 = server.client()
    s3.create_bucket(Bucket="abc")
    data, answers = some_bytes(12 * 1024 * 1024), []
    for n in range(5):
        s3.put_object(Bucket="abc", Key=f"k{n}", Body=data[: n * 50_000])
    uploading = threading.Thread(target=lambda: answers.append(server.raw("PUT", "abc", "late", body=data)))
    uploading.start()
    uploading.join(0.05)
    assert server.stop(how) == 0, server.log_tail()
    uploading.join()
    server.start()
    s3 = server.client()
    for n in range(5):
        assert s3.get_object(Bucket="abc", Key=f"k{n}")["Body"].read() == data[: n * 50_000]
    if answers and answers[0].status == 200:
        assert s3.get_object(Bucket="abc", Key="late")["Body"].read() == data


def test_an_idle_connection_does_not_hold_up_a_stop(new_server):
    server = new_server().start()
    with socket.create_connection(server.address) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\n")
        assert server.stop(deadline_s=20) == 0


def test_a_listener_on_a_public_address_without_tls_is_refused(tmp_path):
    for flag, other in [("--s3", "--admin"), ("--admin", "--s3")]:
        command = [BINARY, "serve", "--data", tmp_path / "data", flag, f"0.0.0.0:{free_port()}", other, f"127.0.0.1:{free_port()}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean_env())
        assert done.returncode != 0 and done.stderr.strip() and "panicked" not in done.stderr, done


def test_a_taken_port_is_told_in_one_line(new_server):
    server = new_server().start()
    second = new_server()
    second.s3_port = server.s3_port
    second.spawn()
    until(lambda: second.process.poll() is not None, "the second server to give up")
    assert second.process.returncode != 0 and str(server.s3_port) in second.log_text()


@pytest.mark.parametrize(
    "line, words",
    [
        ("no_such_setting = 1", ["no_such_setting"]),
        ("[[site]]\nid = 'BAD ID'\n", []),
        ("not toml at all [", []),
    ],
)
def test_a_mistake_in_the_configuration_names_file_and_line(new_server, line, words):
    server = new_server().start()
    server.stop()
    config = server.data / "ringfence.toml"
    config.write_text(line + "\n" + config.read_text())
    done = server.cli("config", "check", check=False)
    assert done.returncode != 0
    told = done.stdout + done.stderr
    assert "ringfence.toml" in told and all(word in told for word in words) and "panicked" not in told, told
    server.spawn()
    until(lambda: server.process.poll() is not None, "the server to refuse")
    assert server.process.returncode != 0


def test_the_admin_port_serves_nothing_else(new_server):
    server = new_server().start()
    for path in ("/", "/credentials", "/../credentials", "/log/../credentials", "/log/%2e%2e/credentials", "/keyring", "/admin"):
        answer = send(("127.0.0.1", server.admin_port), "GET", path, {"Host": "127.0.0.1", "Connection": "close"})
        assert answer.status in (400, 404), f"{path}: {answer}"
        assert server.key().secret.encode() not in answer.body
    for method in ("POST", "PUT", "DELETE"):
        answer = send(("127.0.0.1", server.admin_port), method, "/log/checkpoint", {"Host": "127.0.0.1", "Content-Length": "0", "Connection": "close"})
        assert answer.status in (404, 405), f"{method}: {answer}"


def test_help_teaches(tmp_path):
    done = subprocess.run([BINARY, "--help"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0
    for word in ("serve", "demo", "where", "policy", "site", "log", "recover", "key", "keys", "config", "tenant"):
        assert word in done.stdout, f"--help does not name `{word}`"


def test_a_command_without_a_server_says_so(tmp_path):
    done = subprocess.run([BINARY, "tenant", "add", "x", "--data", tmp_path / "nothing"], capture_output=True, text=True, timeout=20, env=clean_env())
    assert done.returncode != 0 and done.stderr.strip() and "panicked" not in done.stderr


def test_a_first_start_that_is_killed_anywhere_is_completed_by_the_next(new_server):
    """One tenant, one key, one profile, and the key works."""
    chance = random.Random(SEED)
    for round in range(12):
        server = new_server()
        for _ in range(chance.choice([1, 1, 2, 3])):
            server.spawn()
            time.sleep(chance.uniform(0.005, 0.5))
            server.kill()
        server.start()
        server.client().list_buckets()
        assert server.credentials_file.read_text().count("[default]") == 1, f"round {round}, RINGFENCE_SEED={SEED}"
        assert len(server.cli_json("key", "list")["keys"]) == 1, f"round {round}, RINGFENCE_SEED={SEED}"
        server.kill()
