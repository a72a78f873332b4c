//! Programs run by the kernel on a frame, attached to nothing: `BPF_PROG_TEST_RUN`.

#![allow(dead_code, clippy::unwrap_used)] // Each test uses its part; a panic is the failure.

use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct bpf_attr.test` of `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct xdp_md`: with its end before that of the frame, the rest is in fragments (Linux 6.18).
#[repr(C)]
#[derive(Default)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// What came out of one run.
pub struct Ran {
    pub verdict: u32,
    pub frame: Vec<u8>,
}

/// Whether the kernel takes the frame as an skb: not an IP packet without its whole header.
pub fn skb_can_be(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 0] => frame.len() >= 14 + 20,
        [0x86, 0xdd] => frame.len() >= 14 + 40,
        _ => true,
    }
}

/// Runs an XDP, TC or `cgroup_skb` program on a frame; with `linear`, which only XDP has, so many bytes of it lie in the first buffer.
pub fn test_run(prog: BorrowedFd<'_>, frame: &[u8], linear: Option<usize>) -> std::io::Result<Ran> {
    let context = linear.map(|n| XdpMd {
        data_end: u32::try_from(n).unwrap(),
        ..XdpMd::default()
    });
    let bytes = context.as_ref().map_or(&[][..], |context| {
        // SAFETY: a struct of integers without padding, alive as long as the borrow.
        unsafe { std::slice::from_raw_parts((&raw const *context).cast(), size_of::<XdpMd>()) }
    });
    test_run_in(prog, frame, bytes)
}

/// Runs a program on a frame, with the fields that the kernel takes from a context.
pub fn test_run_in(prog: BorrowedFd<'_>, frame: &[u8], context: &[u8]) -> std::io::Result<Ran> {
    const BPF_PROG_TEST_RUN: i32 = 10;
    // All hooks refuse frames without a whole Ethernet header.
    assert!(frame.len() >= 14);
    let mut out = vec![0_u8; frame.len() + 512];
    let mut attr = TestRun {
        prog_fd: u32::try_from(prog.as_raw_fd()).unwrap(),
        data_size_in: u32::try_from(frame.len()).unwrap(),
        data_size_out: u32::try_from(out.len()).unwrap(),
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        ..TestRun::default()
    };
    if !context.is_empty() {
        attr.ctx_in = context.as_ptr() as u64;
        attr.ctx_size_in = u32::try_from(context.len()).unwrap();
    }
    // SAFETY: the attribute points to live buffers of the given sizes.
    let r = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRun>()) };
    if r != 0 {
        return Err(std::io::Error::last_os_error());
    }
    out.truncate(usize::try_from(attr.data_size_out).unwrap());
    Ok(Ran {
        verdict: attr.retval,
        frame: out,
    })
}
