//! CreatePod (pod contract, §6.1).

use std::fs::File;
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::{ContainerId, PodId};
use crate::logger;
use crate::pod::boot::PodStep;
use crate::pod::{OpenPod, PodHandle};
use crate::runtime::Runtime;
use crate::spec::{ContainerConfig, HypervisorKind, PodConfig};
use crate::undo::Undo;

impl Runtime {
    /// Creates a pod: boots its machine, sets the guest up, creates the configured containers. Nothing of the workload
    /// runs yet (P-060). Holds the pod's lock throughout (P-021).
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] and [`Error::AlreadyExists`] before anything is made; any other failure after
    /// everything made was rolled back (P-067), so that the id is free and a corrected attempt can succeed.
    ///
    /// # Examples
    /// ```
    /// # use hutch_runtime_fakes::FakeHost;
    /// # let host = FakeHost::new();
    /// # let runtime = host.runtime();
    /// let config = host.pod("web", &["server"]);
    /// let pod = runtime.create_pod(config)?;
    /// assert_eq!(pod.id(), "web");
    /// assert_eq!(runtime.status_pod("web")?.state, Some(hutch_runtime::State::Ready));
    /// # Ok::<(), hutch_runtime::Error>(())
    /// ```
    pub fn create_pod(&self, config: PodConfig) -> Result<PodHandle> {
        let id = PodId::new(&config.id)?;
        let dirs = self.store().pod(&id);
        // Before anything else: a directory of others is left alone, and an id that is taken is reported as such
        // whatever the configuration is like.
        self.store().check_owner(&dirs)?;
        if self.store().exists(&dirs)? {
            return Err(Error::AlreadyExists(crate::error::Object::Pod(config.id)));
        }
        let mut config = config;
        self.options().assets.apply(&mut config)?;
        let mut config = config.complete()?;
        config.containers.iter_mut().try_for_each(ContainerConfig::load_files)?;
        config.containers.iter_mut().for_each(|container| container.command.stdio = container.command.stdio.renewed());
        dirs.check_socket_paths()?;
        check_assets(&config)?;
        let lock = self.store().lock_new(&id, self.options().lock_timeout)?;
        // Leftovers of an earlier attempt go first: they could make this one fail.
        self.store().check_removable(&dirs)?;
        OpenPod::of_leftovers(self, &id).discard_contents()?;
        let wanted = config.containers.clone();
        let mut pod = OpenPod::fresh(self, lock, id, PodConfig { containers: Vec::new(), ..config });
        let mut undo = Undo::new();
        match pod.create(wanted, &mut undo) {
            Ok(()) => Ok(PodHandle::new(&pod)),
            Err(error) => {
                pod.roll_back(undo);
                Err(error)
            }
        }
    }
}

impl OpenPod<'_> {
    fn create(&mut self, wanted: Vec<ContainerConfig>, undo: &mut Undo<PodStep>) -> Result<()> {
        undo.push(PodStep::Directories);
        wanted.iter().try_for_each(|config| self.check_devices(config))?;
        self.store().make_config_dir(&self.id)?;
        self.put_state()?;
        // Known before the boot, because they decide the size of a machine that cannot grow.
        self.config.containers = wanted.clone();
        self.boot(undo)?;
        for config in wanted {
            undo.push(PodStep::Container(ContainerId::new(&config.id)?));
            self.add_container(config)?;
        }
        self.for_each_container(|container| container.put_config())?;
        self.state.poststop_due = !self.config.hooks.poststop.is_empty();
        self.put_state()?;
        // Last: this is what makes it a pod (P-014).
        self.put_config()
    }

    /// Undoes the steps, newest first. Failures are logged: the caller gets the error that led here, and the next call
    /// on this id removes the rest.
    fn roll_back(&mut self, undo: Undo<PodStep>) {
        for step in undo.newest_first() {
            let result = match step {
                PodStep::Container(ref id) => match self.container(id) {
                    Ok(mut container) => container.roll_back(),
                    // Its creation failed before that.
                    Err(_) => Ok(()),
                },
                PodStep::Machine | PodStep::Network => self.roll_back_boot(&step),
                PodStep::Directories => self.discard(),
            };
            if let Err(error) = result {
                logger::warn!("pod {}: rolling back its creation ({step:?}): {}", self.id, error.chain());
            }
        }
    }
}

/// Boot assets are checked when a pod is created, and never again (P-045).
fn check_assets(config: &PodConfig) -> Result<()> {
    let machine = &config.hypervisor;
    if machine.kind == HypervisorKind::None {
        return Ok(());
    }
    let assets = [
        ("hypervisor.kernel", Some(&machine.kernel)),
        ("hypervisor.image", machine.image.as_ref()),
        ("hypervisor.initrd", machine.initrd.as_ref()),
        ("hypervisor.firmware", machine.firmware.as_ref()),
        ("hypervisor.vmm", machine.vmm.as_ref()),
    ];
    for (field, path) in assets {
        if let Some(path) = path {
            check_readable(field, path)?;
        }
    }
    Ok(())
}

fn check_readable(field: &str, path: &Path) -> Result<()> {
    let bad = |reason: String| Error::invalid(format!("{field} {}", path.display()), reason);
    let file = File::open(path).map_err(|e| bad(e.to_string()))?;
    match file.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(bad("is a directory".into())),
        Ok(_) => Ok(()),
        Err(e) => Err(bad(e.to_string())),
    }
}
