# What the benchmarks written in sh have in common. They source it; it does nothing by itself.

need() { # PACKAGES PROGRAM...
    packages=$1
    shift
    for program in "$@"; do
        command -v "$program" >/dev/null || { echo "$program is not installed: apt install $packages" >&2; exit 1; }
    done
}

find_python() { # sets $project and $python
    project=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
    python=$project/.venv/bin/python
    [ -x "$python" ] || { echo "Start ./run once before: it makes .venv, which needs the network." >&2; exit 1; }
}

make_dir() { # NAME: makes $dir, which goes at the end, after the processes in $pids
    dir=$(mktemp -d -t "lazaret-$1.XXXXXX")
    chmod 755 "$dir"
    pids=
    trap clean_up EXIT
    trap 'exit 1' INT TERM
}

clean_up() {
    trap - EXIT INT TERM
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done; done
    rm -rf "$dir"
}

free_port() {
    "$python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

start_servers() { # PORT ADDRESS: of the server that takes all mail, and of the name server
    smtp-sink -u nobody "127.0.0.1:$1" 1000 & pids="$pids $!"
    "$python" "$project/benchmarks/name_server.py" "$2" & pids="$pids $!"
}
