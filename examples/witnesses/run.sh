#!/bin/sh
# Three witnesses on one machine, two of which must cosign. In real use each is
# another machine of somebody else: three on one prove how it works, not more.
#
#   examples/witnesses/run.sh [PATH-OF-RINGFENCE]
#
# Everything lies in a temporary folder and is gone at the end.
set -eu

ringfence=${1:-ringfence}
home=$(mktemp -d)
running=
trap 'kill $running 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$home"' EXIT
trap 'exit 1' INT TERM

s3=${S3_PORT:-9400}
admin=${ADMIN_PORT:-9401}
first=${WITNESS_PORT:-9410}

serve() {
    rm -f "$home/serve.json"
    "$ringfence" serve --json --data "$home/data" --s3 "127.0.0.1:$s3" --admin "127.0.0.1:$admin" \
        >"$home/serve.json" 2>"$home/serve.err" &
    server=$!
    running="$running $server"
    # Not asked with `ringfence status`: without a server that one opens the
    # data directory itself, and would be in the way.
    until [ -s "$home/serve.json" ]; do
        kill -0 $server
        sleep 0.1
    done
}

stop() {
    kill "$1"
    wait "$1" || true
}

witnesses() {
    "$ringfence" log witnesses --data "$home/data" "$@"
}

echo "-- a server, so that there is a log to watch"
serve

echo "-- three witnesses, each with a key and a state of its own"
keys=
for n in 1 2 3; do
    port=$((first + n))
    "$ringfence" witness --json --name "witness.example/w$n" --state "$home/w$n" \
        --listen "127.0.0.1:$port" --log "$(cat "$home/data/log/log.vkey")" >"$home/w$n.json" 2>"$home/w$n.err" &
    eval "witness$n=$!"
    running="$running $!"
    until [ -s "$home/w$n.json" ]; do sleep 0.1; done
    key=$(sed 's/.*"vkey":"\([^"]*\)".*/\1/' "$home/w$n.json")
    keys="$keys --witness $key"
    printf '\n[[witness]]\nkey = "%s"\nurl = "http://127.0.0.1:%s"\n' "$key" "$port" >>"$home/data/ringfence.toml"
    echo "   $key"
done

echo "-- the server learns where they are asked, the log says that two of them must sign"
stop $server
serve
# shellcheck disable=SC2086 # each word is one argument
witnesses --require 2 $keys >/dev/null

wait_for() {
    tries=0
    until "$ringfence" status --data "$home/data" 2>/dev/null | grep -q "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { echo "waited in vain for: $1"; exit 1; }
        sleep 0.1
    done
    "$ringfence" status --data "$home/data" 2>/dev/null | grep witnesses
}

wait_for 'are witnessed'
echo "-- the checkpoint with what they say of it"
cat "$home/data/log/checkpoint.cosigned"

echo "-- one of them may be away"
stop $witness1
before=$(witnesses --json | sed -n 's/.*"witnessed": \([0-9]*\).*/\1/p')
tries=0
until [ "$(witnesses --json | sed -n 's/.*"witnessed": \([0-9]*\).*/\1/p')" -gt "$before" ]; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { echo "two witnesses do not suffice"; exit 1; }
    sleep 0.1
done
witnesses 2>/dev/null

echo "-- two may not: nothing is issued any more, and an alarm says so"
stop $witness2
tries=0
until "$ringfence" alarm list --data "$home/data" 2>/dev/null | grep -q QUORUM_LOST; do
    tries=$((tries + 1))
    [ $tries -lt 400 ] || { echo "no alarm"; exit 1; }
    sleep 0.1
done
"$ringfence" alarm list --data "$home/data" 2>/dev/null | grep QUORUM_LOST
echo "done"
