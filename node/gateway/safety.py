"""What the engine does not survive, or never finishes, kept away from it.

Perspective trusts its clients: well-formed requests end the process (a segmentation fault) or hold a lock for ever. Each rule
here stands for one that was measured on 5.6.1 and has its test in `tests/test_engine_facts.py`, which tells when it may go.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf.message import Message

from node.gateway import messages
from parallax.replica.features import features
from parallax.replica.filling import MOST_SLOTS
from parallax.replication.spec import TableSpec
from parallax.wire import Refused, decode

MOST = 1 << 30
"""Rows, columns and depths from 2**31 on are taken for negative: indices run out of memory. No table is that large."""

STRING, DATE, DATETIME, INTEGER, FLOAT, BOOLEAN = range(6)
"""The engine's column types, as the protocol numbers them."""

NEEDS_NO_VALUE = frozenset({"is null", "is not null"})
_DEADLY_AGGREGATES = {kind: {"high minus low"} for kind in range(6)} | {
    DATE: {"high minus low", "avg"},
    DATETIME: {"high minus low", "avg"},
}
_TREE = 0  # the roll-up mode that makes one
_ENUMS = {"filter_op": 2, "group_rollup_mode": 3, "split_rollup_mode": 2}  # how many values each has
_SORTS = 9

MOST_MS = 8.64e15
"""The last moment of a date as clients count, in ms from 1970. A number that is none, as NaN, ends the process."""


@cache
def offered() -> Any:
    """Return what views can do: the engine's own `Features`, without the aggregates that end the process.

    "high minus low" of a group without rows, and the average of dates, read beyond what there is.
    """
    offer = messages.parse("Features", decode(features()).body)
    for kind, deadly in _DEADLY_AGGREGATES.items():
        kept = [option for option in offer.aggregates[kind].aggregates if option.name not in deadly]
        del offer.aggregates[kind].aggregates[:]
        offer.aggregates[kind].aggregates.extend(kept)
    return offer


def cut_numbers(message: Message) -> None:
    """Cut every number of rows, columns or levels in a request to what the engine can count."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_UINT32:
            setattr(message, field.name, min(value, MOST))
        elif field.type == field.TYPE_MESSAGE and not field.is_repeated:
            cut_numbers(value)


def check_config(config: Any, spec: TableSpec, expressions: Mapping[str, int]) -> None:
    """Check a view's configuration, and complete it where the engine needs more than the client said.

    `expressions` are their types, by name.

    Raises:
        Refused: the engine would not survive it.
    """
    types = column_types(spec, expressions)
    cut_numbers(config)
    if spec.limit is not None and spec.limit > MOST_SLOTS and config.group_by and config.split_by:
        raise Refused(f"views of a table with a limit over {MOST_SLOTS:,} rows cannot be grouped and split at once")
    for name, count in _ENUMS.items():
        if not 0 <= getattr(config, name) < count:
            raise Refused(f"{name} {getattr(config, name)} is not known here")
    _check_names(config)
    if len(config.filter) > 1 and config.filter_op == _ANY and _passes_nulls(config):
        raise Refused(
            "a view that is grouped or split cannot have a filter of which any term is enough and one is '!=', 'not in' or "
            "'is null'; use an expression, such as is_null(\"column\"), and compare it with true"
        )
    for sort in config.sort:
        if not 0 <= sort.op < _SORTS:
            raise Refused(f"sort {sort.op} of {sort.column!r} is not known here")
    for term in config.filter:
        _check_filter(term, types.get(term.column, _window_type(config, term.column, types)))
    for column, aggregates in config.aggregates.items():
        kind = types.get(column, _window_type(config, column, types))
        if kind is None:
            continue  # the engine refuses columns that it does not know
        names = {option.name for option in offered().aggregates[kind].aggregates}
        wanted = aggregates.aggregations[0] if aggregates.aggregations else ""
        if wanted not in names:
            raise Refused(f"aggregate {wanted!r} is not offered for column {column!r}")


_KEY = "psp_okey"
"""The engine's own column of row keys, which is never null. Clients could name it, too."""
_PASS_NULLS = frozenset({"!=", "not in", "is null"})
_LISTS = {"==": "in", "!=": "not in"}
_ANY = 1  # the filter_op with which one term is enough


def _passes_nulls(config: Any) -> bool:
    """Say whether the filter of a pivot may pass a row that is not there.

    The engine takes a row that is new for one whose cells were null before. If a filter passes that, it takes the row out of the
    group of nulls, where it never was: the group shows wrong numbers, or reading it ends the process.
    """
    return bool(config.group_by or config.split_by) and any(term.op in _PASS_NULLS for term in config.filter)


