//! Builds the product as a user gets it: `hutch`, its agents, guest assets, man pages and completions.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use hutch_testbed_host::kvm::{self, HostKvm};

use crate::build::{Program, AGENT, DEMO, RELEASE};
use crate::kernel::{self, Choice};
use crate::setup::{self, Need};
use crate::tools::{Tools, TESTBED_INIT, TESTBED_KERNEL};
use crate::{build, Result};

const HUTCH: Program = ("hutch", "hutch");
const HUTCH_AGENT: Program = ("hutch-agent", "hutch-agent");
const HUTCH_AGENT_OCI: Program = ("hutch-agent-oci", "hutch-agent-oci");
const OTHER_AGENT: Program = ("hutch-e2e", "other-version-agent");

/// The built product.
pub(crate) struct Stage {
    /// The `hutch` program.
    pub(crate) hutch: PathBuf,
    agent: PathBuf,
    /// Absent in a demo, which has no pods.
    oci_agent: Option<PathBuf>,
    /// An agent of another protocol version, for the test of that case.
    other_agent: Option<PathBuf>,
    /// The runtime's example of a program that uses it as a library.
    embed: Option<PathBuf>,
    /// A compressed kernel, for the test of that case.
    bzimage: Option<PathBuf>,
    /// Directory of guest assets. It is in the cache, because a kernel from source takes minutes to build. hutch replaces the
    /// agent in the assets by this build's.
    guest_dir: PathBuf,
    /// Programs that the testbed needs, as far as this build has made them.
    pub(crate) tools: Tools,
}

/// `cargo xtask build`: the programs, man pages and completions in `target/dist`.
pub(crate) fn main() -> Result<ExitCode> {
    let stage = Stage::build()?;
    stage.write_documents(&build::target_dir().join("dist"))?;
    println!("{}", stage.hutch.display());
    Ok(ExitCode::SUCCESS)
}

/// `cargo xtask docs`: the tables of options in the command line's reference. A unit test of `hutch` generates them from the
/// definition of the command line; otherwise it fails if the page differs.
pub(crate) fn write_reference() -> Result<ExitCode> {
    let mut command = build::cargo();
    command.args(["test", "--quiet", "--package", HUTCH.0, "--bin", HUTCH.1, "--", "reference::the_reference"]);
    build::run(command.env("HUTCH_WRITE_REFERENCE", "1"))?;
    Ok(ExitCode::SUCCESS)
}

/// Copies a program to the directory `name` of the target directory, atomically. Leaves an identical file alone, so that
/// files made from it stay up to date.
fn install(program: &Path, name: &str) -> Result<PathBuf> {
    let dir = build::target_dir().join(name);
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
    /// Builds the programs and installs them in `target/dist`, where `hutch` finds its agents.
    pub(crate) fn build() -> Result<Stage> {
        // .cargo/config.toml says where this package puts its static library.
        setup::ensure(&[Need::Seccomp])?;
        println!("\n    Building hutch, optimised as a whole (takes minutes the first time)");
        let [hutch] = build::static_programs([HUTCH], RELEASE)?;
        println!("    Building the programs that run in guests, optimised for size");
        let [agent, oci_agent, init] = build::static_programs([HUTCH_AGENT, HUTCH_AGENT_OCI, TESTBED_INIT], AGENT)?;
        Ok(Stage {
            hutch: install(&hutch, "dist")?,
            agent: install(&agent, "dist")?,
            oci_agent: Some(install(&oci_agent, "dist")?),
            other_agent: None,
            embed: None,
            bzimage: None,
            guest_dir: guest_dir(),
            tools: Tools { init: Some(init), kernel_program: None },
        })
    }

    /// Builds only the programs that `hutch run` needs, without costly optimisation, and installs them in `target/demo-dist`.
    pub(crate) fn build_for_demo() -> Result<Stage> {
        println!(
            "\n    Building hutch and hutch-agent, and what the demo needs to run them (quick to build, not fast)"
        );
        let (hutch, agent, tools) = if kvm::host() == HostKvm::Usable {
            let [hutch, agent] = build::static_programs([HUTCH, HUTCH_AGENT], DEMO)?;
            (hutch, agent, Tools::default())
        } else {
            let [hutch, agent, init, kernel_program] =
                build::static_programs([HUTCH, HUTCH_AGENT, TESTBED_INIT, TESTBED_KERNEL], DEMO)?;
            (hutch, agent, Tools { init: Some(init), kernel_program: Some(kernel_program) })
        };
        Ok(Stage {
            hutch: install(&hutch, "demo-dist")?,
            agent: install(&agent, "demo-dist")?,
            oci_agent: None,
            other_agent: None,
            embed: None,
            bzimage: None,
            guest_dir: guest_dir(),
            tools,
        })
    }

    /// Adds what only the tests need. `embed` is the example, as the build of all tests has made it: with all the
    /// development dependencies of its package, an optimised build of it takes minutes.
    pub(crate) fn for_tests(mut self, embed: Option<PathBuf>) -> Result<Stage> {
        println!("    Building an agent of another version, for a test");
        let [other_agent] = build::static_programs([OTHER_AGENT], AGENT)?;
        self.other_agent = Some(other_agent);
        self.embed = embed;
        let kernel = kernel::testbed(&Choice::Distro, false, &self.tools)?;
        self.bzimage = Some(kernel.vmlinux.with_file_name("vmlinuz"));
        Ok(self)
    }

    /// Makes the assets for one kind of kernel, `distro` or `source`. A kernel from source takes minutes the first time.
    pub(crate) fn make_guest(&self, kernel: &str) -> Result<()> {
        println!("    Making guest assets ({kernel} kernel)");
        let mut command = Command::new(&self.hutch);
        command.args(["guest", "build", "--kernel", kernel]).envs(self.env());
        build::run(&mut command)
    }

    /// Environment variables that make `hutch` and the tests use these files.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let files = [
            ("HUTCH_BIN", Some(&self.hutch)),
            ("HUTCH_AGENT", Some(&self.agent)),
            ("HUTCH_AGENT_OCI", self.oci_agent.as_ref()),
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

    /// Writes man pages and shell completions, which `hutch` generates, to directories in `dist`.
    fn write_documents(&self, dist: &Path) -> Result<()> {
        let man = dist.join("man");
        fs::create_dir_all(&man)?;
        if self.document(&["__man".as_ref(), man.as_os_str()])?.is_none() {
            println!("    No man pages: this hutch does not generate them");
        }
        let completions = dist.join("completions");
        fs::create_dir_all(&completions)?;
        for (shell, name) in [("bash", "hutch.bash"), ("zsh", "_hutch"), ("fish", "hutch.fish")] {
            match self.document(&["completions".as_ref(), shell.as_ref()])? {
                Some(text) => fs::write(completions.join(name), text)?,
                None => println!("    No completions for {shell}: this hutch does not generate them"),
            }
        }
        Ok(())
    }

    /// The output of `hutch`; `None` if it has no such verb.
    fn document(&self, args: &[&std::ffi::OsStr]) -> Result<Option<Vec<u8>>> {
        let output = Command::new(&self.hutch).args(args).stdin(Stdio::null()).output()?;
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        match complaint.contains("unrecognized subcommand") {
            true => Ok(None),
            false => Err(format!("hutch {args:?} ended with {}: {complaint}", output.status).into()),
        }
    }
}

fn guest_dir() -> PathBuf {
    hutch_testbed_host::cache_dir().join("guest")
}
