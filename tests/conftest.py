"""Its presence puts this folder on the path, so that tests of any room can import `handmade`."""

import importlib.util
import os
import pathlib
import sys

import hypothesis
import jax
import pytest

# The same examples everywhere, and a busy machine is no failure; others are drawn by
# --hypothesis-profile=default.
hypothesis.settings.load_profile("ci")
# One device, however many processors there are; tests that want more say so.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
# libtpu, where it is installed, only compiles: several processes may, and no TPU's host is asked.
os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}


@pytest.fixture(scope="session")
def benchmark():
    """``benchmark(name)``: a script of benchmarks/ as a module."""

    def find(name):
        path = pathlib.Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look it up
        spec.loader.exec_module(module)
        return module

    return find


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs stay in memory, each in mappings of its own, of which Linux allows a
    process 65,530: a worker that has half of all tests comes near (tests/sample/test_sampler.py
    alone makes 13,000), and is aborted there."""
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="module")
def quick_to_compile():
    """For programs that run for milliseconds: what counts is how long they compile. They are
    dropped afterwards: JAX would take them for the same programs, which round otherwise."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, True)
    yield
    jax.config.update(name, before)
    jax.clear_caches()
