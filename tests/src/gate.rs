//! A kernel that says no: a supervisor between a program and its system calls, by seccomp's notifications.
//!
//! [`Gate`] rejects loads of BPF programs, with the log that the verifier is to have written; [`Fault`] refuses one call of those that
//! start-up is made of. Output: the calls that were tried. The program under test knows nothing of it.

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

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

/// What answers the calls that a filter hands over, and the descriptors by which it gets them; it ends with the program.
pub struct Supervisor {
    /// Our end of the pair by which the child sends the descriptor; none once it has been received.
    receiver: Option<OwnedFd>,
    sender: OwnedFd,
    filter: Vec<libc::sock_filter>,
    judge: Option<Judge>,
}

/// `None`: the kernel decides; else the call fails with this.
type Judge = Box<dyn FnMut(&libc::seccomp_notif) -> Option<i32> + Send>;

/// A system call that is handed over, perhaps only with this value of its second argument or of its first.
#[derive(Clone, Copy)]
struct Rule {
    call: libc::c_long,
    /// Which argument, and its low half.
    with: Option<(u32, u32)>,
}

impl Supervisor {
    fn new(rules: &[Rule], judge: Judge) -> Result<Self> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
        let (receiver, sender) = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
        Ok(Self {
            receiver: Some(receiver),
            sender,
            filter: filter(rules),
            judge: Some(judge),
        })
    }

    /// What the child calls, between fork and exec.
    pub fn install(&self) -> Install {
        Install {
            sender: self.sender.as_raw_fd(),
            filter: self.filter.clone(),
        }
    }

    /// Starts to answer. Call it after the child has been started.
    ///
    /// # Errors
    /// The child has not sent its descriptor.
    pub fn serve(&mut self) -> Result<()> {
        let receiver = self.receiver.take().context("it serves already")?;
        let listener = receive(&receiver)?;
        let mut judge = self.judge.take().context("it serves already")?;
        std::thread::spawn(move || {
            while let Ok(request) = next(&listener) {
                if send(&listener, request.id, judge(&request)).is_err() {
                    break;
                }
            }
        });
        Ok(())
    }
}

/// Rejects programs.
pub struct Gate {
    pub supervisor: Supervisor,
    loads: Arc<Mutex<Vec<Load>>>,
}

impl Gate {
    /// # Errors
    /// No sockets.
    pub fn new(reject: Reject, log: &'static str) -> Result<Self> {
        let loads = Arc::<Mutex<Vec<Load>>>::default();
        let theirs = Arc::clone(&loads);
        let rule = Rule {
            call: libc::SYS_bpf,
            with: Some((0, BPF_PROG_LOAD)),
        };
        let supervisor = Supervisor::new(&[rule], Box::new(move |request| judge(request, reject, log, &theirs)))?;
        Ok(Self { supervisor, loads })
    }

    /// The loads so far.
    pub fn loads(&self) -> Vec<Load> {
        self.loads.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// A step of starting up: a system call, with its command where that tells what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// `bpf()` with this command.
    Bpf(u32),
    PerfEventOpen,
    /// A program is put on a perf event.
    PerfEventSetBpf,
    /// A request to netlink.
    Send,
    /// A thread or a process is made.
    Clone,
}

impl Step {
    fn of(request: &libc::seccomp_notif) -> Option<Self> {
        match libc::c_long::from(request.data.nr) {
            libc::SYS_bpf => Some(Step::Bpf(request.data.args[0] as u32)),
            libc::SYS_perf_event_open => Some(Step::PerfEventOpen),
            libc::SYS_ioctl => Some(Step::PerfEventSetBpf),
            libc::SYS_sendto => Some(Step::Send),
            libc::SYS_clone | libc::SYS_clone3 => Some(Step::Clone),
            _ => None,
        }
    }
}

/// Refuses one call, for want of memory.
pub struct Fault {
    pub supervisor: Supervisor,
    seen: Arc<Mutex<BTreeMap<Step, usize>>>,
}

impl Fault {
    /// Refuses the call of that kind which is the `n`-th, from 1; none: only counts.
    ///
    /// # Errors
    /// No sockets.
    pub fn new(refused: Option<(Step, usize)>) -> Result<Self> {
        const PERF_EVENT_IOC_SET_BPF: u32 = 0x4004_2408;
        let seen = Arc::<Mutex<BTreeMap<Step, usize>>>::default();
        let theirs = Arc::clone(&seen);
        let all = [
            (libc::SYS_bpf, None),
            (libc::SYS_perf_event_open, None),
            (libc::SYS_ioctl, Some((1, PERF_EVENT_IOC_SET_BPF))),
            (libc::SYS_sendto, None),
            (libc::SYS_clone, None),
            (libc::SYS_clone3, None),
        ];
        let judge = move |request: &libc::seccomp_notif| {
            let step = Step::of(request)?;
            let mut seen = theirs.lock().unwrap_or_else(|e| e.into_inner());
            let n = seen.entry(step).or_default();
            *n += 1;
            (refused == Some((step, *n))).then_some(libc::ENOMEM)
        };
        Ok(Self {
            supervisor: Supervisor::new(&all.map(|(call, with)| Rule { call, with }), Box::new(judge))?,
            seen,
        })
    }

