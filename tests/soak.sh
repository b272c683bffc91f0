#!/bin/sh
# The long runs behind `make soak`: thousands of kills and simulated histories,
# with new seeds each round, until the time is up. Prints what failed and how to
# repeat it.
#
#   RINGFENCE_BIN=target/release/ringfence RINGFENCE_SIM=target/release/ringfence-sim tests/soak.sh [HOURS]
#
# RINGFENCE_KILLS (default 500) is the number of kills a round, RINGFENCE_SIM_S
# (default 600) the seconds of simulation.
set -eu
here=$(dirname "$0")
python=${PYTHON:-$here/../.venv/bin/python}
hours=${1:-2}
kills=${RINGFENCE_KILLS:-500}
sim=${RINGFENCE_SIM:-$(dirname "${RINGFENCE_BIN:?}")/ringfence-sim}
sim_s=${RINGFENCE_SIM_S:-600}
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
    # It prints each seed, and with a failure what was done before it.
    if ! "$sim" --steps 2000 --time "$sim_s"; then
        echo "soak: FAILED in round $round: see the seed above" >&2
        exit 1
    fi
done
echo "soak: passed, $total kills in $round rounds, $(date -u +%Y-%m-%d)"
