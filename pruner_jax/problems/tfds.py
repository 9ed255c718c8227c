"""Problems from TensorFlow Datasets, read without TensorFlow.

Takes the name of a native builder whose module imports without TensorFlow (`gsm8k` is the one that
fits best), prepares it as ArrayRecord and reads it by index. Leaves out every other file format,
the bridge to other hubs, and any cleaning beyond what `rows` declares.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pruner_jax.problems.rows import RowOptions, to_problems
from pruner_jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Options(RowOptions):
    """Which builder, and which of its splits is which set."""

    columns: dict[str, str] = dataclasses.field(default_factory=lambda: {"answer": "short_answer"})
    """Part of a problem: its column, as in `file`. The default is right for gsm8k."""

    builder: str = "gsm8k"
    """Name, config and version as TFDS writes them: NAME[/CONFIG][:VERSION]."""

    module: str = ""
    """Module that defines the builder, for builders of your own; empty: it comes with TFDS."""

    data_dir: str | None = None
    """Where the prepared data lie; null: where TFDS puts them (~/tensorflow_datasets)."""

    train: str = "train"
    """Split to train on, in TFDS's notation ("train[:90%]")."""

    monitor: str = ""
    """Split of the monitor set; empty: carved out of train."""

    test: str = "test"
    """Split of the test set; empty: carved out of train."""


def load(options: Options, split: str) -> list[Problem] | None:
    """The problems of one split, prepared first if need be; None if no split is set."""
    name = getattr(options, split)
    if not name:
        return None
    try:
        builder = _builder(options)
        data = builder.as_data_source(split=name)
    except ImportError as error:
        raise ValueError(
            f"the builder {options.builder!r} cannot be used here ({error}). It takes the packages "
            "tensorflow-datasets and importlib_resources, and a builder that needs no TensorFlow"
        ) from error
    except (ValueError, NotImplementedError) as error:
        raise ValueError(
            f"TFDS cannot read the split {name!r} of {options.builder!r}: {error}"
        ) from error
    rows = ((f"{split}/{i}", f"{name}: row {i}", plain(data[i])) for i in range(len(data)))
    return to_problems(rows, options, split)


def _builder(options: Options) -> Any:
    """The builder with its data prepared. What TFDS tells about that goes to stderr."""
    import tensorflow_datasets as tfds

    base = re.match(r"\w+", options.builder)
    module = options.module or (_module(Path(tfds.__file__).parent, base.group()) if base else "")
    if module:
        importlib.import_module(module)  # builders are found by name only once they are imported
    try:
        builder = tfds.builder(
            options.builder, data_dir=options.data_dir, file_format="array_record"
        )
    except tfds.core.DatasetNotFoundError:
        raise ValueError("there is no such builder (set problems.options.module?)") from None
    with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()
    return builder


def _module(root: Path, name: str) -> str:
    """The module of a builder that lies at ``SECTION/NAME/NAME.py`` of TFDS, or nothing."""
    found = sorted(root.glob(f"*/{name}/{name}.py"))
    return ".".join((root.name, *found[0].relative_to(root).with_suffix("").parts)) if found else ""


def plain(value: Any) -> Any:
    """TFDS values as Python's own: text instead of bytes, lists and numbers instead of arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value
