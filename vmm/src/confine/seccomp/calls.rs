//! The system calls of each kind of thread. A call on no list of a kind is trapped and ends the process.
//!
//! A list names what a thread does, not what a library might do. Calls that libraries try harmlessly fail with an error
//! instead ([`EVERYWHERE`]).

/// An entry of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub number: u32,
    pub rule: Rule,
}

/// The fate of a call.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    Allow,
    /// It fails with this error.
    Errno(u16),
    /// Allowed if its first argument is this process: for tgkill(2).
    OwnProcess,
    If(Condition),
}

/// A call is allowed if the low half of an argument, masked, has one of the values, and trapped otherwise.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condition {
    pub argument: u8,
    pub mask: u32,
    pub values: &'static [u32],
}

const fn call(number: libc::c_long, rule: Rule) -> Call {
    Call { number: number as u32, rule }
}

const fn allow(number: libc::c_long) -> Call {
    call(number, Rule::Allow)
}

const fn fail(number: libc::c_long, errno: libc::c_int) -> Call {
    call(number, Rule::Errno(errno as u16))
}

/// Allowed if `argument` is one of `values`.
const fn one_of(number: libc::c_long, argument: u8, values: &'static [u32]) -> Call {
    call(number, Rule::If(Condition { argument, mask: u32::MAX, values }))
}

/// Allowed if `argument` has none of the bits `forbidden`.
const fn without(number: libc::c_long, argument: u8, forbidden: libc::c_int) -> Call {
    let mask = forbidden as u32;
    call(number, Rule::If(Condition { argument, mask, values: &[0] }))
}

const fn ioctl(requests: &'static [u32]) -> Call {
    one_of(libc::SYS_ioctl, 1, requests)
}

const fn fcntl(commands: &'static [u32]) -> Call {
    one_of(libc::SYS_fcntl, 1, commands)
}

/// `F_OFD_SETLK`, `F_SETLEASE` and `F_GETLEASE` of `asm-generic/fcntl.h` and `linux/fcntl.h`.
const F_OFD_GETLK: u32 = 36;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;
const F_SETLEASE: u32 = 1024;
const F_GETLEASE: u32 = 1025;
const F_DUPFD_CLOEXEC: u32 = 1030;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;

/// KVM's requests (`linux/kvm.h`).
const KVM_RUN: u32 = 0xae80;
const KVM_KVMCLOCK_CTRL: u32 = 0xaead;
const KVM_GET_REGS: u32 = 0x8090_ae81;
const KVM_TRANSLATE: u32 = 0xc018_ae85;
const KVM_CREATE_VCPU: u32 = 0xae41;
const KVM_SET_CPUID2: u32 = 0x4008_ae90;
const KVM_SET_MSRS: u32 = 0x4008_ae89;
const KVM_GET_LAPIC: u32 = 0x8400_ae8e;
const KVM_SET_LAPIC: u32 = 0x4400_ae8f;
const KVM_SET_TSC_KHZ: u32 = 0xaea2;
const KVM_GET_TSC_KHZ: u32 = 0xaea3;
/// `TUNSETOFFLOAD` of `linux/if_tun.h`.
const TUNSETOFFLOAD: u32 = 0x4004_54d0;

/// The signal by which glibc changes the ids of all threads (`nptl/pthreadP.h`).
const SIGSETXID: u32 = 33;

/// `fchmodat2(2)`, since Linux 6.6.
const FCHMODAT2: libc::c_long = 452;

/// The flags with which glibc and musl make a thread; any other use of clone(2) could make a process.
const THREAD_FLAGS: &[u32] = &[0x3d_0f00, 0x7d_0f00];

