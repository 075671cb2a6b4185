//! An OCI `config.json`, as `hutch` gets it from its callers.

use std::collections::BTreeMap;
use std::path::Path;

use hutch_runtime::spec::oci::{classify, container_from_oci, pod_from_oci, Role};
use hutch_runtime::spec::PodConfig;

/// Attacks the readers of OCI configurations.
pub fn attack(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let bundle = Path::new("/bundle");
    let annotations: BTreeMap<String, String> = serde_json::from_str::<serde_json::Value>(text)
        .ok()
        .and_then(|config| serde_json::from_value(config.get("annotations")?.clone()).ok())
        .unwrap_or_default();
    let role = classify(&annotations).unwrap_or(Role::Single);
    if let Ok(container) = container_from_oci("c", bundle, text, &role) {
        let json = serde_json::to_string(&container).expect("a configuration is JSON");
        assert_eq!(
            serde_json::from_str::<hutch_runtime::spec::ContainerConfig>(&json).expect("our own JSON"),
            container
        );
        drop(container.validate());
    }
    if let Ok(pod) = pod_from_oci("c", bundle, text, &role, PodConfig::default()) {
        let json = serde_json::to_string(&pod).expect("a configuration is JSON");
        assert_eq!(serde_json::from_str::<PodConfig>(&json).expect("our own JSON"), pod);
    }
}
