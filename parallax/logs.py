"""What a service writes to stderr: text for people, or with PARALLAX_LOG_FORMAT=json one JSON object a line, and nothing else."""

import json
import logging
import os
import sys
import time

from parallax.errors import ConfigurationError
from parallax.settings import CommonSettings

OF_TABLE = "table %s: "
"""How messages about one table begin."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line. A message about one table has its name as a field, too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        values = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record.args, tuple) and record.args and str(record.msg).startswith(OF_TABLE):
            values["table"] = str(record.args[0])
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values)


def set_up(settings: CommonSettings) -> None:
    """Let everything be logged as the settings say.

    Raises:
        ConfigurationError: they say something else than is there.
    """
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigurationError([f"PARALLAX_LOG_LEVEL={settings.log_level!r}: expected debug, info, warning or error"])
    if settings.log_format not in ("text", "json"):
        raise ConfigurationError([f"PARALLAX_LOG_FORMAT={settings.log_format!r}: expected text or json"])
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else text)
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)  # probes, and what viewers ask for in vain
    logging.getLogger("tornado.general").addFilter(_without_what_was_sent)


def complain(problem: str) -> None:
    """Say what ends this process, or ended its child, where logging is not set up: in the format that the environment names."""
    if os.environ.get("PARALLAX_LOG_FORMAT") == "json":
        print(
            JsonFormatter().format(logging.makeLogRecord({"name": "parallax", "levelname": "ERROR", "msg": problem})),
            file=sys.stderr,
        )
    else:
        print(f"parallax: {problem}", file=sys.stderr)


def _without_what_was_sent(record: logging.LogRecord) -> bool:
    """Tornado repeats the header that it could not read: it may be the one with a token."""
    if isinstance(record.msg, str) and record.msg.startswith("Malformed HTTP message"):
        record.msg, record.args = "a client sent what is no HTTP request", ()
    return True
