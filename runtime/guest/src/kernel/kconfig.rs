//! Requests for kernel configurations, and the check that Kconfig has followed them.
//!
//! `make allnoconfig KCONFIG_ALLCONFIG=request` silently drops an option if a dependency is missing or the name is
//! unknown. Here that is an error: a kernel without virtio-mmio would fail much later, without a hint.

use std::collections::BTreeMap;

use super::super::digest::Digest;

/// A request that is malformed or was not followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KconfigError {
    #[error("kernel configuration, line {line}: `{text}` is not CONFIG_NAME=value with value y, n, m, a number or a quoted string")]
    Malformed { line: usize, text: String },
    #[error("kernel configuration, line {line}: CONFIG_{name} was given before")]
    Duplicate { line: usize, name: String },
    #[error("Kconfig did not take {} of the requested options (a dependency is missing, something selects them, or this kernel has no such option): {}", dropped.len(), list(dropped))]
    Dropped { dropped: Vec<Dropped> },
}

fn list(dropped: &[Dropped]) -> String {
    let each = |one: &Dropped| format!("CONFIG_{}={} became {}", one.name, one.asked, one.got);
    dropped.iter().map(each).collect::<Vec<_>>().join(", ")
}

/// An option with another value than requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The option's name, without `CONFIG_`.
    pub name: String,
    /// Requested value.
    pub asked: String,
    /// Value in the finished configuration.
    pub got: String,
}

/// A set of requested options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRequest {
    options: BTreeMap<String, String>,
}

impl KernelRequest {
    /// Reads lines of `CONFIG_NAME=value`, empty lines and comments.
    ///
    /// # Errors
    /// A malformed line, or an option given twice.
    pub fn parse(text: &str) -> Result<KernelRequest, KconfigError> {
        let mut options = BTreeMap::new();
        for (index, text) in text.lines().map(str::trim).enumerate() {
            let line = index + 1;
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (name, value) = option(text)
                .filter(|(_, value)| is_value(value))
                .ok_or_else(|| KconfigError::Malformed { line, text: text.to_owned() })?;
            if options.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(KconfigError::Duplicate { line, name: name.to_owned() });
            }
        }
        Ok(KernelRequest { options })
    }

    /// Compares with a finished `.config`.
    ///
    /// # Errors
    /// [`KconfigError::Dropped`] with every option whose value is another one.
    pub fn check(&self, dot_config: &str) -> Result<(), KconfigError> {
        let finished: BTreeMap<&str, &str> = dot_config.lines().filter_map(option).collect();
        let mut dropped = Vec::new();
        for (name, asked) in &self.options {
            let got = finished.get(name.as_str()).copied().unwrap_or("n");
            if got != asked {
                dropped.push(Dropped { name: name.clone(), asked: asked.clone(), got: got.to_owned() });
            }
        }
        if dropped.is_empty() {
            Ok(())
        } else {
            Err(KconfigError::Dropped { dropped })
        }
    }

    /// Sum of the request; comments and order do not count.
    pub fn digest(&self) -> Digest {
        let mut text = String::new();
        for (name, value) in &self.options {
            text.push_str(&format!("CONFIG_{name}={value}\n"));
        }
        Digest::of(text.as_bytes())
    }

    /// Requested value of `name` (without `CONFIG_`).
    pub fn get(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }
}

fn option(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    plain.then_some((name, value))
}

fn is_value(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let hex = value.strip_prefix("0x").unwrap_or_default();
    matches!(value, "y" | "n" | "m")
        || (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
        || (!hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit()))
        || (value.len() >= 2
            && value.starts_with('"')
            && value.ends_with('"')
            && !value[1..value.len() - 1].contains('"'))
}

#[cfg(test)]
mod tests {
    use super::super::GUEST_CONFIG;
    use super::*;

    #[test]
    fn an_option_that_did_not_take_effect_is_reported() {
        let request =
            KernelRequest::parse("# why\nCONFIG_A=y\nCONFIG_B=n\n\nCONFIG_C=64\nCONFIG_D=\"x y\"\nCONFIG_E=y\n")
                .unwrap();
        let finished = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=64\nCONFIG_D=\"x y\"\nCONFIG_E=y\nCONFIG_F=y\n";
        assert_eq!(request.check(finished), Ok(()));
        let finished = "CONFIG_B=y\nCONFIG_C=8\nCONFIG_D=\"x y\"\n# CONFIG_E is not set\n";
        let Err(KconfigError::Dropped { dropped }) = request.check(finished) else { panic!("not reported") };
        let names: Vec<_> = dropped.iter().map(|one| (one.name.as_str(), one.got.as_str())).collect();
        assert_eq!(names, [("A", "n"), ("B", "y"), ("C", "8"), ("E", "n")]);
    }

    #[test]
    fn malformed_lines_and_repetitions_are_refused() {
        for text in [
            "A=y",
            "CONFIG_A",
            "CONFIG_A=",
            "CONFIG_=y",
            "CONFIG_A=yes",
            "CONFIG_A B=y",
            "CONFIG_A=\"",
            "CONFIG_A=\"a\"b\"",
        ] {
            assert!(matches!(KernelRequest::parse(text), Err(KconfigError::Malformed { line: 1, .. })), "{text}");
        }
        let twice = KernelRequest::parse("CONFIG_A=y\nCONFIG_A=n");
        assert_eq!(twice, Err(KconfigError::Duplicate { line: 2, name: "A".into() }));
    }

    #[test]
    fn comments_and_order_do_not_change_the_sum() {
        let sum = |text| KernelRequest::parse(text).unwrap().digest();
        assert_eq!(sum("CONFIG_A=y\n# x\nCONFIG_B=n"), sum("CONFIG_B=n\nCONFIG_A=y"));
        assert_ne!(sum("CONFIG_A=y"), sum("CONFIG_A=n"));
    }

    #[test]
    fn the_shipped_configuration_is_well_formed() {
        let guest = KernelRequest::parse(GUEST_CONFIG).unwrap();
        for name in ["VIRTIO_MMIO", "VIRTIO_VSOCKETS", "VIRTIO_FS", "OVERLAY_FS", "PVH", "KVM_GUEST"] {
            assert_eq!(guest.get(name), Some("y"), "{name}");
        }
        // `GuestAssets::can_grow` relies on these.
        for name in ["VIRTIO_MEM", "MEMORY_HOTPLUG", "MHP_DEFAULT_ONLINE_TYPE_ONLINE_AUTO"] {
            assert_eq!(guest.get(name), Some("y"), "{name}");
        }
        assert_eq!(guest.get("MODULES"), Some("n"));
    }
}
