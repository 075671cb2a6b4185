//! Seccomp profiles of containers, in the form of `linux.seccomp` of the OCI runtime specification.
//!
//! The types are our own: those of `oci-spec` accept misspelt fields, which would weaken a filter without a word (the tests
//! of P-098 want each refused by its name), and have no JSON schema, which the configuration of a container needs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Arch;
use schemars::JsonSchema;
use serde::de::value::StrDeserializer;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::need_absolute;
use crate::error::{Error, Result};

/// Longest profile, bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Highest error number that a system call can return.
const MAX_ERRNO: u32 = 4095;
/// Highest index of an argument of a system call.
const MAX_ARGUMENT: u32 = 5;
/// A profile, or the path of a file with one.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Seccomp {
    /// Absolute path of a JSON file on the host. It is read once, when the container is created.
    File(PathBuf),
    /// The profile itself.
    Profile(SeccompProfile),
}

/// A profile: the system calls that the container's processes may make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeccompProfile {
    /// Action for calls without a rule.
    pub default_action: SeccompAction,
    /// Error number that `SCMP_ACT_ERRNO` returns for them; absent: 1 (EPERM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// `SCMP_ARCH_…`, in addition to the guest's own, x86-64. Only those of x86 have an effect.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Flags for loading the filter.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<SeccompFlag>,
    /// Not supported: a guest has no listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub listener_path: Option<String>,
    /// Not supported, as `listenerPath`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub listener_metadata: Option<String>,
    /// Rules for system calls.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<SeccompRule>,
}

/// A rule for some system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeccompRule {
    /// Names of system calls. The guest's agent leaves out unknown ones, with a warning.
    pub names: Vec<String>,
    /// Action for these calls.
    pub action: SeccompAction,
    /// Error number that `SCMP_ACT_ERRNO` returns; absent: 1 (EPERM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions that must all hold; conditions on the same argument are alternatives.
    #[serde(default, deserialize_with = "list", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<SeccompArg>,
}

/// A condition on an argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SeccompArg {
    /// Index of the argument, 0 to 5.
    pub index: u32,
    /// Value to compare with; for `SCMP_CMP_MASKED_EQ` the mask.
    pub value: u64,
    /// For `SCMP_CMP_MASKED_EQ`: the value of the masked argument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_two: Option<u64>,
    /// Comparison.
    pub op: SeccompOperator,
}

/// Action of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // As the OCI runtime specification names them.
pub enum SeccompAction {
    ScmpActAllow,
    ScmpActErrno,
    ScmpActKill,
    ScmpActKillProcess,
    ScmpActKillThread,
    ScmpActLog,
    /// Not supported: a guest has no listener.
    #[schemars(skip)]
    ScmpActNotify,
    ScmpActTrace,
    ScmpActTrap,
}

/// Comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum SeccompOperator {
    ScmpCmpNe,
    ScmpCmpLt,
    ScmpCmpLe,
    ScmpCmpEq,
    ScmpCmpGe,
    ScmpCmpGt,
    ScmpCmpMaskedEq,
}

/// Flag for loading a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)]
pub enum SeccompFlag {
    SeccompFilterFlagTsync,
    SeccompFilterFlagLog,
    SeccompFilterFlagSpecAllow,
    /// Not supported: a guest has no listener.
    #[schemars(skip)]
    SeccompFilterFlagWaitKillableRecv,
}

/// Some programs write `null` for an empty list.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl<'de> Deserialize<'de> for Seccomp {
    /// Written by hand: the error of a derived untagged enum would not name the mistake in the profile.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error as _;
        match Value::deserialize(deserializer)? {
            Value::String(path) => Ok(Seccomp::File(path.into())),
            profile => SeccompProfile::parse(profile).map(Seccomp::Profile).map_err(D::Error::custom),
        }
    }
}

impl Seccomp {
    /// Checks all fields that can be checked without the host's files.
    pub fn validate(&self) -> Result<()> {
        match self {
            Seccomp::File(path) => need_absolute("seccomp", path),
            Seccomp::Profile(profile) => profile.validate(),
        }
    }

