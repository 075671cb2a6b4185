//! Building the product as a user would have it: `hutch`, its agent, guest assets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::kernel::{self, Choice};
use crate::setup::{self, Need};
use crate::{build, Result};

/// The built product.
pub struct Stage {
    /// The `hutch` program, statically linked.
    pub hutch: PathBuf,
    /// The agent, likewise.
    pub agent: PathBuf,
    /// The agent of pods, which knows containers, likewise.
    pub oci_agent: PathBuf,
    /// An agent of another protocol version, for the test of that case.
    pub other_agent: Option<PathBuf>,
    /// The runtime's example of a program that uses it as a library.
    pub embed: Option<PathBuf>,
    /// A bzImage, for the same.
    pub bzimage: Option<PathBuf>,
    /// Directory of guest assets: in the cache, for a kernel built from source takes minutes. The agent in them is
    /// replaced by this build's when they are used.
    pub guest_dir: PathBuf,
}

/// `cargo xtask build`: the programs, in one directory.
pub fn main() -> Result<ExitCode> {
    let stage = Stage::build()?;
    println!("{}", stage.hutch.display());
    Ok(ExitCode::SUCCESS)
}

/// Copies a program to the directory of all programs, whole or not at all. One that is the same stays: what was made of
/// it is then still up to date.
fn install(program: &Path) -> Result<PathBuf> {
    let dir = build::target_dir().join("dist");
    fs::create_dir_all(&dir)?;
    let place = dir.join(program.file_name().unwrap_or_default());
    if fs::read(&place).ok() != Some(fs::read(program)?) {
        let partial = place.with_extension("partial");
        fs::copy(program, &partial)?;
        fs::rename(&partial, &place)?;
    }
    Ok(place)
}

impl Stage {
    /// Builds the programs, and puts them side by side, where `hutch` finds the others by itself.
    pub fn build() -> Result<Stage> {
        // The static library in it; where it lies is in .cargo/config.toml.
        setup::ensure(&[Need::Seccomp])?;
        println!("\n    Building hutch");
        let hutch = build::static_release("hutch", "hutch")?;
        println!("    Building hutch-agent");
        let agent = build::static_binary("hutch-agent", "hutch-agent")?;
        println!("    Building hutch-agent-oci");
        let oci_agent = build::static_binary("hutch-agent-oci", "hutch-agent-oci")?;
        Ok(Stage {
            hutch: install(&hutch)?,
            agent: install(&agent)?,
            oci_agent: install(&oci_agent)?,
            other_agent: None,
            embed: None,
            bzimage: None,
            guest_dir: hutch_testbed_host::cache_dir().join("guest"),
        })
    }

    /// Builds what only the tests need.
    pub fn for_tests(mut self) -> Result<Stage> {
        self.other_agent = Some(build::static_binary("hutch-e2e", "other-version-agent")?);
        self.embed = Some(build::static_example("hutch-runtime", "embed")?);
        let kernel = kernel::testbed(&Choice::Distro, false)?;
        self.bzimage = Some(kernel.vmlinux.with_file_name("vmlinuz"));
        Ok(self)
    }

    /// Makes the assets for one kind of kernel, `distro` or `source`; a source-built one takes minutes the first time.
    pub fn make_guest(&self, kernel: &str) -> Result<()> {
        println!("    Making guest assets ({kernel} kernel)");
        let mut command = Command::new(&self.hutch);
        command.args(["guest", "build", "--kernel", kernel]).envs(self.env());
        build::run(&mut command)
    }

    /// The variables that make `hutch` and the tests use these files.
    pub fn env(&self) -> Vec<(String, String)> {
        let files = [
            ("HUTCH_BIN", Some(&self.hutch)),
            ("HUTCH_AGENT", Some(&self.agent)),
            ("HUTCH_AGENT_OCI", Some(&self.oci_agent)),
            ("HUTCH_GUEST_DIR", Some(&self.guest_dir)),
            ("HUTCH_E2E_OTHER_AGENT", self.other_agent.as_ref()),
            ("HUTCH_E2E_EMBED", self.embed.as_ref()),
            ("HUTCH_E2E_BZIMAGE", self.bzimage.as_ref()),
        ];
        files
            .into_iter()
            .filter_map(|(key, path)| Some((key.to_owned(), path?.to_string_lossy().into_owned())))
            .collect()
    }
}
