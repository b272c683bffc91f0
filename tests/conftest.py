"""Fixtures every test file shares. Each file gets an installation of its own."""

import shutil

import pytest

import harness
import sts
from harness import Server, new_home, unique


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in harness.running:
            report.sections.append((f"end of {server.log_path.name}", server.log_tail()))


@pytest.fixture(scope="module")
def server():
    """An installation that runs as long as the tests of one file, with a
    second tenant `other`."""
    home = new_home()
    server = Server(home / "data")
    try:
        server.start()
        server.add_tenant("other")
        yield server
    finally:
        server.kill()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def world():
    """An installation with two realms, three tenants, and an identity provider
    for each; see `sts.World`."""
    with sts.world() as made:
        yield made


@pytest.fixture
def new_server():
    """Makes installations for one test; they are killed and removed after it."""
    homes, servers = [], []

    def make(*arguments, **options):
        home = new_home()
        homes.append(home)
        servers.append(Server(home / "data", *arguments, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.kill()
    for home in homes:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def s3(server):
    return server.client()


@pytest.fixture
def bucket(s3):
    name = unique()
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(autouse=True)
def the_server_survives_every_test(request):
    """Whatever a test sent, the process of the file's server is still there."""
    yield
    shared = [request.getfixturevalue(name) for name in ("server", "world") if name in request.fixturenames]
    for server in (getattr(one, "server", one) for one in shared):
        assert server.is_alive(), "the server died"
        assert "panicked at" not in server.log_text(), "the server panicked"
