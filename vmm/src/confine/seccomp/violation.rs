//! Puts filters on threads, and ends a process that makes a forbidden call: with one line that says which thread made
//! which call, and the exit code [`EXIT_CODE`].
#![expect(unsafe_code, reason = "seccomp(2), prctl(2) and a signal handler have no safe form")]

use std::fmt::Write;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::OnceLock;

use syscalls::Sysno;

use super::instruction::{signals_to, Instruction};
use super::last_act;

/// Exit code of a process that made a forbidden call: 128 and SIGSYS, as a shell would say, moved away from what a signal
/// gives.
pub(super) const EXIT_CODE: i32 = 159;

/// The beginning of what a process says of its end.
pub const VIOLATION: &str = "the jail ended this process";

/// Longest message in bytes; it is cut there.
const MESSAGE_MAX: usize = 384;

/// `SYS_SECCOMP` of `asm-generic/siginfo.h`: the signal comes from a filter.
const SYS_SECCOMP: libc::c_int = 1;

/// The beginning of this process's message, and where it goes beside stderr.
static LABEL: OnceLock<(Box<str>, Option<OwnedFd>)> = OnceLock::new();

/// From now on the message of a forbidden call begins with `label` instead of "hutch: error", and goes to `log` as well as to
/// stderr. Only the first label is kept.
pub fn label_process(label: &str, log: Option<OwnedFd>) {
    LABEL.get_or_init(|| (label.into(), log));
}

/// Whether the kernel has filters that trap.
pub(super) fn action_available() -> io::Result<()> {
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads one number.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) })
}

/// Puts `program` on the calling thread. If it is the `first` one, the thread and its threads can signal no other process, and
/// get no privileges by exec any more (no_new_privs): the kernel demands that, and a thread inherits both from its maker.
pub(super) fn install(program: &[Instruction], first: bool) -> io::Result<()> {
    if first {
        // SAFETY: takes numbers.
        check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
        put_on(&signals_to(std::process::id()))?;
    }
    put_on(program)
}

fn put_on(program: &[Instruction]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    // The kernel does not write to it.
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads the structure and as many instructions as it says.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
}

/// Installs the handler of SIGSYS.
pub(super) fn install_handler() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are a valid structure: no flags, an empty mask.
    let mut action = unsafe {
        action.assume_init_mut().sa_sigaction = report as *const () as usize;
        action.assume_init()
    };
    // The standard library gives each thread a stack for signals.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the structure is complete, and the handler makes no call but those that are allowed in a handler.
    check(unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) }.into())
}

/// The beginning of `siginfo_t` for SIGSYS (sigaction(2)).
#[repr(C)]
struct CallInfo {
    signal: libc::c_int,
    errno: libc::c_int,
    code: libc::c_int,
    address: *const libc::c_void,
    number: libc::c_int,
    arch: libc::c_uint,
}

/// The handler: writes the message and ends the process. Allocates nothing and takes no lock.
extern "C" fn report(_: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a complete structure to the handler, and CallInfo is its beginning.
    let (code, number, address) = unsafe {
        let info = info.cast::<CallInfo>();
        ((*info).code, (*info).number, (*info).address)
    };
    if code != SYS_SECCOMP && last_act::answer() {
        return;
    }
    let mut line = Line { bytes: [0; MESSAGE_MAX], len: 0 };
    let label = LABEL.get().map_or("hutch: error", |(label, _)| &**label);
    // A line that is cut says enough.
    let _ = match code {
        SYS_SECCOMP => {
            // SAFETY: the third parameter of a handler with SA_SIGINFO is the interrupted thread's state.
            let registers = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
            let [first, second, third] = [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|index| {
                usize::try_from(index).ok().and_then(|index| registers.get(index)).copied().unwrap_or_default()
            });
            let name = thread_name();
            let thread = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let thread = std::str::from_utf8(thread).unwrap_or("?");
            let call = usize::try_from(number).ok().and_then(Sysno::new).map_or("unknown", |call| call.name());
            writeln!(
                line,
                "{label}: {VIOLATION}: thread {thread} made the system call {call} ({number}) with {first:#x}, \
                 {second:#x}, {third:#x} at {address:?}"
            )
        }
        _ => writeln!(line, "{label}: another process ended this process with SIGSYS"),
    };
    let log = LABEL.get().and_then(|(_, log)| log.as_ref()).map(AsRawFd::as_raw_fd);
    for fd in [Some(libc::STDERR_FILENO), log].into_iter().flatten() {
        // SAFETY: writes initialised bytes.
        unsafe { libc::write(fd, line.bytes.as_ptr().cast(), line.len) };
    }
    last_act::perform();
    // SAFETY: takes a number.
    unsafe { libc::_exit(EXIT_CODE) }
}

/// The name of the calling thread. The thread may be an attacker's, and the message goes to a terminal: bytes that are not
/// printable become question marks.
fn thread_name() -> [u8; 16] {
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, the last of which is 0.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr(), 0, 0, 0) };
    name.map(|byte| if byte == 0 || byte == b' ' || byte.is_ascii_graphic() { byte } else { b'?' })
}

struct Line {
    bytes: [u8; MESSAGE_MAX],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for (to, from) in self.bytes.iter_mut().skip(self.len).zip(text.bytes()) {
            *to = from;
            self.len += 1;
        }
        Ok(())
    }
}

fn check(answer: libc::c_long) -> io::Result<()> {
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
