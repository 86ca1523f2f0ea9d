"""docs/examples/notebook.ipynb, cell by cell: as plain Python, and in JupyterLab with its widget. The node dies meanwhile."""

import ast
import asyncio
import inspect
import json
import re
import subprocess
import sys
import venv
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import expect

from parallax.demo.ports import choose_ports
from parallax.replication.spec import TableSpec
from parallax.tasks import Tasks
from tests.browser import Browser
from tests.cluster import Cluster
from tests.processes import HOST, PATIENCE, ROOT, Process, until
from tests.sockets import measured

NOTEBOOK = ROOT / "docs" / "examples" / "notebook.ipynb"
FLIGHTS = TableSpec.declare(
    "flights", {"schema": {"id": "string", "carrier": "string", "dep_delay": "float"}, "index": "id"}
)
USUAL = "http://127.0.0.1:8080"
KERNEL_IS_IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
PACKAGES = ("anywidget", "jupyterlab")
MakeCluster = Callable[..., Awaitable[Cluster]]
pytestmark = [pytest.mark.cluster]


def cells() -> dict[str, str]:
    """Return the notebook's cells of code by their ids."""
    found = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(not cell["outputs"] for cell in found if cell["cell_type"] == "code"), "it is kept without outputs"
    return {cell["id"]: "".join(cell["source"]) for cell in found if cell["cell_type"] == "code"}


async def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does, with awaits in it, and return what its last line is worth."""
    tree = ast.parse(source)
    if isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.copy_location(ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value), tree.body[-1])
    code = compile(ast.fix_missing_locations(tree), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names["_"] = None
    made = eval(code, names)
    if inspect.isawaitable(made):
        await made
    return names["_"]


@asynccontextmanager
async def delays(cluster: Cluster) -> AsyncIterator[None]:
    """Publish a growing delay of one flight of AA, beside one of UA."""

    async def publish() -> None:
        await cluster.publish("flights", op="update", format="json", data='[{"id": "u", "carrier": "UA", "dep_delay": 5}]')
        for number in range(1_000_000):
            row = {"id": "a", "carrier": "AA", "dep_delay": number}
            await cluster.publish("flights", op="update", format="json", data=json.dumps([row]))
            await asyncio.sleep(0.05)

    async with Tasks() as tasks:
        tasks.start(publish(), name="publisher")
        yield


async def node_in_use(cluster: Cluster) -> str:
    """Return the name of the node that somebody is connected to, once there is one."""

    async def found() -> str:
        for name in ("node-1", "node-2"):
            if cluster[name].is_running and (await measured(cluster, name))("sessions"):
                return name
        return ""

    return await until(found, 20, "somebody is connected")


async def test_its_cells_run_one_after_the_other(make_cluster: MakeCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = await make_cluster([FLIGHTS], coordinators=1, nodes=2, front=True)
    names: dict[str, Any] = {}
    sources = {name: source.replace(USUAL, cluster.url("front")) for name, source in cells().items() if name != "widget"}
    assert list(sources) == ["connect", "view", "updates", "end"]
    async with delays(cluster), asyncio.timeout(60 * PATIENCE):
        await cluster.at_rest()
        assert await run(sources["connect"], names) == ["flights"]
        columns = await run(sources["view"], names)
        assert columns["__ROW_PATH__"] == [[], ["AA"], ["UA"]]
        assert columns["dep_delay"][2] == 5
        await cluster[await node_in_use(cluster)].kill()
        await run(sources["updates"], names)
        printed = [float(line) for line in capsys.readouterr().out.split()]
        assert len(printed) == 3
        assert columns["dep_delay"][0] < printed[0] <= printed[1] <= printed[2]
        await run(sources["end"].replace("widget.close()\n", ""), names)
        with pytest.raises(Exception, match="closed"):
            await names["view"].to_columns()


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with JupyterLab beside what we have."""
    directory = tmp_path_factory.mktemp("jupyter")
    venv.create(directory, with_pip=True)
    (ours,) = (path for path in sys.path if path.endswith("site-packages"))
    (theirs,) = directory.glob("lib/python*/site-packages")
    (theirs / "ours.pth").write_text(f"{ours}\n{ROOT}\n")
    python = directory / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True, timeout=500)
    return python


@pytest.mark.deep
@pytest.mark.browser
@pytest.mark.timeout(900)
async def test_it_runs_in_jupyterlab_and_its_widget_survives_the_node(
    make_cluster: MakeCluster, browser: Browser, jupyter: Path, tmp_path: Path
) -> None:
    cluster = await make_cluster([FLIGHTS], coordinators=1, nodes=2, front=True)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = json.loads(NOTEBOOK.read_text().replace(USUAL, cluster.url("front")))
    assert notebook["cells"].pop()["id"] == "end"
    (folder / "notebook.ipynb").write_text(json.dumps(notebook))
    port = choose_ports({"jupyter": 0})["jupyter"]
    lab = Process(
        "jupyter",
        [
            *(str(jupyter), "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.ip={HOST}"),
            *(
                f"--ServerApp.port={port}",
                "--IdentityProvider.token=",
                "--LabApp.expose_app_in_browser=True",
                f"--ServerApp.root_dir={folder}",
            ),
        ],
        tmp_path,
        {name: str(tmp_path) for name in ("HOME", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")},
    )
    lab.start()
    try:

        async def is_up() -> bool:
            return (await cluster.fetch(f"http://{HOST}:{port}/api"))[0] == 200

        await until(is_up, 60, "JupyterLab answers")
        async with delays(cluster):
            await cluster.at_rest()
            tab = await browser.open(f"http://{HOST}:{port}/lab/tree/notebook.ipynb?reset")
            await expect(tab.page.locator(".jp-NotebookPanel")).to_be_visible()
            await tab.page.wait_for_function(KERNEL_IS_IDLE)
            await tab.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
            total = tab.page.locator("regular-table tbody tr").first.locator("td").first
            await expect(total).to_have_text(re.compile(r"^[\d,.]+$"))

            async def moves_on() -> None:
                before = float((await total.inner_text()).replace(",", ""))

                async def has_grown() -> bool:
                    return float((await total.inner_text()).replace(",", "")) > before + 1

                await until(has_grown, 20, "the widget changes")

            await moves_on()
            await cluster[await node_in_use(cluster)].kill()
            await moves_on()
    finally:
        lab.destroy()
        print(lab.tail())
