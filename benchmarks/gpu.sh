#!/usr/bin/env bash
# What one NVIDIA GPU does with this package, in at most eight minutes: benchmarks/gpu.py.
#
#   benchmarks/gpu.sh [--out=runs/gpu.json ...]       # options of gpu.py, see --help
#   benchmarks/gpu.sh --cpu-smoke                     # tries the script itself
#
# Needs PYTHON (default python3) with JAX for CUDA and the package's dependencies, and no network. What
# the machine lacks may be carried along: WHEELS is a folder of wheels (benchmarks/gpu_wheels.sh makes it)
# that are installed, without dependencies of theirs, into VENV (default .venv-gpu), which also sees what
# PYTHON has: by a file of paths, for --system-site-packages shows the packages of the Python that a PYTHON
# in a venv is made from and not its own, and PYTHONPATH would reach the peers' Python too.
#
# On a machine that is lent for minutes, to which ignored files are carried and from which comes back what
# lies in $OUT; first, where there is a network: benchmarks/gpu_wheels.sh .whl --peers. Then there, with .whl
# carried along and a time limit of 600 seconds (COMMIT: git rev-parse HEAD, for .git does not travel):
#
#   export WHEELS=.whl
#   benchmarks/gpu.sh --commit=COMMIT --budget=270 --out="$OUT/compiling.json"
#   benchmarks/gpu.sh --commit=COMMIT --budget=270 --out="$OUT/gpu.json"
#
# The first run compiles, and may not come to everything; the second one finds the programs on disk, and its
# figures count. Both belong into one call, for what was compiled goes with the machine. What is missing then:
# --parts, in the same call or while the machine is still held.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  sed -n '2,/^$/{s/^# \{0,1\}//;p;}' benchmarks/gpu.sh
  exec "$python" benchmarks/gpu.py --help
fi
if [[ -n "${WHEELS:-}" ]]; then
  if ! ls "$WHEELS"/*.whl >/dev/null 2>&1; then
    echo "gpu.sh: WHEELS is $WHEELS, where no wheels are; benchmarks/gpu_wheels.sh $WHEELS fetches them" >&2
    exit 2
  fi
  venv="${VENV:-.venv-gpu}"
  "$python" -m venv --without-pip "$venv" # not all have ensurepip
  folder="$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  "$python" -c 'import site
for folder in site.getsitepackages(): print(f"import site; site.addsitedir({folder!r})")' \
    >"$folder/python.pth"
  "$python" -m pip --python "$venv/bin/python" install --quiet --no-index --no-deps "$WHEELS"/*.whl
  python="$venv/bin/python"
fi
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" # as launch/gpu.sh
exec "$python" benchmarks/gpu.py "$@"
