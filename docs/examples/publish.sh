#!/bin/sh
# Publishes prices with nothing but redis-cli: `PARALLAX_REDIS_URL=redis://127.0.0.1:6379 sh publish.sh`.
set -eu
redis() { redis-cli -u "${PARALLAX_REDIS_URL:-redis://127.0.0.1:6379}" -e "$@"; }

# The braces are literal: quote the key.
redis XADD 'parallax:{prices}:in' '*' op update format json data '[{"symbol": "SH-A", "price": 10.5}, {"symbol": "SH-B"}]'

# `op` may be left out (update), and `format` too (json).
redis XADD 'parallax:{prices}:in' '*' data '{"symbol": "SH-A", "size": 100, "at": "2026-01-01T12:30:00Z"}'

# From a file or a pipe: -x takes the last argument from standard input.
redis -x XADD 'parallax:{prices}:in' '*' format csv data <<'CSV'
symbol,price,size
SH-C,1.25,
"SH-D, Inc.",,7
CSV

redis XADD 'parallax:{prices}:in' '*' op remove data '[{"symbol": "SH-B"}]'

# What did not fit is here, with the reason (and counted in `parallax status`); how much waits is here.
redis XREVRANGE 'parallax:{prices}:rejected' + - COUNT 3
redis XLEN 'parallax:{prices}:in'
