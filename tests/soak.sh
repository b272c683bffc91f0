#!/bin/sh
# The long runs behind `make soak`: thousands of kills, with a new seed each
# round, until the time is up. Prints what failed and how to repeat it.
#
#   RINGFENCE_BIN=target/release/ringfence tests/soak.sh [HOURS]
#
# RINGFENCE_KILLS (default 500) is the number of kills a round.
set -eu
here=$(dirname "$0")
python=${PYTHON:-$here/../.venv/bin/python}
hours=${1:-2}
kills=${RINGFENCE_KILLS:-500}
end=$(($(date +%s) + hours * 3600))
round=0
total=0
while [ "$(date +%s)" -lt "$end" ]; do
    round=$((round + 1))
    seed=${RINGFENCE_SEED:-$(date +%s)}
    echo "soak: round $round, $kills kills, seed $seed"
    if ! RINGFENCE_KILLS=$kills RINGFENCE_SEED=$seed "$python" -m pytest -q -x "$here/test_crash.py" -k "killed or kill"; then
        echo "soak: FAILED in round $round after $total kills; repeat with RINGFENCE_KILLS=$kills RINGFENCE_SEED=$seed" >&2
        exit 1
    fi
    total=$((total + kills))
done
echo "soak: passed, $total kills in $round rounds, $(date -u +%Y-%m-%d)"
