"""Buckets of Google Cloud Storage, played over HTTP by the package gcp-storage-emulator.

``served`` gives the environment in which gcsfs, google-cloud-storage and tensorstore ask it: a
bucket ``open``; ``closed``, where nothing is allowed; ``shown``, where nothing may be written; and
no other.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import logging
import re
import threading
from collections.abc import Iterator

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class _Handler(RequestHandler):
    """The emulator knows no rights."""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        bucket = re.search(r"/b/([^/?]+)", self.path)
        refused = ("GET", "POST", "PUT", "PATCH", "DELETE")
        refused = {"closed": refused, "shown": refused[1:]}.get(bucket and bucket[1], ())
        if self.command in refused:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            said = {"error": {"code": 403, "message": f"you may not {self.command} in {bucket[1]}"}}
            self.send_response(403)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())
        return self.command not in refused

    def log_message(self, *_) -> None:
        pass


class _Server(http.server.HTTPServer):
    request_queue_size = 128  # of more at once some would be asked again a second later

    def handle_error(self, *_) -> None:
        """Clients go away: they are killed, or want the beginning only."""


@contextlib.contextmanager
def served() -> Iterator[dict[str, str]]:
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
