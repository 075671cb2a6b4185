//! The OCI configuration: what of the host's JSON the guest takes over, checks and completes. Pure functions; any text
//! is survived.

use hutch_agent::failure::{invalid, Outcome};
use hutch_agent::launch::check_environment;
use hutch_agent::rlimits;
use hutch_agent::user::Identity;
use hutch_agent_proto::ProcessSpec;
use libcontainer::oci_spec::runtime::LinuxSeccomp;
use serde_json::{json, Map, Value};

use crate::hooks::{Hook, State};

/// Annotation with the user as `user[:group]`, names allowed.
pub const USER_KEY: &str = "dev.hutch.process.user";
/// Annotation with supplementary groups, separated by commas, names allowed.
pub const GROUPS_KEY: &str = "dev.hutch.process.groups";
/// Annotation with the directory of the guest's hooks.
pub const HOOKS_KEY: &str = "dev.hutch.guest.hooks";
/// What loading a seccomp filter takes without `no_new_privs`. A process that has it only until it executes its program
/// loses it then, since neither its bounding nor its inheritable set has it.
const FILTER_CAPABILITY: &str = "CAP_SYS_ADMIN";
/// Longest id of a container, bytes.
const MAX_ID: usize = 192;
/// Version that is assumed if the configuration names none.
const OCI_VERSION: &str = "1.2.0";

/// Checks the id of a container. It becomes a file name.
///
/// # Errors
/// `Invalid`.
pub fn check_id(id: &str) -> Outcome<()> {
    let good = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    match good && id != "." && id != ".." {
        true => Ok(()),
        false => Err(invalid(format!("{id:?} is not an id of a container"))),
    }
}

/// A configuration on its way to libcontainer.
#[derive(Debug)]
pub struct Config {
    object: Map<String, Value>,
    /// The root file system, absolute.
    pub rootfs: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Its working directory, absolute.
    pub cwd: String,
    /// Who it is to be looked up as: user and more groups. `None`: as the numbers in the configuration say.
    pub user: Option<(String, Vec<String>)>,
    /// The numeric user of the configuration.
    pub uid: u32,
    /// Destinations of mounts.
    pub mounts: Vec<String>,
    /// The seccomp profile.
    pub seccomp: Option<LinuxSeccomp>,
    /// StartContainer hooks.
    pub hooks: Vec<Hook>,
    /// Directory of the guest's hooks, absolute.
    pub guest_hooks: Option<String>,
    /// What hooks are told, but for the bundle.
    pub state: State,
}

