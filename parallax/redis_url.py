"""Where Redis is, and who we are there: everything that `PARALLAX_REDIS_URL` can say."""

import ssl
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from parallax.errors import ConfigurationError

REDIS_PORT, SENTINEL_PORT = 6379, 26379
EXAMPLES = (
    "redis://host:6379/0, rediss://... (TLS), unix:///path/of/socket, redis+sentinel://host:26379,host:26379/service/0, "
    "redis+cluster://host:6379,host:6379 (TLS: rediss+...)"
)
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
OPTIONS = ("db", "username", "password", *TLS_OPTIONS, *SENTINEL_OPTIONS)
"""What may stand behind the question mark."""


class Kind(StrEnum):
    """What is at the address."""

    SERVER = "redis"
    SOCKET = "unix"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis URL, read. What is secret is not in its `repr`."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()  # one; with SENTINEL the sentinels, with CLUSTER some of its members
    path: str = ""  # of the socket
    service: str = ""  # the name under which the sentinels know the primary
    db: int = 0
    is_tls: bool = False
    tls: dict[str, Any] = field(default_factory=dict)  # the client's options of that name
    user: dict[str, str] = field(default_factory=dict, repr=False)  # username and password, as far as given
    sentinel_user: dict[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """Return what may be shown to anybody: no user, no password, no options."""
        scheme = self.kind.replace("redis", "rediss", 1) if self.is_tls else self.kind
        if self.kind is Kind.SOCKET:
            return f"{scheme}:{self.path}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = {Kind.SERVER: f"/{self.db}", Kind.SENTINEL: f"/{self.service}/{self.db}"}.get(self.kind, "")
        return f"{scheme}://{hosts}{path}"


def parse(url: str) -> Address:
    """Read a URL.

    Raises:
        ConfigurationError: it is none that we understand. The text repeats nothing that might be a password.
    """
    try:
        return _parse(url)
    except ValueError as error:
        raise ConfigurationError([f"PARALLAX_REDIS_URL: {error}"]) from None


def _parse(url: str) -> Address:
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        raise ValueError(f"it has no scheme; expected {EXAMPLES}")
    kind, is_tls = _kind(scheme)
    if "#" in rest:
        raise ValueError("it has a '#', which must be written as %23")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "@" in path:
        raise ValueError("there is an '@' behind a '/': special characters in a password must be written as %2F, %40 ...")
    login, _, names = authority.rpartition("@")
    options = _options(query)
    username, _, password = login.partition(":")
    if "@" in login:
        raise ValueError("it has two '@': the one in the password must be written as %40")
    user = {"username": unquote(username), "password": unquote(password)}
    user |= {name: options.pop(name) for name in ("username", "password") if name in options}
    user = {name: value for name, value in user.items() if value}
    if "username" in user and "password" not in user:
        raise ValueError("there is a user name without a password; a password alone is written as :password@host")
    sentinel_user = {name.removeprefix("sentinel_"): options.pop(name) for name in SENTINEL_OPTIONS if name in options}
    if sentinel_user and kind is not Kind.SENTINEL:
        raise ValueError(f"there is a password for Sentinel, but the scheme is {scheme}://")
    tls = _tls({name: options.pop(name) for name in TLS_OPTIONS if name in options}, scheme, is_tls)
    parts = [unquote(part) for part in path.split("/") if part]
    if kind is Kind.SOCKET:
        if names or not parts:
            raise ValueError("a socket is written as unix:///path/of/socket")
        return Address(kind, path="/" + "/".join(parts), db=_db(options.get("db")), user=user)
    service = ""
    if kind is Kind.SENTINEL:
        if not parts:
            raise ValueError("the name of the service is missing: redis+sentinel://host:26379,host:26379/service/0")
        service = parts.pop(0)
    if len(parts) > 1:
        raise ValueError("there is more behind the hosts than the number of the database")
    db = _db(options.get("db", parts[0] if parts else None))
    if kind is Kind.CLUSTER and db:
        raise ValueError("a cluster has no database but 0")
    default = SENTINEL_PORT if kind is Kind.SENTINEL else REDIS_PORT
    hosts = tuple(_host(name, default) for name in names.split(","))
    if kind is Kind.SERVER and len(hosts) > 1:
        raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
    return Address(kind, hosts, service=service, db=db, is_tls=is_tls, tls=tls, user=user, sentinel_user=sentinel_user)


def _kind(scheme: str) -> tuple[Kind, bool]:
    for kind in Kind:
        if scheme == kind:
            return kind, False
        if kind is not Kind.SOCKET and scheme == kind.replace("redis", "rediss", 1):
            return kind, True
    raise ValueError(f"unknown scheme {scheme[:20]!r}; expected {EXAMPLES}")


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in OPTIONS:
            raise ValueError(f"unknown option {name[:30]!r}; known are {', '.join(OPTIONS)}")
    return options


def _db(text: str | None) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise ValueError("the database is not a number")
    return int(text)


def _host(text: str, default: int) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in text:
        host, _, port = text.partition(":")
    if port and not (port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError("a port is not a number from 1 to 65535 (special characters in a password are written as %XX)")
    return unquote(host) or "localhost", int(port or default)


def _tls(given: dict[str, str], scheme: str, is_tls: bool) -> dict[str, Any]:
    """Return the client's options, after a look whether the files can be used."""
    if given and not is_tls:
        secure = scheme.replace("redis", "rediss", 1)
        raise ValueError(f"there are files for TLS, but {scheme}:// is not encrypted; use {secure}://")
    options: dict[str, Any] = dict(given)
    requirement = options.get("ssl_cert_reqs", "required")
    if requirement not in ("required", "none"):
        raise ValueError("ssl_cert_reqs is required or none")
    name_check = options.pop("ssl_check_hostname", "true").lower()
    if name_check not in ("true", "false"):
        raise ValueError("ssl_check_hostname is true or false")
    if is_tls:
        options["ssl_check_hostname"] = name_check == "true" and requirement == "required"
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise ValueError("there is a client's key, but no certificate")
    try:
        if "ssl_ca_certs" in options:
            ssl.create_default_context(cafile=options["ssl_ca_certs"])
        if "ssl_certfile" in options:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), password="")
    except (OSError, ValueError) as error:
        files = ", ".join(value for name, value in options.items() if str(name).endswith(("certs", "file")))
        raise ValueError(f"the files for TLS ({files}) cannot be used: {error}") from None
    return options


def complete(url: str, options: dict[str, str]) -> str:
    """Return `url` with those options that are neither empty nor in it already; user and password count as one."""
    head, _, query = url.partition("?")
    present = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    has_user = "@" in head or {"username", "password"} & present
    added = {
        name: value
        for name, value in options.items()
        if value and name not in present and not (has_user and name in ("username", "password"))
    }
    if not added:
        return url
    return f"{head}?{'&'.join(part for part in (query, urlencode(added, quote_via=quote)) if part)}"


def place(url: str) -> str:
    """Return a URL as it may be shown: without user, password and options. Of one that cannot be read only the scheme."""
    try:
        return str(parse(url))
    except ConfigurationError:
        return f"{url.partition('://')[0][:20]}://..." if "://" in url else "..."
