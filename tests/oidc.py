"""A real OpenID provider for each realm: npm oidc-provider, on loopback.

`idp.py` makes tokens that a real provider never would; here are those it does.
"""

import base64
import contextlib
import json
import secrets
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from harness import clean_env, free_port, tool

SERVICES = Path(__file__).parent / "services"
AUDIENCE = "ringfence"


class Providers:
    """One process with an issuer for each name. A restart gives new keys."""

    def __init__(self, *names):
        self.ports = {name: free_port() for name in names}
        self.client, self.secret = "batch-job", secrets.token_hex(16)
        self.process = None

    def url(self, name):
        """The issuer."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, deadline_s=60):
        realms = [f"{name}={port}" for name, port in self.ports.items()]
        command = [tool("node"), str(SERVICES / "oidc.mjs"), self.client, self.secret, *realms]
        self.process = subprocess.Popen(
            command, env=clean_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        lines = []

        def read():
            for line in self.process.stdout:
                lines.append(line)
                if line.strip() == "ready":
                    ready.set()

        ready = threading.Event()
        threading.Thread(target=read, daemon=True).start()
        if not ready.wait(deadline_s):
            self.stop()
            raise RuntimeError("the identity provider does not start:\n" + "".join(lines[-20:]))
        return self

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(20)
            self.process = None

    def restart(self):
        self.stop()
        return self.start()

    def token(self, name, audience=AUDIENCE, algorithm="RS256"):
        """An access token of that issuer for its client (RFC 6749, 4.4; RFC 8707)."""
        form = {"grant_type": "client_credentials", "scope": "s3", "resource": f"urn:x:{audience}:{algorithm}"}
        credentials = base64.b64encode(f"{self.client}:{self.secret}".encode()).decode()
        request = urllib.request.Request(f"{self.url(name)}/token", urllib.parse.urlencode(form).encode())
        request.add_header("Authorization", f"Basic {credentials}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return json.load(answer)["access_token"]


@contextlib.contextmanager
def providers(*names):
    """Running providers."""
    running = Providers(*names)
    try:
        yield running.start()
    finally:
        running.stop()
