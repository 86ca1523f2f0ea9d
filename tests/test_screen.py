"""What a viewer sees of a whole fleet: the page through the load balancer, on rows published to Redis."""

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


async def test_the_page_shows_what_is_published(make_cluster: Callable[..., Awaitable[Cluster]], browser: Browser) -> None:
    rng = random.Random(11)
    source = [
        {"id": f"{number:02}", "carrier": rng.choice(["UA", "B6", "DL"]), "dep_delay": rng.randrange(-400, 8000) / 4}
        for number in range(30)
    ]
    cluster = await make_cluster([FLIGHTS], front=True)
    await cluster.publish("flights", op="update", format="json", data=json.dumps(source))

    tab = await browser.open(cluster.url("front"))
    await expect(tab.row("29")).to_be_visible()
    assert await tab.rows() == [[row["id"], row["carrier"], f"{row['dep_delay']:,.2f}"] for row in source]

    # A cell changes by itself: the rest of the row stays.
    await cluster.publish("flights", op="update", format="json", data='[{"id": "07", "dep_delay": 4321.5}]')
    await expect(tab.row("07")).to_contain_text("4,321.50")
    await expect(tab.row("07")).to_contain_text(source[7]["carrier"])

    # A row that somebody publishes with redis-cli appears.
    await cluster.redis.execute_command(
        *("XADD", "parallax:{flights}:in", "*", "op", "update", "format", "json"),
        *("data", '[{"id":"00a","carrier":"My Own Air","dep_delay":42}]'),
    )
    await expect(tab.row("00a")).to_contain_text("My Own Air")
    assert (await tab.rows())[1] == ["00a", "My Own Air", "42.00"]
    assert tab.complaints == []
