#!/usr/bin/env bash
# All that needs a GPU, in at most 8 minutes: the tests marked gpu, then the tables of benchmarks/results.md.
#   benchmarks/gpu.sh [OUT.md]     PYTHON=... an interpreter with the project's dependencies, and any torch for CUDA
# Nothing outside the machine is asked for. What runs over its time is cut off, and said.
set -u
cd "$(dirname "$0")/.."
OUT="${1:-benchmarks/gpu.md}"
PYTHON="${PYTHON:-.venv/bin/python}"
export PYTHONUNBUFFERED=1
: >"$OUT"

part() { # SECONDS TITLE COMMAND...
    local seconds="$1" title="$2"
    shift 2
    printf '\n## %s\n\n`%s`\n\n' "$title" "$*" | tee -a "$OUT"
    timeout "$seconds" "$PYTHON" "$@" 2>&1 | tee -a "$OUT"
    local code="${PIPESTATUS[0]}"
    [ "$code" -eq 0 ] || printf '\n(ended with %s%s)\n' "$code" "$([ "$code" -eq 124 ] && echo ': out of time')" | tee -a "$OUT"
}

part 90 "Tests on the GPU" -m pytest -q -m gpu tests/unit tests/golden
part 60 "What everything but the network allows" -m benchmarks.evaluation --variants null --batches 1 8 32 --devices cuda
part 90 "Evaluation" -m benchmarks.evaluation --variants vit_b --batches 1 32 --devices cuda
part 130 "Training steps" -m benchmarks.training --variants vit_b vit_h --precisions bf16 bf16+compile --steps 5
part 60 "Memory of an ICL step" benchmarks/icl_memory.py --variant base --batch 32
part 50 "A training job" -m benchmarks.training --job --variants vit_b --precisions bf16
