//! `hutch boot`: boots any kernel and initrd without the agent, with the console on stdout.

use std::os::fd::AsFd;
use std::time::Duration;

use hutch_vmm::config::{BlockConfig, ConsoleConfig, ConsoleLevel, ConsoleOutput, DeviceDiscovery, ImageLoading};
use hutch_vmm::confine::namespaces::leave_host;
use hutch_vmm::footprint::{drop_program_pages, ProgramPages};
use hutch_vmm::{Confinement, Machine, MachineConfig, MachineExit, Mark};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::args::boot::{BootArgs, Discovery, Loading};
use crate::failure::{Failure, RUN_FAILED};
use crate::marks::MarksFile;
use crate::resolve::size;

/// Console lines in the error report of a guest that fails.
const TAIL: usize = 20;

#[derive(Debug, thiserror::Error)]
enum BootError {
    #[error("--memory {0:?} is not a size; give for example 256M or 2G")]
    Memory(String),
    #[error("{exit}; last lines of the console:\n{tail}")]
    Guest { exit: MachineExit, tail: String },
    #[error("the guest still ran after {0} s")]
    Timeout(u64),
}

/// Boots the guest and waits for its end.
pub fn run(args: &BootArgs, started_ns: u64) -> Result<u8, Failure> {
    boot(args, started_ns).map_err(|failure| failure.with_code(RUN_FAILED))
}

fn boot(args: &BootArgs, started_ns: u64) -> Result<u8, Failure> {
    let mut config = config(args)?;
    // Block the signals before any thread exists: all threads inherit the mask, and one thread reads the signalfd.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    let marks_file = args.marks.as_deref().map(MarksFile::create).transpose()?;
    let root = if args.no_jail { None } else { leave_host(&mut config)?.root };
    let mut machine = Machine::build_in(&config, root)?;
    let stopper = machine.stopper();
    // This thread may outlive the machine: it owns nothing, and ends with the process.
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        while matches!(poll(&mut fds, PollTimeout::NONE), Err(nix::errno::Errno::EINTR)) {}
        stopper.stop();
    })?;
    drop_program_pages(ProgramPages::Data);
    machine.start()?;
    let exit = machine.wait(args.timeout.map(Duration::from_secs));
    let tail = machine.console_tail(TAIL).join("\n");
    if let Some(file) = marks_file {
        let mut all = vec![Mark { name: "main".into(), at_ns: started_ns, exits: None }];
        all.extend(machine.marks());
        file.write(&all, &machine.counters().exits)?;
    }
    machine.shutdown()?;
    match exit {
        Some(MachineExit::PowerOff | MachineExit::Reset | MachineExit::Stopped) => Ok(0),
        Some(exit) => Err(BootError::Guest { exit, tail }.into()),
        None => Err(BootError::Timeout(args.timeout.unwrap_or(0)).into()),
    }
}

fn config(args: &BootArgs) -> Result<MachineConfig, Failure> {
    let mut config = MachineConfig::new(format!("boot-{}", std::process::id()), &args.kernel);
    config.initrd.clone_from(&args.initrd);
    config.vcpus = args.cpus;
    config.max_vcpus = args.max_cpus;
    config.memory.size_mib = size::mib(&args.memory).ok_or_else(|| BootError::Memory(args.memory.clone()))?;
    if args.memory_growth {
        config.memory.grow_beyond(0);
        config.memory.plug_at_mark = true;
    }
    config.cmdline = args.append.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
    config.discovery = match args.discovery {
        Discovery::Acpi => DeviceDiscovery::Acpi,
        Discovery::Cmdline => DeviceDiscovery::Cmdline,
    };
    config.loading = match args.loading {
        Loading::Auto => ImageLoading::Auto,
        Loading::Copy => ImageLoading::Copy,
        Loading::Map => ImageLoading::Map,
    };
    config.confinement = if args.no_jail { Confinement::None } else { Confinement::Foreground };
    config.console = match args.silent {
        true => ConsoleConfig { output: ConsoleOutput::Stdout, level: ConsoleLevel::Quiet },
        false => ConsoleConfig { output: ConsoleOutput::Stdout, level: ConsoleLevel::Verbose },
    };
    for (i, disk) in args.disks.iter().enumerate() {
        let text = disk.to_string_lossy();
        let (path, read_only) = match text.strip_suffix(":ro") {
            Some(path) => (path.into(), true),
            None => (disk.clone(), false),
        };
        config.blocks.push(BlockConfig { id: format!("disk{i}"), path, read_only, serial: None });
    }
    Ok(config)
}
