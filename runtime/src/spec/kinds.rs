//! Names of the implementations that a pod can choose. An unknown name is refused, never replaced (P-005).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

macro_rules! kinds {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Name in configurations.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// # Errors
            /// [`Error::InvalidConfig`] for an unknown name (P-005).
            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($text => Ok($name::$variant),)*
                    _ => Err(Error::invalid(
                        format!(concat!($what, " type {:?}"), text),
                        concat!("is unknown; known are:" $(, " ", $text)*),
                    )),
                }
            }
        }
    };
}

kinds! {
    /// The machine monitor of the pod.
    HypervisorKind, "hypervisor" {
        /// hutch's own.
        #[default]
        Hutch = "hutch",
        /// None: the whole API works, but no guest runs (pod contract, §11).
        None = "none",
    }
}
kinds! {
    /// The agent in the guest.
    AgentKind, "agent" {
        /// hutch's own.
        #[default]
        Hutch = "hutch",
        /// None: every request succeeds without effect.
        None = "none",
    }
}
kinds! {
    /// The proxy between the runtime and the agent's channel. hutch has none, but P-005 requires that unknown names are
    /// refused.
    ProxyKind, "proxy" {
        /// No proxy: vsock needs no multiplexer.
        #[default]
        None = "none",
    }
}
kinds! {
    /// The host process that represents a process of the guest.
    ShimKind, "shim" {
        /// A process of hutch that ends with the guest process.
        #[default]
        Hutch = "hutch",
        /// No process; the PID is 0.
        None = "none",
    }
}
kinds! {
    /// The pod's connection to the network.
    NetworkKind, "network" {
        /// No network and no namespace.
        #[default]
        None = "none",
        /// The interfaces of a given namespace, or of a new one that hooks may fill.
        Scan = "scan",
        /// A namespace of the pod's own with address translation to the host's network.
        Nat = "nat",
    }
}
