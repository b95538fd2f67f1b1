#!/usr/bin/env bash
# Runs the kernels' tests on this machine's card.
#
#   tools/test_cuda.sh build/release/cuda/tests/gpu_host      what `make cuda-tests` builds
#
# Status 0 passed, 1 failed, 77 there is no card (the first line says why).
set -u
programs=${1:?usage: tools/test_cuda.sh FOLDER}
"$programs/card" || exit 77
failed=0
for program in "$programs"/test_cuda_*; do
    [ -x "$program" ] || continue
    printf '%s: ' "$(basename "$program")"
    DS4_TEST_DEVICE=cuda timeout -k 10 300 "$program" >"$programs/out" 2>&1 </dev/null || failed=1
    tail -n 1 "$programs/out"
    grep -aE '^(FAIL|SKIP|CRASH)' "$programs/out" | cut -c 1-400 | sed 's/^/    /'
done
exit $failed
