//! `hutch volume`: named volumes, through the runtime.

use std::io::{self, Write};

use hutch_runtime::{Runtime, VolumeStatus};

use super::records::{default_runtime, each};
use crate::args::format::Format;
use crate::args::volume::{ListVolumes, ShowVolume, VolumeArgs, VolumeCommand};
use crate::failure::Failure;
use crate::output::{print_json, print_table};

/// Runs `hutch volume …` and returns the exit code.
pub fn run(args: VolumeArgs) -> Result<u8, Failure> {
    let runtime = default_runtime(&args.records)?;
    match args.what {
        VolumeCommand::Create(names) => each(&names.names, |name| Ok(runtime.create_volume(name).map(drop)?)),
        VolumeCommand::Rm(names) => each(&names.names, |name| Ok(runtime.remove_volume(name)?)),
        VolumeCommand::Ls(list) => self::list(&runtime, &list),
        VolumeCommand::Inspect(show) => inspect(&runtime, &show),
    }
}

fn list(runtime: &Runtime, args: &ListVolumes) -> Result<u8, Failure> {
    let volumes = runtime.list_volumes()?;
    match args.format {
        _ if args.quiet => {
            for volume in &volumes {
                writeln!(io::stdout(), "{}", volume.name)?;
            }
        }
        Format::Json => print_json(&volumes)?,
        Format::Table => {
            let row = |volume: &VolumeStatus| vec![volume.name.clone(), created(volume), volume.pods.join(" ")];
            print_table(&["NAME", "CREATED", "PODS"], volumes.iter().map(row))?;
        }
    }
    Ok(0)
}

fn inspect(runtime: &Runtime, args: &ShowVolume) -> Result<u8, Failure> {
    let volume = runtime.status_volume(&args.name)?;
    match args.format {
        Format::Json => print_json(&volume)?,
        Format::Table => {
            let rows = [
                ("name", volume.name.clone()),
                ("path", volume.path.display().to_string()),
                ("created", created(&volume)),
                ("pods", volume.pods.join(" ")),
            ];
            for (what, text) in rows {
                writeln!(io::stdout(), "{}", format!("{what:9}{text}").trim_end())?;
            }
        }
    }
    Ok(0)
}

fn created(volume: &VolumeStatus) -> String {
    volume.created_at.map_or_else(|| "unknown".to_owned(), |at| at.to_string())
}
