#!/bin/sh
# ds4-bench as a person calls it: modes, outputs, exit codes. Nothing is timed.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/bench.py" "$@"
