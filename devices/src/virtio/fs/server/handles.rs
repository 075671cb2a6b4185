//! The files that the guest has open, by number.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An open file or directory.
#[derive(Debug)]
pub struct Handle {
    /// The number of the file.
    pub node: u64,
    /// The file on the host, opened with the access that the guest asked for.
    pub file: Arc<File>,
    /// Where the next entry of a directory is read; held while one is read. A file has no use for it.
    pub position: Mutex<u64>,
}

/// The table of handles, which all threads of a share use.
#[derive(Debug, Default)]
pub struct Handles(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    handles: HashMap<u64, Arc<Handle>>,
    last: u64,
}

impl Handles {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an open file and returns its number, which no other file had.
    pub fn add(&self, node: u64, file: Arc<File>) -> u64 {
        let mut table = self.table();
        // More than any machine counts in its life.
        table.last += 1;
        let id = table.last;
        table.handles.insert(id, Arc::new(Handle { node, file, position: Mutex::new(0) }));
        id
    }

    /// An open file.
    ///
    /// # Errors
    /// `EBADF`: there is none with this number, or it is another file than `node`.
    pub fn get(&self, id: u64, node: u64) -> io::Result<Arc<Handle>> {
        let table = self.table();
        let handle = table.handles.get(&id).filter(|handle| handle.node == node);
        handle.cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// Removes an open file. It is closed when the last request with it ends.
    pub fn remove(&self, id: u64, node: u64) -> io::Result<Arc<Handle>> {
        let handle = self.get(id, node)?;
        self.table().handles.remove(&id);
        Ok(handle)
    }

    /// Removes all handles, which closes their files.
    pub fn clear(&self) {
        let handles = std::mem::take(&mut self.table().handles);
        // Closing may wait for a disk; the lock is free by now.
        drop(handles);
    }
}
