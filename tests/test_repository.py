"""The rules that the tree itself keeps: who may import whom, what lies where, nothing that ties it to one machine."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALLOWED = {
    *(".ci", ".dockerignore", ".gitignore", "Dockerfile", "LICENSE", "Makefile", "README.md", "pyproject.toml"),
    *("requirements.lock", "coordinator", "docs", "helm", "loadtests", "node", "parallax", "tests"),
}
DOCS = {"architecture", "guarantees", "operations", "security", "sizing", "benchmarks", "clients", "decisions"}
LONGEST = 400  # lines of a module
LONGEST_TEST = 550
ONE_PIECE = {"parallax/replica/engine.py": 590}  # everything in it holds the same lane

# Files of the package (by the beginning of their path), what they may not import, and the files for which it is their purpose.
FORBIDDEN = [
    ("node/", {"coordinator"}, ()),
    ("coordinator/", {"node"}, ()),
    ("parallax/", {"node", "coordinator"}, ("parallax/cli.py",)),  # the command line starts either
    ("parallax/replication/", {"tornado", "redis", "perspective", "asyncio", "uvloop", "threading", "socket"}, ()),
    ("", {"perspective"}, ("parallax/replica/", "parallax/client.py", "tests/", "loadtests/")),
]


def tracked(*suffixes: str) -> list[str]:
    """Return the paths of the repository's files, those not yet committed too."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True
    )
    paths = [path for path in listing.stdout.decode().split("\0") if path and (ROOT / path).is_file()]
    return [path for path in paths if path.endswith(suffixes or "")]


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and full name of each module that a source imports, wherever in it; names taken from it count too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """Return a line for each import that breaks a direction."""
    roots = [(line, name.split(".")[0]) for line, name in imported(source)]
    return [
        f"{path}:{line} imports {root}"
        for beginning, forbidden, exempt in FORBIDDEN
        if path.startswith(beginning) and not path.startswith(exempt or ("\0",))
        for line, root in roots
        if root in forbidden
    ]


def test_imports_go_in_one_direction():
    sources = {path: (ROOT / path).read_text() for path in tracked(".py")}
    assert {"parallax", "node", "coordinator"} <= {path.split("/")[0] for path in sources}
    assert [line for path, source in sources.items() for line in violations(path, source)] == []


def test_the_contract_stands_on_itself():
    """What replication imports of Parallax is replication, and the errors."""
    strays = [
        f"{path}:{line} imports {name}"
        for path in tracked(".py")
        if path.startswith("parallax/replication/")
        for line, name in imported((ROOT / path).read_text())
        if name.startswith("parallax") and not name.startswith(("parallax.replication", "parallax.errors"))
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("node/a.py", "from coordinator.lease import Lease", "coordinator"),
        ("coordinator/a.py", "def f():\n    import node.pages", "node"),
        ("parallax/a.py", "import node", "node"),
        ("parallax/cli.py", "import node", None),
        ("parallax/replication/a.py", "import asyncio", "asyncio"),
        ("parallax/replica/a.py", "import asyncio, perspective", None),
        ("node/gateway/a.py", "from perspective import Server", "perspective"),
        ("parallax/client.py", "import perspective", None),
    ],
)
def test_a_wrong_import_is_found(path: str, source: str, found: str | None):
    assert [line.rpartition(" ")[2] for line in violations(path, source)] == ([found] if found else [])


def test_the_top_level_is_what_the_design_names():
    tops = {path.split("/")[0] for path in tracked()}
    assert tops <= ALLOWED
    assert tops >= {".ci", "LICENSE", "Makefile", "README.md", "coordinator", "node", "parallax", "tests"}
    assert {Path(path).parts[1].removesuffix(".md") for path in tracked(".md") if path.startswith("docs/")} <= DOCS


def test_modules_are_short():
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in tracked(".py")}
    most = {path: LONGEST_TEST if path.startswith("tests/") else LONGEST for path in lengths} | ONE_PIECE
    assert {path: length for path, length in lengths.items() if length > most[path]} == {}


def test_nothing_is_tied_to_one_machine_or_registry():
    # Written in pieces, so that this file does not name them either.
    hosts = [r"pypi\." + "org", "python" + r"hosted\.org", r"registry\.npm" + r"js\.org", r"crates\." + "io"]
    places = ["/" + "work/", "/" + "tmp/scratch", "/" + "root/", "/" + r"home/[a-z]", "/" + r"Users/[a-z]"]
    wrong = re.compile("|".join(hosts + places))
    found = []
    for path in tracked():
        try:
            text = (ROOT / path).read_text()
        except UnicodeDecodeError:
            continue  # pictures, data
        found += [f"{path}:{n}: {line[:100]}" for n, line in enumerate(text.splitlines(), 1) if wrong.search(line)]
    assert found == []


def test_the_lock_pins_everything_by_hash():
    lock = (ROOT / "requirements.lock").read_text().replace("\\\n", "")
    entries = [line for line in lock.splitlines() if line and not line.startswith("#")]
    assert len(entries) > 20
    assert [entry[:80] for entry in entries if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_scripts_can_be_run():
    scripts = [path for path in tracked() if (ROOT / path).read_bytes().startswith(b"#!/")]  # not the #! of Lua for Redis
    assert ".ci/run" in scripts
    assert [path for path in scripts if not os.access(ROOT / path, os.X_OK)] == []
