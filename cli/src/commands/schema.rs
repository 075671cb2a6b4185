//! `hutch schema`.

use hutch_runtime::spec::{container_schema, pod_schema};
use serde_json::json;

use crate::args::schema::{Configuration, SchemaArgs};
use crate::failure::Failure;
use crate::output::print_json;

pub fn run(args: &SchemaArgs) -> Result<u8, Failure> {
    print_json(&match args.of {
        Some(Configuration::Pod) => pod_schema(),
        Some(Configuration::Container) => container_schema(),
        None => json!({ "pod": pod_schema(), "container": container_schema() }),
    })?;
    Ok(0)
}
