#!/bin/sh
# Runs the checks of an acceptance suite again and again on a busy host: accept.sh SUITE N [GLOB...]
# SUITE is a directory with accept.py, N the number of rounds, GLOB the checks (C-* if nothing is said). VM is the program to judge
# (target/release/reprise). Beside them BUSY loops run (4), and its processes stand still at random moments. Status 1 if a check failed.
set -eu
[ $# -ge 2 ] || { echo "usage: accept.sh SUITE N [GLOB...]" >&2; exit 2; }
suite=$1 rounds=$2
shift 2
[ -x "$suite/accept.py" ] || { echo "accept.sh: $suite: no accept.py there" >&2; exit 2; }
case "$rounds" in '' | *[!0-9]*) echo "accept.sh: $rounds: not a number" >&2; exit 2 ;; esac
[ $# -gt 0 ] || set -- 'C-*'
top=$(cd "$(dirname "$0")/../.." && pwd)
vm=${VM:-$top/target/release/reprise}
[ -x "$vm" ] || { echo "accept.sh: $vm: no such program; cargo build --release -p broker, or set VM" >&2; exit 2; }

loops=
trap '[ -z "$loops" ] || kill $loops 2>/dev/null || :' EXIT
trap 'exit 130' INT TERM
count=0
while [ "$count" -lt "${BUSY:-4}" ]; do
    (while :; do :; done) &
    loops="$loops $!"
    count=$((count + 1))
done

"$top/tests/load/disturb.py" $$ "$vm" &
loops="$loops $!"

failed=0 round=1
while [ "$round" -le "$rounds" ]; do
    echo "round $round of $rounds"
    "$suite/accept.py" --vm "$vm" "$@" || failed=$((failed + 1))
    round=$((round + 1))
done
echo "$((rounds - failed)) of $rounds rounds good"
[ "$failed" -eq 0 ]
