#!/bin/sh
# Programs whose device is lost before they are done, or is not there.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/nodevice.py" "$@"
