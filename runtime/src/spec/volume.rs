//! Host directories shared into the machine.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A host directory that the guest can mount by its tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Mount tag, at most 36 bytes (VIRTIO 1.2, 5.11.4).
    pub tag: String,
    /// Directory on the host.
    pub path: PathBuf,
    /// The guest cannot write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// A host socket offered to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Device id.
    pub device: String,
    /// Id.
    pub id: String,
    /// Path on the host.
    pub path: PathBuf,
    /// Name in the guest.
    pub name: String,
}

/// Volumes from `tag:path`, several separated by a blank.
///
/// # Errors
/// [`Error::InvalidConfig`] for empty input, a wrong number of fields or an empty field.
pub fn parse_volumes(text: &str) -> Result<Vec<Volume>> {
    let volume = |[tag, path]: [&str; 2]| Volume { tag: tag.into(), path: path.into(), read_only: false };
    parse("volume", "tag:path", text, volume)
}

/// Sockets from `dev:id:path:name`, several separated by a blank.
///
/// # Errors
/// As [`parse_volumes`].
pub fn parse_sockets(text: &str) -> Result<Vec<Socket>> {
    parse("socket", "dev:id:path:name", text, |[device, id, path, name]: [&str; 4]| Socket {
        device: device.into(),
        id: id.into(),
        path: path.into(),
        name: name.into(),
    })
}

fn parse<const N: usize, T>(what: &str, form: &str, text: &str, make: impl Fn([&str; N]) -> T) -> Result<Vec<T>> {
    let bad = |entry: &str| Error::invalid(format!("{what} {entry:?}"), format!("is not of the form {form}"));
    if text.is_empty() {
        return Err(bad(text));
    }
    let one = |entry: &str| {
        let fields: Vec<&str> = entry.split(':').collect();
        let fields: [&str; N] = fields.try_into().map_err(|_| bad(entry))?;
        if fields.iter().any(|field| field.is_empty()) {
            return Err(bad(entry));
        }
        Ok(make(fields))
    };
    text.split(' ').map(one).collect()
}
