#!/usr/bin/env bash
# Every kernel file compiles for a Hopper card without a warning, and no kernel spills registers. What cuda_api.h
# states of the driver is what the toolkit's cuda.h says of it.
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

compile() {     # FILE: leaves what nvcc says in a log, its status in the log's last line, and the PTX beside it
    local name log work
    name=$(basename "$1" .cu)
    log=$logs/$name.log work=$logs/$name.kept
    if [ "$log" -nt "$1" ] && [ "$log" -nt "$newest" ] && [ -s "$logs/$name.ptx" ]; then return; fi
    rm -rf "$work" "$logs/$name.ptx"
    mkdir "$work"
    "$nvcc" -std=c++17 -O3 -Iinclude -Isrc -Werror all-warnings -Xptxas -v -gencode arch=compute_90a,code=sm_90a \
        --keep --keep-dir "$work" -cubin -o "$work/$name.cubin" "$1" >"$log.new" 2>&1
    echo "status $?" >>"$log.new"
    mv "$work/$name.ptx" "$logs/" && rm -rf "$work"
    mv "$log.new" "$log"
}
export -f compile
printf '%s\n' src/kernels/cuda/*.cu | xargs -P "$(getconf _NPROCESSORS_ONLN)" -I{} bash -c 'compile {}'

passed=0 failed=0 skipped=0
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

# ---- cuda_api.h ---------------------------------------------------------------------------

count() { if [ "$2" = 0 ]; then passed=$((passed + 1)); else echo "FAIL $1"; failed=$((failed + 1)); fi; }
check=tests/gpu_host/cuda_header_check.cpp header=
for candidate in "$(dirname "$nvcc")"/../include "$(dirname "$nvcc")"/../targets/*/include /usr/include; do
    [ -z "$header" ] && [ -f "$candidate/cuda.h" ] && header=$candidate
done
version=$(sed -n 's/^#define CUDA_VERSION \([0-9]*\)$/\1/p' "${header:-/nowhere}/cuda.h" 2>/dev/null)
if [ "${version:-0}" -lt 12080 ]; then
    echo "SKIP cuda_header_check: ${header:+cuda.h of version $version in $header; }no cuda.h of 12.8 or later beside $nvcc"
    skipped=1
else
    compared() { ${CXX:-c++} -std=c++17 -fsyntax-only -DMISTAKE="$1" -isystem "$header" -Iinclude -Isrc $check >"$logs/header.log" 2>&1; }
    compared 0
    status=$?
    count "cuda_api.h: $(grep -m 1 error "$logs/header.log")" $status
    for mistake in 1 2 3 4 5; do
        ! compared $mistake && grep -q 'static assertion\|static_assert' "$logs/header.log"
        count "$check: mistake $mistake goes unnoticed" $?
    done
    missing=
    for number in $(grep -oE '\bCU_[A-Z0-9_]+ =' src/kernels/cuda/cuda_api.h | sed 's/ =//'); do
        grep -qE "\(${number#CU_}\)|\b$number\b" $check || missing="$missing $number"
    done
    [ -z "$missing" ]
    count "$check: does not compare$missing" $?
fi
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
