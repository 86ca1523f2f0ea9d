"""What viewers see of a whole fleet: the page through the load balancer, on rows published to Redis."""

import json
import random
from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import expect

from parallax.replication.spec import TableSpec
from tests.browser import Browser
from tests.cluster import Cluster

FLIGHTS = TableSpec("flights", (("id", "string"), ("carrier", "string"), ("dep_delay", "float")), index="id")

pytestmark = [pytest.mark.browser, pytest.mark.cluster]


async def test_every_viewer_sees_what_is_published(
    make_cluster: Callable[..., Awaitable[Cluster]], browser: Browser
) -> None:
    rng = random.Random(11)
    source = [
        {"id": f"{number:02}", "carrier": rng.choice(["UA", "B6", "DL"]), "dep_delay": rng.randrange(-400, 8000) / 4}
        for number in range(30)
    ]
    cluster = await make_cluster([FLIGHTS], front=True)
    await cluster.publish("flights", op="update", format="json", data=json.dumps(source))

    tabs = []
    for _ in range(3):
        tab = await browser.open(cluster.url("front"))
        await expect(tab.row("29")).to_be_visible()
        assert await tab.rows() == [[row["id"], row["carrier"], f"{row['dep_delay']:,.2f}"] for row in source]
        tabs.append(tab)
    sessions = [(await cluster.status(f"node-{number}"))["sessions"] for number in (1, 2, 3)]
    assert sessions == [1, 1, 1]  # the load balancer gave each viewer another node

    # A cell changes by itself: the rest of the row stays.
    await cluster.publish("flights", op="update", format="json", data='[{"id": "07", "dep_delay": 4321.5}]')
    for tab in tabs:
        await expect(tab.row("07")).to_contain_text("4,321.50")
        await expect(tab.row("07")).to_contain_text(str(source[7]["carrier"]))

    # A row that somebody publishes with redis-cli appears.
    words = ("update", "format", "json", "data", '[{"id":"00a","carrier":"My Own Air","dep_delay":42}]')
    await cluster.redis.execute_command("XADD", "parallax:{flights}:in", "*", "op", *words)
    for tab in tabs:
        await expect(tab.row("00a")).to_contain_text("My Own Air")
        assert (await tab.rows())[1] == ["00a", "My Own Air", "42.00"]
        assert tab.complaints == []
