"""How Google Cloud Storage is asked: what it needs here, how long it may be away, what it refuses.

Gives an open ``bucket`` and, around whatever is asked of it, errors that say what to do (`asking`);
what is asked, and in which order, is `mirror`'s.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

PATIENCE = 600.0  # seconds that the service may be away before a run gives up


class FolderError(ValueError):
    """The run folder cannot be used: it is busy, it belongs to another configuration, or it cannot
    be reached."""


class Away(FolderError):
    """The service was not to be reached for all of ``PATIENCE``, or was too slow for a checkpoint;
    the same command continues."""

    exit_code = os.EX_TEMPFAIL  # what starts the run is to start the same command again


def patient() -> Any:
    """For every call: to ask again while the service is away."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(PATIENCE)


@functools.cache
def bucket(name: str, address: str) -> Any:
    """The bucket, which is there and may be looked at (as Orbax does, too); ``address``: the run's,
    for the words of an error."""
    from google.api_core.exceptions import NotFound
    from google.cloud import storage

    with asking(address, "open"):
        try:
            client = storage.Client()
        except OSError as error:
            raise FolderError(
                f"out={address!r}: {error}; set GOOGLE_CLOUD_PROJECT to the project's id"
            ) from error
        try:
            return client.get_bucket(name, retry=patient())
        except NotFound as error:
            raise FolderError(
                f"out={address!r}: there is no bucket {name!r} ({_said(error)}); make it (gcloud "
                f"storage buckets create gs://{name}), or give another --out"
            ) from error


@contextlib.contextmanager
def asking(address: str, what: str) -> Iterator[None]:
    """Errors of the service as one of ours: what it said, and what is needed."""
    import requests
    from google.api_core import exceptions as answers
    from google.auth import exceptions as accounts
    from google.cloud.storage.exceptions import DataCorruption, InvalidResponse

    where = f"out={address!r}"
    try:
        yield
    except (answers.Forbidden, answers.Unauthorized) as error:
        raise FolderError(
            f"{where}: Google Cloud Storage does not let this account {what} there "
            f"({_said(error)}). It needs the roles Storage Object User and Storage Legacy "
            "Bucket Reader for the bucket; grant them, log in as another account (gcloud auth "
            "application-default login), or give another --out"
        ) from error
    except (
        *(answers.GoogleAPIError, requests.RequestException, accounts.TransportError),
        *(InvalidResponse, DataCorruption),
    ) as error:
        # What it has understood and refuses it will refuse again.
        again = not isinstance(error, answers.ClientError) or error.code in (404, 408, 412, 429)
        raise (Away if again else FolderError)(
            f"{where}: cannot {what} there ({_said(error)}); start the same command again once "
            "the bucket can be reached, or give another --out"
        ) from error
    except accounts.GoogleAuthError as error:
        raise FolderError(
            f"{where}: not logged in to Google Cloud ({_said(error)}); run gcloud auth "
            "application-default login, start on a machine with a service account, or give a "
            "path with --out"
        ) from error


def prepare(out: str) -> None:
    """What the libraries that reach a bucket have to know before their first use."""
    if importlib.util.find_spec("gcsfs") is None or not _has_storage():
        raise FolderError(
            f"out={out!r} is a bucket, which needs gcsfs and google-cloud-storage; "
            "pip install 'pruner-jax[gcs]', or give a path with --out"
        )
    import fsspec

    # Other hosts write there, too: what it listed once may not be so any more.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    # The plain interface, which every bucket has and nothing has to be asked about first.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    os.environ.setdefault("EPATH_USE_TF", "false")  # the same client with and without TensorFlow


def _has_storage() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.storage") is not None
    except ModuleNotFoundError:
        return False


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", "") or error).split())
