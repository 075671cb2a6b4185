//! The C library's allocator, set up before there are threads.

#![allow(unsafe_code, reason = "mallopt")]

/// One arena for all threads. Theirs are few and small allocations, most of them from a cache of each thread's own; an
/// arena for each thread costs four system calls at its start, and pages that are written once.
pub fn share() {
    // SAFETY: sets a number in the allocator; no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
