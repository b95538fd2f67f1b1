#!/usr/bin/env bash
# The kernels as nvcc compiled them for a Hopper card, run by the executor of PTX (ptx_run.h) in place of the lanes:
# it understands every kernel, ops of every family agree with their scalar definitions, and wrong PTX is noticed.
# The PTX is what test_cuda_compile.sh leaves behind. Without arguments a choice of tests that takes seconds;
# PROGRAM...: all tests of these, for instance bash tests/gpu_host/test_cuda_ptx.sh test_cuda_experts test_cuda_golden.
set -u
cd "$(dirname "$0")/../.." || exit 1
bin=${DS4_BIN:-build/release/bin}
ptx=$bin/../cuda/check tests=$bin/../tests/gpu_host
case $bin in
    */tsan/bin) echo "SKIP cuda_ptx: one thread runs it, and nothing here is for a race detector"; exit 77 ;;
esac
said=$(bash tests/gpu_host/test_cuda_compile.sh)
case $said in
    SKIP*no\ nvcc*) echo "SKIP cuda_ptx: no nvcc in CUDA_HOME, on PATH or in /usr/local/cuda"; exit 77 ;;
esac
ptx=$(cd "$ptx" && pwd) || exit 1
mutant=$(mktemp -d)
trap 'rm -rf "$mutant"' EXIT
passed=0 failed=0

# over FOLDER PROGRAM [NAME]: the program's tests whose names contain NAME, over the folder's PTX
over() { DS4_TEST_DEVICE=ptx DS4_TEST_PTX=$1 "$tests/$2" ${3:+-f "$3"} 2>&1; }

agree() {       # PROGRAM [NAME]
    local out p f s
    out=$(over "$ptx" "$@")
    read -r p _ f _ s _ <<<"$(tail -n 1 <<<"$out" | grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$')"
    if [ "${f:-1}" = 0 ] && [ "${p:-0}" -gt 0 ]; then passed=$((passed + p)); return; fi
    failed=$((failed + 1))
    echo "FAIL cuda_ptx: $*: $(grep -aE -m 2 '^(FAIL|ptx:|CRASH)' <<<"$out" | tr '\n' ' ' | cut -c 1-400)"
}

# wrong FILE SED PROGRAM NAME: after this change of the PTX some test must fail, and without it none does
wrong() {
    rm -f "$mutant"/*
    ln -s "$ptx"/*.ptx "$mutant/"
    rm "$mutant/$1"
    sed -E "$2" "$ptx/$1" >"$mutant/$1"
    if [ "$(ls "$mutant" | wc -l)" != "$(ls "$ptx"/*.ptx | wc -l)" ]; then
        echo "FAIL cuda_ptx: $mutant has other files than $ptx"
    elif cmp -s "$ptx/$1" "$mutant/$1"; then
        echo "FAIL cuda_ptx: $1 has nothing that $2 would change"
    elif (over "$mutant" "$3" "$4") >/dev/null 2>&1; then
        echo "FAIL cuda_ptx: $2 in $1 goes unnoticed by $3 -f $4"
    else
        passed=$((passed + 1))
        return
    fi
    failed=$((failed + 1))
}

if [ $# != 0 ]; then
    for program in "$@"; do agree "$program"; done
    echo "$passed passed, $failed failed, 0 skipped"
    exit $((failed != 0))
fi

agree test_ptx every_kernel
agree test_cuda_rows
agree test_cuda_matmul
agree test_cuda_indexer
agree test_cuda_kv
agree test_cuda_head
agree test_cuda_prefill every_order
case $bin in        # a sanitizer watches addresses; the rest takes minutes there
    */asan/bin) echo "$passed passed, $failed failed, 0 skipped"; exit $((failed != 0)) ;;
esac
agree test_cuda_attention definition
agree test_cuda_prefill definition
agree test_cuda_experts ragged
agree test_cuda_experts choose_alike
agree test_cuda_experts router
agree test_cuda_memory
agree test_cuda_step
agree test_cuda_record

# Two registers of a fragment in the other order; a matrix row further on; no barriers; copies nobody waits for;
# another argument; a sum that is subtracted; an instruction that nobody knows.
wrong prefill.ptx 's/(mma.*s32 \{[^}]*\}, \{)(%r[0-9]+),(%r[0-9]+),/\1\3,\2,/' test_cuda_prefill every_order
wrong attention_units.ptx 's/(ldmatrix.*\[%r[0-9]+)\]/\1+16]/' test_cuda_attention heads_of_512
wrong rows.ptx 's/bar.sync.*;//' test_cuda_rows rms_norm_agrees
wrong experts.ptx 's/bar.warp.sync.*;//' test_cuda_experts pairs_are_grouped
wrong rows.ptx 's/griddepcontrol.wait;//' test_cuda_rows rms_norm_agrees
wrong prefill.ptx 's/cp.async.wait_group 0/cp.async.wait_group 7/' test_cuda_prefill every_order
wrong kv.ptx 's/(kv_write_param_0\+)8\]/\116]/' test_cuda_kv stored_rows
wrong matmul_q8.ptx 's/add.f32/sub.f32/' test_cuda_matmul groups_with
wrong matmul_codes.ptx 's/cvt.rn.f16.f32/cvt.rz.f16.f32/' test_ptx every_kernel
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
