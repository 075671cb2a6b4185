//! The OCI configuration: reads, checks and completes the host's JSON for libcontainer. Pure functions that survive any
//! text.

use hutch_agent::failure::{invalid, Outcome};
use hutch_agent::{check_environment, rlimits, Identity};
use hutch_agent_proto::ProcessSpec;
use libcontainer::oci_spec::runtime::LinuxSeccomp;
use serde_json::{json, Map, Value};

use crate::hooks::{OciHook, OciState};

/// Annotation with the directory of the guest's hooks.
pub const HOOKS_KEY: &str = "dev.hutch.guest.hooks";
/// The capability to load a seccomp filter without `no_new_privs`. A process that gets it for that loses it when it
/// executes its program, since neither its bounding nor its inheritable set has it.
const FILTER_CAPABILITY: &str = "CAP_SYS_ADMIN";
/// The capability sets of a process.
const CAPABILITY_SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];
/// Longest id of a container, in bytes.
const MAX_ID: usize = 192;
/// Version of a configuration that does not name one.
const OCI_VERSION: &str = "1.2.0";

/// Checks the id of a container, which becomes a file name.
pub fn check_id(id: &str) -> Outcome<()> {
    let good = (1..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    match good && id != "." && id != ".." {
        true => Ok(()),
        false => Err(invalid(format!("{id:?} is not a valid container id"))),
    }
}

/// A configuration on its way to libcontainer.
#[derive(Debug)]
pub struct Config {
    object: Map<String, Value>,
    /// The root file system, absolute.
    pub rootfs: String,
    pub terminal: bool,
    /// Working directory of the process, absolute.
    pub cwd: String,
    /// The numeric user of the configuration.
    pub uid: u32,
    /// Destinations of the container's mounts.
    pub mounts: Vec<String>,
    pub seccomp: Option<LinuxSeccomp>,
    /// StartContainer hooks.
    pub hooks: Vec<OciHook>,
    /// Directory of the guest's hooks, absolute.
    pub guest_hooks: Option<String>,
    /// State that hooks read; the bundle is filled in later.
    pub state: OciState,
}

impl Config {
    /// Reads the host's configuration of container `id`, whose cgroup will be `cgroup`.
    ///
    /// libcontainer gets neither the seccomp profile nor hooks: the agent applies them itself ([`crate::pre_exec`]).
    ///
    /// # Errors
    /// `Invalid`, with the name of the field.
    pub fn read(config: Value, id: &str, cgroup: &str) -> Outcome<Self> {
        let Value::Object(mut object) = config else { return Err(invalid("the OCI configuration is not an object")) };
        object.entry("ociVersion").or_insert_with(|| json!(OCI_VERSION));
        let rootfs = absolute(&object, "root", "path")?;
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
        if process.get("user").is_some_and(|user| !user.is_object() && !user.is_null()) {
            return Err(invalid("process.user of the OCI configuration is not an object"));
        }
        let uid = process.get("user").and_then(|user| user.get("uid")?.as_u64()).unwrap_or_default();
        let uid = u32::try_from(uid).map_err(|_| invalid(format!("process.user.uid {uid} is out of range")))?;
        // The guest's kernel does not know profiles of the host's, and the agent sets the size of terminals itself.
        for key in ["apparmorProfile", "selinuxLabel", "consoleSize"] {
            process.remove(key);
        }
        process.entry("user").or_insert_with(|| json!({"uid": 0, "gid": 0}));
        complete_capabilities(process)?;
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
        let state = OciState {
            version: object.get("ociVersion").and_then(Value::as_str).unwrap_or(OCI_VERSION).to_owned(),
            id: id.to_owned(),
            bundle: String::new(),
            annotations: object.get("annotations").cloned().unwrap_or_default(),
        };
        let mut config = Self { object, rootfs, terminal, cwd, uid, mounts, seccomp, hooks, guest_hooks, state };
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

    /// Sets user, groups and home directory of the process; without `named` only the home directory, since the
    /// configuration has the numbers.
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

    /// Whether `path` lies on a mount of the container rather than on its root file system.
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

    /// The settings that later processes of the container take from it.
    pub fn exec_template(&self) -> ExecTemplate {
        let process = self.object.get("process");
        let field = |name: &str| process.and_then(|process| process.get(name)).cloned();
        ExecTemplate {
            filtered: self.seccomp.is_some(),
            capabilities: field("capabilities").unwrap_or_else(no_capabilities),
            no_new_privileges: field("noNewPrivileges").and_then(|value| value.as_bool()).unwrap_or_default(),
        }
    }

    /// The configuration for libcontainer.
    pub fn to_json(&self) -> String {
        Value::Object(self.object.clone()).to_string()
    }
}

/// The settings of a container's configuration that apply to processes that enter it later.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecTemplate {
    filtered: bool,
    capabilities: Value,
    no_new_privileges: bool,
}

impl ExecTemplate {
    /// The OCI form of a process that enters the container as `identity`.
    pub fn process(&self, spec: &ProcessSpec, identity: &Identity) -> Outcome<Value> {
        if spec.args.is_empty() {
            return Err(invalid("there is no program to run"));
        }
        if !spec.cwd.is_empty() && !spec.cwd.starts_with('/') {
            return Err(invalid(format!("working directory {:?} is not absolute", spec.cwd)));
        }
        check_environment(spec.env.iter().map(|(name, _)| name))?;
        if let Some((name, _)) = spec.env_bytes.first() {
            return Err(invalid(format!("environment variable {name:?}: values of processes in a container are text")));
        }
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
            let mut capabilities = match &spec.capabilities {
                Some(sets) => json!(sets),
                None => self.capabilities.clone(),
            };
            if self.filtered && !no_new_privileges {
                add_filter_capability(&mut capabilities);
            }
            process.insert("capabilities".into(), capabilities);
        }
        Ok(process)
    }
}

