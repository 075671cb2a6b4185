//! Files that a guest's user creates belong to that user: the serving thread takes on the user's ids for one call.

use std::io;

use caps::{CapSet, Capability};

use super::sys;

/// The calling thread acts for a user of the guest until this is dropped.
#[derive(Debug)]
pub struct GuestUser(());

impl GuestUser {
    /// Takes on the ids of a user. `None` if that is not necessary: for root, and in a process that is not root, whose
    /// files all belong to the process's user.
    ///
    /// # Errors
    /// `PermissionDenied`: the id does not exist in this user namespace.
    pub fn enter(uid: u32, gid: u32) -> io::Result<Option<Self>> {
        if (uid, gid) == (0, 0) || !sys::is_root() {
            return Ok(None);
        }
        let user = Self(());
        if !sys::set_fs_ids(uid, gid) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        // The guest's kernel has checked permissions with all groups of the user. Only one group is known here.
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
