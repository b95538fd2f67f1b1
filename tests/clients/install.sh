#!/usr/bin/env bash
# Installs the clients of package.json beside this script, so that `make test` can run
# tests/clients/test_clients.sh. About 1.3 GB on disk.
set -eu
cd "$(dirname "$0")"
command -v npm >/dev/null || { echo "tests/clients: npm is not installed; the client tests will be skipped"; exit 1; }
stamp=node_modules/.installed
[ -e "$stamp" ] && [ "$stamp" -nt package-lock.json ] && exit 0
npm install --no-save --no-audit --no-fund --loglevel=error
touch "$stamp"
