//! Seccomp profiles: from the OCI form to a program for the kernel.
//!
//! The profile is `linux.seccomp` of the OCI configuration that the host sends (`bare_oci_config`,
//! `runtime/src/container/prepare.rs`). The agent compiles it once, when it creates the container, so that it finds
//! mistakes early (`exec_prep`, `containers.rs`). Each process of the container loads the compiled program as its last
//! step before it executes its own ([`crate::pre_exec::ExecPrep::run`] calls [`Filter::load`]).
//!
//! This does not use libcontainer's own support. libcontainer loads the filter while it still has work to do, so that a
//! profile must allow the calls of libcontainer. It forgets the filter for processes that enter a container. It cannot
//! load a filter if `noNewPrivileges` is present and false. And it swaps mask and value of `SCMP_CMP_MASKED_EQ`.

use std::fs::File;
use std::io::{Read, Seek};

use hutch_agent::failure::{invalid, io, system, Outcome};
use hutch_agent_proto::RemoteError;
use libcontainer::oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};
use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MFdFlags};
use serde::{Deserialize, Serialize};

/// Number of arguments of a system call.
const ARGUMENTS: usize = 6;
/// Longest program that the kernel accepts, in instructions.
const MAX_INSTRUCTIONS: usize = 4096;
/// Error of a denied call, unless the profile names another.
const DEFAULT_ERRNO: u32 = libc::EPERM as u32;

/// A program for the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_…`
    flags: u64,
    /// Instructions as in memory (`struct sock_filter`, eight bytes each).
    instructions: Vec<u64>,
}

/// A compiled profile.
#[derive(Debug)]
pub struct Compiled {
    pub filter: Filter,
    /// Names in the profile that are not system calls of this machine. The filter omits them: no process can make such
    /// a call.
    pub unknown: Vec<String>,
}

/// Compiles a profile.
///
/// # Errors
/// `Invalid` for a profile that a filter cannot express, or that needs a listener (`SCMP_ACT_NOTIFY`).
pub fn compile(profile: &LinuxSeccomp) -> Outcome<Compiled> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(|error| refused("the default action", &error))?;
    for arch in profile.architectures().iter().flatten().filter_map(|arch| native(*arch)) {
        context.add_arch(arch).map_err(|error| refused(format_args!("architecture {arch:?}"), &error))?;
    }
    let mut unknown = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            // libseccomp refuses a rule that has the default action.
            continue;
        }
        for name in rule.names() {
            match ScmpSyscall::from_name(name) {
                Ok(call) => add(&mut context, action, call, rule)
                    .map_err(|error| refused(format_args!("the rule for {name}"), &error))?,
                Err(_) => unknown.push(name.clone()),
            }
        }
    }
    Ok(Compiled { filter: Filter { flags: flags(profile)?, instructions: export(&context)? }, unknown })
}