    /// Replaces a file by its profile.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it cannot be read or parsed.
    pub fn load(&mut self) -> Result<()> {
        if let Seccomp::File(path) = self {
            *self = Seccomp::Profile(SeccompProfile::from_file(path)?);
        }
        Ok(())
    }
}

impl SeccompProfile {
    /// Reads a profile from a JSON file.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] with the file and the first mistake.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bad = |reason: String| Error::invalid(format!("seccomp profile {}", path.display()), reason);
        let file = File::open(path).map_err(|e| bad(e.to_string()))?;
        let mut text = String::new();
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(bad(format!("is longer than {MAX_BYTES} bytes")));
        }
        let value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let profile = SeccompProfile::parse(value).map_err(bad)?;
        profile.check().map_err(bad)?;
        Ok(profile)
    }

    /// The profile of an OCI configuration, if it has one.
    pub(crate) fn of_oci(config: &Value) -> Result<Option<Self>> {
        let bad = |reason| Error::invalid("OCI config.json: linux.seccomp", reason);
        match config.pointer("/linux/seccomp").cloned().unwrap_or_default() {
            Value::Null => Ok(None),
            value => {
                let profile = SeccompProfile::parse(value).map_err(bad)?;
                profile.check().map_err(bad)?;
                Ok(Some(profile))
            }
        }
    }

    fn parse(value: Value) -> std::result::Result<Self, String> {
        if !value.is_object() {
            return Err("is not an object".into());
        }
        let rules = value["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
        let conditional = |rule: &Value| rule.get("includes").or_else(|| rule.get("excludes")).is_some();
        if value.get("archMap").is_some() || rules.iter().any(conditional) {
            return Err("is in a container engine's own form (archMap, includes, excludes); give the OCI form, \
                        which is linux.seccomp of a config.json"
                .into());
        }
        serde_json::from_value(value).map_err(|e| e.to_string())
    }

    /// Checks what the types do not guarantee.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|reason| Error::invalid("seccomp profile", reason))
    }

    fn check(&self) -> std::result::Result<(), String> {
        const LISTENER: &str = "needs a listener, which a guest does not have; remove it";
        if self.listener_path.is_some() || self.listener_metadata.is_some() {
            return Err(format!("listenerPath or listenerMetadata {LISTENER}"));
        }
        if self.flags.contains(&SeccompFlag::SeccompFilterFlagWaitKillableRecv) {
            return Err(format!("flag SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV {LISTENER}"));
        }
        if let Some(arch) = self.architectures.iter().find(|arch| !is_architecture(arch)) {
            return Err(format!("architecture {arch:?} is unknown; write for example SCMP_ARCH_X86_64"));
        }
        check_action("defaultAction", self.default_action, self.default_errno_ret)?;
        for rule in &self.syscalls {
            let what = match rule.names.as_slice() {
                [] => return Err("a rule of syscalls names no system call".into()),
                [name] => format!("the rule for {name}"),
                [name, ..] => format!("the rule for {name}, …"),
            };
            check_action(&what, rule.action, rule.errno_ret)?;
            if let Some(arg) = rule.args.iter().find(|arg| arg.index > MAX_ARGUMENT) {
                return Err(format!(
                    "{what}: argument {} does not exist; arguments are 0 to {MAX_ARGUMENT}",
                    arg.index
                ));
            }
        }
        Ok(())
    }
}

/// Whether the OCI runtime specification, and so the guest's agent, knows the architecture.
fn is_architecture(name: &str) -> bool {
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    Arch::deserialize(name).is_ok()
}

