# For fastdp.sh and sleeve.sh to source: two hosts as network namespaces with one veth between, and on them a bridge with
# kernel VXLAN built by hand, each with a container. $names is what the names of all namespaces begin with, $mtu that of
# the overlay. All of it goes with remove_namespaces.
# shellcheck shell=bash

in_ns() {
    nsenter --net="/run/netns/$names-$1" "${@:2}"
}

container() {
    ip netns add "$names-$1"
    in_ns "$1" ip link set lo up
}

address() {
    in_ns "$1" ip address add "$3" dev "$2"
    in_ns "$1" ip link set "$2" up
}

underlay() {
    container a
    container b
    ip link add name eth0 netns "$names-a" type veth peer name eth0 netns "$names-b"
    address a eth0 192.0.2.1/24
    address b eth0 192.0.2.2/24
}

by_hand() {
    local host n=1
    for host in a b; do
        container "$host-hand"
        in_ns "$host" ip link add name hand type bridge
        in_ns "$host" ip link add name vx type vxlan id 42 dstport 4789 local "192.0.2.$n" remote "192.0.2.$((3 - n))"
        in_ns "$host" ip link set vx mtu "$mtu" master hand up
        in_ns "$host" ip link add name port type veth peer name eth0 netns "$names-$host-hand"
        in_ns "$host" ip link set port mtu "$mtu" master hand up
        in_ns "$host" ip link set hand up
        in_ns "$host-hand" ip link set eth0 mtu "$mtu"
        address "$host-hand" eth0 "10.40.0.$n/24"
        n=$((n + 1))
    done
}

remove_namespaces() {
    local ns
    for ns in $(ip netns list | awk -v names="$names-" 'index($1, names) == 1 { print $1 }'); do
        ip netns del "$ns" 2>/dev/null || true
    done
}
