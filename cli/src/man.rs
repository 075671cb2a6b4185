//! `hutch __man DIR`: writes a man page for each public verb, from the definition of the command line.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use clap_mangen::Man;

use crate::args;
use crate::failure::Failure;

/// Exit code for a missing DIR.
const USAGE: u8 = 2;

#[derive(Debug, thiserror::Error)]
enum ManError {
    #[error("usage: hutch __man DIR")]
    Usage,
    #[error("cannot write man pages to {}", .dir.display())]
    Write { dir: PathBuf, source: io::Error },
}

/// The hidden verb that writes the pages.
const VERB: &str = "__man";

/// Runs `__man`, if the command line has it, and returns its exit code.
pub fn hidden_verb() -> Option<u8> {
    let mut args = std::env::args_os().skip(1);
    (args.next()? == VERB).then(|| run(args.next().as_deref()))
}

/// Writes the pages to `dir` and returns the exit code.
fn run(dir: Option<&OsStr>) -> u8 {
    let Some(dir) = dir.map(Path::new) else { return Failure::new(USAGE, ManError::Usage).report() };
    match write_pages(dir) {
        Ok(()) => 0,
        Err(source) => Failure::from(ManError::Write { dir: dir.to_owned(), source }).report(),
    }
}

/// Writes `hutch.1`, `hutch-run.1`, `hutch-pod.1`, `hutch-pod-run.1`, … to `dir`, and creates `dir` if necessary.
fn write_pages(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut definition = args::definition();
    // Gives each verb its full name (`hutch-pod-run`) and the options that all verbs accept.
    definition.build();
    write_tree(&definition, dir)
}

fn write_tree(command: &clap::Command, dir: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_tree(verb, dir)?;
    }
    let man = Man::new(command.clone()).source(concat!("hutch ", env!("CARGO_PKG_VERSION"))).manual("hutch manual");
    let mut page = Vec::new();
    man.render(&mut page)?;
    // clap_mangen's heading for the text at the end of --help: exit codes and examples.
    let page = String::from_utf8_lossy(&page).replace("\n.SH EXTRA\n", "\n.SH NOTES\n");
    std::fs::write(dir.join(man.get_filename()), page)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every public command of the tree below `command`, with the name of its page.
    fn pages(name: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
        found.push((format!("{name}.1"), command.clone()));
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help") {
            pages(&format!("{name}-{}", verb.get_name()), verb, found);
        }
    }

    #[test]
    fn every_verb_has_a_page_that_names_its_options() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("man1");
        write_pages(&out).unwrap();
        let mut all = Vec::new();
        pages("hutch", &args::definition(), &mut all);
        assert!(all.len() > 30, "{}", all.len());
        for (name, command) in &all {
            let page = std::fs::read_to_string(out.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let about = command.get_about().unwrap_or_else(|| panic!("{name} has no description")).to_string();
            // roff escapes `-` and `'`, and `.` at the start of a line.
            let page = page.replace("\\-", "-").replace("\\&", "").replace("\\*(Aq", "'");
            assert!(page.contains(&about), "{name} lacks {about:?}:\n{page}");
            for option in command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long()) {
                assert!(page.contains(&format!("--{option}")), "{name} lacks --{option}:\n{page}");
            }
        }
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), all.len(), "a page for a verb that is not public");
    }
}
