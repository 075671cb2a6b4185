//! The processes the host started: from the reservation of a token to forgetting it.
//!
//! ```text
//!   reserve ──▶ Starting ──spawned──▶ Running ──reaped──▶ Ended ──forget──▶ (gone)
//!                  └──failed──▶ (gone)
//! ```
//!
//! [`crate::reaper`] is the only one that waits for children, and it learns pids and statuses in any order relative to
//! the threads that spawn: a status whose pid nobody has claimed yet is kept as long as a start is under way.
//!
//! The table's lock is held for look-ups and changes only.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hutch_agent_proto::{ErrorKind, ExitStatus, RemoteError, Response, StdStream, Token, WindowSize};

use crate::failure::{not_found, system, wrong_state, Outcome};
use crate::outbox::Outbox;
use crate::process_tree::Family;
use crate::spawn::Child;
use crate::stdio::{close_input, CloseInput, Ends};
use crate::{pty, sys};

/// How long a stream waits for the process it names. Its request may still be on another connection.
const STREAM_PATIENCE: Duration = Duration::from_secs(3);
/// Requests that may wait for one process.
const MAX_WAITERS: usize = 256;

/// The agent's sides of a process's standard streams, until the host opens them.
#[derive(Default)]
pub struct Streams {
    /// Write end.
    pub stdin: Option<OwnedFd>,
    /// Read end.
    pub stdout: Option<OwnedFd>,
    /// Read end.
    pub stderr: Option<OwnedFd>,
    /// Instead of the three.
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
    /// The terminal as long as somebody keeps it open: the slot above, or the relay.
    terminal: Weak<OwnedFd>,
    /// Ends the input of the relay that took stdin or the terminal.
    close_input: Option<CloseInput>,
    waiters: Vec<(Arc<Outbox>, u64)>,
}

#[derive(Default)]
struct Table {
    by_token: BTreeMap<Token, Process>,
    by_pid: BTreeMap<i32, Token>,
    /// Starts under way.
    starting: usize,
    /// Statuses of pids nobody knew, while starts were under way.
    unclaimed: BTreeMap<i32, ExitStatus>,
    /// Counts attempts to make a child.
    births: u64,
    /// `births` at the time the kernel said that there are no children.
    childless_at: Option<u64>,
}

/// See the module.
pub struct Processes {
    table: Mutex<Table>,
    changed: Condvar,
    limit: usize,
}

/// Pid of a new process, and how it ended if it has.
pub type Started = (i32, Option<Obituary>);

/// What the end of a process sets off.
pub struct Obituary {
    /// The process.
    pub token: Token,
    /// How it ended.
    pub status: ExitStatus,
    waiters: Vec<(Arc<Outbox>, u64)>,
}

