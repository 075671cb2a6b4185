//! `/init` of a hutch guest.
//!
//! There is no Rust `main`. The standard library's start-up opens `/dev/null` for closed descriptors and aborts if it
//! is missing, as it still is in an initramfs. The start-up also makes system calls that PID 1 does not need.
#![no_main]
#![deny(unsafe_code)]

/// Entry from the C library's start-up code.
#[expect(unsafe_code, reason = "the C library links against this name; the program has no other `main`")]
#[unsafe(no_mangle)]
pub extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    if std::process::id() != 1 {
        eprintln!("hutch-agent is the init of a hutch guest and runs only as process 1");
        return 125;
    }
    hutch_agent::init::run()
}
