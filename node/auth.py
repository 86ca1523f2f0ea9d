"""Who may read what: the tokens (JWT) that viewers bring.

Nothing here logs or repeats what a viewer sent. Which algorithm, key, audience and issuer are right is for the settings to say,
never for the token.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from typing import Any

import jwt
from tornado.httputil import HTTPServerRequest

from node.jwks import PUBLIC, KeySet
from node.settings import NodeSettings, listed, wrong_with_tokens
from parallax.errors import ConfigurationError

MOST_TOKEN_BYTES = 8192

_UNTOLD = ("malformed", "algorithm", "key", "signature", "audience", "issuer", "claims")
REASONS = {
    "missing": "a token is needed",
    "expired": "the token has expired",
    "not_yet_valid": "the token is not valid yet",
} | dict.fromkeys(_UNTOLD, "the token is not valid here")
"""Why a viewer is refused, and what he is told: little, unless the token was signed by whom we trust."""
_BY_ERROR = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not_yet_valid",
    jwt.InvalidAudienceError: "audience",
    jwt.InvalidIssuerError: "issuer",
    jwt.MissingRequiredClaimError: "claims",
    jwt.InvalidSignatureError: "signature",
}


class Unauthorized(Exception):
    """A viewer without a token that is good; `reason` is one of REASONS."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(REASONS[reason])


@dataclass(frozen=True, slots=True)
class Access:
    """What a viewer may do, and until when."""

    read: re.Pattern[str]
    write: re.Pattern[str]
    expires_at: float = math.inf  # as time.time() counts

    def may_read(self, table: str) -> bool:
        """Say whether the table is there at all, for this viewer."""
        return self.read.match(table) is not None

    def may_write(self, table: str) -> bool:
        """Say whether the viewer may; the table must take edits, too."""
        return self.may_read(table) and self.write.match(table) is not None


def patterns(names: Iterable[str]) -> re.Pattern[str]:
    """Return what matches any of some names as in `fnmatch`, case and all; nothing if there are none."""
    return re.compile("|".join(map(translate, names)) or "(?!)")


EVERYTHING = Access(patterns(["*"]), patterns(["*"]))
"""Of viewers where no tokens are asked for."""


class Auth:
    """Admits viewers by their tokens."""

    def __init__(self, settings: NodeSettings) -> None:
        """Take over the settings.

        Raises:
            ConfigurationError: they do not fit together, or the keys' file cannot be read.
        """
        self._settings = settings
        self.algorithms = listed(settings.auth_algorithms)
        problem = wrong_with_tokens(settings)
        self._keys: KeySet | None = None
        if not problem and settings.auth_jwks:
            public = [algorithm for algorithm in self.algorithms if algorithm in PUBLIC]
            try:
                self._keys = KeySet(settings.auth_jwks, public, settings.auth_jwks_seconds)
            except (OSError, ValueError) as error:
                problem = f"PARALLAX_AUTH_JWKS={settings.auth_jwks!r} cannot be used: {error}"
        if problem:
            raise ConfigurationError([problem])

    async def run(self) -> None:
        """Keep the keys fresh, until cancelled."""
        if self._keys is not None:
            await self._keys.run()

    async def admit(self, request: HTTPServerRequest) -> Access:
        """Return what the bearer of a request's token may do.

        Raises:
            Unauthorized: there is no token, or it is not good.
        """
        if not self.algorithms:
            return EVERYTHING
        token = self._token(request)
        if not token or len(token) > MOST_TOKEN_BYTES:
            raise Unauthorized("malformed" if token else "missing")
        try:
            return await self._checked(token)
        except Unauthorized:
            raise
        except Exception as wrong:  # noqa: BLE001 - whatever a stranger's bytes make go wrong, they are not let in
            raise Unauthorized(_BY_ERROR.get(type(wrong), "malformed")) from None

    def _token(self, request: HTTPServerRequest) -> str | None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
        asked = request.query_arguments.get("token")
        if asked:
            return asked[0].decode("latin-1") if len(asked) == 1 else ""
        cookie = request.cookies.get(self._settings.auth_cookie) if self._settings.auth_cookie else None
        return None if cookie is None else cookie.value

    async def _checked(self, token: str) -> Access:
        settings = self._settings
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in self.algorithms:
            raise Unauthorized("algorithm")
        key: Any = settings.auth_secret  # each algorithm has keys of its own: a public one is never taken for a secret
        if algorithm in PUBLIC:
            key = None if self._keys is None else await self._keys.find(algorithm, header.get("kid"))
        if key is None:
            raise Unauthorized("key")
        claims = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=settings.auth_audience,
            issuer=settings.auth_issuer,
            leeway=settings.auth_leeway_seconds,
            options={"require": ["exp", "aud", "iss"]},
        )
        return Access(
            _claimed(claims, "read", settings.auth_default_read),
            _claimed(claims, "write", settings.auth_default_write),
            float(claims["exp"]) + settings.auth_leeway_seconds,
        )


def _claimed(claims: Mapping[str, Any], name: str, default: str) -> re.Pattern[str]:
    names = claims[name] if name in claims else listed(default)
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise Unauthorized("claims")
    return patterns(names)
