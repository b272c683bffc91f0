"""What a session costs: the time of AssumeRoleWithWebIdentity without witnesses
and with three of them (two must cosign) on loopback, and a small GET by static
key beside the same by session.

    RINGFENCE_BIN=target/release/ringfence .venv/bin/python tests/session_latency.py

Not a test: it prints figures of this machine, now (docs/performance.md).
"""

import concurrent.futures
import http.client
import statistics
import sys
import time

import sts
import witness
from sts import arn, web_identity

ROUNDS, AT_ONCE, GETS, PAIRS = 400, 8, 2000, 5


def issue(world):
    tokens = [world.idps["acme"].token("ann") for _ in range(ROUNDS)]
    web_identity(world.server, arn("acme", "worker"), tokens[0])

    def one(token):
        begun = time.perf_counter()
        answer = web_identity(world.server, arn("acme", "worker"), token)
        assert answer.status == 200, answer
        return time.perf_counter() - begun

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        taken = sorted(pool.map(one, tokens))
    return [1000 * taken[int(len(taken) * share) - 1] for share in (0.5, 0.95, 0.99)]


def presigned(client):
    url = client.generate_presigned_url("get_object", {"Bucket": "acme-data", "Key": "small"}, ExpiresIn=900)
    return url.split("/", 3)[3]


def gets(world, path):
    connection = http.client.HTTPConnection("127.0.0.1", world.server.s3_port)
    begun = time.perf_counter()
    for _ in range(GETS):
        connection.request("GET", f"/{path}")
        answer = connection.getresponse()
        assert answer.status == 200 and len(answer.read()) == 4096
    return GETS / (time.perf_counter() - begun)


def cached(world):
    world.server.client("acme").put_object(Bucket="acme-data", Key="small", Body=bytes(4096))
    static, session = presigned(world.server.client("acme")), presigned(world.session().s3(world.server))
    gets(world, static), gets(world, session)
    ratios = [gets(world, session) / gets(world, static) for _ in range(PAIRS)]
    return statistics.median(ratios)


def main():
    with sts.world() as world:
        print("without witnesses: p50 {:.0f} ms, p95 {:.0f} ms, p99 {:.0f} ms".format(*issue(world)))
        print(f"GET 4 KiB, one connection, by session against by static key: {cached(world):.3f}")
        vkey = (world.server.data / "log" / "log.vkey").read_text()
        watching = [witness.Witness(vkey, f"witness.example/{n}").start() for n in range(3)]
        try:
            world.more = "".join(sts.table("witness", key=one.vkey, url=one.url) for one in watching)
            world.configure(world.config())
            chosen = [part for one in watching for part in ("--witness", one.vkey)]
            world.server.cli("log", "witnesses", "--require", "2", *chosen)
            print("three witnesses, two must cosign: p50 {:.0f} ms, p95 {:.0f} ms, p99 {:.0f} ms".format(*issue(world)))
        finally:
            for one in watching:
                one.remove()


if __name__ == "__main__":
    sys.exit(main())
