"""The safetensors format: a length, a JSON header, then the numbers of every tensor, end to end.

Reads a file as memory-mapped views (bfloat16 included, nothing is copied until it is used) and
writes one as a stream, so that neither needs the model twice. Knows nothing of models or folders.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the file by name, as a read-only view of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if size < 8 or start > size:
            raise ValueError(
                f"{path}: truncated or not safetensors ({size} bytes, no whole header); copy or "
                "download it again"
            )
        try:
            header = json.loads(file.read(start - 8))
        except ValueError as error:
            raise ValueError(f"{path}: not safetensors, its header is not JSON ({error})") from None
    _check_header(path, header)
    header.pop("__metadata__", None)
    needed = start + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < needed:
        raise ValueError(
            f"{path}: truncated; its header promises {needed} bytes, found {size}; copy or "
            "download it again"
        )
    data = np.memmap(path, np.uint8, "r")[start:] if header else np.empty(0, np.uint8)
    return {name: _view(path, name, data, entry) for name, entry in header.items()}


def _check_header(path: Path, header: object) -> None:
    if not isinstance(header, dict):
        raise ValueError(f"{path}: not safetensors, its header is no JSON object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        whole = (
            isinstance(offsets, list)
            and [type(offset) for offset in offsets] == [int, int]
            and isinstance(entry.get("shape"), list)
            and "dtype" in entry
        )
        if not whole:
            raise ValueError(
                f"{path}: broken header, tensor {name} needs dtype, shape and two data_offsets; "
                f"found {entry!r}"
            )


def _view(path: Path, name: str, data: np.ndarray, entry: dict) -> np.ndarray:
    dtype = DTYPES.get(entry["dtype"])
    if dtype is None:
        raise ValueError(
            f"{path}: tensor {name} has dtype {entry['dtype']}; allowed: {', '.join(DTYPES)} "
            "(quantised weights are not read)"
        )
    first, end = entry["data_offsets"]
    if end - first != math.prod(entry["shape"]) * dtype.itemsize:
        raise ValueError(
            f"{path}: tensor {name} of shape {entry['shape']} and dtype {entry['dtype']} cannot "
            f"have {end - first} bytes"
        )
    return data[first:end].view(dtype).reshape(entry["shape"])


def write_tensors(
    path: Path,
    tensors: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    numbers: Callable[[str], np.ndarray],
) -> None:
    """Writes the named tensors (shape, dtype) in order, asking ``numbers`` for one at a time."""
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in tensors.items():
        first, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers start aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, dtype) in tensors.items():
            array = np.ascontiguousarray(numbers(name), dtype=dtype).reshape(shape)
            file.write(array.view(np.uint8).reshape(-1).data)
