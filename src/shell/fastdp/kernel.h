// The part of the kernel's interface to programs that fastdp.bpf.c uses, written out so that clang alone builds
// it: the same bytes come out whatever headers a machine has. Layouts and numbers are those of linux/bpf.h and
// linux/pkt_cls.h, which never change.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SECTION(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NETWORK16(x) __builtin_bswap16(x) // both targets are little-endian

// The members of a map's description; the loader reads their types.
#define NUMBER(name, value) int(*name)[value]
#define TYPE(name, type) typeof(type) *name

enum map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
};
// Elements are allocated one by one and freed after a grace period: an update is seen whole or not at all.
#define BPF_F_NO_PREALLOC 1

enum { TC_ACT_OK = 0, TC_ACT_SHOT = 2 };
enum { BPF_F_INGRESS = 1 };                                                            // redirect
enum { BPF_F_TUNINFO_IPV6 = 1, BPF_F_ZERO_CSUM_TX = 2, BPF_F_DONT_FRAGMENT = 4 };      // tunnel keys

// What the verifier lets a program see of a packet.
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};

struct bpf_tunnel_key {
	u32 tunnel_id;
	u32 remote[4]; // IPv4: host order, in the first; IPv6: network order
	u8 tunnel_tos, tunnel_ttl;
	u16 tunnel_flags;
	u32 tunnel_label;
	u32 local[4]; // since Linux 6.0
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static long (*const bpf_skb_store_bytes)(struct __sk_buff *, u32 at, const void *from, u32 len, u64 flags) = (void *)9;
static long (*const bpf_skb_get_tunnel_key)(struct __sk_buff *, struct bpf_tunnel_key *, u32 size, u64 flags) = (void *)20;
static long (*const bpf_skb_set_tunnel_key)(struct __sk_buff *, struct bpf_tunnel_key *, u32 size, u64 flags) = (void *)21;
static long (*const bpf_redirect)(u32 ifindex, u64 flags) = (void *)23;
static long (*const bpf_skb_load_bytes)(const struct __sk_buff *, u32 at, void *to, u32 len) = (void *)26;
