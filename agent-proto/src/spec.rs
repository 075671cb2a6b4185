//! The data inside messages.

use serde::{Deserialize, Serialize};

/// What the processes of a sandbox share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Host name, at most 64 bytes (P-180).
    #[serde(default)]
    pub hostname: String,
    /// Nanoseconds since the epoch; 0 leaves the clock alone.
    #[serde(default)]
    pub unix_ns: u64,
    /// Mounted in this order.
    #[serde(default)]
    pub mounts: Vec<GuestMount>,
    /// Interfaces, routes and neighbours.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Root file system of sandbox processes as a guest path; they see nothing outside of it. `None`: the initramfs.
    #[serde(default)]
    pub root: Option<String>,
    /// Remount `root` read-only after its mount points are made.
    #[serde(default)]
    pub root_readonly: bool,
    /// Bytes of entropy for the guest's pool.
    #[serde(default)]
    pub entropy: Vec<u8>,
    /// `sysctl` settings.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Bytes of memory that are being plugged in on top of what the guest booted with; they are waited for.
    #[serde(default)]
    pub memory_more: u64,
}

/// A mount made by the agent. A missing target is created (directory, or file if the source is one).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestMount {
    /// virtio-fs tag, device, or path, as `fstype` wants it. A block device may be given as `serial:ID`, or `slot:ID` if its
    /// medium has been changed since the guest's kernel looked at it.
    pub source: String,
    /// Absolute path in the guest; below the sandbox root if `in_root`.
    pub target: String,
    /// File system, or `bind`, `overlay`.
    pub fstype: String,
    /// `ro`, `nosuid`, … and the file system's own.
    #[serde(default)]
    pub options: Vec<String>,
    /// `target` is relative to the sandbox root, with symbolic links resolved inside of it.
    #[serde(default)]
    pub in_root: bool,
}

/// Network settings of the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Configured before routes (P-203).
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Static neighbour entries.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
    /// Lines for /etc/resolv.conf of the sandbox root; empty: untouched.
    #[serde(default)]
    pub dns: Vec<String>,
}

/// An interface, found by its MAC address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// Name it gets.
    pub name: String,
    /// `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Bytes; 0 leaves the default.
    #[serde(default)]
    pub mtu: u32,
    /// CIDR form, IPv4 and IPv6.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// CIDR form; empty for the default route.
    #[serde(default)]
    pub destination: String,
    /// Next hop; empty if on link.
    #[serde(default)]
    pub gateway: String,
    /// Interface name.
    pub device: String,
    /// Preferred source; may be empty.
    #[serde(default)]
    pub source: String,
    /// Linux scope number (0 global, 253 link).
    #[serde(default)]
    pub scope: u8,
    /// Lower is preferred; 0 is the kernel's default.
    #[serde(default)]
    pub metric: u32,
}

/// A static neighbour entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Neighbour {
    /// IP address.
    pub address: String,
    /// MAC address.
    pub mac: String,
    /// Interface name.
    pub device: String,
}

/// A program to run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments; a name without `/` is looked up in `PATH` of `env` inside the root.
    pub args: Vec<String>,
    /// The whole environment. `HOME` is added from the root's passwd file if absent.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Working directory, absolute; empty is `/`.
    #[serde(default)]
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved inside the root; empty is root.
    #[serde(default)]
    pub user: String,
    /// More groups, names or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// With a terminal of this size; `None`: pipes.
    #[serde(default)]
    pub terminal: Option<WindowSize>,
    /// Whether the host will open a stdin stream; if not, stdin is /dev/null.
    #[serde(default)]
    pub stdin: bool,
    /// Limits to set.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Set `no_new_privs`.
    #[serde(default)]
    pub no_new_privileges: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// A resource limit, named as in the OCI runtime spec (`RLIMIT_NOFILE`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `RLIMIT_…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Soft limit.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(i32),
}

impl ExitStatus {
    /// The shell's form: the code, or 128 + the signal.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Code(code) => code,
            ExitStatus::Signal(signal) => (128 + signal.clamp(0, 127)) as u8,
        }
    }
}

/// One line of a process list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Pid in the guest.
    pub pid: i32,
    /// Parent's pid.
    pub ppid: i32,
    /// User id.
    pub uid: u32,
    /// CPU time used, milliseconds.
    pub cpu_ms: u64,
    /// Start, seconds since the guest's boot.
    pub start_secs: u64,
    /// Controlling terminal, `?` if none.
    pub tty: String,
    /// Command line.
    pub command: String,
    /// Token, if it was started by the host.
    pub token: Option<String>,
}

/// Limits of a container; absent means unchanged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Bytes; -1 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// Memory plus swap, bytes; -1 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// Bytes the kernel tries to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<i64>,
    /// Microseconds per period; -1 is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Weight, cgroup v1 scale (2 to 262144).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// List form, `0-2,4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Processes; -1 is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
}

/// Figures from a container's guest cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// CPU time, microseconds: total, user, system.
    pub cpu_usage_us: u64,
    /// User part.
    pub cpu_user_us: u64,
    /// System part.
    pub cpu_system_us: u64,
    /// Times the quota stopped it.
    pub cpu_throttled: u64,
    /// Bytes in use.
    pub memory_bytes: u64,
    /// Highest use so far.
    pub memory_peak_bytes: u64,
    /// Limit; `u64::MAX` is none.
    pub memory_limit_bytes: u64,
    /// Out-of-memory kills.
    pub oom_kills: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Bytes read from block devices.
    pub block_read_bytes: u64,
    /// Bytes written to block devices.
    pub block_write_bytes: u64,
    /// Per interface of the sandbox.
    pub network: Vec<InterfaceStats>,
}

/// Traffic of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// Name in the guest.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
}
