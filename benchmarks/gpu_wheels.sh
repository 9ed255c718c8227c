#!/usr/bin/env bash
# Wheels that a machine without network lacks for benchmarks/gpu.sh, where it has JAX for CUDA, flax,
# optax, orbax and transformers, and for the peers torch and accelerate.
#
#   benchmarks/gpu_wheels.sh .whl             # what setup.cfg asks for: 9 MB
#   benchmarks/gpu_wheels.sh .whl --peers     # and TRL: 2 MB more
#
# Then WHEELS=.whl benchmarks/gpu.sh there. PYTHON_VERSION is that machine's (3.12; x86-64, Linux). PYTHON
# (default python3) has pip, and reaches a package index.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in
  '' | -*) sed -n '2,/^$/{s/^# \{0,1\}//;p;}' benchmarks/gpu_wheels.sh && exit 2 ;;
esac

get=("${PYTHON:-python3}" -m pip download --quiet --dest "$1" --only-binary=:all:)
get+=(--implementation cp --python-version "${PYTHON_VERSION:-3.12}")
for old in _2_28 _2_27 _2_17 2014 1; do get+=(--platform "manylinux${old}_x86_64"); done

# With what they need themselves; as setup.cfg has them, so that the versions are those.
asked="$(grep -E '^ +(jsonargparse|math-verify|importlib_resources)' setup.cfg)"
# shellcheck disable=SC2086  # one word for each
"${get[@]}" $asked
if [[ "${2:-}" == --peers ]]; then # all the rest of what TRL needs comes with torch and transformers
  "${get[@]}" --no-deps trl==1.16.0 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19
fi
ls "$1"
