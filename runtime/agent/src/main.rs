//! `/init` of a hutch guest.
//!
//! There is no Rust `main`: the standard library's start-up wants `/dev/null` for closed descriptors and aborts
//! without it, and an initramfs has none yet. It also costs system calls that PID 1 has no use for.
#![no_main]
#![deny(unsafe_code)]

/// Entry from the C library's start-up code.
#[allow(unsafe_code)] // The name is what the C library links against; no other `main` exists in this program.
#[no_mangle]
pub extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    if std::process::id() != 1 {
        eprintln!("hutch-agent is the init of a hutch guest and runs only as process 1");
        return 125;
    }
    hutch_agent::init::run()
}
