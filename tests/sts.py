"""Sessions on the wire: asks our STS byte for byte, and holds what it gives.

`World` is an installation with two realms, three tenants, an identity provider
for each, and roles; files of session tests share it.
"""

import contextlib
import datetime
import json
import re
import shutil
from dataclasses import dataclass
from urllib.parse import urlencode

import boto3
from botocore.config import Config

import idp as idps
import paseto
import sigv4
from harness import Server, new_home
from sigv4 import Key, Signer

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
FORM = "application/x-www-form-urlencoded; charset=utf-8"


@dataclass
class Answer:
    """What STS said."""

    http: sigv4.Response

    @property
    def status(self):
        return self.http.status

    @property
    def code(self):
        """The error's code, or None."""
        root = self.http.xml if self.http.body.lstrip().startswith(b"<") else None
        return root.findtext("Error/Code") if root is not None and root.tag == "ErrorResponse" else None

    @property
    def message(self):
        return self.http.xml.findtext("Error/Message")

    @property
    def request_id(self):
        root = self.http.xml
        return root.findtext("RequestId") or root.findtext("ResponseMetadata/RequestId")

    def find(self, name):
        found = self.http.xml.find(f".//{name}")
        return None if found is None else found.text

    @property
    def session(self):
        assert self.status == 200, f"no session: {self}"
        key = Key(self.find("AccessKeyId"), self.find("SecretAccessKey"))
        expires = datetime.datetime.fromisoformat(self.find("Expiration"))
        return Session(key, self.find("SessionToken"), expires, self.find("Arn"))

    def __str__(self):
        return f"{self.status} {self.code or ''} {self.http.body[:500]!r}"


@dataclass(frozen=True)
class Session:
    key: Key
    token: str
    expires: datetime.datetime
    arn: str = ""

    def signer(self, **more):
        return Signer(self.key, token=self.token, **more)

    @property
    def parsed(self):
        return paseto.Token.parse(self.token)

    @property
    def claims(self):
        return self.parsed.claims

    @property
    def index(self):
        return self.parsed.receipt.index

    def but(self, token=None, key=None):
        """The same with another token or key."""
        return Session(key or self.key, token or self.token, self.expires, self.arn)

    def raw(self, server, method, bucket=None, key=None, **more):
        return server.raw(method, bucket, key, signer=self.signer(), **more)

    def works(self, server, bucket, key="k"):
        return self.raw(server, "GET", bucket, key).status == 200

    def s3(self, server, **config):
        """boto3 with these credentials."""
        return boto3.session.Session().client(
            "s3", endpoint_url=server.endpoint, region_name="us-east-1",
            aws_access_key_id=self.key.id, aws_secret_access_key=self.key.secret, aws_session_token=self.token,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, max_pool_connections=64, **config),
        )  # fmt: skip


def arn(tenant, role):
    return f"arn:ringfence:iam::{tenant}:role/{role}"


def send(server, parameters, signer=None, method="POST", path="/", headers=None, unsigned=None, body=None, host=None):
    """One request as given; signed if there is a signer."""
    text = parameters if isinstance(parameters, str) else urlencode(parameters)
    headers = {"Host": host or f"127.0.0.1:{server.s3_port}"} | (headers or {})
    query = []
    if method == "GET":
        query, data, target = [tuple(pair.split("=", 1)) for pair in text.split("&")], b"", f"{path}?{text}"
    else:
        data, target = (text.encode() if body is None else body), path
        headers.setdefault("Content-Type", FORM)
    if signer:
        signer.header(method, path, query, headers, sigv4.hashlib.sha256(data).hexdigest())
    headers |= unsigned or {}
    if method == "POST":
        headers["Content-Length"] = len(data)
    return Answer(sigv4.send(server.address, method, target, headers, data))


def web_identity(server, role, token, duration=None, policy=None, name="tests", **how):
    parameters = {
        "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": role,
        "RoleSessionName": name, "WebIdentityToken": token,
    }  # fmt: skip
    parameters |= {"DurationSeconds": duration} if duration else {}
    parameters |= {"Policy": policy if isinstance(policy, str) else json.dumps(policy)} if policy else {}
    return send(server, parameters, **how)


def assume_role(server, role, signer, duration=None, policy=None, name="tests", **how):
    parameters = {"Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": role, "RoleSessionName": name}
    parameters |= {"DurationSeconds": duration} if duration else {}
    parameters |= {"Policy": policy if isinstance(policy, str) else json.dumps(policy)} if policy else {}
    signer.service = "sts"
    return send(server, parameters, signer=signer, **how)


def identity(server, signer, **how):
    signer.service = "sts"
    return send(server, {"Action": "GetCallerIdentity", "Version": "2011-06-15"}, signer=signer, **how)


def policy(*statements):
    return {"Version": "2012-10-17", "Statement": list(statements)}


def allow(actions, *resources):
    return {"Effect": "Allow", "Action": actions, "Resource": [f"arn:aws:s3:::{r}" if r != "*" else r for r in resources or ["*"]]}


