//! Compiles the filters of system calls, so that no boot does.

use std::fmt::Write;
use std::path::PathBuf;

#[path = "src/confine/seccomp/calls.rs"]
mod calls;
#[path = "src/confine/seccomp/instruction.rs"]
#[expect(dead_code, reason = "the filter of a process is made when it starts")]
mod instruction;
#[path = "src/confine/seccomp/lists.rs"]
mod lists;
#[path = "src/confine/seccomp/program.rs"]
mod program;

fn main() {
    println!("cargo::rerun-if-changed=src/confine/seccomp");
    println!("cargo::rerun-if-changed=build.rs");
    let mut text = format!("static PROGRAMS: [&[Instruction]; {}] = [\n", lists::LISTS.len());
    for (name, lists) in lists::LISTS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    // {name}\n    &[");
        for instruction::Instruction { code, jt, jf, k } in program::compile(lists) {
            let _ = writeln!(text, "        Instruction {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},");
        }
        text.push_str("    ],\n");
    }
    text.push_str("];\n");
    let dir = std::env::var_os("OUT_DIR").expect("cargo sets it");
    std::fs::write(PathBuf::from(dir).join("filters.rs"), text).expect("a file in cargo's directory for that");
}
