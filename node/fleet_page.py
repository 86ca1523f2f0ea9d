"""The address at which the page shows the fleet: its own tables, in a layout that travels in the address as shared ones do."""

import base64
import json
import zlib
from functools import cache
from typing import Any

from parallax.fleet_tables import NODES, TABLES


def _grid(title: str, table: str, columns: list[str]) -> dict[str, Any]:
    return {"title": title, "table": table, "plugin": "Datagrid", "columns": columns, "sort": [["id", "asc"]]}


def _bars(title: str, table: str, by: str, columns: list[str], **more: Any) -> dict[str, Any]:
    return {"title": title, "table": table, "plugin": "Y Bar", "columns": columns, "group_by": [by], **more}


def _side_by_side(orientation: str, *children: Any) -> dict[str, Any]:
    return {
        "type": "split-layout",
        "orientation": orientation,
        "children": [
            {"type": "tab-layout", "tabs": [child], "selected": 0} if isinstance(child, str) else child for child in children
        ],
        "sizes": [1 / len(children)] * len(children),
    }


FLEET_LAYOUT: dict[str, Any] = {
    "layout": _side_by_side(
        "vertical", _side_by_side("horizontal", "members", "viewers"), _side_by_side("horizontal", "tables", "lag")
    ),
    "panels": {
        "members": _grid("Members", NODES.name, [name for name in NODES.columns if name != "version"]),
        "viewers": _bars("Viewers", NODES.name, "id", ["sessions"], filter=[["kind", "==", "node"]]),
        "tables": _grid("Replicas", TABLES.name, [name for name in TABLES.columns if name not in ("id", "kind")]),
        "lag": _bars(
            "Behind, and silent (s)",
            TABLES.name,
            "member",
            ["lag_seconds", "silence_seconds"],
            aggregates={"lag_seconds": "max", "silence_seconds": "max"},
        ),
    },
}
"""What `<perspective-viewer>` saves of its panels."""


@cache
def fleet_address() -> str:
    """Return the address, its layout packed as `packed` of layouts.js does it.

    It has no `#`, behind which the page puts layouts: so a browser keeps what stood there, a token.
    """
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    letters = base64.urlsafe_b64encode(raw.compress(json.dumps(FLEET_LAYOUT).encode()) + raw.flush()).decode().rstrip("=")
    return f"/?table={NODES.name}&layout={letters}"
