//! `cargo xtask testbed`: runs a command in the emulated machine, or directly if the host has a working KVM.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use hutch_testbed_host::kvm::{self, HostKvm};
use hutch_testbed_host::{Input, Outcome, TestbedConfig};

use crate::setup::{self, Need};
use crate::tools::Tools;
use crate::{build, kernel, Result};

/// Exit code for a run that took too long, as of timeout(1).
const TIMED_OUT: u8 = 124;

/// Exit code for a testbed that failed.
const DIED: u8 = 125;

/// Options of `testbed`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// CPUs of the emulated machine; default 1 with the distro kernel, 2 with our own
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// Memory of the emulated machine in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    memory: u64,
    /// Wall-clock limit in seconds [default: 300; none with --shell]
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Kernel of the emulated machine: distro, own, or the path of an ELF vmlinux with everything built in
    #[arg(long, value_name = "KERNEL", default_value = "distro")]
    kernel: kernel::Choice,
    /// Host directory the command may write to; may be repeated
    #[arg(long, value_name = "DIR")]
    write: Vec<PathBuf>,
    /// Environment variable to carry over, or NAME=VALUE to set; may be repeated
    #[arg(long, value_name = "VAR")]
    env: Vec<OsString>,
    /// Use deterministic time: one emulated instruction takes one nanosecond
    #[arg(long)]
    icount: bool,
    /// Relay stdin to the command, which otherwise reads /dev/null
    #[arg(long, short = 'i')]
    stdin: bool,
    /// Run an interactive shell, or COMMAND, on a terminal
    #[arg(long)]
    shell: bool,
    /// Use the emulated machine even if the host has a working KVM
    #[arg(long)]
    always: bool,
    /// Program and arguments
    #[arg(last = true, required_unless_present = "shell")]
    command: Vec<OsString>,
}

/// Runs the task; the exit code is the command's.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    match kvm::host() {
        HostKvm::Usable if !args.always => return directly(args),
        HostKvm::NotOpen => {
            eprintln!("testbed: this host has KVM, but /dev/kvm cannot be opened here; emulating instead")
        }
        _ => {}
    }
    let config = config_of(args)?;
    let outcome = hutch_testbed_host::run(&config, &mut io::stdout(), &mut io::stderr())?;
    Ok(ExitCode::from(report(&outcome, config.timeout)))
}

/// Prints a failure on stderr and returns the exit code. A signal ends this process.
fn report(outcome: &Outcome, timeout: Duration) -> u8 {
    match outcome {
        Outcome::Exited(code) => *code,
        Outcome::TimedOut(console) => {
            eprintln!("testbed: stopped after {} s. {console}", timeout.as_secs());
            TIMED_OUT
        }
        Outcome::Died(why) => {
            eprintln!("testbed: the emulated machine failed: {why}");
            DIED
        }
        Outcome::Interrupted(signal) => {
            let signal = nix::sys::signal::Signal::try_from(*signal).ok();
            // By the same signal, so that a calling shell sees it.
            let _ = signal.map(nix::sys::signal::raise);
            DIED
        }
    }
}

/// A command of another task that needs a KVM for stock guests.
pub(crate) struct RunRequest {
    /// Program and arguments.
    pub(crate) args: Vec<OsString>,
    /// Variables besides those of every login.
    pub(crate) env: Vec<(String, String)>,
    /// Directories it writes to.
    pub(crate) write: Vec<PathBuf>,
    /// Kernel of the emulated machine.
    pub(crate) kernel: kernel::Choice,
    /// Use deterministic time, on one CPU.
    pub(crate) deterministic: bool,
    pub(crate) memory_mib: u64,
    /// Wall-clock limit.
    pub(crate) timeout: Duration,
    pub(crate) tools: Tools,
}

/// Runs a command directly if this host's KVM runs stock guests, else in the testbed. Returns its exit code.
pub(crate) fn wherever(request: &RunRequest) -> Result<u8> {
    if kvm::host() == HostKvm::Usable {
        let mut command = Command::new(&request.args[0]);
        let status = command.args(&request.args[1..]).envs(request.env.iter().map(|(k, v)| (k, v))).status()?;
        return Ok(code_of(status));
    }
    emulated(request, false)
}

/// Runs a command in the testbed. Its limit bounds how long the command may print nothing. Returns the exit code.
pub(crate) fn until_silent(request: &RunRequest) -> Result<u8> {
    emulated(request, true)
}

