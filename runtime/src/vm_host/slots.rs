//! The drive slots of a machine and what is in them. Used by the threads of the control server.
//!
//! Storage that does not answer must not stop the server: the table is locked only for moments. Checking an image, and
//! waiting until one is closed, happen without the lock, on the thread of the call that asked for it.

use std::fs::File;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use hutch_agent_proto::error_chain;
use hutch_vmm::BlockSlot;

use crate::backend::{BackendError, BackendResult, BlockDevice};
use crate::sync;

/// Bound of a wait for the requests to an image that was taken out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A drive whose image can be exchanged.
pub(super) trait Drive: Clone {
    /// An open image.
    type Image;

    /// Puts in the image, which the caller has opened at `path`. The error is for people.
    fn insert(&self, image: Self::Image, path: &Path, read_only: bool, serial: &str) -> Result<(), String>;

    /// Takes the image out, at once. Requests that are under way may still use it.
    fn eject(&self);

    /// Waits until no request uses an image that is out; `false` after `timeout`.
    fn wait_closed(&self, timeout: Duration) -> bool;
}

impl Drive for BlockSlot {
    type Image = File;

    fn insert(&self, image: File, path: &Path, read_only: bool, serial: &str) -> Result<(), String> {
        self.insert_file(image, path, read_only, serial).map_err(|e| error_chain(&e))
    }

    fn eject(&self) {
        self.eject_within(Duration::ZERO);
    }

    fn wait_closed(&self, timeout: Duration) -> bool {
        BlockSlot::wait_closed(self, timeout)
    }
}

/// The content of a drive slot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    Nothing,
    /// A disk is being put in. `withdrawn`: another call has taken it out meanwhile.
    Incoming {
        id: String,
        withdrawn: bool,
    },
    Disk(String),
}

/// All drive slots of a machine.
pub(super) struct Slots<D>(Mutex<Vec<(D, Content)>>);

