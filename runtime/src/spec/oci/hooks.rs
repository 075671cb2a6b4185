//! Hooks of an OCI configuration in the form of a pod's.

use oci_spec::runtime as oci_runtime;

use crate::spec::HookSpec;

/// Hooks in the form of a pod's configuration; an absent list has none.
pub(crate) fn hook_specs(hooks: &Option<Vec<oci_runtime::Hook>>) -> Vec<HookSpec> {
    hooks.iter().flatten().map(hook_spec).collect()
}

fn hook_spec(hook: &oci_runtime::Hook) -> HookSpec {
    HookSpec {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone().unwrap_or_default(),
        timeout: hook.timeout().and_then(|secs| u64::try_from(secs).ok()).unwrap_or(0),
    }
}
