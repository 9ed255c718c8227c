#!/usr/bin/env bash
# One worker's part of launch/tpu_pod.sh, which calls it through ssh on every worker.
#
#   launch/tpu_worker.sh install [PYTHON]        # package and environment, .venv; by default 3.12
#   launch/tpu_worker.sh busy                    # exit code 0 if a command is running
#   launch/tpu_worker.sh attempt ID COMMAND...   # run it, show its log, end with its exit code
#
# The command runs detached: a connection that breaks does not end it. Called again with the same ID
# (gcloud itself does that when ssh breaks) it starts nothing, shows the log and ends with the exit
# code of what runs, or ran. Logs and exit codes are in runs/.launch.

set -euo pipefail

SAVED=75 # as the program says it: told to stop, or without its other hosts; start me again
cd "$(dirname "${BASH_SOURCE[0]}")/.."
state=runs/.launch
mkdir -p "$state"

boot() { cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo none; }

# The attempt that was started last runs: its process is there, since this boot of the machine.
alive() {
  local id pid since
  id="$(cat "$state/current" 2>/dev/null)" || return 1
  [[ ! -e "$state/$id.exit" ]] || return 1
  read -r pid since <"$state/$id.pid" || return 1
  [[ "$since" == "$(boot)" ]] && kill -0 "$pid" 2>/dev/null
}

install() {
  # The images of v5e, v5p and v6e bring a Python that is too old; uv fetches one. Into a folder, as pip does
  # it for every Python: one that the system manages refuses --user, and not all can make environments.
  local uv=.venv-uv/bin/uv
  [[ -x "$uv" ]] || python3 -m pip install --quiet --upgrade --target .venv-uv uv
  [[ -x .venv/bin/python ]] || "$uv" venv --quiet --python "$1" .venv
  "$uv" pip install --quiet --python .venv/bin/python -e '.[tpu,gcs]'
}

start() {
  local id="$1"
  shift
  printf '%q ' "$@" >"$state/$id.command"
  # shellcheck disable=SC2016  # expanded by the shell that is started
  setsid bash -c 'exit="$1"; shift; code=0; "$@" || code=$?; echo "$code" >"$exit.part"
    mv "$exit.part" "$exit"' bash "$state/$id.exit" "$@" \
    </dev/null >"$state/$id.log" 2>&1 &
  echo "$! $(boot)" >"$state/$id.pid"
  echo "$id" >"$state/current"
}

attempt() {
  local id="$1" lines=+1 code current
  shift
  current="$(cat "$state/current" 2>/dev/null || true)"
  if alive && [[ "$(cat "$state/$current.command")" != "$(printf '%q ' "$@")" ]]; then
    echo "another run is under way here: $(cat "$state/$current.command")" >&2
    exit 1
  elif alive; then
    id="$current" lines=20
  elif [[ -e "$state/$id.command" ]]; then
    lines=20
  else
    start "$id" "$@"
  fi
  tail -s 0.2 -n "$lines" -F --pid="$(cut -d' ' -f1 "$state/$id.pid")" "$state/$id.log"
  # No exit code: the machine itself was restarted under the command.
  code="$(cat "$state/$id.exit" 2>/dev/null || echo "$SAVED")"
  # JAX aborts the others when the first host is gone, before the program can say so.
  if [[ "$code" == 134 ]]; then code="$SAVED"; fi
  echo "$(hostname): exit code $code"
  exit "$code"
}

case "${1:-}" in
  -h | --help) sed -n '2,/^$/{s/^# \{0,1\}//;p;}' launch/tpu_worker.sh ;;
  install) install "${2:-3.12}" ;;
  busy) alive ;;
  attempt) shift && attempt "$@" ;;
  *)
    echo "usage: launch/tpu_worker.sh install [PYTHON] | busy | attempt ID COMMAND..." >&2
    exit 2
    ;;
esac