def deny(actions, *resources):
    return allow(actions, *resources) | {"Effect": "Deny"}


# --- the configuration ------------------------------------------------------------------


def table(kind, /, **fields):
    """One entry of a list of tables; JSON's values are TOML's here."""

    def said(value):
        if isinstance(value, dict):
            return "{ " + ", ".join(f"{json.dumps(k)} = {said(v)}" for k, v in value.items()) + " }"
        return json.dumps(value)

    return f"\n[[{kind}]]\n" + "".join(f"{k} = {said(v)}\n" for k, v in fields.items() if v is not None)


def issuer(name, tenant, idp, realm=None, **more):
    fields = {
        "name": name, "url": idp if isinstance(idp, str) else idp.url, "tenant": tenant,
        "audience": idps.AUDIENCE, "algorithms": ["EdDSA", "ES256", "RS256"], "max_token_age_s": 3600,
        "claims": ["groups"], "allow_loopback_http": True,
    }  # fmt: skip
    return table("issuer", **(fields | ({"realm": realm} if realm else {}) | more))


def role(tenant, name, issuers, **more):
    fields = {
        "tenant": tenant, "name": name, "issuers": issuers, "subjects": ["*"], "max_label": "confidential",
        "max_session_s": 3600, "actions": ["s3:*"], "resources": ["*"],
    }  # fmt: skip
    return table("role", **(fields | more))


def add_tenant(server, name, realm=None):
    server.cli("tenant", "add", name, *(["--realm", realm] if realm else []))


class World:
    """`acme` and `initech` in realm `home`, `globex` in realm `east`."""

    TENANTS = {"acme": "home", "initech": "home", "globex": "east"}

    def __init__(self, more="", **options):
        self.home = new_home()
        self.server = Server(self.home / "data", **options)
        self.idps = {tenant: idps.Idp() for tenant in self.TENANTS}
        self.more = more

    def config(self):
        text = self.more
        for tenant, realm in self.TENANTS.items():
            own = [f"{tenant}-idp"]
            text += f'\n[[tenant]]\nname = "{tenant}"\ndefault_label = "internal"\n'
            text += issuer(own[0], tenant, self.idps[tenant], realm)
            text += role(tenant, "worker", own)
            text += role(tenant, "keeper", own, max_label="restricted", max_session_s=900)
            text += role(tenant, "reader", own, actions=["s3:GetObject", "s3:ListBucket"], max_label="internal")
            text += role(tenant, "admin", own, claims={"groups": ["admins"]})
            text += role(tenant, "service", own, subjects=["svc-*"])
            text += role(tenant, "machine", own, static_keys=True)
        return text

    def start(self):
        server = self.server.start()
        for tenant, realm in self.TENANTS.items():
            add_tenant(server, tenant, realm if realm != "home" else None)
        self.configure(self.config())
        for tenant in self.TENANTS:
            client = server.client(tenant)
            client.create_bucket(Bucket=f"{tenant}-data")
            for label in ("public", "internal", "confidential"):
                client.put_object(Bucket=f"{tenant}-data", Key=label, Body=label.encode(), Tagging=f"ringfence-label={label}")
            client.put_object(Bucket=f"{tenant}-data", Key="k", Body=tenant.encode())
        return self

    def configure(self, text):
        """Puts issuers and roles behind the first configuration, and restarts."""
        server = self.server
        if server.is_alive():
            server.stop()
        file = server.data / "ringfence.toml"
        first = file.read_text().split("# --- of the tests\n")[0]
        file.write_text(f"{first}# --- of the tests\n{text}")
        server.start()

    def session(self, tenant="acme", role="worker", sub="ann", duration=None, policy=None, **claims):
        token = self.idps[tenant].token(sub, **claims)
        return web_identity(self.server, arn(tenant, role), token, duration, policy).session

    def ask(self, token, tenant="acme", role="worker", **more):
        return web_identity(self.server, arn(tenant, role), token, **more)

    def alarms(self, kind=None):
        found = self.server.cli_json("alarm", "list", "--since", "0")["alarms"]
        return [alarm for alarm in found if kind in (None, alarm.get("kind"))]

    def counted(self, kind):
        """How often an alarm was raised, as the metrics say."""
        text = self.server.admin("/metrics").body.decode()
        found = re.findall(rf'^ringfence_alarms_total\{{[^}}]*kind="{kind}"[^}}]*\}} (\S+)$', text, flags=re.M)
        return sum(map(float, found))

    def reason(self, answer):
        """What the record of a request says of why."""
        request_id = answer.request_id if isinstance(answer, Answer) else answer.headers["x-amz-request-id"]
        record = self.server.cli_json("log", "show", request_id)
        return json.dumps(record)

    def stop(self):
        self.server.kill()
        for idp in self.idps.values():
            idp.stop()
        shutil.rmtree(self.home, ignore_errors=True)


@contextlib.contextmanager
def world(**options):
    made = World(**options)
    try:
        yield made.start()
    finally:
        made.stop()
