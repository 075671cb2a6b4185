//! The host's input as a whole, without its effects: what the agent makes of the configuration of a container and of a process
//! that enters it. For the fuzz target in `tests/attack`; the product takes the same steps one by one (`containers`, `run_job`).

use hutch_agent::failure::{invalid, Outcome};
use hutch_agent::Identity;
use hutch_agent_proto::ProcessSpec;
use libcontainer::oci_spec::runtime::{Process, Spec};
use serde_json::Value;

use crate::config::{check_id, Config};
use crate::seccomp;

/// The input of libcontainer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The container's configuration.
    pub config: Value,
    /// A process that enters the container.
    pub process: Value,
}

/// Prepares a container `id` in the cgroup `cgroup`, and a process that enters it.
///
/// # Errors
/// `Invalid`: the agent or libcontainer refuses the configuration or the process.
pub fn prepare(id: &str, cgroup: &str, config: Value, process: &ProcessSpec) -> Outcome<Prepared> {
    check_id(id)?;
    let mut config = Config::read(config, id, cgroup)?;
    if let Some(profile) = &config.seccomp {
        seccomp::compile(profile)?;
    }
    let user = Identity { uid: 1000, gid: 1000, groups: vec![27], home: "/home/user".into() };
    config.set_identity(&user, true);
    if !config.is_on_mount("/etc/resolv.conf") {
        config.mount_file("/run/resolv.conf", "/etc/resolv.conf");
    }
    let process = config.exec_template().process(process, &user)?;
    let refused = |error: serde_json::Error| invalid(error.to_string());
    let config = config.to_json();
    serde_json::from_str::<Spec>(&config).map_err(refused)?;
    serde_json::from_value::<Process>(process.clone()).map_err(refused)?;
    Ok(Prepared { config: serde_json::from_str(&config).map_err(refused)?, process })
}
