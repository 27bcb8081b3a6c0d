#!/bin/sh
# Lazaret beside Postfix with rspamd as its milter: the same mail, the same machine, in turn.
#
#     apt install postfix rspamd          # on Debian; neither is started, configured or used outside a temporary directory
#     sudo benchmarks/peer.sh [--runs 3] [--sessions 20] [--count 5000] [DIRECTORY or SET.tar.zst]
#
# Options are those of benchmarks/gateway.py. Both take mail for a domain, hold what they call spam durably, and hand the
# rest to the same server (smtp-sink). Both look up the names of clients, at the same DNS on loopback: with
# `--clients 20000 --messages-per-connection 1` every message comes from an address never seen before. With a labelled
# set (folders named ham and spam) Lazaret learns its first LESSONS messages (default 2000), and neither is sent these.
# fsync is on. All of it happens in a network namespace of its own, where 11.0.0.0/8 is local and DNS is at 127.0.0.1.
# rspamd is as Debian has it, but for these: no Redis; the milter scans by itself, in one process a core (faster than
# by way of scan workers); mail of HOLD_SCORE points and more is held by Postfix. By default that is
# Debian's 15; with a set of mail 2.5, with clients 6.8 or 8 (they have points of their own), which holds of mail of
# 2007 about as much as Lazaret does, where 15 would hold next to nothing: there are no public lists on loopback.
# Needs root, because Postfix does. Everything is removed at the end.
set -eu

. "$(dirname -- "$0")/common.sh"
need "postfix rspamd" postfix rspamd smtp-sink
[ "$(id -u)" = 0 ] || { echo "Postfix is started by root only: call it with sudo." >&2; exit 1; }
find_python
if [ -z "${LAZARET_PEER_INSIDE:-}" ]; then
    LAZARET_PEER_INSIDE=yes exec unshare --net --mount "$0" "$@"
fi
ip link set lo up
ip route add local 11.0.0.0/8 dev lo

