#!/usr/bin/env bash
# The sleeve (frames through userspace, encrypted) beside a bridge and kernel VXLAN built by hand, in turns, over one veth:
#
#   cargo build --release && bench/sleeve.sh [ROUNDS [SECONDS]]
#
# Per way: one TCP flow in Gbit/s and CPU seconds of its daemons (both ends) per GB, 64-byte UDP in thousands received
# per second, ping under TCP load, memory. Medians of the rounds, and ranges. First with all offloads on the underlay,
# then without any, as with a network card that has none. WOVE names another binary; WAYS chooses and orders the ways:
# one is added by two functions, NAME_up and NAME_pids. Needs root, iproute2, iperf3, ethtool and ping. All it makes is
# in namespaces of its own (wove-sleeve-...), which are removed at the end; the processes it ends are those it started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${1:-3}
seconds=${2:-4}
wove=${WOVE:-target/release/wove}
ways=${WAYS:-hand wove}
scratch=$(mktemp -d)
names=wove-sleeve
mtu=1400
pids=()
declare -A addresses
. bench/hosts.sh

main() {
    trap clean EXIT
    local way
    underlay
    for way in $ways; do "${way}_up"; done
    printf '%s rounds of %s s, inner MTU %s: median (least to most)\n' "$rounds" "$seconds" "$mtu"
    compare "offloads on the underlay"
    local host
    for host in a b; do
        in_ns "$host" ethtool -K eth0 tso off gso off gro off tx-udp-segmentation off \
            tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off >/dev/null 2>&1
        in_ns "$host" ip link set eth0 gso_max_segs 1
    done
    compare "no offloads on the underlay"
}

hand_up() {
    by_hand
    addresses[hand]=10.40.0.2
}

hand_pids() { :; }

wove_up() {
    local host n=1 token
    token=$(make_token)
    for host in a b; do
        container "$host-wove"
        (umask 077 && echo "$token" >"$scratch/token")
        # Not by a function: in the background that would be a shell, and the pid is read.
        nsenter --net="/run/netns/$names-$host" "$wove" launch --no-fastdp --token-file "$scratch/token" --mtu "$mtu" \
            --state-dir "$scratch/$host" --socket "$scratch/$host.sock" 192.0.2.1 2>"$scratch/$host.log" &
        pids+=($!)
        echo "$!" >>"$scratch/wove.pids"
        until "$wove" attach --socket "$scratch/$host.sock" --netns "$names-$host-wove" "10.41.0.$n/24" \
            >/dev/null 2>&1; do sleep 0.2; done
        n=$((n + 1))
    done
    until "$wove" status --socket "$scratch/a.sock" connections -o json | grep -q '"path": "sleeve"'; do sleep 0.2; done
    addresses[wove]=10.41.0.2
}

wove_pids() { cat "$scratch/wove.pids"; }

# A peer without a secret makes one.
make_token() {
    nsenter --net="/run/netns/$names-a" "$wove" launch --no-fastdp --state-dir "$scratch/first" --socket "$scratch/first.sock" \
        2>/dev/null &
    local first=$!
    until "$wove" token --socket "$scratch/first.sock" 2>/dev/null; do sleep 0.1; done
    "$wove" reset --socket "$scratch/first.sock" >/dev/null
    wait "$first" || true
}

compare() {
    local round way
    rm -f "$scratch"/*.figures
    for ((round = 0; round < rounds; round++)); do
        for way in $ways; do
            in_ns "a-$way" ping -n -q -c 20 -i 0.01 -W 1 "${addresses[$way]}" >/dev/null
            tcp "$way"
            loaded_ping "$way"
            small "$way"
        done
    done
    printf '\n%-6s %-22s %-20s %-20s %-18s %-18s %s\n' "" "TCP Gbit/s" "daemons' CPU s/GB" "64 B UDP kpps" \
        "loaded p50 ms" "loaded p99 ms" "most MiB   ($1)"
    for way in $ways; do
        printf '%-6s %-22s %-20s %-20s %-18s %-18s %s\n' "$way" "$(figure "$way" gbit)" "$(figure "$way" cpu)" \
            "$(figure "$way" kpps)" "$(figure "$way" p50)" "$(figure "$way" p99)" "$(memory "$way")"
    done
}

# One field of iperf3's JSON: the first after the last line that has the section's name.
field() {
    awk -v section="\"$2\"" -v name="\"$3\":" \
        'index($1, section) == 1 { on = 1; next } on && $1 == name { gsub(",", "", $2); value = $2; on = 0 } END { print value }' "$1"
}

iperf() {
    local way=$1 server
    shift
    in_ns "b-$way" iperf3 -s -1 >/dev/null &
    server=$!
    sleep 0.3
    in_ns "a-$way" iperf3 -J -c "${addresses[$way]}" -t "$seconds" "$@" >"$scratch/json" || true
    wait "$server" || true
}

tcp() {
    local before after bytes
    before=$(cpu "$1")
    iperf "$1" -C cubic
    after=$(cpu "$1")
    bytes=$(field "$scratch/json" sum_received bytes)
    note "$1" gbit "$(awk "BEGIN { printf \"%.2f\", $(field "$scratch/json" sum_received bits_per_second) / 1e9 }")"
    note "$1" cpu "$(awk "BEGIN { printf \"%.2f\", ($after - $before) / ($bytes / 1e9) }")"
}

# CPU seconds of a way's daemons so far.
cpu() {
    local pid total=0
    for pid in $("${1}_pids"); do
        total=$(sed 's/.*) //' "/proc/$pid/stat" | awk -v t="$total" -v hz="$(getconf CLK_TCK)" '{ print t + ($12 + $13) / hz }')
    done
    echo "$total"
}

loaded_ping() {
    iperf "$1" -C cubic &
    local load=$!
    sleep 1
    in_ns "a-$1" ping -n -i 0.005 -c $(((seconds - 1) * 180)) -W 1 "${addresses[$1]}" >"$scratch/ping" || true
    wait "$load"
    sed -n 's/.*time=\([0-9.]*\) ms/\1/p' "$scratch/ping" | sort -n >"$scratch/times"
    note "$1" p50 "$(awk '{ t[NR] = $1 } END { printf "%.2f", t[int((NR + 1) * 0.5)] }' "$scratch/times")"
    note "$1" p99 "$(awk '{ t[NR] = $1 } END { printf "%.2f", t[int((NR + 1) * 0.99)] }' "$scratch/times")"
}

small() {
    iperf "$1" -u -b 0 -l 64
    note "$1" kpps "$(awk "BEGIN { printf \"%.0f\", ($(field "$scratch/json" sum packets) - $(field "$scratch/json" sum lost_packets)) / $(field "$scratch/json" sum seconds) / 1000 }")"
}

note() {
    echo "$3" >>"$scratch/$1.$2.figures"
}

figure() {
    sort -n "$scratch/$1.$2.figures" | awk '{ v[NR] = $1 } END { printf "%s (%s to %s)", v[int((NR + 1) / 2)], v[1], v[NR] }'
}

memory() {
    local pid most=0 peak
    for pid in $("${1}_pids"); do
        peak=$(awk '/VmHWM/ { print int($2 / 1024) }' "/proc/$pid/status")
        if ((peak > most)); then most=$peak; fi
    done
    echo "$most"
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