impl Config {
    /// Reads the host's configuration of container `id`, whose cgroup will be `cgroup`.
    ///
    /// libcontainer gets neither the seccomp profile nor hooks: these are the agent's own ([`crate::finish`]).
    ///
    /// # Errors
    /// `Invalid` with the place.
    pub fn read(config: Value, id: &str, cgroup: &str) -> Outcome<Self> {
        let Value::Object(mut object) = config else { return Err(invalid("the OCI configuration is not an object")) };
        object.entry("ociVersion").or_insert_with(|| json!(OCI_VERSION));
        let rootfs = absolute(&object, "root", "path")?;
        let user = annotation(&object, USER_KEY).map(|user| {
            let groups = annotation(&object, GROUPS_KEY).unwrap_or_default();
            (user.to_owned(), groups.split(',').filter(|group| !group.is_empty()).map(str::to_owned).collect())
        });
        let mounts = object.get("mounts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let mounts = mounts.iter().filter_map(|mount| mount.get("destination")?.as_str().map(str::to_owned)).collect();
        let process = section(&mut object, "process")?;
        let args = process.get("args").and_then(Value::as_array);
        if args.is_none_or(|args| args.is_empty() || !args.iter().all(Value::is_string)) {
            return Err(invalid("process.args of the OCI configuration is not a list of at least one string"));
        }
        match process.get("env") {
            None => {}
            Some(Value::Array(env)) if env.iter().all(Value::is_string) => {}
            Some(_) => return Err(invalid("process.env of the OCI configuration is not a list of strings")),
        }
        if process.get("cwd").is_none_or(|cwd| cwd.as_str() == Some("")) {
            process.insert("cwd".into(), json!("/"));
        }
        let cwd = process.get("cwd").and_then(Value::as_str).unwrap_or_default().to_owned();
        if !cwd.starts_with('/') {
            return Err(invalid(format!("working directory {cwd:?} is not absolute")));
        }
        let terminal = process.get("terminal").and_then(Value::as_bool).unwrap_or_default();
        let uid = process.get("user").and_then(|user| user.get("uid")?.as_u64()).unwrap_or_default();
        let uid = u32::try_from(uid).map_err(|_| invalid(format!("process.user.uid {uid} is out of range")))?;
        // Profiles of the host's kernel mean nothing to the guest's, and the agent sets the size of terminals itself.
        for key in ["apparmorProfile", "selinuxLabel", "consoleSize"] {
            process.remove(key);
        }
        process.entry("user").or_insert_with(|| json!({"uid": 0, "gid": 0}));
        let linux = section(&mut object, "linux")?;
        let seccomp = match linux.remove("seccomp").unwrap_or_default() {
            Value::Null => None,
            profile => Some(
                serde_json::from_value(profile)
                    .map_err(|error| invalid(format!("linux.seccomp of the OCI configuration: {error}")))?,
            ),
        };
        linux.remove("mountLabel");
        linux.insert("cgroupsPath".into(), json!(cgroup));
        if let Some(resources) = linux.get_mut("resources").and_then(Value::as_object_mut) {
            // Rules about the host's devices.
            resources.remove("devices");
        }
        object.entry("mounts").or_insert_with(|| json!([]));
        let hooks = take_hooks(&mut object)?;
        let guest_hooks = annotation(&object, HOOKS_KEY).map(str::to_owned);
        if guest_hooks.as_ref().is_some_and(|dir| !dir.starts_with('/')) {
            return Err(invalid(format!("annotation {HOOKS_KEY} is not an absolute path")));
        }
        let state = State {
            version: object.get("ociVersion").and_then(Value::as_str).unwrap_or(OCI_VERSION).to_owned(),
            id: id.to_owned(),
            bundle: String::new(),
            annotations: object.get("annotations").cloned().unwrap_or_default(),
        };
        let mut config = Self { object, rootfs, terminal, cwd, user, uid, mounts, seccomp, hooks, guest_hooks, state };
        config.allow_filter();
        Ok(config)
    }

    /// Lets the process load its filter.
    fn allow_filter(&mut self) {
        let filtered = self.seccomp.is_some();
        let Some(process) = self.object.get_mut("process").and_then(Value::as_object_mut) else { return };
        let privileges = process.get("noNewPrivileges").and_then(Value::as_bool) != Some(true);
        if let Some(capabilities) = process.get_mut("capabilities").filter(|_| filtered && privileges) {
            add_filter_capability(capabilities);
        }
    }

    /// Sets who the process is; without `named`, only its home directory, for the numbers are there.
    pub fn set_identity(&mut self, identity: &Identity, named: bool) {
        let Some(process) = self.object.get_mut("process").and_then(Value::as_object_mut) else { return };
        if named {
            let user = process.entry("user").or_insert_with(|| json!({}));
            user["uid"] = json!(identity.uid);
            user["gid"] = json!(identity.gid);
            user["additionalGids"] = json!(identity.groups);
        }
        add_home(process, &identity.home);
    }

    /// Whether `path` lies on one of the container's own mounts, not on its root file system.
    pub fn is_on_mount(&self, path: &str) -> bool {
        self.mounts.iter().map(|mount| mount.trim_end_matches('/')).any(|mount| {
            !mount.is_empty() && path.strip_prefix(mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Mounts `source`, a file of the guest, read-only on `destination`.
    pub fn mount_file(&mut self, source: &str, destination: &str) {
        if let Some(mounts) = self.object.get_mut("mounts").and_then(Value::as_array_mut) {
            let options = ["bind", "ro", "nosuid", "nodev", "noexec"];
            mounts.push(json!({"destination": destination, "type": "bind", "source": source, "options": options}));
            self.mounts.push(destination.to_owned());
        }
    }

    /// What later processes of the container inherit.
    pub fn heritage(&self) -> Heritage {
        let process = self.object.get("process");
        let field = |name: &str| process.and_then(|process| process.get(name)).cloned();
        Heritage {
            filtered: self.seccomp.is_some(),
            capabilities: field("capabilities").filter(|value| !value.is_null()),
            no_new_privileges: field("noNewPrivileges").and_then(|value| value.as_bool()).unwrap_or_default(),
        }
    }

    /// The whole configuration.
    pub fn to_json(&self) -> String {
        Value::Object(self.object.clone()).to_string()
    }
}

/// What processes that enter a container later have of its configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heritage {
    filtered: bool,
    capabilities: Option<Value>,
    no_new_privileges: bool,
}

impl Heritage {
    /// The OCI form of a process that enters the container as `identity`.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn process(&self, spec: &ProcessSpec, identity: &Identity) -> Outcome<Value> {
        if spec.args.is_empty() {
            return Err(invalid("there is no program to run"));
        }
        if !spec.cwd.is_empty() && !spec.cwd.starts_with('/') {
            return Err(invalid(format!("working directory {:?} is not absolute", spec.cwd)));
        }
        check_environment(&spec.env)?;
        rlimits::prepare(&spec.rlimits, &[])?;
        let env: Vec<String> = spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if spec.args.iter().chain(&env).chain([&spec.cwd]).any(|text| text.contains('\0')) {
            return Err(invalid("an argument, variable or path contains a NUL byte"));
        }
        let rlimits: Vec<Value> = spec
            .rlimits
            .iter()
            .map(|limit| json!({"type": limit.kind, "soft": limit.soft, "hard": limit.hard}))
            .collect();
        let no_new_privileges = spec.no_new_privileges || self.no_new_privileges;
        let mut process = json!({
            "terminal": spec.terminal.is_some(),
            "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups},
            "args": spec.args,
            "env": env,
            "cwd": if spec.cwd.is_empty() { "/" } else { &spec.cwd },
            "noNewPrivileges": no_new_privileges,
            "rlimits": rlimits,
        });
        if let Some(process) = process.as_object_mut() {
            if let Some(size) = spec.terminal {
                process.insert("consoleSize".into(), json!({"height": size.rows, "width": size.cols}));
            }
            add_home(process, &identity.home);
            if let Some(capabilities) = &self.capabilities {
                let mut capabilities = capabilities.clone();
                if self.filtered && !no_new_privileges {
                    add_filter_capability(&mut capabilities);
                }
                process.insert("capabilities".into(), capabilities);
            }
        }
        Ok(process)
    }
}

/// The object called `name`; a missing one is made.
fn section<'a>(object: &'a mut Map<String, Value>, name: &str) -> Outcome<&'a mut Map<String, Value>> {
    let value = object.entry(name).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or_else(|| invalid(format!("{name} of the OCI configuration is not an object")))
}

fn absolute(object: &Map<String, Value>, section: &str, field: &str) -> Outcome<String> {
    let path = object.get(section).and_then(|section| section.get(field)).and_then(Value::as_str);
    match path.filter(|path| path.starts_with('/') && !path.contains('\0')) {
        Some(path) => Ok(path.to_owned()),
        None => Err(invalid(format!("{section}.{field} of the OCI configuration is not an absolute path"))),
    }
}

fn annotation<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    object.get("annotations")?.get(key)?.as_str()
}

