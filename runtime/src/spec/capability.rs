//! Capability sets of a process.

use hutch_agent_proto::CapabilitySets;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// The five capability sets, as `CAP_…` names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(default)]
pub struct Capabilities {
    /// Upper bound of the capabilities that the process can gain.
    pub bounding: Vec<String>,
    /// Capabilities in force.
    pub effective: Vec<String>,
    /// Kept across the execution of a file with inheritable bits.
    pub inheritable: Vec<String>,
    /// Capabilities that the process may put in force.
    pub permitted: Vec<String>,
    /// Kept across the execution of an ordinary file.
    pub ambient: Vec<String>,
}

/// The object form of OCI configurations.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Lists {
    bounding: Vec<String>,
    effective: Vec<String>,
    inheritable: Vec<String>,
    permitted: Vec<String>,
    ambient: Vec<String>,
}

impl Capabilities {
    /// Uses the same list for all five sets.
    pub fn all(list: Vec<String>) -> Self {
        Self {
            bounding: list.clone(),
            effective: list.clone(),
            inheritable: list.clone(),
            permitted: list.clone(),
            ambient: list,
        }
    }

    /// Reads both forms of OCI configurations: an object of lists, or one flat list for all five sets.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for anything else.
    pub fn from_value(value: &Value) -> Result<Self> {
        let bad = |reason: String| Error::invalid("capabilities", reason);
        let capabilities = match value {
            Value::Array(_) => {
                Self::all(serde_json::from_value(value.clone()).map_err(|e| bad(format!("in the flat list: {e}")))?)
            }
            Value::Object(_) => {
                let lists: Lists = serde_json::from_value(value.clone()).map_err(|e| bad(e.to_string()))?;
                let Lists { bounding, effective, inheritable, permitted, ambient } = lists;
                Self { bounding, effective, inheritable, permitted, ambient }
            }
            _ => return Err(bad("must be an object of lists, or one list".into())),
        };
        let odd = capabilities.names().find(|name| !name.starts_with("CAP_")).cloned();
        match odd {
            Some(name) => Err(bad(format!("{name:?} does not begin with CAP_"))),
            None => Ok(capabilities),
        }
    }

    /// In the form of the agent protocol.
    pub(crate) fn to_sets(&self) -> CapabilitySets {
        let Self { bounding, effective, inheritable, permitted, ambient } = self.clone();
        CapabilitySets { bounding, effective, inheritable, permitted, ambient }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        let Self { bounding, effective, inheritable, permitted, ambient } = self;
        [bounding, effective, inheritable, permitted, ambient].into_iter().flatten()
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).map_err(|e| serde::de::Error::custom(e.to_string()))
    }
}
