//! The means by which the threads of a device synchronise: those of the standard library and the kernel. `worker` and
//! `virtio::session` take all of them from here, so that `tests/interleavings` can compile the same files with models
//! of them, under a scheduler that chooses the thread that goes on.

pub(crate) use std::sync::{atomic, Condvar, Mutex, MutexGuard};
pub(crate) use std::thread;

pub(crate) use vmm_sys_util::epoll::Epoll;
pub(crate) use vmm_sys_util::eventfd::EventFd;
