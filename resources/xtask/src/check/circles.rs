//! Finds circles in the graph of a crate's modules.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{uses, Reference};
use super::tree::Crate;

/// A circle shows this many uses of one module by another.
const SHOWN: usize = 3;

/// Modules of which each uses the next, directly or by others of them.
pub(crate) struct Circle {
    name: String,
    modules: BTreeSet<String>,
    /// The uses that make the circle, with their places.
    uses: Vec<String>,
}

impl Circle {
    /// Whether these are the circle's crate and modules.
    pub(crate) fn is(&self, name: &str, modules: &[&str]) -> bool {
        self.name == name
            && self.modules.iter().map(String::as_str).eq(modules.iter().copied().collect::<BTreeSet<_>>())
    }

    /// The modules, and the uses that make the circle.
    pub(crate) fn text(&self) -> String {
        let modules: Vec<&str> = self.modules.iter().map(String::as_str).collect();
        let head = format!("{}: a circle of {} modules: {}", self.name, modules.len(), modules.join(", "));
        [&[head], self.uses.as_slice()].concat().join("\n    ")
    }
}

/// The circles of one crate.
pub(crate) fn circles(krate: &Crate) -> Vec<Circle> {
    let mut edges: BTreeMap<usize, BTreeMap<usize, BTreeSet<Reference>>> = BTreeMap::new();
    for ((user, used), references) in uses(krate) {
        let (user, used) = (with_file(krate, user), with_file(krate, used));
        if !contains(krate, user, used) && !contains(krate, used, user) {
            edges.entry(user).or_default().entry(used).or_default().extend(references);
        }
    }
    let next = |module: usize| edges.get(&module).into_iter().flat_map(|used| used.keys().copied());
    let mut all = Vec::new();
    for members in components(krate.modules.len(), next).into_iter().filter(|members| members.len() > 1) {
        let name = |module: usize| krate.modules[module].path.join("::");
        let mut shown = Vec::new();
        for user in &members {
            for (used, references) in edges[user].iter().filter(|(used, _)| members.contains(used)) {
                let file = krate.modules[*user].file.display();
                let line = |r: &Reference| format!("{file}:{}: {} (of {})", r.line, r.text, name(*used));
                shown.extend(references.iter().take(SHOWN).map(line));
                if references.len() > SHOWN {
                    shown.push(format!("{file}: and {} more uses of {}", references.len() - SHOWN, name(*used)));
                }
            }
        }
        all.push(Circle { name: krate.name.clone(), modules: members.into_iter().map(name).collect(), uses: shown });
    }
    all
}

/// The module whose file holds this one.
fn with_file(krate: &Crate, mut module: usize) -> usize {
    while let Some(parent) =
        krate.modules[module].parent.filter(|p| krate.modules[*p].file == krate.modules[module].file)
    {
        module = parent;
    }
    module
}

/// Whether the module `outer` is `inner` or has it inside.
fn contains(krate: &Crate, outer: usize, inner: usize) -> bool {
    krate.modules[inner].path.starts_with(&krate.modules[outer].path)
}

/// The strongly connected components of a graph with the nodes `0..count` (Tarjan).
fn components<I: Iterator<Item = usize>>(count: usize, next: impl Fn(usize) -> I) -> Vec<BTreeSet<usize>> {
    struct Search {
        order: Vec<Option<usize>>,
        lowest: Vec<usize>,
        stack: Vec<usize>,
        seen: usize,
        found: Vec<BTreeSet<usize>>,
    }
    fn visit<I: Iterator<Item = usize>>(search: &mut Search, next: &impl Fn(usize) -> I, node: usize) {
        search.order[node] = Some(search.seen);
        search.lowest[node] = search.seen;
        search.seen += 1;
        search.stack.push(node);
        for other in next(node) {
            match search.order[other] {
                None => {
                    visit(search, next, other);
                    search.lowest[node] = search.lowest[node].min(search.lowest[other]);
                }
                Some(order) if search.stack.contains(&other) => {
                    search.lowest[node] = search.lowest[node].min(order);
                }
                Some(_) => {}
            }
        }
        if search.order[node] == Some(search.lowest[node]) {
            let at = search.stack.iter().position(|other| *other == node).unwrap_or(0);
            let members = search.stack.drain(at..).collect();
            search.found.push(members);
        }
    }
    let mut search = Search { order: vec![None; count], lowest: vec![0; count], stack: vec![], seen: 0, found: vec![] };
    for node in 0..count {
        if search.order[node].is_none() {
            visit(&mut search, &next, node);
        }
    }
    search.found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A directory with a crate; removed when dropped.
    struct Files(PathBuf);

    impl Files {
        fn new(name: &str, files: &[(&str, &str)]) -> Files {
            let dir = std::env::temp_dir().join(format!("hutch-xtask-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = dir.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Files(dir)
        }

        fn circles(&self) -> Vec<Circle> {
            circles(&Crate::read("x", &self.0, &self.0.join("lib.rs")).unwrap())
        }
    }

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn siblings_that_use_each_other_are_a_circle() {
        let files = Files::new(
            "pair",
            &[
                ("lib.rs", "mod a; mod b; mod c;"),
                ("a.rs", "use crate::b::B;\npub struct A(B);"),
                ("b.rs", "pub struct B; fn f() { let _ = super::a::A::new; }"),
                ("c.rs", "use crate::a::A; use crate::b::B;"),
            ],
        );
        let found = files.circles();
        assert_eq!(found.len(), 1);
        assert!(found[0].is("x", &["a", "b"]));
        assert_eq!(found[0].uses, ["a.rs:1: use crate::b::B (of b)", "b.rs:1: super::a::A::new (of a)"]);
    }

    #[test]
    fn parents_and_children_may_use_each_other_and_tests_may_use_anything() {
        let files = Files::new(
            "family",
            &[
                ("lib.rs", "mod a; mod b; pub struct Root;"),
                ("a/mod.rs", "mod inner; pub use inner::Inner; pub struct A(crate::Root);"),
                ("a/inner.rs", "use super::A; pub struct Inner(A);"),
                ("b.rs", "use crate::a::Inner; pub struct B;"),
                ("lib_tests.rs", ""),
            ],
        );
        assert!(files.circles().is_empty());
        let text = "use super::A; pub struct Inner(A); #[cfg(test)] mod tests { use crate::b::B; }";
        std::fs::write(files.0.join("a/inner.rs"), text).unwrap();
        assert!(files.circles().is_empty());
    }

    #[test]
    fn re_exports_globs_and_macros_lead_to_the_module_that_defines_the_item() {
        let files = Files::new(
            "facade",
            &[
                ("lib.rs", "mod a; mod b;"),
                ("a/mod.rs", "mod one; mod two; pub use one::*; pub use two::Two as Second;"),
                ("a/one.rs", "pub struct One; use crate::b::*; fn f(_: B) {}"),
                ("a/two.rs", "pub struct Two; pub fn g() {}"),
                ("b.rs", "pub struct B; fn f() { println!(\"{}\", crate::a::One); } use crate::a::Second;"),
            ],
        );
        let found = files.circles();
        assert_eq!(found.len(), 1);
        assert!(found[0].is("x", &["a::one", "b"]), "{}", found[0].text());
    }

    #[test]
    fn components_are_found_over_several_steps() {
        let edges = [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4)];
        let next = |node| edges.iter().filter(move |(from, _)| *from == node).map(|(_, to)| *to);
        let mut found = components(5, next);
        found.sort();
        assert_eq!(found, [BTreeSet::from([0, 1, 2]), BTreeSet::from([3]), BTreeSet::from([4])]);
    }
}
