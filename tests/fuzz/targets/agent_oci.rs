//! Fuzz target: `hutch_attack` has the body.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hutch_attack::run("agent_oci", data));
