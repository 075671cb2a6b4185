//! The envelope around every record.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cause::StoreCause;

/// Version of the records' format (P-051).
pub const RECORD_VERSION: u32 = 1;

/// Something that is stored in a file of its own.
pub trait Record: Serialize + DeserializeOwned {
    /// Kind, as written in the file.
    const NAME: &'static str;
    /// An empty file stands for no record: its writer has opened it before it knew what to write.
    const MAY_BE_EMPTY: bool = false;
}

/// Where a record of type `T` lies.
#[derive(Debug)]
pub struct RecordPath<T> {
    path: PathBuf,
    kind: PhantomData<fn() -> T>,
}

impl<T: Record> RecordPath<T> {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, kind: PhantomData }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The part that all versions have in common.
#[derive(Deserialize)]
struct Header {
    version: u32,
    record: String,
}

#[derive(Serialize)]
struct Writing<'a, T> {
    version: u32,
    record: &'static str,
    data: &'a T,
}

#[derive(Deserialize)]
struct Reading<T> {
    data: T,
}

pub(super) fn encode<T: Record>(record: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec(&Writing { version: RECORD_VERSION, record: T::NAME, data: record })?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn decode<T: Record>(bytes: &[u8]) -> Result<T, StoreCause> {
    let header: Header = serde_json::from_slice(bytes).map_err(StoreCause::Parse)?;
    if header.version > RECORD_VERSION {
        return Err(StoreCause::Newer { found: header.version, known: RECORD_VERSION });
    }
    if header.record != T::NAME {
        return Err(StoreCause::WrongRecord { found: header.record, expected: T::NAME });
    }
    let reading: Reading<T> = serde_json::from_slice(bytes).map_err(StoreCause::Parse)?;
    Ok(reading.data)
}