/// Of all threads: memory that is not executable, locks, time, the thread's own state, files that are open, its end.
pub(super) const EVERYWHERE: &[Call] = &[
    allow(libc::SYS_read),
    allow(libc::SYS_write),
    allow(libc::SYS_close),
    allow(libc::SYS_futex),
    allow(libc::SYS_clock_gettime),
    allow(libc::SYS_clock_nanosleep),
    allow(libc::SYS_nanosleep),
    allow(libc::SYS_gettimeofday),
    without(libc::SYS_mmap, 2, libc::PROT_EXEC),
    without(libc::SYS_mprotect, 2, libc::PROT_EXEC),
    allow(libc::SYS_munmap),
    allow(libc::SYS_mremap),
    allow(libc::SYS_brk),
    one_of(libc::SYS_madvise, 2, ADVICES),
    allow(libc::SYS_rt_sigreturn),
    allow(libc::SYS_rt_sigprocmask),
    // An abort gives SIGABRT its default action back.
    one_of(libc::SYS_rt_sigaction, 0, &[libc::SIGABRT as u32]),
    allow(libc::SYS_sigaltstack),
    allow(libc::SYS_gettid),
    allow(libc::SYS_getpid),
    call(libc::SYS_tgkill, Rule::OwnProcess),
    allow(libc::SYS_sched_yield),
    allow(libc::SYS_restart_syscall),
    allow(libc::SYS_exit),
    allow(libc::SYS_exit_group),
    allow(libc::SYS_getrandom),
    one_of(libc::SYS_prctl, 0, &[libc::PR_SET_NAME as u32, libc::PR_GET_NAME as u32]),
    allow(libc::SYS_rseq),
    allow(libc::SYS_set_robust_list),
    // Debug builds of the standard library check a descriptor before they close it.
    fcntl(&[F_GETFD]),
    // A backtrace, a time zone, glibc's count of processors: they do without.
    fail(libc::SYS_open, libc::ENOENT),
    fail(libc::SYS_openat, libc::ENOENT),
    fail(libc::SYS_readlink, libc::ENOENT),
    fail(libc::SYS_readlinkat, libc::ENOENT),
    fail(libc::SYS_getcwd, libc::ENOENT),
    fail(libc::SYS_uname, libc::ENOSYS),
    fail(libc::SYS_sysinfo, libc::ENOSYS),
    fail(libc::SYS_sched_getaffinity, libc::ENOSYS),
    // Its flags lie in memory, where a filter cannot look. Libraries then use clone.
    fail(libc::SYS_clone3, libc::ENOSYS),
];

/// All that the memory allocator, thread stacks and guest memory need; not MADV_MERGEABLE.
const ADVICES: &[u32] = &[
    libc::MADV_WILLNEED as u32,
    libc::MADV_DONTNEED as u32,
    libc::MADV_FREE as u32,
    libc::MADV_HUGEPAGE as u32,
    libc::MADV_NOHUGEPAGE as u32,
    libc::MADV_DONTDUMP as u32,
    // MADV_POPULATE_READ and _WRITE, MADV_DONTNEED_LOCKED
    22,
    23,
    24,
];

/// Of all threads that wait for events.
pub(super) const EVENTS: &[Call] =
    &[allow(libc::SYS_epoll_wait), allow(libc::SYS_epoll_pwait), allow(libc::SYS_epoll_ctl)];

/// A vCPU: runs the guest, answers its exits, writes its console. The duplicates are of a queue's eventfd.
pub(super) const VCPU: &[Call] = &[
    ioctl(&[KVM_RUN, KVM_KVMCLOCK_CTRL, KVM_GET_REGS, KVM_TRANSLATE]),
    allow(libc::SYS_pwritev2),
    allow(libc::SYS_dup),
    fcntl(&[F_DUPFD_CLOEXEC]),
];

/// The thread of a disk: its requests, and flushes of the file on the host.
pub(super) const BLOCK: &[Call] = &[
    allow(libc::SYS_preadv),
    allow(libc::SYS_pwritev),
    allow(libc::SYS_pread64),
    allow(libc::SYS_pwrite64),
    allow(libc::SYS_fdatasync),
    allow(libc::SYS_fsync),
    allow(libc::SYS_fallocate),
];

/// A network interface.
pub(super) const NETWORK: &[Call] = &[allow(libc::SYS_readv), allow(libc::SYS_writev)];

/// vsock connections, each a pair of local sockets.
pub(super) const SOCKETS: &[Call] = &[
    allow(libc::SYS_readv),
    allow(libc::SYS_writev),
    allow(libc::SYS_recvfrom),
    allow(libc::SYS_recvmsg),
    allow(libc::SYS_sendto),
    allow(libc::SYS_sendmsg),
    allow(libc::SYS_shutdown),
    one_of(libc::SYS_socketpair, 0, &[libc::AF_UNIX as u32]),
    allow(libc::SYS_setsockopt),
    allow(libc::SYS_getsockopt),
    ioctl(&[libc::FIONBIO as u32]),
    fcntl(&[F_GETFL, F_SETFL, F_DUPFD_CLOEXEC]),
];

