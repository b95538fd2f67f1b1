#!/bin/sh
# The conversation at a terminal, typed into a pseudo terminal.
command -v python3 >/dev/null || { echo "SKIP python3 is not installed"; exit 77; }
exec python3 "$(dirname "$0")/repl.py" "$@"
