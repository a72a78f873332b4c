// SPDX-License-Identifier: GPL-2.0-only
// Gives each run of BPF_PROG_TEST_RUN another source address, then goes on with the program that is measured (slot 0 of `next`).
// With an empty slot it shows what the drawing costs.
//
// Listed addresses are those of `address()`, which xtask/src/blocklist.rs has, too: number × an odd constant meets every
// number once and spreads over all of the address space.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define uint_(name, value) int (*name)[value]

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

static long (*const tail_call)(void *ctx, void *programs, u32 slot) = (void *)12;
static u32 (*const random)(void) = (void *)7;

struct {
	uint_(type, 3);
	uint_(max_entries, 1);
	uint_(key_size, 4);
	uint_(value_size, 4);
} next SEC(".maps");

#define XDP_ABORTED 0
#define XDP_DROP 1
#define XDP_PASS 2
#define XDP_TX 3
#define SPREAD 2654435769u
#define SPREAD64 11400714819323198485ull

static inline __attribute__((always_inline)) int draw4(struct xdp_md *ctx, u32 count)
{
	u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
	if (data + 34 > end)
		return XDP_PASS;
	u32 drawn = random();
	*(u32 *)(data + 26) = count ? __builtin_bswap32((drawn & (count - 1)) * SPREAD) : drawn;
	tail_call(ctx, &next, 0);
	return XDP_PASS;
}

static inline __attribute__((always_inline)) int draw6(struct xdp_md *ctx, u32 count)
{
	u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
	if (data + 54 > end)
		return XDP_PASS;
	u32 drawn = random();
	u64 high = (count ? drawn & (count - 1) : drawn | 1ull << 32) * SPREAD64;
	// In 2000::/3.
	*(u64 *)(data + 22) = __builtin_bswap64(high >> 3 | 1ull << 61);
	*(u64 *)(data + 30) = __builtin_bswap64(high);
	tail_call(ctx, &next, 0);
	return XDP_PASS;
}

#define DRAW(name, count)                                                                                              \
	SEC("xdp.frags") int v4_##name(struct xdp_md *ctx)                                                             \
	{                                                                                                              \
		return draw4(ctx, count);                                                                              \
	}                                                                                                              \
	SEC("xdp.frags") int v6_##name(struct xdp_md *ctx)                                                             \
	{                                                                                                              \
		return draw6(ctx, count);                                                                              \
	}

DRAW(any, 0)
DRAW(1, 1)
DRAW(1k, 1 << 10)
DRAW(128k, 1 << 17)
DRAW(1m, 1 << 20)

// Sends the frame back to where it is said to come from, with a right checksum of its IPv4 header.
SEC("xdp.frags") int send4(struct xdp_md *ctx)
{
	u8 *data = (u8 *)(long)ctx->data, *end = (u8 *)(long)ctx->data_end;
	u16 *words = (u16 *)(data + 14);
	u32 sum = 0;

	if (data + 34 > end)
		return XDP_ABORTED;
	words[5] = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	words[5] = ~sum;
	return XDP_TX;
}

// The least that a receiver can do.
SEC("xdp.frags") int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
