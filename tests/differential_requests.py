"""Random viewers: what they ask, and what happens to the data meanwhile, as plain values that can be printed and played again."""

import random
from collections import Counter
from typing import Any

from google.protobuf import text_format

from node.gateway import messages, safety

COLUMNS = {
    "id": "string",
    "g": "string",
    "s": "string",
    "n": "int64",
    "x": "float",
    "d": "date",
    "t": "datetime",
    "b": "boolean",
    "i": "integer",
}
KINDS: dict[str, dict[str, Any]] = {"keyed": {"index": "id"}, "last": {"limit": 14}, "all": {"max_rows": 100_000}}
"""The tables, by name, and what they are."""

EXPRESSIONS = {
    "twice": '"n" * 2',
    "mixed": '"x" + "n"',
    "loud": 'upper("g")',
    "lot": 'bucket("n", 5)',
    "month": "bucket(\"d\", 'M')",
    "pair": 'concat("g", \'-\', "s")',
    "big": '"n" > 3',
    "row": "index()",
}
NUMERIC = {"n", "x", "i", "twice", "mixed", "lot"}
TYPES = {"id": 0, "g": 0, "s": 0, "n": 3, "x": 4, "d": 1, "t": 2, "b": 5, "i": 3}
TEXT_READS = {24: "ToText", 25: "ToCsv", 26: "ToText", 36: "ToText"}
WRITES = (27, 28, 31, 32, 33, 38)
WEIGHTS = {
    "make": 9,
    "text": 22,
    "arrow": 8,
    "dimensions": 8,
    "small": 8,
    "paths": 3,
    "minmax": 3,
    "tree": 8,
    "update": 5,
    "remove": 3,
    "unsubscribe": 2,
    "watch": 2,
    "delete": 3,
    "table": 3,
    "describe": 2,
    "misc": 3,
    "write": 2,
    "wrong": 2,
    "open": 1,
    "close": 1,
    "burst": 4,
    "apply": 12,
}

Action = dict[str, Any]


