"""Notices that a machine of Google Cloud is about to be taken away, before any signal comes.

Its metadata server tells of maintenance and preemption; a thread asks it, with requests that are
answered when something changes, or with what stands when they have waited for long. What it says at
the start is not new: maintenance may be announced an hour ahead, and a run that is started again
meanwhile goes on until its signal comes. A machine that is moved while it works needs nothing. On
other machines nothing is asked. The server's address can be given by GCE_METADATA_HOST, as Google's
own libraries have it.
"""

from __future__ import annotations

import os
import pathlib
import threading
import urllib.error
import urllib.request

# What is said when the machine will go.
_GOES = {"maintenance-event": "TERMINATE_ON_HOST_MAINTENANCE", "preempted": "TRUE"}
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
        for name in _GOES if self._server else ():
            threading.Thread(target=self._listen, args=(name,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _listen(self, name: str) -> None:
        change, before = "", None
        while not self._done.is_set() and self.came is None:
            url = f"http://{self._server}/computeMetadata/v1/instance/{name}?timeout_sec={_ASK}"
            request = urllib.request.Request(url + change, headers={"Metadata-Flavor": "Google"})
            try:
                with urllib.request.urlopen(request, timeout=_ASK + 10) as answer:
                    said, tag = answer.read().decode().strip(), answer.headers["ETag"]
            except (urllib.error.URLError, OSError):
                self._done.wait(_AGAIN)
                continue
            if before not in (None, said) and said == _GOES[name]:
                self.came = f"{name} is {said}"
            before = said
            change = "&wait_for_change=true" + (f"&last_etag={tag}" if tag else "")


def _server() -> str | None:
    """The address of the metadata server, where there is one."""
    if given := os.environ.get("GCE_METADATA_HOST"):
        return given
    google = _PRODUCT.exists() and "Google" in _PRODUCT.read_text()
    return "metadata.google.internal" if google else None
