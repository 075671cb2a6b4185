//! What was typed. Nothing here looks at the host; meaning is given in [`crate::resolve`].

pub mod bench;
pub mod boot;
pub mod container;
pub mod doctor;
pub mod guest;
pub mod pod;
pub mod process;
pub mod records;
pub mod run;
pub mod schema;
pub mod volume;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};
use hutch_vmm::config::GROWTH_THRESHOLD_MIB;
use log::LevelFilter;

use crate::failure::RUN_FAILED;

/// Exit code for a command line that is not understood, except for `hutch run`.
const USAGE: u8 = 2;

/// Containers and sandboxes, each in a KVM virtual machine of its own.
#[derive(Debug, Parser)]
#[command(name = "hutch", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Args {
    /// Where the log goes.
    #[command(flatten)]
    pub log: LogArgs,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Logging, for every verb.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// What is logged: off, error, warn, info, debug or trace [env: HUTCH_LOG] [default: warn]
    #[arg(long, global = true, value_name = "LEVEL", value_parser = level)]
    pub log_level: Option<LevelFilter>,
    /// Append the log to FILE instead of writing it to stderr
    #[arg(long, global = true, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

fn level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "use off, error, warn, info, debug or trace")
}

/// Whether a machine boots with a part of its memory and has the rest plugged in when its agent is up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MemoryGrowth {
    /// If the kernel is hutch's own and there is so much memory that it gains time
    #[default]
    Auto,
    /// Yes; the kernel needs CONFIG_VIRTIO_MEM and must bring memory online by itself
    On,
    /// No: all memory is there from the start
    Off,
}

impl MemoryGrowth {
    /// The memory up to which a machine boots with all of it, in MiB; `None`: it does not grow. `can_grow` is what is
    /// known of the guest's kernel.
    pub fn beyond_mib(self, can_grow: bool) -> Option<u64> {
        match self {
            Self::Auto => can_grow.then_some(GROWTH_THRESHOLD_MIB),
            Self::On => Some(0),
            Self::Off => None,
        }
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new virtual machine with a directory as its root file system
    Run(Box<run::RunArgs>),
    /// Pods: virtual machines that live on, and what runs in them
    Pod(pod::PodArgs),
    /// Containers in pods
    Container(container::ContainerArgs),
    /// Named volumes, which outlive pods
    Volume(volume::VolumeArgs),
    /// Print the JSON schema of pod and container configurations
    Schema(schema::SchemaArgs),
    /// Check whether this host can run virtual machines, and say what to do if not
    Doctor(doctor::DoctorArgs),
    /// Make, list and check what guests boot: a kernel and an initramfs with the agent
    Guest(guest::GuestArgs),
    /// Boot any kernel and initrd, with the console on stdout
    Boot(boot::BootArgs),
    /// Measure boots, of hutch and of other programs in the same run
    Bench(bench::BenchArgs),
    /// Print the version
    Version,
}

/// What the command line came to.
pub enum Parsed {
    /// A verb to carry out.
    Args(Box<Args>),
    /// Help or a usage error has been printed; the exit code.
    Done(u8),
}

/// Parses the command line. Help goes to stdout, errors to stderr.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Parsed {
    let words: Vec<OsString> = words.into_iter().collect();
    let parse = |command: clap::Command| {
        command.try_get_matches_from(&words).and_then(|matches| Args::from_arg_matches(&matches))
    };
    // What does not come to arguments that way (help, mistakes) is for the whole definition to answer.
    let quick = verb(&words).and_then(only).and_then(|command| parse(command).ok());
    match quick.map_or_else(|| parse(Args::command()), Ok) {
        Ok(args) => Parsed::Args(Box::new(args)),
        Err(error) => {
            // A closed stdout or stderr changes nothing about the outcome.
            let _ = error.print();
            Parsed::Done(match error.use_stderr() {
                false => 0,
                true if verb(&words) == Some("run") => RUN_FAILED,
                true => USAGE,
            })
        }
    }
}

/// The definition without the verbs that are not meant. Building all of it takes as long as half of everything else
/// that `hutch run` does before the guest starts.
fn only(verb: &str) -> Option<clap::Command> {
    let verb = match verb {
        "run" => run::RunArgs::augment_args(clap::Command::new("run")),
        "boot" => boot::BootArgs::augment_args(clap::Command::new("boot")),
        "container" => container::ContainerArgs::augment_args(clap::Command::new("container")),
        _ => return None,
    };
    Some(LogArgs::augment_args(clap::Command::new("hutch")).subcommand_required(true).subcommand(verb))
}

/// The verb on a command line.
fn verb(words: &[OsString]) -> Option<&str> {
    let mut words = words.iter().skip(1);
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--log-level" | "--log-file") => drop(words.next()),
            Some(flag) if flag.starts_with('-') => {}
            verb => return verb,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn parsed(line: &str) -> Args {
        match parse(words(line)) {
            Parsed::Args(args) => *args,
            Parsed::Done(code) => panic!("{line}: {code}"),
        }
    }

    fn code(line: &str) -> u8 {
        match parse(words(line)) {
            Parsed::Args(args) => panic!("{line}: {args:?}"),
            Parsed::Done(code) => code,
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_125_for_run_and_2_otherwise() {
        assert_eq!(code("hutch run --nonsense"), 125);
        assert_eq!(code("hutch --log-level debug run"), 125);
        assert_eq!(code("hutch run --rootfs r"), 125);
        assert_eq!(code("hutch doctor --nonsense"), 2);
        assert_eq!(code("hutch"), 2);
        assert_eq!(code("hutch run -h"), 0);
        assert_eq!(code("hutch --version"), 0);
    }

    #[test]
    fn words_after_the_program_belong_to_it() {
        for line in ["hutch run --rootfs r -- sh -c -t --cpus", "hutch run --rootfs r sh -c -t --cpus"] {
            let Command::Run(run) = parsed(line).command else { panic!("{line}") };
            assert_eq!(run.command, ["sh", "-c", "-t", "--cpus"], "{line}");
            assert!(!run.tty, "{line}");
        }
    }

    #[test]
    fn the_definition_of_one_verb_alone_understands_it_too() {
        for line in [
            "hutch run --rootfs r --log-level debug -- sh -c x",
            "hutch --log-file f boot --kernel k",
            "hutch container exec p c -- sh",
        ] {
            let words = words(line);
            let matches = only(verb(&words).unwrap()).unwrap().try_get_matches_from(&words).unwrap();
            let args = Args::from_arg_matches(&matches).unwrap();
            assert_eq!(format!("{args:?}"), format!("{:?}", parsed_by_all(&words)), "{line}");
        }
    }

    fn parsed_by_all(words: &[OsString]) -> Args {
        Args::from_arg_matches(&Args::command().try_get_matches_from(words).unwrap()).unwrap()
    }

    #[test]
    fn short_flags_combine() {
        let Command::Run(run) = parsed("hutch run -it -eA=1 -e B -w /w -uu:g --rootfs r sh").command else { panic!() };
        assert!(run.interactive && run.tty);
        assert_eq!(run.env, ["A=1", "B"]);
        assert_eq!((run.workdir.as_deref(), run.user.as_deref()), (Some("/w".as_ref()), Some("u:g".as_ref())));
    }
}
