//! Models of what the threads of a device share: shuttle's locks and threads, a clock that may run out at any moment,
//! and the events of the kernel (eventfd(2), epoll(7)) as far as `worker` uses them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{LockResult, PoisonError};
use std::time::Duration;

use shuttle::rand::{thread_rng, Rng};
use vmm_sys_util::epoll::{ControlOperation, EpollEvent, EventSet};

pub use shuttle::sync::{atomic, Mutex, MutexGuard};
pub use shuttle::thread;

/// From this timeout on, a wait does not end before the others have done their part. A shorter one may end at any moment.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(1 << 30);

/// How often a wait is interrupted without an event, and how often a timeout runs out at one wake-up.
const SELDOM: f64 = 0.2;

/// A condition variable. shuttle's has no timeouts.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    /// A condition variable on which no thread waits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for a notification.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        self.0.wait(guard)
    }

    /// Waits until `waiting` is false or the time is up. The flag says that it is up.
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut waiting: impl FnMut(&mut T) -> bool,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        while waiting(&mut guard) {
            if timeout.is_zero() || (timeout < LONG_TIMEOUT / 2 && thread_rng().gen_bool(SELDOM)) {
                return Ok((guard, true));
            }
            guard = match self.0.wait(guard) {
                Ok(guard) => guard,
                Err(poisoned) => return Err(PoisonError::new((poisoned.into_inner(), false))),
            };
        }
        Ok((guard, false))
    }

    /// Wakes all waiting threads.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

shuttle::lazy_static! {
    /// The kernel of one schedule.
    static ref KERNEL: Kernel = Kernel::default();
}

/// The counters of all eventfds, by their numbers.
#[derive(Default)]
struct Kernel {
    counters: Mutex<BTreeMap<RawFd, u64>>,
    written: shuttle::sync::Condvar,
}

/// A counter that can be waited for. Never blocks, whatever its flags. Clones of the product are duplicates of a
/// descriptor; here an eventfd is shared by reference.
#[derive(Debug)]
pub struct EventFd(RawFd);

impl EventFd {
    /// A counter of 0. Every one of a schedule has another number.
    ///
    /// # Errors
    /// None here.
    pub fn new(_flags: i32) -> io::Result<Self> {
        let mut counters = KERNEL.counters.lock().unwrap();
        let fd = RawFd::try_from(counters.len()).expect("few descriptors");
        counters.insert(fd, 0);
        Ok(Self(fd))
    }

    /// Adds to the counter.
    ///
    /// # Errors
    /// None here.
    pub fn write(&self, value: u64) -> io::Result<()> {
        *KERNEL.counters.lock().unwrap().entry(self.0).or_default() += value;
        KERNEL.written.notify_all();
        Ok(())
    }

    /// Takes the counter's value and sets it to 0.
    ///
    /// # Errors
    /// `WouldBlock` if it is 0.
    pub fn read(&self) -> io::Result<u64> {
        match KERNEL.counters.lock().unwrap().insert(self.0, 0) {
            Some(value) if value > 0 => Ok(value),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// Waits for several eventfds: level-triggered, events in any order.
#[derive(Debug)]
pub struct Epoll(Mutex<BTreeMap<RawFd, EpollEvent>>);

impl Epoll {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// None here.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Mutex::default()))
    }

    /// Changes the eventfds to wait for.
    ///
    /// # Errors
    /// None here.
    pub fn ctl(&self, operation: ControlOperation, fd: RawFd, event: EpollEvent) -> io::Result<()> {
        let mut wanted = self.0.lock().unwrap();
        match operation {
            ControlOperation::Delete => wanted.remove(&fd),
            ControlOperation::Add | ControlOperation::Modify => wanted.insert(fd, event),
        };
        Ok(())
    }

    /// Waits for an event, without a limit if `timeout_ms` is negative.
    ///
    /// # Errors
    /// `Interrupted` now and then.
    pub fn wait(&self, timeout_ms: i32, events: &mut [EpollEvent]) -> io::Result<usize> {
        if thread_rng().gen_bool(SELDOM) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let wanted = self.0.lock().unwrap().clone();
        let mut counters = KERNEL.counters.lock().unwrap();
        loop {
            let ready = wanted.iter().filter(|(fd, event)| {
                event.event_set().contains(EventSet::IN) && counters.get(fd).is_some_and(|count| *count > 0)
            });
            let mut ready: Vec<_> = ready.map(|(_, event)| EpollEvent::new(EventSet::IN, event.data())).collect();
            if thread_rng().gen_bool(0.5) {
                ready.reverse();
            }
            if !ready.is_empty() || timeout_ms >= 0 {
                let count = ready.len().min(events.len());
                events[..count].copy_from_slice(&ready[..count]);
                return Ok(count);
            }
            counters = KERNEL.written.wait(counters).unwrap();
        }
    }
}
