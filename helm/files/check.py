"""`helm test`: publish a row through Redis, and read that row through the Service, as a viewer would."""

import asyncio
import json
import os
import secrets
import sys
import time

import parallax
from parallax.settings import load_where
from parallax.store import connect
from parallax.tables import request

SECONDS = 60.0


async def main() -> int:
    """Return 0 once the row was seen."""
    name, mark = f"helm_test_{secrets.token_hex(4)}", secrets.token_hex(8)
    where = load_where()
    redis = connect(where.redis())
    try:
        async with parallax.AsyncPublisher(where.redis(), prefix=where.prefix) as publisher:
            await publisher.host([{"id": "row", "mark": mark}], name=name, index="id")
            print(f"published a row to the table {name}")
        async with parallax.connect(sys.argv[1], token=os.environ.get("TOKEN")) as client:
            deadline = time.monotonic() + SECONDS
            while name not in await client.get_hosted_table_names():
                if time.monotonic() > deadline:
                    print(f"the nodes do not have the table after {SECONDS:.0f} s", file=sys.stderr)
                    return 1
                await asyncio.sleep(0.2)
            view = await (await client.open_table(name)).view()
            while (rows := json.loads(await view.to_json_string())) != [{"id": "row", "mark": mark}]:
                if time.monotonic() > deadline:
                    print(f"the row is not there after {SECONDS:.0f} s; the table holds {rows}", file=sys.stderr)
                    return 1
                await asyncio.sleep(0.2)
            print(f"read it through {sys.argv[1]}")
    finally:
        await request(redis, where.prefix, "drop", name)
        await redis.aclose()
    return 0


sys.exit(asyncio.run(main()))