class Requests:
    """Gives one action after the other. It knows which views each viewer should have, never what they answer."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.features: Counter[str] = Counter()
        self.views: dict[int, dict[str, Any]] = {}  # by viewer and view: table and configuration
        self.subscribed: dict[int, list[tuple[str, int, int]]] = {}  # view, what ends it, msg_id
        self._viewers = 0
        self._msg_id = 100
        self._configs: list[tuple[str, str]] = []

    def next(self) -> Action:
        """Return the next action."""
        while True:
            if len(self.views) < 2:
                return self._open()
            kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            action: Action | None = getattr(self, f"_{kind}")()
            if action is not None:
                self.features[kind] += 1
                return action

    # What viewers do ---------------------------------------------------------------------------------------------------

    def _ask(self, number: int, entity: str = "", body: bytes = b"", who: int | None = None) -> Action:
        self._msg_id += 1
        who = self.rng.choice(list(self.views)) if who is None else who
        return {"do": "ask", "who": who, "msg_id": self._msg_id, "number": number, "entity": entity, "body": body.hex()}

    def _view(self, *, grouped: bool = False) -> tuple[int, str, Any] | None:
        found = [
            (who, name, config)
            for who, views in self.views.items()
            for name, (_, config) in views.items()
            if not grouped or config.group_by
        ]
        return self.rng.choice(found) if found else None

    def _open(self) -> Action | None:
        if len(self.views) >= 4:
            return None
        self._viewers += 1
        self.views[self._viewers] = {}
        self.subscribed[self._viewers] = []
        return {"do": "open", "who": self._viewers}

    def _close(self) -> Action | None:
        who = self.rng.choice(list(self.views))
        during = None
        if self.views[who] and self.rng.random() < 0.7:
            during = self._ask(24, self.rng.choice(list(self.views[who])), b"\x0a\x00", who)
            self.features["closed while asking"] += 1
        elif self.rng.random() < 0.5:
            table, config = self._some_config()
            during = self._made(who, "late", table, config)
            self.features["closed while making a view"] += 1
        del self.views[who], self.subscribed[who]
        return {"do": "close", "who": who, "during": during}

    def _made(self, who: int, name: str, table: str, text: str) -> Action:
        message = messages.new("MakeView")
        message.view_id = name
        text_format.Parse(text, message.config)
        return self._ask(6, table, messages.encode(message), who)

    def _make(self) -> Action | None:
        who = self.rng.choice(list(self.views))
        free = sorted({f"v{number}" for number in range(5)} - set(self.views[who]))
        if not free:
            return None
        table, text = self._some_config()
        name = self.rng.choice(free)
        config = text_format.Parse(text, messages.new("Config"))
        self.views[who][name] = (table, config)
        return self._made(who, name, table, text)

    def _text(self) -> Action | None:
        if (view := self._view()) is None:
            return None
        who, name, _ = view
        number = self.rng.choice(list(TEXT_READS))
        message = messages.new(TEXT_READS[number])
        self._viewport(message.viewport)
        if number != 25:
            for field in ("id", "index", "formatted"):
                if self.rng.random() < 0.15:
                    setattr(message, field, True)
        return self._ask(number, name, messages.encode(message), who)

    def _viewport(self, viewport: Any) -> None:
        viewport.SetInParent()
        if self.rng.random() < 0.4:
            return
        row, column = self.rng.choice([0, 0, 1, 5, 40, 10_000]), self.rng.choice([0, 0, 0, 1, 3, 50])
        if self.rng.random() < 0.8:
            viewport.start_row, viewport.end_row = row, row + self.rng.choice([0, 1, 4, 100])
        if self.rng.random() < 0.5:
            viewport.start_col, viewport.end_col = column, column + self.rng.choice([1, 2, 30])
        self.features["viewport beyond the rows" if row >= 40 else "viewport"] += 1
        if viewport.start_col >= 50:
            self.features["viewport beyond the columns"] += 1

    def _arrow(self) -> Action | None:
        if (view := self._view()) is None:
            return None
        message = messages.new("ToArrow")
        self._viewport(message.viewport)
        if self.rng.random() < 0.2:
            message.compression = "lz4"
        return self._ask(16, view[1], messages.encode(message), view[0])

    def _dimensions(self) -> Action | None:
        view = self._view()
        return view and self._ask(12, view[1], b"", view[0])

    def _small(self) -> Action | None:
        view = self._view()
        return view and self._ask(self.rng.choice([13, 14, 15]), view[1], b"", view[0])

    def _paths(self) -> Action | None:
        if (view := self._view()) is None:
            return None
        message = messages.new("ColumnPaths")
        if self.rng.random() < 0.5:
            message.start_col = self.rng.choice([0, 1, 30])
            message.end_col = message.start_col + self.rng.choice([1, 4])
        return self._ask(10, view[1], messages.encode(message), view[0])

    def _minmax(self) -> Action | None:
        if (view := self._view()) is None:
            return None
        columns = sorted(set(view[2].columns.columns.columns) & NUMERIC)
        message = messages.new("MinMax")
        if not columns:
            return None
        message.column_name = self.rng.choice(columns)
        return self._ask(20, view[1], messages.encode(message), view[0])

    def _tree(self) -> Action | None:
        if (view := self._view(grouped=self.rng.random() < 0.95)) is None:
            return None
        number = self.rng.choice([18, 19, 23])
        message = messages.new("Depth" if number == 23 else "RowIndex")
        if number == 23:
            message.depth = self.rng.choice([0, 1, 2])
        else:
            message.row_index = self.rng.choice([0, 1, 2, 3])
        return self._ask(number, view[1], messages.encode(message), view[0])

    def _update(self) -> Action | None:
        if (view := self._view()) is None:
            return None
        wants_rows = self.rng.random() < 0.4
        action = self._ask(21, view[1], b"\x08\x00" if wants_rows else b"", view[0])
        self.subscribed[view[0]].append((view[1], 22, action["msg_id"]))
        self.features["row deltas" if wants_rows else "notifications"] += 1
        return action

    def _remove(self) -> Action | None:
        view = self._view()
        if view is None or self.views[view[0]][view[1]][0] != "keyed":
            return None
        action = self._ask(39, view[1], b"", view[0])
        self.subscribed[view[0]].append((view[1], 40, action["msg_id"]))
        return action

    def _watch(self) -> Action | None:
        if self.rng.random() < 0.4:
            action = self._ask(29, self._table_name())
            self.subscribed[action["who"]].append((action["entity"], 30, action["msg_id"]))
            return action
        if (view := self._view()) is None:
            return None
        action = self._ask(34, view[1], b"", view[0])
        self.subscribed[view[0]].append((view[1], 35, action["msg_id"]))
        return action

    def _unsubscribe(self) -> Action | None:
        found = [(who, subscription) for who, known in self.subscribed.items() for subscription in known]
        if not found:
            return None
        who, (entity, number, msg_id) = self.rng.choice(found)
        self.subscribed[who].remove((entity, number, msg_id))
        return self._ask(number, entity, identity(msg_id), who)

    def _delete(self) -> Action | None:
        if (view := self._view()) is None:
            return None
        who, name, _ = view
        del self.views[who][name]
        self.subscribed[who] = [known for known in self.subscribed[who] if known[0] != name]
        return self._ask(11, name, b"", who)

    def _table_name(self) -> str:
        return self.rng.choice(list(KINDS))

    def _table(self) -> Action:
        return self._ask(self.rng.choice([7, 8]), self._table_name())

    def _describe(self) -> Action:
        wrong = {"wrong": '"nothing" + 1'} if self.rng.random() < 0.3 else {}
        expressions = dict(self.rng.sample(list(EXPRESSIONS.items()), 2)) | wrong
        if self.rng.random() < 0.5:
            message = messages.new("ValidateExpressions")
            message.expressions.update(expressions)
            return self._ask(9, self._table_name(), messages.encode(message))
        message = messages.new("Describe")
        message.config.CopyFrom(safety.only_expressions(expressions))
        return self._ask(41, self._table_name(), messages.encode(message))

    def _misc(self) -> Action:
        number = self.rng.choice([3, 4, 5, 17, 37])
        if number == 5:
            return self._ask(5, self._table_name())
        return self._ask(number, "", identity(1) if number == 37 else b"")

    def _write(self) -> Action:
        return self._ask(self.rng.choice(WRITES), self._table_name(), b"")

    def _wrong(self) -> Action | None:
        if self.rng.random() < 0.5:
            return self._ask(self.rng.choice([10, 12, 13, 15, 16, 24]), "nobody's")
        who = self.rng.choice(list(self.views))
        text = self.rng.choice(
            [
                'columns { columns { columns: "nothing" } }',
                'columns { columns { columns: "n" } } group_by: "nothing"',
                'columns { columns { columns: "n" } } sort { column: "nothing" op: 0 }',
            ]
        )
        return self._made(who, "wrong", self._table_name(), text)

    def _burst(self) -> Action | None:
        """Several reads at a time; data may change meanwhile."""
        asks = [ask for ask in (self._reads() for _ in range(self.rng.randrange(2, 7))) if ask is not None]
        if not asks:
            return None
        change = self._apply() if self.rng.random() < 0.5 else None
        self.features["reads while data change" if change else "reads at the same time"] += 1
        return {"do": "burst", "asks": asks, "change": change}

    def _reads(self) -> Action | None:
        return self.rng.choice([self._text, self._arrow, self._dimensions])()

    # Configurations ----------------------------------------------------------------------------------------------------

    def _some_config(self) -> tuple[str, str]:
        """A table and a configuration: often one that somebody has had already."""
        if self._configs and self.rng.random() < 0.5:
            self.features["configuration of before"] += 1
            return self.rng.choice(self._configs[-8:])
        table = self._table_name()
        chosen = table, self._config(has_windows=table != "keyed")
        self._configs.append(chosen)
        return chosen

    def _config(self, *, has_windows: bool) -> str:
        rng = self.rng
        parts: list[str] = []
        made = dict(rng.sample(list(EXPRESSIONS.items()), rng.choice([0, 0, 0, 1, 2])))
        parts += [f'expressions {{ key: "{name}" value: {quote(text)} }}' for name, text in made.items()]
        self._saw("expressions", made)
        windows: list[str] = []
        if has_windows and rng.random() < 0.1:  # with an index, two engines with one history differ in them
            windows = ["run"]
            frame = rng.choice(["rows: 3", "cumulative: 0"])
            order = rng.choice(["", 'order_by { column: "x" }', 'partition_by: "g"'])
            op = rng.choice(["sum", "avg", "count", "max"])
            parts.append(f'windows {{ key: "run" value {{ source: "n" op: "{op}" {frame} {order} }} }}')
        self._saw("windows", windows)
        pool = [*COLUMNS, *made]
        groups = rng.sample(
            ["g", "s", "b", "i", "d", *(name for name in made if name != "mixed")], rng.choice([0, 0, 1, 1, 2])
        )
        splits = rng.sample(["g", "s", "b"], rng.choice([0, 0, 0, 1, 2]))
        parts += [f'group_by: "{name}"' for name in groups] + [f'split_by: "{name}"' for name in splits]
        self._saw("group_by", groups)
        self._saw("split_by", splits)
        self._saw("two levels", groups[1:])
        if rng.random() < 0.2 and len(made) < 2:  # with more, all columns come in an order of their own in each engine
            columns = []
            self.features["all columns"] += 1
        else:
            columns = rng.sample(pool, rng.randrange(1, 5)) + windows
        shown = " ".join(f'columns: "{name}"' for name in columns)
        parts.append(f"columns {{ columns {{ {shown} }} }}" if columns else "columns { default_columns: 0 }")
        if groups:
            if rng.random() < 0.25:
                parts.append(f"group_by_depth: {rng.choice([0, 1, 2])}")
                self.features["group_by_depth"] += 1
            if (mode := rng.choice([0, 0, 0, 1, 2])) != 0:
                parts.append(f"group_rollup_mode: {mode}")
                self.features["flat roll-up" if mode == 1 else "total roll-up"] += 1
            for name in columns:
                if name in TYPES and rng.random() < 0.6:
                    parts.append(self._aggregate(name))
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            parts.append(self._filter(rng.choice(["g", "s", "n", "x", "d", "b", *sorted(set(made) & {"twice", "lot"})])))
        if rng.random() < 0.3:
            parts.append("filter_op: 1")
            self.features["OR"] += 1
        sorts = rng.sample(pool, rng.choice([0, 0, 1, 2]))
        for name in sorts:
            op = rng.choice([1, 2, 3, 4, 5, 6, 7, 8] if splits else [1, 2, 5, 6])
            parts.append(f'sort {{ column: "{name}" op: {op} }}')
            self.features["sort"] += 1
            self.features["sort by a column not shown"] += name not in columns
            self.features["sort of columns"] += op in (3, 4, 7, 8)
        return " ".join(parts)

    def _saw(self, what: str, found: Any) -> None:
        self.features[what] += bool(found)

    def _aggregate(self, column: str) -> str:
        option = self.rng.choice(list(safety.offered().aggregates[TYPES[column]].aggregates))
        others = ' aggregations: "i"' if option.args else ""
        self.features["aggregates"] += 1
        return f'aggregates {{ key: "{column}" value {{ aggregations: "{option.name}"{others} }} }}'

    def _filter(self, column: str) -> str:
        one, two = 'string: "a"', 'string: "a" } value { string: "c"'
        choices: dict[str, list[tuple[str, str | None]]] = {
            "g": [("==", one), ("!=", one), ("in", two), ("not in", two), ("is null", None)],
            "s": [("is not null", None), ("contains", 'string: "p"'), ("begins with", 'string: "q"')],
            "d": [(">", "float: 1577923200000"), ("is not null", None), ("is null", None)],
            "b": [("==", "bool: true"), ("!=", "bool: true")],
        }
        numbers: list[tuple[str, str | None]] = [
            (">", "float: 0"),
            ("<=", "float: 5"),
            ("!=", "float: 5"),
            ("is not null", None),
        ]
        op, value = self.rng.choice(choices.get(column, numbers))
        self.features["filter"] += 1
        values = f" value {{ {value} }}" if value else ""
        return f'filter {{ column: "{column}" op: "{op}"{values} }}'

    # Data --------------------------------------------------------------------------------------------------------------

    def _apply(self) -> Action:
        table = self._table_name()
        operations = [self._operation(table) for _ in range(self.rng.choice([1, 1, 2, 3]))]
        return {"do": "apply", "table": table, "operations": operations, "flush": self.rng.random() < 0.85}

    def _operation(self, table: str) -> list[Any]:
        rng = self.rng
        dice = rng.random()
        if dice < 0.25 and table == "keyed":
            self.features["data: remove"] += 1
            return ["remove", {"id": rng.sample([f"k{number}" for number in range(16)], rng.randrange(1, 4))}]
        # A limit table that is emptied, and then filled with nulls, is made anew: see tests/test_filling.py.
        if dice > 0.96 and table != "last":
            self.features["data: replace"] += 1
            return ["replace", self.rows(rng.randrange(1, 9), list(COLUMNS))]
        if dice > 0.94 and table != "last":
            self.features["data: clear"] += 1
            return ["clear", {}]
        columns = list(COLUMNS)
        if table == "keyed" and rng.random() < 0.4:
            columns = ["id", *rng.sample(columns[1:], rng.randrange(1, 6))]
            self.features["data: some columns"] += 1
        self.features["data: update"] += 1
        return ["update", self.rows(rng.randrange(1, 6), columns)]

    def rows(self, count: int, columns: list[str]) -> dict[str, list[Any]]:
        """Random values; dates are days, moments are ms from 1970."""
        rng = self.rng

        def value(column: str) -> Any:
            if column == "id":
                return f"k{rng.randrange(16)}"
            if rng.random() < 0.12:
                return None
            return {
                "g": lambda: rng.choice("abc"),
                "s": lambda: rng.choice(["p", "q", "pq"]),
                "n": lambda: rng.randrange(-9, 10),
                "x": lambda: rng.randrange(-40, 40) / 4,
                "d": lambda: 18262 + rng.randrange(70),
                "t": lambda: 1577836800000 + rng.randrange(5) * 3600000,
                "b": lambda: rng.random() < 0.5,
                "i": lambda: rng.randrange(4),
            }[column]()

        return {column: [value(column) for _ in range(count)] for column in columns}


def identity(number: int) -> bytes:
    """Encode a message that is only an id."""
    message = messages.new("Id")
    message.id = number
    return messages.encode(message)


def quote(text: str) -> str:
    """Write a string as protobuf's text format does."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
