//! A kernel that rejects: a supervisor between a program and `bpf(BPF_PROG_LOAD)`, by seccomp's notifications.
//!
//! Input: which loads to reject, and the log that the verifier is to have written. Output: the loads that were tried. The program
//! under test knows nothing of it: what it sees is what a verifier's "no" looks like.

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

const SYS_BPF: u32 = libc::SYS_bpf as u32;
const BPF_PROG_LOAD: u32 = 5;
/// `_IOWR('!', 0, struct seccomp_notif)` and `_IOWR('!', 1, struct seccomp_notif_resp)`
const NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// One try to load a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub name: String,
    pub instructions: u32,
    pub with_log: bool,
    pub rejected: bool,
}

/// What is rejected of the programs whose name starts with `w`, a digit and `_`: those of scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Whatever has as many instructions as the first that was tried.
    FirstForm,
    Everything,
}

/// The supervisor; it ends with the program.
pub struct Gate {
    /// Our end of the pair by which the child sends the descriptor; none once it has been received.
    receiver: Option<OwnedFd>,
    sender: OwnedFd,
    loads: Arc<Mutex<Vec<Load>>>,
    reject: Reject,
    log: &'static str,
}

impl Gate {
    /// # Errors
    /// No sockets.
    pub fn new(reject: Reject, log: &'static str) -> Result<Self> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
        let (receiver, sender) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Self {
            receiver: Some(receiver),
            sender,
            loads: Arc::default(),
            reject,
            log,
        })
    }

    /// What the child calls [`install`] with.
    pub fn child_end(&self) -> RawFd {
        self.sender.as_raw_fd()
    }

    /// The loads so far.
    pub fn loads(&self) -> Vec<Load> {
        self.loads.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Starts to answer. Call it after the child has been started.
    ///
    /// # Errors
    /// The child has not sent its descriptor.
    pub fn serve(&mut self) -> Result<()> {
        let receiver = self.receiver.take().context("it serves already")?;
        let listener = receive(&receiver)?;
        let (loads, reject, log) = (Arc::clone(&self.loads), self.reject, self.log);
        std::thread::spawn(move || {
            while let Ok(request) = next(&listener) {
                let answer = judge(&request, reject, log, &loads);
                if send(&listener, request.id, answer).is_err() {
                    break;
                }
            }
        });
        Ok(())
    }
}

/// Puts the filter into place and sends the descriptor of its notifications; only system calls that are safe after a fork.
pub fn install(sender: RawFd) -> std::io::Result<()> {
    let last = std::io::Error::last_os_error;
    let stmt = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    let unless = |k: u32, jf: u8| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    // `struct seccomp_data`: the number at 0, the low half of the first argument at 16.
    let mut filter = [
        stmt(load, 0),
        unless(SYS_BPF, 3),
        stmt(load, 16),
        unless(BPF_PROG_LOAD, 1),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF),
        stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the program and its instructions live through the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    if fd < 0 {
        return Err(last());
    }
    let fd = fd as RawFd;
    let mut byte = [0_u8];
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0_u64; 4];
    // SAFETY: plain data, all zeros is a valid message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: the room for control data is aligned and large enough for one descriptor.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(fd);
        let sent = libc::sendmsg(sender, &raw const message, 0);
        libc::close(fd);
        if sent < 0 { Err(last()) } else { Ok(()) }
    }
}

fn receive(socket: &OwnedFd) -> Result<OwnedFd> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut byte = [0_u8];
    let mut parts = [std::io::IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!(RawFd);
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_DONTWAIT)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            let fd = *fds.first().context("no descriptor")?;
            // SAFETY: the kernel has just given us this descriptor.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    anyhow::bail!("the child sent no descriptor")
}

/// Waits for a request; an error when the last process with the filter has gone.
fn next(listener: &OwnedFd) -> Result<libc::seccomp_notif> {
    loop {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE)?;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        ensure!(!events.contains(PollFlags::POLLHUP), "the program has ended");
        // SAFETY: plain data, and the kernel wants zeros.
        let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one request.
        if unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut request) } == 0 {
            return Ok(request);
        }
    }
}

/// Decides about a load. `None`: the kernel decides.
fn judge(request: &libc::seccomp_notif, reject: Reject, log: &str, loads: &Mutex<Vec<Load>>) -> Option<i32> {
    let memory = File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", request.pid))
        .ok()?;
    // `union bpf_attr` of BPF_PROG_LOAD: instructions at 4, level, size and place of the log at 24, 28, 32, the name at 48.
    let mut attr = [0_u8; 64];
    memory.read_exact_at(&mut attr, request.data.args[1]).ok()?;
    let word = |at: usize| u32::from_ne_bytes(attr[at..at + 4].try_into().unwrap_or_default());
    let name: String = attr[48..].iter().take_while(|b| **b != 0).map(|b| *b as char).collect();
    let of_a_script = name.starts_with('w') && name[1..].starts_with(|c: char| c.is_ascii_digit());
    let mut all = loads.lock().unwrap_or_else(|e| e.into_inner());
    let first = all.first().map_or(word(4), |l| l.instructions);
    let rejected = of_a_script && (reject == Reject::Everything || word(4) == first);
    if of_a_script {
        all.push(Load {
            name,
            instructions: word(4),
            with_log: word(24) > 0,
            rejected,
        });
    }
    if rejected && word(24) > 0 && word(28) as usize > log.len() {
        let at = u64::from_ne_bytes(attr[32..40].try_into().unwrap_or_default());
        let text = [log.as_bytes(), b"\0"].concat();
        memory.write_all_at(&text, at).ok()?;
    }
    rejected.then_some(libc::EACCES)
}

fn send(listener: &OwnedFd, id: u64, error: Option<i32>) -> std::io::Result<()> {
    let answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: -error.unwrap_or(0),
        flags: if error.is_some() {
            0
        } else {
            libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32
        },
    };
    // SAFETY: the kernel reads one answer.
    let result = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw const answer) };
    // A request whose process has gone needs no answer.
    if result == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT) {
        return Ok(());
    }
    Err(std::io::Error::last_os_error())
}
