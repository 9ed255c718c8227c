#!/usr/bin/env bash
# A TPU pod through queued resources of Cloud TPU: asks for it, waits, installs, runs the same
# command on all workers, starts again after a preemption, fetches the results, gives the pod back.
#
#   launch/tpu_pod.sh --name=mine --zone=us-east5-b --type=v6e-16 --spot --out=gs://bucket/mine \
#     configs/thinkprune_r1_distill_qwen_1p5b.yaml [--setting=value ...]
#   launch/tpu_pod.sh --dry-run --name=...   # print the commands of a smooth run only
#   launch/tpu_pod.sh --help
#
# Options stand before CONFIG, which is relative to the repository; what follows goes to the program:
#   --name=N         of the queued resource and of its node
#   --zone=Z         --project=P (gcloud's own if left out)
#   --type=T         such as v5litepod-16, v5p-32, v6e-16
#   --runtime=R      image of the workers (by the type if left out)
#   --spot           cheaper, and may be taken away; without it: on demand
#   --out=O          gs://..., or a folder on worker 0, which is lost with the pod
#   --at-end=E       delete (default) or keep the pod, whether the run succeeded or not
#   --restarts=N     most new starts, after preemptions and others (20)
#   --fetch-to=F     where logs and, without checkpoints, results go (default runs/tpu/N)
#   --create-flag=F  of gcloud's own for the request, as often as wanted: --create-flag=--internal-ips,
#                    --create-flag=--network=mine, --create-flag=--service-account=..., --create-flag=--reserved
#   --ssh-flag=F     the same for gcloud's ssh and scp: --ssh-flag=--internal-ip; with GCLOUD_TRACK=alpha,
#                    whose commands alone know it, --ssh-flag=--tunnel-through-iap
# PYTHON_VERSION is that of the workers (3.12); POLL_S, BACKOFF_S and GRACE_S are seconds between two
# looks (30), before the first new start (30, doubled each time up to 600), and that the service has
# to own up to a preemption (90); WAIT_S is how long to wait for a pod (86400).
#
# The same command goes on where a run was stopped, and attaches to one that is under way. Needs
# gcloud, logged in, and `ssh-add ~/.ssh/google_compute_engine`. Exit codes: 0 done; 75 after too many
# starts (results are saved, the same command goes on); 2 wrong arguments; otherwise a failure, of
# the program with its own code.

set -euo pipefail

# How workers learn that they belong together; the only place that says so.
POD_ENVIRONMENT=(PRUNER_POD=pod)
SAVED=75 # exit code of a program that saved because it was told to stop: start it again
LOST=255 # of ssh, when the connection broke

say() { echo "tpu_pod: $*" >&2; }
die() {
  say "$1"
  exit "${2:-1}"
}

# -- arguments -------------------------------------------------------------------------------------

WITH_VALUE='name|zone|project|type|runtime|out|at-end|restarts|fetch-to|create-flag|ssh-flag'
dry=no name='' zone='' project='' type='' runtime='' spot=no out='' at_end=delete restarts=20 fetch_to=''
# A pod that is gone answers no more: without these ssh and scp would wait for it for hours.
create_flags=(--quiet) ssh_flags=(--quiet) scp_flags=(--quiet)
for flag in -oConnectTimeout=30 -oServerAliveInterval=30 -oServerAliveCountMax=4; do
  ssh_flags+=(--ssh-flag="$flag") scp_flags+=(--scp-flag="$flag")
done
while [[ $# -gt 0 && "$1" == -* ]]; do
  value="${1#*=}"
  case "$1" in
    -h | --help) sed -n '2,/^$/{s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
    --dry-run) dry=yes ;;
    --spot) spot=yes ;;
    --create-flag=*) create_flags+=("$value") ;;
    --ssh-flag=*) ssh_flags+=("$value") scp_flags+=("$value") ;;
    *)
      [[ "$1" =~ ^--($WITH_VALUE)(=|$) ]] || die "$1 is no option (before CONFIG); --help lists them" 2
      [[ "$1" == *=* ]] || die "write $1=${2:-...}" 2
      option="${BASH_REMATCH[1]}"
      printf -v "${option//-/_}" '%s' "$value"
      ;;
  esac
  shift
done
for option in name zone type out; do
  [[ -n "${!option}" ]] || die "--$option=... is missing; --help says more" 2
