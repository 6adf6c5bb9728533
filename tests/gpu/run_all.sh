#!/bin/sh
# The tests of this folder and jobs/bench_gpu.py on a machine with a GPU; from the repository root, without Ray.
# Prints a summary of at most 150 lines; ends with the status of the tests.
PYTHON=${PYTHON:-python3}
PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1
export PYTHONPATH HF_HUB_OFFLINE
log=$(mktemp)
timeout 270 "$PYTHON" -m pytest -m gpu --confcutdir=tests/gpu --tb=short -ra --maxfail=40 tests/gpu >"$log" 2>&1
status=$?
grep -E '^(E  |FAILED|ERROR|SKIPPED|tests/gpu.*(Error|Failed))|passed|failed|skipped|s call' "$log" | cut -c1-220 | tail -n 110
timeout 260 "$PYTHON" jobs/bench_gpu.py "$@" 2>&1 | grep -v Warning | tail -n 38
echo "tests ended with $status"
exit $status
