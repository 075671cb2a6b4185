//! Messages in the order a connection sees them.

use serde::{Deserialize, Serialize};

use crate::{
    ContainerStats, ExitStatus, ProcessInfo, ProcessSpec, RemoteError, ResourceLimits, SandboxSpec, WindowSize,
};

/// Names a process for as long as the sandbox lives; chosen by the host, unique in the sandbox. What it may consist
/// of: [`crate::is_token`].
pub type Token = String;

/// First frame of a connection, sent by the side that opened it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Open {
    /// Requests and events; both sides say [`Hello`] next.
    Control,
    /// One standard stream of the process `token`; only the host opens these.
    Stream {
        /// The process.
        token: Token,
        /// Which of its streams. With a terminal only [`StdStream::Terminal`] exists.
        stream: StdStream,
    },
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StdStream {
    /// Host to guest.
    Stdin,
    /// Guest to host.
    Stdout,
    /// Guest to host.
    Stderr,
    /// Both directions of a pseudo-terminal.
    Terminal,
}

/// Sent by both sides at the start of a control connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`crate::PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// Name and version of the sender's program.
    pub program: String,
    /// `uname -r` of the guest; empty from the host.
    #[serde(default)]
    pub kernel: String,
}

/// A message of the host on a control connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFrame {
    /// Chosen by the host; the reply carries it.
    pub id: u64,
    /// What to do.
    pub request: Request,
}

/// A message of the agent on a control connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentFrame {
    /// The answer to a request.
    Reply {
        /// Id of the request.
        id: u64,
        /// Its outcome.
        result: Result<Response, RemoteError>,
    },
    /// Something happened.
    Event(Event),
}

/// Requests of the host. The reply is [`Response::Done`] unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Is the agent alive?
    Ping,
    /// Sets up what processes share: host name, clock, mounts, network. Once, before the first process.
    SetupSandbox(Box<SandboxSpec>),
    /// Sets the guest's real-time clock to nanoseconds since the epoch.
    SetClock {
        /// Nanoseconds since 1970-01-01 UTC.
        unix_ns: u64,
    },
    /// Starts a process. Replies [`Response::Started`] once the program has been executed.
    ///
    /// Streams wait in the agent until the host opens them; a stream the host does not open within the process's
    /// life is dropped at its end, except that stdout and stderr are kept until drained or the process is forgotten.
    StartProcess {
        /// Name for the new process.
        token: Token,
        /// Container it joins; `None`: a process of the sandbox itself.
        container: Option<String>,
        /// What to run.
        process: Box<ProcessSpec>,
    },
    /// Replies [`Response::Exited`] when the process has ended, at once if it has already.
    WaitProcess {
        /// The process.
        token: Token,
    },
    /// Sends a signal to the process, or also to those it started.
    SignalProcess {
        /// The process.
        token: Token,
        /// Linux signal number.
        signal: i32,
        /// Every process of its container too; for a process of the sandbox itself: its descendants and those of its
        /// session, also after it has ended.
        all: bool,
    },
    /// New size of the process's terminal.
    ResizeTerminal {
        /// The process.
        token: Token,
        /// The size.
        size: WindowSize,
    },
    /// Ends the process's stdin after what has already arrived on the stream. (Shutting down the write side of the
    /// stream itself also waits for what is still under way.) A terminal gets its end-of-file character instead, if
    /// its line discipline is in canonical mode.
    CloseStdin {
        /// The process.
        token: Token,
    },
    /// Forgets an ended process: its status and undelivered output.
    ForgetProcess {
        /// The process.
        token: Token,
    },
    /// Creates an OCI container from a runtime-spec `config.json`, without starting its program. The init process
    /// is known as `token`. Replies [`Response::Started`] with the guest pid of the waiting init.
    CreateContainer {
        /// Container id.
        id: String,
        /// Name of the init process.
        token: Token,
        /// The OCI runtime spec; paths are the guest's.
        spec: Box<serde_json::Value>,
        /// Size of the terminal if `process.terminal` is set.
        terminal_size: Option<WindowSize>,
        /// Whether the host will open a stdin stream; if not, stdin is /dev/null.
        stdin: bool,
    },
    /// Runs the program of a created container.
    StartContainer {
        /// Container id.
        id: String,
    },
    /// Signals a container's init, or all of its processes.
    KillContainer {
        /// Container id.
        id: String,
        /// Linux signal number.
        signal: i32,
        /// All processes.
        all: bool,
    },
    /// Removes a stopped container from the guest (with `force`: kills it first).
    RemoveContainer {
        /// Container id.
        id: String,
        /// Kill what still runs.
        force: bool,
    },
    /// Freezes a container's cgroup.
    PauseContainer {
        /// Container id.
        id: String,
    },
    /// Thaws a container's cgroup.
    ResumeContainer {
        /// Container id.
        id: String,
    },
    /// Changes a container's limits.
    UpdateContainer {
        /// Container id.
        id: String,
        /// The new limits; absent ones stay.
        limits: ResourceLimits,
    },
    /// Replies [`Response::Processes`].
    ListProcesses {
        /// Container id.
        id: String,
    },
    /// Replies [`Response::Stats`].
    Stats {
        /// Container id.
        id: String,
    },
    /// Mounts a file system in the guest, for containers created later.
    Mount(crate::GuestMount),
    /// Unmounts it again.
    Unmount {
        /// Mount point in the guest.
        target: String,
    },
    /// Adds or changes network interfaces and routes.
    ConfigureNetwork(crate::NetworkSpec),
    /// Makes sure that `count` vCPUs are online, the first ones, and no others.
    OnlineCpus {
        /// Number of vCPUs.
        count: u32,
    },
    /// Waits until the guest has so much memory beyond what it booted with.
    AwaitMemory {
        /// Bytes.
        more: u64,
    },
    /// Ends every process, flushes file systems and powers the guest off. The connection ends without a reply.
    PowerOff,
}

/// Successful answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Response {
    /// Nothing more to say.
    Done,
    /// The process runs.
    Started {
        /// Its pid in the guest.
        pid: i32,
    },
    /// The process has ended.
    Exited(ExitStatus),
    /// Processes of a container.
    Processes(Vec<ProcessInfo>),
    /// Figures of a container.
    Stats(Box<ContainerStats>),
}

/// What the agent reports on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A process ended. What it wrote may still be on its way: an output stream delivers it before its own end. The event
    /// of a short-lived process may come before the reply to the request that started it.
    Exited {
        /// The process.
        token: Token,
        /// How.
        status: ExitStatus,
    },
    /// The guest killed a process of the container for want of memory.
    OutOfMemory {
        /// Container id.
        container: String,
    },
    /// A line for the host's log.
    Log {
        /// `error`, `warn`, `info` or `debug`.
        level: String,
        /// The text.
        message: String,
    },
}
