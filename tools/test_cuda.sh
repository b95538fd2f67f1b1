#!/usr/bin/env bash
# Runs the kernels' tests on this machine's card.
#
#   tools/test_cuda.sh build/release/cuda      what `make cuda-tests` builds
#
# Status 0 passed, 1 failed, 77 there is no card (the first line says why).
set -u
build=${1:?usage: tools/test_cuda.sh FOLDER}
programs=$build/tests/gpu_host
"$build/bin/card" || exit 77
failed=0
for program in "$programs"/test_cuda_*; do
    [ -x "$program" ] || continue
    printf '%s: ' "$(basename "$program")"
    DS4_TEST_DEVICE=cuda timeout -k 10 300 "$program" >"$build/out" 2>&1 </dev/null || failed=1
    tail -n 1 "$build/out"
    grep -aE '^(FAIL|SKIP|CRASH)' "$build/out" | cut -c 1-400 | sed 's/^/    /'
done
exit $failed
