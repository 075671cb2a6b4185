//! `hutch guest`: command line of [`hutch_guest`]. Progress and notes go to stderr, results to stdout.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hutch_guest::{
    AssetKind, BuildAction, BuildEvent, BuildRequest, GuestAssets, GuestError, Inspection, KernelOrigin, ListedAsset,
    Manifest, Recorded, Stale,
};
use serde_json::json;

use crate::args::format::Format;
use crate::args::guest::{GuestArgs, GuestBuildArgs, GuestCommand, GuestInspectArgs, GuestLsArgs};
use crate::failure::{Failure, FAILED};
use crate::output::{mib, write_table};
use hutch_agent_proto::error_chain;

/// Runs `hutch guest …` and returns the exit code.
pub fn run(args: GuestArgs) -> Result<u8, Failure> {
    match args.what {
        GuestCommand::Build(args) => build(args),
        GuestCommand::Ls(args) => ls(&args),
        GuestCommand::Inspect(args) => inspect(&args),
    }
}

fn build(args: GuestBuildArgs) -> Result<u8, Failure> {
    let Ok(kernel) = args.kernel.parse();
    let request = BuildRequest {
        dir: hutch_guest::guest_dir(args.guest_dir.as_deref()),
        kernel,
        agent: args.agent,
        modules: args.modules,
        force: args.force,
    };
    let mut progress = Progress::new();
    let report = hutch_guest::build(&request, &mut |event: BuildEvent<'_>| progress.show(event))?;
    let done = match report.action {
        BuildAction::Nothing => "is up to date",
        BuildAction::Agent => "has the new agent",
        BuildAction::All => "is ready",
    };
    let assets = &report.assets;
    let release = assets.manifest.kernel.release.as_deref().unwrap_or("unknown release");
    let dir = request.dir.join(assets.kind.to_string());
    writeln!(
        io::stdout(),
        "{} ({release}) {done} in {} after {:.1} s",
        assets.kind,
        dir.display(),
        report.elapsed.as_secs_f64()
    )?;
    Ok(0)
}

/// Shows the progress of a build: one line that it rewrites on a terminal, else a new line now and then.
struct Progress {
    terminal: bool,
    phase: String,
    started: Instant,
    last_step: Option<Instant>,
}

impl Progress {
    fn new() -> Progress {
        Progress {
            terminal: io::stderr().is_terminal(),
            phase: String::new(),
            started: Instant::now(),
            last_step: None,
        }
    }

    fn show(&mut self, event: BuildEvent<'_>) {
        match event {
            BuildEvent::Note(text) => eprintln!("hutch: {text}"),
            BuildEvent::Begin(phase) => {
                (self.phase, self.started, self.last_step) = (phase.to_owned(), Instant::now(), None);
                if self.terminal {
                    eprint!("{phase} …");
                }
            }
            BuildEvent::End(phase, time) => {
                let clear = if self.terminal { "\r\x1b[K" } else { "" };
                eprintln!("{clear}{phase}: {:.1} s", time.as_secs_f64());
            }
            BuildEvent::Step { done, expected } => self.step(done, expected),
        }
    }

    fn step(&mut self, done: u32, expected: Option<u32>) {
        let every = Duration::from_millis(if self.terminal { 200 } else { 20_000 });
        if self.last_step.unwrap_or(self.started).elapsed() < every {
            return;
        }
        self.last_step = Some(Instant::now());
        let share = match expected {
            Some(expected) if expected > 0 => format!("{} %", u64::from(done) * 100 / u64::from(expected)),
            _ => format!("{done} steps"),
        };
        let (clear, end) = if self.terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!("{clear}{}: {share}, {:.0} s{end}", self.phase, self.started.elapsed().as_secs_f64());
    }
}

fn ls(args: &GuestLsArgs) -> Result<u8, Failure> {
    let dir = hutch_guest::guest_dir(args.guest_dir.as_deref());
    let assets = GuestAssets::list(&dir)?;
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => {
            let all: Vec<_> = assets.iter().map(listed_json).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        }
        Format::Table if assets.is_empty() => {
            eprintln!("{} holds no guest assets; run `hutch guest build`", dir.display());
        }
        Format::Table => {
            let mut rows =
                vec![["KIND", "KERNEL", "FROM", "KERNEL SIZE", "INITRAMFS", "BUILT"].map(str::to_owned).into()];
            rows.extend(assets.iter().map(row));
            write_table(&mut out, &rows)?;
        }
    }
    Ok(0)
}

fn listed_json(asset: &ListedAsset) -> serde_json::Value {
    match &asset.manifest {
        Ok(manifest) => json!({ "kind": asset.kind, "manifest": manifest }),
        Err(error) => json!({ "kind": asset.kind, "error": error_chain(error) }),
    }
}

fn row(asset: &ListedAsset) -> Vec<String> {
    let manifest = match &asset.manifest {
        Ok(manifest) => manifest,
        Err(error) => return vec![asset.kind.to_string(), format!("unusable: {}", error_chain(error))],
    };
    let size = |name| manifest.files.get(name).map_or_else(String::new, |file| mib(file.size));
    vec![
        asset.kind.to_string(),
        manifest.kernel.release.clone().unwrap_or_else(|| "-".to_owned()),
        short_origin(&manifest.kernel.origin),
        size("vmlinux"),
        size("initramfs.cpio"),
        utc(manifest.built_unix_s),
    ]
}

