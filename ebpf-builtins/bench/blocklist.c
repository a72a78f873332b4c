// SPDX-License-Identifier: GPL-2.0-only
// The blocklist's job written by hand in C, as the measure for the native: Ethernet with up to two VLAN tags, both
// families, longest prefix of the source, hits per prefix, counters, drop. No settings, no events: what one would
// write for the one case. Maps are named as in the native, with the same keys and values.
//
//   clang -O2 -g -mcpu=v3 -target bpf -c blocklist.c -o blocklist.o
//
// Self-contained on purpose: no kernel or libbpf headers needed.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define inline_ static inline __attribute__((always_inline))
#define uint_(name, value) int (*name)[value]

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const xdp_get_buff_len)(struct xdp_md *ctx) = (void *)188;

enum { ARRAY_PERCPU = 6, HASH_PERCPU = 5, LPM_TRIE = 11, NO_PREALLOC = 1 };
enum { XDP_DROP = 1, XDP_PASS = 2 };
enum { PASSED, DROPPED, ALLOWED, MALFORMED, NON_IP, NEIGHBOUR, UNCOUNTED, STATS_LEN };

struct lpm4 {
	u32 len;
	u32 addr;
};
struct lpm6 {
	u32 len;
	u32 addr[4];
};
struct hits {
	u64 packets, bytes;
};

#define MAP(name, kind, k, v, max, map_fl)                                                                             \
	struct {                                                                                                       \
		uint_(type, kind);                                                                                     \
		k *key;                                                                                                \
		v *value;                                                                                              \
		uint_(max_entries, max);                                                                               \
		uint_(map_flags, map_fl);                                                                              \
	} name SEC(".maps")

MAP(BLOCK4, LPM_TRIE, struct lpm4, struct lpm4, 1 << 20, NO_PREALLOC);
MAP(BLOCK6, LPM_TRIE, struct lpm6, struct lpm6, 1 << 20, NO_PREALLOC);
MAP(HITS4, HASH_PERCPU, struct lpm4, struct hits, 1 << 20, NO_PREALLOC);
MAP(HITS6, HASH_PERCPU, struct lpm6, struct hits, 1 << 20, NO_PREALLOC);
MAP(STATS, ARRAY_PERCPU, u32, u64, STATS_LEN, 0);

inline_ void count(u32 stat)
{
	u64 *counter = map_lookup(&STATS, &stat);
	if (counter)
		*counter += 1;
}

inline_ void hit(struct xdp_md *ctx, void *map, void *entry)
{
	u64 bytes = xdp_get_buff_len(ctx);
	struct hits *hits = map_lookup(map, entry);
	if (hits) {
		hits->packets += 1;
		hits->bytes += bytes;
	} else {
		struct hits first = { 1, bytes };
		if (map_update(map, entry, &first, 0))
			count(UNCOUNTED);
	}
}

SEC("xdp.frags")
int blocklist_c(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 outcome = MALFORMED;
	int verdict = XDP_PASS;
	u16 type;

	if (data + 14 > end)
		goto out;
	type = *(u16 *)(data + 12);
	data += 14;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type != 0x0081 && type != 0xa888)
			break;
		if (data + 4 > end)
			goto out;
		type = *(u16 *)(data + 2);
		data += 4;
	}

	if (type == 0x0008) {
		if (data + 20 > end || *(u8 *)data >> 4 != 4 || (*(u8 *)data & 15) < 5)
			goto out;
		struct lpm4 key = { 32, *(u32 *)(data + 12) };
		struct lpm4 *entry = map_lookup(&BLOCK4, &key);
		outcome = PASSED;
		if (entry) {
			hit(ctx, &HITS4, entry);
			outcome = DROPPED;
			verdict = XDP_DROP;
		}
	} else if (type == 0xdd86) {
		if (data + 40 > end || *(u8 *)data >> 4 != 6)
			goto out;
		u32 *src = data + 8;
		struct lpm6 key = { 128, { src[0], src[1], src[2], src[3] } };
		struct lpm6 *entry = map_lookup(&BLOCK6, &key);
		outcome = PASSED;
		// Neighbour discovery: only directly behind the header.
		if (entry && *(u8 *)(data + 6) == 58 && data + 41 <= end && *(u8 *)(data + 40) - 133u < 5) {
			outcome = NEIGHBOUR;
		} else if (entry) {
			hit(ctx, &HITS6, entry);
			outcome = DROPPED;
			verdict = XDP_DROP;
		}
	} else {
		outcome = NON_IP;
	}
out:
	count(outcome);
	return verdict;
}

char LICENSE[] SEC("license") = "GPL";
