#!/usr/bin/env bash
# One machine with NVIDIA GPUs (driver installed; CUDA itself comes with the packages).
#
#   launch/gpu.sh configs/thinkprune_r1_distill_qwen_1p5b.yaml [--setting=value ...]
#   launch/gpu.sh --dry-run configs/thinkprune_r1_distill_qwen_1p5b.yaml   # print the commands only
#
# launch/local.sh with JAX for CUDA; see there for what it does. EXTRA=cuda12 is for drivers before 580.
#
# JAX takes three quarters of a GPU's memory; here it takes more, for nothing else runs on it. The rest is for
# what CUDA's libraries take themselves (XLA_PYTHON_CLIENT_MEM_FRACTION, 0.92).
#
# Bit-identical repetitions of a run need XLA_FLAGS=--xla_gpu_deterministic_ops=true, which costs speed.

set -euo pipefail

if [[ "${1:-}" == -h || "${1:-}" == --help ]]; then
  sed -n '2,/^$/{s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit
fi
EXTRA="${EXTRA:-cuda}" exec "$(dirname "${BASH_SOURCE[0]}")/local.sh" "$@"
