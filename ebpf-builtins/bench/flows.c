// SPDX-License-Identifier: GPL-2.0-only
// The flow aggregator's job written by hand in C, as the measure for the native: Ethernet with up to two VLAN tags, both
// families, ports and flags, a hash of flows with packets, bytes, times and flags, atomically. No fragments, no extension headers, no
// sequence numbers, no events; flows are values of the hash, so user space would lose packets when it takes them out.
//
//   clang -O2 -g -mcpu=v3 -target bpf -c flows.c -o flows.o
//
// Self-contained on purpose: no kernel or libbpf headers needed.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define uint_(name, value) int (*name)[value]

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static void *(*const map_lookup)(void *map, const void *key) = (void *)1;
static long (*const map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static u64 (*const ktime)(void) = (void *)5;
static u64 (*const xdp_get_buff_len)(struct xdp_md *ctx) = (void *)188;

enum { HASH = 1, ARRAY_PERCPU = 6, NOEXIST = 1 };
enum { XDP_PASS = 2 };
enum { OVERFLOW, NON_IP, MALFORMED, STATS_LEN };

struct key {
	u64 src[2], dst[2];
	u16 sport, dport;
	u8 proto, family, has_ports, zero;
	u32 ifindex;
	u16 vlan;
	u8 direction, zero2;
};

struct flow {
	u64 packets, bytes, first, last;
	u32 syns, fins, rsts, flags;
};

struct {
	uint_(type, HASH);
	struct key *key;
	struct flow *value;
	uint_(max_entries, 1 << 18);
} FLOWS SEC(".maps");

struct {
	uint_(type, ARRAY_PERCPU);
	u32 *key;
	u64 *value;
	uint_(max_entries, STATS_LEN);
} STATS SEC(".maps");

static inline __attribute__((always_inline)) int count(u32 stat)
{
	u64 *counter = map_lookup(&STATS, &stat);
	if (counter)
		*counter += 1;
	return XDP_PASS;
}

SEC("xdp.frags")
int flows_c(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct key key = { .ifindex = ctx->ingress_ifindex };
	u8 flags = 0;
	u16 type;

	if (data + 14 > end)
		return count(MALFORMED);
	type = *(u16 *)(data + 12);
	data += 14;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (type != 0x0081 && type != 0xa888)
			break;
		if (data + 4 > end)
			return count(MALFORMED);
		if (!key.vlan)
			key.vlan = __builtin_bswap16(*(u16 *)data) & 0xfff;
		type = *(u16 *)(data + 2);
		data += 4;
	}
	if (type == 0x0008) {
		if (data + 20 > end || *(u8 *)data >> 4 != 4 || (*(u8 *)data & 15) < 5)
			return count(MALFORMED);
		key.family = 2;
		key.proto = *(u8 *)(data + 9);
		key.src[0] = *(u32 *)(data + 12);
		key.dst[0] = *(u32 *)(data + 16);
		data += (*(u8 *)data & 15) * 4;
	} else if (type == 0xdd86) {
		if (data + 40 > end || *(u8 *)data >> 4 != 6)
			return count(MALFORMED);
		key.family = 10;
		key.proto = *(u8 *)(data + 6);
		key.src[0] = *(u64 *)(data + 8);
		key.src[1] = *(u64 *)(data + 16);
		key.dst[0] = *(u64 *)(data + 24);
		key.dst[1] = *(u64 *)(data + 32);
		data += 40;
	} else {
		return count(NON_IP);
	}
	if (key.proto == 6 || key.proto == 17 || key.proto == 132) {
		if (data + 4 > end)
			return count(MALFORMED);
		key.has_ports = 1;
		key.sport = __builtin_bswap16(*(u16 *)data);
		key.dport = __builtin_bswap16(*(u16 *)(data + 2));
		if (key.proto == 6) {
			if (data + 14 > end)
				return count(MALFORMED);
			flags = *(u8 *)(data + 13);
		}
	}

	u64 now = ktime();
	struct flow *flow = map_lookup(&FLOWS, &key);
	if (!flow) {
		struct flow fresh = { .first = now };
		map_update(&FLOWS, &key, &fresh, NOEXIST);
		flow = map_lookup(&FLOWS, &key);
		if (!flow)
			return count(OVERFLOW);
	}
	__sync_fetch_and_add(&flow->packets, 1);
	__sync_fetch_and_add(&flow->bytes, xdp_get_buff_len(ctx));
	flow->last = now;
	if (key.proto == 6) {
		if ((flow->flags & flags) != flags)
			flow->flags |= flags;
		if (flags & 2)
			__sync_fetch_and_add(&flow->syns, 1);
		if (flags & 1)
			__sync_fetch_and_add(&flow->fins, 1);
		if (flags & 4)
			__sync_fetch_and_add(&flow->rsts, 1);
	}
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
