//! Which module of a crate uses which: every path of the code is followed, through `use` and `pub use`, to the module that
//! defines the item.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, Macro, UseTree, Visibility};

use super::tree::{attributes, only_for_tests, Crate};

/// A place where a module uses another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) line: usize,
    /// As in the code, without the names that follow the item's.
    pub(crate) text: String,
}

/// Uses by module: `(using, used)`, as indices of [`Crate::modules`].
pub(crate) type Uses = BTreeMap<(usize, usize), BTreeSet<Reference>>;

/// The names of one module.
#[derive(Default)]
struct Scope {
    defined: BTreeSet<String>,
    imported: BTreeMap<String, Vec<Vec<String>>>,
    globs: Vec<Vec<String>>,
    references: Vec<Path>,
    /// Paths of `pub use`, and of `pub use …::*`.
    exported: Vec<Vec<String>>,
    exported_globs: Vec<Vec<String>>,
}

/// A path in the code.
struct Path {
    names: Vec<String>,
    line: usize,
    in_use: bool,
}

/// The meaning of a path within the crate.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Module(usize),
    /// An item of this module.
    Item(usize),
}

/// Re-exports of re-exports are followed this far; a longer chain names itself.
const MAX_DEPTH: u32 = 24;

/// Every use of a module's items by another module of the crate.
pub(crate) fn uses(krate: &Crate) -> Uses {
    let graph = Graph::of(krate);
    let mut uses = Uses::new();
    for (user, scope) in graph.scopes.iter().enumerate() {
        for path in &scope.references {
            let target = match &path.names[..] {
                // Any other single name is defined here or has its own `use`.
                [name] if !path.in_use => graph.by_glob(user, name, 0),
                names => graph.resolve(user, names, 0),
            };
            if let Some(Target::Item(used)) = target.filter(|target| *target != Target::Item(user)) {
                let text = format!("{}{}", if path.in_use { "use " } else { "" }, path.names.join("::"));
                uses.entry((user, used)).or_default().insert(Reference { line: path.line, text });
            }
        }
    }
    uses
}

/// The items that other crates can name, as far as that depends on modules and `pub use`: their modules and names. Whether
/// the items themselves are `pub` is left to the caller.
pub(crate) fn reachable(krate: &Crate) -> BTreeSet<(usize, String)> {
    let graph = Graph::of(krate);
    let (mut open, mut seen, mut items) = (vec![0], BTreeSet::new(), BTreeSet::new());
    while let Some(module) = open.pop() {
        if !seen.insert(module) {
            continue;
        }
        let scope = &graph.scopes[module];
        items.extend(scope.defined.iter().map(|name| (module, name.clone())));
        open.extend(krate.modules[module].children.values().filter(|child| krate.modules[**child].public));
        for path in scope.exported.iter().chain(&scope.exported_globs) {
            match (graph.resolve(module, path, 0), path.last()) {
                (Some(Target::Module(other)), _) => open.push(other),
                (Some(Target::Item(other)), Some(name)) => drop(items.insert((other, name.clone()))),
                _ => {}
            }
        }
    }
    items
}

struct Graph<'a> {
    krate: &'a Crate,
    scopes: Vec<Scope>,
}