make_dir peer
corpus=
for last in "$@"; do case $last in *.tar.zst) corpus=$last ;; */*) [ -d "$last" ] && corpus=$last ;; esac; done
lessons=${LESSONS:-$([ -n "$corpus" ] && echo 2000 || echo 0)}
case "$corpus $* " in
    " "*) hold=15 ;;
    *" --messages-per-connection 1 "*) hold=8 ;;
    *" --clients "*) hold=6.8 ;;
    *) hold=2.5 ;;
esac
hold=${HOLD_SCORE:-$hold}

wait_until() { # a command succeeds
    n=0
    until "$@" >/dev/null 2>&1; do
        n=$((n + 1))
        [ $n -lt 600 ] || { echo "it did not come to pass in two minutes: $*" >&2; tail -n 5 "$dir"/*log* >&2; exit 1; }
        sleep 0.2
    done
}

listens() { "$python" -c "import socket; socket.create_connection(('127.0.0.1', $1)).close()"; }

sink=$(free_port) peer=$(free_port) milter=$(free_port) scan=$(free_port) controller=$(free_port)
ours=$(free_port) web=$(free_port)

echo "nameserver 127.0.0.1" >"$dir/resolv.conf"
mount --bind "$dir/resolv.conf" /etc/resolv.conf
start_servers "$sink" 127.0.0.1:53

# Postfix: an instance of its own, with a spool of its own.
mkdir -p "$dir/postfix" "$dir/spool" "$dir/data"
chown postfix "$dir/data"
cat >"$dir/postfix/main.cf" <<END
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/data
maillog_file = $dir/maillog
maillog_file_prefixes = $dir
syslog_name = peer
myhostname = peer.test
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.1/32
mydestination =
local_recipient_maps =
alias_maps =
relay_domains = bench.test
relay_transport = smtp:[127.0.0.1]:$sink
smtpd_relay_restrictions = permit_auth_destination, reject
smtpd_milters = inet:127.0.0.1:$milter
milter_default_action = tempfail
END
cat >"$dir/postfix/master.cf" <<END
127.0.0.1:$peer inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
END

# rspamd: Debian's configuration, with its own ports and directories, DNS on loopback, and nothing that needs Redis.
mkdir -p "$dir/rspamd/override.d" "$dir/rspamd/local.d" "$dir/rspamd/db" "$dir/rspamd/log"
echo "bind_socket = \"127.0.0.1:$scan\";" >"$dir/rspamd/override.d/worker-normal.inc"
echo "bind_socket = \"127.0.0.1:$controller\";" >"$dir/rspamd/override.d/worker-controller.inc"
cat >"$dir/rspamd/override.d/worker-proxy.inc" <<END
bind_socket = "127.0.0.1:$milter";
quarantine_on_reject = true;
count = $(nproc);
upstream "local" { default = yes; self_scan = yes; }
END
echo "reject = $hold; add_header = null; greylist = null;" >"$dir/rspamd/override.d/actions.conf"
echo 'count = 1;' >>"$dir/rspamd/override.d/worker-normal.inc"
cat >"$dir/rspamd/override.d/options.inc" <<END
dns { nameserver = ["127.0.0.1:53"]; }
control_socket = "$dir/rspamd/db/control.sock mode=0600";
END
for module in greylist ratelimit; do echo 'enabled = false;' >"$dir/rspamd/override.d/$module.conf"; done
chown -R _rspamd "$dir/rspamd"
rspamd -f -c /etc/rspamd/rspamd.conf -u _rspamd -g _rspamd "--var=LOCAL_CONFDIR=$dir/rspamd" \
    "--var=DBDIR=$dir/rspamd/db" "--var=RUNDIR=$dir/rspamd" "--var=LOGDIR=$dir/rspamd/log" \
    >"$dir/rspamd/log/output" 2>&1 & rspamd=$!
pids="$pids $rspamd"

postfix -c "$dir/postfix" start >/dev/null 2>&1
wait_until test -s "$dir/spool/pid/master.pid"
master=$(tr -d ' ' <"$dir/spool/pid/master.pid")
pids="$pids $master"

# Lazaret, as ./run starts it.
export LAZARET_HOME="$dir/lazaret" LAZARET_SMTP="127.0.0.1:$ours" LAZARET_WEB="127.0.0.1:$web"
export LAZARET_DNS=127.0.0.1:53
"$project/run" --empty >"$dir/run.log" 2>&1 & lazaret=$!
pids="$pids $lazaret"
wait_until grep -q "Ctrl-C stops" "$dir/run.log"
manage() { (cd "$project" && "$python" manage.py "$@" >/dev/null); }
manage provision_provider bench --name Bench --hostname bench.localhost
manage add_domain bench bench.test --server "127.0.0.1:$sink"
for name in ann bob cat dan; do manage add_mailbox bench "$name@bench.test"; done
if [ "$lessons" -gt 0 ]; then
    mkdir "$dir/corpus"
    if [ -d "$corpus" ]; then teacher=$corpus; else
        zstd -dc --long=27 "$corpus" | tar x -C "$dir/corpus"
        teacher=$dir/corpus
    fi
    manage train_classifier "$teacher" --provider bench --limit "$lessons" --json
fi
wait_until listens "$ours"
wait_until listens "$peer"
wait_until listens "$milter"

uptime
"$python" "$project/benchmarks/gateway.py" --ceiling --local-clients --skip "$lessons" \
    --connect "lazaret=127.0.0.1:$ours" --connect "postfix+rspamd=127.0.0.1:$peer" \
    --watch "lazaret=$lazaret" --watch "postfix+rspamd=$master" \
    --watch "postfix+rspamd=$rspamd" \
    --to ann@bench.test --to bob@bench.test --to cat@bench.test --to dan@bench.test "$@"
echo "held: lazaret $(cd "$project" && "$python" manage.py shell -v 0 -c "
from django.db import connection
with connection.cursor() as cursor:
    cursor.execute('SELECT state, count(*) FROM sp_bench.quarantine_recipient GROUP BY 1')
    print(dict(cursor.fetchall()))
"), peer $(find "$dir/spool/hold" -type f | wc -l) of $(grep -c ': client=' "$dir/maillog")"
uptime
