#!/usr/bin/env bash
# bench/gpu.sh from its first line to its last where there is no card: programs over the driver that is none
# (mock_cuda.c), a model of two layers, an nvidia-smi and a make that only answer. Nothing it measures means anything.
set -u
cd "$(dirname "$0")/../.." || exit 1
case ${DS4_BIN:=$PWD/build/release/bin} in
    */release/bin) ;;
    *) echo "SKIP gpu_script: it runs over release programs alone"; exit 77 ;;
esac
command -v python3 >/dev/null || { echo "SKIP gpu_script: python3 is not installed"; exit 77; }
mock=$(cd "$DS4_BIN/../mock" && pwd) || { echo "FAIL gpu_script: make tests builds $DS4_BIN/../mock"; exit 1; }
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# ok WHAT COMMAND...
ok() {
    local what=$1
    shift
    if "$@" >"$tmp/said" 2>&1; then passed=$((passed + 1)); return; fi
    failed=$((failed + 1))
    echo "FAIL gpu_script: $what: $(tail -n 3 "$tmp/said" | tr '\n' ' ')"
}
not() { ! "$@"; }

# ---- what the script finds ---------------------------------------------------------------

mkdir -p "$tmp/shim" "$tmp/built/bin" "$tmp/built/tests/gpu_host" "$tmp/built/tests/golden"
ln -s "$mock/bin/ds4" "$mock/bin/ds4-bench" "$DS4_BIN/ds4-gguf" "$tmp/built/bin/"
ln -s "$mock/tests/gpu_host/test_cuda_rows" "$tmp/built/tests/gpu_host/"
cat >"$tmp/shim/nvidia-smi" <<'SMI'
#!/bin/sh
# -i CARD --query-gpu=WHAT --format=HOW [-l SECONDS]: card 1 alone is there.
[ "$2" = 1 ] || { echo "No devices were found"; exit 6; }
case $3 in
    *=name) echo "NVIDIA H200" ;;
    *=compute_cap) echo 9.0 ;;
    *=timestamp,*) while :; do echo "2026/01/01 00:00:00, 321.50 W, 1980 MHz, 3201 MHz, 44, 97 %"; sleep 0.2; done ;;
    *) printf 'name, driver_version, memory.total [MiB], power.limit [W]\nNVIDIA H200, 580.1, 143771 MiB, 700.00 W\n' ;;
