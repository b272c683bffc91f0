"""An identity provider of our own, because it can lie.

Discovery and keys on loopback, tokens signed by `cryptography`, and a switch for
everything a provider, or somebody in its place, can do wrong.
"""

import hashlib
import hmac
import http.server
import json
import threading
import time
import uuid

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from paseto import b64

AUDIENCE = "ringfence"


def number(n, length=None):
    return b64(n.to_bytes(length or (n.bit_length() + 7) // 8, "big"))


class SigningKey:
    """A key with its JWK."""

    def __init__(self, alg, kid=None, bits=2048):
        self.alg, self.kid = alg, kid or f"{alg.lower()}-{uuid.uuid4().hex[:8]}"
        self.private = {
            "EdDSA": ed25519.Ed25519PrivateKey.generate,
            "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "RS256": lambda: rsa.generate_private_key(65537, bits),
        }[alg]()

    @property
    def public(self):
        return self.private.public_key()

    def jwk(self, **more):
        public = self.public
        if self.alg == "EdDSA":
            said = {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes(Encoding.Raw, PublicFormat.Raw))}
        elif self.alg == "ES256":
            point = public.public_numbers()
            said = {"kty": "EC", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32)}
        else:
            numbers = public.public_numbers()
            said = {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e)}
        return said | {"kid": self.kid, "alg": self.alg, "use": "sig"} | more

    def thumbprint(self):
        """RFC 7638."""
        names = {"OKP": ["crv", "kty", "x"], "EC": ["crv", "kty", "x", "y"], "RSA": ["e", "kty", "n"]}
        jwk = self.jwk()
        canonical = json.dumps({name: jwk[name] for name in names[jwk["kty"]]}, separators=(",", ":"))
        return b64(hashlib.sha256(canonical.encode()).digest())

    def pem(self):
        return self.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, message):
        if self.alg == "EdDSA":
            return self.private.sign(message)
        if self.alg == "ES256":
            r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return self.private.sign(message, padding.PKCS1v15(), hashes.SHA256())


class Idp:
    """One issuer. `answers` replaces what a path answers: (status, headers, body)."""

    def __init__(self, algorithms=("EdDSA", "ES256", "RS256")):
        self.keys = [SigningKey(alg) for alg in algorithms]
        self.answers, self.asked, self.delay_s = {}, [], 0.0
        self.gave_up = threading.Event()
        idp = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                idp.asked.append(self.path)
                idp.gave_up.wait(idp.delay_s) if idp.delay_s else None
                status, headers, body = idp.answer(self.path)
                try:
                    self.send_response(status)
                    for name, value in ({"Content-Type": "application/json", "Content-Length": len(body)} | headers).items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # Who asked did not wait.

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        """Nobody answers there any more."""
        self.gave_up.set()
        self.server.shutdown()
        self.server.server_close()

    def answer(self, path):
        if path in self.answers:
            status, headers, body = self.answers[path]
            return status, headers, body if isinstance(body, bytes) else json.dumps(body).encode()
        if path == "/.well-known/openid-configuration":
            return 200, {}, json.dumps(self.discovery()).encode()
        if path == "/jwks":
            return 200, {}, json.dumps(self.jwks()).encode()
        return 404, {}, b"{}"

    def discovery(self, **more):
        return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"} | more

    def jwks(self):
        return {"keys": [key.jwk() for key in self.keys]}

    def key(self, alg="EdDSA"):
        return next(key for key in self.keys if key.alg == alg)

    # -- tokens ---------------------------------------------------------------

    def claims(self, sub="ann", life_s=600, **more):
        """Good claims; None as a value leaves one out."""
        now = int(time.time())
        said = {"iss": self.url, "sub": sub, "aud": AUDIENCE, "iat": now, "exp": now + life_s, "jti": uuid.uuid4().hex}
        return {name: value for name, value in (said | more).items() if value is not None}

    def token(self, sub="ann", key=None, header=None, **claims):
        """A token; good unless `header` or claims say otherwise."""
        key = key or self.key()
        head = {"alg": key.alg, "typ": "JWT", "kid": key.kid} | (header or {})
        head = {name: value for name, value in head.items() if value is not None}
        return self.signed(json.dumps(head), json.dumps(self.claims(sub, **claims)), key)

    @staticmethod
    def signed(header, claims, key):
        """These very texts, signed."""
        head = b64(header if isinstance(header, bytes) else header.encode())
        message = f"{head}.{b64(claims if isinstance(claims, bytes) else claims.encode())}"
        return f"{message}.{b64(key.sign(message.encode()))}"

    def with_hmac(self, secret, **claims):
        """HS256 with something public for a secret."""
        head = json.dumps({"alg": "HS256", "typ": "JWT", "kid": self.key().kid})
        message = f"{b64(head.encode())}.{b64(json.dumps(self.claims(**claims)).encode())}"
        return f"{message}.{b64(hmac.new(secret, message.encode(), hashlib.sha256).digest())}"