impl Obituary {
    /// Answers those who wait.
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
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `spawn` under the name `token`; afterwards the process is known. If it has ended already and the reaper could
    /// not tell whose end that was, its obituary comes along.
    ///
    /// # Errors
    /// `AlreadyExists`, `WrongState` if the table is full, or what `spawn` says.
    pub fn start(&self, token: &str, spawn: impl FnOnce() -> Outcome<(Child, Streams)>) -> Outcome<Started> {
        self.reserve(token)?;
        let result = spawn();
        let mut table = self.lock();
        // After the child was made (or was not): whoever saw no children before must look again.
        table.births += 1;
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
            return Err(RemoteError::new(ErrorKind::AlreadyExists, format!("there is already a process {token:?}")));
        }
        if table.by_token.len() >= self.limit {
            return Err(wrong_state(format!("there are {} processes; forget some that have ended", self.limit)));
        }
        table.starting += 1;
        table.by_token.insert(token.to_string(), Process::starting());
        Ok(())
    }

    /// Has the status of `token` sent to `outbox` as the answer to `id`: now, or when it ends.
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

    /// Forgets those waiters of a connection that is gone.
    pub fn drop_waiters(&self, outbox: &Arc<Outbox>) {
        for process in self.lock().by_token.values_mut() {
            process.waiters.retain(|(waiter, _)| !Arc::ptr_eq(waiter, outbox));
        }
    }

    /// Hands out the agent's side of a stream, once. Waits a little for a process that is not there yet.
    ///
    /// # Errors
    /// `NotFound` without such a process or stream, `WrongState` if the stream was handed out before.
    pub fn take_stream(&self, token: &str, stream: StdStream) -> Outcome<(Ends, Option<CloseInput>)> {
        let deadline = Instant::now() + STREAM_PATIENCE;
        let mut table = self.lock();
        loop {
            if let Some(process) = table.by_token.get_mut(token) {
                if !matches!(process.state, State::Starting) {
                    return process.take_stream(token, stream);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unknown(token));
            }
            table = self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends a signal (1 to 64) to the process; with `all` also to its offspring, even if it has ended itself.
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` if it has ended.
    pub fn signal(&self, token: &str, signal: i32, all: bool) -> Outcome<()> {
        let family = if all { Some(self.family(token)?) } else { None };
        {
            let table = self.lock();
            match table.by_token.get(token).ok_or_else(|| unknown(token))?.state {
                State::Starting => return Err(unknown(token)),
                State::Ended(..) if all => {}
                State::Ended(..) => return Err(wrong_state(format!("process {token:?} has ended"))),
                // The lock keeps the reaper away, so the pid still is this process's.
                State::Running(pid) => sys::send_signal(pid, signal)
                    .map_err(|errno| system(format_args!("signalling process {token:?}"), errno))?,
            }
        }
        if let Some(family) = family {
            family.signal_offspring(signal);
        }
        Ok(())
    }

    /// The process and its offspring, or what it left of that.
    fn family(&self, token: &str) -> Outcome<Family> {
        let (pid, ended) = match self.lock().by_token.get(token).map(|process| &process.state) {
            Some(State::Running(pid)) => (*pid, false),
            Some(State::Ended(pid, _)) => (*pid, true),
            Some(State::Starting) | None => return Err(unknown(token)),
        };
        Ok(if ended { Family::left_by(pid) } else { Family::of(pid) })
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

    /// Ends the process's stdin after what has arrived.
    ///
    /// # Errors
    /// `NotFound`.
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
    ///
    /// # Errors
    /// `NotFound`, or `WrongState` if it runs.
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

    /// Runs `spawn`, which makes a child that is nobody's process: the reaper learns that there is one to wait for.
    pub fn helper<T>(&self, spawn: impl FnOnce() -> T) -> T {
        self.lock().starting += 1;
        let result = spawn();
        let mut table = self.lock();
        table.births += 1;
        table.starting -= 1;
        if table.starting == 0 {
            table.unclaimed.clear();
        }
        self.changed.notify_all();
        result
    }

    /// Forgets `tokens` as they end, waiting at most `limit` for that. Unknown ones are fine. Whether none is left.
    pub fn forget_ending(&self, tokens: &[Token], limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
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

    /// The tokens of living processes by pid.
    pub fn living(&self) -> BTreeMap<i32, Token> {
        self.lock().by_pid.clone()
    }

    /// For the reaper: takes the status of `pid` out of the kernel with `reap` and records it.
    pub fn reap(&self, pid: i32, reap: impl FnOnce() -> Option<ExitStatus>) -> Option<Obituary> {
        // Reaping under the lock: a pid found in the table is never one that the kernel has given away again.
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
        Some(Obituary { token, status, waiters })
    }

    /// For the reaper: a number to hand to [`Processes::wait_for_birth`]; taken before looking for children.
    pub fn births(&self) -> u64 {
        self.lock().births
    }

    /// For the reaper: there were no children although `births` had been counted; waits for more.
    pub fn wait_for_birth(&self, births: u64) {
        let mut table = self.lock();
        table.childless_at = Some(births);
        self.changed.notify_all();
        while table.births == births {
            table = self.changed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until there are no children, at most `limit`. Whether that is so.
    pub fn wait_childless(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut table = self.lock();
        while table.starting > 0 || table.childless_at != Some(table.births) {
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
    /// Makes the reserved `token` the running process `pid`, or an ended one if the reaper was faster.
    fn claim(&mut self, token: &str, child: &Child, streams: Streams) -> Started {
        let pid = child.pid;
        // A status kept under this pid may be that of an orphan which had it before.
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
        (pid, Some(Obituary { token: token.to_string(), status, waiters }))
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
        // Nobody will read it; output stays until it is drained or the process forgotten.
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
