//! A tracer (ptrace(2)) that makes the threads of a running process do what an attacker would do next. For the tests of the
//! jail: on the scripted hypervisor in `vmm`, on real guests in `tests/e2e`. Runs on the test's thread.

mod acts;
mod taken;

pub use acts::{expect_forbidden, forbidden, Act};
pub use taken::{threads, Outcome, Taken, Thread};
