//! Reads the workspace's crates once for the checks that need their syntax.

use std::sync::OnceLock;

use syn::{Item, Visibility};

use super::circles::{circles, Circle};
use super::graph::reachable;
use super::heads::unnamed;
use super::tree::{each_crate, Crate};
use crate::Result;

/// The parts of a crate that the checks compare.
pub(crate) struct Analysis {
    pub(crate) package: String,
    pub(crate) circles: Vec<Circle>,
    /// Modules that the head of their folder does not name.
    pub(crate) unnamed: Vec<String>,
    /// Public types, each with its place.
    pub(crate) names: Vec<(String, String)>,
}

/// All crates of the workspace. The first call reads them.
pub(crate) fn crates() -> Result<&'static [Analysis]> {
    static CRATES: OnceLock<std::result::Result<Vec<Analysis>, String>> = OnceLock::new();
    let all = CRATES.get_or_init(|| {
        let analyse = |package: &str, krate: &Crate| Analysis {
            package: package.to_owned(),
            circles: circles(krate),
            unnamed: unnamed(krate),
            names: public_names(krate),
        };
        each_crate(analyse).map_err(|error| error.to_string())
    });
    all.as_deref().map_err(|error| error.clone().into())
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
    fn only_public_types_count() {
        let root = build::root();
        let krate = Crate::read("perf", &root, &root.join("tests/perf/src/lib.rs")).unwrap();
        let names: Vec<String> = public_names(&krate).into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"Row".to_owned()) && !names.contains(&"Outcome".to_owned()), "{names:?}");
    }
}
