#!/usr/bin/env bash
# A laptop or any machine without an accelerator.
#
#   launch/local.sh configs/quickstart.yaml [--setting=value ...]
#   launch/local.sh --dry-run configs/quickstart.yaml   # print the commands only
#
# Installs into VENV (default .venv, made by PYTHON, default python3), with the optional packages EXTRA
# (such as cuda; then also as launch/gpu.sh says), and prunes. Paths are relative to the repository.
# The same command continues a run that was stopped. A dry run of the program itself, which checks the
# settings and shows sizes, is --dry_run=true after the config.

set -euo pipefail

die() {
  echo "launch: $1" >&2
  exit "$2"
}

dry=no print_to=2
if [[ "${1:-}" == "--dry-run" ]]; then
  dry=yes print_to=1
  shift
fi
if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  sed -n '2,/^$/{s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit
fi
[[ $# -gt 0 && "$1" != -* ]] || die "usage: launch/local.sh [--dry-run] CONFIG [--setting=value ...]" 2
for argument in "$@"; do
  [[ "$argument" != --dry-run ]] || die "--dry-run: give it before CONFIG; the program's own is --dry_run=true" 2
done

run() {
  { printf '+'; printf ' %q' "$@"; printf '\n'; } >&"$print_to"
  if [[ "$dry" == "no" ]]; then "$@"; fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f "$1" ]] || die "there is no $1 in $PWD" 2
run cd "$PWD"
if [[ "${EXTRA:-}" == cuda* ]]; then # fails here, not after the installation, where there is no driver
  run nvidia-smi --list-gpus || die "no NVIDIA driver here (nvidia-smi fails)" 1
  run export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
fi
venv="${VENV:-.venv}"
if [[ ! -x "$venv/bin/python" ]]; then
  run "${PYTHON:-python3}" -m venv "$venv"
fi
run "$venv/bin/pip" install --quiet -e ".${EXTRA:+[$EXTRA]}"
run "$venv/bin/pruner-jax" prune "$@"
