#!/usr/bin/env bash
# Runs all tests of one build and says what happened.
#
#   tools/run_tests.sh build/release [NAME]      NAME: only those whose name contains it
#
# Programs of tests/{unit,kernels,tiny,golden,fault,conformance,server,gpu_host}; fuzz targets over their
# stored inputs; shell tests tests/*/test_*.sh, which find the programs in
# $DS4_BIN (status 0 passed, 77 skipped; a last line `N passed, N failed, N
# skipped` counts instead); the layer check. Prints a line per program, the
# lines that begin with FAIL, SKIP or CRASH, and at the very end the sums.
set -u
cd "$(dirname "$0")/.." || exit 1
build=${1:?usage: tools/run_tests.sh BUILD_DIR [NAME]}
filter=${2-}
passed=0 failed=0 skipped=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case $build in /*) ;; *) build=$PWD/$build ;; esac
export DS4_BIN=$build/bin
export TMPDIR=$scratch

# A test that hangs is a failure and not a night.
limit=()
if command -v timeout >/dev/null; then limit=(timeout -k 10 "${DS4_TEST_SECONDS:-600}"); fi

why() {     # exit status in words
    case $1 in
        124|137) echo "took too long or was killed" ;;
        129|13[0-9]|14[0-9]|15[0-9]) echo "ended by signal $(kill -l $(($1 - 128)))" ;;
        *) echo "exit status $1" ;;
    esac
}

# Sets `seconds` and `status`; the output lies in $scratch/out.
timed() {
    local TIMEFORMAT=%R
    { time ${limit[@]+"${limit[@]}"} "$@" >"$scratch/out" 2>&1 </dev/null; } 2>"$scratch/time"
    status=$?
    seconds=$(tail -n 1 "$scratch/time")
}

# account NAME KIND: adds what the last command said to the sums.
# KIND program must end with a summary, KIND whole counts as one test.
account() {
    local line summary p=0 f=0 s=0 note="" bad=""
    summary=$(tail -n 1 "$scratch/out" | grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$')
    if [ -n "$summary" ]; then
        read -r p _ f _ s _ <<<"$summary"
    elif [ "$2" = whole ] && [ $status = 0 ]; then p=1
    elif [ "$2" = whole ] && [ $status = 77 ]; then s=1
    fi
    # A crash, or a complaint of a sanitizer after the last test, is a failure too.
    [ $status = 0 ] || [ $status = 77 ] || bad=": $(why $status)"
    [ $((p + f + s)) = 0 ] && bad=${bad:-: ran no test}
    if [ "$f" = 0 ] && [ -n "$bad" ]; then f=1 note=$bad; fi
    line="$p passed"
    [ "$s" != 0 ] && line="$line, $s skipped"
    [ "$f" != 0 ] && line="$line, $f FAILED$note"
    printf '%7.2f s  %-34s %s\n' "$seconds" "$1" "$line"
    grep -aE '^(FAIL|SKIP|CRASH)' "$scratch/out" | cut -c 1-400 | sed 's/^/            /'
    [ -n "$note" ] && tail -n 40 "$scratch/out" | sed 's/^/          | /'
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

wanted() { [[ $1 == *"$filter"* ]]; }

for source in tests/{unit,kernels,tiny,golden,fault,conformance,server,gpu_host}/test_*.c; do
    name=${source#tests/} name=${name%.c}
    if ! [ -e "$source" ] || ! wanted "$name"; then continue; fi
    timed "$build/tests/$name"
    account "$name" program
done

for source in tests/fuzz/fuzz_*.c; do
    name=${source#tests/} name=${name%.c}
    if ! [ -e "$source" ] || ! wanted "$name"; then continue; fi
    timed "$build/tests/${name}_replay" "tests/fuzz/corpus/${name#fuzz/fuzz_}"
    account "$name" whole
done

for source in tests/*/test_*.sh; do
    name=${source#tests/}
    if ! [ -e "$source" ] || ! wanted "$name"; then continue; fi
    timed bash "$source"
    account "$name" whole
done

if wanted layers; then
    timed tools/layers.sh
    account layers whole
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