def for_engine(config: Any, types: Mapping[str, int]) -> Any:
    """Return the configuration with which the engine makes a view that was asked for with this one, which was checked.

    For "==" and "!=" with a string the engine adds that to the table's words, without a lock, in the threads that fill an empty
    table's views: two such views, and the process may end. And where any term is enough, neither is ever right. "in" and
    "not in" say the same and do neither.
    """
    made = messages.new("Config")
    made.CopyFrom(config)
    for term in made.filter:
        if (
            term.op in _LISTS
            and all(value.HasField("string") for value in term.value)
            and types.get(term.column, _window_type(config, term.column, types)) == STRING
        ):
            term.op = _LISTS[term.op]
    if _passes_nulls(config):
        made.ClearField("filter_op")
        made.filter.add(column=_KEY, op="is not null").value.add().null = 0
    return made


def as_asked(body: bytes, config: Any) -> bytes:
    """Return the engine's account of a view's configuration with the filter that was asked for."""
    told = messages.parse("Describe", body)
    if told.config.filter and told.config.filter[-1].column == _KEY:
        del told.config.filter[-1]
        if config.filter_op:
            told.config.filter_op = config.filter_op
    if len(told.config.filter) == len(config.filter):
        for term, asked in zip(told.config.filter, config.filter, strict=True):
            if term.op == _LISTS.get(asked.op):
                term.CopyFrom(asked)
    return messages.encode(told)


def _check_names(config: Any) -> None:
    named = [*config.group_by, *config.split_by, *config.columns.columns.columns, *config.aggregates, *config.windows]
    named += [term.column for term in (*config.filter, *config.sort)]
    named += [name for aggregates in config.aggregates.values() for name in aggregates.aggregations[1:]]
    for window in config.windows.values():
        named += [window.source, window.order_by.column, *window.partition_by]
    for name in named:
        if name.startswith("psp_"):
            raise Refused(f"there is no column {name!r}")


def _check_filter(term: Any, kind: int | None) -> None:
    if not term.value and term.op not in NEEDS_NO_VALUE:
        raise Refused(f"filter {term.column!r} {term.op!r} has no value to compare with")
    if not term.value:
        term.value.add().null = 0  # as clients send it
    for value in term.value:
        if kind in (DATE, DATETIME) and value.HasField("float") and not abs(value.float) <= MOST_MS:
            raise Refused(f"filter {term.column!r} {term.op!r} compares with {value.float}, which is no date")


def _window_type(config: Any, column: str, types: Mapping[str, int]) -> int | None:
    if column not in config.windows:
        return None
    window = config.windows[column]
    source = types.get(window.source)
    for option in offered().window_aggregates[source].options if source is not None else ():
        if option.name == window.op and option.HasField("result_type"):
            return int(option.result_type)
    return source


def check_state_change(config: Any) -> None:
    """Check that a view with this configuration can be expanded, collapsed, or set to a depth.

    Raises:
        Refused: it has no tree; setting the depth of a flat roll-up ended the process.
    """
    if not config.group_by or config.group_rollup_mode != _TREE:
        raise Refused("this view is not grouped into a tree")


def has_row_deltas(config: Any) -> bool:
    """Say whether the engine can send row deltas of a view with this configuration.

    Computing them for two levels of split_by ended the process.
    """
    return len(config.split_by) <= 1


_AGEING_AGGREGATES = frozenset({"any", "last", "dominant", "median", "q1", "q3", "high", "low", "min by", "max by"})
_AGEING_FUNCTIONS = re.compile(r"\b(random|now|today)\b", re.IGNORECASE)


def depends_on_age(config: Any, *, is_indexed: bool) -> bool:
    """Say whether two views of this configuration, made at different times, can give different answers.

    Measured, see `tests/test_engine_ages.py`; neither the order of rows that compare equal nor the last bits of sums count.
    """
    if any(_AGEING_FUNCTIONS.search(text) for text in config.expressions.values()):
        return True
    if config.windows:
        return True
    if is_indexed and any(name in config.expressions for name in (*config.group_by, *config.split_by)):
        return True
    return bool(config.group_by) and any(
        _AGEING_AGGREGATES.intersection(aggregates.aggregations[:1]) for aggregates in config.aggregates.values()
    )


def cut_columns(paths: Any, columns: int) -> None:
    """Cut a range of columns to those that a view has: one that starts beyond them, or beyond its end, is never finished."""
    paths.start_col = min(paths.start_col, columns)
    if paths.HasField("end_col"):
        paths.end_col = max(paths.start_col, paths.end_col)


def only_expressions(expressions: Mapping[str, str]) -> Any:
    """Return a configuration that has expressions and no columns: to describe it, the engine only looks at them."""
    config = messages.new("Config")
    config.columns.columns.SetInParent()
    config.expressions.update(expressions)
    return config


def column_types(spec: TableSpec, expressions: Mapping[str, int]) -> dict[str, int]:
    """Return the engine's type of each column of a table, and of those that expressions make."""
    by_word = {"string": STRING, "date": DATE, "datetime": DATETIME, "boolean": BOOLEAN}
    columns = {name: by_word.get(word, FLOAT if word.startswith("float") else INTEGER) for name, word in spec.schema}
    return dict(expressions) | columns
