//! Plain English and one vocabulary in Rust sources, documents and TOML files. Two lists: turns of phrase that read like a
//! translation ([`idioms`]), and words of our own for which the field has a better one ([`vocabulary`]).
//!
//! In Markdown, the lines between `<!-- language: off -->` and `<!-- language: on -->` are left alone: a style guide has to
//! show what it advises against.

mod idioms;
mod text;
mod vocabulary;

use super::{findings, repository_files};
use crate::Result;

/// Not ours to word, or lists of the words themselves.
const SKIPPED: [&str; 4] = ["LICENSE", "resources/NOTICE", "Cargo.lock", "resources/xtask/src/check/language/"];

/// Runs the check over the files git knows.
pub(crate) fn check() -> Result<()> {
    let mut files = repository_files()?;
    files.retain(|(path, _)| !SKIPPED.iter().any(|skipped| path.starts_with(skipped)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found = std::thread::scope(|scope| {
        let read = |files: &[(String, String)]| -> Vec<String> {
            files.iter().flat_map(|(path, text)| problems(path, text)).collect()
        };
        let parts = files.chunks(files.len().div_ceil(threads).max(1));
        let readers: Vec<_> = parts.map(|part| scope.spawn(move || read(part))).collect();
        readers.into_iter().map(|reader| reader.join().map_err(|_| "a reader panicked")).collect::<Vec<_>>()
    });
    let mut all = Vec::new();
    for part in found {
        all.extend(part?);
    }
    findings(all)
}

fn problems(path: &str, source: &str) -> Vec<String> {
    let spans = match path.rsplit('.').next() {
        Some("rs") => text::of_rust(source),
        Some("md") => text::of_markdown(source),
        Some("toml") => text::of_toml(source),
        _ => return Vec::new(),
    };
    let mut found: Vec<(usize, String)> = vocabulary::problems(path, &spans);
    for span in &spans {
        found.extend(idioms::problems(span));
    }
    found.sort();
    found.dedup();
    found.into_iter().map(|(line, what)| format!("{path}:{line}: {what}")).collect()
}

#[cfg(test)]
mod tests {
    use super::problems;

    #[test]
    fn comments_strings_and_documents_are_read_and_code_is_not() {
        let source = "\
/// It is no socket.
fn shall_pass() {
    let shall = \"the file is no kernel\"; // whoever calls
    let raw = r#\"they shall \"run\"\"#;
}
";
        assert_eq!(
            problems("a.rs", source),
            [
                "a.rs:1: \"is no socket\": say \"is not a\"",
                "a.rs:3: \"is no kernel\": say \"is not a\"",
                "a.rs:3: \"whoever\": name the actor",
                "a.rs:4: \"shall\": say \"must\", or what happens",
            ]
        );
        assert_eq!(problems("a.toml", "# Nobody\na = \"it is to be\"\n").len(), 2);
        assert_eq!(problems("a.md", "Text.\n\n```\nit shall\n```\n"), [""; 0]);
        assert_eq!(problems("a.txt", "it shall"), [""; 0]);
    }

    #[test]
    fn a_style_guide_may_show_bad_examples() {
        let text = "It is fine.\n<!-- language: off -->\nIt is no example.\n<!-- language: on -->\nIt is no example.\n";
        assert_eq!(problems("a.md", text), ["a.md:5: \"is no example\": say \"is not a\""]);
    }

    #[test]
    fn a_phrase_may_wrap() {
        let source = "    // This is\n    // no phrase.\n    f(\"it \\\n       shall\");\n";
        let found = problems("a.rs", source);
        assert_eq!(found[0], "a.rs:1: \"is no phrase\": say \"is not a\"");
        assert_eq!(found[1], "a.rs:4: \"shall\": say \"must\", or what happens");
    }
}
