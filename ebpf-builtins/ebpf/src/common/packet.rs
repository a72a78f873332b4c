//! Reading headers of packets.
//!
//! Three readers with one interface. At XDP [`Linear`] follows pointers into the first buffer, one load a field; [`Anywhere`]
//! asks the kernel and finds headers that a driver left in a fragment (some leave the first buffer empty). [`Skb`] does so at TC.

use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative, bpf_xdp_get_buff_len, bpf_xdp_load_bytes};
use core::mem::MaybeUninit;

/// EtherTypes as they are read from the packet.
pub const ETH_P_IP: u16 = 0x0800_u16.to_be();
pub const ETH_P_IPV6: u16 = 0x86dd_u16.to_be();
const ETH_P_8021Q: u16 = 0x8100_u16.to_be();
const ETH_P_8021AD: u16 = 0x88a8_u16.to_be();

#[repr(C, packed)]
struct Ethernet {
    addresses: [u8; 12],
    ethertype: u16,
}

#[repr(C, packed)]
struct VlanTag {
    _id: u16,
    ethertype: u16,
}

/// The packet ends before the field.
pub struct Truncated;

/// Room on the stack for a header, aligned so that a header's naturally aligned fields are aligned in it.
#[repr(C, align(8))]
pub struct Room<T>(MaybeUninit<T>);

impl<T> Room<T> {
    #[inline(always)]
    pub const fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// Has the room filled by a function that tells whether it did so.
    #[inline(always)]
    pub fn fill(&mut self, fill: impl FnOnce(*mut T) -> bool) -> Result<&T, Truncated> {
        if !fill(self.0.as_mut_ptr()) {
            return Err(Truncated);
        }
        // SAFETY: filled; any bits are a `T`, as `Reader` demands.
        Ok(unsafe { self.0.assume_init_ref() })
    }
}

pub trait Reader {
    /// Returns a header at an offset from the frame's first byte, where it is or copied to `room`.
    ///
    /// `T` must be packed, and valid for every bit pattern. Copy single fields out of it: a copy of the whole, or of
    /// an array in it, becomes a copy byte by byte.
    fn header<'a, T>(&'a self, offset: usize, room: &'a mut Room<T>) -> Result<&'a T, Truncated>;
}

/// The first buffer of the packet of an XDP program.
pub struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    pub fn new(ctx: &xdp_md) -> Self {
        Self {
            start: ctx.data as usize,
            end: ctx.data_end as usize,
        }
    }

    /// The same of the packet of a TC program.
    #[inline(always)]
    pub fn of_skb(ctx: &__sk_buff) -> Self {
        Self {
            start: ctx.data as usize,
            end: ctx.data_end as usize,
        }
    }

    /// Returns the length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end - self.start
    }
}

impl Reader for Linear {
    #[inline(always)]
    fn header<'a, T>(&'a self, offset: usize, _: &'a mut Room<T>) -> Result<&'a T, Truncated> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return Err(Truncated);
        }
        // SAFETY: no packet is at address 0. Without this, the compiler tests for it.
        unsafe { core::hint::assert_unchecked(at != 0) };
        // SAFETY: inside the packet by the check, no alignment needed, any bits are a `T`, nobody writes the packet.
        Ok(unsafe { &*(at as *const T) })
    }
}

/// The whole packet, fragments included.
pub struct Anywhere<'a>(pub &'a xdp_md);

impl Reader for Anywhere<'_> {
    #[inline(always)]
    fn header<'a, T>(&'a self, offset: usize, room: &'a mut Room<T>) -> Result<&'a T, Truncated> {
        // SAFETY: the helper writes `size_of::<T>()` bytes or fails.
        let failed = unsafe { bpf_xdp_load_bytes(context(self.0), offset as u32, room.0.as_mut_ptr().cast(), size_of::<T>() as u32) != 0 };
        // SAFETY: filled if the helper did not fail; any bits are a `T`.
        if failed {
            Err(Truncated)
        } else {
            Ok(unsafe { room.0.assume_init_ref() })
        }
    }
}

/// Returns the length of the packet in bytes, fragments included.
#[inline(always)]
pub fn length(ctx: &xdp_md) -> u64 {
    // SAFETY: the program's own context.
    unsafe { bpf_xdp_get_buff_len(context(ctx)) }
}

/// Returns the context as the helpers want it.
#[inline(always)]
pub fn context(ctx: &xdp_md) -> *mut xdp_md {
    core::ptr::from_ref(ctx).cast_mut()
}

