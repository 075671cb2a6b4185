//! What is measured: hutch itself and peers given as command templates.

use std::collections::BTreeMap;

use super::templates;

/// Line a bench guest prints first; the guest's clock in nanoseconds follows it.
pub const INIT_LINE: &str = "hutch-bench-init ";

/// A command to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Shown in reports.
    pub name: String,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// When it has arrived.
    pub until: Until,
    /// The command takes `--marks FILE` and writes its own marks there.
    pub own_marks: bool,
    /// Memory of its guest, for telling that apart from the VMM's; 0 without a guest.
    pub guest_mib: u64,
}

/// The event that ends a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// [`INIT_LINE`] on standard output; the process is sampled there and then ended.
    InitLine,
    /// The process ends by itself with status 0.
    Exit,
}

/// Why a template can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TemplateError {
    /// No `=` in `NAME=TEMPLATE`.
    #[error(
        "--peer {0:?} is not NAME=COMMAND; write for example --peer 'qemu=qemu-system-x86_64 … -kernel {{kernel}}'"
    )]
    NoName(String),
    /// An `@name` that is not known.
    #[error("--peer {name}: {template} is not built in; these are: {known}")]
    NotBuiltIn {
        /// Peer.
        name: String,
        /// The template's name.
        template: String,
        /// Known ones.
        known: String,
    },
    /// A `{word}` that is not known.
    #[error("--peer {name}: unknown placeholder {{{word}}}; known are {known}")]
    Unknown {
        /// Peer.
        name: String,
        /// The word.
        word: String,
        /// Known ones.
        known: String,
    },
    /// A brace without its partner, or an open quote.
    #[error("--peer {name}: {what}")]
    Syntax {
        /// Peer.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// Parses `NAME=COMMAND`, splits the command like a shell (single and double quotes, no expansion) and fills in
/// `{placeholders}`; `{{` and `}}` are braces. A command that begins with `@` is the name of one of [`templates`].
///
/// # Errors
/// See [`TemplateError`].
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
        let inner = tail.strip_prefix('{').ok_or(syntax("a } has no {; write }} for a brace"))?;
        let end = inner.find('}').ok_or(syntax("a { has no }; write {{ for a brace"))?;
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