fn emulated(request: &RunRequest, until_silent: bool) -> Result<u8> {
    setup::ensure(&[Need::Testbed])?;
    let kernel = kernel::testbed(&request.kernel, false, &request.tools)?;
    println!("    Booting the testbed: this host's KVM cannot run stock guests ({} kernel)", kernel.name);
    let set = request.env.iter().map(|(k, v)| OsString::from(format!("{k}={v}")));
    let config = TestbedConfig {
        cpus: if request.deterministic { 1 } else { kernel.max_cpus },
        kernel,
        init: request.tools.init()?,
        memory_mib: request.memory_mib,
        deterministic: request.deterministic,
        timeout: request.timeout,
        until_silent,
        write: request.write.clone(),
        args: request.args.clone(),
        env: environment(&set.collect::<Vec<_>>(), false),
        cwd: build::root(),
        input: Input::Null,
    };
    let outcome = hutch_testbed_host::run(&config, &mut io::stdout(), &mut io::stderr())?;
    Ok(report(&outcome, config.timeout))
}

fn config_of(args: Args) -> Result<TestbedConfig> {
    setup::ensure(&[Need::Testbed])?;
    let tools = Tools::default();
    let kernel = kernel::testbed(&args.kernel, false, &tools)?;
    let init = tools.init()?;
    let input = match (args.shell, args.stdin) {
        (true, _) if !io::stdin().is_terminal() => return Err("--shell needs a terminal on stdin".into()),
        (true, _) => Input::Terminal,
        (false, true) => Input::Pipe,
        (false, false) => Input::Null,
    };
    let command = match args.command {
        command if command.is_empty() => vec![std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())],
        command => command,
    };
    let forever = if args.shell { u64::from(u32::MAX) } else { 300 };
    Ok(TestbedConfig {
        cpus: args.cpus.unwrap_or(if args.icount { 1 } else { kernel.max_cpus }),
        kernel,
        init,
        memory_mib: args.memory,
        deterministic: args.icount,
        timeout: Duration::from_secs(args.timeout.unwrap_or(forever)),
        until_silent: false,
        write: args.write,
        args: command,
        env: environment(&args.env, args.shell),
        cwd: std::env::current_dir()?,
        input,
    })
}

/// The environment of a command in the testbed: the variables of every login, and the requested ones.
fn environment(asked: &[OsString], terminal: bool) -> Vec<OsString> {
    let mut all: Vec<(OsString, OsString)> =
        [("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8"), (hutch_testbed::MARKER, "1")]
            .map(|(k, v)| (k.into(), v.into()))
            .into();
    let carried = if terminal { &["PATH", "TERM"][..] } else { &["PATH"] };
    all.extend(carried.iter().filter_map(|k| Some((k.into(), std::env::var_os(k)?))));
    for entry in asked {
        let bytes = entry.as_encoded_bytes();
        match bytes.iter().position(|b| *b == b'=') {
            Some(at) => all.push((os(&bytes[..at]), os(&bytes[at + 1..]))),
            None => all.extend(std::env::var_os(entry).map(|value| (entry.clone(), value))),
        }
    }
    all.into_iter().map(|(key, value)| [key.as_os_str(), "=".as_ref(), &value].into_iter().collect()).collect()
}

fn os(bytes: &[u8]) -> OsString {
    <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).to_owned()
}

fn directly(args: Args) -> Result<ExitCode> {
    eprintln!("testbed: this host's /dev/kvm works, so the command runs directly on it (use --always to emulate)");
    let Some((program, rest)) = args.command.split_first() else {
        return Err("use this host's own shell: its /dev/kvm works".into());
    };
    let status = Command::new(program).args(rest).env(hutch_testbed::MARKER, "0").status();
    let status = status.map_err(|e| format!("cannot run {}: {e}", program.to_string_lossy()))?;
    Ok(ExitCode::from(code_of(status)))
}

fn code_of(status: ExitStatus) -> u8 {
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_set_carried_over_or_left_out() {
        let asked = ["A=b=c", "HUTCH_SURELY_NOT_SET", "CARGO_MANIFEST_DIR"].map(OsString::from);
        let env = environment(&asked, false);
        assert!(env.contains(&"A=b=c".into()));
        assert!(!env.iter().any(|v| v.to_string_lossy().starts_with("HUTCH_SURELY")));
        assert!(env.contains(&format!("CARGO_MANIFEST_DIR={}", env!("CARGO_MANIFEST_DIR")).into()));
        assert!(!env.iter().any(|v| v.to_string_lossy().starts_with("TERM=")));
    }
}
