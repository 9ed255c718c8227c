"""Imports go down the tiers only, and what needs no JAX does not import it."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "pruner_jax"

TIERS = [
    {"types", "masked", "settings", "plugin"},
    {"text", "expansion", "mesh"},
    {"policy", "objective", "problems", "verify", "store"},
    {"methods", "sample", "learn", "measure", "report"},
    {"config"},
    {"pod"},
    {"run"},
    {"cli"},
]
TIER = {room: tier for tier, rooms in enumerate(TIERS) for room in rooms}
FREE_OF_JAX = (
    "config",
    "settings",
    "types",
    "masked",
    "plugin",
    "objective",
    "methods",
    "verify",
    "problems",
    "measure",
)


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        yield path, ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)


def imported_rooms(path):
    """Rooms of the package that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the tier"
            names = [node.module or ""]
            if node.module == "pruner_jax":
                names = [f"pruner_jax.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "pruner_jax" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize(("path", "name"), list(modules()), ids=lambda value: str(value)[-40:])
def test_imports_go_down(path, name):
    parts = name.split(".")
    if len(parts) == 1 or parts[1] in ("__init__", "__main__"):
        return
    room = parts[1]
    assert room in TIER, f"{room} has no tier; give it one in tests/test_layers.py"
    for other in imported_rooms(path):
        if other != room and other in TIER:
            assert TIER[other] < TIER[room], f"{name} (tier {TIER[room]}) imports {other}"


def test_the_science_needs_no_accelerator():
    """Importing these rooms leaves JAX, flax, transformers and torch alone (they import slowly)."""
    wanted = [
        name.removesuffix(".__init__")
        for path, name in modules()
        if name.split(".")[1] in FREE_OF_JAX or path.name == "options.py"
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {wanted!r}: importlib.import_module(name)\n"
        "heavy = {'jax', 'flax', 'transformers', 'torch', 'optax', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