fn short_origin(origin: &KernelOrigin) -> String {
    match origin {
        KernelOrigin::Package { package, version, .. } | KernelOrigin::Source { package, version, .. } => {
            format!("{package} {version}")
        }
        KernelOrigin::File { path, .. } => path.display().to_string(),
    }
}

fn inspect(args: &GuestInspectArgs) -> Result<u8, Failure> {
    let dir = hutch_guest::guest_dir(args.guest_dir.as_deref());
    let kinds = match &args.kind {
        Some(kind) => vec![kind.parse()?],
        None => GuestAssets::list(&dir)?.into_iter().map(|asset| asset.kind).collect(),
    };
    if kinds.is_empty() {
        return Err(GuestError::NotBuilt { kind: AssetKind::Distro, dir }.into());
    }
    let mut results = Vec::new();
    for kind in kinds {
        let result = hutch_guest::inspect(&dir, &kind, args.agent.as_deref());
        results.push((kind, result));
    }
    let mut out = io::stdout().lock();
    match args.format {
        Format::Json => {
            let each = |(kind, result): &(AssetKind, Result<Inspection, GuestError>)| match result {
                Ok(inspection) => json!({ "kind": kind, "intact": inspection.is_intact(), "inspection": inspection }),
                Err(error) => json!({ "kind": kind, "intact": false, "error": error_chain(error) }),
            };
            let all: Vec<_> = results.iter().map(each).collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        }
        Format::Table => {
            for (kind, result) in &results {
                match result {
                    Ok(inspection) => write_inspection(&mut out, inspection)?,
                    Err(error) => writeln!(out, "{kind}: unusable: {}", error_chain(error))?,
                }
            }
        }
    }
    let intact = results.iter().all(|(_, result)| result.as_ref().is_ok_and(Inspection::is_intact));
    Ok(if intact { 0 } else { FAILED })
}

fn write_inspection(out: &mut impl Write, found: &Inspection) -> io::Result<()> {
    let Manifest { kind, kernel, agent, modules, built_unix_s, built_in_ms, builder, .. } = &found.manifest;
    writeln!(out, "{kind}")?;
    let mut line = |name: &str, value: &str| writeln!(out, "  {name:<12}{value}");
    line("kernel", &format!("{} ({})", kernel.release.as_deref().unwrap_or("unknown release"), kernel.form))?;
    for text in origin_lines(&kernel.origin) {
        line("", &text)?;
    }
    line("recorded", recorded_text(found.recorded))?;
    line("agent", &format!("{}, version {}", agent.path.display(), agent.version.as_deref().unwrap_or("unknown")))?;
    line("", &format!("sha256 {}", agent.sha256))?;
    line("modules", &if modules.is_empty() { "none".to_owned() } else { modules.join(" ") })?;
    line("built", &format!("{} by {builder}, in {:.1} s", utc(*built_unix_s), *built_in_ms as f64 / 1e3))?;
    line("directory", &found.dir.display().to_string())?;
    for file in &found.files {
        let size = found.manifest.files.get(&file.name).map_or_else(String::new, |record| mib(record.size));
        let sum = file.sha256.map_or_else(|| "no checksum".to_owned(), |sum| format!("sha256 {sum}"));
        line("file", &format!("{} {size}, {sum}: {}", file.name, file.problem.as_deref().unwrap_or("intact")))?;
    }
    for stale in &found.stale {
        line("stale", &stale_text(stale))?;
    }
    Ok(())
}

fn origin_lines(origin: &KernelOrigin) -> Vec<String> {
    match origin {
        KernelOrigin::Package { package, version, sha256 } => {
            vec![format!("package {package} {version}"), format!("sha256 {sha256}")]
        }
        KernelOrigin::Source { package, version, sha256, config_sha256, compiler } => vec![
            format!("source {package} {version}, sha256 {sha256}"),
            format!("configuration sha256 {config_sha256}"),
            format!("compiler {compiler}"),
        ],
        KernelOrigin::File { path, sha256, modules, .. } => {
            let modules = modules.as_deref().map_or("none".to_owned(), |dir: &Path| dir.display().to_string());
            vec![format!("file {}, sha256 {sha256}", path.display()), format!("modules from {modules}")]
        }
    }
}

fn recorded_text(recorded: Recorded) -> &'static str {
    match recorded {
        Recorded::Same => "identical to the kernel that hutch was tested with",
        Recorded::Differs => "DIFFERS from the kernel of this version that hutch was tested with",
        Recorded::Unknown => "hutch was not tested with this version",
    }
}

fn stale_text(stale: &Stale) -> String {
    match stale {
        Stale::Agent { path, sha256 } => {
            format!("the agent {} differs (sha256 {sha256}); the next run puts it into the initramfs", path.display())
        }
        Stale::AgentUnusable { reason } => reason.clone(),
        Stale::Package { available } => format!("the archive has {available}; run `hutch guest build` to use it"),
        Stale::Source => {
            "the source or its configuration has changed; run `hutch guest build --kernel source`".to_owned()
        }
        Stale::KernelFile { path } => format!("{} has changed or no longer exists", path.display()),
    }
}

/// Seconds since 1970 as `2026-11-23 18:01 UTC`.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Days to a date of the Gregorian calendar: years begin in March, in eras of 400 years (146,097 days).
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year}-{month:02}-{day_of_month:02} {:02}:{:02} UTC", second / 3_600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_709_251_199), "2024-02-29 23:59 UTC");
        assert_eq!(utc(4_107_542_400), "2100-03-01 00:00 UTC");
    }
}
