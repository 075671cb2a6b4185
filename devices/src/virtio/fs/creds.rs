//! Files that a guest's user makes belong to that user: the serving thread is that user for the time of one call.

use std::io;

use caps::{CapSet, Capability};

use super::sys;

/// The calling thread acts for a user of the guest until this is dropped.
#[derive(Debug)]
pub struct GuestUser(());

impl GuestUser {
    /// `None` when nothing has to be changed: for root, and in a process that is not root itself, whose files are all
    /// its own user's.
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
        // The guest's kernel has checked permissions with all of the user's groups, of which only one is known here.
        if let Err(error) = caps::raise(None, CapSet::Effective, Capability::CAP_DAC_OVERRIDE) {
            log::debug!("no CAP_DAC_OVERRIDE for a shared directory: {error}");
        }
        Ok(Some(user))
    }
}

impl Drop for GuestUser {
    fn drop(&mut self) {
        // This brings the thread's file capabilities back too (capabilities(7)).
        assert!(sys::set_fs_ids(0, 0), "a thread that was root can be root again");
    }
}
