#!/bin/sh
# ds4 as other programs see it: flags, exit codes, pipes, dumps, checkpoints.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/programs.py" "$@"