/// Pluggable memory.
pub(super) const MEMORY: &[Call] = &[allow(libc::SYS_fallocate), allow(libc::SYS_munlock), allow(libc::SYS_mlock2)];

/// A file server: whatever one can do to files below an open directory. It makes further threads of its kind, and takes
/// on the ids of a guest's user for single calls.
pub(super) const FILE_SERVER: &[Call] = &[
    allow(libc::SYS_openat),
    allow(libc::SYS_openat2),
    allow(libc::SYS_open),
    allow(libc::SYS_lseek),
    allow(libc::SYS_pread64),
    allow(libc::SYS_pwrite64),
    allow(libc::SYS_preadv),
    allow(libc::SYS_pwritev),
    allow(libc::SYS_preadv2),
    allow(libc::SYS_pwritev2),
    allow(libc::SYS_readv),
    allow(libc::SYS_writev),
    allow(libc::SYS_copy_file_range),
    allow(libc::SYS_fallocate),
    allow(libc::SYS_ftruncate),
    allow(libc::SYS_fsync),
    allow(libc::SYS_fdatasync),
    allow(libc::SYS_syncfs),
    allow(libc::SYS_statx),
    allow(libc::SYS_stat),
    allow(libc::SYS_lstat),
    allow(libc::SYS_fstat),
    allow(libc::SYS_newfstatat),
    allow(libc::SYS_fstatfs),
    allow(libc::SYS_statfs),
    allow(libc::SYS_getdents64),
    allow(libc::SYS_mkdirat),
    allow(libc::SYS_mknodat),
    allow(libc::SYS_symlinkat),
    allow(libc::SYS_linkat),
    allow(libc::SYS_unlinkat),
    allow(libc::SYS_renameat2),
    allow(libc::SYS_renameat),
    allow(libc::SYS_readlinkat),
    allow(libc::SYS_readlink),
    allow(libc::SYS_fchmod),
    allow(libc::SYS_fchmodat),
    // fchmodat(3) makes this call when it has flags.
    allow(FCHMODAT2),
    allow(libc::SYS_chmod),
    allow(libc::SYS_fchown),
    allow(libc::SYS_fchownat),
    allow(libc::SYS_utimensat),
    allow(libc::SYS_faccessat),
    allow(libc::SYS_faccessat2),
    allow(libc::SYS_setxattr),
    allow(libc::SYS_getxattr),
    allow(libc::SYS_listxattr),
    allow(libc::SYS_removexattr),
    allow(libc::SYS_lsetxattr),
    allow(libc::SYS_lgetxattr),
    allow(libc::SYS_llistxattr),
    allow(libc::SYS_lremovexattr),
    allow(libc::SYS_fsetxattr),
    allow(libc::SYS_fgetxattr),
    allow(libc::SYS_flistxattr),
    allow(libc::SYS_fremovexattr),
    allow(libc::SYS_flock),
    allow(libc::SYS_name_to_handle_at),
    fcntl(&[F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW]),
    allow(libc::SYS_dup),
    allow(libc::SYS_umask),
    one_of(libc::SYS_unshare, 0, &[libc::CLONE_FS as u32]),
    allow(libc::SYS_setfsuid),
    allow(libc::SYS_setfsgid),
    allow(libc::SYS_setresuid),
    allow(libc::SYS_setresgid),
    allow(libc::SYS_setgroups),
    allow(libc::SYS_getgroups),
    allow(libc::SYS_getuid),
    allow(libc::SYS_geteuid),
    allow(libc::SYS_getgid),
    allow(libc::SYS_getegid),
    allow(libc::SYS_capget),
    allow(libc::SYS_capset),
    allow(libc::SYS_fchdir),
];

/// A thread that makes threads with channels for their events, and what its new threads do before their own filter.
pub(super) const MAKER: &[Call] = &[
    one_of(libc::SYS_clone, 0, THREAD_FLAGS),
    // With the first thread of a process glibc installs a handler of its own: SIGSETXID.
    one_of(libc::SYS_rt_sigaction, 0, &[SIGSETXID]),
    allow(libc::SYS_sched_getaffinity),
    allow(libc::SYS_seccomp),
    allow(libc::SYS_capset),
    allow(libc::SYS_capget),
    allow(libc::SYS_eventfd2),
    allow(libc::SYS_epoll_create1),
    allow(libc::SYS_dup),
    // Of this process: another's could be ended by a limit.
    one_of(libc::SYS_prlimit64, 0, &[0]),
    ioctl(&[TUNSETOFFLOAD]),
];