/// The object called `name`; created if it is missing.
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

/// Removes all hooks and returns those that run inside the container. The host runs its own.
fn take_hooks(object: &mut Map<String, Value>) -> Outcome<Vec<OciHook>> {
    let kinds = object.remove("hooks").unwrap_or_default();
    let list = match kinds.get("startContainer").cloned().unwrap_or_default() {
        Value::Null => return Ok(Vec::new()),
        list => list,
    };
    let hooks: Vec<OciHook> = serde_json::from_value(list)
        .map_err(|error| invalid(format!("hooks.startContainer of the OCI configuration: {error}")))?;
    hooks.iter().try_for_each(OciHook::check)?;
    Ok(hooks)
}

fn no_capabilities() -> Value {
    CAPABILITY_SETS.iter().map(|set| ((*set).to_owned(), json!([]))).collect::<Map<_, _>>().into()
}

/// A set that is absent or null is empty, and so are all sets without `capabilities`. libcontainer would leave them
/// complete.
fn complete_capabilities(process: &mut Map<String, Value>) -> Outcome<()> {
    let mut complete = no_capabilities();
    match process.remove("capabilities").unwrap_or_default() {
        Value::Null => {}
        Value::Object(given) => {
            for (set, names) in given.into_iter().filter(|(_, names)| !names.is_null()) {
                if !CAPABILITY_SETS.contains(&set.as_str()) {
                    return Err(invalid(format!("process.capabilities of the OCI configuration has no set {set:?}")));
                }
                complete[set] = names;
            }
        }
        _ => return Err(invalid("process.capabilities of the OCI configuration is not an object of lists")),
    }
    process.insert("capabilities".into(), complete);
    Ok(())
}

/// Adds [`FILTER_CAPABILITY`], which the process loses when it executes its program.
fn add_filter_capability(capabilities: &mut Value) {
    for set in ["permitted", "effective"] {
        if let Some(Value::Array(set)) = capabilities.get_mut(set)
            && !set.iter().any(|name| name.as_str() == Some(FILTER_CAPABILITY))
        {
            set.push(json!(FILTER_CAPABILITY));
        }
    }
}

/// Adds `HOME` to the environment if it is missing or empty.
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
