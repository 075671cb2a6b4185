//! `cargo xtask testbed`: a command in the emulated machine, or directly where the host has a working KVM.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use hutch_testbed_host::kvm::{self, HostKvm};
use hutch_testbed_host::{Input, Outcome, TestbedConfig};

use crate::setup::{self, Need};
use crate::{build, kernel, Result};

/// Exit code for a run that took too long, as timeout(1) has it.
const TIMED_OUT: u8 = 124;

/// Exit code for a testbed that died.
const DIED: u8 = 125;

/// Options of `testbed`.
#[derive(clap::Args)]
pub struct Args {
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
    /// Deterministic time: one emulated instruction takes one nanosecond
    #[arg(long)]
    icount: bool,
    /// Relay stdin to the command, which otherwise reads /dev/null
    #[arg(long, short = 'i')]
    stdin: bool,
    /// An interactive shell, or COMMAND, on a terminal
    #[arg(long)]
    shell: bool,
    /// Use the emulated machine even where the host has a working KVM
    #[arg(long)]
    always: bool,
    /// Program and arguments
    #[arg(last = true, required_unless_present = "shell")]
    command: Vec<OsString>,
}

/// Runs the task; the exit code is the command's.
pub fn main(args: Args) -> Result<ExitCode> {
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

/// Says on stderr what was wrong, if anything, and returns the exit code for it. A signal ends this process.
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
            // By the very signal, so that a calling shell sees what happened.
            let _ = signal.map(nix::sys::signal::raise);
            DIED
        }
    }
}

/// A command some other task wants run where there is a KVM for stock guests.
pub struct RunRequest {
    /// Program and arguments.
    pub args: Vec<OsString>,
    /// Variables besides what every login has.
    pub env: Vec<(String, String)>,
    /// Directories it writes to.
    pub write: Vec<PathBuf>,
    /// Kernel of the emulated machine.
    pub kernel: kernel::Choice,
    /// Deterministic time in it, on one CPU.
    pub deterministic: bool,
    /// Memory of the emulated machine.
    pub memory_mib: u64,
    /// Wall-clock limit.
    pub timeout: Duration,
}

/// Runs a command directly if this host's KVM is good for it, else in the testbed; its exit code.
pub fn wherever(request: &RunRequest) -> Result<u8> {
    if kvm::host() == HostKvm::Usable {
        let mut command = Command::new(&request.args[0]);
        let status = command.args(&request.args[1..]).envs(request.env.iter().map(|(k, v)| (k, v))).status()?;
        return Ok(code_of(status));
    }
    setup::ensure(&[Need::Testbed])?;
    let kernel = kernel::testbed(&request.kernel, false)?;
    println!("    Booting the testbed: this host's KVM cannot run stock guests ({} kernel)", kernel.name);
    let set = request.env.iter().map(|(k, v)| OsString::from(format!("{k}={v}")));
    let config = TestbedConfig {
        cpus: if request.deterministic { 1 } else { kernel.max_cpus },
        kernel,
        init: build::static_binary("hutch-testbed", "testbed-init")?,
        memory_mib: request.memory_mib,
        deterministic: request.deterministic,
        timeout: request.timeout,
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
    let kernel = kernel::testbed(&args.kernel, false)?;
    let init = build::static_binary("hutch-testbed", "testbed-init")?;
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
        write: args.write,
        args: command,
        env: environment(&args.env, args.shell),
        cwd: std::env::current_dir()?,
        input,
    })
}

/// The environment of a command in the testbed: what every login has, and what was asked for.
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
    eprintln!(
        "testbed: this host's /dev/kvm works, so the command runs directly on it (--always emulates nonetheless)"
    );
    let Some((program, rest)) = args.command.split_first() else {
        return Err("this host's own shell will do: its /dev/kvm works".into());
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
