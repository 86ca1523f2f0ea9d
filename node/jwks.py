"""The public keys that viewers' tokens are checked against: a JWKS (RFC 7517) in a file or at a URL."""

import asyncio
import json
import logging
import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jwt
from tornado.httpclient import HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

log = logging.getLogger(__name__)

PUBLIC = {"RS256": "RSA", "ES256": "EC"}
"""The algorithms with public keys, and what kind of key each needs."""
MOST_KEYS_BYTES, MOST_KEYS, LEAST_RSA_BITS = 1 << 18, 100, 2048
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 300.0
"""How old the keys become: so long at most, one that was withdrawn is taken."""


def parse_keys(data: bytes, algorithms: Iterable[str]) -> dict[tuple[str, str | None], Any]:
    """Return the public keys of a JWKS that are of use, by algorithm and `kid`.

    Raises:
        ValueError: it is no JWKS, is too large, or nothing in it is of use.
    """
    if len(data) > MOST_KEYS_BYTES:
        raise ValueError(f"more than {MOST_KEYS_BYTES} bytes")
    said = json.loads(data)
    listed = said.get("keys") if isinstance(said, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError(f"expected a JSON object with a list `keys` of at most {MOST_KEYS}")
    keys: dict[tuple[str, str | None], Any] = {}
    for algorithm in algorithms:
        for one in listed:
            if not isinstance(one, dict) or one.get("kty") != PUBLIC[algorithm] or one.get("use", "sig") != "sig":
                continue
            if one.get("alg", algorithm) != algorithm or (algorithm == "ES256" and one.get("crv") != "P-256"):
                continue
            public = {name: one[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in one}
            try:
                key = jwt.PyJWK(public, algorithm).key
            except jwt.PyJWTError:
                continue  # the others may be in order
            kid = one.get("kid")
            if (algorithm == "ES256" or key.key_size >= LEAST_RSA_BITS) and (kid is None or isinstance(kid, str)):
                keys[algorithm, kid] = key
    if not keys:
        raise ValueError(f"holds no key for {', '.join(algorithms)}")
    return keys


class KeySet:
    """The public keys of a file or URL. It is read again from time to time, and for a key that is not there, but not too often."""

    def __init__(self, source: str, algorithms: list[str], seconds: float) -> None:
        """Take over the settings. A file is read now.

        Raises:
            OSError, ValueError: it cannot be.
        """
        self._source, self._algorithms, self._seconds = source, algorithms, seconds
        self._keys: dict[tuple[str, str | None], Any] = {}
        self._tried_at = -math.inf  # when the last attempt ended, as time.monotonic() counts
        self._lock = asyncio.Lock()
        if "://" not in source:
            self._keys, self._tried_at = parse_keys(self._read(), algorithms), time.monotonic()

    async def run(self) -> None:
        """Keep the keys fresh, until cancelled."""
        while True:
            await self._read_again()
            await asyncio.sleep(max(REFRESH_SECONDS, self._seconds))

    async def find(self, algorithm: str, kid: str | None) -> Any:
        """Return the key of that name (or the only one, for a token that names none); None if there is none."""
        key = self._known(algorithm, kid)
        if key is None:
            await self._read_again()
            key = self._known(algorithm, kid)
        return key

    def _known(self, algorithm: str, kid: str | None) -> Any:
        if kid is not None:
            return self._keys.get((algorithm, kid))
        keys = [key for (kind, _), key in self._keys.items() if kind == algorithm]
        return keys[0] if len(keys) == 1 else None

    async def _read_again(self) -> None:
        async with self._lock:  # who comes meanwhile waits for the same read, and finds its keys
            if time.monotonic() - self._tried_at < self._seconds:
                return
            try:
                data = await (self._fetch() if "://" in self._source else asyncio.to_thread(self._read))
                self._keys = parse_keys(data, self._algorithms)
            except Exception as error:  # noqa: BLE001 - whatever it was, the node goes on with the keys that it has
                said = str(error) or type(error).__name__
                log.warning("PARALLAX_AUTH_JWKS could not be read, keys kept: %d; %s", len(self._keys), said)
            finally:
                self._tried_at = time.monotonic()

    def _read(self) -> bytes:
        with Path(self._source).open("rb") as file:
            return file.read(MOST_KEYS_BYTES + 1)

    async def _fetch(self) -> bytes:
        client = SimpleAsyncHTTPClient(force_instance=True, max_body_size=MOST_KEYS_BYTES)
        try:
            asked = HTTPRequest(
                self._source,
                connect_timeout=FETCH_SECONDS,
                request_timeout=FETCH_SECONDS,
                follow_redirects=False,
                decompress_response=False,
            )
            return (await client.fetch(asked)).body
        finally:
            client.close()