/// The keeper of leases on mapped files, which pauses the guest.
pub(super) const IMAGES: &[Call] = &[allow(libc::SYS_rt_sigtimedwait), fcntl(&[F_SETLEASE, F_GETLEASE])];

/// The writer of a console that is a terminal, pipe or socket.
pub(super) const CONSOLE: &[Call] = &[allow(libc::SYS_writev)];

/// The control socket of a pod's machine: requests, descriptors, new vCPUs, disks that are plugged in.
pub(super) const CONTROL: &[Call] = &[
    allow(libc::SYS_accept4),
    allow(libc::SYS_recvmsg),
    allow(libc::SYS_sendmsg),
    allow(libc::SYS_recvfrom),
    allow(libc::SYS_sendto),
    allow(libc::SYS_shutdown),
    allow(libc::SYS_getsockopt),
    allow(libc::SYS_openat),
    allow(libc::SYS_statx),
    allow(libc::SYS_fstat),
    allow(libc::SYS_newfstatat),
    allow(libc::SYS_lseek),
    allow(libc::SYS_poll),
    allow(libc::SYS_ppoll),
    fcntl(&[F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_OFD_SETLK]),
    ioctl(&[
        libc::FIONBIO as u32,
        KVM_CREATE_VCPU,
        KVM_SET_CPUID2,
        KVM_SET_MSRS,
        KVM_GET_LAPIC,
        KVM_SET_LAPIC,
        KVM_SET_TSC_KHZ,
        KVM_GET_TSC_KHZ,
    ]),
];

/// The first thread of a process that holds a machine: it waits for the machine's end and records it.
pub(super) const OWNER: &[Call] = &[
    allow(libc::SYS_openat),
    allow(libc::SYS_statx),
    allow(libc::SYS_fstat),
    allow(libc::SYS_newfstatat),
    allow(libc::SYS_lseek),
    allow(libc::SYS_fsync),
    allow(libc::SYS_fdatasync),
    allow(libc::SYS_rename),
    allow(libc::SYS_renameat),
    allow(libc::SYS_renameat2),
    allow(libc::SYS_link),
    allow(libc::SYS_linkat),
    allow(libc::SYS_unlink),
    allow(libc::SYS_unlinkat),
    allow(libc::SYS_fchmod),
    allow(libc::SYS_flock),
];

/// A process that runs one command in the foreground: it waits for the streams of its caller and sets the caller's terminal.
/// At the machine's end it flushes the disks.
pub(super) const FOREGROUND: &[Call] = &[
    allow(libc::SYS_poll),
    allow(libc::SYS_ppoll),
    allow(libc::SYS_fdatasync),
    allow(libc::SYS_fsync),
    allow(libc::SYS_flock),
    // The end of the machine gives back the leases on its images.
    fcntl(&[F_SETLEASE]),
    ioctl(&[libc::FIONBIO as u32, libc::TIOCGWINSZ as u32, libc::TCGETS as u32, libc::TCSETS as u32]),
];

/// A process that stands for a process of a guest: it talks to the guest through the machine's control socket, passes
/// streams and signals on, and records the exit.
pub(super) const SHIM: &[Call] = &[
    one_of(libc::SYS_socket, 0, &[libc::AF_UNIX as u32]),
    allow(libc::SYS_connect),
    one_of(libc::SYS_socketpair, 0, &[libc::AF_UNIX as u32]),
    allow(libc::SYS_recvmsg),
    allow(libc::SYS_sendmsg),
    allow(libc::SYS_recvfrom),
    allow(libc::SYS_sendto),
    allow(libc::SYS_shutdown),
    allow(libc::SYS_setsockopt),
    allow(libc::SYS_getsockopt),
    allow(libc::SYS_readv),
    allow(libc::SYS_writev),
    allow(libc::SYS_poll),
    allow(libc::SYS_ppoll),
    allow(libc::SYS_rt_sigtimedwait),
    allow(libc::SYS_eventfd2),
    allow(libc::SYS_pipe2),
    allow(libc::SYS_splice),
    allow(libc::SYS_mkdir),
    allow(libc::SYS_mkdirat),
    ioctl(&[libc::FIONBIO as u32, libc::TIOCGWINSZ as u32, libc::TCGETS as u32]),
    fcntl(&[F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC]),
];
