//! The threads that serve requests from activation to deactivation. They take turns at the queues, so that a request
//! that waits for a disk does not block the others.
//!
//! A thread takes a request, wakes another thread if there are more requests, serves it and gives it back. The pool has
//! one more thread than busy ones, up to [`THREADS_MAX`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;

use super::server::Server;
use super::sys;
use crate::threads::{ThreadKind, Threads};
use crate::virtio::{Chain, DeviceInterrupt, DeviceQueue, QueueError};
use crate::worker::{pause_all, stop_all, Next, Poller, Worker, WorkerError, WorkerHandle};
use crate::{warn_limited, GuestRam};

/// Number of queues: high priority and requests (VIRTIO 1.2, 5.11.2).
pub const QUEUES: usize = 2;
/// Most threads of one share.
const THREADS_MAX: usize = 4;
/// Threads from the start: one to serve and one to take over when the first waits for a disk.
const THREADS_MIN: usize = 2;
/// Requests that a thread serves before it checks its other sources.
const BATCH: usize = 64;

/// The threads and the state that they share.
pub struct Pool {
    name: String,
    host: Threads,
    mem: GuestRam,
    interrupt: Arc<DeviceInterrupt>,
    queues: [Mutex<DeviceQueue>; QUEUES],
    server: Server,
    threads: Mutex<Vec<WorkerHandle<FsWorker>>>,
    /// Time to wait for the threads to pause or stop.
    timeout: Duration,
    busy: AtomicUsize,
    /// The driver broke the protocol, or the device has stopped this pool.
    over: AtomicBool,
}

impl Pool {
    /// Starts threads that use `server`.
    pub fn start(
        name: &str,
        timeout: Duration,
        host: Threads,
        mem: GuestRam,
        interrupt: Arc<DeviceInterrupt>,
        queues: [DeviceQueue; QUEUES],
        server: Server,
    ) -> io::Result<Arc<Self>> {
        let pool = Arc::new(Self {
            name: name.to_owned(),
            host,
            mem,
            interrupt,
            queues: queues.map(Mutex::new),
            server,
            threads: Mutex::new(Vec::with_capacity(THREADS_MAX)),
            timeout,
            busy: AtomicUsize::new(0),
            over: AtomicBool::new(false),
        });
        let mut threads = pool.threads();
        for _ in 0..THREADS_MIN {
            if let Err(error) = pool.add_thread(&mut threads) {
                drop(threads);
                drop(pool.stop());
                return Err(error);
            }
        }
        drop(threads);
        Ok(pool)
    }

