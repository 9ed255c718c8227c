"""One chart of the report as a picture file of its own, for a page that is not the report."""

from __future__ import annotations

import os
import pathlib
import re

from pruner_jax.report.read import read_run
from pruner_jax.report.way import way

_MARGIN = 20
_STYLE = pathlib.Path(__file__).parent / "page.css"


def write_picture(run_folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> pathlib.Path:
    """Accuracy against mean tokens over the rounds, as an SVG file with its style in it.

    Raises:
      ValueError: the run has no evaluation yet, or the name does not end in .svg.
    """
    path = pathlib.Path(path)
    if path.suffix != ".svg":
        raise ValueError(f"picture is {str(path)!r}; allowed: a name that ends in .svg")
    chart = way(read_run(run_folder))
    if not chart:
        raise ValueError(f"{run_folder} has no evaluation on the monitor set yet: nothing to draw")
    # Alone in a page the chart has no paper under it, and no page to take its font from.
    own = "svg { background: var(--paper); font-family: system-ui, sans-serif; }"
    chart = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    chart = re.sub(r'viewBox="0 0 (\d+) (\d+)"', _with_margin, chart, count=1)
    head, tag, body = chart.partition(">")
    path.write_text(f"{head}{tag}<style>{_STYLE.read_text()}{own}</style>{body}\n")
    return path


def _with_margin(view: re.Match[str]) -> str:
    width, height = int(view[1]), int(view[2])
    return (
        f'viewBox="{-_MARGIN} {-_MARGIN} {width + 2 * _MARGIN} {height + 2 * _MARGIN}" '
        f'width="{width + 2 * _MARGIN}"'
    )
