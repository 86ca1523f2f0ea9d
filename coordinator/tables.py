"""Which tables there are: those of the tables file."""

from pathlib import Path
from typing import Any

import yaml

from parallax.errors import ConfigurationError
from parallax.replication.spec import TableSpec


def read_tables_file(path: str) -> list[TableSpec]:
    """Return the specs that a tables file declares; none if `path` is empty.

    Raises:
        ConfigurationError: the file cannot be read or declares something wrong; one line for each problem.
    """
    if not path:
        return []
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"tables file {path}: {error}"]) from error
    except yaml.YAMLError as error:
        raise ConfigurationError([f"tables file {path}: not YAML: {' '.join(str(error).split())}"]) from error
    declared = content.get("tables") if isinstance(content, dict) else None
    if not isinstance(declared, dict):
        raise ConfigurationError([f"tables file {path}: expected `tables:` and below it one entry for each table"])
    specs: list[TableSpec] = []
    problems: list[str] = []
    for name, body in declared.items():
        try:
            specs.append(TableSpec.declare(str(name), _mapping(name, body)))
        except ConfigurationError as error:
            problems += [f"tables file {path}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigurationError(problems)
    return specs


def _mapping(name: Any, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise ConfigurationError([f"table {name!r}: expected settings such as schema and index, not {body!r}"])
    return {str(key): value for key, value in body.items()}
