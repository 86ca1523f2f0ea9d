"""A load test against a cluster that is somewhere else, as the chart's `loadTest` runs it:

    python -m loadtests.remote --redis redis://redis:6379/0 --host https://tables.example.com [--workers 4] [--peak 400] ...

Fills the table `load`, publishes on schedule, and is Locust's master, or all of it (`--workers 0`). Workers are
`locust -f loadtests/locustfile.py --worker --master-host THIS`. It ends by itself, and says by its exit code how that went
(`loadtests.load_verdict`). This machine's clock and those of the workers must be synchronised.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from loadtests import load_options, shapes
from loadtests.load_verdict import Outcome, Run, read_pacer, report
from loadtests.schedule import TABLE, Schedule
from parallax.replication.keys import TableKeys
from parallax.settings import load_where
from parallax.store import connect

FILL_SECONDS = 60.0
START_SECONDS = 300.0
"""For the workers to come."""
END_SECONDS = shapes.SETTLE_SECONDS + 60
LOCUST = (sys.executable, "-m", "locust", "-f", str(Path(__file__).with_name("locustfile.py")), "--loglevel", "WARNING")
PACER = (sys.executable, "-m", "loadtests.pacer")


async def taken_in(prefix: str) -> None:
    """Wait until the coordinator has taken in the table's first rows.

    Raises:
        TimeoutError: it does not.
        one of STORE_ERRORS: Redis could not be asked.
    """
    redis = connect(load_where().redis(), timeout_seconds=10)
    try:
        async with asyncio.timeout(FILL_SECONDS):
            while await redis.xlen(TableKeys(prefix, TABLE).ingest):  # noqa: ASYNC110 - Redis does not tell
                await asyncio.sleep(0.1)
    finally:
        await redis.aclose()


def run(options: argparse.Namespace, directory: Path) -> Outcome:
    """Run one test; every process that it starts has ended when it returns."""
    announced, result, books = directory / "schedule.json", directory / "result.json", directory / "pacer.json"
    pacer = [*PACER, "--prefix", options.prefix]
    if options.redis:  # it may hold a password: it travels in the environment, where no list of processes shows it
        os.environ["PARALLAX_REDIS_URL"] = options.redis
    subprocess.run([*pacer, "--fill", "--start=1", *load_options.size(options)], check=True)
    asyncio.run(taken_in(options.prefix))
    locust = [*LOCUST, "--headless", "--only-summary", "--host", options.host, *load_options.passed_on(options)]
    locust += [f"--lead={options.lead}", "--announce", str(announced), "--result", str(result)]
    if options.workers:
        locust += ["--master", "--expect-workers", str(options.workers)]
    started: list[subprocess.Popen[bytes]] = []
    try:
        with books.open("wb") as output:
            publisher = subprocess.Popen([*pacer, "--announced", str(announced)], stdout=output)
            started.append(publisher)
        generator = subprocess.Popen(locust)
        started.append(generator)
        until = time.monotonic() + START_SECONDS
        while not announced.exists():
            if generator.poll() is not None or time.monotonic() > until:
                print(f"load: {options.workers} workers did not come", file=sys.stderr)
                return Outcome.BROKEN
            time.sleep(0.1)
        plan = Schedule(**json.loads(announced.read_text()))
        generator.wait(plan.end - time.time() + END_SECONDS)
        publisher.wait(5)
    except subprocess.TimeoutExpired as error:
        print(f"load: it did not end: {error}", file=sys.stderr)
        return Outcome.BROKEN
    finally:
        for process in started:
            process.kill()
            process.wait()
    decided, text = report(
        Run(
            result=json.loads(result.read_text()),
            pacer=read_pacer(books.read_text()),
            expected_updates=plan.count,
            users=shapes.Plan.of_options(options).users_in(shapes.STEPS[options.shape] - 1),
            shape=options.shape,
            limits=options.limits,
            expects_losses=options.shape == "rolling",
            differences=[],
        ),
        plan.seconds,
    )
    print(text, flush=True)
    return decided


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a load test, and return its exit code."""
    parser = argparse.ArgumentParser(
        "python -m loadtests.remote", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    load_options.add_options(parser)
    parser.add_argument("--redis", help="default: PARALLAX_REDIS_URL and its companions")
    parser.add_argument("--prefix", default=load_where().prefix, help="of all keys")
    parser.add_argument("--host", required=True, help="where viewers connect")
    parser.add_argument("--workers", type=int, default=0, help="Locust's workers to wait for; 0: do it alone")
    parser.add_argument("--lead", type=float, default=5.0, help="seconds between the last user and the first update")
    options = load_options.checked(parser, arguments)
    with tempfile.TemporaryDirectory(prefix="parallax-load-") as place:
        return int(run(options, Path(place)))


if __name__ == "__main__":
    sys.exit(main())
