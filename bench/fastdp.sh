#!/usr/bin/env bash
# TCP throughput of the fast path beside a bridge and kernel VXLAN built by hand, in turns, over one veth:
#
#   cargo build --release && bench/fastdp.sh [ROUNDS [SECONDS]]
#
# Needs root, iproute2, iperf3 and ethtool. All it makes is in namespaces of its own (wove-bench-...), which are
# removed at the end; the processes it ends are those it started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${1:-3}
seconds=${2:-5}
wove=${WOVE:-target/release/wove}
scratch=$(mktemp -d)
pids=()
names=wove-bench
mtu=1400
. bench/hosts.sh

main() {
    trap clean EXIT
    underlay
    by_hand
    by_wove
    printf '%-34s %8s %8s %8s   (Gbit/s, %s rounds of %s s, inner MTU %s)\n' "" underlay by-hand fastdp "$rounds" "$seconds" "$mtu"
    table "as it is"
    for host in a b; do
        in_ns "$host" ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off >/dev/null
    done
    table "tx-udp_tnl-segmentation off"
    # As a network card does. A veth joins what it receives only if it is told, and if its other end does not segment.
    for host in a b; do in_ns "$host" ethtool -K eth0 tso off gro on >/dev/null; done
    table "the same, tso off, gro on"
    "$wove" status --socket "$scratch/a.sock" -o json | grep -E '"path"|"tx_frames"'
}

by_wove() {
    local host n=1
    for host in a b; do
        container "$host-wove"
        # Not by a function: in the background that would be a shell, and the daemon would outlive it.
        nsenter --net="/run/netns/$names-$host" "$wove" launch --no-encryption --password bench-of-the-fast-path --mtu "$mtu" \
            --state-dir "$scratch/$host" --socket "$scratch/$host.sock" 192.0.2.1 2>"$scratch/$host.log" &
        pids+=($!)
        until "$wove" attach --socket "$scratch/$host.sock" --netns "$names-$host-wove" "10.41.0.$n/24" \
            >/dev/null 2>&1; do sleep 0.2; done
        n=$((n + 1))
    done
    until "$wove" status --socket "$scratch/a.sock" connections -o json | grep -q '"path": "fastdp"'; do sleep 0.2; done
}

table() {
    local sums=(0 0 0) round i gbit
    for ((round = 0; round < rounds; round++)); do
        i=0
        for way in "a b 192.0.2.2" "a-hand b-hand 10.40.0.2" "a-wove b-wove 10.41.0.2"; do
            # shellcheck disable=SC2086
            gbit=$(measure $way)
            sums[i]=$(awk "BEGIN { print ${sums[i]} + $gbit }")
            i=$((i + 1))
        done
    done
    printf '%-34s %s\n' "$1" \
        "$(awk "BEGIN { printf \"%8.2f %8.2f %8.2f\", ${sums[0]} / $rounds, ${sums[1]} / $rounds, ${sums[2]} / $rounds }")"
}

measure() {
    in_ns "$2" iperf3 -s -1 >/dev/null &
    local server=$!
    sleep 0.3
    in_ns "$1" iperf3 -c "$3" -t "$seconds" -O 1 -f m | awk '/receiver/ { print $7 / 1000 }'
    wait "$server"
}

clean() {
    local pid
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    remove_namespaces
    rm -rf "$scratch"
}

main
