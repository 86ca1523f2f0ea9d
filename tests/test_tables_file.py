"""The tables file: every mistake is said at once, with its line."""

import pytest

from parallax.errors import ConfigurationError
from parallax.replication.spec import TableSpec
from parallax.tables_file import parse_tables, read_tables_file

GOOD = b"""
tables:
  flights:
    schema: {id: string, delay: float, at: datetime, n: int64}
    index: id
    writes: forward
  events:
    schema:
      at: datetime
      what: string
    limit: 1000
  plain: {schema: {n: integer}, max_rows: 10}
"""


def problems(text: bytes) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_tables(text, "tables.yaml")
    return caught.value.problems


def test_a_good_file() -> None:
    flights, events, plain = parse_tables(GOOD, "tables.yaml")
    assert (flights.name, flights.index, flights.writes) == ("flights", "id", "forward")
    assert events.schema == (("at", "datetime"), ("what", "string"))
    assert plain.max_rows == 10
    for spec in (flights, events, plain):
        assert TableSpec.from_json(spec.to_json()) == spec


def test_five_mistakes_are_five_lines() -> None:
    text = b"""tables:
  flights:
    schema: {id: strin, delay: float}
    index: key
    colour: red
  "bad name":
    schema: {a: string}
    limit: 0
  both: {schema: {id: string}, index: id, limit: 5}
"""
    said = problems(text)
    assert [line.partition(": ")[0] for line in said] == [
        "tables.yaml, line 5",
        "tables.yaml, line 3",
        "tables.yaml, line 4",
        "tables.yaml, line 6",
        "tables.yaml, line 8",
        "tables.yaml, line 9",
    ]
    for line, part in zip(said, ["'colour'", "'strin'", "'key'", "'bad name'", "limit must be", "only one"], strict=True):
        assert part in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "expected `tables:`"),
        (b"tables: [a]", "line 1: `tables` must be a mapping"),
        (
            b"tables:\n  a: {schema: {x: string}, max_rows: 1}\n  a: {schema: {x: string}, max_rows: 1}",
            "line 3: `tables`: 'a' stands",
        ),
        (
            b"tables:\n  a:\n    schema: {x: string, x: float}\n    limit: 1",
            "line 3: table 'a', schema: 'x' stands here twice",
        ),
        (b"tables:\n  a: {schema: {x: string}}", "grow for ever"),
        (b"tables:\n  a: {schema: {x: float}, index: x}", "cannot be a primary key"),
        (b"tables:\n  a: {schema: {x: string}, index: x, max_rows: 5}", "max_rows is for tables without"),
        (b"tables:\n  a: {schema: {__x: string}, limit: 5}", "'__x'"),
        (b"tables:\n  a: {schema: {x: string}, limit: true}", "limit must be a whole number"),
        (b"tables:\n  a: {schema: {x: string}, limit: 5, writes: maybe}", "deny or forward"),
        (b"tables:\n  a: {schema: {}, limit: 5}", "needs a schema"),
        (b"tables: {a: {schema: {x: string}, limit: 5", "line 1: not YAML"),
        (b"tables: \xff", "not UTF-8"),
        (b"table: {}\ntables: {}", "unknown setting 'table'"),
        (b"[" * 5000, ""),
    ],
)
def test_mistakes_are_named(text: bytes, says: str) -> None:
    assert says in "\n".join(problems(text))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_tables_file("/nowhere/tables.yaml")
