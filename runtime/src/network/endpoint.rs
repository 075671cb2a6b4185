//! An interface of a pod's network namespace and the way it reaches the guest.

use std::fmt;

use hutch_agent_proto::{Interface, Neighbour, NetworkSpec, Route};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::logger;

/// How an interface of the namespace reaches the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EndpointKind {
    /// A tap device; every packet is redirected between it and the interface.
    Tap {
        /// Name of the tap in the pod's network namespace.
        tap: String,
        /// The interface had an ingress discipline before. It stays, with the filters that are not ours (P-068).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep_ingress: bool,
    },
}

/// An interface of the namespace, its properties, and the way it reaches the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The connection to the guest.
    #[serde(flatten)]
    pub kind: EndpointKind,
    /// Name of the interface, the same in the namespace and in the guest.
    pub name: String,
    /// MAC address that the outside expects; the guest's interface gets it (P-202).
    pub mac: String,
    /// Bytes; copied to the guest (P-202).
    #[serde(default)]
    pub mtu: u32,
    /// IPv4 and IPv6 addresses in CIDR form.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Routes, without those that the kernel adds by itself (P-203).
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Static neighbours (P-203).
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.mac)
    }
}

/// The network set-up for the guest: interfaces first, then routes (P-203).
pub(crate) fn guest_network(endpoints: &[Endpoint], dns: &[String]) -> NetworkSpec {
    NetworkSpec {
        interfaces: endpoints
            .iter()
            .map(|endpoint| Interface {
                name: endpoint.name.clone(),
                mac: endpoint.mac.clone(),
                mtu: endpoint.mtu,
                addresses: endpoint.addresses.clone(),
            })
            .collect(),
        routes: endpoints.iter().flat_map(|endpoint| endpoint.routes.clone()).collect(),
        neighbours: endpoints.iter().flat_map(|endpoint| endpoint.neighbours.clone()).collect(),
        dns: dns.to_vec(),
    }
}

/// Reads a list of endpoints. Skips, with a line in the log, every kind that this program does not know (P-050).
pub(crate) fn known_endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    let values = Vec::<Value>::deserialize(deserializer)?;
    let mut endpoints = Vec::new();
    for value in values {
        let tag = value["type"].as_str().unwrap_or_default().to_owned();
        match serde_json::from_value(value) {
            Ok(endpoint) => endpoints.push(endpoint),
            Err(e) if tag == "tap" => return Err(serde::de::Error::custom(e)),
            Err(_) => logger::warn!("network record: endpoint of unknown kind {tag:?} skipped"),
        }
    }
    Ok(endpoints)
}
