//! The table of processes that the host started: from the reservation of a token until it is forgotten.
//!
//! ```text
//!   reserve ──▶ Starting ──spawned──▶ Running ──reaped──▶ Ended ──forget──▶ (gone)
//!                  └──failed──▶ (gone)
//! ```
//!
//! Only [`crate::reaper`] waits for children. It may learn the end of a child before the thread that spawned the child
//! registers its pid. So the table keeps the status of an unknown pid for as long as a start is under way.
//!
//! The table's lock is held for look-ups and changes only.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hutch_agent_proto::{Deadline, ExitStatus, RemoteError, RemoteErrorKind, Response, StdStream, Token, WindowSize};

use crate::failure::{not_found, system, wrong_state, Outcome};
use crate::outbox::Outbox;
use crate::process_tree::ProcessTree;
use crate::spawn::Child;
use crate::stdio::{close_input, CloseInput, Ends};
use crate::thread::lock;
use crate::{pty, sys};

/// How long a stream waits for its process. The request that starts it may still be under way on another connection.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests that may wait for one process at a time.
const MAX_WAITERS: usize = 256;

/// The agent's sides of a process's standard streams, until the host opens them.
#[derive(Default)]
pub struct Streams {
    /// Write end of a pipe.
    pub stdin: Option<OwnedFd>,
    /// Read end of a pipe.
    pub stdout: Option<OwnedFd>,
    /// Read end of a pipe.
    pub stderr: Option<OwnedFd>,
    /// The agent's side of a terminal, instead of the three pipes.
    pub terminal: Option<Arc<OwnedFd>>,
}

enum State {
    Starting,
    Running(i32),
    Ended(i32, ExitStatus),
}

struct Process {
    state: State,
    streams: Streams,
    /// The terminal, as long as `streams` or a relay keeps it open.
    terminal: Weak<OwnedFd>,
    /// Ends the input of the relay of stdin or the terminal.
    close_input: Option<CloseInput>,
    waiters: Vec<(Arc<Outbox>, u64)>,
}

#[derive(Default)]
struct Table {
    by_token: BTreeMap<Token, Process>,
    by_pid: BTreeMap<i32, Token>,
    /// Number of starts under way.
    starting: usize,
    /// Statuses of unknown pids, kept while starts are under way.
    unclaimed: BTreeMap<i32, ExitStatus>,
    /// Attempts to make a child so far.
    spawn_count: u64,
    /// `spawn_count` when the kernel last reported that there are no children.
    no_children_at: Option<u64>,
}

/// The table of processes.
pub struct Processes {
    table: Mutex<Table>,
    changed: Condvar,
    limit: usize,
}

/// Pid of a new process, and its end if it has ended already.
pub type Started = (i32, Option<ExitEvent>);

/// The end of a process, with the requests that waited for it.
pub struct ExitEvent {
    pub token: Token,
    pub status: ExitStatus,
    waiters: Vec<(Arc<Outbox>, u64)>,
}

impl ExitEvent {
    /// Answers the waiting requests.
    pub fn reply(&self) {
        for (outbox, id) in &self.waiters {
            outbox.reply(*id, Ok(Response::Exited(self.status)));
        }
    }
}

fn unknown(token: &str) -> RemoteError {
    not_found(format!("there is no process {token:?}"))
}

