//! `cargo xtask mutants`: changes the product in small ways, one at a time, and lists the changes that no unit test notices
//! (cargo-mutants). By hand only: each change takes a build and a run of the tests.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::build::{self, External};
use crate::Result;

const TOOL: External = ("cargo-mutants", "27.1.0");

/// Code that is changed, and the tests that must notice.
struct Area {
    name: &'static str,
    package: &'static str,
    files: &'static [&'static str],
    /// The targets that `cargo test` runs.
    tests: &'static [&'static str],
}

const AREAS: [Area; 2] = [
    Area {
        name: "devices",
        package: "hutch-devices",
        files: &["devices/src/virtio/**", "devices/src/worker/**"],
        tests: &["--lib"],
    },
    Area {
        name: "pods",
        package: "hutch-runtime",
        files: &["runtime/src/pod/**", "runtime/src/container/**", "runtime/src/store/**"],
        tests: &["--lib", "--test", "pods"],
    },
];

/// Options of `mutants`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change only this part of the product
    #[arg(value_parser = AREAS.map(|area| area.name))]
    area: Option<String>,
    /// Change only files that match this pattern, such as 'devices/src/virtio/queue.rs'
    #[arg(long, value_name = "GLOB", requires = "area")]
    file: Vec<String>,
    /// Make only the changes whose descriptions match this regular expression
    #[arg(long, value_name = "REGEX")]
    re: Option<String>,
    /// Make every N-th change, from the one with number K on, which begins at 0
    #[arg(long, value_name = "K/N")]
    shard: Option<String>,
    /// Time for the tests of each change, and for its build
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u32,
    /// Change the files of this clone instead of a copy: leave them alone meanwhile
    #[arg(long)]
    in_place: bool,
    /// Arguments of the tests, such as `--skip NAME`
    #[arg(last = true, value_name = "ARGUMENT")]
    tests: Vec<String>,
}

/// Runs the task.
pub(crate) fn main(args: Args) -> Result<ExitCode> {
    let [program] = build::external_programs([TOOL], &hutch_testbed_host::cache_dir().join("tools"))?;
    let mut results = Results::default();
    for area in AREAS.iter().filter(|area| args.area.as_ref().is_none_or(|name| name == area.name)) {
        let dir = build::target_dir().join("mutants").join(area.name);
        fs::create_dir_all(&dir)?;
        let mut command = command(&args, area, &program, &dir);
        let status = command.status().map_err(|e| format!("cannot run {}: {e}", program.display()))?;
        // 2: a change was not noticed; 3: the tests did not end with one.
        if !matches!(status.code(), Some(0 | 2 | 3)) {
            return Err(format!("cargo-mutants ended with {status}").into());
        }
        results.add(&dir.join("mutants.out"))?;
    }
    print!("{}", results.summary());
    Ok(if results.missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The call of cargo-mutants for one area. Its results go to `dir`.
fn command(args: &Args, area: &Area, program: &Path, dir: &Path) -> Command {
    let timeout = args.timeout.to_string();
    let mut command = Command::new(program);
    // A directory of its own: it builds without line numbers, which are of no use here.
    command.current_dir(build::root()).env("CARGO_TARGET_DIR", build::target_dir().join("mutants/target"));
    command.env("CARGO_PROFILE_TEST_DEBUG", "0");
    command
        .args(["mutants", "--package", area.package, "--sharding", "round-robin", "--no-shuffle", "--output"])
        .arg(dir);
    command.args(["--timeout", &timeout, "--build-timeout", &timeout]);
    let chosen: Vec<&str> = args.file.iter().map(String::as_str).collect();
    for file in if chosen.is_empty() { area.files } else { &chosen } {
        command.args(["--file", file]);
    }
    if let Some(re) = &args.re {
        command.args(["--re", re]);
    }
    if let Some(shard) = &args.shard {
        command.args(["--shard", shard]);
    }
    if args.in_place {
        command.arg("--in-place");
    }
    command.arg("--").args(area.tests).arg("--").args(&args.tests);
    command
}

/// The changes by what became of them, one a line as cargo-mutants writes them.
#[derive(Default)]
struct Results {
    caught: usize,
    /// The tests passed.
    missed: Vec<String>,
    /// The tests did not end: noticed as well.
    timeout: Vec<String>,
    /// The compiler refused them.
    unviable: usize,
}

impl Results {
    /// Adds the results in cargo-mutants' directory.
    fn add(&mut self, dir: &Path) -> Result<()> {
        let read = |kind: &str| -> Result<Vec<String>> {
            let path = dir.join(format!("{kind}.txt"));
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        self.caught += read("caught")?.len();
        self.unviable += read("unviable")?.len();
        self.missed.extend(read("missed")?);
        self.timeout.extend(read("timeout")?);
        Ok(())
    }

    fn summary(&self) -> String {
        let mut text = String::new();
        for (kind, lines) in [("TIMEOUT", &self.timeout), ("SURVIVED", &self.missed)] {
            lines.iter().for_each(|line| text += &format!("{kind} {line}\n"));
        }
        let (caught, timeout, missed) = (self.caught, self.timeout.len(), self.missed.len());
        text + &format!("{caught} caught, {timeout} timed out, {} not compiled, {missed} survived\n", self.unviable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survivors_of_all_areas_are_listed_and_counted() {
        let dir = std::env::temp_dir().join(format!("hutch-mutants-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (kind, text) in [("caught", "a\nb\n"), ("missed", "c.rs:1:2: x\n"), ("timeout", "d\n"), ("unviable", "")] {
            fs::write(dir.join(format!("{kind}.txt")), text).unwrap();
        }
        let mut results = Results::default();
        results.add(&dir).unwrap();
        results.add(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(
            results.summary(),
            "TIMEOUT d\nTIMEOUT d\nSURVIVED c.rs:1:2: x\nSURVIVED c.rs:1:2: x\n\
             4 caught, 2 timed out, 0 not compiled, 2 survived\n"
        );
        assert!(results.add(&dir).is_err(), "a run without results is a failure");
    }
}
