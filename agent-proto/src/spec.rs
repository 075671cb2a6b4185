//! The data in messages.

use serde::{Deserialize, Serialize};

/// Settings that all processes of a sandbox share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Host name, at most 64 bytes (P-180).
    #[serde(default)]
    pub hostname: String,
    /// Nanoseconds since the epoch; 0 leaves the clock alone.
    #[serde(default)]
    pub unix_ns: u64,
    /// Mounts in the order in which the agent makes them.
    #[serde(default)]
    pub mounts: Vec<GuestMount>,
    /// Interfaces, routes and neighbours.
    #[serde(default)]
    pub network: NetworkSpec,
    /// Root file system of sandbox processes as a guest path; they see no files outside it. `None`: the initramfs.
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
    /// Bytes of memory that the host is plugging in; the agent waits for them.
    #[serde(default)]
    pub memory_more: u64,
}

/// A mount that the agent makes. The agent creates a missing target: a directory, or a file if the source is one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestMount {
    /// virtio-fs tag, device or path, as `fstype` requires. A block device may be `serial:ID`, or `slot:ID` if the host
    /// has changed its medium since the guest's kernel last read it.
    pub source: String,
    /// Absolute path in the guest; below the sandbox root if `in_root`.
    pub target: String,
    /// Type of the file system, or `bind`, `overlay`.
    pub fstype: String,
    /// `ro`, `nosuid`, … and options of the file system.
    #[serde(default)]
    pub options: Vec<String>,
    /// `target` is relative to the sandbox root; symbolic links are resolved inside it.
    #[serde(default)]
    pub in_root: bool,
}

/// Network settings of the guest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Configured before routes (P-203).
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// Configured after interfaces.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Static neighbour entries.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
    /// Lines for /etc/resolv.conf of the sandbox root; without lines the file stays as it is.
    #[serde(default)]
    pub dns: Vec<String>,
}

/// Settings of the interface with the MAC address `mac`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// New name.
    pub name: String,
    /// `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// MTU in bytes; 0 keeps the default.
    #[serde(default)]
    pub mtu: u32,
    /// IPv4 and IPv6 addresses in CIDR form.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Destination in CIDR form; empty for the default route.
    #[serde(default)]
    pub destination: String,
    /// Address of the next hop; empty for a destination on the link.
    #[serde(default)]
    pub gateway: String,
    /// Interface name.
    pub device: String,
    /// Preferred source address; may be empty.
    #[serde(default)]
    pub source: String,
    /// Linux scope number (0 global, 253 link).
    #[serde(default)]
    pub scope: u8,
    /// Priority: the kernel prefers the lower one; 0 is the kernel's default.
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
    /// The whole environment. The agent adds a missing `HOME` from the root's passwd file.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// Variables whose values are not text, after those of `env`. Only for processes of the sandbox itself.
    #[serde(default)]
    pub env_bytes: Vec<(String, Vec<u8>)>,
    /// Working directory, absolute; empty is `/`.
    #[serde(default)]
    pub cwd: String,
    /// `user[:group]`, names or numbers, resolved inside the root; empty is root.
    #[serde(default)]
    pub user: String,
    /// Additional groups, names or numbers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Size of the process's terminal; `None`: the process has pipes.
    #[serde(default)]
    pub terminal: Option<WindowSize>,
    /// Whether the host will open a stdin stream; if not, stdin is /dev/null.
    #[serde(default)]
    pub stdin: bool,
    /// Resource limits of the process.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Set `no_new_privs`.
    #[serde(default)]
    pub no_new_privileges: bool,
    /// Capability sets. `None`: those of the container that the process joins; all of them for a process of the sandbox
    /// itself, which cannot have others.
    #[serde(default)]
    pub capabilities: Option<CapabilitySets>,
}

/// The capability sets of a process, as `CAP_…` names. A capability that is not named is not in the set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapabilitySets {
    /// Upper bound of the capabilities that the process can gain.
    pub bounding: Vec<String>,
    /// Capabilities in force.
    pub effective: Vec<String>,
    /// Kept across the execution of a file with inheritable bits.
    pub inheritable: Vec<String>,
    /// Capabilities that the process may put in force.
    pub permitted: Vec<String>,
    /// Kept across the execution of an ordinary file.
    pub ambient: Vec<String>,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Height in lines.
    pub rows: u16,
    /// Width in columns.
    pub cols: u16,
}

/// A resource limit, named as in the OCI runtime spec (`RLIMIT_NOFILE`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Name of the limit: `RLIMIT_…`.
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
    /// The process exited with this code.
    Code(u8),
    /// This signal killed the process.
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
    /// Pid of the parent in the guest.
    pub ppid: i32,
    /// Effective user id.
    pub uid: u32,
    /// CPU time used, milliseconds.
    pub cpu_ms: u64,
    /// Start time in seconds since the guest's boot.
    pub start_secs: u64,
    /// Controlling terminal, `?` if none.
    pub tty: String,
    /// Arguments, separated by spaces.
    pub command: String,
    /// Token, if the host started the process.
    pub token: Option<String>,
}

/// New limits of a container; `None` leaves a limit as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Memory in bytes; -1 removes the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<i64>,
    /// Memory and swap together in bytes; -1 removes the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<i64>,
    /// Bytes of memory that the kernel tries not to reclaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<i64>,
    /// CPU time per period in microseconds; -1 removes the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<i64>,
    /// Length of a period in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Weight, cgroup v1 scale (2 to 262144).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// CPUs as a list: `0-2,4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Number of processes; -1 removes the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<i64>,
}

/// Statistics of a container, from its cgroup in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStats {
    /// CPU time in microseconds: user and system together.
    pub cpu_usage_us: u64,
    /// CPU time in user mode in microseconds.
    pub cpu_user_us: u64,
    /// CPU time in the kernel in microseconds.
    pub cpu_system_us: u64,
    /// Periods in which the quota stopped the container.
    pub cpu_throttled: u64,
    /// Memory in use in bytes.
    pub memory_bytes: u64,
    /// Highest use of memory so far in bytes.
    pub memory_peak_bytes: u64,
    /// Limit of memory in bytes; `u64::MAX` if there is none.
    pub memory_limit_bytes: u64,
    /// Processes that the kernel killed because memory ran out.
    pub oom_kills: u64,
    /// Number of processes and threads.
    pub pids: u64,
    /// Bytes read from block devices.
    pub block_read_bytes: u64,
    /// Bytes written to block devices.
    pub block_write_bytes: u64,
    /// Traffic of each interface of the sandbox.
    pub network: Vec<InterfaceStats>,
}

/// Traffic of one interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStats {
    /// Name of the interface in the guest.
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
