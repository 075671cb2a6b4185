//! The tables of `resources/docs/reference/cli.md`, from the definition of the command line. The prose around them is
//! written by hand.
//!
//! A block of the page lies between `<!-- options: NAME -->` and `<!-- end -->`. NAME is a verb, which gets its usage
//! line and a table, or a group of options that several verbs share, which gets a table. Options of a group that a
//! verb has as a whole are not repeated there; the block links to the group.
//!
//! `cargo xtask docs` runs the test below so that it writes the page; without [`WRITE`] it compares.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Args as _, Command};

use crate::args::{self, logging::LogArgs, pod::NewPod, process, records::RecordArgs};

/// Environment variable: write the page instead of comparing it.
const WRITE: &str = "HUTCH_WRITE_REFERENCE";

const BEGIN: &str = "<!-- options: ";
const END: &str = "<!-- end -->";

/// Options that several verbs share.
struct Group {
    /// Of its block.
    name: &'static str,
    options: Command,
    /// The sentence in place of the options.
    link: &'static str,
}

/// All groups, the ones that contain others first.
fn groups() -> Vec<Group> {
    let command = || Command::new("hutch");
    vec![
        Group { name: "hutch", options: LogArgs::augment_args(command()), link: "" },
        Group { name: "Records", options: RecordArgs::augment_args(command()), link: "" },
        Group {
            name: "hutch pod create",
            options: NewPod::augment_args(command()),
            link: "Also all options of [`hutch pod create`](#hutch-pod-create).",
        },
        Group {
            name: "Container options",
            options: process::ContainerFlags::augment_args(command()),
            link: "Also the [container options](#container-options).",
        },
        Group {
            name: "Limits",
            options: process::LimitFlags::augment_args(command()),
            link: "Also the [limits](#limits).",
        },
    ]
}

/// The page with its blocks filled in.
///
/// # Panics
/// If the page lacks a verb, or has a block for something that does not exist.
fn filled(page: &str) -> String {
    let mut definition = args::definition();
    // Gives each verb its full name and the options that all verbs accept.
    definition.build();
    let mut verbs = Vec::new();
    leaves(&definition, "hutch", &mut verbs);
    let mut missing: Vec<String> = verbs.iter().map(|(name, _)| name.clone()).collect();
    let mut new = String::new();
    let mut rest = page;
    while let Some((prose, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once(" -->\n").unwrap_or_else(|| panic!("{BEGIN} without -->"));
        let (_, after) = after.split_once(END).unwrap_or_else(|| panic!("{name}: no {END}"));
        let block = match verbs.iter().find(|(verb, _)| verb == name) {
            Some((_, verb)) => {
                missing.retain(|verb| verb != name);
                check_prose(name, verb, prose);
                verb_block(name, verb)
            }
            None => {
                let group = groups().into_iter().find(|group| group.name == name);
                let options = group.unwrap_or_else(|| panic!("{name} does not exist")).options;
                table(options.get_arguments().filter(|arg| !arg.is_positional()))
            }
        };
        let _ = write!(new, "{prose}{BEGIN}{name} -->\n\n{block}\n{END}");
        rest = after;
    }
    assert!(missing.is_empty(), "the page has no `{BEGIN}NAME -->` for {missing:?}");
    new + rest
}

/// The public verbs without verbs of their own, with their names.
fn leaves(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
    let mut verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).peekable();
    if verbs.peek().is_none() {
        found.push((name.to_owned(), command.clone()));
    }
    for verb in verbs {
        leaves(verb, &format!("{name} {}", verb.get_name()), found);
    }
}

/// The paragraph before a block says what `--help` says.
fn check_prose(name: &str, verb: &Command, prose: &str) {
    let section = prose.rsplit_once(&format!("# {name}\n"));
    let text =
        section.unwrap_or_else(|| panic!("{name}: no heading")).1.split_whitespace().collect::<Vec<_>>().join(" ");
    let about = verb.get_about().unwrap_or_default().to_string();
    assert!(text.starts_with(&about), "{name}: the first sentence differs from --help:\n{text}\n{about}");
}

fn verb_block(name: &str, verb: &Command) -> String {
    let mut shown: Vec<&Arg> = verb.get_arguments().collect();
    let mut links = Vec::new();
    for group in groups().into_iter().filter(|group| group.name != name) {
        let ids: Vec<_> = group.options.get_arguments().filter(|arg| !arg.is_positional()).map(Arg::get_id).collect();
        if ids.iter().all(|id| shown.iter().any(|arg| arg.get_id() == *id)) {
            shown.retain(|arg| !ids.contains(&arg.get_id()));
            links.push(group.link);
        }
    }
    links.retain(|link| !link.is_empty());
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").lines().map(|line| format!("    {}\n", line.trim()));
    let mut block: String = usage.collect();
    let aliases: Vec<_> = verb.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = write!(block, "\nAlias: {}.\n", aliases.join(", "));
    }
    let table = table(shown.into_iter());
    if !table.is_empty() {
        let _ = write!(block, "\n{table}");
    }
    if !links.is_empty() {
        let _ = write!(block, "\n{}\n", links.join(" "));
    }
    block
}

