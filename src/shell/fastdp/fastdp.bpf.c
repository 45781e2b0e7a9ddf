// The kernel's half of the fast path: three programs between the TAP and the VXLAN device.
//
//   bridge ──▶ TAP egress: to_peer ─────── known station, proven path ──▶ VXLAN device ──▶ peer
//                 └── all else ──▶ userspace (sleeve)
//   peer ──▶ VXLAN device ingress: from_peer ── VNI and source belong together ──▶ TAP ingress ──▶ bridge
//                 ├── probe ──▶ userspace (packet socket)
//                 └── all else: dropped and counted
//   userspace (packet socket) ──▶ VXLAN device egress: probe ──▶ peer
//
// The maps are written by userspace alone, except for counters and times. A peer is named by the VNI that it was
// given to send to this host with: `index`. Keep the structures in step with table.rs.

#include "kernel.h"

struct mac {
	u8 bytes[6];
	u16 zero;
};

struct ethernet {
	u8 destination[6], source[6];
	u16 type;
};

enum { TYPE_ARP = 0x0806, TYPE_IPV6 = 0x86dd, TYPE_VLAN = 0x8100, TYPE_QINQ = 0x88a8, TYPE_PROBE = 0x88b5 };
enum { ICMPV6 = 58, ND_FIRST = 133, ND_LAST = 137 };
enum { SECOND = 1000000000 };
// The priority of what the VXLAN device sends, by which the table of nftables knows it: no user without
// capabilities can set one above 6, and for a queueing discipline it is like 0. Keep in step with barrier/mod.rs.
enum { PRIORITY = 0x776f0000 };

// Where the two devices are.
struct settings {
	u32 tap, tunnel;
};

enum { PEER_UP = 1, PEER_IPV6 = 2, PEER_FROM_IPV4 = 4, PEER_FROM_IPV6 = 8 };

struct peer {
	u32 flags;
	u32 vni;       // to send with; 0: not known yet
	u32 remote[4]; // where to send to, as in bpf_tunnel_key
	u32 local[4];  // to send from; all zero: the kernel chooses
	u32 source[4]; // where frames from it must come from
};

struct tally {
	u64 rx_frames, rx_bytes, tx_frames, tx_bytes;
};

enum drop { DROP_FOREIGN_VNI, DROP_FOREIGN_SOURCE, DROP_MALFORMED, DROPS };

struct {
	NUMBER(type, BPF_MAP_TYPE_ARRAY);
	NUMBER(max_entries, 1);
	TYPE(key, u32);
	TYPE(value, struct settings);
} settings SECTION(".maps");

// Stations behind others: to the peer's index.
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 262144);
	TYPE(key, struct mac);
	TYPE(value, u32);
} stations SECTION(".maps");

// Stations of this host: when each last sent something this way, in nanoseconds since boot.
struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 16384);
	TYPE(key, struct mac);
	TYPE(value, u64);
} locals SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 16384);
	TYPE(key, u32);
	TYPE(value, struct peer);
} peers SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_HASH);
	NUMBER(map_flags, BPF_F_NO_PREALLOC);
	NUMBER(max_entries, 16384);
	TYPE(key, u32);
	TYPE(value, struct tally);
} tallies SECTION(".maps");

struct {
	NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	NUMBER(max_entries, DROPS);
	TYPE(key, u32);
	TYPE(value, u64);
} drops SECTION(".maps");

// The destination of a probe between userspace and these programs: the index of its peer.
static const u8 probe_prefix[3] = {0x02, 0x77, 0x76};

INLINE int drop(u32 reason)
{
	u64 *count = bpf_map_lookup_elem(&drops, &reason);
	if (count)
		*count += 1;
	return TC_ACT_SHOT;
}

INLINE struct mac mac(const u8 *bytes)
{
	struct mac mac = {};
	__builtin_memcpy(mac.bytes, bytes, 6);
	return mac;
}

INLINE int is_group(const u8 *mac)
{
	return mac[0] & 1;
}

INLINE int has_tag(struct __sk_buff *skb, const struct ethernet *header)
{
	return skb->vlan_present || header->type == NETWORK16(TYPE_VLAN) || header->type == NETWORK16(TYPE_QINQ);
}

// A super-frame counts as what it becomes on the wire.
INLINE u64 frames(struct __sk_buff *skb)
{
	return skb->gso_segs ? skb->gso_segs : 1;
}

INLINE int set_key(struct __sk_buff *skb, const struct peer *peer)
{
	struct bpf_tunnel_key key = {.tunnel_id = peer->vni, .tunnel_ttl = 64};
	// IPv4 needs no outer checksum; over IPv6 a receiver may insist on one.
	u64 flags = BPF_F_DONT_FRAGMENT | (peer->flags & PEER_IPV6 ? BPF_F_TUNINFO_IPV6 : BPF_F_ZERO_CSUM_TX);
	__builtin_memcpy(key.remote, peer->remote, sizeof key.remote);
	__builtin_memcpy(key.local, peer->local, sizeof key.local);
	return bpf_skb_set_tunnel_key(skb, &key, sizeof key, flags);
}

// Neighbour discovery between two stations: userspace learns addresses from it.
INLINE int is_neighbour_discovery(struct __sk_buff *skb)
{
	u8 next, type;
	return !bpf_skb_load_bytes(skb, 14 + 6, &next, 1) && next == ICMPV6 &&
	       !bpf_skb_load_bytes(skb, 14 + 40, &type, 1) && type >= ND_FIRST && type <= ND_LAST;
}

