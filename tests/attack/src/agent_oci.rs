//! The configuration of a container and a process that enters it, as the agent of a pod's guest gets them from the host.

use hutch_agent_oci::prepare;
use hutch_agent_proto::ProcessSpec;
use serde_json::Value;

const SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];
const CGROUP: &str = "/hutch/c";

/// Attacks the agent's readers. The first line is the configuration, the rest the process; without one, a usual process.
pub fn attack(data: &[u8]) {
    let mut lines = data.splitn(2, |byte| *byte == b'\n');
    let Some(Ok(config)) = lines.next().map(serde_json::from_slice::<Value>) else { return };
    let process = lines.next().and_then(|line| serde_json::from_slice(line).ok());
    let process = process.unwrap_or_else(|| ProcessSpec { args: vec!["sh".into()], ..ProcessSpec::default() });
    let seccomp = config.pointer("/linux/seccomp").is_some_and(|profile| !profile.is_null());
    let Ok(prepared) = prepare("c", CGROUP, config, &process) else { return };
    let config = &prepared.config;
    // The agent applies these itself, and the host's cgroups are not the guest's.
    assert!(config.get("hooks").is_none() && config.pointer("/linux/seccomp").is_none());
    assert!(config.pointer("/linux/resources/devices").is_none());
    assert_eq!(config.pointer("/linux/cgroupsPath"), Some(&Value::from(CGROUP)));
    assert!(config.pointer("/root/path").and_then(Value::as_str).is_some_and(|path| path.starts_with('/')));
    assert_eq!(config.pointer("/process/user/uid"), Some(&Value::from(1000)));
    for process in [&config["process"], &prepared.process] {
        assert!(process["cwd"].as_str().is_some_and(|cwd| cwd.starts_with('/')), "{process}");
        assert!(process["args"].as_array().is_some_and(|args| !args.is_empty()), "{process}");
        // libcontainer would leave a set that is absent complete.
        for set in SETS {
            let names = process["capabilities"][set].as_array();
            assert!(names.is_some(), "{set} of {process}");
            // To load a filter, until the program is executed.
            let may = names.is_some_and(|names| names.iter().any(|name| name == "CAP_SYS_ADMIN"));
            let filter = seccomp && ["effective", "permitted"].contains(&set);
            assert!(!may || filter || data_names(data), "{set} of {process}");
        }
    }
}

/// Whether the input itself asks for the capability that loads filters, in whatever spelling.
fn data_names(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data).to_ascii_uppercase();
    text.contains("SYS_ADMIN") || text.contains("\\U")
}
