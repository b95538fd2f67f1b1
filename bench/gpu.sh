#!/bin/sh
# Measures a CUDA card in one go: builds for it, runs the kernel tests, the golden vectors and check:cuda
# on it, compares greedy tokens with the CPU's, and fills the table of docs/backend-cuda.md on the full
# shape. About eight minutes on an H200; exits 0 when every row of checks is green.
#
#   bench/gpu.sh              everything
#   bench/gpu.sh sanitize     the kernel tests under compute-sanitizer instead: memcheck, then racecheck
#
#   MODEL=FILE   the q2 file of the full shape (made in $DIR where there is none)
#   DIR=FOLDER   for files and logs (build/gpu); 22 GB
#   LAYERS=N     only the first layers of the shape, for a card or a disk that is small; the table is then
#                marked as such
#   DEVICE=N     which card (0)
set -u
cd "$(dirname "$0")/.." || exit 1
begin=$(date +%s)
dir=${DIR:-build/gpu}
device=${DEVICE:-0}
jobs=$(getconf _NPROCESSORS_ONLN)
shape="--shape flash --mix q2 --alias-layers${LAYERS:+ --layers $LAYERS}"
mkdir -p "$dir" bench/results
rm -f "$dir"/*.log "$dir"/*.json "$dir/checks"

say() { printf 'gpu.sh %4d s: %s\n' $(($(date +%s) - begin)) "$*" >&2; }
die() { say "$*"; exit 1; }

# check NAME COMMAND...: one row of checks; its output is kept in $dir/NAME.log
check() {
    name=$1
    shift
    if "$@" >"$dir/$name.log" 2>&1; then result=pass; else result=FAIL; fi
    last=$(tail -n 1 "$dir/$name.log" | cut -c 1-160)
    printf '%s\t%s\t%s\n' "$result" "$name" "$last" >>"$dir/checks"
    say "$result $name: $last"
    [ $result = pass ]
}

command -v nvidia-smi >/dev/null || die "no nvidia-smi here: this measures a card of NVIDIA's"
card=$(nvidia-smi -i "$device" --query-gpu=name --format=csv,noheader) || die "card $device is not there"
capability=$(nvidia-smi -i "$device" --query-gpu=compute_cap --format=csv,noheader | tr -d .)
[ "$capability" = 90 ] && capability=90a
say "card $device: $card, sm_$capability"
export DS4_TEST_DEVICE=cuda CUDA_ARCHS=$capability

say "building"
{ make -j"$jobs" cuda && make -j"$jobs" cuda-tests; } >"$dir/build.log" 2>&1 || die "the build failed, see $dir/build.log"

# ---- compute-sanitizer ------------------------------------------------------------------

if [ "${1-}" = sanitize ]; then
    tool=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
    [ -x "$tool" ] || die "compute-sanitizer is not installed; it comes with the CUDA toolkit"
    status=0
    for kind in memcheck racecheck; do
        for t in build/release/cuda/tests/gpu_host/test_cuda_*; do
            case $t in *.o|*.d) continue ;; esac
            check "$kind-$(basename "$t")" "$tool" --tool $kind --error-exitcode 9 --print-limit 20 "$t" || status=1
        done
    done
    exit $status
fi

# ---- checks -----------------------------------------------------------------------------

model=${MODEL:-$dir/flash-q2.gguf}
calm=$dir/flash-calm.gguf
make_model() { [ -f "$1" ] || ./ds4-gguf synth $shape $2 -q -o "$1"; }
(make_model "$model" "" && make_model "$calm" "--branch-gain 0.02") >"$dir/synth.log" 2>&1 &
synth=$!

for t in build/release/cuda/tests/gpu_host/test_cuda_*; do
    case $t in *.o|*.d) continue ;; esac
    check "$(basename "$t")" "$t"
done
for part in logits_agree greedy_continuations; do      # the others are of the CPU's paths
    check "golden-$part" build/release/cuda/tests/golden/test_golden -f $part
done

prompt="Explain in a few sentences what a mixture of experts is."
on_card="--backend cuda --device $device"
# Greedy tokens of 64 steps, one id a line.
greedy() { # file backend-flags...
    file=$1
    shift
    ./ds4 "$@" --nothink --temp 0 -n 64 -p "$prompt" --dump-logprobs "$file" -q >/dev/null
}
same_tokens() { # model
    greedy "$dir/cuda.json" -m "$1" -c 4096 $on_card && greedy "$dir/cpu.json" -m "$1" -c 4096 --backend cpu &&
        python3 bench/gpu_table.py same "$dir/cuda.json" "$dir/cpu.json"
}
check check-tiny ./ds4 -m models/tiny/ds4-tiny.gguf --backend check:cuda --nothink --temp 0 -n 16 -p "$prompt"
check greedy-tiny same_tokens models/tiny/ds4-tiny.gguf
say "waiting for the full-shape files"
wait $synth || die "the files could not be made: $(tail -n 1 "$dir/synth.log")"
check check-full-shape ./ds4 -m "$model" --backend check:cuda -c 1024 --prefill-chunk 64 --nothink --temp 0 -n 1 -p "$prompt"
check greedy-calm same_tokens "$calm"
rm -f "$calm"

# ---- the table --------------------------------------------------------------------------

cat "$model" >/dev/null                              # into the page cache
nvidia-smi -i "$device" --query-gpu=timestamp,power.draw,clocks.sm,clocks.mem,temperature.gpu,utilization.gpu \
    --format=csv,noheader -l 1 >"$dir/smi.csv" 2>/dev/null &
smi=$!
speed() { ./ds4-bench speed -m "$model" --backend cuda --device "$device" --prefill-chunk 4096 --fill fast "$@"; }
check decode speed -p 0 -n 64 -d 0,2048,65536 -r 5 --budget 25 --jsonl "$dir/decode.json"
check prefill speed -p 4096 -n 0 -d 0 -r 5 --budget 25 --jsonl "$dir/prefill.json"
check sessions speed -p 0 -n 32 -d 512 --sessions 16 -r 5 --budget 25 --jsonl "$dir/sessions.json"
kill $smi 2>/dev/null

slug=$(echo "$card" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-' | sed 's/^nvidia-//')
out=bench/results/$slug-$(date -u +%Y-%m-%d)
nvidia-smi -i "$device" --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem \
    --format=csv >"$dir/card.csv"
python3 bench/gpu_table.py table --dir "$dir" --json "$out.json" --md "$out.md" --layers "${LAYERS:-43}" \
    --seconds $(($(date +%s) - begin)) --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)" || exit 1
cat "$out.md"
say "$out.json, $out.md"
! grep -q '^FAIL' "$dir/checks"
