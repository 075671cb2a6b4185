//! Files that a guest's user creates belong to that user: the serving thread takes on the user's ids for one call.

use std::cell::RefCell;
use std::io;

use caps::{CapSet, Capability};

use super::sys;

thread_local! {
    /// The supplementary groups that the thread took on last.
    static GROUPS: RefCell<Option<Vec<u32>>> = const { RefCell::new(None) };
}

/// The calling thread acts for a user of the guest until this is dropped.
#[derive(Debug)]
pub struct GuestUser(());

impl GuestUser {
    /// Takes on the ids of a user and its supplementary groups. `None` if that is not necessary: for root, and in a
    /// process that is not root, whose files all belong to the process's user.
    ///
    /// The thread keeps the groups: for root they make no difference.
    ///
    /// # Errors
    /// `PermissionDenied`: an id does not exist in this user namespace.
    pub fn enter(uid: u32, gid: u32, groups: &[u32]) -> io::Result<Option<Self>> {
        if (uid, gid) == (0, 0) || !sys::is_root() {
            return Ok(None);
        }
        // A member of the directory's group keeps the set-group-id bit of a file, others lose it (inode_init_owner).
        GROUPS.with_borrow_mut(|current| {
            if current.as_deref() != Some(groups) {
                sys::set_groups(groups)?;
                *current = Some(groups.to_vec());
            }
            io::Result::Ok(())
        })?;
        let user = Self(());
        if !sys::set_fs_ids(uid, gid) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        // The guest's kernel has checked permissions. Here not all groups of the user are known.
        if let Err(error) = caps::raise(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE) {
            log::debug!("no CAP_DAC_OVERRIDE for a shared directory: {error}");
        }
        Ok(Some(user))
    }
}

impl Drop for GuestUser {
    fn drop(&mut self) {
        // This also restores the thread's file capabilities (capabilities(7)).
        assert!(sys::set_fs_ids(0, 0), "a thread that was root can be root again");
    }
}

/// The calling thread's changes to a file drop its set-id bits until this is dropped, as those of an ordinary user do.
#[derive(Debug)]
pub struct OrdinaryUser(());

impl OrdinaryUser {
    /// Gives up CAP_FSETID, if the thread has it in effect.
    pub fn enter() -> io::Result<Option<Self>> {
        let set = Capability::CAP_FSETID;
        if !caps::has_cap(None, CapSet::Effective, set).map_err(io::Error::other)? {
            return Ok(None);
        }
        caps::drop(None, CapSet::Effective, set).map_err(io::Error::other)?;
        Ok(Some(Self(())))
    }
}

impl Drop for OrdinaryUser {
    fn drop(&mut self) {
        caps::raise(None, CapSet::Effective, Capability::CAP_FSETID).expect("a permitted capability can be raised");
    }
}
