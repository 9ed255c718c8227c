#!/usr/bin/env bash
# What one NVIDIA GPU does with this package, in at most eight minutes: benchmarks/gpu.py.
#
#   benchmarks/gpu.sh [--out=runs/gpu.json ...]       # options of gpu.py
#   benchmarks/gpu.sh --cpu-smoke                     # tries the script itself
#
# Needs PYTHON (default python3) with JAX for CUDA and the package's dependencies, and no network. What
# the machine lacks may be carried along: WHEELS is a folder of wheels that are installed, without
# dependencies of theirs, into VENV (default .venv-gpu), which also sees what PYTHON has: by a file of
# paths, for --system-site-packages shows the packages of the Python that a PYTHON in a venv is made
# from and not its own, and PYTHONPATH would reach the peers' Python too.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
if [[ -n "${WHEELS:-}" ]]; then
  venv="${VENV:-.venv-gpu}"
  "$python" -m venv "$venv"
  folder="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  "$python" -c 'import site
for folder in site.getsitepackages(): print(f"import site; site.addsitedir({folder!r})")' \
    >"$folder/python.pth"
  "$venv/bin/python" -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
  python="$venv/bin/python"
fi
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" # as launch/gpu.sh
exec "$python" benchmarks/gpu.py "$@"
