"""Random operations on a table, seeded and replayable, as plain rows and as what a publisher writes to Redis."""

import datetime
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from parallax.replication.spec import ARROW_TYPES, TableSpec
from tests.encodings import EPOCH, MILLISECOND, RAGGED, encode
from tests.oracle import Row, TableLike, Value

EVERY_TYPE = tuple((f"a_{word}", word) for word in ARROW_TYPES)

INDEXED = TableSpec("indexed", (("id", "string"), *EVERY_TYPE), index="id")
LIMITED = TableSpec("limited", (*EVERY_TYPE, ("n", "int64")), limit=200)
PLAIN = TableSpec("plain", (("n", "int64"), *EVERY_TYPE), max_rows=10_000_000)

STRINGS = ["", " ", "a", "A", "null", "None", "nan", "0", "true", "é", "e\u0301", "\U0001f600", "\uffff", "zz"]
STRINGS += ["line\nbreak", 'quote " and \\', "comma,", "x" * 300, "\x01", "\u202e"]
FLOATS = [0.0, -0.0, 1.5, -1.5, 0.1, 1e15, 2.0**53, -3.0]
FLOATS_64 = [5e-324, 1.7976931348623157e308, -1e300, 1e-300]
FLOATS_NOT_JSON = [float("nan"), float("inf"), float("-inf")]
DATES = [(1, 1, 1), (1600, 3, 1), (1900, 2, 28), (1969, 12, 31), (1970, 1, 1), (2000, 2, 29), (2024, 2, 29), (9999, 12, 31)]
MOMENTS = [0, -1, 1, 999, -1000, 1357016400123, 2**31 * 1000, -2208988800000, -62135596800000, 253402300799999]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: `rows` for the oracle, `format` and `data` for Redis."""

    op: str
    rows: tuple[Row, ...]
    format: str
    data: bytes

    def fields(self) -> dict[str, str | bytes]:
        """The fields that a publisher XADDs."""
        if self.op == "clear":
            return {"op": "clear"}
        return {"op": self.op, "format": self.format, "data": self.data}

    def __repr__(self) -> str:  # short enough for the report of a failed test
        rows = ", ".join(repr(dict(row)) for row in self.rows[:4])
        return f"{self.op} {self.format} {len(self.rows)} rows [{rows}{', ...' if len(self.rows) > 4 else ''}]"


@dataclass(frozen=True, slots=True)
class Mix:
    """How often what happens; weights need not add up to anything."""

    update: float = 80
    remove: float = 16
    replace: float = 1
    clear: float = 0.4
    formats: tuple[str, ...] = ("arrow", "arrow", "arrow", "json", "json", "ndjson", "columns", "csv")
    ragged: float = 0.4  # how often rows differ in their columns, where the format allows it
    null: float = 0.15  # the share of values that are null
    steady: float = 0.4  # how often a batch has the columns of the one before it, so that the two may be merged
    burst: float = 0.04  # how often a burst on the same few keys begins
    largest_batch: int = 40


@dataclass(slots=True)
class Operations:
    """An endless iterator of random operations on one table; the same seed gives the same operations."""

    table: TableLike
    seed: int | str
    mix: Mix = field(default_factory=Mix)
    _random: random.Random = field(init=False)
    _keys: list[Value] = field(init=False)
    _burst: list[Value] = field(init=False, default_factory=list)
    _burst_left: int = field(init=False, default=0)
    _number: int = field(init=False, default=0)
    _last_columns: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(f"{self.seed} {self.table.name}")
        self._keys = self._universe_of_keys()

    def __iter__(self) -> Iterator[Operation]:
        return self

    def __next__(self) -> Operation:
        rng, mix = self._random, self.mix
        if self.table.index is not None:
            self._maybe_burst()
        kinds = {"update": mix.update, "replace": mix.replace, "clear": mix.clear}
        if self.table.index is not None:
            kinds["remove"] = mix.remove * (4 if self._burst_left else 1)
        op = rng.choices(list(kinds), list(kinds.values()))[0]
        form = rng.choice(mix.formats)
        plain_floats = form not in ("arrow", "csv")
        if op == "clear":
            return Operation("clear", (), "none", b"")
        if op == "remove":
            columns = [str(self.table.index)]
            rows = [{columns[0]: self._key()} for _ in range(self._batch_size())]
        else:
            if not self._last_columns or rng.random() >= mix.steady:
                self._last_columns = self._columns()
            columns = self._last_columns
            is_ragged = form in RAGGED and rng.random() < mix.ragged
            rows = [self._row(self._columns() if is_ragged else columns, plain_floats) for _ in range(self._batch_size())]
        return Operation(op, tuple(rows), form, encode(form, self.table, columns, rows, rng))

    def take(self, count: int) -> list[Operation]:
        """The next `count` operations."""
        return [next(self) for _ in range(count)]

    def _maybe_burst(self) -> None:
        if self._burst_left:
            self._burst_left -= 1
        elif self._random.random() < self.mix.burst:
            self._burst = self._random.sample(self._keys, self._random.randint(1, 3))
            self._burst_left = self._random.randint(4, 20)

    def _batch_size(self) -> int:
        size = self._random.choice((0, 1, 1, 1, 1, 2, 2, 3, 5, 8, self.mix.largest_batch))
        return min(size, 4) if self._burst_left else size

    def _columns(self) -> list[str]:
        """A random subset of the columns in random order, the index always among them."""
        names = [name for name, _ in self.table.schema if name != self.table.index]
        count = self._random.choice((0, 1, 1, 2, 2, 3, 3, len(names), len(names), len(names)))
        if self.table.index is None:
            count = max(count, 1)  # a row of no columns is no row
        chosen = self._random.sample(names, min(count, len(names)))
        if self.table.index is not None:
            chosen.insert(self._random.randint(0, len(chosen)), self.table.index)
        return chosen

    def _row(self, columns: Sequence[str], plain_floats: bool) -> dict[str, Value]:
        types = dict(self.table.schema)
        row = {}
        for name in columns:
            if name == self.table.index:
                row[name] = self._key()
            elif name == "n":  # a unique number, so that a row lost or applied twice can be told by its own
                self._number += 1
                row[name] = self._number
            elif self._random.random() < self.mix.null:
                row[name] = None
            else:
                row[name] = random_value(types[name], self._random, plain_floats)
        return row

    def _key(self) -> Value:
        if self._burst_left and self._random.random() < 0.9:
            return self._random.choice(self._burst)
        return self._random.choice(self._keys)

    def _universe_of_keys(self) -> list[Value]:
        if self.table.index is None:
            return []
        word = dict(self.table.schema)[self.table.index]
        values = [random_value(word, self._random, plain_floats=True) for _ in range(150)]
        return list(dict.fromkeys(values))  # keeps the order, so that the seed decides


def random_value(word: str, rng: random.Random, plain_floats: bool) -> Value:
    """Return a value of the type, often an awkward one; with `plain_floats` no float that JSON cannot carry."""
    awkward = rng.random() < 0.4
    if word == "string":
        return rng.choice(STRINGS) if awkward else f"word {rng.randrange(300)}"
    if word == "boolean":
        return rng.random() < 0.5
    if word in ("float", "float64", "float32"):
        if not awkward:
            return rng.uniform(-1e6, 1e6) if plain_floats or word != "float32" else rng.randrange(-(10**6), 10**6) / 64
        pool = FLOATS + ([] if word == "float32" else FLOATS_64) + ([] if plain_floats else FLOATS_NOT_JSON)
        return rng.choice(pool)
    if word == "date":
        if awkward:
            return datetime.date(*rng.choice(DATES))
        return datetime.date(2013, 1, 1) + datetime.timedelta(days=rng.randrange(-30000, 30000))
    if word == "datetime":
        return EPOCH + (rng.choice(MOMENTS) if awkward else rng.randrange(-(10**13), 10**13)) * MILLISECOND
    low, high = integer_range(word)
    if awkward:
        return rng.choice([low, high, low + 1, high - 1, 0, 1])
    return rng.randrange(max(low, -(2**60)), min(high, 2**60))


def integer_range(word: str) -> tuple[int, int]:
    """The smallest and the largest value of an integer type."""
    bits = ARROW_TYPES[word].bit_width
    return (0, 2**bits - 1) if word.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def interleaved(
    tables: Sequence[TableLike], seed: int | str, count: int, mix: Mix | None = None
) -> Iterator[tuple[str, Operation]]:
    """`count` operations spread at random over the tables, as (table name, operation)."""
    rng = random.Random(f"{seed} interleaved")
    sources = [Operations(table, seed, mix or Mix()) for table in tables]
    for _ in range(count):
        source = rng.choice(sources)
        yield source.table.name, next(source)
