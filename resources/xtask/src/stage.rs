//! Building the product as a user would have it: `hutch`, its agent, guest assets.

use std::path::PathBuf;
use std::process::Command;

use crate::{build, Result};

/// The built product.
pub struct Stage {
    /// The `hutch` program, release build.
    pub hutch: PathBuf,
    /// The agent, statically linked.
    pub agent: PathBuf,
    /// Directory of guest assets.
    pub guest_dir: PathBuf,
}

impl Stage {
    /// Builds the programs.
    pub fn build() -> Result<Stage> {
        println!("\n    Building hutch (release)");
        build::run(build::cargo().args(["build", "--quiet", "--release", "-p", "hutch", "--bin", "hutch"]))?;
        println!("    Building hutch-agent (static)");
        let agent = build::static_binary("hutch-agent", "hutch-agent")?;
        let target = build::target_dir();
        Ok(Stage { hutch: target.join("release/hutch"), agent, guest_dir: target.join("guest") })
    }

    /// Makes the assets for one kind of kernel, `distro` or `source`; a source-built one takes minutes the first time.
    pub fn make_guest(&self, kernel: &str) -> Result<()> {
        println!("    Making guest assets ({kernel} kernel)");
        let mut command = Command::new(&self.hutch);
        command.args(["guest", "build", "--kernel", kernel]).envs(self.env());
        build::run(&mut command)
    }

    /// The variables that make `hutch` and the tests use these files.
    pub fn env(&self) -> [(String, String); 3] {
        let pair = |key: &str, path: &PathBuf| (key.to_owned(), path.to_string_lossy().into_owned());
        [pair("HUTCH_BIN", &self.hutch), pair("HUTCH_AGENT", &self.agent), pair("HUTCH_GUEST_DIR", &self.guest_dir)]
    }
}
