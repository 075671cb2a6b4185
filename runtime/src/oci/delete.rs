//! Delete by container id (P-194).

use crate::error::{Error, Object, Result};
use crate::pod::StopOptions;
use crate::runtime::Runtime;
use crate::state::State;
use crate::verb::Verb;

impl Runtime {
    /// Deletes a container that does not run; with `force` a running one too. A sandbox goes with its whole pod, a
    /// member alone.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]; [`Error::WrongState`] for a running or paused one without `force`; else as the calls
    /// behind it.
    ///
    /// # Examples
    /// See [`Runtime::oci_create`].
    pub fn oci_delete(&self, id: &str, force: bool) -> Result<()> {
        let found = self.find_container(id)?;
        let state = self.status_container(&found.pod, id)?.state;
        let lives = matches!(state, Some(State::Running | State::Paused));
        if lives && !force {
            return Err(Error::WrongState {
                object: Object::Container(id.into()),
                have: state.map_or("none", State::name).into(),
                needed: "ready or stopped",
                verb: Verb::DeleteContainer,
            });
        }
        if found.is_sandbox() {
            self.stop_pod(&found.pod, StopOptions { force, ..StopOptions::without_signal() })?;
            self.delete_pod(&found.pod, Default::default()).map(drop)
        } else {
            if lives {
                self.stop_container(&found.pod, id, StopOptions::forced())?;
            }
            self.delete_container(&found.pod, id).map(drop)
        }
    }
}
