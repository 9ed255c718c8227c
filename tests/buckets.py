"""Buckets of Google Cloud Storage, played over HTTP by the package gcp-storage-emulator.

``served`` gives the environment in which gcsfs, google-cloud-storage and tensorstore ask it: a
bucket ``open``; ``closed``, where nothing is allowed; ``shown``, where nothing may be written; and
no other.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import logging
import re
import threading
import urllib.parse
from collections.abc import Iterator

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

from pruner_jax.store.service import bucket


class _Handler(RequestHandler):
    """The emulator knows no rights and no generations of objects."""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        refused = self._refusal()
        if refused is not None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            said = {"error": {"code": refused, "message": f"you may not {self.command} this"}}
            self.send_response(refused)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(said).encode() if refused != 304 else b"")
        return refused is None

    def _refusal(self) -> int | None:
        """The status that the real service would answer with where the emulator says yes."""
        asked = urllib.parse.urlsplit(self.path)
        query = urllib.parse.parse_qs(asked.query)
        within = re.search(r"/b/([^/]+)", asked.path)
        may = {"closed": (), "shown": ("GET",)}.get(within and within[1])
        if may is not None and self.command not in may:
            return 403
        self._generation = "0"
        if within:
            name = query.get("name", [urllib.parse.unquote(asked.path.partition("/o/")[2])])[0]
            if query.get("uploadType") == ["multipart"]:  # the name is in what comes first
                self.rfile = io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
                name = json.loads(re.search(rb"{.*?}", self.rfile.getvalue())[0])["name"]
            with contextlib.suppress(NotFound):
                self._generation = self.storage.get_file_obj(within[1], name)["generation"]
        if query.get("ifGenerationMatch", [self._generation]) != [self._generation]:
            return 412
        if query.get("generation", [self._generation]) != [self._generation]:
            return 404
        return 304 if query.get("ifGenerationNotMatch") == [self._generation] else None

    def end_headers(self) -> None:
        if "alt=media" in self.path:
            self.send_header("x-goog-generation", self._generation)
        super().end_headers()

    def log_message(self, *_) -> None:
        pass


class _Server(http.server.HTTPServer):
    request_queue_size = 128  # of more at once some would be asked again a second later

    def handle_error(self, *_) -> None:
        """Clients go away: they are killed, or want the beginning only."""


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
    bucket.cache_clear()  # as of another address
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # tells what is not there
    storage = Storage(use_memory_fs=True)
    for name in ("open", "closed", "shown"):
        create_bucket(name, storage)
    server = _Server(("127.0.0.1", 0), functools.partial(_Handler, storage))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield {
            "STORAGE_EMULATOR_HOST": address,
            "TENSORSTORE_GCS_HTTP_URL": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anybody",
        }
    finally:
        server.shutdown()
        server.server_close()