    fn threads(&self) -> MutexGuard<'_, Vec<WorkerHandle<FsWorker>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, index: usize) -> Option<MutexGuard<'_, DeviceQueue>> {
        Some(self.queues.get(index)?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add_thread(self: &Arc<Self>, threads: &mut Vec<WorkerHandle<FsWorker>>) -> io::Result<()> {
        let name = format!("{}.{}", self.name, threads.len());
        let start = self.host.start(ThreadKind::FileServer);
        let worker = FsWorker { pool: self.clone(), own_umask: false };
        threads.push(WorkerHandle::spawn(start, &name, self.timeout, worker)?);
        Ok(())
    }

    /// Starts another thread if all are busy and there may be more.
    fn reinforce(self: &Arc<Self>) {
        // The lock is taken while the pool is started, paused or stopped: do not start threads then, and do not wait.
        let Ok(mut threads) = self.threads.try_lock() else { return };
        if threads.is_empty() || threads.len() >= THREADS_MAX || self.busy.load(Ordering::Relaxed) < threads.len() {
            return;
        }
        if let Err(error) = self.add_thread(&mut threads) {
            warn_limited!("{}: cannot start another thread: {error}", self.name);
        }
    }

    /// Pauses every thread, or none if one does not come to rest.
    pub fn pause(&self) -> Result<(), WorkerError> {
        pause_all(&self.threads())
    }

    /// Continues after [`Self::pause`].
    pub fn resume(&self) {
        for thread in self.threads().iter() {
            thread.resume();
        }
    }

    /// Ends all threads. Those that do not stop in time are returned; the guest does not get their requests back.
    pub fn stop(&self) -> Vec<WorkerHandle<FsWorker>> {
        let mut threads = std::mem::take(&mut *self.threads());
        // The caller finds the error again in the threads that are left.
        drop(stop_all(&mut threads));
        self.over.store(true, Ordering::SeqCst);
        threads
    }

    /// Takes the next request. Wakes another thread if there are more.
    fn take(&self, index: usize) -> Result<Option<Chain>, QueueError> {
        let Some(mut queue) = self.queue(index) else { return Ok(None) };
        let ring = |source| QueueError::Ring { operation: "available ring", source };
        while !queue.is_over() {
            let next = queue.pop(&self.mem)?;
            let left =
                queue.queue.avail_idx(&*self.mem, Ordering::Acquire).map_err(ring)?.0 != queue.queue.next_avail();
            let more = left || queue.enable_notifications(&self.mem)?;
            match next {
                None if more => {}
                None => break,
                Some(chain) => {
                    if more {
                        queue.notify_self();
                    }
                    return Ok(Some(chain));
                }
            }
        }
        Ok(None)
    }

    fn return_chain(&self, index: usize, head: u16, written: u32) -> Result<(), QueueError> {
        let Some(mut queue) = self.queue(index) else { return Ok(()) };
        if self.over.load(Ordering::SeqCst) {
            return Ok(());
        }
        queue.complete(&self.mem, head, written)?;
        queue.signal(&self.mem, &self.interrupt)
    }

    fn serve(&self, index: usize, chain: &Chain) -> Result<(), QueueError> {
        let written = self.server.handle(chain, &self.mem);
        self.return_chain(index, chain.head(), written)
    }

    fn give_up(&self) {
        if !self.over.swap(true, Ordering::SeqCst) {
            self.interrupt.need_reset();
        }
    }
}

/// One thread of the pool.
pub struct FsWorker {
    pool: Arc<Pool>,
    /// The thread has its own umask.
    own_umask: bool,
}

impl FsWorker {
    fn round(&self, index: usize, poller: &Poller) -> Next {
        let pool = &self.pool;
        pool.busy.fetch_add(1, Ordering::Relaxed);
        let result = self.serve_some(index, poller);
        pool.busy.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = result {
            warn_limited!("{} stops until the guest resets it: {error}", pool.name);
            pool.give_up();
        }
        if pool.over.load(Ordering::SeqCst) {
            Next::Retire
        } else {
            Next::Continue
        }
    }

    fn serve_some(&self, index: usize, poller: &Poller) -> Result<(), QueueError> {
        let pool = &self.pool;
        for _ in 0..BATCH {
            if pool.over.load(Ordering::SeqCst) {
                return Ok(());
            }
            let Some(chain) = pool.take(index)? else { return Ok(()) };
            pool.reinforce();
            pool.serve(index, &chain)?;
            if poller.rest_wanted() {
                break;
            }
        }
        if let Some(queue) = pool.queue(index) {
            queue.notify_self();
        }
        Ok(())
    }
}

impl Worker for FsWorker {
    /// All threads wait for the same notifications, each of which wakes one idle thread.
    fn register(&mut self, poller: &Poller) -> io::Result<()> {
        for (token, queue) in (0..).zip(&self.pool.queues) {
            let queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            poller.add(&queue.notify, token, EventSet::IN | EventSet::EXCLUSIVE)?;
        }
        Ok(())
    }

    fn resumed(&mut self, poller: &Poller) -> Next {
        if !self.own_umask {
            // The guest applies the umasks of its processes.
            if let Err(error) = sys::own_umask() {
                warn_limited!("{} stops: cannot give its thread an umask of its own: {error}", self.pool.name);
                self.pool.give_up();
                return Next::Retire;
            }
            self.own_umask = true;
        }
        (0..QUEUES).map(|index| self.round(index, poller)).find(|next| *next == Next::Retire).unwrap_or(Next::Continue)
    }

    fn ready(&mut self, token: u64, _events: EventSet, poller: &Poller) -> Next {
        let Ok(index) = usize::try_from(token) else { return Next::Continue };
        if let Some(queue) = self.pool.queue(index) {
            queue.drain_notify();
        }
        self.round(index, poller)
    }

    fn failed(&mut self) {
        self.pool.give_up();
    }
}
