#!/bin/sh
# ds4-server as a service manager sees it: flags, exit codes, signals, files.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/server.py" "$@"
