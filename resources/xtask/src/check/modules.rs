//! No circle of modules inside a crate: of two files, neither of which contains the other, only one may use the other.
//!
//! A path counts for the module that defines the item, so a façade's `pub use` makes no edge to the façade. A module and
//! those inside it are one unit and may use each other.
//!
//! The head of a folder with many files names each of them ([`super::heads`]).

use super::circles::Circle;
use super::{analysis, findings};
use crate::Result;

/// Circles that are meant: the crate, the modules, the reason.
const MEANT: &[(&str, &[&str], &str)] = &[];

/// Runs the check.
pub(crate) fn check() -> Result<()> {
    let circles: Vec<&Circle> = analysis::crates()?.iter().flat_map(|krate| &krate.circles).collect();
    let is_meant = |circle: &Circle| MEANT.iter().any(|(name, modules, _)| circle.is(name, modules));
    let mut found: Vec<String> =
        circles.iter().filter(|circle| !is_meant(circle)).map(|circle| circle.text()).collect();
    for (name, modules, _) in MEANT.iter().filter(|(name, modules, _)| !circles.iter().any(|c| c.is(name, modules))) {
        found.push(format!("{name}: {} is not a circle any more: take it off MEANT", modules.join(", ")));
    }
    found.extend(analysis::crates()?.iter().flat_map(|krate| krate.unnamed.clone()));
    findings(found)
}
