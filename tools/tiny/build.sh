#!/usr/bin/env bash
# Makes the bundled model from nothing: packages, kernels, corpus, tokenizer, training, checkpoint.
#
#   tools/tiny/build.sh [minutes of training, default 75] [further arguments of train.py]
#
# Result: build/tiny/checkpoint, a checkpoint directory in the released form. The training state
# stays in build/tiny/run; `tools/tiny/build.sh 30 --resume --new-round` trains 30 minutes more.
set -euo pipefail
cd "$(dirname "$0")/../.."
minutes=${1:-75}
shift || true
python=/usr/bin/python3
out=build/tiny

if ! "$python" -c 'import torch, numpy' 2>/dev/null; then
    as_root=; [ "$(id -u)" = 0 ] || as_root=sudo
    $as_root apt-get install -y python3-torch python3-numpy libopenblas0-openmp gcc
fi

mkdir -p "$out/run"
gcc -O3 -march=native -ffast-math -shared -fPIC -o "$out/kernels.so" tools/tiny/kernels.c -lm

# One thread per process; and memory that was freed once is kept, because page faults cost a third of a step.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 MALLOC_TOP_PAD_=500000000

"$python" - <<'PY'
import time, torch
torch.set_num_threads(1)
a, b = torch.randn(1024, 192), torch.randn(192, 384)
start = time.time()
for _ in range(200):
    a @ b
rate = 200 * 2 * 1024 * 192 * 384 / (time.time() - start) / 1e9
print(f"matrix product: {rate:.0f} GFLOP/s on one thread")
if rate < 30:
    print("this is slow: is an optimised BLAS such as libopenblas0-openmp installed?")
PY

"$python" tools/tiny/train.py --out "$out/run" --kernels "$out/kernels.so" --minutes "$minutes" "$@"
"$python" tools/tiny/export.py "$out/run" "$out/checkpoint"
