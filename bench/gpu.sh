#!/bin/sh
# Measures a CUDA card in one go: builds for it, runs the kernel tests, the golden vectors and check:cuda
# on it, compares greedy tokens with the CPU's, and fills the table of docs/backend-cuda.md on the full
# shape. Exits 0 when every row of checks is green; the table is written before the slow checks and again
# after them.
#
#   bench/gpu.sh                      everything
#   bench/gpu.sh sanitize [KIND...]   the kernel tests under compute-sanitizer instead: memcheck and racecheck,
#                                     or the kinds that are named (initcheck, synccheck)
#
#   MODEL=FILE     the q2 file of the full shape (made in $DIR where there is none)
#   DIR=FOLDER     for files and logs (build/gpu); 20 GB
#   LAYERS=N       only the first layers of the shape, for a card or a disk that is small; the table is then
#                  marked as such
#   DEVICE=N       which card, as nvidia-smi counts (0)
#   BUILT=FOLDER   programs and tests that are there already (FOLDER/bin, FOLDER/tests; shared libraries in
#                  FOLDER/lib), instead of a build; or the archive that `make cuda-bundle` makes of them
#   RESULTS=FOLDER for the table (bench/results)
#   LOGS=FOLDER    for what each part says ($DIR)
#   SECONDS_MOST=N after which nothing new is begun and what runs is ended, so that the table is written (530)
#
# A machine that has a card, but nothing to build with and no way to get it:
#   make cuda-bundle CUDA_ARCHS=90a                                    elsewhere: build/release/cuda/bundle.tar.xz
#   BUILT=bundle.tar.xz LOGS=kept RESULTS=kept bench/gpu.sh            there, in a copy of this tree
#
# Smaller sizes, for a rehearsal; the table is then marked too:
#   SHAPE=flash  CHUNK=4096  NEAR=2048  FAR=65536  SESSIONS=16  TOKENS=64  RULES="--budget 15"
#
# Predicted seconds on an H200 with 16 cores, nothing there yet (nothing of it was measured): build 100; kernel tests
# and golden 60, beside the files of the full shape, 120; check-tiny and greedy-tiny 10; the table 140, of which
# three uploads of 81 GB are 60; check-full-shape 60; greedy-calm 60. Together 490; with BUILT and MODEL 300.
set -u
cd "$(dirname "$0")/.." || exit 1
begin=$(date +%s)
dir=${DIR:-build/gpu}
logs=${LOGS:-$dir}
most=${SECONDS_MOST:-530}
device=${DEVICE:-0}
built=${BUILT:-build/release/cuda}
results=${RESULTS:-bench/results}
chunk=${CHUNK:-4096} near=${NEAR:-2048} far=${FAR:-65536} sessions=${SESSIONS:-16} tokens=${TOKENS:-64}
rules=${RULES:---budget 15}
shape="--shape ${SHAPE:-flash} --mix q2 --alias-layers${LAYERS:+ --layers $LAYERS}"
jobs=$(getconf _NPROCESSORS_ONLN)
synth='' smi=''
mkdir -p "$dir" "$results" "$logs" || exit 1
rm -f "$logs"/*.log "$logs"/*.json "$logs"/*.csv "$logs/checks"
trap 'kill $synth $smi 2>/dev/null' EXIT
trap 'exit 130' INT TERM

say() { printf 'gpu.sh %4d s: %s\n' $(($(date +%s) - begin)) "$*" >&2; }
die() { say "$*"; exit 1; }

# check NAME COMMAND...: one row of checks; its output is kept in $logs/NAME.log
check() {
    name=$1
    shift
    if "$@" >"$logs/$name.log" 2>&1; then result=pass; else result=FAIL; fi
    last=$(tail -n 1 "$logs/$name.log" | tr '\t' ' ' | cut -c 1-160)
    printf '%s\t%s\t%s\n' "$result" "$name" "$last" >>"$logs/checks"
    say "$result $name: $last"
    [ $result = pass ]
}

# The kernel tests, four at a time: most of each is opening the card and the definitions on one core.
# kernel_tests PREFIX COMMAND...: COMMAND is what a test runs under
kernel_tests() {
    prefix=$1 n=0 pids=''
    shift
    for source in $(grep -l '"checked.h"' tests/gpu_host/test_cuda_*.c); do
        t=$built/tests/gpu_host/$(basename "$source" .c)
        [ -x "$t" ] || continue
        check "$prefix$(basename "$t")" "$@" "$t" &
        pids="$pids $!" n=$((n + 1))
        [ $((n % 4)) != 0 ] || { wait $pids; pids=''; }
    done
    [ -z "$pids" ] || wait $pids
    [ $n != 0 ] || die "there are no kernel tests in $built/tests/gpu_host"
}

PATH=$PATH:/usr/lib/wsl/lib:/usr/local/nvidia/bin       # where it lies where nobody installed it
command -v nvidia-smi >/dev/null || die "no nvidia-smi here: this measures a card of NVIDIA's"
ask() { nvidia-smi -i "$device" --query-gpu="$1" --format=csv,noheader; }
card=$(ask name) && capability=$(ask compute_cap | tr -d .) || die "card $device is not there"
[ "$capability" = 90 ] && capability=90a
say "card $device: $card, sm_$capability"
# From here on that card is the only one, and number 0.
export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES="$device"
export DS4_TEST_DEVICE=cuda CUDA_ARCHS="$capability"

if [ -z "${BUILT-}" ]; then
    say "building"
    { make -j"$jobs" cuda PROGRAMS="ds4 ds4-bench ds4-gguf" && make -j"$jobs" cuda-tests; } >"$logs/build.log" 2>&1 ||
        die "the build failed, see $logs/build.log; make cuda-bundle on another machine brings programs along:" \
            "$(grep -m 1 -iE 'error|not found' "$logs/build.log")"
elif [ -f "$built" ]; then
    rm -rf "$dir/built"
    python3 -m tarfile -e "$built" "$dir/built" || die "$built is no archive that can be unpacked"
    built=$dir/built
fi
[ ! -d "$built/lib" ] || export LD_LIBRARY_PATH="$built/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
for program in ds4 ds4-bench ds4-gguf; do
    said=$("$built/bin/$program" --version 2>&1) ||
        die "$built/bin/$program does not start here: $(echo "$said" | head -n 1)"
done
if [ -x "$built/bin/card" ]; then
    said=$("$built/bin/card") || die "$said"
    say "$said"
fi

left() { echo $((most - $(date +%s) + begin)); }
# A kernel that never ends costs one row and not the table.
within() {
    limit=$1
    shift
    [ "$(left)" -lt "$limit" ] && limit=$(left)
    [ "$limit" -gt 0 ] || { echo "not begun: the $most seconds are over" >&2; return 1; }
    timeout -k 5 "$limit" "$@"
}

# ---- compute-sanitizer ------------------------------------------------------------------

if [ "${1-}" = sanitize ]; then
    shift
    most=${SECONDS_MOST:-86400}
    tool=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
    [ -x "$tool" ] || die "compute-sanitizer is not installed; it comes with the CUDA toolkit"
    for kind in ${*:-memcheck racecheck}; do
        kernel_tests "$kind-" within 500 "$tool" --tool "$kind" --error-exitcode 9 --print-limit 20
    done
    ! grep -q '^FAIL' "$logs/checks"
    exit
fi

# ---- checks -----------------------------------------------------------------------------

model=${MODEL:-$dir/flash-q2.gguf}
calm=$dir/flash-calm.gguf
make_model() { [ -f "$1" ] || within "$most" "$built/bin/ds4-gguf" synth $shape $2 -q -o "$1"; }
(make_model "$model" "" && make_model "$calm" "--branch-gain 0.02") >"$logs/synth.log" 2>&1 &
synth=$!

kernel_tests '' within 120
for part in logits_agree greedy_continuations; do      # the others are of the CPU's paths
    check "golden-$part" within 120 "$built/tests/golden/test_golden" -f $part
done

prompt="Explain in a few sentences what a mixture of experts is."
# Greedy tokens into a file of --dump-logprobs.
greedy() { # file flags...
    file=$1
    shift
    within 120 "$built/bin/ds4" "$@" --nothink --temp 0 -n "$tokens" -p "$prompt" --dump-logprobs "$file" -q >/dev/null
}
same_tokens() { # model flags...
    greedy "$logs/cuda.json" --backend cuda -c 4096 -m "$@" && greedy "$logs/cpu.json" --backend cpu -c 4096 -m "$@" &&
        python3 bench/gpu_table.py same "$logs/cuda.json" "$logs/cpu.json"
}
checked() { within 200 "$built/bin/ds4" --backend check:cuda --nothink --temp 0 "$@"; }
# Exact: in the narrow rows of the tiny model one activation whose code falls the other way is more than the tolerance.
check check-tiny checked -m models/tiny/ds4-tiny.gguf --quality -n $((tokens / 4)) -p "$prompt"
check greedy-tiny same_tokens models/tiny/ds4-tiny.gguf --quality
say "waiting for the full-shape files"
wait $synth || [ -f "$model" ] || die "the files could not be made: $(tail -n 1 "$logs/synth.log")"
synth=''

# ---- the table --------------------------------------------------------------------------

cat "$model" >/dev/null                              # into the page cache
nvidia-smi -i "$device" --query-gpu=timestamp,power.draw,clocks.sm,clocks.mem,temperature.gpu,utilization.gpu \
    --format=csv,noheader -l 1 >"$logs/smi.csv" 2>/dev/null &
smi=$!
speed() {
    within 200 "$built/bin/ds4-bench" speed -m "$model" --backend cuda --prefill-chunk "$chunk" --fill fast $rules "$@"
}
check decode speed -p 0 -n "$tokens" -d "0,$near,$far" --jsonl "$logs/decode.json"
check prefill speed -p "$chunk" -n 0 -d 0 --jsonl "$logs/prefill.json"
check sessions speed -p 0 -n $((tokens / 2)) -d $((near / 4)) --sessions "$sessions" --jsonl "$logs/sessions.json"
kill $smi 2>/dev/null
smi=''

slug=$(echo "$card" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-' | sed 's/^nvidia-//')
out=$results/$slug-$(date -u +%Y-%m-%d)
nvidia-smi -i "$device" --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem \
    --format=csv >"$logs/card.csv"
table() {
    python3 bench/gpu_table.py table --dir "$logs" --json "$out.json" --md "$out.md" --shape "${SHAPE:-flash}" \
        --layers "${LAYERS:-43}" --chunk "$chunk" --near "$near" --far "$far" --sessions "$sessions" \
        --seconds $(($(date +%s) - begin)) --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
}
table || exit 1

# ---- slow checks ------------------------------------------------------------------------

# Short: the definitions take a second or two a token. More than 16 rows, so that prefill has its kernels.
check check-full-shape checked -m "$model" -c 1024 --prefill-chunk 64 -n 1 -p "Explain a mixture of experts."
check greedy-calm same_tokens "$calm"
rm -f "$calm"
table || exit 1
cat "$out.md"
say "$out.json, $out.md"
! grep -q '^FAIL' "$logs/checks"
