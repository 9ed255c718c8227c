"""Notices that a machine of Google Cloud is about to be taken away, before any signal comes.

Its metadata server tells of maintenance and preemption; a thread asks it, with requests that are
answered when something changes. On other machines nothing is asked. The server's address can be
given by GCE_METADATA_HOST, as Google's own libraries have it.
"""

from __future__ import annotations

import os
import pathlib
import threading
import urllib.error
import urllib.request

_QUIET = {"maintenance-event": "NONE", "preempted": "FALSE"}  # what is said while all is well
_ASK = 20  # seconds that the server may take to answer that nothing has changed
_AGAIN = 5.0  # seconds after a request that failed

_PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")


class Notices:
    """Listens while it is entered; ``came`` says what was told, or is None."""

    def __init__(self) -> None:
        self.came: str | None = None
        self._done = threading.Event()
        self._server = _server()

    def __enter__(self) -> Notices:
        for name in _QUIET if self._server else ():
            threading.Thread(target=self._listen, args=(name,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _listen(self, name: str) -> None:
        change = ""
        while not self._done.is_set() and self.came is None:
            url = f"http://{self._server}/computeMetadata/v1/instance/{name}?timeout_sec={_ASK}"
            request = urllib.request.Request(url + change, headers={"Metadata-Flavor": "Google"})
            try:
                with urllib.request.urlopen(request, timeout=_ASK + 10) as answer:
                    said = answer.read().decode().strip()
            except (urllib.error.URLError, OSError):
                self._done.wait(_AGAIN)
                continue
            change = "&wait_for_change=true"
            if said != _QUIET[name]:
                self.came = f"{name} is {said}"


def _server() -> str | None:
    """The address of the metadata server, where there is one."""
    if given := os.environ.get("GCE_METADATA_HOST"):
        return given
    google = _PRODUCT.exists() and "Google" in _PRODUCT.read_text()
    return "metadata.google.internal" if google else None
