"""`parallax tables`: list, show, create, alter and drop tables while everything runs."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from parallax.errors import ConfigurationError
from parallax.replication.spec import ARROW_TYPES, TableSpec
from parallax.store import connect
from parallax.tables import Action, catalog, request
from parallax.tables_file import parse_tables

Run = Callable[["Redis", argparse.Namespace], Coroutine[Any, Any, int]]


def add_arguments(command: argparse.ArgumentParser, add_common: Callable[[argparse.ArgumentParser], None]) -> None:
    """Declare the sub-commands and their arguments."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text)
        add_common(action)
        action.set_defaults(run=lambda arguments: asyncio.run(_with_redis(run, arguments)))
        return action

    add("list", _list, "list the tables that there are")
    show = add("show", _show, "show one table's spec, as it could stand in a tables file")
    show.add_argument("name")
    for name, run, text in (
        ("create", _create, "create tables; one that is there with the same spec is left alone"),
        ("alter", _alter, "give tables another spec; rows are kept, columns that are new are null"),
    ):
        action = add(name, run, text)
        action.add_argument("name", nargs="?", help="the table; without it, all tables of --file")
        action.add_argument("-f", "--file", help="a tables file (YAML) that declares it; - for standard input")
        types = ", ".join(ARROW_TYPES)
        action.add_argument(
            "-c", "--column", action="append", default=[], metavar="NAME=TYPE", help=f"a column; types: {types}"
        )
        action.add_argument("--index", help="the primary key's column")
        for number in ("limit", "max-rows", "max-bytes"):
            action.add_argument(f"--{number}", type=int)
        action.add_argument("--writes", choices=("deny", "forward"), default="deny")
    drop = add("drop", _drop, "drop a table: its rows are gone, on every node")
    drop.add_argument("name")


async def _with_redis(run: Run, arguments: argparse.Namespace) -> int:
    redis = connect(arguments.redis)
    try:
        return await run(redis, arguments)
    finally:
        await redis.aclose()


async def _list(redis: "Redis", arguments: argparse.Namespace) -> int:
    tables = await catalog(redis, arguments.prefix)
    if arguments.json:
        print(json.dumps([spec.to_json() for spec in tables.values()], indent=2))
        return 0
    for name, spec in tables.items():
        print(f"{name}\t{len(spec.schema)} columns\t{_kept(spec)}\twrites: {spec.writes}")
    return 0


async def _show(redis: "Redis", arguments: argparse.Namespace) -> int:
    spec = (await catalog(redis, arguments.prefix)).get(arguments.name)
    if spec is None:
        print(f"parallax: there is no table {arguments.name!r}", file=sys.stderr)
        return 1
    body = {key: value for key, value in spec.to_json().items() if key != "name"} | {"schema": dict(spec.schema)}
    print(json.dumps(spec.to_json() if arguments.json else {"tables": {spec.name: body}}, indent=2))
    return 0


async def _create(redis: "Redis", arguments: argparse.Namespace) -> int:
    return await _declare(redis, arguments, "create")


async def _alter(redis: "Redis", arguments: argparse.Namespace) -> int:
    return await _declare(redis, arguments, "alter")


async def _declare(redis: "Redis", arguments: argparse.Namespace, action: Action) -> int:
    for spec in _specs(arguments):
        await request(redis, arguments.prefix, action, spec.name, spec)
        print(f"table {spec.name!r}: {len(spec.schema)} columns, {_kept(spec)}")
    return 0


async def _drop(redis: "Redis", arguments: argparse.Namespace) -> int:
    await request(redis, arguments.prefix, "drop", arguments.name)
    print(f"table {arguments.name!r} is dropped")
    return 0


def _specs(arguments: argparse.Namespace) -> list[TableSpec]:
    if arguments.file is not None:
        try:
            data = sys.stdin.buffer.read() if arguments.file == "-" else Path(arguments.file).read_bytes()
        except OSError as error:
            raise ConfigurationError([f"{arguments.file}: {error.strerror or error}"]) from error
        specs = parse_tables(data, arguments.file)
        chosen = [spec for spec in specs if arguments.name in (None, spec.name)]
        if not chosen:
            raise ConfigurationError([f"{arguments.file} declares no table {arguments.name!r}"])
        return chosen
    if arguments.name is None:
        raise ConfigurationError(["name a table, or give a tables file with --file"])
    schema = {}
    for column in arguments.column:
        name, equals, word = column.rpartition("=")
        if not equals:
            raise ConfigurationError([f"--column {column!r}: expected NAME=TYPE"])
        schema[name] = word
    numbers = {key: getattr(arguments, key) for key in ("index", "limit", "max_rows", "max_bytes")}
    body = {key: value for key, value in numbers.items() if value is not None}
    return [TableSpec.declare(arguments.name, body | {"schema": schema, "writes": arguments.writes})]


def _kept(spec: TableSpec) -> str:
    if spec.index is not None:
        return f"index {spec.index}"
    if spec.limit is not None:
        return f"the newest {spec.limit} rows"
    return f"at most {spec.max_rows} rows" if spec.max_rows else f"at most {spec.max_bytes} bytes"
