//! Namespaces in memory.

use super::fake_host::FakeHost;
use hutch_runtime::backend::{BackendError, BackendResult, Namespace, Network};
use hutch_runtime::network::Endpoint;
use hutch_runtime::spec::NetworkConfig;

impl Network for FakeHost {
    fn plan(&self, pod: &str, config: &NetworkConfig) -> BackendResult<Namespace> {
        self.called("network.plan", pod, |_| {
            Ok(match &config.namespace {
                Some(path) => Namespace { path: Some(path.clone()), created: false },
                None => Namespace { path: Some(self.namespace(pod)), created: true },
            })
        })
    }

    fn create(&self, pod: &str, namespace: &Namespace, _: &NetworkConfig) -> BackendResult<()> {
        self.called("network.create", pod, |state| {
            state.namespaces.extend(namespace.path.clone());
            Ok(())
        })
    }

    fn run(&self, namespace: &Namespace, job: &mut (dyn FnMut() + Send)) -> BackendResult<()> {
        let path = namespace.path.clone().unwrap_or_default();
        self.called("network.run", "", |state| match state.namespaces.contains(&path) || !namespace.created {
            true => Ok(()),
            false => Err(BackendError::Refused(format!("no namespace {}", path.display()))),
        })?;
        // A thread of its own, as in the product (P-065).
        std::thread::scope(|scope| {
            scope.spawn(job);
        });
        Ok(())
    }

    fn scan(&self, _: &str, namespace: &Namespace, _: &NetworkConfig) -> BackendResult<Vec<Endpoint>> {
        let path = namespace.path.clone().unwrap_or_default();
        self.called("network.scan", "", |state| {
            let made = state.made_by_hooks.iter().filter(|(file, at, _)| *at == path && file.exists());
            let made: Vec<Endpoint> = made.map(|(_, _, endpoint)| endpoint.clone()).collect();
            Ok(state.interfaces.get(&path).into_iter().flatten().cloned().chain(made).collect())
        })
    }

    fn attach(&self, namespace: &Namespace, endpoint: &Endpoint) -> BackendResult<()> {
        self.called("network.attach", &endpoint.name, |state| {
            state.attached.insert((namespace.path.clone().unwrap_or_default(), endpoint.name.clone()));
            Ok(())
        })
    }

    fn detach(&self, namespace: &Namespace, endpoint: &Endpoint) -> BackendResult<()> {
        self.called("network.detach", &endpoint.name, |state| {
            let path = namespace.path.clone().unwrap_or_default();
            state.attached.remove(&(path, endpoint.name.clone()));
            Ok(())
        })
    }

    fn delete(&self, pod: &str, namespace: &Namespace) -> BackendResult<()> {
        self.called("network.delete", pod, |state| {
            if state.vm_of(pod).is_some() {
                state.violations.push(format!("namespace of {pod} deleted under its machine"));
            }
            if let Some(path) = &namespace.path {
                if !namespace.created {
                    state.violations.push(format!("foreign namespace {} deleted", path.display()));
                }
                state.namespaces.remove(path);
            }
            Ok(())
        })
    }
}
