"""`make chaos`: real processes, faults drawn from a seed, and in the end the proof that nothing was lost, doubled or forked.

A run is bounded, ends its processes, and can be played again: `make chaos SEED=123 RUNS=1`.
"""

import argparse
import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.chaos_faults import PUBLISHERS, ChaosCluster, Faults
from tests.chaos_load import GARBAGE, NUMBERS, RECENT, TABLES, TRADES, Load, Witness
from tests.chaos_plan import Plan, plan
from tests.chaos_viewers import LinkedViewer, Watcher, pivots
from tests.oracle import difference
from tests.processes import PATIENCE
from tests.stores import SentinelStore

RUN_SECONDS = 150
SETTLE_SECONDS = 60
MOST_LOST = 200
"""Numbers of one producer that a primary may take with it."""


class Chaos:
    """One run."""

    def __init__(self, seed: int, directory: Path, *, has_sentinel: bool = False) -> None:
        self.plan: Plan = plan(seed, has_sentinel=has_sentinel)
        self.cluster = ChaosCluster(
            directory,
            TABLES,
            redis_kind=self.plan.redis_kind,
            coordinators=self.plan.coordinators,
            nodes=self.plan.nodes,
            front=self.plan.has_front,
            settings=self.plan.settings,
            store=SentinelStore(directory, self.plan.redis_kind) if has_sentinel else None,
            seed=seed,
        )
        self._settled_in = 0.0  # seconds from the last fault's end until all were at rest
        self.lost: dict[str, int] = {}
        """What the primary took with it when it died, in entries, by table or producer."""
        self.faults = Faults(self.cluster, self.plan)
        self.viewers = [
            LinkedViewer(
                self.cluster, random.Random(f"{seed} viewer {number}"), uses_front=self.plan.has_front and not number
            )
            for number in range(2)
        ]
        self.load: Load | None = None
        self.witnesses: list[Witness] = []
        self._configs = pivots(seed)
        self._watchers: list[Watcher] = []

    async def run(self) -> str:
        """Do it all, and return what there is to say about it.

        Raises:
            AssertionError: a promise was broken, or the fleet did not come to rest.
        """
        try:
            async with asyncio.timeout(RUN_SECONDS * PATIENCE):
                await self.cluster.start()
                return await self._run()
        finally:
            for watcher in self._watchers:
                await watcher.close()
            await self.cluster.close()

    async def _run(self) -> str:
        self.load = load = Load(self.plan.seed, self.cluster.redis_url(PUBLISHERS))
        self.witnesses = [Witness(self.cluster.server.url, spec.name) for spec in TABLES]
        problems: list[str] = []
        async with Tasks(lambda name, error: problems.append(f"{name}: {error!r}")) as tasks:
            for witness in self.witnesses:
                tasks.start(witness.run(), name=f"witness of {witness.table}")
            await self._watch(list(self._nodes()))
            for number, viewer in enumerate(self.viewers):
                tasks.start(viewer.run(), name=f"viewer {number}")
            writing = tasks.start(load.run(), name="load")
            await self.faults.run()
            ended = time.monotonic()
            await asyncio.sleep(0.5)  # all is well again, for a moment, before nobody writes any more
            load.is_over.set()
            await writing
            if not self.faults.has_added:
                await self.cluster.add_node()
            for name in self.cluster.processes:
                if name != "front":
                    await self.cluster.ready(name, SETTLE_SECONDS)
            await self.cluster.at_rest(SETTLE_SECONDS)
            self._settled_in = time.monotonic() - ended
            await self._check(load)
        if not self._has_gone_back():  # else what was seen of the lost part may be another part now
            problems += [problem for one in (*self.viewers, *self.witnesses) for problem in one.problems]
        assert not problems, "\n".join(problems[:10])
        return self._summary(load)

    def _nodes(self) -> Sequence[str]:
        return [name for name in self.cluster.processes if name.startswith("node")]

    async def _watch(self, nodes: Sequence[str]) -> None:
        for node in nodes:
            watcher = Watcher(self.cluster, node, self._configs)
            self._watchers.append(watcher)
            await watcher.open()

    async def _check(self, load: Load) -> None:
        await self.cluster.converged(SETTLE_SECONDS)
        for witness in self.witnesses:
            await witness.look_back()
        for node in self._nodes():
            for spec in (TRADES, RECENT):
                self._check_rows(load, spec, node, await self.cluster.read(node, spec))
            found = await self.cluster.read(node, NUMBERS)
            for producer, count in load.counts().items():
                self._check_numbers(node, producer, count, [row[1] for row in found if row[0] == producer])
            assert {row[0] for row in found} <= load.counts().keys(), f"{node}: numbers of nobody"
        self._check_logs()
        await self._check_rejected(load)
        await self._check_pivots()

    def _check_rows(self, load: Load, spec: TableSpec, node: str, found: list[tuple[Any, ...]]) -> None:
        """See that a table holds what was accepted; but for the last of what a Redis had accepted that died."""
        died_at = self.faults.died_at
        for lost in [range(0)] if died_at is None else load.losses(spec, died_at):
            if load.expected(spec, lost).rows() == found:
                assert self.lost.setdefault(spec.name, len(lost)) == len(lost), f"{spec.name} on {node}: another loss"
                return
        raise AssertionError(f"{spec.name} on {node}: {difference(load.expected(spec).rows(), found)}")

    def _check_numbers(self, node: str, producer: str, count: int, found: list[Any]) -> None:
        """See that a producer's numbers are there, each once and in order; but for those that Redis took with it."""
        missing = sorted(set(range(1, count + 1)) - set(found))
        may_be_lost = self.faults.died_at is not None and len(missing) < MOST_LOST
        if may_be_lost and missing:
            assert missing == list(range(missing[0], missing[-1] + 1)), (
                f"{node}: a hole in {producer}'s lost numbers: {missing}"
            )
            assert self.lost.setdefault(producer, len(missing)) == len(missing), f"{producer} on {node}: another loss"
        expected = [number for number in range(1, count + 1) if not may_be_lost or number not in set(missing)]
        assert found == expected, f"{node}: {producer}'s {count} numbers: {_odd(found, count)}"

    def _has_gone_back(self) -> bool:
        """Say whether the logs lost their ends with a Redis that died."""
        said = (self.cluster[name].log.read_text(errors="replace") for name in self.cluster.processes if "coord" in name)
        is_so = any("its log ends at" in text for text in said) or any(self.lost.values())
        assert self.plan.may_lose or not is_so, "the log lost its end, though Redis lost nothing"
        return is_so

    def _check_logs(self) -> None:
        """See that no replica was found to differ: it would have healed itself meanwhile."""
        for name, process in self.cluster.processes.items():
            assert "differ" not in process.log.read_text(errors="replace"), f"{name} found that replicas differ"

    async def _check_rejected(self, load: Load) -> None:
        """See that what was refused is what had to be, and nothing else; what was sent twice may have been refused twice."""
        found = [
            (spec.name, entry["producer"].decode(), int(entry["seq"]))
            for spec in TABLES
            for entry in await self.cluster.rejected(spec.name)
        ]
        for writer in load.writers:
            for accepted in writer.accepted:
                count = found.count((writer.table, writer.producer, accepted.seq))
                if accepted.operation is GARBAGE:
                    least, most = 0 if self.plan.may_lose else 1, writer.attempts[accepted.seq]
                    assert least <= count <= most, (
                        f"garbage {writer.producer} {accepted.seq}: refused {count} of {most} times"
                    )
                else:
                    assert count == 0, f"refused: {writer.table} {writer.producer} {accepted.seq}"
        known = {(writer.table, writer.producer, accepted.seq) for writer in load.writers for accepted in writer.accepted}
        assert set(found) <= known, f"refused, of the publisher: {set(found) - known}"

    async def _check_pivots(self) -> None:
        """See that every node shows the same, whether it was there all the while, came back, or joined; old views, too."""
        lasted = [watcher for watcher in self._watchers if watcher.is_open]
        await self._watch(self._nodes())
        shown = {
            f"{watcher.node} ({'old' if watcher in lasted else 'new'} views)": await watcher.read()
            for watcher in self._watchers
            if watcher.is_open
        }
        (first, expected), *others = shown.items()
        for name, found in others:
            for config, one, other in zip(self._configs, expected, found, strict=True):
                assert _plain(one) == _plain(other), f"{config} on {first} and {name}: {_parts(one, other)}"

    def _summary(self, load: Load) -> str:
        lasted = sum(watcher.is_open for watcher in self._watchers) - len(self._nodes())
        garbled = sum(network.garbled for network in self.cluster.networks.values())
        entries = sum(len(writer.accepted) for writer in load.writers) + load.published
        return (
            f"{len(self.plan.faults)} faults, settled in {self._settled_in:.1f} s, {entries} entries, {sum(witness.records for witness in self.witnesses)} records, "
            f"{garbled} messages garbled, {sum(viewer.reads for viewer in self.viewers)} reads, "
            f"{sum(viewer.moves for viewer in self.viewers)} moves, {lasted} old watchers"
            + (f", lost with Redis: {lost}" if (lost := {what: count for what, count in self.lost.items() if count}) else "")
        )

    def story(self) -> str:
        """Return what was planned and what happened, for a run that failed."""
        happened = "\n".join(f"  {line}" for line in self.faults.happened)
        return f"seed {self.plan.seed}: {self.plan}\nhappened:\n{happened}"