esac
SMI
cat >"$tmp/shim/make" <<'MAKE'
#!/bin/sh
echo "$* for $CUDA_ARCHS" >>"$MAKE_LOG"
[ "${2-}" != "${MAKE_FAILS-}" ]
MAKE
cat >"$tmp/shim/compute-sanitizer" <<'SANITIZER'
#!/bin/sh
# --tool KIND --error-exitcode N --print-limit N PROGRAM
echo "$2 $(basename "$7")" >>"$SANITIZER_LOG"
[ "$2" != "${SANITIZER_FAILS-}" ] || exit "$4"
exec "$7" -f rms_norm_in_floats
SANITIZER
# The golden vectors take minutes lane by lane.
cat >"$tmp/built/tests/golden/test_golden" <<'GOLDEN'
#!/bin/sh
[ "$1" = -f ] && [ "$DS4_TEST_DEVICE" = cuda ] && [ "$CUDA_VISIBLE_DEVICES" = 1 ] && echo "$2" | tee -a "$GOLDEN_LOG"
GOLDEN
chmod +x "$tmp"/shim/* "$tmp/built/tests/golden/test_golden"
export PATH=$tmp/shim:$PATH MAKE_LOG=$tmp/make.log SANITIZER_LOG=$tmp/sanitizer.log GOLDEN_LOG=$tmp/golden.log
export DIR=$tmp/dir RESULTS=$tmp/results DEVICE=1
# FAR is beyond what --fill fast computes.
export SHAPE=tiny LAYERS=2 CHUNK=32 NEAR=32 FAR=384 SESSIONS=2 TOKENS=4 RULES="-r 1 --warmup-max 0"
script() { env "$@" bench/gpu.sh >"$tmp/out" 2>"$tmp/err"; }

# ---- everything, with a model that is there already ---------------------------------------

model=$tmp/model.gguf
"$DS4_BIN/ds4-gguf" synth --shape tiny --mix q2 --alias-layers --layers 2 -q -o "$model"
before=$(cksum "$model")
script BUILT="$tmp/built" MODEL="$model"
status=$?
ok "status 0 when all is green: $(tail -n 1 "$tmp/err") $(grep -h ^FAIL "$tmp/dir/checks")" [ $status = 0 ]
ok "the model that was there stays" [ "$before" = "$(cksum "$model")" ]
times=$(cat "$tmp/err")
ok "no build where one is given" [ ! -e "$MAKE_LOG" ]
ok "nothing is left running" not pgrep -f "^/bin/sh $tmp/shim/nvidia-smi"
for name in test_cuda_rows golden-logits_agree golden-greedy_continuations check-tiny greedy-tiny check-full-shape \
            greedy-calm decode prefill sessions; do
    ok "$name is green" grep -q "^pass	$name	." "$tmp/dir/checks"
done
ok "the kernel test ran on the card" grep -q "^on Mock H200" "$tmp/dir/test_cuda_rows.log"
ok "tokens of card and processor" grep -q "^4 tokens are equal" "$tmp/dir/greedy-calm.log"
ok "the calm file is gone" [ ! -e "$tmp/dir/flash-calm.gguf" ]
while read -r part; do
    ok "golden has $part" sh -c "'$DS4_BIN/../tests/golden/test_golden' -l | grep -q '$part'"
done <"$GOLDEN_LOG"
md=$(echo "$tmp"/results/h200-*.md) json=$(echo "$tmp"/results/h200-*.json)
ok "the table is marked" grep -q "NOT THE FULL SHAPE AND SIZES.*layers 2" "$md"
ok "every row is measured" not grep -q "not measured" "$md"
ok "the table is printed" cmp -s "$md" "$tmp/out"
ok "the record" python3 - "$json" <<'CHECK'
import json, sys
r = json.load(open(sys.argv[1]))
assert r['card']['name'] == 'NVIDIA H200' and r['watts_median'] == 321.5 and r['load_s'] > 0, r['card']
assert r['sizes'] == dict(shape='tiny', layers=2, chunk=32, near=32, far=384, sessions=2), r['sizes']
assert len(r['table']) == 5 and len(r['checks']) == 10, r['checks']
assert r['warnings'] == [], r['warnings']
speed = r['speed']
assert [len(speed[k]) for k in ('decode', 'prefill', 'sessions')] == [3, 1, 1]
for s in (s for k in speed.values() for s in k):
    assert s['machine']['gpu'] == 'Mock H200' and s['mem']['gpu_peak'] > 0 and s['read_GBps']['n'] > 0, s
    assert s['model']['backend'].startswith('cuda') and s['cell']['params']['fill'] == 'fast'
CHECK

# The sentences of cuda_record.c and cuda_driver_work.c.
for n in 1 2; do
    echo "ds4-bench: cuda (H200): steps of 1 rows are slower than they could be, since they can not be recorded: x" >>"$tmp/dir/decode.log"
    echo "ds4-bench: cuda: letting kernels begin early in recordings: error 400; ..." >>"$tmp/dir/sessions.log"
done
for sentence in "can not be recorded: " "letting kernels begin early"; do
    ok "the program says: $sentence" grep -q "$sentence" src/kernels/cuda/cuda_record.c src/kernels/cuda/cuda_driver_work.c
done
python3 bench/gpu_table.py table --dir "$tmp/dir" --json "$tmp/again.json" --md "$tmp/again.md" --shape tiny --layers 2 \
    --chunk 32 --near 32 --far 384 --sessions 2 --seconds 1 --commit x
ok "what a driver refused stands in the table, once" [ "$(grep -c '^- ds4-bench: ' "$tmp/again.md")" = 2 ]

# ---- what a program says of itself ------------------------------------------------------------

ok "kernels are named" sh -c "'$mock/bin/ds4' --version | grep -q 'cpu, cuda (kernels for 90a)'"
ok "the plan of a card" sh -c "'$mock/bin/ds4' --inspect -m '$model' | grep -q 'on Mock H200, 128.0 MiB available' &&
    '$mock/bin/ds4' -m '$model' -c 64 -p a -n 1 2>&1 |
        grep -q 'memory of Mock H200: weights .*, KV .* for 64 tokens, work space .* available; contexts up to [0-9]* tokens fit'"
"$mock/bin/ds4" -m "$model" --backend cuda -c 16000000 -p a -n 1 >"$tmp/out" 2>"$tmp/err"
ok "a context that is too long for the card ends with 4" [ $? = 4 ]
ok "and the longest is told" grep -q "GiB can be had.*the largest context that fits is [0-9]* tokens" "$tmp/err"
ok "and none where there are none" not sh -c "'$DS4_BIN/ds4' --version | grep -q cuda"

# ---- a token taken apart ---------------------------------------------------------------------

"$mock/bin/ds4-bench" speed -m "$model" --backend cuda --classes -p 0 -n 1 -d 0 -r 1 --warmup-max 0 >"$tmp/out" 2>"$tmp/err"
ok "--classes on a card: $(tail -n 1 "$tmp/err")" grep -q "^  experts and router  *[0-9]" "$tmp/out"
ok "experts that the card chose" grep -q "^  [1-9][0-9.]* distinct experts" "$tmp/out"
ok "what a wait costs is said" grep -q "the device is waited for after every operation" "$tmp/out"

# ---- what can be missing -------------------------------------------------------------------

script DEVICE=7
ok "no such card" [ $? = 1 ]
ok "and that is said" grep -q "card 7 is not there" "$tmp/err"
script MAKE_FAILS=cuda-tests
ok "a build that fails" [ $? = 1 ]
ok "says where to look" grep -q "the build failed, see $tmp/dir/build.log" "$tmp/err"
ok "both builds, for this card alone" [ "$(grep -c 'cuda.* for 90a$' "$MAKE_LOG")" = 2 ]
mkdir -p "$tmp/empty"
script BUILT="$tmp/empty" MODEL="$model"
ok "programs that are not there" [ $? = 1 ]
ok "do not start" grep -q "$tmp/empty/bin/ds4 does not start here: .*not found" "$tmp/err"
ln -s "$tmp/built/bin" "$tmp/empty/bin"
script BUILT="$tmp/empty" MODEL="$model"
ok "tests that are not there" [ $? = 1 ]
ok "are named" grep -q "there are no kernel tests in $tmp/empty" "$tmp/err"

# ---- as a bundle, and out of time ----------------------------------------------------------

mkdir -p "$tmp/built/lib" "$tmp/kept"
printf '#!/bin/sh\necho "the card, with $LD_LIBRARY_PATH"\n' >"$tmp/card"
chmod +x "$tmp/card"
(cd "$tmp/built" && tar -chf "$tmp/bundle.tar" bin tests lib && tar -rf "$tmp/bundle.tar" -C "$tmp" --transform 's,^,bin/,' card)
script BUILT="$tmp/bundle.tar" MODEL="$model" LOGS="$tmp/kept" RESULTS="$tmp/kept" SECONDS_MOST=0
ok "rows that were not begun are red" [ $? = 1 ]
ok "libraries come along: $(head -n 3 "$tmp/err" | tail -n 1)" grep -q "the card, with $tmp/dir/built/lib" "$tmp/err"
ok "each says why" [ "$(grep -c "^FAIL.*not begun: the 0 seconds are over" "$tmp/kept/checks")" = 10 ]
ok "the table is written all the same" grep -q "not measured" "$tmp"/kept/h200-*.md
ok "what is kept lies together" [ -f "$tmp/kept/decode.log" ]

# ---- sanitize -------------------------------------------------------------------------------

BUILT=$tmp/built bench/gpu.sh sanitize >"$tmp/out" 2>"$tmp/err"
status=$?
ok "a clean run: $(tail -n 1 "$tmp/err")" [ $status = 0 ]
ok "memcheck, then racecheck" [ "$(tr '\n' ' ' <"$SANITIZER_LOG")" = "memcheck test_cuda_rows racecheck test_cuda_rows " ]
SANITIZER_FAILS=initcheck BUILT=$tmp/built bench/gpu.sh sanitize synccheck initcheck >"$tmp/out" 2>"$tmp/err"
ok "a kind that finds something" [ $? = 1 ]
ok "is named" grep -q "FAIL initcheck-test_cuda_rows" "$tmp/err"
ok "one that finds nothing too" grep -q "pass synccheck-test_cuda_rows" "$tmp/err"

[ $failed = 0 ] || echo "$times"
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
