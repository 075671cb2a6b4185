//! The arguments as typed. This module does not access the host; [`crate::resolve`] gives the arguments their meaning.
//!
//! | file | contents |
//! |---|---|
//! | `run`, `boot`, `pod`, `container`, `volume` | verbs on machines, pods, containers and volumes |
//! | `guest`, `doctor`, `bench`, `schema`, `completions`, `version` | the other verbs |
//! | `process` | options that describe a container, and limits |
//! | `records`, `logging`, `format`, `growth` | options that several verbs share |
//! | `help` | texts at the end of `--help` |

pub(crate) mod bench;
pub(crate) mod boot;
pub(crate) mod completions;
pub(crate) mod container;
pub(crate) mod doctor;
pub(crate) mod format;
pub(crate) mod growth;
pub(crate) mod guest;
mod help;
pub(crate) mod logging;
pub(crate) mod pod;
pub(crate) mod process;
pub(crate) mod records;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod version;
pub(crate) mod volume;

use std::ffi::OsString;

use clap::{Args as _, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::logging::LogArgs;
use crate::failure::RUN_FAILED;

/// Exit code for a bad command line, except for that of `hutch run`.
const USAGE: u8 = 2;

/// Run commands and containers, each in a KVM virtual machine of its own
#[derive(Debug, Parser)]
#[command(name = "hutch", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Args {
    #[command(flatten)]
    pub log: LogArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a new virtual machine, with a directory or disk image as its root file system
    #[command(after_help = help::RUN)]
    Run(Box<run::RunArgs>),
    /// Manage pods: long-lived virtual machines that hold containers
    Pod(pod::PodArgs),
    /// Manage the containers of pods
    Container(container::ContainerArgs),
    /// Manage named volumes, which outlive pods
    Volume(volume::VolumeArgs),
    /// Print the JSON schema of pod and container configurations
    Schema(schema::SchemaArgs),
    /// Check whether this host can run virtual machines, and report how to fix what is missing
    Doctor(doctor::DoctorArgs),
    /// Build, list and check guest assets: a kernel, and an initramfs with the agent
    Guest(guest::GuestArgs),
    /// Boot any kernel and initrd, without the agent, with the console on stdout
    #[command(after_help = help::BOOT)]
    Boot(boot::BootArgs),
    /// Measure boots of hutch and of other virtual machine monitors side by side
    #[command(after_help = help::BENCH)]
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    /// Print the version and how this program was built
    Version(version::VersionArgs),
}

/// A parsed command line.
pub enum Parsed {
    Args(Box<Args>),
    /// Help or a usage error has been printed; exit with this code.
    Done(u8),
}

/// Parses the command line. Help goes to stdout, errors to stderr.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Parsed {
    let words: Vec<OsString> = words.into_iter().collect();
    let parse = |command: clap::Command| {
        command.try_get_matches_from(&words).and_then(|matches| Args::from_arg_matches(&matches))
    };
    // Help and mistakes need the full definition.
    let quick = verb(&words).and_then(single_verb).and_then(|command| parse(command).ok());
    match quick.map_or_else(|| parse(definition()), Ok) {
        Ok(args) => Parsed::Args(Box::new(args)),
        Err(error) => {
            // A closed stdout or stderr does not change the exit code.
            let _ = error.print();
            Parsed::Done(match error.use_stderr() {
                false => 0,
                true if verb(&words) == Some("run") => RUN_FAILED,
                true => USAGE,
            })
        }
    }
}

/// The full clap definition. Completions and man pages are made from it.
pub fn definition() -> clap::Command {
    Args::command()
}

/// The clap definition of one verb only. Building the whole takes half as long as everything else `hutch run` does
/// before the guest starts.
fn single_verb(verb: &str) -> Option<clap::Command> {
    let verb = match verb {
        "run" => run::RunArgs::augment_args(clap::Command::new("run")),
        "boot" => boot::BootArgs::augment_args(clap::Command::new("boot")),
        "container" => container::ContainerArgs::augment_args(clap::Command::new("container")),
        _ => return None,
    };
    Some(LogArgs::augment_args(clap::Command::new("hutch")).subcommand_required(true).subcommand(verb))
}

/// The first word that is not an option or an option's value.
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
        definition().debug_assert();
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
            let matches = single_verb(verb(&words).unwrap()).unwrap().try_get_matches_from(&words).unwrap();
            let args = Args::from_arg_matches(&matches).unwrap();
            assert_eq!(format!("{args:?}"), format!("{:?}", parsed_by_all(&words)), "{line}");
        }
    }

    fn parsed_by_all(words: &[OsString]) -> Args {
        Args::from_arg_matches(&definition().try_get_matches_from(words).unwrap()).unwrap()
    }

    #[test]
    fn short_flags_combine() {
        let Command::Run(run) = parsed("hutch run -it -eA=1 -e B -w /w -uu:g --rootfs r sh").command else { panic!() };
        assert!(run.interactive && run.tty);
        assert_eq!(run.env, ["A=1", "B"]);
        assert_eq!((run.workdir.as_deref(), run.user.as_deref()), (Some("/w".as_ref()), Some("u:g".as_ref())));
    }
}
