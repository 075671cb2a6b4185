//! `testbed-kernel distro|own`: puts a kernel for the testbed into the cache, unless the cache has a current one.
//!
//! `cargo xtask` runs this program. It is separate because it uses the product's code: `xtask` itself must run even if the
//! product does not compile.

mod distro;

use std::error::Error;
use std::fs;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use hutch_guest::kernel::build_from_source;
use hutch_guest::BuildEvent;
use hutch_testbed_host::kernel::{own_dir, OWN_REQUEST};

/// Configuration of the testbed's own kernel.
const TESTBED_CONFIG: &str = include_str!("../../../resources/kernel/testbed.config");
/// Interval between progress lines of a long build.
const SAY_EVERY: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let which = std::env::args().nth(1).unwrap_or_default();
    let result = match which.as_str() {
        "distro" => distro::prepare().map_err(Into::into),
        "own" => own(),
        _ => Err("usage: testbed-kernel distro|own".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("testbed-kernel: {}", hutch_agent_proto::error_chain(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Builds our own kernel from source. Later callers compare the copied configuration to see whether the kernel is current.
fn own() -> Result<(), Box<dyn Error>> {
    let dir = own_dir();
    let mut said = Instant::now();
    let mut report = |event: BuildEvent<'_>| match event {
        BuildEvent::Begin(phase) => eprintln!("testbed-kernel: {phase}"),
        BuildEvent::Note(text) => eprintln!("testbed-kernel: {text}"),
        BuildEvent::End(phase, time) => eprintln!("testbed-kernel: {phase}: {:.1} s", time.as_secs_f64()),
        BuildEvent::Step { done, expected } if said.elapsed() >= SAY_EVERY => {
            let of = expected.map(|n| format!(" of about {n}")).unwrap_or_default();
            eprintln!("testbed-kernel:   {done}{of} steps");
            said = Instant::now();
        }
        BuildEvent::Step { .. } => {}
    };
    build_from_source(TESTBED_CONFIG, &dir, &mut report)?;
    fs::write(dir.join(OWN_REQUEST), TESTBED_CONFIG)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use hutch_guest::kernel::KernelRequest;

    use super::TESTBED_CONFIG;

    #[test]
    fn the_testbeds_configuration_patches_no_code_at_run_time() {
        let request = KernelRequest::parse(TESTBED_CONFIG).unwrap();
        // Two emulated CPUs race with run-time text patching.
        for name in ["JUMP_LABEL", "FTRACE", "KPROBES"] {
            assert_eq!(request.get(name), Some("n"), "{name}");
        }
        assert_eq!(request.get("KVM_AMD"), Some("y"));
    }
}
