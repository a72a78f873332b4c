#!/bin/sh
# Makes the captures of this folder again: real traffic between two network namespaces, taken by tcpdump.
# Needs root, iproute2, tcpdump, curl, python3 and /dev/net/tun. Times and random numbers differ from run to run; what the
# tests say of the captures does not depend on them.
set -eu
cd "$(dirname "$0")"
a=weir-cap-a-$$ b=weir-cap-b-$$
work=$(mktemp -d)
pids=
cleanup() {
    for pid in $pids; do kill "$pid" 2>/dev/null || :; done
    ip netns del $a 2>/dev/null || :
    ip netns del $b 2>/dev/null || :
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

ip netns add $a
ip netns add $b
ip -n $a link add veth0 type veth peer name veth1 netns $b
ip -n $a addr add 10.9.0.1/24 dev veth0
ip -n $b addr add 10.9.0.2/24 dev veth1
ip -n $a addr add fd09::1/64 dev veth0 nodad
ip -n $b addr add fd09::2/64 dev veth1 nodad
for ns in $a $b; do ip -n $ns link set lo up; done
ip -n $a link set veth0 up
ip -n $b link set veth1 up

# capture FILE NAMESPACE INTERFACE COMMAND...: what tcpdump sees while the command runs.
capture() {
    file=$1 ns=$2 iface=$3
    shift 3
    ip netns exec $ns tcpdump -i "$iface" -w "$file" -U ${link:+-y $link} ${filter:+"$filter"} 2>"$work/said" &
    tcpdump=$!
    pids="$pids $tcpdump"
    until grep -q 'listening on' "$work/said"; do sleep 0.1; done
    "$@"
    sleep 1
    kill -INT $tcpdump
    wait $tcpdump || :
}

cat >"$work/dns.py" <<'P'
# Answers every question: names that start with "no" do not exist, all others are 192.0.2.7.
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 53))
while True:
    q, peer = s.recvfrom(512)
    missing = q[13:15] == b"no"
    head = q[:2] + (b"\x81\x83" if missing else b"\x81\x80") + q[4:6] + (b"\0\0" if missing else b"\0\1") + b"\0\0\0\0"
    answer = b"" if missing else b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([192, 0, 2, 7])
    s.sendto(head + q[12:] + answer, peer)
P
cat >"$work/ask.py" <<'P'
import socket, struct
for family, server in ((socket.AF_INET, "10.9.0.2"), (socket.AF_INET6, "fd09::2")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    for n, (name, kind) in enumerate([("example.org", 1), ("www.example.org", 28), ("no.such.example", 1)]):
        labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
        s.sendto(struct.pack("!6H", 0x1000 + n, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1), (server, 53))
        s.recv(512)
P
cat >"$work/ping.py" <<'P'
import socket, struct
def total(data):
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    s = (s >> 16) + (s & 0xffff)
    return ~(s + (s >> 16)) & 0xffff
for n in range(3):
    body = struct.pack("!2H", 7, n) + b"weir" * 10
    head = struct.pack("!BBH", 8, 0, total(struct.pack("!BBH", 8, 0, 0) + body))
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.sendto(head + body, ("10.9.0.2", 0))
    s.recv(512)
    s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.getprotobyname("ipv6-icmp"))
    s.sendto(struct.pack("!BBH", 128, 0, 0) + body, ("fd09::2", 0))
    s.recv(512)
P
cat >"$work/vlan.py" <<'P'
# Frames with one tag and with two; this needs no 8021q device.
import socket, struct
def total(data):
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    s = (s >> 16) + (s & 0xffff)
    return ~(s + (s >> 16)) & 0xffff
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("veth0", 0))
mac = b"\2\0\0\0\0\1"
for tags in ([(0x8100, 5)], [(0x8100, 0x6005)], [(0x88a8, 7), (0x8100, 9)]):
    for port in (53, 443):
        udp = struct.pack("!4H", 4000, port, 12, 0) + b"weir"
        ip = bytearray(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, bytes([10, 9, 0, 1]), bytes([10, 9, 0, 2])))
        ip[10:12] = struct.pack("!H", total(ip))
        s.send(mac + mac + b"".join(struct.pack("!2H", *t) for t in tags) + b"\x08\0" + ip + udp)
P
cat >"$work/large.py" <<'P'
import socket
for family, to in ((socket.AF_INET, "10.9.0.2"), (socket.AF_INET6, "fd09::2")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.sendto(b"weir" * 1000, (to, 5001))
P
cat >"$work/tun.py" <<'P'
# A tun interface whose other end is this program: what the host sends there is answered by nobody.
import fcntl, os, socket, struct, subprocess, sys
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH", b"tun0", 0x1001))
for args in ("addr add 10.8.0.1/24 dev tun0", "addr add fd08::1/64 dev tun0 nodad", "link set tun0 up"):
    subprocess.run(["ip", *args.split()], check=True)
print("ready", flush=True)
sys.stdin.readline()
for family, to in ((socket.AF_INET, "10.8.0.2"), (socket.AF_INET6, "fd08::2")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    for n in range(4):
        s.sendto(b"weir", (to, 53 + n))
sys.stdin.readline()
P
mkdir "$work/www"
echo 'weir serves this page' >"$work/www/index.html"

(cd "$work/www" && exec ip netns exec $b python3 -m http.server --bind :: 80) >/dev/null 2>&1 &
pids="$pids $!"
ip netns exec $b python3 "$work/dns.py" &
pids="$pids $!"
# A socket that takes the large datagrams, so that nothing answers that its port is closed.
ip netns exec $b python3 -c 'import socket, time; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 5001)); time.sleep(60)' &
pids="$pids $!"
until ip netns exec $a curl -s -o /dev/null http://10.9.0.2/; do sleep 0.2; done

http() { ip netns exec $a curl -s http://10.9.0.2/ http://[fd09::2]/ http://10.9.0.2:81/ >/dev/null || :; }
neighbours() {
    ip -n $a neigh flush all
    ip -n $b neigh flush all
    ip netns exec $a python3 "$work/ping.py"
}
filter=tcp capture http.pcap $a veth0 http
filter='port 53' capture dns.pcap $a veth0 ip netns exec $a python3 "$work/ask.py"
filter='icmp or icmp6 or arp' capture neighbours.pcap $a veth0 neighbours
filter='vlan' capture vlan.pcap $b veth1 ip netns exec $a python3 "$work/vlan.py"
filter='port 5001 or ip[6:2] & 0x3fff != 0 or ip6[6] == 44' capture fragments.pcap $b veth1 ip netns exec $a python3 "$work/large.py"
link=LINUX_SLL filter='port 53' capture cooked.pcap $a any ip netns exec $a python3 "$work/ask.py"
link=LINUX_SLL2 filter='icmp or icmp6 or arp' capture cooked2.pcap $a any neighbours

mkfifo "$work/go"
ip netns exec $a python3 "$work/tun.py" <"$work/go" >"$work/tun.said" &
pids="$pids $!"
exec 3>"$work/go"
until grep -q ready "$work/tun.said"; do sleep 0.1; done
filter='udp' capture tun.pcap $a tun0 sh -c 'echo >&3'
exec 3>&-
