#!/bin/sh
# bench-compare on the bundled model, without a peer: the table, the samples and what it refuses.
cd "$(dirname "$0")/../.." || exit 1
model=models/tiny/ds4-tiny.gguf
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
failed=0 passed=0
check() { # what command...
    what=$1
    shift
    if "$@" > /dev/null 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAIL $what"; fi
}
compare() { "$DS4_BIN/bench-compare" -m "$model" --drivers "$DS4_BIN" "$@"; }

compare --pairs 2 --json "$out/json" --md "$out/md" decode-1 prefill-512 sessions > "$out/table" 2> "$out/log"
check "a run ends well" [ $? = 0 ]
check "the table has a row per measurement" [ "$(grep -c '^| .*[0-9] +- [0-9]' "$out/table")" = 3 ]
check "the Markdown file is the table" cmp -s "$out/md" "$out/table"
check "a row without a peer has no ratio" grep -q '^| decode, short.* |  | | |' "$out/table"
check "prefill is held against the int8 peak" grep -q '^| prefill-512: of the' "$out/table"
check "the samples are kept" grep -q '"key":"sessions".*"samples":\[[0-9.]*,[0-9.]*\].*"ratio"' "$out/json"

compare --pairs 1 nonsense 2> "$out/log"
check "an unknown row is named" grep -q 'no row is called nonsense' "$out/log"
check "a peer that is not there leaves this engine alone" \
    sh -c "'$DS4_BIN/bench-compare' -m $model --drivers '$DS4_BIN' --peer $out --pairs 1 decode-1 | grep -q 'not installed'"
check "a missing model is a failure" sh -c "! '$DS4_BIN/bench-compare' -m $out/none --drivers '$DS4_BIN' decode-1"

# The line protocol.
printf 'pp 5\ntg 2 20 1\ntg 2 20 99\nwhat\nlogits %s 1 2 3\nquit\n' "$out/logits" |
    "$DS4_BIN/bench-ds4" "$model" 1 > "$out/answers" 2> "$out/log"
check "every command is answered" [ "$(wc -l < "$out/answers")" = 6 ]
check "a prefill tells its speed" grep -q '"test":"pp".*"n":5.*"tps":[0-9]' "$out/answers"
check "too many sessions are refused" grep -q '"error":"tg' "$out/answers"
check "logits are written" [ -s "$out/logits" ]

echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
