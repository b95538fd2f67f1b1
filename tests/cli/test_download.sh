#!/bin/sh
# download_model.sh against a server on the loopback interface.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/download.py" "$@"