/// Returns the EtherType behind up to two VLAN tags, in the packet's byte order, and where what it names starts. `first` is the EtherType of a
/// packet without Ethernet.
#[inline(always)]
pub fn network_header<R: Reader>(packet: &R, first: Option<u16>) -> Result<(u16, usize), Truncated> {
    let (mut ethertype, mut offset) = match first {
        Some(ethertype) => (ethertype, 0),
        None => (packet.header::<Ethernet>(0, &mut Room::new())?.ethertype, size_of::<Ethernet>()),
    };
    for _ in 0..2 {
        match ethertype {
            // What most packets have, as constants: the caller's own question for it is answered here.
            ETH_P_IP => return Ok((ETH_P_IP, offset)),
            ETH_P_IPV6 => return Ok((ETH_P_IPV6, offset)),
            ETH_P_8021Q | ETH_P_8021AD => {}
            _ => return Ok((ethertype, offset)),
        }
        ethertype = packet.header::<VlanTag>(offset, &mut Room::new())?.ethertype;
        offset += size_of::<VlanTag>();
    }
    Ok((ethertype, offset))
}

/// Returns the EtherType that a packet without Ethernet would have, by the version in its IP header; 0 if that is none.
#[inline(always)]
pub fn version<R: Reader>(packet: &R) -> Result<u16, Truncated> {
    let mut room = Room::new();
    // Two bytes: the check for one becomes a comparison with the end itself, from which the verifier learns nothing.
    let &[first, _] = packet.header::<[u8; 2]>(0, &mut room)?;
    Ok(match first >> 4 {
        4 => ETH_P_IP,
        6 => ETH_P_IPV6,
        _ => 0,
    })
}

/// Returns what the kernel says that a packet at TC is, which on an interface without Ethernet nothing in the packet does.
#[inline(always)]
pub fn protocol(ctx: &__sk_buff) -> u16 {
    ctx.protocol as u16
}

/// An Ethernet header and what starts behind it.
#[repr(C, packed)]
struct Start {
    ethernet: Ethernet,
    next: [u8; 2],
}

/// Whether a packet at TC starts behind its Ethernet header although its interface has Ethernet: Linux 6.9 and later forget the header of
/// packets that they copy for generic XDP, anybody's. Else every such packet would pass as something that is not IP.
///
/// Most packets show in their first buffer that it is there. Of all others the kernel is asked: bytes that would be an EtherType may be those
/// of an address, which the sender chooses.
#[inline(always)]
pub fn lacks_ethernet(ctx: &__sk_buff) -> bool {
    let linear = Linear::of_skb(ctx);
    let mut room = Room::new();
    let said = protocol(ctx);
    let version = match said {
        ETH_P_IP => 4,
        ETH_P_IPV6 => 6,
        _ => return starts_with_network_header(ctx),
    };
    let shows = linear.header::<Start>(0, &mut room).is_ok_and(|start| {
        let may_be_first = start.ethernet.addresses[0] >> 4 == version;
        start.ethernet.ethertype == said && start.next[0] >> 4 == version && !may_be_first
    });
    !shows && starts_with_network_header(ctx)
}

/// Whether the kernel takes the first byte of a packet at TC for the first one of its network header. Not inlined: few packets come here.
#[inline(never)]
fn starts_with_network_header(ctx: &__sk_buff) -> bool {
    // No field says so. But what can be read from there ends with the first buffer.
    let len = Linear::of_skb(ctx).len() as u32;
    let reads = |at: u32| {
        let mut byte = Room::<u8>::new();
        let context = core::ptr::from_ref(ctx).cast_mut().cast();
        // SAFETY: the helper writes one byte or fails.
        let read = byte.fill(|to| unsafe { bpf_skb_load_bytes_relative(context, at, to.cast(), 1, BPF_HDR_START_NET) == 0 });
        read.is_ok()
    };
    reads(len.wrapping_sub(1)) && !reads(len)
}

/// The packet of a TC program, wherever its bytes are.
pub struct Skb<'a>(pub &'a __sk_buff);

impl Reader for Skb<'_> {
    #[inline(always)]
    fn header<'a, T>(&'a self, offset: usize, room: &'a mut Room<T>) -> Result<&'a T, Truncated> {
        let context = core::ptr::from_ref(self.0).cast_mut();
        // SAFETY: the helper writes `size_of::<T>()` bytes or fails.
        room.fill(|to| unsafe { bpf_skb_load_bytes(context.cast(), offset as u32, to.cast(), size_of::<T>() as u32) == 0 })
    }
}
