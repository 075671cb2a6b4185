//! Test: the commands in the documents are commands of this program.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;

use crate::args;

/// The README and all pages of the documents, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = vec![root.join("README.md")];
    let mut folders = vec![root.join("resources/docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// The command lines of `hutch` in the shell examples of a page.
fn commands(page: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut shell = false;
    for line in page.replace("\\\n", " ").lines() {
        if line.starts_with("```") {
            shell = line == "```sh";
        } else if shell {
            for command in split(line) {
                // Not the directory of `git clone` and `cd`.
                let program = |word: &String| word == "hutch" || word.ends_with("/hutch");
                let from = command.iter().position(program).filter(|from| from + 1 < command.len());
                found.extend(from.map(|from| command[from..].to_vec()));
            }
        }
    }
    found
}

/// The commands of a line of shell, each as words. Enough of the shell for the examples: quotes, comments, lists of
/// commands and redirections.
fn split(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    // A space ends the last word.
    for c in line.chars().chain([' ']) {
        let open = word.is_some();
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if !open => break,
            (None, ' ' | ';' | '&' | '|' | '>' | '<') => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    commands
}

#[test]
fn the_commands_in_the_documents_can_be_parsed() {
    let mut number = 0;
    for (path, page) in pages() {
        for command in commands(&page) {
            number += 1;
            match args::definition().try_get_matches_from(&command) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::DisplayHelp => {}
                Err(error) => panic!("{}: {command:?}: {error}", path.display()),
            }
        }
    }
    assert!(number > 50, "only {number} commands found");
}

#[test]
fn a_line_of_shell_is_split_as_a_shell_does() {
    let page = "hutch no\n```sh\nsudo env \"P=$P\" target/hutch run -- sh -c 'a; b' > f # hutch x\nhutch ls && hutch \\\n  rm 'a b'\n```\n";
    assert_eq!(
        commands(page),
        [vec!["target/hutch", "run", "--", "sh", "-c", "a; b"], vec!["hutch", "ls"], vec!["hutch", "rm", "a b"]]
    );
}
