#!/bin/sh
# A model several times larger than the memory its experts get (docs/streaming.md):
# are the tokens those of the mapped model, and how fast do they come?
#
#   bench/experts.sh [MODEL]
#
#   LAYERS=N      layers of the model that is made in build/bench when none is named (6: 13.5 GB)
#   CACHE=SIZE    --expert-cache (2g)
#   TOKENS=N      tokens of the answer that is timed (48)
#   PROMPT=TEXT   raw prompt (a few words: each token of it wants experts of its own)
#
# Every layer of the model has bytes of its own, so each expert is read from its own
# place of the disk, and past the page cache.
set -eu
cd "$(dirname "$0")/.."

dir=build/bench
layers=${LAYERS:-6} cache=${CACHE:-2g} tokens=${TOKENS:-48} prompt=${PROMPT:-Sea and land}
model=${1:-$dir/flash-q2-$layers-layers.gguf}
mkdir -p "$dir"
say() { echo "experts: $*" >&2; }

if [ ! -f "$model" ]; then
    say "making $model: the full shape with $layers layers, none shared"
    ./ds4-gguf synth --shape flash --mix q2 --layers "$layers" -q -o "$model"
fi

# run OUT FLAGS: a greedy answer
run() {
    out=$1
    shift
    ./ds4 -q -m "$model" -c 512 --temp 0 --nothink --raw -p "$prompt" -n "$tokens" "$@" > "$out"
}
number() { sed -n "s/.*\"$2\":\([0-9.eE+-]*\).*/\1/p" "$1"; }

run /dev/null --dump-logprobs "$dir/mapped.json"
run "$dir/mapped-times.json" --json
run /dev/null --dump-logprobs "$dir/cached.json" --expert-cache "$cache"
run "$dir/cached-times.json" --json --expert-cache "$cache"

if cmp -s "$dir/mapped.json" "$dir/cached.json"; then same="equal, byte for byte"; else same="DIFFERENT"; fi
c=$dir/cached-times.json
awk -v same="$same" -v tokens="$(number "$c" completion_tokens)" -v slots="$(number "$c" cached)" \
    -v total="$(number "$c" total)" -v hits="$(number "$c" hits)" -v misses="$(number "$c" misses)" \
    -v bytes="$(number "$c" bytes_read)" -v reading="$(number "$c" read_seconds)" \
    -v waited="$(number "$c" wait_seconds)" -v took="$(number "$c" generation_seconds)" \
    -v guessed="$(number "$c" guessed)" -v wanted="$(number "$c" guessed_and_wanted)" \
    -v mapped="$(number "$dir/mapped-times.json" generation_seconds)" 'BEGIN {
    per = bytes / tokens; rate = bytes / reading; memory = mapped / tokens; disk = per / rate
    printf "tokens and logprobs   %s (%d tokens)\n", same, tokens
    printf "experts in memory     %d of %d (%.0f %%)\n", slots, total, 100 * slots / total
    printf "hit rate              %.1f %%\n", 100 * hits / (hits + misses)
    printf "read per token        %.1f MB, at %.2f GB/s while reading\n", per / 1e6, rate / 1e9
    printf "guesses               %d, %.0f %% of them wanted\n", guessed, guessed ? 100 * wanted / guessed : 0
    printf "speed                 %.2f tokens/s, %.0f %% of the time waited for the disk\n", tokens / took, 100 * waited / took
    printf "all in memory         %.2f tokens/s\n", 1 / memory
    printf "formula               %.2f tokens/s by the disk alone; %.2f without overlap, %.2f with all of it\n",
           1 / disk, 1 / (memory + disk), 1 / (memory > disk ? memory : disk)
}'
[ "$same" != DIFFERENT ]
