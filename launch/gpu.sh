#!/usr/bin/env bash
# One machine with NVIDIA GPUs (driver installed; CUDA itself comes with the packages).
#
#   launch/gpu.sh configs/thinkprune_r1_distill_qwen_1p5b.yaml [--setting=value ...]
#   launch/gpu.sh --dry-run configs/thinkprune_r1_distill_qwen_1p5b.yaml   # print the commands only
#
# Installs into VENV (default .venv, made by PYTHON, default python3) and prunes. Paths are relative
# to the repository. The same command continues a run that was stopped. A dry run of the program
# itself, which checks the settings and shows sizes, is --dry_run=true after the config.
#
# Bit-identical repetitions of a run need XLA_FLAGS=--xla_gpu_deterministic_ops=true, which costs speed.

set -euo pipefail

dry=no print_to=2
if [[ "${1:-}" == "--dry-run" ]]; then
  dry=yes print_to=1
  shift
fi
if [[ $# -eq 0 || "$1" == -* ]]; then
  echo "usage: launch/gpu.sh [--dry-run] CONFIG [--setting=value ...]" >&2
  exit 2
fi

run() {
  { printf '+'; printf ' %q' "$@"; printf '\n'; } >&"$print_to"
  if [[ "$dry" == "no" ]]; then "$@"; fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
run cd "$PWD"
venv="${VENV:-.venv}"
run nvidia-smi --list-gpus  # fails here, not after the installation, where there is no driver
if [[ ! -x "$venv/bin/python" ]]; then
  run "${PYTHON:-python3}" -m venv "$venv"
fi
run "$venv/bin/pip" install --quiet -e '.[cuda]'
run "$venv/bin/pruner-jax" prune "$@"
