//! Settings of the C library's allocator.

#![expect(unsafe_code, reason = "mallopt(3) is a foreign function")]

/// Makes all threads share one arena. They allocate little, mostly from per-thread caches; an arena per thread would
/// cost four system calls at its start, and pages that are written once. Call this before any other thread exists.
pub fn share() {
    // SAFETY: mallopt sets a number in the allocator; no other thread exists yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
