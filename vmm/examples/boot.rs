//! Boots a kernel and reports the result: `cargo run -p hutch-vmm --example boot -- --kernel vmlinux ...`.
//!
//! The guest's console goes to stdout at once; exit, marks and counters follow on stderr.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use hutch_agent_proto::error_chain;
use hutch_vmm::config::{
    BlockConfig, BootProtocol, ConsoleLevel, ConsoleOutput, DeviceDiscovery, ImageLoading, MemoryBacking, ShareConfig,
    SharePolicy, VsockConfig,
};
use hutch_vmm::{Machine, MachineConfig};

const USAGE: &str = "boot --kernel FILE [--initrd FILE] [--append PARAMETER]... [--cpus N] [--memory MIB]
     [--protocol auto|pvh|linux64] [--discovery acpi|cmdline] [--console FILE|ring|none] [--verbose]
     [--disk FILE]... [--share TAG=DIR]... [--vsock CID] [--rng] [--map] [--memfd] [--hugetlb MIB] [--thp] [--prefault]
     [--emulated] [--timeout SECONDS] [--pause-after SECONDS] [--trace]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    config: MachineConfig,
    timeout: Option<Duration>,
    pause_after: Option<Duration>,
}

fn options() -> Result<Options, String> {
    let mut config = MachineConfig::new("boot", PathBuf::new());
    config.console.output = ConsoleOutput::File("/dev/stdout".into());
    let (mut timeout, mut pause_after) = (None, None);
    let mut args = std::env::args().skip(1);
    while let Some(option) = args.next() {
        let mut value = || args.next().ok_or(format!("{option} needs a value\n{USAGE}"));
        let seconds = |text: String| text.parse().map(Duration::from_secs_f64).map_err(|e| format!("{text}: {e}"));
        let number = |text: String| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
        match option.as_str() {
            "--kernel" => config.kernel = value()?.into(),
            "--initrd" => config.initrd = Some(value()?.into()),
            "--append" => config.cmdline.push(value()?),
            "--cpus" => config.vcpus = number(value()?)? as u32,
            "--memory" => config.memory.size_mib = number(value()?)?,
            "--protocol" => {
                config.boot = match value()?.as_str() {
                    "auto" => BootProtocol::Auto,
                    "pvh" => BootProtocol::Pvh,
                    "linux64" => BootProtocol::Linux64,
                    other => return Err(format!("unknown protocol {other}\n{USAGE}")),
                }
            }
            "--discovery" => {
                config.discovery = match value()?.as_str() {
                    "acpi" => DeviceDiscovery::Acpi,
                    "cmdline" => DeviceDiscovery::Cmdline,
                    other => return Err(format!("unknown discovery {other}\n{USAGE}")),
                }
            }
            "--console" => {
                config.console.output = match value()?.as_str() {
                    "ring" => ConsoleOutput::Ring,
                    "none" => ConsoleOutput::None,
                    path => ConsoleOutput::File(path.into()),
                }
            }
            "--verbose" => config.console.level = ConsoleLevel::Verbose,
            "--disk" => {
                let id = format!("disk{}", config.blocks.len());
                let serial = Some(id.clone());
                config.blocks.push(BlockConfig { id, path: value()?.into(), read_only: false, serial });
            }
            "--share" => {
                let text = value()?;
                let (tag, path) = text.split_once('=').ok_or(format!("--share needs TAG=DIR\n{USAGE}"))?;
                let id = format!("fs{}", config.shares.len());
                config.shares.push(ShareConfig {
                    id,
                    tag: tag.into(),
                    path: path.into(),
                    read_only: false,
                    only: None,
                    policy: SharePolicy::default(),
                });
            }
            "--vsock" => config.vsock = Some(VsockConfig { guest_cid: number(value()?)? }),
            "--rng" => config.rng = true,
            "--map" => config.loading = ImageLoading::Map,
            "--memfd" => config.memory.backing = MemoryBacking::Memfd,
            "--hugetlb" => config.memory.backing = MemoryBacking::Hugetlb { page_mib: number(value()?)? },
            "--thp" => config.memory.thp = true,
            "--prefault" => config.memory.prefault = true,
            "--emulated" => config.allow_emulated = true,
            "--timeout" => timeout = Some(seconds(value()?)?),
            "--pause-after" => pause_after = Some(seconds(value()?)?),
            "--trace" => trace(),
            other => return Err(format!("unknown option {other}\n{USAGE}")),
        }
    }
    Ok(Options { config, timeout, pause_after })
}

fn run() -> Result<(), String> {
    let Options { config, timeout, pause_after } = options()?;
    let mut machine = Machine::build(&config).map_err(|error| error_chain(&error))?;
    machine.start().map_err(|error| error_chain(&error))?;
    if let Some(after) = pause_after
        && machine.wait(Some(after)).is_none()
    {
        machine.pause().map_err(|error| error_chain(&error))?;
        eprintln!("paused; exits so far: {}", machine.counters().exits.total());
        std::thread::sleep(Duration::from_secs(1));
        eprintln!("resumed; exits so far: {}", machine.counters().exits.total());
        machine.resume().map_err(|error| error_chain(&error))?;
    }
    let exit = machine.wait(timeout);
    match &exit {
        Some(exit) => eprintln!("exit: {exit}"),
        None => eprintln!("exit: none within {timeout:?}"),
    }
    if config.console.output == ConsoleOutput::Ring {
        for line in machine.console_tail(20) {
            eprintln!("console: {line}");
        }
    }
    let marks = machine.marks();
    let first = marks.first().map_or(0, |mark| mark.at_ns);
    for mark in &marks {
        eprintln!("mark: {:>12.3} ms {} ({})", (mark.at_ns - first) as f64 / 1e6, mark.name, mark.at_ns);
    }
    eprintln!("counters: {:?}", machine.counters());
    machine.shutdown().map_err(|error| error_chain(&error))
}

/// Prints every I/O exit.
fn trace() {
    struct Stderr;
    impl log::Log for Stderr {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            eprintln!("{}: {}", record.target(), record.args());
        }
        fn flush(&self) {}
    }
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(log::LevelFilter::Trace);
    }
}
