//! The parts of `cargo metadata` that the checks use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;

use crate::{build, Result};

/// The dependency graph for Linux on x86-64, as locked.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    /// Ids of the workspace's packages.
    pub(crate) workspace_members: BTreeSet<String>,
}

/// A package.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    /// SPDX expression.
    pub(crate) license: Option<String>,
    /// Name of a library that it links.
    pub(crate) links: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

/// A library, program, test or example of a package.
#[derive(Deserialize)]
pub(crate) struct Target {
    /// `lib`, `bin`, `test`, ...
    pub(crate) kind: Vec<String>,
    pub(crate) name: String,
    /// Absolute path of its root file.
    pub(crate) src_path: PathBuf,
}

/// A dependency as Cargo.toml declares it.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `None` for an ordinary one, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    /// Runs `cargo metadata`.
    pub(crate) fn load() -> Result<Metadata> {
        let mut command = build::cargo();
        command.args(["metadata", "--format-version=1", "--locked", "--filter-platform", build::STATIC_TARGET]);
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The workspace's packages by name.
    pub(crate) fn members(&self) -> BTreeMap<&str, &Package> {
        let members = self.packages.iter().filter(|p| self.workspace_members.contains(&p.id));
        members.map(|p| (p.name.as_str(), p)).collect()
    }
}
