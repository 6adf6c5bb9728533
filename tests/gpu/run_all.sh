#!/bin/sh
# The tests of this folder and jobs/bench_gpu.py on a machine with a GPU; from the repository root, without Ray.
# WHEELS names a folder of wheels to put in front of the machine's packages, such as a newer transformers and pydantic.
# Prints a summary of at most 150 lines; ends with the status of the tests.
PYTHON=${PYTHON:-python3}
PYTHONPATH=.${PYTHONPATH:+:$PYTHONPATH}
if [ -n "$WHEELS" ]; then
    front=$(mktemp -d)
    "$PYTHON" -m pip install -q --no-index --no-deps --target "$front" "$WHEELS"/*.whl 2>&1 | tail -n 2
    PYTHONPATH=$front:$PYTHONPATH
fi
HF_HUB_OFFLINE=1
export PYTHONPATH HF_HUB_OFFLINE
log=$(mktemp)
timeout 270 "$PYTHON" -m pytest -m gpu --confcutdir=tests/gpu --tb=short -ra --maxfail=40 tests/gpu >"$log" 2>&1
status=$?
grep -E '^(E  |FAILED|ERROR|SKIPPED|tests/gpu.*(Error|Failed))|passed|failed|skipped|s call' "$log" | cut -c1-220 | tail -n 105
timeout 260 "$PYTHON" jobs/bench_gpu.py "$@" 2>&1 | grep -v Warning | tail -n 38
echo "tests ended with $status"
exit $status