done
[[ $# -gt 0 ]] || die "CONFIG is missing, such as configs/quickstart.yaml" 2
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ "$1" != /* && -f "$1" ]] || die "there is no $1 in $PWD; CONFIG is a path in the repository" 2
for argument in "${@:2}"; do
  [[ ! "$argument" =~ ^--($WITH_VALUE|dry-run|spot)(=|$) ]] || die "$argument: give it before CONFIG" 2
done
[[ "$name" =~ ^[a-z][a-z0-9-]*$ ]] || die "--name is $name; allowed: small letters, digits and -, first a letter" 2
[[ "$out" == gs://* || "$out" != *://* ]] || die "--out is $out; allowed: gs://... or a folder" 2
[[ "$at_end" == delete || "$at_end" == keep ]] || die "--at-end is $at_end; allowed: delete, keep" 2
case "$type" in
  v5e-*) die "--type is $type; the service calls it v5litepod-${type#v5e-}" 2 ;;
  v5litepod-*) image=v2-alpha-tpuv5-lite ;;
  v5p-*) image=v2-alpha-tpuv5 ;;
  v6e-*) image=v2-alpha-tpuv6e ;;
  v2-* | v3-* | v4-*) image=tpu-ubuntu2204-base ;;
  *) image="$runtime" ;;
esac
runtime="${runtime:-$image}"
[[ -n "$runtime" ]] || die "--type is $type, of which no image is known; add --runtime=..." 2
[[ "$restarts" =~ ^[0-9]+$ ]] || die "--restarts is $restarts; allowed: 0 or more" 2
[[ "$dry" == yes ]] || command -v gcloud >/dev/null || die "there is no gcloud here: install the Google Cloud CLI and log in" 2
poll_s="${POLL_S:-30}" backoff_s="${BACKOFF_S:-30}" grace_s="${GRACE_S:-90}" wait_s="${WAIT_S:-86400}"

where=(--zone="$zone")
[[ -z "$project" ]] || where+=(--project="$project")
ask=(create "$name" --node-id="$name" --accelerator-type="$type" --runtime-version="$runtime" "${where[@]}" "${create_flags[@]}")
[[ "$spot" == no ]] || ask+=(--spot)
tpus=(gcloud ${GCLOUD_TRACK:+"$GCLOUD_TRACK"} compute tpus)
undo="gcloud compute tpus queued-resources delete $name ${where[*]} --force"
fetch_to="${fetch_to:-runs/tpu/$name}"
logs="$fetch_to/launch"
archive="$logs/pruner_jax.tgz"
command="$(printf ' %q' env "${POD_ENVIRONMENT[@]}" .venv/bin/pruner-jax prune "$1" --out="$out" "${@:2}")"

# -- commands --------------------------------------------------------------------------------------

exec 3>&2
[[ "$dry" == no ]] || exec 3>&1
show() { { printf '+'; printf ' %q' "$@"; printf '\n'; } >&3; }
run() {
  show "$@"
  if [[ "$dry" == no ]]; then "$@"; fi
}

# A state in the service's own word, or ABSENT. In a dry run $3, as if all went well.
look() {
  local query=("${tpus[@]}" "$1" describe "$name" "${where[@]}" --format="value($2)") said tries
  if [[ "$dry" == yes ]]; then
    show "${query[@]}"
    echo "$3"
    return
  fi
  for tries in 1 2 3 4 5; do
    if said="$("${query[@]}" 2>"$logs/describe.err")"; then
      echo "${said:-ABSENT}"
      return
    elif grep -q NOT_FOUND "$logs/describe.err"; then
      echo ABSENT
      return
    fi
    [[ "$tries" == 5 ]] || sleep "$backoff_s"
  done
  say "cannot ask for the state of $name (the same command goes on later): $(cat "$logs/describe.err")"
  return 1
}

# "queued resource, node", such as "ACTIVE READY"; the node is asked for when there is one.
pod() {
  local queue node
  queue="$(look queued-resources state.state "$([[ "$created" == 0 ]] && echo ABSENT || echo ACTIVE)")" || return 1
  [[ "$queue" == ACTIVE ]] || { echo "$queue -" && return; }
  node="$(look tpu-vm state READY)" || return 1
  echo "ACTIVE $node"
}

# Whether those words say that the pod was taken away.
gone() {
  case "$1" in
    SUSPEND* | DELETING* | ABSENT* | FAILED* | "ACTIVE PREEMPTED" | "ACTIVE TERMINATED" | "ACTIVE STOP"* | "ACTIVE ABSENT") ;;
    *) return 1 ;;
  esac
}

remove() {
  run "${tpus[@]}" queued-resources delete "$name" "${where[@]}" --force --quiet && return
  say "$name could NOT be deleted and costs money until $undo"
  return 1
}

on_workers() { # on_workers all|0 COMMAND
  "$3" "${tpus[@]}" tpu-vm ssh "$name" "${where[@]}" --worker="$1" "${ssh_flags[@]}" --command="$2"
}
copy() { run "${tpus[@]}" tpu-vm scp "$1" "$2" "${where[@]}" --worker="$3" "${scp_flags[@]}"; }

# -- the stages ------------------------------------------------------------------------------------

created=0 there=no # whether there is something that Ctrl-C leaves behind
# From whatever state there is to a pod on which commands run.
ready() {
  local since="$SECONDS" before='' now why
  while true; do
    now="$(pod)" || exit 1
    [[ "$now" == "$before" ]] || say "$name: $now"
    before="$now"
    if [[ "$now" == ABSENT* ]]; then there=no; else there=yes; fi
    case "$now" in
      "ACTIVE READY") return ;;
      ABSENT*)
        if [[ "$used" -gt 0 && "$out" != gs://* ]]; then
          die "$name was taken away, and $out with it; give --out=gs://... next time"
        fi
        there=yes
        run "${tpus[@]}" queued-resources "${ask[@]}"
        created=$((created + 1))
        continue
        ;;
      FAILED*)
        why="$(look queued-resources state.failedData.error.message '')" || why=''
        remove || true # what failed first is said all the same
        die "the request for $type in $zone failed: ${why:-no reason given}. Check quota and zone (gcloud compute tpus accelerator-types list ${where[*]})"
        ;;
      SUSPENDING* | DELETING*) ;;
      *) if gone "$now"; then remove && continue; fi ;;
    esac
    if [[ $((SECONDS - since)) -ge "$wait_s" ]]; then
      ! remove || say "the request was taken back" # it would cost money if it came when nobody waits
      die "no pod within WAIT_S = $wait_s seconds"
    fi
    sleep "$poll_s"
  done
}

install() {
  local worker=pruner_jax/launch/tpu_worker.sh
  copy "$archive" "$name:pruner_jax.tgz" all || return "$LOST"
  on_workers all "bash $worker busy 2>/dev/null || { mkdir -p pruner_jax && tar -xzf pruner_jax.tgz -C pruner_jax && bash $worker install ${PYTHON_VERSION:-3.12}; }" run
}

# The program on all workers: its output to terminal and log, its exit code, 255 if the pod goes away.
program() {
  local code=0 tee pipe="$logs/pipe"
  if [[ "$dry" == yes ]]; then
    on_workers all "$1" show
    return
  fi
  rm -f "$pipe" "$logs/taken"
  mkfifo "$pipe"
  tee -a "$log" <"$pipe" &
  tee=$!
  set -m # each of the next two in a process group of its own, to be ended whole
  on_workers all "$1" run >"$pipe" 2>&1 &
  ssh=$!
  # A pod may be taken away without its ssh noticing.
  (while sleep "$poll_s"; do
    if now="$(pod)" && gone "$now"; then
      touch "$logs/taken"
      kill -- "-$ssh" && break
    fi
  done) >/dev/null 2>&1 3>&- &
  watch=$!
  set +m
  wait "$ssh" || code=$?
  kill -- "-$watch" 2>/dev/null || true
  ssh='' watch=''
  wait "$tee" || true
  [[ ! -e "$logs/taken" ]] || code="$LOST"
  return "$code"
}

stopped() {
  for group in $ssh $watch; do kill -- "-$group" 2>/dev/null || true; done
  [[ "$there" == yes ]] || die "stopped before anything was asked for" 130
  die "stopped. $name stands, and what runs on it goes on; the same command attaches to it, $undo gives it back" 130
}

# Why it ended, from its code and its pod: done, again (a new attempt), attach (the same), failed.
verdict() {
  local until=$((SECONDS + grace_s)) now
  if [[ "$1" == 0 ]]; then
    echo "done"
  elif [[ "$1" == "$SAVED" ]] || grep -q "exit code $SAVED\$" "$log" 2>/dev/null; then
    echo again
  else
    # Workers fail because another one was taken away, and the service says so a little later.
    while true; do
      now="$(pod)" || exit 1
      if [[ "$now" != "ACTIVE READY" ]]; then echo again && return; fi
      if [[ "$1" == "$LOST" ]]; then echo attach && return; fi
      if [[ "$SECONDS" -ge "$until" ]]; then echo failed && return; fi
      sleep "$poll_s"
    done
  fi
}

repeat=(gcloud storage rsync --recursive --exclude='checkpoints/.*' "$out" "$fetch_to")
if [[ "$out" != gs://* ]]; then
  folder="$([[ "$out" == /* ]] || echo pruner_jax/)$out"
  repeat=("${tpus[@]}" tpu-vm scp --recurse "$name:$folder" "$fetch_to" "${where[@]}" --worker=0 "${scp_flags[@]}")
fi
fetch() {
  if [[ "$out" == gs://* ]]; then
    run "${repeat[@]}"
    return
  fi
  on_workers 0 "tar -C pruner_jax -C $(printf %q "$out") --exclude=./checkpoints -czf results.tgz ." run &&
    copy "$name:results.tgz" "$logs/results.tgz" 0 &&
    run tar -xzf "$logs/results.tgz" -C "$fetch_to"
}

finish() { # finish CODE WORDS: results here, the pod given back or kept, the end
  if ! fetch; then
    say "the results could not be fetched from $out; once more:$(printf ' %q' "${repeat[@]}")"
    if [[ "$out" != gs://* ]]; then at_end=keep; fi
    [[ "$1" != 0 ]] || set -- 1 "the run is done, but its results are not here"
  fi
  if [[ "$at_end" == keep ]]; then
    say "$2; $name is kept and costs money until $undo; logs and results: $fetch_to"
  elif remove; then
    say "$2; $name is deleted; logs and results: $fetch_to"
  else
    die "$2; logs and results: $fetch_to" $(($1 ? $1 : 1))
  fi
  exit "$1"
}

# -- the run ---------------------------------------------------------------------------------------

run mkdir -p "$logs"
# Without what was fetched before, should git not ignore it; a file that was deleted is no failure.
others='.'
if [[ "$fetch_to" != /* && "$fetch_to" != ..* ]]; then others=". $(printf %q ":(exclude)$fetch_to")"; fi
run bash -o pipefail -c "git ls-files -z --cached --others --exclude-standard -- $others | tar --ignore-failed-read -czf $(printf %q "$archive") --null -T -"
start="${ATTEMPT:-$(date +%Y%m%d-%H%M%S)}" number=1 used=0 pause="$backoff_s" ssh='' watch='' failure='' same=0
trap stopped INT TERM
while true; do
  log="$logs/$start-$number.log"
  ready
  code=0
  if [[ "$dry" == yes ]]; then install; else install 2>&1 | tee -a "$log" || code=$?; fi
  if [[ "$code" == 0 ]]; then
    program "bash pruner_jax/launch/tpu_worker.sh attempt $start-$number$command" || code=$?
  fi
  why="$(verdict "$code")"
  case "$why" in
    done) finish 0 "done" ;;
    failed) finish "$code" "the run failed with exit code $code, see $log" ;;
    again)
      number=$((number + 1))
      # What a worker ends with again and again on one pod is its own failure, which the others only follow.
      codes="$(sed -n 's/.*exit code \([0-9]*\)$/\1/p' "$log" | grep -vx -e 0 -e "$SAVED" | sort -u)" || true
      if [[ "$created $codes" == "$failure" ]]; then same=$((same + 1)); else same=1; fi
      failure="$created $codes"
      if [[ -n "$codes" && "$same" == 3 ]]; then
        finish "${codes%%$'\n'*}" "the run failed three times on the same pod with exit code ${codes//$'\n'/ and }, see $log"
      fi
      ;;
  esac
  if [[ "$used" -ge "$restarts" ]]; then
    [[ "$why" != attach ]] || at_end=keep # the program still runs there
    finish "$SAVED" "it was started $((used + 1)) times, of which the last ended with code $code ($why); the same command goes on"
  fi
  used=$((used + 1))
  say "start $((used + 1)) of at most $((restarts + 1)) in $pause seconds (exit code $code: $why)"
  sleep "$pause"
  pause=$((pause * 2 < 600 ? pause * 2 : 600))
done
