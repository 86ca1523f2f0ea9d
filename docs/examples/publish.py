"""Publishes prices from Python: `PARALLAX_REDIS_URL=redis://127.0.0.1:6379 python publish.py`."""

import datetime

import pyarrow as pa

from parallax import Publisher

now = datetime.datetime(2026, 1, 1, 12, 30, tzinfo=datetime.UTC)

with Publisher() as publisher:
    # Rows. A column that a row leaves out keeps its value; None overwrites it.
    publisher.update("prices", [{"symbol": "PY-A", "price": 10.5, "size": 100, "at": now}, {"symbol": "PY-B", "price": 7}])
    publisher.update("prices", {"symbol": "PY-A", "price": 10.75})

    # Columns, and anything that speaks Arrow: pyarrow, polars, pandas, DuckDB. The fastest way for many rows.
    publisher.update("prices", {"symbol": ["PY-C", "PY-D"], "price": [1.25, None]})
    publisher.update("prices", pa.table({"symbol": ["PY-E"], "size": pa.array([5], pa.int64())}))

    publisher.remove("prices", ["PY-D"])

    # Wait until the rows are in the table, and learn what the coordinator refused.
    for refusal in publisher.confirm():
        raise SystemExit(refusal.reason)
