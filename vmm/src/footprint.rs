//! What a process that runs a machine need not keep in memory.
//!
//! A program's start touches much of the program: definitions of command lines, configuration, the building of a machine.
//! The kernel maps these pages of the file, with 64 KiB around each, and they stay in the process' resident memory although
//! it never looks at them again. They are given back when the machine starts; what is needed after all comes back from the
//! page cache, one fault for 64 KiB.
#![allow(unsafe_code)] // the program's own segments, and madvise on them

use std::ffi::{c_int, c_void};

/// What of a program is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramPages {
    /// Constant data. Nearly none of it comes back while a machine boots: this costs no time.
    Data,
    /// Code as well, of which the boot needs some again: half a millisecond, for a machine that is going to live long.
    DataAndCode,
}

/// Gives back pages of the calling program, and of its shared libraries, that cannot have been written to; returns how many
/// bytes of addresses that were. To be called when a machine is about to run.
///
/// Nothing but the resident set changes: these pages have the contents of their files. What a debugger wrote into code, its
/// breakpoints, goes with it. Locked memory stays.
pub fn drop_program_pages(what: ProgramPages) -> usize {
    let mut job = Job { what, dropped: 0 };
    // SAFETY: the function is called before this returns, with `job` and nothing else.
    unsafe { libc::dl_iterate_phdr(Some(drop_object), (&raw mut job).cast()) };
    job.dropped
}

struct Job {
    what: ProgramPages,
    dropped: usize,
}

/// For one object: the program or a library.
///
/// # Safety
/// As called by `dl_iterate_phdr` with a pointer to a [`Job`] that nobody else uses.
unsafe extern "C" fn drop_object(info: *mut libc::dl_phdr_info, _size: usize, job: *mut c_void) -> c_int {
    // SAFETY: as promised; program headers are part of the object and never change.
    let (base, headers, job) = unsafe {
        let info = &*info;
        let headers = match info.dlpi_phdr.is_null() {
            true => &[][..],
            false => std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()),
        };
        (info.dlpi_addr as usize, headers, &mut *job.cast::<Job>())
    };
    // What is written once, when a position-independent program is relocated, lies in a segment that can be written.
    let stays = match job.what {
        ProgramPages::Data => libc::PF_W | libc::PF_X,
        ProgramPages::DataAndCode => libc::PF_W,
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & stays == 0) {
        let start = base.wrapping_add(header.p_vaddr as usize).next_multiple_of(PAGE);
        let end = base.wrapping_add((header.p_vaddr + header.p_filesz) as usize) / PAGE * PAGE;
        // SAFETY: whole pages of a private mapping of a file that nothing has written to: whoever reads them next gets the
        // same from the file.
        if end > start && unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) } == 0 {
            job.dropped += end - start;
        }
    }
    0
}

const PAGE: usize = 0x1000;
