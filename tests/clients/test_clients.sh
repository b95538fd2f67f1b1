#!/usr/bin/env bash
# Real clients against ds4-server on the loopback of a network namespace of its own: nothing they send can
# leave it. They come from npm (install.sh) and are skipped aloud where they are not installed.
cd "$(dirname "$0")" || exit 1
export DS4_BIN=${DS4_BIN:-$(cd ../.. && pwd)/build/release/bin}
case $DS4_BIN in *asan*|*tsan*) echo "SKIP clients: run with the release build only"; exit 77 ;; esac
export DS4_TINY=$PWD/../../models/tiny/ds4-tiny.gguf
[ -e node_modules/.installed ] || { echo "SKIP clients: not installed; tests/clients/install.sh installs them from npm"; exit 77; }

if [ "${1-}" != inside ]; then
    for how in "unshare -n" "unshare -rn"; do
        $how true 2>/dev/null && exec $how bash "$PWD/test_clients.sh" inside
    done
    echo "SKIP clients: this system gives no network namespace"
    exit 77
fi
# A new namespace's loopback is down: SIOCSIFFLAGS with IFF_UP | IFF_RUNNING.
python3 -c 'import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 0x41))' || exit 1

passed=0 failed=0 skipped=0
sum() {
    local out
    out=$("$@" 2>&1)
    printf '%s\n' "$out" | grep -v ' passed, '
    if [[ $(tail -n 1 <<<"$out") =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed,\ ([0-9]+)\ skipped$ ]]; then
        passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + BASH_REMATCH[3]))
    else
        echo "FAIL $* printed no sum"
        failed=$((failed + 1))
    fi
}
sum node sdks.mjs
sum node agents.mjs real
sum node agents.mjs scripted
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ]
