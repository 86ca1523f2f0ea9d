"""The views that the users of a load test look at: which, as the bytes of Perspective's own client, and what the oracle says of each.

The oracle is plain Python over the rows that the schedule leaves behind; no engine has a part in it.
"""

import random
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any

import pyarrow as pa

from loadtests.plan import Dialogue
from loadtests.protocol import FEATURES, Body, read_varint, varint
from loadtests.requests import VIEWPORT_ROWS, record
from loadtests.schedule import SPEC, Row, Schedule

NEWEST = re.compile(rb'seq":\[([^\]]*)\]')
VALUE = re.compile(rb'"value":\[(\d+)\]')
ALL = ("id", "symbol", "seq", "due_us", "price", "size")
AGGREGATES: dict[str, tuple[str, Callable[[Iterable[Any]], Any]]] = {
    "seq": ("max", max),
    "due_us": ("max", max),
    "size": ("sum", sum),
    "id": ("count", lambda values: len(list(values))),
}
TO_COLUMNS, TABLE_UPDATE = 24, 33
GET_FEATURES: Body = (FEATURES, b"")


@dataclass(frozen=True, slots=True)
class Look:
    """One configuration."""

    columns: tuple[str, ...] = ALL
    group_by: tuple[str, ...] = ()
    sort: tuple[tuple[str, str], ...] = ()
    symbol: str = ""
    """Only rows of this symbol, if any is named."""

    @property
    def dialogue(self) -> Dialogue:
        """What a viewer says about it."""
        return _dialogue(self)

    def expected(self, rows: Sequence[Row]) -> list[tuple[Any, ...]]:
        """Return what a whole view holds of these rows, in an order of its own: sorted, so that equal keys may come in any."""
        kept = [row for row in rows if not self.symbol or row["symbol"] == self.symbol]
        if not self.group_by:
            return comparable(tuple(row[name] for name in self.columns) for row in kept)
        found = []
        for depth in range(len(self.group_by) + 1):

            def path(row: Row, depth: int = depth) -> tuple[Any, ...]:
                return tuple(row[name] for name in self.group_by[:depth])

            for where, members in groupby(sorted(kept, key=path), path):
                group = list(members)
                values = (AGGREGATES[name][1](row[name] for row in group) for name in self.columns)
                found.append((*where, *[None] * (len(self.group_by) - depth), *values))
        return comparable(found)

    def read(self, arrow: bytes) -> tuple[list[tuple[Any, ...]], bool]:
        """Return a whole view, as a server answers it, in the form of `expected`, and whether it came in the order of the sort.

        The order of groups is not looked at.

        Raises:
            KeyError: a column is missing.
            pyarrow.ArrowException: this is no Arrow.
        """
        table = pa.ipc.open_stream(arrow).read_all()
        found = list(zip(*(table[name].to_pylist() for name in (*self.group_by, *self.columns)), strict=True))
        return comparable(found), bool(self.group_by) or found == self.in_order(found)

    def in_order(self, rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return rows of a view sorted as it is; those that are equal to the sort stay as they are."""
        found = list(rows)
        for name, direction in reversed(self.sort):
            place = self.columns.index(name)
            found.sort(key=itemgetter(place), reverse=direction == "desc")
        return found


def comparable(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Return rows in one order, None first."""
    return sorted(map(tuple, rows), key=lambda row: [(value is not None, value) for value in row])


@cache
def _dialogue(look: Look) -> Dialogue:
    config: dict[str, Any] = {"columns": list(look.columns)}
    if look.group_by:
        config |= {"group_by": list(look.group_by), "aggregates": {name: AGGREGATES[name][0] for name in look.columns}}
    if look.sort:
        config["sort"] = [list(pair) for pair in look.sort]
    if look.symbol:
        config["filter"] = [["symbol", "==", look.symbol]]
    return record(SPEC.arrow_schema, **config)


GROUPED = ("seq", "due_us", "size", "id")
SHARED = (
    Look(sort=(("seq", "desc"), ("price", "desc"))),
    Look(columns=GROUPED, group_by=("sector",)),
    Look(columns=GROUPED, group_by=("sector", "symbol"), sort=(("seq", "desc"),)),
    Look(symbol="S000", sort=(("seq", "desc"),)),
)
"""What many viewers look at: a blotter with the newest on top, totals, totals of totals, one symbol. Each shows every update."""
EXPLORED = (
    *SHARED,
    Look(sort=(("size", "asc"),)),
    Look(columns=GROUPED, group_by=("symbol",), sort=(("size", "desc"),)),
    Look(symbol="S001"),
    Look(columns=("id", "price"), sort=(("price", "desc"),)),
)
"""What an explorer goes through."""
RAW = Look(columns=("id", "seq"))


def choose(sharing: float, chance: random.Random) -> tuple[Look, bytes]:
    """Return a look, and its configuration: with the probability `sharing` the one that others have, too, else one of one's own."""
    look = chance.choice(SHARED)
    return look, choose_config(look, sharing, chance)


def choose_config(look: Look, sharing: float, chance: random.Random) -> bytes:
    """Return the configuration of a look, as `choose`."""
    return look.dialogue.config if chance.random() < sharing else own(look.dialogue.config, chance.randrange(1, 1 << 52))


def own(config: bytes, number: int) -> bytes:
    """Return a configuration that nobody else has and that shows the same: it has one more filter, `id > -number`."""
    assert config[0] == 0x12, "the field of a TableMakeView that holds the configuration"
    size, at = read_varint(config, 1)
    value = _field(3, b"\x21" + struct.pack("<d", -number))
    more = config[at : at + size] + _field(4, _field(1, b"id") + _field(2, b">") + value)
    return _field(2, more)


def rows(start: int, end: int = 0) -> Body:
    """Return the request for some rows of a view, as a grid asks for them after scrolling."""
    first = b"\x08" + varint(start) + b"\x18" + varint(end or start + VIEWPORT_ROWS)
    return TO_COLUMNS, _field(1, first) + b"\x10\x01"


def edit(json_rows: str) -> Body:
    """Return the request that updates a table."""
    return TABLE_UPDATE, _field(1, _field(4, json_rows.encode())) + b"\x10\x01"


def newest_in(answer: bytes) -> int | None:
    """Return the newest update that is among the rows of an answer, None if it shows none."""
    found = [int(text) for column in NEWEST.findall(answer) for text in column.split(b",") if text.strip().isdigit()]
    return max(found, default=None)


def sequences(arrow: bytes) -> list[int]:
    """Return the update of each row of an Arrow answer."""
    found: list[int] = pa.ipc.open_stream(arrow).read_all()["seq"].to_pylist()
    return found


class Oracle:
    """What every look at the table shows at the end of a schedule."""

    def __init__(self, schedule: Schedule) -> None:
        self._rows = list(schedule.final())
        self._known: dict[Look, list[tuple[Any, ...]]] = {}  # whatever their sort

    def agrees(self, look: Look, arrow: bytes) -> bool:
        """Say whether a server's answer to the request for the whole view is right."""
        key = replace(look, sort=())
        if key not in self._known:
            self._known[key] = key.expected(self._rows)
        found, is_ordered = look.read(arrow)
        return is_ordered and found == self._known[key]


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content
