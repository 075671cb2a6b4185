//! A thread under control.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// Far longer than a thread works before it waits.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A thread of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thread {
    /// Its id.
    pub id: Pid,
    /// Its name, as the kernel has it.
    pub name: String,
}

/// `PF_USER_WORKER` of `linux/sched.h`: the kernel's own thread in a process, for example KVM's. It has no user code.
const PF_USER_WORKER: u64 = 0x4000;

/// The threads of the process `pid`, the first one included, but not the kernel's own ones. One that ends meanwhile is left
/// out.
///
/// # Panics
/// If there is no such process.
pub fn threads(pid: i32) -> Vec<Thread> {
    let tasks = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task")).expect("the process runs");
    let thread = |task: fs::DirEntry| {
        let id = task.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        // proc_pid_stat(5): the name is in parentheses; the flags are the seventh field after it.
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        let flags: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(6)?.parse().ok()?;
        if flags & PF_USER_WORKER != 0 {
            return None;
        }
        Some(Thread { id: Pid::from_raw(id), name: name.trim_end().to_owned() })
    };
    tasks.filter_map(|task| thread(task.ok()?)).collect()
}

/// The result of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this.
    Result(i64),
    /// The thread got SIGSYS.
    Trapped,
}

/// A thread under control, which waits in a system call of its own. Dropping it lets the thread go on as before.
#[derive(Debug)]
pub struct Taken {
    thread: Pid,
    registers: libc::user_regs_struct,
}

impl Taken {
    /// Takes a thread over as soon as it waits. `None` if it has ended, or is one of the kernel.
    ///
    /// # Panics
    /// If the caller may not trace it, or it works for two minutes.
    pub fn take(thread: Pid) -> Option<Self> {
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Err(Errno::ESRCH) => return None,
            seized => seized.expect("the tracer may"),
        }
        let begin = Instant::now();
        loop {
            match ptrace::interrupt(thread) {
                Err(Errno::ESRCH) => return None,
                interrupted => interrupted.expect("seized"),
            }
            match waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops") {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return None,
                _ => {}
            }
            let registers = ptrace::getregs(thread).expect("stopped");
            if registers.rip == 0 {
                // The kernel keeps threads in a process that never run code of it, such as KVM's kvm-nx-lpage-re.
                ptrace::detach(thread, None).expect("stopped");
                return None;
            }
            let taken = Self { thread, registers };
            // A thread may still have work to do before it waits.
            if taken.is_in_system_call() {
                return Some(taken);
            }
            assert!(begin.elapsed() < TIMEOUT, "thread {thread} does not come to wait");
            std::mem::forget(taken);
            ptrace::cont(thread, None).expect("stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// An address on the thread's stack.
    pub fn stack(&self) -> u64 {
        self.registers.rsp
    }

    /// Whether the instruction before the next one is `syscall`.
    fn is_in_system_call(&self) -> bool {
        let code = ptrace::read(self.thread, (self.registers.rip - 2) as ptrace::AddressType).expect("its code");
        code & 0xffff == 0x050f
    }

    /// Lets the thread do a system call next. `path`: written to its stack, the call's argument of that index points there.
    fn prepare(&self, call: libc::c_long, args: [u64; 6], path: Option<(usize, &str)>) {
        let mut args = args;
        if let Some((index, path)) = path {
            // Below what the ABI reserves.
            let at = (self.registers.rsp - 512) & !7;
            let mut bytes = path.as_bytes().to_vec();
            bytes.resize(bytes.len().next_multiple_of(8) + 8, 0);
            for (offset, word) in bytes.chunks(8).enumerate() {
                let word = i64::from_le_bytes(word.try_into().expect("eight bytes"));
                ptrace::write(self.thread, (at as usize + offset * 8) as ptrace::AddressType, word).expect("its stack");
            }
            args[index] = at;
        }
        let instruction = self.registers.rip - 2;
        let [rdi, rsi, rdx, r10, r8, r9] = args;
        let rax = call as u64;
        let (rip, orig_rax) = (instruction, u64::MAX);
        let registers = libc::user_regs_struct { rip, rax, orig_rax, rdi, rsi, rdx, r10, r8, r9, ..self.registers };
        ptrace::setregs(self.thread, registers).expect("stopped");
    }

    /// Makes the thread do a system call, and returns the outcome. `path`: a string, and the index of the argument that points
    /// to it.
    ///
    /// # Panics
    /// If the thread ends, or stops for another reason.
    pub fn act(&self, call: libc::c_long, args: [u64; 6], path: Option<(usize, &str)>) -> Outcome {
        self.prepare(call, args, path);
        ptrace::step(self.thread, None).expect("stopped");
        match self.wait() {
            WaitStatus::Stopped(_, Signal::SIGSYS) => {
                // The step's own signal comes second.
                ptrace::step(self.thread, None).expect("stopped");
                assert!(matches!(self.wait(), WaitStatus::Stopped(_, Signal::SIGTRAP)), "thread {}", self.thread);
                Outcome::Trapped
            }
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                Outcome::Result(ptrace::getregs(self.thread).expect("stopped").rax as i64)
            }
            other => panic!("thread {} after system call {call}: {other:?}", self.thread),
        }
    }

    /// Makes the thread do a system call that is trapped, and lets it go on with that.
    ///
    /// # Panics
    /// If the call is not trapped.
    pub fn violate(self, call: libc::c_long, args: [u64; 6], path: Option<(usize, &str)>) {
        self.prepare(call, args, path);
        ptrace::cont(self.thread, None).expect("stopped");
        assert!(matches!(self.wait(), WaitStatus::Stopped(_, Signal::SIGSYS)), "thread {}", self.thread);
        ptrace::detach(self.thread, Signal::SIGSYS).expect("stopped");
        std::mem::forget(self);
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.thread, Some(WaitPidFlag::__WALL)).expect("it stops again")
    }
}

impl Drop for Taken {
    /// Lets the thread go on as before. The kernel does not end a process of which a thread is held.
    fn drop(&mut self) {
        let _ = ptrace::setregs(self.thread, self.registers);
        let _ = ptrace::detach(self.thread, None);
    }
}