// A frame that the bridge gives to the TAP. TC_ACT_OK leaves it to userspace.
SECTION("classifier") int to_peer(struct __sk_buff *skb)
{
	struct ethernet header;
	if (bpf_skb_load_bytes(skb, 0, &header, sizeof header) || is_group(header.destination) || has_tag(skb, &header))
		return TC_ACT_OK;
	// No container's frame may look like a probe on the other side.
	if (header.type == NETWORK16(TYPE_PROBE) || header.type == NETWORK16(TYPE_ARP))
		return TC_ACT_OK;
	if (header.type == NETWORK16(TYPE_IPV6) && is_neighbour_discovery(skb))
		return TC_ACT_OK;

	struct mac destination = mac(header.destination), source = mac(header.source);
	u32 *index = bpf_map_lookup_elem(&stations, &destination);
	if (!index)
		return TC_ACT_OK;
	u32 peer_index = *index, zero = 0;
	struct peer *peer = bpf_map_lookup_elem(&peers, &peer_index);
	if (!peer || !(peer->flags & PEER_UP))
		return TC_ACT_OK;
	u64 *seen = bpf_map_lookup_elem(&locals, &source);
	if (!seen)
		return TC_ACT_OK;
	struct settings *devices = bpf_map_lookup_elem(&settings, &zero);
	if (!devices || set_key(skb, peer))
		return TC_ACT_OK;

	u64 now = bpf_ktime_get_ns();
	if (now - *seen > SECOND)
		*seen = now;
	struct tally *tally = bpf_map_lookup_elem(&tallies, &peer_index);
	if (tally) {
		tally->tx_frames += frames(skb);
		tally->tx_bytes += skb->len;
	}
	return bpf_redirect(devices->tunnel, 0);
}

// Whether the outer source is where frames with this VNI have to come from.
INLINE int is_from(const struct peer *peer, const struct bpf_tunnel_key *key, int ipv6)
{
	if (!(peer->flags & (ipv6 ? PEER_FROM_IPV6 : PEER_FROM_IPV4)))
		return 0;
	if (!ipv6)
		return peer->source[0] == key->remote[0];
	return peer->source[0] == key->remote[0] && peer->source[1] == key->remote[1] &&
	       peer->source[2] == key->remote[2] && peer->source[3] == key->remote[3];
}

// A frame that came out of VXLAN. Nothing of it but probes may reach this host's own stack.
SECTION("classifier") int from_peer(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	int ipv6 = 0;
	if (bpf_skb_get_tunnel_key(skb, &key, sizeof key, 0)) {
		ipv6 = 1;
		if (bpf_skb_get_tunnel_key(skb, &key, sizeof key, BPF_F_TUNINFO_IPV6))
			return drop(DROP_MALFORMED);
	}
	u32 index = key.tunnel_id, zero = 0;
	struct peer *peer = bpf_map_lookup_elem(&peers, &index);
	if (!peer)
		return drop(DROP_FOREIGN_VNI);
	if (!is_from(peer, &key, ipv6))
		return drop(DROP_FOREIGN_SOURCE);

	struct ethernet header;
	if (bpf_skb_load_bytes(skb, 0, &header, sizeof header) || has_tag(skb, &header))
		return drop(DROP_MALFORMED);
	if (header.type == NETWORK16(TYPE_PROBE)) {
		// Userspace has to know which peer's VNI it came with.
		u8 to[6] = {probe_prefix[0], probe_prefix[1], probe_prefix[2], index >> 16, index >> 8, index};
		return bpf_skb_store_bytes(skb, 0, to, sizeof to, 0) ? drop(DROP_MALFORMED) : TC_ACT_OK;
	}
	// Groups travel by sleeve, along their source's tree.
	if (is_group(header.source) || is_group(header.destination))
		return drop(DROP_MALFORMED);
	struct settings *devices = bpf_map_lookup_elem(&settings, &zero);
	if (!devices)
		return drop(DROP_MALFORMED);
	struct tally *tally = bpf_map_lookup_elem(&tallies, &index);
	if (tally) {
		tally->rx_frames += frames(skb);
		tally->rx_bytes += skb->len;
	}
	return bpf_redirect(devices->tap, BPF_F_INGRESS);
}

// A frame that leaves through VXLAN: one from the TAP has its key, and a probe of userspace gets it here. What
// has none is dropped by the device.
SECTION("classifier") int probe(struct __sk_buff *skb)
{
	struct ethernet header;
	skb->priority = PRIORITY;
	if (bpf_skb_load_bytes(skb, 0, &header, sizeof header) || header.type != NETWORK16(TYPE_PROBE))
		return TC_ACT_OK;
	const u8 *to = header.destination;
	if (to[0] != probe_prefix[0] || to[1] != probe_prefix[1] || to[2] != probe_prefix[2])
		return TC_ACT_SHOT;
	u32 index = to[3] << 16 | to[4] << 8 | to[5];
	struct peer *peer = bpf_map_lookup_elem(&peers, &index);
	if (!peer || !peer->vni || set_key(skb, peer))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

char dual_license[] SECTION("license") = "Dual MIT/GPL";
