"""The page and what it loads: the viewer comes out of the perspective-python wheel, always of the engine's version."""

import asyncio
import gzip
import hashlib
import re
import threading
from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

from tornado.web import HTTPError, RequestHandler

from node.fleet_page import fleet_address
from parallax.version import VERSION

_BUNDLE = "widget/static/perspective-anywidget"
_SECURITY = {
    # What the bundle needs beyond 'self': its wasm, its blob: workers, its inlined fonts, pictures and styles. 'self' covers
    # the websocket. There is no inline script, and no other host.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'self'",
            "script-src 'self' 'wasm-unsafe-eval' blob:",
            "worker-src blob:",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self' data:",
            "connect-src 'self' blob: data:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'self'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Asset:
    """One file under /assets/, at a URL that names its content. It is compressed once, when it is first asked for."""

    def __init__(self, name: str, media_type: str, source: Traversable) -> None:
        self.name, self.media_type, self._source = name, media_type, source
        self.digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
        self._lock = threading.Lock()
        self._gzipped: bytes | None = None

    @property
    def url(self) -> str:
        """Where it is: another content is elsewhere, so that browsers may keep it for ever."""
        return f"/assets/{self.digest}/{self.name}"

    def body(self, *, gzipped: bool) -> bytes:
        """Return the content. Takes most of a second once, for the bundle: call it in a thread."""
        if not gzipped:  # no browser asks for this; not worth 6 MB of memory
            return self._source.read_bytes()
        with self._lock:  # viewers who come at once wait for one compression
            if self._gzipped is None:
                self._gzipped = gzip.compress(self._source.read_bytes(), 6, mtime=0)
            return self._gzipped


class Site:
    """The page with everything it loads."""

    def __init__(self) -> None:
        page = resources.files("node") / "page"
        wheel = resources.files("perspective")  # not perspective.widget, which needs Jupyter's packages
        script, style = "text/javascript; charset=utf-8", "text/css; charset=utf-8"
        self._index = page / "index.html"
        self.assets: Mapping[str, Asset] = {
            asset.name: asset
            for asset in (
                Asset("page.js", script, page / "page.js"),
                Asset("page.css", style, page / "page.css"),
                Asset("layouts.js", script, page / "layouts.js"),
                Asset("pill.js", script, page / "pill.js"),
                Asset("link.js", script, page / "link.js"),
                Asset("perspective.js", script, wheel / f"{_BUNDLE}.js"),
                Asset("perspective.css", style, wheel / f"{_BUNDLE}.css"),
            )
        }

    @cached_property
    def index(self) -> bytes:
        """The page: index.html with each `asset:NAME` as that asset's URL, and the version of this node."""
        text = self._index.read_text(encoding="utf-8").replace("parallax:version", VERSION)
        return re.sub(r"asset:([\w.-]+)", lambda found: self.assets[found[1]].url, text).encode()


class _Handler(RequestHandler):
    """What both have in common: GET and HEAD, with an ETag."""

    etag = ""

    def initialize(self, site: Site) -> None:
        self.site = site

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in _SECURITY.items():
            self.set_header(name, value)

    def compute_etag(self) -> str | None:
        return self.etag or None


class _Index(_Handler):
    async def get(self, *path: str) -> None:
        self.etag = f'"{hashlib.sha256(self.site.index).hexdigest()[:16]}"'
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(self.site.index)

    head = get


class _Stable(_Handler):
    """What pages elsewhere load to embed the viewer, at addresses that stay."""

    async def get(self, name: str) -> None:
        asset = self.site.assets[name]
        gzipped = "gzip" in self.request.headers.get("Accept-Encoding", "")
        self.etag = f'"{asset.digest}{"-gzip" if gzipped else ""}"'
        self.set_header("Content-Type", asset.media_type)
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Vary", "Accept-Encoding")
        # A module is only loaded from elsewhere with leave; it holds no secret.
        self.set_header("Access-Control-Allow-Origin", "*")
        if gzipped:
            self.set_header("Content-Encoding", "gzip")
        self.finish(await asyncio.to_thread(asset.body, gzipped=gzipped))

    head = get


class _Asset(_Handler):
    async def get(self, *path: str) -> None:
        digest, name = path
        asset = self.site.assets.get(name)
        if asset is None:
            raise HTTPError(404)
        if digest == asset.digest:
            self.set_header("Cache-Control", "public, max-age=31536000, immutable")
        else:
            # While nodes of two versions run, a page of one may ask the other. Ours is the best there is, but for once only.
            self.set_header("Cache-Control", "no-store")
        gzipped = "gzip" in self.request.headers.get("Accept-Encoding", "")
        self.etag = f'"{asset.digest}{"-gzip" if gzipped else ""}"'
        self.set_header("Content-Type", asset.media_type)
        self.set_header("Vary", "Accept-Encoding")
        if gzipped:
            self.set_header("Content-Encoding", "gzip")
        self.finish(await asyncio.to_thread(asset.body, gzipped=gzipped))

    head = get


class _Fleet(_Handler):
    """Leads to the page, with a layout that shows the fleet's own tables."""

    def get(self) -> None:
        self.set_header("Cache-Control", "no-cache")
        self.redirect(fleet_address())

    head = get


def page_routes(*, has_fleet: bool = False) -> list[Any]:
    """Return the routes of `/`, `/link.js`, `/perspective.js`, `/perspective.css` and `/assets/<content hash>/<name>`.

    With `has_fleet` also that of `/fleet`.
    """
    site = Site()
    return [
        *([(r"/fleet", _Fleet, {"site": site})] if has_fleet else []),
        (r"/", _Index, {"site": site}),
        (r"/(link\.js|perspective\.js|perspective\.css)", _Stable, {"site": site}),
        (r"/assets/([0-9a-f]{16})/([\w.-]+)", _Asset, {"site": site}),
    ]
