"""Every format carries every value exactly, or is refused with words that say where; none can take more than its share."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.batch import Batch, Limits, make_batch
from parallax.replication.spec import ARROW_TYPES, TableSpec
from parallax.replication.window import Window
from tests import formats
from tests.formats import EXTREMES, WRITERS, bits

ROOT = Path(__file__).resolve().parents[1]
TYPES = TableSpec.declare("types", {"schema": {"id": "int64"} | {f"c {word}": word for word in ARROW_TYPES}, "index": "id"})
SPEC = TableSpec.declare(
    "t",
    {
        "schema": {"id": "string", "n": "integer", "x": "float", "at": "datetime", "day": "date", "f": "float32"},
        "index": "id",
    },
)
NARROW = TableSpec.declare("narrow", {"schema": {"s": "string"}, "max_rows": 1000})


def entry(data: bytes | str, format: str, op: str = "update") -> list[bytes]:
    data = data.encode() if isinstance(data, str) else data
    return [b"op", op.encode(), b"format", format.encode(), b"data", data]


def make(*entries: list[bytes], spec: TableSpec = SPEC, limits: Limits | None = None) -> Batch:
    return make_batch([(b"%d-0" % n, parts) for n, parts in enumerate(entries)], spec, Window(), limits or Limits())


def carried(*entries: list[bytes], spec: TableSpec = SPEC) -> pa.Table:
    batch = make(*entries, spec=spec)
    assert batch.refused == []
    return pa.concat_tables([table for change in batch.changes for table in change.tables])


def refusal(data: bytes | str, format: str, spec: TableSpec = SPEC, limits: Limits | None = None) -> str:
    batch = make(entry(data, format), spec=spec, limits=limits)
    assert batch.changes == []
    ((_, reason),) = batch.refused
    assert "please report" not in reason
    return reason


def extremes() -> pa.Table:
    """Return a table in which each type has each of its extreme values, and nulls."""
    rows = max(map(len, EXTREMES.values())) + 1
    table = {"id": pa.array(range(rows), pa.int64())}
    for word, values in EXTREMES.items():
        padded = [*values, *[None] * (rows - len(values))]
        kind = ARROW_TYPES[word]
        is_moment = pa.types.is_date32(kind) or pa.types.is_timestamp(kind)
        whole = {32: pa.int32(), 64: pa.int64()}
        table[f"c {word}"] = pa.array(padded, whole[kind.bit_width]).view(kind) if is_moment else pa.array(padded, kind)
    return pa.table(table)


@pytest.mark.parametrize("format", WRITERS)
def test_every_value_of_every_type_arrives_bit_for_bit(format: str) -> None:
    table = extremes()
    assert bits(carried(entry(WRITERS[format](table), format), spec=TYPES)) == bits(table)


@pytest.mark.parametrize(
    "write",
    [
        lambda table: formats.arrow(table, is_file=True),
        lambda table: formats.arrow(table, compression="lz4"),
        lambda table: formats.arrow(table, compression="zstd", is_file=True),
        lambda table: formats.arrow(table, rows=3),
        lambda table: formats.arrow(table.cast(pa.schema([(f.name, f.type if f.type != pa.string() else pa.large_string()) for f in table.schema]))),
        lambda table: formats.arrow(table.cast(pa.schema([(f.name, f.type if f.type != pa.string() else pa.string_view()) for f in table.schema]))),
        lambda table: formats.arrow(pa.table([c.dictionary_encode() if c.type == pa.string() else c for c in table.columns], table.column_names)),
        lambda table: formats.arrow(pa.table([categories(c) if c.type == pa.string() else c for c in table.columns], table.column_names)),
        lambda table: formats.arrow(pa.table([c.cast(pa.timestamp("us", "Asia/Tokyo")) if c.type == pa.timestamp("ms") else c for c in table.columns], table.column_names)),
        lambda table: formats.arrow(table.select(list(reversed(table.column_names)))),
    ],
    ids=["file", "lz4", "zstd file", "batches", "large_string", "string_view", "dictionary", "dictionary of views", "microseconds and a zone", "reversed"],
)  # fmt: skip
def test_every_way_to_write_arrow_arrives_bit_for_bit(write: Callable[[pa.Table], bytes]) -> None:
    table = extremes()
    assert bits(carried(entry(write(table), "arrow"), spec=TYPES)) == bits(table)


def test_milliseconds_reach_beyond_what_text_can_say() -> None:
    table = pa.table({"id": ["a", "b"], "at": pa.array(formats.INT64, pa.int64()).view(pa.timestamp("ms"))})
    assert bits(carried(entry(formats.columns(table), "columns"))) == bits(table)
    assert bits(carried(entry(formats.arrow(table), "arrow"))) == bits(table)


def categories(column: pa.ChunkedArray) -> pa.Array:
    """Return text as polars has its categories: a dictionary of views."""
    found = column.combine_chunks().dictionary_encode()
    return pa.DictionaryArray.from_arrays(found.indices, found.dictionary.cast(pa.string_view()))


def values_of(word: str) -> st.SearchStrategy[Any]:
    kind = ARROW_TYPES[word]
    if word == "string":
        return st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
    if word == "boolean":
        return st.booleans()
    if pa.types.is_floating(kind):
        return st.floats(width=32 if kind.bit_width == 32 else 64, allow_nan=False)
    if word == "date":
        return st.integers(formats.days(1, 1, 1), formats.days(9999, 12, 31))
    if word == "datetime":
        return st.integers(-62135596800000, 253402300799999)
    low, high = (0, 2**kind.bit_width - 1) if "u" in word else (-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
    return st.integers(low, high)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.integers(1, 6))
    words = draw(st.lists(st.sampled_from(sorted(ARROW_TYPES)), unique=True, max_size=5))
    made = {"id": pa.array(range(rows), pa.int64())}
    for word in words:
        values = draw(st.lists(st.none() | values_of(word), min_size=rows, max_size=rows))
        kind = ARROW_TYPES[word]
        is_moment = word in ("date", "datetime")
        made[f"c {word}"] = (
            pa.array(values, {32: pa.int32(), 64: pa.int64()}[kind.bit_width]).view(kind)
            if is_moment
            else pa.array(values, kind)
        )
    return pa.table({name: made[name] for name in draw(st.permutations(sorted(made)))})


@settings(deadline=None)
@given(table=tables(), format=st.sampled_from(sorted(WRITERS)))
def test_any_table_survives_any_format(table: pa.Table, format: str) -> None:
    data = WRITERS[format](table)
    again = table.set_column(table.column_names.index("id"), "id", pa.array(range(100, 100 + len(table)), pa.int64()))
    found = carried(entry(data, format), entry(WRITERS[format](again), format), spec=TYPES)  # neighbours are read together
    assert found.column_names == [name for name in TYPES.columns if name in table.column_names]
    assert bits(found) == bits(pa.concat_tables([table, again]).select(found.column_names))


@pytest.mark.parametrize(
    ("format", "data", "says"),
    [
        # CSV
        ("csv", "", "must begin with a line that names the columns"),
        ("csv", "\n\n", "must begin with a line that names the columns"),
        ("csv", "id,y\na,1\n", "unknown column 'y'; the table has id, n, x"),
        ("csv", "id,id\na,b\n", "column 'id' is given twice"),
        ("csv", "id," * 100_000 + "id\n", "has more than the table"),
        ("csv", "n\n1\n", "the index column 'id' is missing"),
        ("csv", "id,n\na,1\n,2\n", "row 1: the index column 'id' is null"),
        ("csv", "id,n\na,1\nb,2147483648\n", "row 1, column 'n': \"2147483648\" does not fit int32"),
        ("csv", "id,n\na,1.5\n", "row 0, column 'n': \"1.5\" does not fit int32"),
        ("csv", "id,n\na,NaN\n", "row 0, column 'n': \"NaN\" does not fit int32"),
        ("csv", "id,n\na,0x1F\n", "row 0, column 'n': \"0x1F\" does not fit int32"),
        ("csv", 'id,n\na,""\n', "row 0, column 'n': \"\" does not fit int32"),
        ("csv", "id,x\na,1e400\n", "row 0, column 'x': \"1e400\" does not fit double exactly"),
        ("csv", "id,x\na,1\nb,9007199254740993\n", "row 1, column 'x': \"9007199254740993\" does not fit double exactly"),
        ("csv", "id,f\na,16777217\n", "row 0, column 'f': \"16777217\" does not fit float exactly"),
        ("csv", "id,x\na,NULL\n", "row 0, column 'x': \"NULL\" does not fit double"),
        ("csv", "id,at\na,2013-01-01T00:00:00.0001Z\n", "row 0, column 'at': \"2013-01-01T00:00:00.0001Z\" is finer than a"),
        ("csv", "id,at\na,2013-01-01\nb,yesterday\n", "row 1, column 'at': \"yesterday\" is not a time in ISO 8601"),
        ("csv", "id,at\na,0000-01-01\n", 'row 0, column \'at\': "0000-01-01" is not a time: year 0 is out of range'),
        ("csv", "id,day\na,2013-02-30\n", "row 0, column 'day': \"2013-02-30\" does not fit date32"),
        ("csv", "id,day\na,0000-01-01\n", "row 0, column 'day': a date outside the years 1 to 9999"),
        ("csv", "id,n\na\n", "row 0: has 1 values, where the first line names 2 columns"),
        ("csv", "id,n\na,1\nb,2,3\n", "row 1: has 3 values"),
        ("csv", 'id,n\n"a,1\n', "line 2 has a quote that is not closed, or not around a whole value"),
        ("csv", 'id,n\na,1\n"b"c,2\n', "line 3 has a quote"),
        ("csv", 'id,n\na"b,1\n', "line 2 has a quote"),
        ("csv", b"id,n\na,1\n\xff,2\n", "row 1, column 'id': is not UTF-8"),
        ("csv", b"\xff,n\na,1\n", "its first line cannot be read"),
        ("csv", "id,n\na\0b,1\n", "row 0, column 'id': text with a NUL"),
        # JSON, one object a line
        ("ndjson", '{"id": "a"}\n\n{"id": "b", "n": 1.5}\n', "line 3, column 'n': 1.5 is not a whole number"),
        ("ndjson", '{"id": "a"}\n{"id": "b"\n', "line 2: data is not JSON"),
        ("ndjson", '{"id": "a"}\n[1]\n', "line 2 must be an object"),
        ("ndjson", '{"id": "a"}{"id": "b"}\n', "line 1: data is not JSON"),
        ("ndjson", '{"id": "a"},{"id": "b"}\n{"id": "c"}\n', "line 1: data is not JSON"),
        ("ndjson", '{"id": "a",\n"n": 1},{"id": "b"}\n', "line 1: data is not JSON"),
        ("ndjson", '{"id": "a", "n": {}},{"id": "b", "n": {\n"n": 1}}\n', "line 1: data is not JSON"),
        ("ndjson", '{"id": "a", "id": "b"}\n', "line 1: data is not JSON: an object has 'id' twice"),
        ("ndjson", '\n{"id": "a"}\n{"id": null}\n', "line 3: the index column 'id' is null"),
        ("ndjson", '{"id": "a"}\n{"id": "b", "z": 1}\n', "line 2: unknown column 'z'"),
        ("ndjson", b'{"id": "a"}\n{"id": "\xff"}\n', "line 2: data is not JSON: 'utf-8' codec can't decode"),
        ("ndjson", '{"id": "a"}\n' + "[" * 100_000, "line 2: data is JSON nested too deeply"),
        # JSON columns
        ("columns", "[]", "must be an object of columns"),
        ("columns", '{"id": "a"}', "column 'id' must be a list of values, not \"a\""),
        ("columns", '{"id": ["a"], "n": []}', "columns must be of one length: 'id' has 1 values, 'n' 0"),
        ("columns", '{"id": ["a"], "id": ["b"]}', "an object has 'id' twice"),
        ("columns", '{"id": ["a", "b"], "n": [1, "2"]}', "row 1, column 'n': \"2\" is not a whole number"),
        ("columns", '{"id": ["a"], "z": [1]}', "unknown column 'z'"),
        ("columns", '{"id": ["a"], "x": [[1]]}', "row 0, column 'x': a list is not a number"),
        ("columns", '{"id": ["a"], "n": [NaN]}', "row 0, column 'n': NaN is not a whole number"),
        ("columns", '{"id":' * 100_000, "nested too deeply"),
        # JSON rows
        ("json", '[{"id": "a", "id" : "b"}]', "an object has 'id' twice"),
        ("json", '[{"id": "a", "at": "2013-01-01T00:00:00.0000001"}]', "row 0, column 'at': \"2013-01-01T00:00:00.0000001\" is finer"),
        ("json", '[{"id": "a", "at": "2013-01-01x00:00"}]', "is not a time in ISO 8601"),
        ("json", '[{"id": "a", "at": 1.5}]', "row 0, column 'at': 1.5 is not a time"),
        ("json", '[{"id": "a", "day": 3}]', "row 0, column 'day': 3 is not a date"),
        ("json", '[{"id": "a", "f": 16777217}]', "row 0, column 'f': 16777217 does not fit float exactly"),
        ("json", '[{"id": "a", "f": 3.5e38}]', "row 0, column 'f': 3.5e+38 does not fit float: it is too large"),
        ("json", '[{"id": "a"}, {"id": "\\ud800"}]', "row 1, column 'id': \"\\ud800\" does not fit string"),
        ("json", b'[{"id": "\xed\xa0\x80"}]', "row 0, column 'id'"),
        ("json", '[{"id": "a"}, {"id": "b"}, {"id": null, "n": 1}]', "row 2: the index column 'id' is null"),
        ("json", '[{"id": "a", "n": ' + "9" * 5000 + "}]", "not JSON"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_place(format: str, data: bytes | str, says: str) -> None:
    assert says in refusal(data, format)


@pytest.mark.parametrize(
    ("format", "data", "found"),
    [
        ("csv", "id,at\na,2013-01-01\nb,2013-01-01T01:00Z\nc,2013-01-01 01:00:00.250000000+01:00\n", [1356998400000, 1357002000000, 1356998400250]),
        ("csv", "\ufeffid,at\r\n\r\na,1970-01-01T00:00:00\r\nb,\r\n\r\n", [0, None]),
        ("csv", "id,at\ra,1970-01-01\r", [0]),
        ("csv", "id,at", []),
        ("csv", "id,at\na,2013-01-01\nb,2013-01-01T00:00-01:30\nc,2013-01-01 00:00:00.5+00\n", [1356998400000, 1357003800000, 1356998400500]),
        ("ndjson", '\n{"id": "a", "at": 5}\r\n \n{"id": "b", "at": "1969-12-31T23:59:59.999Z"}', [5, -1]),
        ("columns", '{"at": ["0001-01-01T00:00+01:00", null, 7], "id": ["a", "b", "c"]}', [-62135600400000, None, 7]),
        ("columns", "{}", []),
        ("json", '[{"id": "a", "at": "0001-01-01T00:00:00+01:00"}]', [-62135600400000]),
        ("ndjson", "", []),
    ],
)  # fmt: skip
def test_what_is_written_in_other_ways_is_read(format: str, data: str, found: list[Any]) -> None:
    batch = make(entry(data, format))
    assert batch.refused == []
    at = [value for change in batch.changes for table in change.tables for value in bits(table)["at"]]
    assert at == found


def test_minus_zero_keeps_its_sign_even_as_a_whole_number() -> None:
    for data, format in (('[{"id": "a", "x": -0}]', "json"), ('{"id":["a"],"x":[-0]}', "columns"), ("id,x\na,-0\n", "csv")):
        assert str(carried(entry(data, format))["x"][0].as_py()) == "-0.0", format
    assert carried(entry('[{"id": "a", "n": -0}]', "json"))["n"].to_pylist() == [0]


def test_the_only_column_of_a_csv_can_be_null_or_empty() -> None:
    data = 's\r\nx\r\n\r\n""\r\n'
    assert carried(entry(data, "csv"), entry(data, "csv"), spec=NARROW)["s"].to_pylist() == ["x", None, ""] * 2


def test_neighbours_of_one_format_are_read_together_and_only_culprits_refused() -> None:
    good = ["id,n\na,1", "id,n\r\nb,2\r\n", 'id,n\n"c\n,",3\n']
    batch = make(entry(good[0], "csv"), entry("id,n\nd,x", "csv"), entry(good[1], "csv"), entry(good[2], "csv"))
    assert [n for n, _ in batch.refused] == [b"1-0"]
    assert "row 0, column 'n'" in batch.refused[0][1]
    found = pa.concat_tables([table for change in batch.changes for table in change.tables])
    assert found.to_pydict() == {"id": ["a", "b", "c\n,"], "n": [1, 2, 3]}
    assert len(batch.changes) == 1


@pytest.mark.parametrize(("data", "format"), [("id\na\nb", "csv"), ('{"id":["a","b"]}', "columns"), ('{"id":"a"}\n{"id":"b"}', "ndjson")])  # fmt: skip
def test_remove_takes_every_format(data: str, format: str) -> None:
    (change,) = make(entry(data, format, "remove")).changes
    assert (change.op, change.tables[0].to_pydict()) == ("remove", {"id": ["a", "b"]})


# Arrow that is not what it should be ------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["value", "dictionary"])
def test_bad_utf8_in_arrow_is_refused_with_its_place(where: str) -> None:
    column = pa.array(["a", "b", "XY", "d"])
    table = pa.table({"id": column.dictionary_encode() if where == "dictionary" else column})
    data = formats.arrow(table).replace(b"XY", b"\xff\xfe")
    reason = refusal(data, "arrow")
    assert ("row 2, column 'id': is not UTF-8" if where == "value" else "column 'id': its data is broken: ") in reason


@pytest.mark.parametrize(
    ("column", "says"),
    [
        (pa.array([1, 2**31, 3]), "row 1, column 'n': 2147483648 does not fit int32"),
        (pa.array([1.0, float("nan")]), "column 'n': its type is double, but the table's is int32; cast it before"),
        (pa.array([[1]]), "column 'n': its type is list"),
        (pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), pa.array([1])), "its type is run_end_encoded"),
        (pa.array([1, None, 5, 2**40]).dictionary_encode(), "row 3, column 'n': 1099511627776 does not fit int32"),
    ],
)
def test_arrow_of_other_types_is_refused(column: pa.Array, says: str) -> None:
    batch = pa.RecordBatch.from_arrays([column], ["n"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    assert says in refusal(
        bytes(sink.getvalue()), "arrow", spec=TableSpec.declare("p", {"schema": {"n": "integer"}, "limit": 9})
    )


def test_a_float_is_not_made_shorter() -> None:
    for kind in (pa.float16(), pa.float32()):
        table = pa.table({"id": ["a"], "f": pa.array([1.5], pa.float32()).cast(kind)})
        assert carried(entry(formats.arrow(table), "arrow"))["f"].to_pylist() == [1.5]
    table = pa.table({"id": ["a"], "f": pa.array([1.5])})
    assert "column 'f': its type is double, but the table's is float; cast it" in refusal(formats.arrow(table), "arrow")


def test_a_time_that_is_too_fine_is_refused_with_its_place() -> None:
    at = pa.array([1_000_000, 1_000_001], pa.timestamp("ns"))
    reason = refusal(formats.arrow(pa.table({"id": ["a", "b"], "at": at})), "arrow")
    assert "row 1, column 'at': 1970-01-01 00:00:00.001000001 does not fit timestamp[ms]" in reason


def test_broken_files_are_refused() -> None:
    whole = formats.arrow(extremes().slice(0, 3), is_file=True)
    for data in (b"ARROW1\0\0", whole[: len(whole) // 2], whole[8:200], b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\0" * 7):
        assert "not a readable Arrow IPC stream or file" in refusal(data, "arrow", spec=TYPES), data[:20]


# Anything at all -----------------------------------------------------------------------------------------------------


def fuzz(seed: int, count: int) -> None:
    """Run the fuzz in a process of its own: what would end a coordinator ends that."""
    command = [sys.executable, "-m", "tests.fuzz_ingest", str(seed), str(count)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert json.loads(done.stdout)["refused"] > count // 2


def test_mutated_entries_are_refused_or_carried() -> None:
    fuzz(seed=0, count=1_500)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(1, 9))
def test_very_many_mutated_entries_are_refused_or_carried(seed: int) -> None:
    fuzz(seed, count=20_000)
