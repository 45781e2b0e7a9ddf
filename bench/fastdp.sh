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
wove=target/release/wove
scratch=$(mktemp -d)
pids=()
mtu=1400

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
    "$wove" status --socket "$scratch/a.sock" -o json | grep -E '"path"|"tx_frames"'
}

in_ns() {
    nsenter --net="/run/netns/wove-bench-$1" "${@:2}"
}

underlay() {
    for host in a b; do
        for ns in "$host" "$host-hand" "$host-wove"; do
            ip netns add "wove-bench-$ns"
            in_ns "$ns" ip link set lo up
        done
    done
    ip link add name eth0 netns wove-bench-a type veth peer name eth0 netns wove-bench-b
    address a eth0 192.0.2.1/24
    address b eth0 192.0.2.2/24
}

address() {
    in_ns "$1" ip address add "$3" dev "$2"
    in_ns "$1" ip link set "$2" up
}

by_hand() {
    local host n=1
    for host in a b; do
        in_ns "$host" ip link add name hand type bridge
        in_ns "$host" ip link add name vx type vxlan id 42 dstport 4789 local "192.0.2.$n" remote "192.0.2.$((3 - n))"
        in_ns "$host" ip link set vx mtu "$mtu" master hand up
        in_ns "$host" ip link add name port type veth peer name eth0 netns "wove-bench-$host-hand"
        in_ns "$host" ip link set port mtu "$mtu" master hand up
        in_ns "$host" ip link set hand up
        in_ns "$host-hand" ip link set eth0 mtu "$mtu"
        address "$host-hand" eth0 "10.40.0.$n/24"
        n=$((n + 1))
    done
}

by_wove() {
    local host n=1
    for host in a b; do
        in_ns "$host" "$wove" launch --no-encryption --password bench-of-the-fast-path --mtu "$mtu" \
            --state-dir "$scratch/$host" --socket "$scratch/$host.sock" 192.0.2.1 2>"$scratch/$host.log" &
        pids+=($!)
        until "$wove" attach --socket "$scratch/$host.sock" --netns "wove-bench-$host-wove" "10.41.0.$n/24" \
            >/dev/null 2>&1; do sleep 0.2; done
        n=$((n + 1))
    done
    until "$wove" status --socket "$scratch/a.sock" connections -o json | grep -q '"path": "fastdp"'; do sleep 0.2; done
}

table() {
    local sums=(0 0 0) best="" round i gbit
    for ((round = 0; round < rounds; round++)); do
        i=0
        for way in "a b 192.0.2.2" "a-hand b-hand 10.40.0.2" "a-wove b-wove 10.41.0.2"; do
            # shellcheck disable=SC2086
            gbit=$(measure $way)
            sums[i]=$(awk "BEGIN { print ${sums[i]} + $gbit }")
            i=$((i + 1))
        done
    done
    best=$(awk "BEGIN { printf \"%8.2f %8.2f %8.2f\", ${sums[0]} / $rounds, ${sums[1]} / $rounds, ${sums[2]} / $rounds }")
    printf '%-34s %s\n' "$1" "$best"
}

measure() {
    in_ns "$2" iperf3 -s -1 >/dev/null &
    local server=$!
    sleep 0.3
    in_ns "$1" iperf3 -c "$3" -t "$seconds" -O 1 -f m | awk '/receiver/ { print $7 / 1000 }'
    wait "$server"
}

clean() {
    local pid host ns
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    for host in a b; do
        for ns in "$host" "$host-hand" "$host-wove"; do
            ip netns del "wove-bench-$ns" 2>/dev/null || true
        done
    done
    rm -rf "$scratch"
}

main