impl<'a> Graph<'a> {
    fn of(krate: &'a Crate) -> Graph<'a> {
        Graph { krate, scopes: krate.modules.iter().map(|module| Scope::of(&module.items)).collect() }
    }

    /// Follows a path that stands in the module `from`. `None` if it leads out of the crate.
    fn resolve(&self, from: usize, names: &[String], depth: u32) -> Option<Target> {
        let (first, rest) = names.split_first()?;
        let start = match first.as_str() {
            "crate" => Target::Module(0),
            "self" => Target::Module(from),
            "super" => Target::Module(self.krate.modules[from].parent?),
            "Self" => return None,
            name => self.lookup(from, name, !rest.is_empty(), depth)?,
        };
        let mut target = start;
        for (at, name) in rest.iter().enumerate() {
            let Target::Module(module) = target else { return Some(target) };
            target = match name.as_str() {
                "super" => Target::Module(self.krate.modules[module].parent?),
                "self" => target,
                name => self.lookup(module, name, at + 1 < rest.len(), depth)?,
            };
        }
        Some(target)
    }

    /// A name in a module. Types, values and modules may share one; `more` names follow a module rather than an item.
    fn lookup(&self, module: usize, name: &str, more: bool, depth: u32) -> Option<Target> {
        if depth > MAX_DEPTH {
            return None;
        }
        let scope = &self.scopes[module];
        let child = self.krate.modules[module].children.get(name).map(|child| Target::Module(*child));
        if child.is_some() && more {
            return child;
        }
        let imported = scope.imported.get(name).into_iter().flatten();
        let mut imported: Vec<Target> = imported.filter_map(|path| self.resolve(module, path, depth + 1)).collect();
        imported.sort_by_key(|target| matches!(target, Target::Item(_)) == more);
        let defined = scope.defined.contains(name).then_some(Target::Item(module));
        defined.or(imported.first().copied()).or(child).or_else(|| self.by_glob(module, name, depth))
    }

    /// A name that a module has only by `use …::*`.
    fn by_glob(&self, module: usize, name: &str, depth: u32) -> Option<Target> {
        let scope = &self.scopes[module];
        if depth > MAX_DEPTH
            || scope.globs.is_empty()
            || scope.defined.contains(name)
            || scope.imported.contains_key(name)
        {
            return None;
        }
        scope.globs.iter().find_map(|path| match self.resolve(module, path, depth + 1)? {
            Target::Module(other) if other != module => self.lookup(other, name, false, depth + 1),
            _ => None,
        })
    }
}

impl Scope {
    fn of(items: &[Item]) -> Scope {
        let mut scope = Scope::default();
        for item in items {
            scope.defined.extend(name_of(item));
        }
        items.iter().for_each(|item| scope.visit_item(item));
        scope
    }

    fn add_use(&mut self, tree: &UseTree, prefix: &[String]) {
        let with = |name: &Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident)),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(tree, prefix)),
            UseTree::Glob(_) => self.globs.push(prefix.to_vec()),
            UseTree::Name(name) => self.import(&name.ident, with(&name.ident)),
            UseTree::Rename(rename) => self.import(&rename.rename, with(&rename.ident)),
        }
    }

    fn import(&mut self, name: &Ident, mut names: Vec<String>) {
        if names.len() > 1 && names.last().is_some_and(|last| last == "self") {
            names.pop();
        }
        let known_as = if name == "self" { names.last().cloned().unwrap_or_default() } else { name.to_string() };
        self.imported.entry(known_as).or_default().push(names.clone());
        self.references.push(Path { names, line: name.span().start().line, in_use: true });
    }

    /// Paths in the unparsed input of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons, mut field) = (0, 0, false);
        for token in tokens {
            match &token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 || path.is_empty() {
                        self.end_path(&mut path, line);
                        line = ident.span().start().line;
                    }
                    if !field {
                        path.push(ident.to_string());
                    }
                    colons = 0;
                }
                _ => {
                    self.end_path(&mut path, line);
                    colons = 0;
                }
            }
            field = matches!(&token, TokenTree::Punct(punct) if punct.as_char() == '.');
            if let TokenTree::Group(group) = token {
                self.tokens(group.stream());
            }
        }
        self.end_path(&mut path, line);
    }

    fn end_path(&mut self, path: &mut Vec<String>, line: usize) {
        if !path.is_empty() {
            self.references.push(Path { names: std::mem::take(path), line, in_use: false });
        }
    }
}

impl<'ast> Visit<'ast> for Scope {
    fn visit_item(&mut self, item: &'ast Item) {
        if !only_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        if !only_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            let (imports, globs) = (self.references.len(), self.globs.len());
            self.add_use(&item.tree, &[]);
            if matches!(item.vis, Visibility::Public(_)) {
                self.exported.extend(self.references[imports..].iter().map(|path| path.names.clone()));
                self.exported_globs.extend_from_slice(&self.globs[globs..]);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            let line = path.segments.first().map_or(0, |segment| segment.ident.span().start().line);
            self.references.push(Path { names, line, in_use: false });
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }

    // `pub(in path)` and attributes use nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
