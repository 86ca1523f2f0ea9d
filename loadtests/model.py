"""Fits what work costs to the runs of the report, and says how far off it is for runs that the fit has not seen.

Each run of a node gives two equations, one for its event loop and one for its other threads: the processor time is a sum of
costs, none of them negative, each times an amount of work (`node_work` of parallax/sizing.py). Runs count relatively.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtests import market
from loadtests.lab import Point, is_held
from parallax.sizing import FRAME_SECONDS, Work, coordinator_work, cost, node_work, redis_work

SMALL_CORES = 0.05
"""Of smaller runs, errors count as if they were of this size: the kernel counts processor time in steps of 0.01 s."""
EVERY = 5
"""One run of so many is held out."""
ROUNDS = 20_000
NOTHING_CORES = 1e-6
MEMORY = ("node", "row", "viewer")


@dataclass(frozen=True, slots=True)
class Run:
    """One equation: this work took so many cores."""

    what: str
    work: Work
    cores: float
    is_half: bool = False


def least_squares(works: Sequence[Work], cores: Sequence[float]) -> dict[str, float]:
    """Return costs, none of them negative, whose relative errors have the least squares.

    By coordinate descent: a small convex problem, so that it comes to the one solution from anywhere.
    """
    names = [name for name in works[0] if any(work[name] for work in works)]
    weights = 1 / np.maximum(np.array(cores), SMALL_CORES)
    matrix = np.array([[work[name] for name in names] for work in works]) * weights[:, None]
    scale = np.linalg.norm(matrix, axis=0)
    matrix /= scale
    gram, target = matrix.T @ matrix, matrix.T @ (np.array(cores) * weights)
    found = np.zeros(len(names))
    for _ in range(ROUNDS):
        before = found.copy()
        for number in range(len(names)):
            found[number] = max(0.0, found[number] + target[number] - gram[number] @ found)
        if np.abs(found - before).max() < 1e-12:
            break
    most = {name: max(work[name] for work in works) for name in names}
    costs = dict(zip(names, map(float, found / scale), strict=True))
    return {name: value for name, value in costs.items() if value * most[name] > NOTHING_CORES}


def split(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs to fit, and those that are held out: every fifth, by how much work they had, and all at half of a knee."""
    free = sorted((run for run in runs if not run.is_half), key=lambda run: list(run.work.values()))
    is_held_out = [number % EVERY == EVERY // 2 for number in range(len(free))]
    held = [run for run, is_out in zip(free, is_held_out, strict=True) if is_out]
    return [run for run, is_out in zip(free, is_held_out, strict=True) if not is_out], held + [
        run for run in runs if run.is_half
    ]


def errors(costs: dict[str, float], runs: Sequence[Run]) -> dict[str, float]:
    """Return the median and the worst relative error of runs."""
    found = sorted(abs(cost(costs, run.work) - run.cores) / max(run.cores, SMALL_CORES) for run in runs)
    return {"median": found[len(found) // 2], "worst": found[-1], "runs": len(found)} if found else {}


def fit(known: dict[str, Any]) -> dict[str, Any]:
    """Return costs, errors, and what was predicted for each held-out run; nothing if the parts that it takes were not measured."""
    runs = list(equations(known))
    memory = known.get("memory", {}).get("found")
    if "costs" not in known or memory is None or len(runs) < 10:
        return {}
    about = known["costs"]
    costs: dict[str, Any] = {"measured": {"when": about["when"], **about["machine"]}}
    off: dict[str, Any] = {}
    checked: dict[str, list[tuple[float, float]]] = {}
    for what in ("loop", "engine", "coordinator", "redis"):
        fitted, held = split([run for run in runs if run.what == what])
        costs[what] = least_squares([run.work for run in fitted], [run.cores for run in fitted])
        off[what] = errors(costs[what], held) | {"fitted": len(fitted)}
        checked[what] = [(cost(costs[what], run.work), run.cores) for run in held]
    kept = memory["bytes"]
    costs["memory"] = {name: max(0.0, kept[name]) for name in MEMORY}
    costs["memory"] |= {
        f"{name.removeprefix('view ')} view, row": max(0.0, size) / memory["rows"]
        for name, size in kept.items()
        if name.startswith("view ")
    }
    costs["error"] = off
    return {"costs": costs, "errors": off, "checked": checked}


def equations(known: dict[str, Any]) -> Iterator[Run]:
    """Yield the equations of all runs that count: valid ones, in which viewers got what was due."""
    for part in known.values():
        found = part["found"]
        half = found.get("half") if isinstance(found, dict) else None
        for point in [*found.get("points", []), *([half] if half else [])]:
            load = point["load"]
            if point["who"] == "ours" and not point.get("invalid", "failed") and (is_held(point) or not load["viewers"]):
                yield from _of(point, point is half)


def _of(point: Point, is_half: bool) -> Iterator[Run]:
    load = point["load"]
    entries = load["rate"]
    rows = entries * load["rows"]
    for node in point["nodes"]:
        polls = min(entries, 1 / FRAME_SECONDS)
        work = node_work(node["refreshes"], entries, rows, polls, node["views"], market.SIZES[load["scene"]["table"]])
        yield Run("loop", work, node["loop"], is_half)
        yield Run("engine", work, node["cores"] - node["loop"], is_half)
    yield Run("coordinator", coordinator_work(entries, rows), point["beside"]["coordinator"], is_half)
    readers = len(point["nodes"]) + 1 + load["subscribers"]
    yield Run("redis", redis_work(entries, entries * point["entry_bytes"], readers), point["beside"]["redis"], is_half)
