//! The targets of a measurement: hutch itself, and peers given as command templates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::templates;

/// Prefix of the first line that a bench guest prints; the guest's clock in nanoseconds follows it.
pub const INIT_LINE: &str = "hutch-bench-init ";

/// A command to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Shown in reports.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The event that ends the measurement.
    pub until: Until,
    /// The command takes `--marks FILE` and writes its own marks there.
    pub own_marks: bool,
    /// Memory of its guest, to distinguish it from the memory of the VMM; 0 without a guest.
    pub guest_mib: u64,
}

/// The event that ends a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// [`INIT_LINE`] on standard output. The runner then reads the memory of the process and ends it.
    InitLine,
    /// The process ends by itself with status 0.
    Exit,
}

/// A mistake in a command template.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    #[error(
        "--peer {0:?} is not NAME=COMMAND; give for example --peer 'qemu=qemu-system-x86_64 … -kernel {{kernel}}'"
    )]
    NoName(String),
    #[error("--peer {name}: {template} is not a built-in command; these are: {known}")]
    NotBuiltIn { name: String, template: String, known: String },
    #[error("--peer {name}: unknown placeholder {{{word}}}; use one of {known}")]
    Unknown { name: String, word: String, known: String },
    /// A brace without its partner, or an open quote.
    #[error("--peer {name}: {what}")]
    Syntax { name: String, what: &'static str },
}

/// Parses `NAME=COMMAND`, splits the command like a shell (single and double quotes, no expansion) and fills in
/// `{placeholders}`; `{{` and `}}` are braces. A command that begins with `@` is the name of one of [`templates`].
pub fn peer(text: &str, values: &BTreeMap<&str, String>) -> Result<Target, TemplateError> {
    let (name, template) = text.split_once('=').ok_or_else(|| TemplateError::NoName(text.to_owned()))?;
    if name.is_empty() || template.trim().is_empty() {
        return Err(TemplateError::NoName(text.to_owned()));
    }
    let template = match template.trim() {
        known if known.starts_with('@') => templates::built_in(known).ok_or_else(|| TemplateError::NotBuiltIn {
            name: name.to_owned(),
            template: known.to_owned(),
            known: templates::names(),
        })?,
        own => own,
    };
    let mut argv = Vec::new();
    for word in split(name, template)? {
        argv.push(fill(name, &word, values)?);
    }
    let until = if template.contains("{kernel}") { Until::InitLine } else { Until::Exit };
    let guest_mib = values.get("memory_mib").and_then(|mib| mib.parse().ok()).unwrap_or(0);
    Ok(Target { name: name.to_owned(), argv, until, own_marks: false, guest_mib })
}

/// The path of a kernel: that of the guest assets for `distro` and `source`, else `kernel` itself.
pub fn kernel_path(kernel: &str, guest_dir: Option<&Path>) -> PathBuf {
    match kernel {
        "distro" | "source" => crate::resolve::guest_dir(guest_dir).join(kernel).join("vmlinux"),
        path => path.into(),
    }
}

/// Splits words at blanks outside quotes.
fn split(name: &str, text: &str) -> Result<Vec<String>, TemplateError> {
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                open = true;
            }
            (None, c) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                    open = false;
                }
            }
            (None, c) => word.push(c),
        }
    }
    if quote.is_some() {
        return Err(TemplateError::Syntax { name: name.to_owned(), what: "a quote is not closed" });
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

fn fill(name: &str, word: &str, values: &BTreeMap<&str, String>) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut rest = word;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        if let Some(brace) = ["{{", "}}"].iter().find(|pair| tail.starts_with(**pair)) {
            out.push_str(&brace[1..]);
            rest = &tail[2..];
            continue;
        }
        let syntax = |what| TemplateError::Syntax { name: name.to_owned(), what };
        let inner = tail.strip_prefix('{').ok_or(syntax("a } has no {; write }} for a literal brace"))?;
        let end = inner.find('}').ok_or(syntax("a { has no }; write {{ for a literal brace"))?;
        let key = &inner[..end];
        let value = values.get(key).ok_or_else(|| TemplateError::Unknown {
            name: name.to_owned(),
            word: key.to_owned(),
            known: values.keys().copied().collect::<Vec<_>>().join(", "),
        })?;
        out.push_str(value);
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values() -> BTreeMap<&'static str, String> {
        [("kernel", "/k v"), ("initrd", "/i"), ("cmdline", "a=1 quiet"), ("memory_mib", "128"), ("cpus", "1")]
            .into_iter()
            .map(|(k, v)| (k, v.to_owned()))
            .collect()
    }

    #[test]
    fn templates_are_split_and_filled() {
        let t = peer("fc=fire --k={kernel} -append '{cmdline}' \"\"", &values()).unwrap();
        assert_eq!(t.name, "fc");
        assert_eq!(t.argv, ["fire", "--k=/k v", "-append", "a=1 quiet", ""]);
        assert_eq!(t.until, Until::InitLine);
        assert_eq!(peer("crun=crun run x", &values()).unwrap().until, Until::Exit);
    }

    #[test]
    fn bad_templates_name_the_mistake() {
        assert!(matches!(peer("qemu", &values()), Err(TemplateError::NoName(_))));
        assert!(matches!(peer("=x", &values()), Err(TemplateError::NoName(_))));
        let unknown = peer("q=x {disk}", &values()).unwrap_err().to_string();
        assert!(unknown.contains("{disk}") && unknown.contains("kernel"), "{unknown}");
        assert!(matches!(peer("q=x {kernel", &values()), Err(TemplateError::Syntax { .. })));
        assert!(matches!(peer("q=x kernel}", &values()), Err(TemplateError::Syntax { .. })));
        let unknown = peer("q=@bochs", &values()).unwrap_err().to_string();
        assert!(unknown.contains("@bochs") && unknown.contains("@firecracker"), "{unknown}");
        assert!(matches!(peer("q=x 'y", &values()), Err(TemplateError::Syntax { .. })));
    }

    #[test]
    fn doubled_braces_are_braces() {
        let t = peer("x=a {{{cpus}}} }}{{", &values()).unwrap();
        assert_eq!(t.argv, ["a", "{1}", "}{"]);
    }

    #[test]
    fn the_built_in_templates_are_complete() {
        for name in templates::names().split(", ") {
            let t = peer(&format!("x={name}"), &values()).unwrap();
            assert_eq!(t.until, Until::InitLine);
            for value in ["/k v", "/i", "a=1 quiet", "128", "1"] {
                assert!(t.argv.iter().any(|word| word.contains(value)), "{name} without {value}: {:?}", t.argv);
            }
        }
        let firecracker = peer("fc=@firecracker", &values()).unwrap();
        let config: serde_json::Value = serde_json::from_str(&firecracker.argv[3]).unwrap();
        assert_eq!(config["boot-source"]["kernel_image_path"], "/k v");
        assert_eq!(config["machine-config"]["mem_size_mib"], 128);
    }
}
