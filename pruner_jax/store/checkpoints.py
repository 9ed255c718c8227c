"""Checkpoints of a run, by Orbax: full states to continue from, and parameters alone to pick from.

A full state is a tree of arrays and a JSON-able ``meta``; the two latest are kept, saved in the
background and only visible once complete. Parameters alone (the start of the run and of the round,
the candidates of a round) are kept under a name for as long as a full state speaks of them.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

PyTree = Any


class Checkpoints:
    """The ``checkpoints`` folder of a run."""

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        import orbax.checkpoint as ocp

        self._folder = folder.absolute()
        self._parameters = self._folder / "parameters"
        self._parameters.mkdir(parents=True, exist_ok=True)
        self._states = ocp.CheckpointManager(
            self._folder / "states",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=True, enable_async_checkpointing=True
            ),
        )
        self._writer = ocp.StandardCheckpointer()

    def latest(self) -> int | None:
        """Position of the newest complete state, or None."""
        return self._states.latest_step()

    def save(self, position: int, arrays: PyTree, meta: Mapping[str, Any]) -> None:
        """Start saving a full state; returns once the arrays may be donated again.

        ``meta["parameters"]`` lists the named parameters this state needs; others are dropped once
        no kept state speaks of them.
        """
        import orbax.checkpoint as ocp

        self.wait()
        self._drop_unused(meta["parameters"])
        self._states.save(
            position,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(dict(meta))
            ),
        )

    def meta(self, position: int) -> dict[str, Any]:
        """What was saved beside the arrays."""
        import orbax.checkpoint as ocp

        restored = self._states.restore(
            position, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        )
        return restored.meta

    def arrays(self, position: int, like: PyTree) -> PyTree:
        """The arrays of a state, with the shapes, dtypes and shardings of ``like``."""
        import orbax.checkpoint as ocp

        restored = self._states.restore(
            position, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like))
        )
        return restored.arrays

    def save_parameters(self, name: str, parameters: PyTree) -> None:
        """Keep parameters under a name, whole or not at all; a later save replaces them."""
        self._writer.save(self._parameters / name, parameters, force=True)
        self._writer.wait_until_finished()

    def load_parameters(self, name: str, like: PyTree) -> PyTree:
        """Parameters kept under a name, with the shapes, dtypes and shardings of ``like``."""
        path = self._parameters / name
        if not path.is_dir():
            raise ValueError(
                f"checkpoint {str(path)!r} is not there; the run has {sorted(self.names())}"
            )
        return self._writer.restore(path, like)

    def names(self) -> set[str]:
        """Names of the kept parameters."""
        return {path.name for path in self._parameters.iterdir() if "." not in path.name}

    def wait(self) -> None:
        """Return when nothing is being saved any more; a failed save raises here."""
        self._states.wait_until_finished()

    def close(self) -> None:
        """Finish what is being saved and stop the background threads."""
        self.wait()
        self._states.close()
        self._writer.close()

    def _drop_unused(self, needed: Iterable[str]) -> None:
        used = set(needed)
        for position in self._states.all_steps():
            used.update(self.meta(position)["parameters"])
        for name in self.names() - used:
            shutil.rmtree(self._parameters / name)
