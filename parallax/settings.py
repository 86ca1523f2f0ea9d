"""Settings: environment variables `PARALLAX_<NAME>` read into one frozen dataclass for each service."""

import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from parallax.errors import ConfigurationError
from parallax.redis_url import complete

PREFIX = "PARALLAX_"
S = TypeVar("S", bound="CommonSettings")
_UNITS = {"seconds": "s", "ms": "ms", "bytes": "bytes"}  # by how a setting's name ends


def setting(default: Any, doc: str, *, low: float | None = None, high: float | None = None, is_secret: bool = False) -> Any:
    """Declare one setting: its default, what it means (with the unit), and the least and greatest value allowed.

    A secret one is left out where the settings are printed.
    """
    return field(default=default, repr=not is_secret, metadata={"doc": doc, "low": low, "high": high})


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSettings:
    """What node and coordinator both need to know."""

    redis_url: str = setting(
        "redis://127.0.0.1:6379/0",
        "Where Redis is: redis://, rediss://, unix://, redis+sentinel://, redis+cluster:// (see above)",
        is_secret=True,
    )
    redis_username: str = setting("", "The user in Redis, unless the URL names one", is_secret=True)
    redis_password: str = setting("", "His password, unless the URL has one", is_secret=True)
    redis_sentinel_username: str = setting("", "The user at the sentinels", is_secret=True)
    redis_sentinel_password: str = setting("", "The password at the sentinels, if they ask for one", is_secret=True)
    redis_ca_file: str = setting("", "Path of the certificates (PEM) that rediss:// trusts; the system's if empty")
    redis_cert_file: str = setting("", "Path of our own certificate (PEM), if Redis asks for one")
    redis_key_file: str = setting("", "Path of its key (PEM)")
    prefix: str = setting("parallax", "What every key in Redis begins with; two fleets on one Redis need two prefixes")
    bind: str = setting("0.0.0.0", "The address to listen on")
    node_id: str = setting("", "This process's name in the fleet; made from the host's name if empty")
    log_level: str = setting("info", "debug, info, warning or error")
    log_format: str = setting("text", "text for people, json for machines")
    guard: bool = setting(True, "Run as the child of a small process that tells the fleet what ended it (Linux)")
    quarantine_seconds: float = setting(
        3600.0, "How long it is remembered that a view, or a table's rows, ended a process (s)", low=1
    )
    fleet: bool = setting(
        False, "Publish how this process fares as rows of the tables parallax_nodes and parallax_tables, shown at /fleet"
    )

    def redis(self, url: str | None = None) -> str:
        """Return a Redis URL, ours unless another is given, with what the other settings say of Redis and it does not."""
        return complete(
            url or self.redis_url,
            {
                "username": self.redis_username,
                "password": self.redis_password,
                "sentinel_username": self.redis_sentinel_username,
                "sentinel_password": self.redis_sentinel_password,
                "ssl_ca_certs": self.redis_ca_file,
                "ssl_certfile": self.redis_cert_file,
                "ssl_keyfile": self.redis_key_file,
            },
        )


def load_where(environ: Mapping[str, str] | None = None) -> CommonSettings:
    """Read only where Redis is, and the prefix; for programs that are no service."""
    environ = os.environ if environ is None else environ
    names = ("PARALLAX_PREFIX", *(name for name in environ if name.startswith("PARALLAX_REDIS_")))
    return load(CommonSettings, {name: environ[name] for name in names if name in environ})


def load(kind: type[S], environ: Mapping[str, str] | None = None) -> S:
    """Read the settings of `kind` from the environment.

    Raises:
        ConfigurationError: with one line for each variable that is wrong.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    problems = []
    for declared in fields(kind):
        variable = PREFIX + declared.name.upper()
        text = environ.get(variable)
        if text is None or text == "":
            continue
        try:
            values[declared.name] = _parse(declared, text)
        except ValueError as error:
            problems.append(f"{variable}={text!r}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return kind(**values)


def _parse(declared: "Field[Any]", text: str) -> Any:
    value: Any = text
    if isinstance(declared.default, bool):
        if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError("expected true or false")
        return text.lower() in ("true", "1", "yes")
    if isinstance(declared.default, int | float):
        try:
            value = type(declared.default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(declared.default, int) else "a number"
            raise ValueError(f"expected {kind}") from None
    low, high = declared.metadata["low"], declared.metadata["high"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise ValueError(f"must be from {low} to {'any' if high is None else high}")
    return value


def table_of(kind: type[CommonSettings]) -> str:
    """Return a Markdown table of the settings of `kind`, as it stands in the documentation."""
    lines = ["| variable | default | unit | what it does |", "|---|---|---|---|"]
    for declared in fields(kind):
        value = str(declared.default).lower() if isinstance(declared.default, bool) else declared.default
        default = "" if value == "" else f"`{value}`"
        unit = _UNITS.get(declared.name.rpartition("_")[2], "")
        text = declared.metadata["doc"].removesuffix(f" ({unit})")
        lines.append(f"| `{PREFIX}{declared.name.upper()}` | {default} | {unit} | {text} |")
    return "\n".join(lines)
