//! The files that the guest knows, by number: the place in the tree where each was found last, and its identity. A file
//! is opened by its place only when it is needed; what is found there must be the same file.
//!
//! ```text
//!   named     place: (directory, name)          descriptor: none, or in the bounded cache
//!   pinned    no name left that is known        descriptor: kept until the guest forgets the file or names it again
//! ```
//!
//! If another process of the host renames a file, the guest gets `ESTALE` for it and looks the name up again. A file
//! that is open in the guest, and one that the guest has unlinked, is reached by its descriptor whatever its name is.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::super::limit::Budget;
use super::abi::ROOT_ID;
use super::sys;

/// Most directories between the root and a file.
const DEPTH_MAX: usize = 4096;
/// Times that a file is searched for while other requests move it.
const ATTEMPTS: usize = 8;

/// The properties by which a file is the same file. Two mounts of a file are two, since one may be read-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Device number of its file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    mount: u64,
    /// Type bits of the mode.
    pub kind: u32,
    /// The time when the file was made: file systems on disks use the numbers of removed files again.
    born: (i64, u32),
}

impl Identity {
    /// The identity of the file with these attributes.
    pub fn of(stat: &libc::statx) -> Self {
        // The others (overlay, tmpfs, btrfs, NFS) do not use a number again soon. In an overlay the time changes when a
        // file is copied up.
        let on_disk = stat.stx_dev_major != 0 && stat.stx_mask & libc::STATX_BTIME != 0;
        let born = if on_disk { (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec) } else { (0, 0) };
        Self {
            dev: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            mount: if stat.stx_mask & libc::STATX_MNT_ID == 0 { 0 } else { stat.stx_mnt_id },
            kind: u32::from(stat.stx_mode) & libc::S_IFMT,
            born,
        }
    }
}

/// The table of files, which all threads of a share use.
pub struct Nodes {
    /// `/proc/self/fd`, by which an open file is opened once more.
    proc: OwnedFd,
    table: Mutex<Table>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    directory: u64,
    name: CString,
}

struct Node {
    identity: Identity,
    place: Option<Place>,
    /// References of the guest.
    lookups: u64,
    /// Files whose place is in this directory.
    children: u64,
    /// `O_PATH` descriptor.
    descriptor: Option<Arc<OwnedFd>>,
    /// The descriptor must not be closed.
    pinned: bool,
    /// The descriptor was used since the cache was last searched for one to close.
    used: bool,
    /// The guest's open files. None of them is kept open from here.
    open: Vec<Weak<File>>,
}

struct Table {
    nodes: HashMap<u64, Node>,
    ids: HashMap<Identity, u64>,
    next: u64,
    /// Nodes whose descriptor may be closed, and some that had one: in the order of a clock.
    clock: VecDeque<u64>,
    budget: Budget,
    /// Number of changes of places.
    moves: u64,
}

/// The way to a file: from an open one down through directories.
struct Route {
    start: Start,
    /// Numbers, names and identities, the last one first.
    steps: Vec<(u64, CString, Identity)>,
    moves: u64,
}

enum Start {
    Descriptor(Arc<OwnedFd>),
    /// A file that is open in the guest, and its number.
    File(u64, Arc<File>),
}

