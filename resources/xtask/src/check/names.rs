//! A public name means one thing: no two structs, enums or traits that the product's crates show to others share a name. A
//! `pub` item of a private module is not public unless a `pub use` shows it.

use std::collections::BTreeMap;

use super::{analysis, findings};
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
const SHARED: &[(&str, &str)] = &[
    ("Error", "the usual name of a crate's own error"),
    ("Injected", "one type in two forms, of which a feature chooses one"),
];

/// Runs the check.
pub(crate) fn check() -> Result<()> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let product = analysis::crates()?.iter().filter(|krate| PRODUCT.contains(&&*krate.package));
    for (name, place) in product.flat_map(|krate| &krate.names) {
        let places = places.entry(name.clone()).or_default();
        // A file may belong to a library and to a program.
        if !places.contains(place) {
            places.push(place.clone());
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
