//! How `hutch` is linked.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    // A program that is linked statically and still position-independent relocates itself. Packed (DT_RELR), its
    // relocations take a few KiB instead of 200, all of which would be read, and be resident, at every start.
    if features.split(',').any(|feature| feature == "crt-static")
        && env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu")
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