impl Nodes {
    /// A table with the root directory only, which `root` is a descriptor of.
    pub fn new(root: OwnedFd, proc: OwnedFd, budget: Budget) -> io::Result<Self> {
        let identity = Identity::of(&sys::stat_open(&root)?);
        Ok(Self { proc, table: Mutex::new(Table::new(identity, Arc::new(root), budget)) })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `/proc/self/fd`.
    pub fn proc(&self) -> &OwnedFd {
        &self.proc
    }

    /// Forgets everything but the root.
    pub fn clear(&self) {
        self.table().clear();
    }

    /// The identity of a file.
    pub fn identity(&self, id: u64) -> io::Result<Identity> {
        self.table().nodes.get(&id).map(|node| node.identity).ok_or_else(unknown)
    }

    /// The number of the file that was found as `name` in `directory`; the guest has one more reference to it.
    pub fn found(&self, identity: Identity, directory: u64, name: &CStr) -> io::Result<u64> {
        self.table().found(identity, Some(Place { directory, name: name.to_owned() }))
    }

    /// The number of a new file without a name, to which the guest has one reference. Only an open file reaches it, so
    /// the caller calls `opened` next.
    pub fn made_nameless(&self, identity: Identity) -> io::Result<u64> {
        self.table().found(identity, None)
    }

    /// Drops references of the guest.
    pub fn forget(&self, id: u64, count: u64) {
        self.table().forget(id, count);
    }

    /// Remembers an open file of the guest.
    pub fn opened(&self, id: u64, file: &Arc<File>) {
        if let Ok(node) = self.table().node(id) {
            node.open.push(Arc::downgrade(file));
        }
    }

    /// Forgets an open file that is about to be closed. If it was the last of a file that has no name, keeps that file
    /// reachable.
    pub fn closing(&self, id: u64, file: &Arc<File>) {
        if let Ok(node) = self.table().node(id) {
            node.open.retain(|open| !std::ptr::eq(open.as_ptr(), Arc::as_ptr(file)));
            if node.open.is_empty() {
                // Most files that the guest knows are closed; they take no memory for this.
                node.open = Vec::new();
            }
        }
        let nameless = |node: &Node| node.place.is_none() && node.descriptor.is_none() && id != ROOT_ID;
        if !self.table().nodes.get(&id).is_some_and(nameless) {
            return;
        }
        if let Ok(descriptor) = super::open_again(&self.proc, file, libc::O_PATH) {
            self.table().keep(id, &Arc::new(descriptor.into()), true);
        }
    }

    /// A descriptor of a file (`O_PATH`).
    ///
    /// # Errors
    /// `EBADF`: the guest does not know the file. `ESTALE`: it is not where it was.
    pub fn descriptor(&self, id: u64) -> io::Result<Arc<OwnedFd>> {
        let mut attempt = 0;
        loop {
            let route = self.table().route(id)?;
            let moves = route.moves;
            attempt += 1;
            match self.follow(route) {
                Err(error) if is_stale(&error) && attempt < ATTEMPTS && self.table().moves != moves => {}
                Err(error) if is_stale(&error) => return Err(stale()),
                result => return result,
            }
        }
    }

    fn follow(&self, route: Route) -> io::Result<Arc<OwnedFd>> {
        let mut at = match route.start {
            Start::Descriptor(descriptor) => descriptor,
            Start::File(id, file) => {
                let descriptor: Arc<OwnedFd> = Arc::new(super::open_again(&self.proc, &*file, libc::O_PATH)?.into());
                self.table().keep(id, &descriptor, false);
                descriptor
            }
        };
        for (id, name, identity) in route.steps.into_iter().rev() {
            let next = sys::open_entry(&*at, &name)?;
            if Identity::of(&sys::stat_open(&next)?) != identity {
                return Err(stale());
            }
            at = Arc::new(next);
            self.table().keep(id, &at, false);
        }
        Ok(at)
    }

    /// Pins the file that is the entry `name` of a directory, before that name goes away. Returns its number if the
    /// guest knows it.
    pub fn pin_entry(&self, directory: impl AsFd, name: &CStr) -> Option<u64> {
        let descriptor = sys::open_entry(directory, name).ok()?;
        let identity = Identity::of(&sys::stat_open(&descriptor).ok()?);
        let mut table = self.table();
        let id = table.ids.get(&identity).copied().filter(|id| *id != ROOT_ID)?;
        table.keep(id, &Arc::new(descriptor), true);
        Some(id)
    }

    /// The number of a file that the guest may know.
    pub fn number(&self, identity: &Identity) -> Option<u64> {
        self.table().ids.get(identity).copied()
    }

    /// A pinned file still has its name.
    pub fn unpin(&self, id: u64) {
        self.table().unpin(id);
    }

    /// A pinned file has lost the entry `name` of a directory.
    pub fn unlinked(&self, id: u64, directory: u64, name: &CStr) {
        let mut table = self.table();
        let lost = |place: &Place| place.directory == directory && *place.name == *name;
        match table.nodes.get(&id).map(|node| node.place.as_ref().is_none_or(lost)) {
            Some(true) => table.place(id, None),
            Some(false) => table.unpin(id),
            None => {}
        }
    }

    /// A file has become the entry `name` of a directory.
    pub fn renamed(&self, id: u64, directory: u64, name: &CStr) {
        let mut table = self.table();
        table.place(id, Some(Place { directory, name: name.to_owned() }));
        table.unpin(id);
    }
}

impl Table {
    fn new(identity: Identity, root: Arc<OwnedFd>, budget: Budget) -> Self {
        let node = Node {
            identity,
            place: None,
            lookups: 1,
            children: 0,
            descriptor: Some(root),
            pinned: true,
            used: true,
            open: Vec::new(),
        };
        Self {
            nodes: HashMap::from([(ROOT_ID, node)]),
            ids: HashMap::from([(identity, ROOT_ID)]),
            next: ROOT_ID + 1,
            clock: VecDeque::new(),
            budget,
            moves: 0,
        }
    }

    fn clear(&mut self) {
        self.nodes.retain(|id, _| *id == ROOT_ID);
        self.ids.retain(|_, id| *id == ROOT_ID);
        self.clock.clear();
        self.budget.clear();
        if let Some(root) = self.nodes.get_mut(&ROOT_ID) {
            root.children = 0;
        }
    }

    fn node(&mut self, id: u64) -> io::Result<&mut Node> {
        self.nodes.get_mut(&id).ok_or_else(unknown)
    }