def _plain(found: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return what a view shows, but for the total of no rows, which is 0 where there were some before."""
    has_rows = len(next(iter(found.values()), [])) > 1
    return found if has_rows else {name: [value or None for value in values] for name, values in found.items()}


def _parts(one: dict[str, list[Any]], other: dict[str, list[Any]]) -> list[Any]:
    """Return what only one of two views shows: (column, row) and what is there in each."""
    cells = [
        {(name, str(path)): value for name in found for path, value in zip(found["__ROW_PATH__"], found[name], strict=True)}
        if "__ROW_PATH__" in found
        else {(name, str(row)): value for name in found for row, value in enumerate(found[name])}
        for found in (one, other)
    ]
    keys = sorted(key for key in cells[0].keys() | cells[1].keys() if cells[0].get(key) != cells[1].get(key))
    return [(key, cells[0].get(key, "absent"), cells[1].get(key, "absent")) for key in keys[:8]]


def _odd(found: list[Any], count: int) -> str:
    missing = sorted(set(range(1, count + 1)) - set(found))
    doubled = sorted({number for number in found if found.count(number) > 1})
    return (
        f"missing {missing[:10]} ({len(missing)}), twice {doubled[:10]} ({len(doubled)}), in order {found == sorted(found)}"
    )


async def run_seed(seed: int, directory: Path, *, has_sentinel: bool = False) -> str:
    """Run one seed; a failure tells its story.

    Raises:
        AssertionError: a promise was broken.
    """
    chaos = Chaos(seed, directory, has_sentinel=has_sentinel)
    try:
        return await chaos.run()
    except BaseException:
        print(chaos.story(), flush=True)
        raise


def main() -> int:
    """Run seeds one after the other; the first that fails ends it, and its logs are kept."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--all", action="store_true", help="go on after a seed that failed")
    parser.add_argument("--sentinel", action="store_true", help="Redis is a primary, two replicas and three sentinels")
    options = parser.parse_args()
    failed = []
    for seed in range(options.seed, options.seed + options.runs):
        directory = Path(tempfile.mkdtemp(prefix=f"parallax-chaos-{seed}-"))
        began = time.monotonic()
        try:
            said = asyncio.run(run_seed(seed, directory, has_sentinel=options.sentinel))
        except KeyboardInterrupt:
            return 130
        except BaseException:  # noqa: BLE001 - whatever it was is shown
            traceback.print_exc()
            failed.append(seed)
            print(f"seed {seed} FAILED after {time.monotonic() - began:.1f} s; logs in {directory}; again: ", end="")
            print(f"make chaos SEED={seed} RUNS=1{' SENTINEL=1' * options.sentinel}", flush=True)
            if not options.all:
                return 1
        else:
            print(f"seed {seed}: {time.monotonic() - began:.1f} s, {said}", flush=True)
            with contextlib.suppress(OSError):
                shutil.rmtree(directory)
    print(f"{options.runs - len(failed)} of {options.runs} seeds passed" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
