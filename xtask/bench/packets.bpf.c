// The programs that `cargo xtask bench packets` compares with: what somebody would write by hand. XDP, self-contained.
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
struct xdp_md { u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex; };
#define SEC(name) __attribute__((section(name), used))
#define inline_ static inline __attribute__((always_inline))
#define __uint(name, val) int (*name)[val]
#define __type(name, val) typeof(val) *name
static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
#define be16(x) __builtin_bswap16(x)
enum { DROP = 1, PASS = 2 };
struct eth { u8 dst[6], src[6]; u16 type; } __attribute__((packed));
struct ip4 { u8 ihl : 4, version : 4; u8 tos; u16 len, id, frag; u8 ttl, proto; u16 check; u32 src, dst; };
struct ip6 { u32 flow; u16 len; u8 next, hops; u64 src[2], dst[2]; };
struct addr { u64 family, a, b; };
struct five { struct addr src, dst; u64 proto, sport, dport; };
struct lpm { u32 bits, family; u64 a, b; };
struct { __uint(type, 5); __uint(max_entries, 4096); __type(key, struct addr); __type(value, u64); } by_source SEC(".maps");
struct { __uint(type, 5); __uint(max_entries, 4096); __type(key, struct five); __type(value, u64); } by_flow SEC(".maps");
struct { __uint(type, 11); __uint(max_entries, 1024); __uint(map_flags, 1); __type(key, struct lpm); __type(value, u64); } bad SEC(".maps");

// Steps over Ethernet and two tags.
inline_ void *network(void *data, void *end, u16 *type)
{
	struct eth *eth = data;
	if ((void *)(eth + 1) > end) return 0;
	*type = eth->type;
	void *at = eth + 1;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		if (*type != be16(0x8100) && *type != be16(0x88a8)) break;
		if (at + 4 > end) return 0;
		*type = *(u16 *)(at + 2);
		at += 4;
	}
	return at;
}

inline_ int addresses(void *at, void *end, u16 type, struct addr *src, struct addr *dst, u8 *proto, void **l4)
{
	if (type == be16(0x0800)) {
		struct ip4 *ip = at;
		if ((void *)(ip + 1) > end || ip->version != 4) return 0;
		*src = (struct addr){ 2, ip->src, 0 };
		*dst = (struct addr){ 2, ip->dst, 0 };
		*proto = ip->proto;
		*l4 = (ip->frag & be16(0x1fff)) || ip->ihl < 5 ? 0 : at + ip->ihl * 4;
		return 1;
	}
	if (type == be16(0x86dd)) {
		struct ip6 *ip = at;
		if ((void *)(ip + 1) > end || (*(u8 *)at >> 4) != 6) return 0;
		*src = (struct addr){ 10, ip->src[0], ip->src[1] };
		*dst = (struct addr){ 10, ip->dst[0], ip->dst[1] };
		*proto = ip->next;
		*l4 = ip + 1;
#pragma unroll
		for (int i = 0; i < 6; i++) {
			u8 *h = *l4;
			if (*proto != 0 && *proto != 43 && *proto != 60 && *proto != 44) break;
			if ((void *)(h + 8) > end) { *l4 = 0; break; }
			*l4 = h + (*proto == 44 ? 8 : (h[1] + 1) * 8);
			*proto = h[0];
		}
		return 1;
	}
	return 0;
}

SEC("xdp") int count_source(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *l4;
	u16 type; u8 proto; struct addr src, dst;
	void *at = network(data, end, &type);
	if (!at || !addresses(at, end, type, &src, &dst, &proto, &l4)) return PASS;
	u64 *n = lookup(&by_source, &src), zero = 0;
	if (!n) { update(&by_source, &src, &zero, 1); n = lookup(&by_source, &src); }
	if (n) *n += 1;
	return PASS;
}

SEC("xdp") int drop_port(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *l4;
	u16 type; u8 proto; struct addr src, dst;
	void *at = network(data, end, &type);
	if (!at || !addresses(at, end, type, &src, &dst, &proto, &l4)) return PASS;
	if (!l4 || proto != 6 || l4 + 20 > end) return PASS;
	return *(u16 *)(l4 + 2) == be16(443) ? DROP : PASS;
}

SEC("xdp") int member(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *l4;
	u16 type; u8 proto; struct addr src, dst;
	void *at = network(data, end, &type);
	if (!at || !addresses(at, end, type, &src, &dst, &proto, &l4)) return PASS;
	struct lpm key = { 160, src.family, src.a, src.b };
	return lookup(&bad, &key) ? DROP : PASS;
}

SEC("xdp") int count_flow(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end, *l4;
	u16 type; u8 proto; struct five key = {};
	void *at = network(data, end, &type);
	if (!at || !addresses(at, end, type, &key.src, &key.dst, &proto, &l4)) return PASS;
	key.proto = proto;
	if (!l4 || (proto != 6 && proto != 17 && proto != 132) || l4 + 8 > end) return PASS;
	key.sport = be16(*(u16 *)l4);
	key.dport = be16(*(u16 *)(l4 + 2));
	u64 *n = lookup(&by_flow, &key), zero = 0;
	if (!n) { update(&by_flow, &key, &zero, 1); n = lookup(&by_flow, &key); }
	if (n) *n += 1;
	return PASS;
}
SEC("xdp") int lower_ttl(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u16 type;
	void *at = network(data, end, &type);
	if (!at) return PASS;
	if (type == be16(0x0800)) {
		struct ip4 *ip = at;
		if ((void *)(ip + 1) > end || ip->version != 4) return PASS;
		ip->ttl--;
		// RFC 1624: the word with the time to live became smaller by 0x100.
		u32 sum = ip->check + be16(0x0100);
		ip->check = sum + (sum >> 16);
	} else if (type == be16(0x86dd)) {
		struct ip6 *ip = at;
		if ((void *)(ip + 1) > end || (*(u8 *)at >> 4) != 6) return PASS;
		ip->hops--;
	}
	return PASS;
}
char _license[] SEC("license") = "GPL";