    fn found(&mut self, identity: Identity, place: Option<Place>) -> io::Result<u64> {
        if place.as_ref().is_some_and(|place| !self.nodes.contains_key(&place.directory)) {
            return Err(unknown());
        }
        let id = match self.ids.get(&identity) {
            Some(id) => *id,
            None => {
                let id = self.next;
                // More than any machine counts in its life.
                self.next += 1;
                self.ids.insert(identity, id);
                let (descriptor, open) = (None, Vec::new());
                let (lookups, children, pinned, used) = (0, 0, false, false);
                self.nodes
                    .insert(id, Node { identity, place: None, lookups, children, descriptor, pinned, used, open });
                id
            }
        };
        let node = self.node(id)?;
        node.lookups = node.lookups.saturating_add(1);
        if place.is_some() {
            self.place(id, place);
            self.unpin(id);
        }
        Ok(id)
    }

    /// Changes the place of a file other than the root.
    fn place(&mut self, id: u64, place: Option<Place>) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| id != ROOT_ID && node.place != place) else { return };
        let directory = place.as_ref().map(|place| place.directory);
        let before = std::mem::replace(&mut node.place, place).map(|place| place.directory);
        if let Some(directory) = directory.and_then(|id| self.nodes.get_mut(&id)) {
            directory.children += 1;
        }
        self.moves += 1;
        if let Some(before) = before {
            self.lost_child(before);
        }
    }

    fn lost_child(&mut self, id: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.children = node.children.saturating_sub(1);
            self.drop_unused(id);
        }
    }

    fn forget(&mut self, id: u64, count: u64) {
        if let Some(node) = self.nodes.get_mut(&id).filter(|_| id != ROOT_ID) {
            node.lookups = node.lookups.saturating_sub(count);
            self.drop_unused(id);
        }
    }

    /// Removes a file that neither the guest nor another file refers to, and then its directories likewise.
    fn drop_unused(&mut self, id: u64) {
        let mut id = id;
        while id != ROOT_ID && self.nodes.get(&id).is_some_and(|node| node.lookups == 0 && node.children == 0) {
            let Some(node) = self.nodes.remove(&id) else { return };
            self.ids.remove(&node.identity);
            if node.descriptor.is_some() {
                self.budget.closed_one();
            }
            let Some(place) = node.place else { return };
            id = place.directory;
            if let Some(directory) = self.nodes.get_mut(&id) {
                directory.children = directory.children.saturating_sub(1);
            }
        }
    }

    /// The way to a file.
    fn route(&mut self, id: u64) -> io::Result<Route> {
        let (mut at, mut steps, moves) = (id, Vec::new(), self.moves);
        loop {
            let node = self.nodes.get_mut(&at).ok_or_else(|| if at == id { unknown() } else { stale() })?;
            if let Some(descriptor) = &node.descriptor {
                node.used = true;
                return Ok(Route { start: Start::Descriptor(descriptor.clone()), steps, moves });
            }
            if let Some(file) = node.open.iter().rev().find_map(Weak::upgrade) {
                return Ok(Route { start: Start::File(at, file), steps, moves });
            }
            let place = node.place.as_ref().filter(|_| steps.len() < DEPTH_MAX).ok_or_else(stale)?;
            steps.push((at, place.name.clone(), node.identity));
            at = place.directory;
        }
    }

    /// Keeps a descriptor of a file, if there is room for it.
    fn keep(&mut self, id: u64, descriptor: &Arc<OwnedFd>, pin: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.descriptor.is_some() {
            node.pinned |= pin;
            return;
        }
        let room = self.budget.take(pin) || self.evict() && self.budget.take(pin);
        if !room {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.descriptor = Some(descriptor.clone());
            node.pinned = pin;
            node.used = true;
        }
        self.enter_clock(id);
    }

    fn unpin(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id).filter(|node| id != ROOT_ID && node.pinned) else { return };
        node.pinned = false;
        self.enter_clock(id);
    }

    fn enter_clock(&mut self, id: u64) {
        // Entries of files that are gone would gather.
        if self.clock.len() > 2 * self.budget.taken() + 64 {
            let nodes = &self.nodes;
            let mut seen = std::collections::HashSet::new();
            self.clock.retain(|id| nodes.get(id).is_some_and(|node| node.descriptor.is_some()) && seen.insert(*id));
        }
        self.clock.push_back(id);
    }

    /// Closes the descriptor of a file that was not used lately. False if there is none that may be closed.
    fn evict(&mut self) -> bool {
        for _ in 0..2 * self.clock.len() {
            let Some(id) = self.clock.pop_front() else { return false };
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            if node.pinned || node.descriptor.is_none() {
                continue;
            }
            if std::mem::replace(&mut node.used, false) {
                self.clock.push_back(id);
                continue;
            }
            node.descriptor = None;
            self.budget.closed_one();
            return true;
        }
        false
    }
}

/// Whether an error on the way to a file means that it is not there any more.
fn is_stale(error: &io::Error) -> bool {
    let gone = [libc::ESTALE, libc::ENOENT, libc::ENOTDIR, libc::ELOOP];
    error.raw_os_error().is_some_and(|errno| gone.contains(&errno))
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}

fn unknown() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
