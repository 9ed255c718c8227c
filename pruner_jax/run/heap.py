"""Large blocks of freed memory go back to the system (glibc; elsewhere nothing is done).

glibc learns from every large block that is freed to keep blocks of that size, up to 32 MB. Where
parameters live in the host's memory, the sampler's copy of them, layer by layer, then stays with
the process as gaps that the learner's stacked arrays do not fit into.
"""

from __future__ import annotations

import ctypes
import sys

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 16 << 20  # bytes
_COUNTS = 256 << 20  # bytes


def give_back_large_blocks() -> None:
    """Keep glibc from holding on to blocks of 16 MB and more once they are freed.

    Peak memory of two steps of a 0.5B model on a CPU (``benchmarks/real_size.py``): 15.7 GB
    without, 14.1 GB with it. (Blocks of 2 MB make it 13.8 GB, but the tiny reasoner then samples at
    less than half the speed: 0.35 s a step instead of 0.15.)
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGE)  # setting the one stops the other from growing


def give_back_freed(size: int) -> None:
    """Let go of what lies freed between blocks in use, where about ``size`` bytes of it came from
    blocks of any size and that is much; it takes milliseconds. The 14.1 GB then are 13.8 GB."""
    if size >= _COUNTS and sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
