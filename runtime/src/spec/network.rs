//! Network configuration of a pod.

use std::net::IpAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{need_absolute, NetworkKind};
use crate::error::{Error, Result};

/// Network configuration of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkConfig {
    /// The pod's connection to the network.
    #[serde(rename = "type")]
    pub kind: NetworkKind,
    /// Path of an existing namespace; absent: the runtime creates one and deletes it at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<PathBuf>,
    /// Ports of the host that are forwarded to the guest (type `nat` only).
    pub publish: Vec<PortForward>,
    /// Lines of the guest's /etc/resolv.conf.
    pub dns: Vec<String>,
}

/// Transport protocol of a forwarded port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that is forwarded to a port of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortForward {
    /// IPv4 address of the host; absent: all IPv4 addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_address: Option<IpAddr>,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the guest.
    pub guest_port: u16,
    /// TCP unless given.
    #[serde(default)]
    pub protocol: Protocol,
}

impl PortForward {
    /// Parses `[ADDRESS:]HOST:GUEST[/tcp|/udp]`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for another form and for port 0.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("port {text:?}"), "is not of the form [ADDRESS:]HOST:GUEST[/tcp|/udp]");
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let (front, guest) = ports.rsplit_once(':').ok_or_else(bad)?;
        let (address, host) = match front.rsplit_once(':') {
            Some((address, host)) => (Some(address.trim_matches(['[', ']'])), host),
            None => (None, front),
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0).ok_or_else(bad);
        let host_address = address.map(|address| address.parse().map_err(|_| bad())).transpose()?;
        Ok(Self { host_address, host_port: port(host)?, guest_port: port(guest)?, protocol })
    }
}

impl NetworkConfig {
    /// Checks that the fields fit together.
    pub fn validate(&self) -> Result<()> {
        if let Some(namespace) = &self.namespace {
            need_absolute("network.namespace", namespace)?;
            if self.kind != NetworkKind::Scan {
                return Err(Error::invalid("network.namespace", "only network type scan takes an existing namespace"));
            }
        }
        if !self.publish.is_empty() && self.kind != NetworkKind::Nat {
            return Err(Error::invalid("network.publish", "only network type nat can forward ports"));
        }
        for (index, forward) in self.publish.iter().enumerate() {
            if let Some(address @ IpAddr::V6(_)) = forward.host_address {
                return Err(Error::invalid(
                    format!("network.publish [{address}]:{}", forward.host_port),
                    "has an IPv6 address, and network type nat forwards IPv4 only; give an IPv4 address or none",
                ));
            }
            let same = |other: &PortForward| {
                other.host_port == forward.host_port
                    && other.protocol == forward.protocol
                    && (other.host_address == forward.host_address
                        || other.host_address.is_none()
                        || forward.host_address.is_none())
            };
            if self.publish[..index].iter().any(same) {
                return Err(Error::invalid(format!("network.publish {}", forward.host_port), "is given twice"));
            }
        }
        Ok(())
    }
}
