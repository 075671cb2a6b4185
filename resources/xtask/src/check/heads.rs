//! The head of a folder with many files has a table of them: "file | contents". A reader finds a file by it, not by opening
//! all.

use std::fs;
use std::path::Path;

use super::tree::{Crate, Module};
use crate::build;

/// Folders with at most this many files explain themselves.
const FEW: usize = 8;

/// The files of a crate that the head of their folder should name, but does not.
pub(crate) fn unnamed(krate: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for module in &krate.modules {
        let names = files_below(krate, module);
        if names.len() > FEW {
            let text = fs::read_to_string(build::root().join(&module.file)).unwrap_or_default();
            found.extend(complaints(&module.file, &text, &names));
        }
    }
    found
}

/// The modules declared in `module` that have a file of their own.
fn files_below<'a>(krate: &'a Crate, module: &'a Module) -> Vec<&'a str> {
    let own_file = |(_, at): &(&String, &usize)| krate.modules[**at].file != module.file;
    module.children.iter().filter(own_file).map(|(name, _)| name.as_str()).collect()
}

fn complaints(file: &Path, text: &str, names: &[&str]) -> Vec<String> {
    let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
    let missing = names.iter().filter(|name| !head.contains(&format!("`{name}`")));
    missing.map(|name| format!("{}: name `{name}` in the table at its head", file.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_row_is_reported() {
        let text = "//! Pods.\n//!\n//! | `stop`, [`start`] | ends; begins |\n\n// `list`\nmod list;\n";
        let found = complaints(Path::new("mod.rs"), text, &["list", "start", "stop"]);
        assert_eq!(found, ["mod.rs: name `list` in the table at its head"]);
    }

    #[test]
    fn only_files_count_not_modules_inside_a_file() {
        let root = build::root();
        let krate = Crate::read("xtask", &root, &root.join("resources/xtask/src/main.rs")).unwrap();
        let names = files_below(&krate, &krate.modules[0]);
        assert!(names.contains(&"check") && !names.contains(&"tests"), "{names:?}");
    }
}
