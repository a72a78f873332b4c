//! BPF helpers by name, numbered as in `enum bpf_func_id`.

pub const MAP_LOOKUP_ELEM: u32 = 1;
pub const MAP_UPDATE_ELEM: u32 = 2;
pub const MAP_DELETE_ELEM: u32 = 3;
pub const KTIME_GET_NS: u32 = 5;
pub const TRACE_PRINTK: u32 = 6;
pub const GET_PRANDOM_U32: u32 = 7;
pub const GET_SMP_PROCESSOR_ID: u32 = 8;
pub const TAIL_CALL: u32 = 12;
pub const GET_CURRENT_PID_TGID: u32 = 14;
pub const GET_CURRENT_UID_GID: u32 = 15;
pub const GET_CURRENT_COMM: u32 = 16;
pub const GET_STACKID: u32 = 27;
pub const GET_CURRENT_TASK: u32 = 35;
pub const GET_NUMA_NODE_ID: u32 = 42;
pub const OVERRIDE_RETURN: u32 = 58;
pub const SEND_SIGNAL: u32 = 109;
pub const SEND_SIGNAL_THREAD: u32 = 117;
pub const KTIME_GET_TAI_NS: u32 = 208;
pub const SKB_PULL_DATA: u32 = 39;
pub const GET_CURRENT_CGROUP_ID: u32 = 80;
pub const PROBE_READ_USER: u32 = 112;
pub const PROBE_READ_KERNEL: u32 = 113;
pub const PROBE_READ_USER_STR: u32 = 114;
pub const PROBE_READ_KERNEL_STR: u32 = 115;
pub const PROBE_WRITE_USER: u32 = 36;
pub const GET_STACK: u32 = 67;
pub const D_PATH: u32 = 147;
pub const GET_NS_CURRENT_PID_TGID: u32 = 120;
pub const JIFFIES64: u32 = 118;
pub const KTIME_GET_BOOT_NS: u32 = 125;
/// Linux 5.7.
pub const SEQ_PRINTF: u32 = 126;
pub const RINGBUF_RESERVE: u32 = 131;
pub const RINGBUF_SUBMIT: u32 = 132;
pub const RINGBUF_OUTPUT: u32 = 130;
/// Also across fragments of the buffer.
pub const SKB_LOAD_BYTES: u32 = 26;
/// The same at XDP; Linux 5.18.
pub const XDP_LOAD_BYTES: u32 = 189;
/// The same as a pointer that the kernel knows the type of; Linux 5.11.
pub const GET_CURRENT_TASK_BTF: u32 = 158;
pub const KTIME_GET_COARSE_NS: u32 = 160;
/// All fragments of the buffer; Linux 5.18.
pub const XDP_GET_BUFF_LEN: u32 = 188;
pub const FOR_EACH_MAP_ELEM: u32 = 164;
pub const LOOP: u32 = 181;
/// The number that was given where the program was attached; Linux 5.15.
pub const GET_ATTACH_COOKIE: u32 = 174;
pub const MAP_LOOKUP_PERCPU_ELEM: u32 = 195;
pub const SKB_STORE_BYTES: u32 = 9;
pub const L3_CSUM_REPLACE: u32 = 10;
pub const L4_CSUM_REPLACE: u32 = 11;
pub const CLONE_REDIRECT: u32 = 13;
pub const SKB_VLAN_PUSH: u32 = 18;
pub const SKB_VLAN_POP: u32 = 19;
pub const REDIRECT: u32 = 23;
pub const CSUM_DIFF: u32 = 28;
pub const GET_SOCKET_COOKIE: u32 = 46;
pub const XDP_ADJUST_META: u32 = 54;
pub const SKB_CGROUP_ID: u32 = 79;
/// Linux 5.18.
pub const XDP_STORE_BYTES: u32 = 190;

/// What network cards have of them.
pub const IN_CARD: [u32; 4] = [MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, GET_PRANDOM_U32];
