#!/bin/sh
# A thousand providers beside one: the same mail to the same domains, the same machine, in turn.
#
#     benchmarks/providers.sh [--runs 3] [--sessions 20] [--count 5000] [DIRECTORY or SET.tar.zst]
#
# Two Lazarets of their own in a temporary directory have the same DOMAINS (default 1000), all with one server (smtp-sink, of
# Debian's postfix): one in PROVIDERS (default 1000) schemas, the other in one. To make the schemas takes ten minutes. The
# first WARM (default 10000) messages to each are not counted: connections learn the tables of each provider once.
# Options are those of benchmarks/gateway.py.
set -eu

. "$(dirname -- "$0")/common.sh"
need postfix smtp-sink
find_python
domains=${DOMAINS:-1000}
make_dir providers

sink=$(free_port) names=$(free_port)
start_servers "$sink" "127.0.0.1:$names"

start() { # NAME PORT PROVIDERS
    : >"$dir/$1.log"
    LAZARET_HOME="$dir/$1" LAZARET_SMTP="127.0.0.1:$2" LAZARET_WEB="127.0.0.1:$(free_port)" LAZARET_XCLIENT=127.0.0.1 \
        LAZARET_DNS="127.0.0.1:$names" "$project/run" --empty >"$dir/$1.log" 2>&1 & started=$!
    pids="$pids $started"
    until grep -q "Ctrl-C stops" "$dir/$1.log"; do kill -0 "$started"; sleep 0.5; done
    LAZARET_HOME="$dir/$1" "$python" "$project/benchmarks/fill.py" --domains "$domains" --providers "$3" \
        --server "127.0.0.1:$sink"
}

many=$(free_port)
start many "$many" "${PROVIDERS:-1000}"
many_pid=$started
one=$(free_port)
start one "$one" 1
one_pid=$started

to=$(seq 0 $((domains - 1)) | sed 's/.*/--to bob@d&.test/')
measure() {
    # shellcheck disable=SC2086 # a word for each recipient
    "$python" "$project/benchmarks/gateway.py" --connect "many=127.0.0.1:$many" --connect "one=127.0.0.1:$one" \
        --watch "many=$many_pid" --watch "one=$one_pid" --clients 20000 $to "$@"
}
measure "$@" --runs 1 --count "${WARM:-10000}" >/dev/null
uptime
measure "$@"
uptime
