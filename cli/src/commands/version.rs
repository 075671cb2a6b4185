//! `hutch version`.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::format::Format;
use crate::args::version::VersionArgs;
use crate::failure::Failure;
use crate::output::print_json;

/// The version and the circumstances of the build. `build.rs` sets the variables.
#[derive(Debug, Serialize)]
struct Build {
    version: &'static str,
    /// Version of the protocol that hutch and the agent in its guests speak.
    agent_protocol: u32,
    /// Git commit that was checked out at the build; `None` if the build saw no repository.
    commit: Option<&'static str>,
    target: &'static str,
    /// Whether the program is linked statically.
    r#static: bool,
    rustc: &'static str,
    profile: &'static str,
    opt_level: &'static str,
}

const BUILD: Build = Build {
    version: env!("CARGO_PKG_VERSION"),
    agent_protocol: hutch_agent_proto::PROTOCOL_VERSION,
    commit: option_env!("HUTCH_BUILD_COMMIT"),
    target: env!("HUTCH_BUILD_TARGET"),
    r#static: cfg!(target_feature = "crt-static"),
    rustc: env!("HUTCH_BUILD_RUSTC"),
    profile: env!("HUTCH_BUILD_PROFILE"),
    opt_level: env!("HUTCH_BUILD_OPT_LEVEL"),
};

/// Prints the version and how the program was built.
pub fn run(args: &VersionArgs) -> Result<u8, Failure> {
    let build = BUILD;
    match args.format {
        Format::Json => print_json(&build)?,
        Format::Table => io::stdout().write_all(table(&build).as_bytes())?,
    }
    Ok(0)
}

fn table(build: &Build) -> String {
    let linked = if build.r#static { "statically linked" } else { "dynamically linked" };
    format!(
        "hutch {}\nagent protocol  {}\ncommit          {}\ntarget          {}, {linked}\ncompiler        {}\n\
         profile         {}, opt-level {}\n",
        build.version,
        build.agent_protocol,
        build.commit.unwrap_or("unknown"),
        build.target,
        build.rustc,
        build.profile,
        build.opt_level
    )
}
