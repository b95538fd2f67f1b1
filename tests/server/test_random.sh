#!/usr/bin/env bash
# A short round of random_requests.py; the long one is 10,000 requests to a server under AddressSanitizer.
exec python3 tests/server/random_requests.py --server "${DS4_BIN:-build/release/bin}/ds4-server" --requests "${DS4_RANDOM_REQUESTS:-400}"