impl<D: Drive> Slots<D> {
    pub(super) fn new(drives: impl IntoIterator<Item = D>) -> Self {
        Self(Mutex::new(drives.into_iter().map(|drive| (drive, Content::Nothing)).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(D, Content)>> {
        sync::lock(&self.0)
    }

    /// Puts a disk into a free slot. One that is in already, from a call that was killed before it saw the reply, is
    /// replaced.
    ///
    /// # Errors
    /// [`BackendError::Refused`] if no slot is free, the image cannot be used, or another call puts the disk in or
    /// takes it out at the same time. The slot is free then.
    pub(super) fn plug(&self, device: &BlockDevice, image: D::Image) -> BackendResult<()> {
        let (place, drive) = self.take(&device.id)?;
        // The old image may be the same file, which is locked until it is closed.
        close(&drive, &device.id);
        let inserted = drive.insert(image, &device.path, device.read_only, &device.id).map_err(BackendError::Refused);
        let mut slots = self.lock();
        let Some((_, content)) = slots.get_mut(place) else { return Ok(()) };
        let withdrawn = matches!(content, Content::Incoming { withdrawn: true, .. });
        if withdrawn {
            drive.eject();
        }
        *content = match inserted.is_ok() && !withdrawn {
            true => Content::Disk(device.id.clone()),
            false => Content::Nothing,
        };
        match withdrawn {
            true => Err(BackendError::Refused(format!("disk {} was taken out while it was put in", device.id))),
            false => inserted,
        }
    }

    /// Takes the slot that holds the disk, or a free one, and empties it.
    fn take(&self, id: &str) -> BackendResult<(usize, D)> {
        let mut slots = self.lock();
        let count = slots.len();
        if slots.iter().any(|(_, content)| matches!(content, Content::Incoming { id: incoming, .. } if incoming == id))
        {
            return Err(BackendError::Refused(format!("disk {id} is being put in by another call")));
        }
        let at = |wanted: &Content| slots.iter().position(|(_, content)| content == wanted);
        let place = at(&Content::Disk(id.to_owned())).or_else(|| at(&Content::Nothing));
        let found = place.and_then(|place| slots.get_mut(place).map(|slot| (place, slot)));
        let (place, (drive, content)) = found.ok_or_else(|| {
            BackendError::Refused(format!("all {count} drive slots of the machine are taken (hypervisor.block_slots)"))
        })?;
        drive.eject();
        *content = Content::Incoming { id: id.to_owned(), withdrawn: false };
        Ok((place, drive.clone()))
    }

    /// Takes a disk out and waits, for a bounded time, until its image is closed. A missing one is fine.
    pub(super) fn unplug(&self, id: &str) {
        let mut emptied = Vec::new();
        for (drive, content) in self.lock().iter_mut() {
            match content {
                Content::Disk(disk) if disk == id => *content = Content::Nothing,
                Content::Incoming { id: incoming, withdrawn } if incoming == id => *withdrawn = true,
                _ => continue,
            }
            drive.eject();
            emptied.push(drive.clone());
        }
        emptied.iter().for_each(|drive| close(drive, id));
    }
}

fn close<D: Drive>(drive: &D, id: &str) {
    if !drive.wait_closed(CLOSE_TIMEOUT) {
        log::warn!("disk {id}: its image stays open until a request has ended: its storage does not answer");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};
    use std::sync::Arc;

    use super::*;

    /// A drive whose storage can stand still: then an insertion, or the wait after an ejection, lasts until the test
    /// ends it.
    #[derive(Clone)]
    struct Stub {
        image: Arc<Mutex<Option<String>>>,
        reached: Sender<&'static str>,
        hung: Arc<Mutex<Option<Receiver<()>>>>,
    }

    impl Stub {
        fn stall(&self, at: &'static str) {
            let hung = sync::lock(&self.hung).take();
            if let Some(hung) = hung {
                self.reached.send(at).unwrap();
                hung.recv().unwrap();
            }
        }
    }

    impl Drive for Stub {
        type Image = ();

        fn insert(&self, (): (), path: &Path, _: bool, serial: &str) -> Result<(), String> {
            if path == Path::new("/missing") {
                return Err("no such file".into());
            }
            self.stall("insert");
            *sync::lock(&self.image) = Some(serial.to_owned());
            Ok(())
        }

        fn eject(&self) {
            *sync::lock(&self.image) = None;
        }

        fn wait_closed(&self, _: Duration) -> bool {
            self.stall("close");
            true
        }
    }

    struct Host {
        slots: Slots<Stub>,
        stubs: Vec<Stub>,
        reached: Receiver<&'static str>,
    }

    impl Host {
        fn new(count: usize) -> Self {
            let (tell, reached) = mpsc::channel();
            let stub = || Stub { image: Arc::default(), reached: tell.clone(), hung: Arc::default() };
            let stubs: Vec<Stub> = (0..count).map(|_| stub()).collect();
            Self { slots: Slots::new(stubs.clone()), stubs, reached }
        }

        /// The next insertion or wait of this drive lasts until the result is dropped or written to.
        fn hang(&self, drive: usize) -> Sender<()> {
            let (end, hung) = mpsc::channel();
            *sync::lock(&self.stubs[drive].hung) = Some(hung);
            end
        }

        fn images(&self) -> Vec<Option<String>> {
            self.stubs.iter().map(|stub| sync::lock(&stub.image).clone()).collect()
        }
    }

    fn disk(id: &str) -> BlockDevice {
        BlockDevice { id: id.into(), path: format!("/{id}").into(), read_only: false }
    }

    #[test]
    fn p_188_disks_take_free_slots_and_give_them_back() {
        let host = Host::new(2);
        host.slots.plug(&disk("a"), ()).unwrap();
        host.slots.plug(&disk("b"), ()).unwrap();
        assert!(matches!(host.slots.plug(&disk("c"), ()), Err(BackendError::Refused(text)) if text.contains("all 2")));
        host.slots.plug(&disk("a"), ()).unwrap();
        assert_eq!(host.images(), [Some("a".to_owned()), Some("b".to_owned())]);
        host.slots.unplug("a");
        host.slots.unplug("a");
        host.slots.plug(&disk("missing"), ()).unwrap_err();
        host.slots.plug(&disk("c"), ()).unwrap();
        assert_eq!(host.images(), [Some("c".to_owned()), Some("b".to_owned())]);
    }

    /// While one disk's storage stands still, the others come and go.
    #[test]
    fn storage_that_does_not_answer_holds_up_only_its_own_disk() {
        let host = Host::new(2);
        host.slots.plug(&disk("hung"), ()).unwrap();
        std::thread::scope(|scope| {
            let end = host.hang(0);
            let unplug = scope.spawn(|| host.slots.unplug("hung"));
            assert_eq!(host.reached.recv().unwrap(), "close");
            host.slots.plug(&disk("b"), ()).unwrap();
            host.slots.unplug("b");
            assert_eq!(host.images(), [None, None]);
            assert!(!unplug.is_finished());
            end.send(()).unwrap();
            unplug.join().unwrap();
        });
    }

    /// A disk that is taken out while its image is still being opened does not come in afterwards.
    #[test]
    fn a_disk_that_was_taken_out_meanwhile_does_not_come_in() {
        let host = Host::new(1);
        std::thread::scope(|scope| {
            let end = host.hang(0);
            // The wait before the insertion is the first that stands still.
            let plug = scope.spawn(|| host.slots.plug(&disk("a"), ()));
            assert_eq!(host.reached.recv().unwrap(), "close");
            host.slots.unplug("a");
            end.send(()).unwrap();
            plug.join().unwrap().unwrap_err();
        });
        assert_eq!(host.images(), [None]);
        host.slots.plug(&disk("b"), ()).unwrap();
        assert_eq!(host.images(), [Some("b".to_owned())]);
    }
}