/// Arguments first, as in the usage line.
fn table<'a>(all: impl Iterator<Item = &'a Arg>) -> String {
    let named = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    let (arguments, options): (Vec<_>, Vec<_>) = all.filter(named).partition(|arg| arg.is_positional());
    let rows: String = arguments.into_iter().chain(options).map(row).collect();
    match rows.is_empty() {
        true => rows,
        false => format!("| | |\n|---|---|\n{rows}"),
    }
}

fn row(arg: &Arg) -> String {
    let mut names: Vec<String> = Vec::new();
    names.extend(arg.get_short().map(|short| format!("-{short}")));
    names.extend(arg.get_long().map(|long| format!("--{long}")));
    names.extend(arg.get_visible_aliases().unwrap_or_default().iter().map(|alias| format!("--{alias}")));
    let mut name = names.join(", ");
    if arg.get_action().takes_values() {
        let values: Vec<String> = match arg.get_value_names() {
            Some(names) => names.iter().map(ToString::to_string).collect(),
            None => vec![arg.get_id().as_str().to_uppercase()],
        };
        name += if name.is_empty() { "" } else { " " };
        name += &values.join(" ");
    }
    format!("| `{}` | {} |\n", name.replace('|', "\\|"), description(arg).replace('|', "\\|"))
}

/// The help text as sentences, with what clap adds to it.
fn description(arg: &Arg) -> String {
    let help = arg.get_help().unwrap_or_default().to_string();
    // hutch's own notes: clap does not know defaults that depend on the environment.
    let mut notes: Vec<&str> = help.split(" [").collect();
    let text = notes.remove(0);
    let required = arg.is_required_set() && !arg.is_positional();
    let mut sentences = vec![if required { format!("Required. {text}") } else { text.to_owned() }];
    let values: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => Vec::new(),
    };
    if !values.is_empty() {
        sentences.push(format!("One of {}", values.join(", ")));
    }
    for note in notes {
        let note = note.trim_end_matches(']');
        sentences.push(match note.split_once(": ") {
            Some(("env", name)) => format!("Environment: `{name}`"),
            Some(("default", value)) => format!("Default: {value}"),
            _ => panic!("unexpected note in the help of {}: {note}", arg.get_id()),
        });
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if arg.get_action().takes_values() && !defaults.is_empty() {
        sentences.push(format!("Default: {}", defaults.join(",")));
    }
    let one_value =
        arg.get_value_delimiter().is_none() && arg.get_num_args().is_none_or(|number| number.max_values() <= 1);
    if matches!(arg.get_action(), ArgAction::Append) && !arg.is_positional() && one_value {
        sentences.push("May be repeated".to_owned());
    }
    sentences.join(". ") + "."
}

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../resources/docs/reference/cli.md")
}

#[test]
fn the_reference_has_the_options_of_the_command_line() {
    let path = page();
    let old = std::fs::read_to_string(&path).unwrap();
    let new = filled(&old);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, new).unwrap();
        return;
    }
    let differs = |(old, new): &(&str, &str)| old != new;
    let first = (1..).zip(old.lines().zip(new.lines())).find(|(_, pair)| differs(pair));
    if let Some((number, (old, new))) = first {
        panic!("{}:{number}: run `cargo xtask docs`\n  it has: {old}\n  wanted: {new}", path.display());
    }
    assert_eq!(old.len(), new.len(), "{}: run `cargo xtask docs`", path.display());
}

/// The check notices an option that the page lacks, and a verb without a block.
#[test]
fn a_page_that_lacks_something_differs() {
    let old = std::fs::read_to_string(page()).unwrap();
    let without_row: String = old
        .lines()
        .filter(|line| !line.contains("--rootfs-overlay`"))
        .fold(String::new(), |text, line| text + line + "\n");
    assert!(without_row != old && filled(&without_row) == filled(&old));
    let renamed = old.replace("options: hutch pod ls -->", "options: Limits -->");
    let failure = std::panic::catch_unwind(|| filled(&renamed)).unwrap_err();
    let text = failure.downcast_ref::<String>().unwrap();
    assert!(text.contains("hutch pod ls"), "{text}");
}