    /// How many calls of each kind there were.
    pub fn seen(&self) -> BTreeMap<Step, usize> {
        self.seen.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

/// Refuses calls of `bpf()` with this command, for want of memory, as long as the flag is set.
///
/// # Errors
/// No sockets.
pub fn commands(command: u32, refused: Arc<AtomicBool>) -> Result<Supervisor> {
    let rule = Rule {
        call: libc::SYS_bpf,
        with: Some((0, command)),
    };
    let judge = move |_: &libc::seccomp_notif| refused.load(Ordering::SeqCst).then_some(libc::ENOMEM);
    Supervisor::new(&[rule], Box::new(judge))
}

/// Lets requests to netlink be decided, by their type (`RTM_*`): the answer is the error, if the kernel is not to see it.
///
/// # Errors
/// No sockets.
pub fn requests(mut decide: impl FnMut(u16) -> Option<i32> + Send + 'static) -> Result<Supervisor> {
    let rule = Rule {
        call: libc::SYS_sendto,
        with: None,
    };
    let judge = move |request: &libc::seccomp_notif| {
        // `struct nlmsghdr`: the length, then the type.
        let mut header = [0_u8; 6];
        let memory = File::open(format!("/proc/{}/mem", request.pid)).ok()?;
        memory.read_exact_at(&mut header, request.data.args[1]).ok()?;
        decide(u16::from_ne_bytes([header[4], header[5]]))
    };
    Supervisor::new(&[rule], Box::new(judge))
}

/// Tells, before the program opens a file of this name, that it is about to: it waits until `before` returns. What that returns is the
/// error, if the file is not to be opened.
///
/// # Errors
/// No sockets.
pub fn opens(name: &'static str, mut before: impl FnMut() -> Option<i32> + Send + 'static) -> Result<Supervisor> {
    let rule = Rule {
        call: libc::SYS_openat,
        with: None,
    };
    let judge = move |request: &libc::seccomp_notif| {
        let memory = File::open(format!("/proc/{}/mem", request.pid)).ok()?;
        let mut path = [0_u8; libc::PATH_MAX as usize];
        // The path may end where the memory does.
        let read = memory.read_at(&mut path, request.data.args[1]).ok()?;
        let path = path[..read].split(|byte| *byte == 0).next()?;
        if path.ends_with(name.as_bytes()) { before() } else { None }
    };
    Supervisor::new(&[rule], Box::new(judge))
}

/// Somebody who writes a file at the moment when the program opens it, and has written half of it when the program reads.
pub struct HalfWriter {
    pub opens: Supervisor,
    armed: Arc<AtomicBool>,
    file: Arc<Mutex<Option<File>>>,
}

impl HalfWriter {
    /// Of the file of this name at `path`, whose first half this is.
    ///
    /// # Errors
    /// As those of [`opens`].
    pub fn new(name: &'static str, path: PathBuf, half: String) -> Result<Self> {
        let (armed, file) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (is_armed, written) = (Arc::clone(&armed), Arc::clone(&file));
        let opens = opens(name, move || {
            if is_armed.swap(false, Ordering::SeqCst) {
                let file = File::create(&path).and_then(|mut file| {
                    file.write_all(half.as_bytes())?;
                    Ok(file)
                });
                *written.lock().unwrap_or_else(|e| e.into_inner()) = file.ok();
            }
            None
        })?;
        Ok(Self { opens, armed, file })
    }

    /// Writes when the file is opened next.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Waits until the half is there, and gives the file for the rest.
    ///
    /// # Errors
    /// Nobody has opened it in time.
    pub fn half(&self) -> Result<File> {
        crate::wait_for("half a file", || Ok(self.file.lock().unwrap_or_else(|e| e.into_inner()).take()))
    }
}

/// Hands the calls of the rules over, and allows all others.
fn filter(rules: &[Rule]) -> Vec<libc::sock_filter> {
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
    let hand_over = stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_USER_NOTIF);
    // `struct seccomp_data`: the number at 0, the arguments of eight bytes from 16 on.
    let mut code = vec![stmt(load, 0)];
    for rule in rules {
        match rule.with {
            None => code.extend([unless(rule.call as u32, 1), hand_over]),
            Some((argument, value)) => code.extend([
                unless(rule.call as u32, 4),
                stmt(load, 16 + 8 * argument),
                unless(value, 1),
                hand_over,
                stmt(load, 0),
            ]),
        }
    }
    code.push(stmt(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    code
}

/// The child's part; made before the fork, since there is no allocating after it.
pub struct Install {
    sender: RawFd,
    filter: Vec<libc::sock_filter>,
}

impl Install {
    /// Puts the filter into place and sends the descriptor of its notifications; only system calls that are safe after a fork.
    pub fn run(&self) -> std::io::Result<()> {
        let last = std::io::Error::last_os_error;
        let program = libc::sock_fprog {
            len: self.filter.len() as u16,
            filter: self.filter.as_ptr().cast_mut(),
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
            let sent = libc::sendmsg(self.sender, &raw const message, 0);
            libc::close(fd);
            if sent < 0 { Err(last()) } else { Ok(()) }
        }
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
