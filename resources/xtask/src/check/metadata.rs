//! What `cargo metadata` says, as far as the checks want to know.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{build, Result};

/// The dependency graph for Linux on x86-64, as locked.
#[derive(Deserialize)]
pub struct Metadata {
    /// Every package of the graph.
    pub packages: Vec<Package>,
    /// Ids of our own.
    pub workspace_members: BTreeSet<String>,
}

/// A package.
#[derive(Deserialize)]
pub struct Package {
    /// Unique.
    pub id: String,
    /// As in Cargo.toml.
    pub name: String,
    /// As in Cargo.toml.
    pub version: String,
    /// SPDX expression.
    pub license: Option<String>,
    /// Name of a library that it links.
    pub links: Option<String>,
    /// What it asks for.
    pub dependencies: Vec<Dependency>,
}

/// What a package asks for.
#[derive(Deserialize)]
pub struct Dependency {
    /// The other package.
    pub name: String,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub kind: Option<String>,
}

impl Metadata {
    /// Asks cargo.
    pub fn load() -> Result<Metadata> {
        let mut command = build::cargo();
        command.args(["metadata", "--format-version=1", "--locked", "--filter-platform", build::STATIC_TARGET]);
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Our own packages by name.
    pub fn members(&self) -> BTreeMap<&str, &Package> {
        let members = self.packages.iter().filter(|p| self.workspace_members.contains(&p.id));
        members.map(|p| (p.name.as_str(), p)).collect()
    }
}
