#!/usr/bin/env bash
# Every kernel file compiles for a Hopper card without a warning, and no kernel spills registers.
# Needs nvcc (PATH, CUDA_HOME, /usr/local/cuda); a file is compiled again when it or a header is newer.
set -u
cd "$(dirname "$0")/../.." || exit 1
nvcc=
for candidate in "${CUDA_HOME:-/nowhere}/bin/nvcc" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc; do
    [ -z "$nvcc" ] && [ -x "$candidate" ] && nvcc=$candidate
done
if [ -z "$nvcc" ]; then
    echo "SKIP cuda_compile: no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
logs=${DS4_BIN:-build/release/bin}/../cuda/check
mkdir -p "$logs" || exit 1
newest=$(find src/kernels src/quant include -name '*.h' -o -name '*.cuh' | xargs ls -t | head -n 1)
export nvcc logs newest

compile() {     # FILE: leaves what nvcc says in a log, and its status in the log's last line
    local log=$logs/$(basename "$1" .cu).log
    if [ "$log" -nt "$1" ] && [ "$log" -nt "$newest" ]; then return; fi
    "$nvcc" -std=c++17 -O3 -Iinclude -Isrc -Werror all-warnings -Xptxas -v -gencode arch=compute_90a,code=sm_90a \
        -cubin -o /dev/null "$1" >"$log.new" 2>&1
    echo "status $?" >>"$log.new"
    mv "$log.new" "$log"
}
export -f compile
printf '%s\n' src/kernels/cuda/*.cu | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} bash -c 'compile {}'

passed=0 failed=0
for source in src/kernels/cuda/*.cu; do
    log=$logs/$(basename "$source" .cu).log
    spills=$(awk '/Function properties for/ { name = $NF } / spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ { printf " %s", name }' "$log")
    if [ "$(tail -n 1 "$log")" != "status 0" ]; then
        echo "FAIL $source: $(grep -m 1 -E 'error|warning' "$log")"
        rm -f "$log"
        failed=$((failed + 1))
    elif [ -n "$spills" ]; then
        echo "FAIL $source: registers are spilled in$spills"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
