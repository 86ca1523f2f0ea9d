"""Tokens for tests, good ones and others, and who issues them."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.testing import bind_unused_port
from tornado.web import RequestHandler

from node.auth import Auth, Unauthorized
from node.server import PublicApplication
from tests.processes import HOST

SECRET = "a secret of the tests, long enough for anybody"
ISSUER, AUDIENCE = "https://id.example/", "parallax"
HS256 = {"auth_algorithms": "HS256", "auth_secret": SECRET, "auth_issuer": ISSUER, "auth_audience": AUDIENCE}
MAKE, TABLE_SIZE, HOSTED, ON_DELETE = 6, 8, 4, 29


@cache
def private_key(kid: str) -> Any:
    """A key pair; its name says of which kind it is."""
    if kid.startswith("ec"):
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, 1024 if kid.startswith("short") else 2048)


def jwk(kid: str) -> dict[str, Any]:
    kind: Any = jwt.algorithms.ECAlgorithm if kid.startswith("ec") else jwt.algorithms.RSAAlgorithm
    return {**kind.to_jwk(private_key(kid).public_key(), as_dict=True), "kid": kid, "use": "sig"}


def key_set(*kids: str) -> bytes:
    return json.dumps({"keys": [jwk(kid) for kid in kids]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims, but for some; None leaves one out."""
    good = {"exp": int(time.time()) + 600, "iss": ISSUER, "aud": AUDIENCE, "read": ["flights", "risk_*"]}
    return {name: value for name, value in (good | changes).items() if value is not None}


def token(kid: str | None = None, *, secret: str = SECRET, **changes: Any) -> str:
    """A token that a key signed, or the secret if none is named."""
    if kid is None:
        return jwt.encode(claims(**changes), secret, "HS256")
    return jwt.encode(claims(**changes), private_key(kid), "ES256" if kid.startswith("ec") else "RS256", {"kid": kid})


def by_hand(header: dict[str, Any], sign: Callable[[bytes], bytes], **changes: Any) -> str:
    """A token as no library would make it."""

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    text = encoded(json.dumps(header).encode()) + b"." + encoded(json.dumps(claims(**changes)).encode())
    return (text + b"." + encoded(sign(text))).decode()


def request(uri: str = "/websocket", **headers: str) -> HTTPServerRequest:
    return HTTPServerRequest(
        start_line=RequestStartLine("GET", uri, "HTTP/1.1"), headers=HTTPHeaders({"Host": HOST, **headers})
    )


def bearer(value: str) -> HTTPServerRequest:
    return request(Authorization=f"Bearer {value}")


async def refused(auth: Auth, asked: HTTPServerRequest) -> str:
    with pytest.raises(Unauthorized) as found:
        await auth.admit(asked)
    return found.value.reason


def signed_by(secret: str | bytes) -> Callable[[bytes], bytes]:
    key = secret.encode() if isinstance(secret, str) else secret
    return lambda text: hmac.digest(key, text, hashlib.sha256)


class Issuer:
    """Serves a key set; `says` may be changed."""

    def __init__(self) -> None:
        self.asked = 0
        self.status, self.says, self.headers = 200, key_set("rsa"), {"Content-Type": "application/json"}
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        issuer = self

        class Handler(RequestHandler):
            async def get(self) -> None:
                issuer.asked += 1
                await issuer.may_answer.wait()
                self.set_status(issuer.status if self.request.path == "/keys" else 200)
                for name, value in issuer.headers.items():
                    self.set_header(name, value)
                self.finish(issuer.says)

        sock, self.port = bind_unused_port(address=HOST)
        self.url = f"http://{HOST}:{self.port}/keys"
        self._server = HTTPServer(PublicApplication([(r"/.*", Handler)]))
        self._server.add_sockets([sock])

    async def close(self) -> None:
        self.may_answer.set()
        self._server.stop()
        await self._server.close_all_connections()
