#!/usr/bin/env bash
# Programs and kernel tests with the shared libraries that a machine may lack, in one archive for bench/gpu.sh
# (BUILT=FOLDER/bundle.tar.xz).
#
#   tools/cuda_bundle.sh build/release/cuda      what `make cuda-bundle` has built there
set -eu
built=${1:?usage: tools/cuda_bundle.sh FOLDER}
room=$built/bundle
rm -rf "$room" "$room.tar.xz"
mkdir -p "$room/bin" "$room/lib" "$room/tests/gpu_host" "$room/tests/golden"
cp "$built"/bin/{ds4,ds4-bench,ds4-gguf,card} "$room/bin"
cp "$built/tests/golden/test_golden" "$room/tests/golden"
for source in $(grep -l '"checked.h"' "$(dirname "$0")"/../tests/gpu_host/test_cuda_*.c); do
    cp "$built/tests/gpu_host/$(basename "$source" .c)" "$room/tests/gpu_host"
done
programs=$(find "$room/bin" "$room/tests" -type f)
strip $programs
# Any machine has the C and C++ libraries, and its own are the right ones for its other programs.
for library in $(ldd $programs | awk '$2 == "=>" && $3 ~ "^/" { print $3 }' | sort -u |
                 grep -vE '/(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+)\.so'); do
    cp -L "$library" "$room/lib"
done
# The kernels are in every program: a window over several of them finds the copies.
tar -C "$room" -c bin lib tests | xz -9 >"$room.tar.xz"
rm -rf "$room"
echo "$room.tar.xz: $(wc -c <"$room.tar.xz" | awk '{ printf "%.1f MB", $1 / 1e6 }')"
