//! A public name means one thing: no two structs, enums or traits that the product's crates show to others share a name. A
//! `pub` item of a private module is not public unless a `pub use` shows it.

use std::collections::BTreeMap;

use syn::{Item, Visibility};

use super::findings;
use super::graph::reachable;
use super::tree::{for_each_crate, Crate};
use crate::Result;

/// The product's packages.
const PRODUCT: [&str; 8] = [
    "hutch",
    "hutch-agent",
    "hutch-agent-oci",
    "hutch-agent-proto",
    "hutch-devices",
    "hutch-guest",
    "hutch-runtime",
    "hutch-vmm",
];

/// Names that several items may have, with the reason.
const SHARED: [(&str, &str); 1] = [("Error", "the usual name of a crate's own error")];

/// Runs the check.
pub(crate) fn check() -> Result<()> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, place) in for_each_crate(|package| PRODUCT.contains(&package), public_names)? {
        let places = places.entry(name).or_default();
        // A file may belong to a library and to a program.
        if !places.contains(&place) {
            places.push(place);
        }
    }
    findings(collisions(places))
}

fn collisions(places: BTreeMap<String, Vec<String>>) -> Vec<String> {
    let several = places
        .into_iter()
        .filter(|(name, places)| places.len() > 1 && !SHARED.iter().any(|(shared, _)| shared == name));
    several
        .map(|(name, places)| format!("{name} is the name of {} public types: {}", places.len(), places.join(", ")))
        .collect()
}

/// The public types of a crate, each with its place.
fn public_names(krate: &Crate) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let reachable = reachable(krate);
    for (at, module) in krate.modules.iter().enumerate() {
        for item in &module.items {
            let (visibility, ident) = match item {
                Item::Struct(item) => (&item.vis, &item.ident),
                Item::Enum(item) => (&item.vis, &item.ident),
                Item::Trait(item) => (&item.vis, &item.ident),
                _ => continue,
            };
            if matches!(visibility, Visibility::Public(_)) && reachable.contains(&(at, ident.to_string())) {
                names.push((ident.to_string(), format!("{}:{}", module.file.display(), ident.span().start().line)));
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build;

    #[test]
    fn names_are_compared_and_shared_ones_left_alone() {
        let places = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let found = collisions(BTreeMap::from([
            ("Machine".to_owned(), places(&["a.rs:1", "b.rs:2"])),
            ("Error".to_owned(), places(&["a.rs:3", "b.rs:4"])),
            ("Other".to_owned(), places(&["a.rs:5"])),
        ]));
        assert_eq!(found, ["Machine is the name of 2 public types: a.rs:1, b.rs:2"]);
    }

    #[test]
    fn only_public_types_count() {
        let root = build::root();
        let krate = Crate::read("perf", &root, &root.join("tests/perf/src/lib.rs")).unwrap();
        let names: Vec<String> = public_names(&krate).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"Row".to_owned()) && !names.contains(&"Outcome".to_owned()), "{names:?}");
    }
}
