#!/usr/bin/env bash
# Fuzzes every target of a build, two at a time, and reports what was found.
#
#   tools/run_fuzz.sh build/fuzz SECONDS
#
# Each target starts from a copy of tests/fuzz/corpus/NAME (and, if there is one,
# the words of tests/fuzz/NAME.dict); the repository is not changed. Inputs that
# were found to fail are kept in BUILD_DIR/findings.
set -u
cd "$(dirname "$0")/.." || exit 1

# The inside: one target. Its last line is the report.
if [ "${1-}" = --one ]; then
    build=$2 seconds=$3 target=$4
    name=$(basename "$target") name=${name#fuzz_}
    corpus=$(mktemp -d)
    log=$build/findings/$name.log
    cp -r "tests/fuzz/corpus/$name/." "$corpus" 2>/dev/null
    stored=$(find "$corpus" -type f | wc -l)
    dict=()
    [ -e "tests/fuzz/$name.dict" ] && dict=("-dict=tests/fuzz/$name.dict")
    "$target" -max_total_time="$seconds" -max_len=65536 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$build/findings/$name-" ${dict[@]+"${dict[@]}"} \
        "$corpus" >"$log" 2>&1 </dev/null
    status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    new=$(($(find "$corpus" -type f | wc -l) - stored))
    rm -rf "$corpus"
    if [ $status = 0 ]; then
        echo "ok    $name: ${runs:-?} runs, $new new inputs beside $stored stored"
    else
        echo "FOUND $name: $(grep -aE -m 1 'ERROR:|runtime error:|SUMMARY:' "$log" || echo "exit status $status"), see $log"
    fi
    exit 0
fi

build=${1:?usage: tools/run_fuzz.sh BUILD_DIR SECONDS}
seconds=${2:?usage: tools/run_fuzz.sh BUILD_DIR SECONDS}
rm -rf "$build/findings"
mkdir -p "$build/findings"

targets=()
for source in tests/fuzz/fuzz_*.c; do
    [ -e "$source" ] || continue
    name=$(basename "$source" .c)
    targets+=("$build/tests/fuzz/$name")
done
[ ${#targets[@]} = 0 ] && { echo "no fuzz targets"; exit 1; }

printf '%s\0' "${targets[@]}" |
    xargs -0 -P 2 -I '{}' bash tools/run_fuzz.sh --one "$build" "$seconds" '{}' | tee "$build/findings/report"
found=$(grep -c '^FOUND' "$build/findings/report")
echo "${#targets[@]} targets fuzzed for $seconds s each, $found with findings"
[ "$found" = 0 ]
