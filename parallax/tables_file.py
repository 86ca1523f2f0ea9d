"""The tables file: which tables there shall be, declared in YAML. Everything that is wrong is said at once, with its line."""

from pathlib import Path

import yaml

from parallax.errors import ConfigurationError
from parallax.replication.spec import TableSpec, find_problems

MAX_BYTES = 4 << 20


def read_tables_file(path: str) -> list[TableSpec]:
    """Return the specs that a tables file declares; none if `path` is empty.

    Raises:
        ConfigurationError: the file cannot be read or declares something wrong; one line for each problem.
    """
    if not path:
        return []
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError([f"tables file {path}: {error.strerror or error}"]) from error
    return parse_tables(data, f"tables file {path}")


def parse_tables(data: bytes, source: str) -> list[TableSpec]:
    """Return the specs declared in the bytes of a tables file; `source` names it in errors.

    Raises:
        ConfigurationError: one line for each problem, with its line in the file.
    """
    if len(data) > MAX_BYTES:
        raise ConfigurationError([f"{source}: larger than {MAX_BYTES} bytes"])
    try:
        root = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{source}: not UTF-8: {error}"]) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigurationError([f"{source}{place}: not YAML: {problem}"]) from error
    except RecursionError:
        raise ConfigurationError([f"{source}: nested too deeply"]) from None
    return _Reader(source).read(root)


class _Reader:
    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[str] = []

    def read(self, root: yaml.Node | None) -> list[TableSpec]:
        specs = []
        top = self._mapping(root, "the file") if root is not None else {}
        tables = top.pop("tables", None)
        if tables is None:
            self.problems.append(f"{self.source}: expected `tables:` and below it one entry for each table")
        for name, (key, _) in top.items():
            self._say(key, f"unknown setting {name!r}; the tables stand below `tables:`")
        for name, (key, node) in (self._mapping(tables[1], "`tables`") if tables else {}).items():
            spec = self._table(name, key, node)
            if spec is not None:
                specs.append(spec)
        if self.problems:
            raise ConfigurationError(self.problems)
        return specs

    def _table(self, name: str, key: yaml.Node, node: yaml.Node) -> TableSpec | None:
        before = len(self.problems)
        lines: dict[tuple[str, ...], yaml.Node] = {(): key}
        body: dict[str, object] = {}
        for setting, (setting_key, value) in self._mapping(node, f"table {name!r}").items():
            lines[(setting,)] = setting_key
            if isinstance(value, yaml.MappingNode):
                nested: dict[str, object] = {}
                for column, (column_key, word) in self._mapping(value, f"table {name!r}, {setting}").items():
                    lines[(setting, column)] = column_key
                    nested[column] = self._plain(word)
                body[setting] = nested
            else:
                body[setting] = self._plain(value)
        problems = find_problems(name, body) if len(self.problems) == before else []
        for problem in problems:
            self._say(lines.get(problem.path, key), f"table {name!r}: {problem.text}")
        return None if len(self.problems) > before else TableSpec.declare(name, body)

    def _mapping(self, node: yaml.Node, what: str) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """Return the entries of a mapping (name -> key node, value node); a name that stands twice is a problem."""
        if not isinstance(node, yaml.MappingNode):
            self._say(node, f"{what} must be a mapping of names to values")
            return {}
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                self._say(key, f"{what}: {name!r} stands here twice")
            found[name] = (key, value)
        return found

    def _plain(self, node: yaml.Node) -> object:
        return yaml.SafeLoader("").construct_object(node, deep=True)

    def _say(self, node: yaml.Node, text: str) -> None:
        self.problems.append(f"{self.source}, line {node.start_mark.line + 1}: {text}")