impl Processes {
    /// An empty table for at most `limit` processes.
    pub fn new(limit: usize) -> Self {
        Self { table: Mutex::default(), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }

    /// Runs `spawn` and registers its process as `token`. If the reaper saw the process's end before it was registered,
    /// the exit event is returned as well.
    ///
    /// # Errors
    /// `AlreadyExists`, `WrongState` if the table is full, or the error of `spawn`.
    pub fn start(&self, token: &str, spawn: impl FnOnce() -> Outcome<(Child, Streams)>) -> Outcome<Started> {
        self.reserve(token)?;
        let result = spawn();
        let mut table = self.lock();
        // Counted after the attempt: a reaper that saw no children before must look again.
        table.spawn_count += 1;
        table.starting -= 1;
        let result = result.map(|(child, streams)| table.claim(token, &child, streams));
        if result.is_err() {
            table.by_token.remove(token);
        }
        if table.starting == 0 {
            table.unclaimed.clear();
        }
        self.changed.notify_all();
        result
    }

    fn reserve(&self, token: &str) -> Outcome<()> {
        let mut table = self.lock();
        if table.by_token.contains_key(token) {
            return Err(RemoteError::new(
                RemoteErrorKind::AlreadyExists,
                format!("there is already a process {token:?}"),
            ));
        }
        if table.by_token.len() >= self.limit {
            return Err(wrong_state(format!("there are {} processes; forget some that have ended", self.limit)));
        }
        table.starting += 1;
        table.by_token.insert(token.to_string(), Process::starting());
        Ok(())
    }

    /// Sends the status of `token` to `outbox` as the answer to request `id`: now, or when the process ends.
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` if too many wait already.
    pub fn wait(&self, token: &str, outbox: &Arc<Outbox>, id: u64) -> Outcome<()> {
        let mut table = self.lock();
        let process = table.by_token.get_mut(token).ok_or_else(|| unknown(token))?;
        match process.state {
            State::Starting => Err(unknown(token)),
            State::Running(_) if process.waiters.len() >= MAX_WAITERS => {
                Err(wrong_state(format!("{MAX_WAITERS} requests wait for process {token:?} already")))
            }
            State::Running(_) => {
                process.waiters.push((Arc::clone(outbox), id));
                Ok(())
            }
            State::Ended(_, status) => {
                drop(table);
                outbox.reply(id, Ok(Response::Exited(status)));
                Ok(())
            }
        }
    }

    /// Forgets the waiting requests of a connection that is gone.
    pub fn drop_waiters(&self, outbox: &Arc<Outbox>) {
        for process in self.lock().by_token.values_mut() {
            process.waiters.retain(|(waiter, _)| !Arc::ptr_eq(waiter, outbox));
        }
    }

    /// Hands out the agent's side of a stream, once. Waits up to 3 seconds for a process that is not known
    /// yet.
    ///
    /// # Errors
    /// `NotFound` without such a process or stream, `WrongState` if the stream was handed out before.
    pub fn take_stream(&self, token: &str, stream: StdStream) -> Outcome<(Ends, Option<CloseInput>)> {
        let deadline = Deadline::after(STREAM_TIMEOUT);
        let mut table = self.lock();
        loop {
            if let Some(process) = table.by_token.get_mut(token)
                && !matches!(process.state, State::Starting)
            {
                return process.take_stream(token, stream);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unknown(token));
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a signal (1 to 64) to the process. With `all` its offspring gets the signal too, even if the process has
    /// ended.
    pub fn signal(&self, token: &str, signal: i32, all: bool) -> Outcome<()> {
        let tree = if all { Some(self.tree(token)?) } else { None };
        {
            let table = self.lock();
            match table.by_token.get(token).ok_or_else(|| unknown(token))?.state {
                State::Starting => return Err(unknown(token)),
                State::Ended(..) if all => {}
                State::Ended(..) => return Err(wrong_state(format!("process {token:?} has ended"))),
                // The reaper needs the lock to reap, so the pid still belongs to this process.
                State::Running(pid) => sys::send_signal(pid, signal)
                    .map_err(|errno| system(format_args!("signalling process {token:?}"), errno))?,
            }
        }
        if let Some(tree) = tree {
            tree.signal_offspring(signal);
        }
        Ok(())
    }

    /// The process and its offspring, or the offspring that an ended process left.
    fn tree(&self, token: &str) -> Outcome<ProcessTree> {
        let (pid, ended) = match self.lock().by_token.get(token).map(|process| &process.state) {
            Some(State::Running(pid)) => (*pid, false),
            Some(State::Ended(pid, _)) => (*pid, true),
            Some(State::Starting) | None => return Err(unknown(token)),
        };
        Ok(if ended { ProcessTree::left_by(pid) } else { ProcessTree::of(pid) })
    }

    /// Sets the size of the process's terminal.
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` without a terminal that is open.
    pub fn resize(&self, token: &str, size: WindowSize) -> Outcome<()> {
        let terminal = {
            let table = self.lock();
            table.by_token.get(token).ok_or_else(|| unknown(token))?.terminal.upgrade()
        };
        let terminal = terminal.ok_or_else(|| wrong_state(format!("process {token:?} has no open terminal")))?;
        sys::set_window_size(terminal.as_fd(), size).map_err(|errno| system("resizing a terminal", errno))
    }

    /// Ends the process's stdin after the bytes that have arrived.
    pub fn close_stdin(&self, token: &str) -> Outcome<()> {
        let mut table = self.lock();
        let process = table.by_token.get_mut(token).ok_or_else(|| unknown(token))?;
        process.streams.stdin = None;
        if let Some(close) = &process.close_input {
            close.write(1).map_err(|errno| system("closing stdin", errno))?;
        } else if let Some(terminal) = &process.streams.terminal {
            let mark = pty::end_of_file(terminal, true);
            nix::unistd::write(terminal, &mark).map_err(|errno| system("closing stdin", errno))?;
        }
        Ok(())
    }

    /// Forgets an ended process with its undelivered output.
    pub fn forget(&self, token: &str) -> Outcome<()> {
        let mut table = self.lock();
        match table.by_token.get(token).ok_or_else(|| unknown(token))?.state {
            State::Ended(..) => {
                table.by_token.remove(token);
                Ok(())
            }
            State::Running(_) | State::Starting => Err(wrong_state(format!("process {token:?} is still running"))),
        }
    }

    /// Runs `spawn`, which makes a child that is not in the table, so that the reaper waits for that child as well.
    pub fn spawn_unregistered<T>(&self, spawn: impl FnOnce() -> T) -> T {
        self.lock().starting += 1;
        let result = spawn();
        let mut table = self.lock();
        table.spawn_count += 1;
        table.starting -= 1;
        if table.starting == 0 {
            table.unclaimed.clear();
        }
        self.changed.notify_all();
        result
    }

    /// Forgets `tokens` as they end, and waits at most `limit` for that. Returns whether all are forgotten.
    pub fn forget_ending(&self, tokens: &[Token], limit: Duration) -> bool {
        let deadline = Deadline::after(limit);
        let mut table = self.lock();
        loop {
            for token in tokens {
                if matches!(table.by_token.get(token).map(|process| &process.state), Some(State::Ended(..))) {
                    table.by_token.remove(token);
                }
            }
            if !tokens.iter().any(|token| table.by_token.contains_key(token)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The tokens of running processes by pid.
    pub fn living(&self) -> BTreeMap<i32, Token> {
        self.lock().by_pid.clone()
    }

    /// For the reaper: takes the status of `pid` from the kernel with `reap` and records it.
    pub fn reap(&self, pid: i32, reap: impl FnOnce() -> Option<ExitStatus>) -> Option<ExitEvent> {
        // Reaping needs the lock: so the kernel cannot have reused a pid that is in the table.
        let mut table = self.lock();
        let status = reap()?;
        let Some(token) = table.by_pid.remove(&pid) else {
            if table.starting > 0 {
                table.unclaimed.insert(pid, status);
            }
            return None;
        };
        let process = table.by_token.get_mut(&token)?;
        let waiters = process.end(pid, status);
        self.changed.notify_all();
        Some(ExitEvent { token, status, waiters })
    }

    /// For the reaper: the argument of [`Processes::wait_for_spawn`]. Read it before looking for children.
    pub fn spawn_count(&self) -> u64 {
        self.lock().spawn_count
    }

    /// For the reaper: records that there were no children after `spawn_count` spawns, and waits for the next spawn.
    pub fn wait_for_spawn(&self, spawn_count: u64) {
        let mut table = self.lock();
        table.no_children_at = Some(spawn_count);
        self.changed.notify_all();
        while table.spawn_count == spawn_count {
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits at most `limit` until there are no children. Returns whether there are none.
    pub fn wait_no_children(&self, limit: Duration) -> bool {
        let deadline = Deadline::after(limit);
        let mut table = self.lock();
        while table.starting > 0 || table.no_children_at != Some(table.spawn_count) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Table {
    /// Registers `child` under the reserved `token`: as running, or as ended if the reaper was faster.
    fn claim(&mut self, token: &str, child: &Child, streams: Streams) -> Started {
        let pid = child.pid;
        // The status kept under this pid may belong to an orphan that had the pid before.
        let ended = self.unclaimed.remove(&pid).filter(|_| sys::is_reaped(child.pidfd.as_fd()));
        let Some(process) = self.by_token.get_mut(token) else { return (pid, None) };
        process.terminal = streams.terminal.as_ref().map(Arc::downgrade).unwrap_or_default();
        process.streams = streams;
        let Some(status) = ended else {
            process.state = State::Running(pid);
            self.by_pid.insert(pid, token.to_string());
            return (pid, None);
        };
        let waiters = process.end(pid, status);
        (pid, Some(ExitEvent { token: token.to_string(), status, waiters }))
    }
}

impl Process {
    fn starting() -> Self {
        Self {
            state: State::Starting,
            streams: Streams::default(),
            terminal: Weak::new(),
            close_input: None,
            waiters: Vec::new(),
        }
    }

    fn end(&mut self, pid: i32, status: ExitStatus) -> Vec<(Arc<Outbox>, u64)> {
        self.state = State::Ended(pid, status);
        // No process will read stdin. Output stays until the host has drained it or forgotten the process.
        self.streams.stdin = None;
        std::mem::take(&mut self.waiters)
    }

    fn take_stream(&mut self, token: &str, stream: StdStream) -> Outcome<(Ends, Option<CloseInput>)> {
        let ends = match stream {
            StdStream::Stdin => self.streams.stdin.take().map(Ends::Input),
            StdStream::Stdout => self.streams.stdout.take().map(Ends::Output),
            StdStream::Stderr => self.streams.stderr.take().map(Ends::Output),
            StdStream::Terminal => self.streams.terminal.take().map(Ends::Terminal),
        };
        let ends = ends.ok_or_else(|| {
            let state = "it has no such stream, or it was opened before, or it is closed";
            wrong_state(format!("{stream:?} of process {token:?}: {state}"))
        })?;
        if matches!(ends, Ends::Output(_)) {
            return Ok((ends, None));
        }
        let close = close_input().map_err(|errno| system("opening a stream", errno))?;
        self.close_input = Some(Arc::clone(&close));
        Ok((ends, Some(close)))
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