/// Hooks of the host were run by it. Those that run inside of the container are the agent's.
fn take_hooks(object: &mut Map<String, Value>) -> Outcome<Vec<Hook>> {
    let kinds = object.remove("hooks").unwrap_or_default();
    let list = match kinds.get("startContainer").cloned().unwrap_or_default() {
        Value::Null => return Ok(Vec::new()),
        list => list,
    };
    let hooks: Vec<Hook> = serde_json::from_value(list)
        .map_err(|error| invalid(format!("hooks.startContainer of the OCI configuration: {error}")))?;
    hooks.iter().try_for_each(Hook::check)?;
    Ok(hooks)
}

/// Only for the way to the program; see [`FILTER_CAPABILITY`]. A set that is not named is whole anyway.
fn add_filter_capability(capabilities: &mut Value) {
    for set in ["permitted", "effective"] {
        if let Some(Value::Array(set)) = capabilities.get_mut(set) {
            if !set.iter().any(|name| name.as_str() == Some(FILTER_CAPABILITY)) {
                set.push(json!(FILTER_CAPABILITY));
            }
        }
    }
}

/// Adds `HOME` to the environment unless it is there.
fn add_home(process: &mut Map<String, Value>, home: &str) {
    let env = process.entry("env").or_insert_with(|| json!([]));
    if let Some(env) = env.as_array_mut() {
        let has = env.iter().any(|var| var.as_str().is_some_and(|var| var.len() > 5 && var.starts_with("HOME=")));
        if !has {
            env.retain(|var| var.as_str() != Some("HOME="));
            env.push(json!(format!("HOME={home}")));
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
