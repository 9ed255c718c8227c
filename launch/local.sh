#!/usr/bin/env bash
# A laptop or any machine without an accelerator.
#
#   launch/local.sh configs/quickstart.yaml [--setting=value ...]
#   launch/local.sh --dry-run configs/quickstart.yaml   # print the commands only
#
# Installs into VENV (default .venv, made by PYTHON, default python3), with the optional packages EXTRA
# (such as cuda), and prunes. Paths are relative to the repository. The same command continues a run
# that was stopped. A dry run of the program itself, which checks the settings and shows sizes, is
# --dry_run=true after the config.

set -euo pipefail

dry=no print_to=2
if [[ "${1:-}" == "--dry-run" ]]; then
  dry=yes print_to=1
  shift
fi
if [[ $# -eq 0 || "$1" == -* ]]; then
  echo "usage: launch/local.sh [--dry-run] CONFIG [--setting=value ...]" >&2
  exit 2
fi

run() {
  { printf '+'; printf ' %q' "$@"; printf '\n'; } >&"$print_to"
  if [[ "$dry" == "no" ]]; then "$@"; fi
}

cd "$(dirname "${BASH_SOURCE[0]}")/.."
run cd "$PWD"
venv="${VENV:-.venv}"
if [[ ! -x "$venv/bin/python" ]]; then
  run "${PYTHON:-python3}" -m venv "$venv"
fi
run "$venv/bin/pip" install --quiet -e ".${EXTRA:+[$EXTRA]}"
run "$venv/bin/pruner-jax" prune "$@"
