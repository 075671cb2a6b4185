//! Drops program pages that a process does not need while it runs a machine.
//!
//! A program's start touches much of the program: definitions of command lines, configuration, the building of a machine.
//! The kernel maps these pages of the file, with 64 KiB around each, and they stay in the process' resident memory although
//! it never uses them again. hutch drops them when the machine starts; a page that is needed after all comes back from
//! the page cache, with one fault for 64 KiB.
#![expect(unsafe_code, reason = "reads the program's own headers and calls madvise on its segments")]

use std::ffi::{c_int, c_void};

/// The part of a program that [`drop_program_pages`] drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramPages {
    /// Constant data. A boot needs nearly none of it again, so this costs no time.
    Data,
    /// Code as well. The boot needs some of it again, which takes half a millisecond: for machines that live long.
    DataAndCode,
}

/// Drops the read-only pages of the calling program and of its shared libraries from memory. Returns the length of the
/// address ranges in bytes. Call it when a machine is about to run.
///
/// Only the resident set changes: these pages have the contents of their files. Breakpoints that a debugger wrote into
/// code are lost. Locked memory stays.
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

/// Drops the pages of one object: the program or a library.
///
/// # Safety
/// Only for `dl_iterate_phdr`, with a pointer to a [`Job`] to which no other reference exists.
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
    // The data that the relocation of a position-independent program writes lies in writable segments.
    let stays = match job.what {
        ProgramPages::Data => libc::PF_W | libc::PF_X,
        ProgramPages::DataAndCode => libc::PF_W,
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & stays == 0) {
        let start = base.wrapping_add(header.p_vaddr as usize).next_multiple_of(PAGE);
        let end = base.wrapping_add((header.p_vaddr + header.p_filesz) as usize) / PAGE * PAGE;
        // SAFETY: whole pages of a private mapping of a file, never written to: the next read gets the same bytes from the
        // file.
        if end > start && unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) } == 0 {
            job.dropped += end - start;
        }
    }
    0
}

const PAGE: usize = 0x1000;
