#!/bin/sh
# make bench: measures this machine, this engine beside a peer (bench/README.md).
#
#   MODEL=FILE    the q2 file (made in build/bench where there is none)
#   Q4=FILE|1     also the row q4; 1 makes that file too
#   PAIRS=N       alternating pairs a row (5)
#   ROWS="A B"    only these rows
#   PEER=no       this engine alone
set -eu
cd "$(dirname "$0")/.."

dir=build/bench
bin=build/release/bin
results=bench/results/cpu-$(date -u +%Y-%m-%d)
mkdir -p "$dir" bench/results

say() { echo "bench: $*" >&2; }

# A complete model whose layers share their data: every shape and type is the
# released one, and a token reads as many bytes, from fewer places.
make_model() { # mix file gigabytes
    [ -f "$2" ] && return
    free=$(df -Pk "$dir" | awk 'NR == 2 { print int($4 / 1048576) }')
    if [ "$free" -lt $(($3 + 2)) ]; then
        say "$2 needs $3 GB and $dir has $free GB free; name another file with MODEL= or Q4="
        exit 1
    fi
    say "making $2: the full shape with shared layers, $3 GB, once"
    ./ds4-gguf synth --shape flash --mix "$1" --alias-layers -o "$2"
}

# A model that does not fit is read from the disk again for every token.
check_memory() { # file
    [ -r /proc/meminfo ] || return 0
    free=$(awk '/^MemAvailable/ { print int($2 / 1000000) }' /proc/meminfo)
    size=$(($(wc -c < "$1") / 1000000000))
    [ "$free" -ge $((size + 3)) ] || say "$1 has $size GB and $free GB of memory are free: figures will be the disk's"
}

# llama.cpp's libraries as an npm package ships them. Nothing of it is built or
# run at install time, and nothing of it is kept in this repository.
install_peer() {
    package=@node-llama-cpp/linux-x64
    libraries=$dir/peers/node_modules/$package/bins/linux-x64
    version=$(sed -n "s|.*\"$package\": \"\(.*\)\".*|\1|p" bench/peers/package.json)
    if [ "$(uname -sm)" != "Linux x86_64" ]; then say "no peer: its package is for Linux on x86-64"; return 1; fi
    if ! command -v npm > /dev/null; then say "no peer: npm is not installed"; return 1; fi
    mkdir -p "$dir/peers"
    if ! cmp -s bench/peers/package-lock.json "$dir/peers/package-lock.json" || [ ! -d "$libraries" ]; then
        cp bench/peers/package.json bench/peers/package-lock.json "$dir/peers"
        say "installing $package $version"
        if ! (cd "$dir/peers" && npm ci --ignore-scripts --no-audit --no-fund --fetch-retries=1 \
                --fetch-retry-mintimeout=2000 > npm.log 2>&1); then
            rm -f "$dir/peers/package-lock.json"
            say "no peer: the package could not be installed, see $dir/peers/npm.log"
            return 1
        fi
    fi
    release=$(sed -n 's/.*"release":"\([^"]*\)".*/\1/p' "$libraries/_nlcBuildMetadata.json")
}

model=${MODEL:-$dir/flash-q2.gguf}
make_model q2 "$model" 10
check_memory "$model"
set -- -m "$model" --drivers "$bin" --pairs "${PAIRS:-5}" --json "$results.json" --md "$results.md" \
    --commit "$(git rev-parse --short HEAD 2> /dev/null || echo unknown)" ${ROWS:-}
if [ -n "${Q4:-}" ]; then
    [ "$Q4" = 1 ] && Q4=$dir/flash-q4.gguf
    make_model q4 "$Q4" 17
    check_memory "$Q4"
    set -- "$@" --q4 "$Q4"
fi
if [ "${PEER:-}" != no ] && install_peer; then
    set -- "$@" --peer "$libraries" --peer-name "llama.cpp $release (npm package $package $version)"
fi

busy=$(cut -d' ' -f1 /proc/loadavg 2> /dev/null || echo 0)
say "load average $busy; other work on this machine makes every figure worse"
"$bin/bench-compare" "$@"
say "all samples: $results.json; the table: $results.md"