/// Adds a rule. All its conditions must hold, except that several conditions on one argument are alternatives, as in
/// runc.
fn add(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    rule: &LinuxSyscall,
) -> Result<(), SeccompError> {
    let conditions = rule.args().as_deref().unwrap_or_default();
    let mut seen = [false; ARGUMENTS];
    let twice =
        conditions.iter().any(|arg| seen.get_mut(arg.index()).is_some_and(|seen| std::mem::replace(seen, true)));
    let all: Vec<ScmpArgCompare> = conditions.iter().map(condition).collect();
    match (all.len(), twice) {
        (0, _) => context.add_rule(action, call).map(drop),
        (_, false) => context.add_rule_conditional(action, call, &all).map(drop),
        (_, true) => all.iter().try_for_each(|one| context.add_rule_conditional(action, call, &[*one]).map(drop)),
    }
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let index = u32::try_from(arg.index()).unwrap_or(u32::MAX);
    let compare = |operator| ScmpArgCompare::new(index, operator, arg.value());
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => compare(ScmpCompareOp::NotEqual),
        LinuxSeccompOperator::ScmpCmpLt => compare(ScmpCompareOp::Less),
        LinuxSeccompOperator::ScmpCmpLe => compare(ScmpCompareOp::LessOrEqual),
        LinuxSeccompOperator::ScmpCmpEq => compare(ScmpCompareOp::Equal),
        LinuxSeccompOperator::ScmpCmpGe => compare(ScmpCompareOp::GreaterEqual),
        LinuxSeccompOperator::ScmpCmpGt => compare(ScmpCompareOp::Greater),
        // The first value is the mask, the second the masked value.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            let mask = ScmpCompareOp::MaskedEqual(arg.value());
            ScmpArgCompare::new(index, mask, arg.value_two().unwrap_or_default())
        }
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Outcome<ScmpAction> {
    let number = errno.unwrap_or(DEFAULT_ERRNO);
    Ok(match action {
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActErrno => match i32::try_from(number) {
            Ok(errno @ 0..=4095) => ScmpAction::Errno(errno),
            _ => return Err(invalid(format!("seccomp profile: {number} is not an error number"))),
        },
        LinuxSeccompAction::ScmpActTrace => match u16::try_from(number) {
            Ok(message) => ScmpAction::Trace(message),
            Err(_) => return Err(invalid(format!("seccomp profile: {number} is not a message for a tracer"))),
        },
        LinuxSeccompAction::ScmpActNotify => {
            return Err(invalid("seccomp profile: SCMP_ACT_NOTIFY needs a listener, which no guest has"))
        }
    })
}

/// The architectures that processes of this machine can have. Profiles name those of many machines.
fn native(arch: Arch) -> Option<ScmpArch> {
    match arch {
        Arch::ScmpArchX86_64 | Arch::ScmpArchNative => Some(ScmpArch::X8664),
        Arch::ScmpArchX86 => Some(ScmpArch::X86),
        Arch::ScmpArchX32 => Some(ScmpArch::X32),
        _ => None,
    }
}

fn flags(profile: &LinuxSeccomp) -> Outcome<u64> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // The process has one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(invalid("seccomp profile: WAIT_KILLABLE_RECV needs a listener, which no guest has"))
            }
        };
    }
    Ok(flags)
}

fn export(context: &ScmpFilterContext) -> Outcome<Vec<u64>> {
    let file = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).map_err(|errno| system("compiling a filter", errno))?;
    let mut file = File::from(file);
    context.export_bpf(&file).map_err(|error| refused("the program", &error))?;
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(|error| io("compiling a filter", &error))?;
    let instructions = bytes.chunks_exact(8).map(|chunk| u64::from_ne_bytes(chunk.try_into().unwrap_or_default()));
    let instructions: Vec<u64> = instructions.collect();
    match instructions.len() {
        1..=MAX_INSTRUCTIONS => Ok(instructions),
        count => Err(invalid(format!(
            "seccomp profile: it needs {count} instructions; the kernel accepts {MAX_INSTRUCTIONS} at most"
        ))),
    }
}

fn refused(what: impl std::fmt::Display, error: &SeccompError) -> RemoteError {
    invalid(format!("seccomp profile: {what}: {error}"))
}

impl Filter {
    /// Puts the calling thread and the programs that it executes under the filter. This needs `no_new_privs` or
    /// CAP_SYS_ADMIN.
    ///
    /// It allocates no memory and makes no other system call.
    #[expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]
    pub fn load(&self) -> Result<(), Errno> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.instructions.len()).map_err(|_| Errno::E2BIG)?,
            // The kernel only reads the instructions. Each is eight bytes, aligned to four.
            filter: self.instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
        };
        let mode = libc::SECCOMP_SET_MODE_FILTER;
        // SAFETY: `program` and the instructions it points to live until the call returns; the kernel checks them.
        Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, mode, self.flags, &raw const program) }).map(drop)
    }
}

#[cfg(test)]
#[path = "seccomp_tests.rs"]
mod tests;
