//! The module trees of the workspace's crates, read with `syn`. Code that only tests compile is left out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta, Token, Visibility};

use super::metadata::Metadata;
use crate::{build, Result};

/// A library or a program, with all its modules. The first is the root.
pub(crate) struct Crate {
    /// Name of the target, and of its package where the two differ.
    pub(crate) name: String,
    pub(crate) modules: Vec<Module>,
}

/// One module. Its file may hold inline modules too, which are modules of their own here.
pub(crate) struct Module {
    /// From the root, which has an empty one.
    pub(crate) path: Vec<String>,
    /// From the root of the repository.
    pub(crate) file: PathBuf,
    pub(crate) parent: Option<usize>,
    /// Declared `pub`. The root is.
    pub(crate) public: bool,
    pub(crate) children: BTreeMap<String, usize>,
    /// Without modules, and without what only tests compile.
    pub(crate) items: Vec<Item>,
}

/// Reads every library and program of the workspace, one thread per crate, and returns what `f` makes of the package's name
/// and the crate. (Syntax trees cannot be sent to other threads.)
pub(crate) fn each_crate<T: Send>(f: impl Fn(&str, &Crate) -> T + Sync) -> Result<Vec<T>> {
    let metadata = Metadata::load()?;
    let mut targets = Vec::new();
    for (package_name, package) in metadata.members() {
        let ours = |kind: &String| kind == "lib" || kind == "bin";
        for target in package.targets.iter().filter(|target| target.kind.iter().any(ours)) {
            let program = target.kind.iter().any(|kind| kind == "bin");
            let suffix = if program && package.targets.len() > 1 { " (program)" } else { "" };
            targets.push((package_name, format!("{}{suffix}", target.name), &target.src_path));
        }
    }
    let root = build::root();
    let read = |(package, name, path): &(&str, String, &PathBuf)| {
        Crate::read(name, &root, path).map(|krate| f(package, &krate))
    };
    let results: Vec<std::result::Result<T, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = targets.iter().map(|target| scope.spawn(|| read(target))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a reader panicked".into()))).collect()
    });
    Ok(results.into_iter().collect::<std::result::Result<Vec<T>, String>>()?)
}

impl Crate {
    /// Reads a crate from its root file.
    pub(crate) fn read(name: &str, repository: &Path, root_file: &Path) -> std::result::Result<Crate, String> {
        let mut krate = Crate { name: name.to_owned(), modules: Vec::new() };
        let dir = root_file.parent().unwrap_or(Path::new("")).to_owned();
        krate.add_file(repository, root_file, &dir, None, Vec::new())?;
        Ok(krate)
    }

    /// Adds the module in `file`. The files of its children lie in `dir`.
    fn add_file(
        &mut self,
        repository: &Path,
        file: &Path,
        dir: &Path,
        parent: Option<usize>,
        path: Vec<String>,
    ) -> std::result::Result<usize, String> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let syntax =
            syn::parse_file(&text).map_err(|e| format!("{}:{}: {e}", file.display(), e.span().start().line))?;
        self.add(repository, file, dir, parent, path, syntax.items)
    }

    fn add(
        &mut self,
        repository: &Path,
        file: &Path,
        dir: &Path,
        parent: Option<usize>,
        path: Vec<String>,
        items: Vec<Item>,
    ) -> std::result::Result<usize, String> {
        let at = self.modules.len();
        let shown = file.strip_prefix(repository).unwrap_or(file).to_owned();
        self.modules.push(Module {
            path: path.clone(),
            file: shown,
            parent,
            public: parent.is_none(),
            children: BTreeMap::new(),
            items: vec![],
        });
        let mut kept = Vec::new();
        for item in items.into_iter().filter(|item| !only_for_tests(attributes(item))) {
            let Item::Mod(module) = item else {
                kept.push(item);
                continue;
            };
            let name = module.ident.to_string();
            let path = [path.as_slice(), std::slice::from_ref(&name)].concat();
            let child_dir = dir.join(&name);
            let child = match module.content {
                Some((_, items)) => self.add(repository, file, &child_dir, Some(at), path, items)?,
                None => {
                    let (file, dir) = place(dir, &name, path_attribute(&module.attrs).as_deref());
                    self.add_file(repository, &file, &dir, Some(at), path)?
                }
            };
            self.modules[child].public = matches!(module.vis, Visibility::Public(_));
            self.modules[at].children.insert(name, child);
        }
        self.modules[at].items = kept;
        Ok(at)
    }
}

/// The file of the module `name` declared in a module whose children lie in `dir`, and the directory of its own children.
fn place(dir: &Path, name: &str, path: Option<&str>) -> (PathBuf, PathBuf) {
    if let Some(path) = path {
        // Relative to the declaring file's directory, which is `dir` but for files like `name.rs`.
        let candidates = [dir.join(path), dir.parent().unwrap_or(dir).join(path)];
        let file = candidates.iter().find(|file| file.exists()).unwrap_or(&candidates[0]).clone();
        let dir = file.parent().unwrap_or(dir).to_owned();
        return (file, dir);
    }
    let file = dir.join(format!("{name}.rs"));
    match file.exists() {
        true => (file, dir.join(name)),
        false => (dir.join(name).join("mod.rs"), dir.join(name)),
    }
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
            _ => None,
        },
        _ => None,
    })
}

/// The attributes of an item.
pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether something with these attributes is compiled for unit tests only.
pub(crate) fn only_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|predicate| holds(&predicate) == Some(false))
    })
}

/// Whether a `cfg` predicate holds outside of tests; `None` where other settings decide.
fn holds(predicate: &Meta) -> Option<bool> {
    let Meta::List(list) = predicate else {
        return predicate.path().is_ident("test").then_some(false);
    };
    let parts = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).ok()?;
    let mut parts = parts.iter().map(holds);
    if list.path.is_ident("not") {
        parts.next()?.map(|value| !value)
    } else if list.path.is_ident("all") {
        parts.any(|value| value == Some(false)).then_some(false)
    } else if list.path.is_ident("any") {
        parts.all(|value| value == Some(false)).then_some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tests_compile_is_recognised() {
        let is = |attribute: &str| {
            let file = syn::parse_file(&format!("{attribute}\nfn f() {{}}")).unwrap();
            only_for_tests(attributes(&file.items[0]))
        };
        for yes in ["#[test]", "#[cfg(test)]", "#[cfg(all(test, unix))]", "#[cfg(not(not(test)))]"] {
            assert!(is(yes), "{yes}");
        }
        for no in ["", "#[cfg(not(test))]", "#[cfg(any(test, feature = \"testing\"))]", "#[cfg(unix)]", "#[inline]"] {
            assert!(!is(no), "{no}");
        }
    }

    #[test]
    fn this_crate_is_read_with_all_its_files() {
        let root = build::root();
        let krate = Crate::read("xtask", &root, &root.join("resources/xtask/src/main.rs")).unwrap();
        let find = |path: &str| krate.modules.iter().find(|m| m.path.join("::") == path);
        assert_eq!(find("check::tree").unwrap().file, Path::new("resources/xtask/src/check/tree.rs"));
        assert!(find("check::tree::tests").is_none());
        assert_eq!(find("check").unwrap().parent, Some(0));
    }
}
