#!/bin/sh
# ds4-server as a process whose device is lost while it runs.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/lost.py" "$@"
