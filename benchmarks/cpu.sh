#!/usr/bin/env bash
# All benchmarks that need no GPU, in less than 15 minutes on two cores: writes benchmarks/cpu.md anew (`make bench`).
# The machine should do nothing else meanwhile. The texts of benchmarks/results.md say what the figures mean.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
export PYTHONUNBUFFERED=1
NEW="$(mktemp)"
trap 'rm -f "$NEW" "$NEW.said"' EXIT
echo "# Figures of a CPU, written by \`make bench\`" >"$NEW"

part() { # TITLE COMMAND...
    printf '\n## %s\n\n`python %s`\n\n' "$1" "${*:2}" >>"$NEW"
    echo "$1 ..." >&2
    "$PYTHON" "${@:2}" 2>"$NEW.said" | grep -v "^prepare \|^training: \|^device: " >>"$NEW" || {
        tail -n 3 "$NEW.said" >&2
        exit 1
    }
}

part "Start-up" -m benchmarks.startup --rounds 2
part "Conversion" -m benchmarks.conversion
part "Stream" -m benchmarks.stream
part "Evaluation by batch size" -m benchmarks.evaluation --variants null tiny vit_b --batches 1 8 32 --devices cpu
part "Memory of an ICL step" benchmarks/icl_memory.py --variant tiny --batch 16
part "Two runs on one machine" -m benchmarks.neighbours
mv "$NEW" benchmarks/cpu.md
chmod 644 benchmarks/cpu.md