fn check_action(what: &str, action: SeccompAction, errno: Option<u32>) -> std::result::Result<(), String> {
    let highest = match action {
        SeccompAction::ScmpActNotify => {
            return Err(format!("{what}: SCMP_ACT_NOTIFY needs a listener, which a guest does not have"))
        }
        SeccompAction::ScmpActErrno => MAX_ERRNO,
        SeccompAction::ScmpActTrace => u32::from(u16::MAX),
        _ => return Ok(()),
    };
    match errno {
        Some(number) if number > highest => Err(format!("{what}: {number} is not from 0 to {highest}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use serde_json::json;

    fn profile(value: Value) -> Result<SeccompProfile> {
        SeccompProfile::of_oci(&json!({"linux": {"seccomp": value}})).map(|profile| profile.expect("there is one"))
    }

    #[test]
    fn p_098_a_profile_survives_reading_and_writing() {
        let value = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
                {"names": ["mkdir"], "action": "SCMP_ACT_KILL_PROCESS", "errnoRet": 7},
            ],
        });
        assert_eq!(serde_json::to_value(profile(value.clone()).unwrap()).unwrap(), value);
        let nulls = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": null, "flags": null, "syscalls": null});
        let least = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        assert_eq!(profile(nulls).unwrap(), profile(least).unwrap());
        assert_eq!(SeccompProfile::of_oci(&json!({"linux": {"seccomp": null}})).unwrap(), None);
        assert_eq!(SeccompProfile::of_oci(&json!({})).unwrap(), None);
    }

    #[test]
    fn p_098_each_mistake_in_a_profile_has_its_own_message() {
        let rule = |rule: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        let arg = |arg: Value| rule(json!({"names": ["x"], "action": "SCMP_ACT_KILL", "args": [arg]}));
        for (value, words) in [
            (json!({}), "defaultAction"),
            (json!([]), "is not an object"),
            (json!("text"), "is not an object"),
            (json!({"defaultAction": "SCMP_ACT_FLY"}), "SCMP_ACT_FLY"),
            (json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "listener"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}), "listener"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}), "listener"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_X"]}), "SECCOMP_FILTER_FLAG_X"),
            (
                json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}),
                "listener",
            ),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}), "SCMP_ARCH_Z80"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X86"]}), "SCMP_ARCH_X86_64"),
            (json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}), "4096"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "syscals": []}), "syscals"),
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "archMap": []}), "OCI form"),
            (rule(json!({"names": ["x"], "action": "SCMP_ACT_KILL", "includes": {}})), "OCI form"),
            (rule(json!({"names": [], "action": "SCMP_ACT_KILL"})), "names no system call"),
            (rule(json!({"names": ["x"], "action": "SCMP_ACT_NOTIFY"})), "the rule for x: SCMP_ACT_NOTIFY"),
            (rule(json!({"names": ["x", "y"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536})), "the rule for x, …"),
            (arg(json!({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"})), "argument 6"),
            (arg(json!({"index": 0, "value": 0, "op": "SCMP_CMP_LIKE"})), "SCMP_CMP_LIKE"),
            (arg(json!({"index": 0, "value": -1, "op": "SCMP_CMP_EQ"})), "-1"),
        ] {
            let error = profile(value.clone()).expect_err("a refusal");
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{value}");
            assert!(error.to_string().contains(words), "{value}: {error}");
        }
    }

    #[test]
    fn a_profile_may_lie_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let mut seccomp: Seccomp = serde_json::from_value(json!(path)).unwrap();
        assert_eq!(seccomp, Seccomp::File(path.clone()));
        seccomp.validate().unwrap();
        assert!(seccomp.load().unwrap_err().to_string().contains("profile.json"));
        for (text, words) in [
            ("{", "EOF"),
            (r#"{"defaultAction": "SCMP_ACT_NO"}"#, "SCMP_ACT_NO"),
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "listener"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = seccomp.load().unwrap_err().to_string();
            assert!(error.contains("profile.json") && error.contains(words), "{error}");
        }
        std::fs::write(&path, " ".repeat(MAX_BYTES as usize + 1)).unwrap();
        assert!(seccomp.load().unwrap_err().to_string().contains("longer"));
        std::fs::write(&path, r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
        seccomp.load().unwrap();
        let Seccomp::Profile(profile) = &seccomp else { panic!("{seccomp:?}") };
        assert_eq!(profile.default_action, SeccompAction::ScmpActAllow);
        let text = serde_json::to_string(&seccomp).unwrap();
        assert_eq!(serde_json::from_str::<Seccomp>(&text).unwrap(), seccomp);
        assert!(Seccomp::File("relative".into()).validate().is_err());
        let error = serde_json::from_value::<Seccomp>(json!({"defaultAction": "SCMP_ACT_NO"})).unwrap_err();
        assert!(error.to_string().contains("SCMP_ACT_NO"), "{error}");
    }
}
