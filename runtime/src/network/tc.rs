//! Kernel networking: each interface of a namespace is joined to a tap of the machine by redirection in both
//! directions, so that the guest takes the interface's place (model tc-filter).
//!
//! ```text
//!   outside ──▶ eth0 ─ ingress: redirect ──▶ htapN ──▶ VMM, guest
//!   outside ◀── eth0 ◀── redirect: ingress ─ htapN ◀── VMM, guest
//! ```
//!
//! Packets never reach the namespace's own stack, so addresses can stay on the interface: only the guest answers.

use std::io;
use std::path::PathBuf;

use hutch_agent_proto::{Neighbour, Route};
use hutch_netlink::{
    add_ingress, addresses, change_link, delete_ingress, delete_link, delete_redirect, has_ingress, links, neighbours,
    redirect, routes, Link, LinkChange, NeighbourEntry, Netlink, RouteEntry,
};

use super::tap::make_tap;
use super::{namespace, nat, Endpoint, EndpointKind};
use crate::backend::{run_in_namespace, BackendError, BackendResult, Namespace, Network};
use crate::spec::{NetworkConfig, NetworkKind};

/// Namespaces and endpoints in the kernel. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
#[derive(Debug, Clone)]
pub struct TcNetwork {
    dir: PathBuf,
    /// File that is locked while the host's forwarding is changed.
    lock: PathBuf,
}

/// The lock of all roots of this host: forwarding is a setting of the whole host.
const HOST_LOCK: &str = "/run/hutch/forwarding.lock";

impl TcNetwork {
    /// Binds the namespaces of pods below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), lock: HOST_LOCK.into() }
    }

    /// The same with a lock of its own, for a host in which nothing else uses hutch.
    #[cfg(test)]
    pub(super) fn with_lock(self, lock: PathBuf) -> Self {
        Self { lock, ..self }
    }
}

fn fail(what: &str, endpoint: &str, error: io::Error) -> BackendError {
    BackendError::system(format!("interface {endpoint}: {what}"), error)
}

/// Name of the tap for the interface with this index.
fn tap_name(index: u32) -> String {
    format!("htap{index}")
}

fn mac_text(mac: &[u8]) -> String {
    let hex: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(":")
}

/// The route in the form of the agent protocol. A default route has an empty destination: its gateway identifies the
/// family. Without a gateway the destination is written out.
fn route_of(link: &Link, route: &RouteEntry) -> Route {
    let is_default = route.destination.prefix == 0 && route.gateway.is_some();
    Route {
        destination: if is_default { String::new() } else { route.destination.to_string() },
        gateway: route.gateway.map(|address| address.to_string()).unwrap_or_default(),
        device: link.name.clone(),
        source: route.source.map(|address| address.to_string()).unwrap_or_default(),
        scope: route.scope,
        metric: route.metric,
    }
}

fn neighbour_of(link: &Link, entry: &NeighbourEntry) -> Neighbour {
    Neighbour { address: entry.address.to_string(), mac: mac_text(&entry.mac), device: link.name.clone() }
}

impl Network for TcNetwork {
    fn plan(&self, pod: &str, config: &NetworkConfig) -> BackendResult<Namespace> {
        match &config.namespace {
            Some(path) if namespace::exists(path) => Ok(Namespace { path: Some(path.clone()), created: false }),
            Some(path) => Err(BackendError::Refused(format!("{} is not a network namespace", path.display()))),
            None => Ok(Namespace { path: Some(self.dir.join(pod)), created: true }),
        }
    }

    fn create(&self, pod: &str, planned: &Namespace, config: &NetworkConfig) -> BackendResult<()> {
        let Some(path) = &planned.path else { return Ok(()) };
        namespace::make(path)
            .map_err(|e| BackendError::system(format!("make the network namespace {}", path.display()), e))?;
        if config.kind == NetworkKind::Nat {
            let connected = nat::connect(pod, path, config, &self.lock);
            if connected.is_err() {
                let _ = self.delete(pod, planned);
            }
            connected?;
        }
        Ok(())
    }

    fn scan(&self, _: &str, _: &Namespace, _: &NetworkConfig) -> BackendResult<Vec<Endpoint>> {
        let look = || -> io::Result<Vec<Endpoint>> {
            let mut netlink = Netlink::open()?;
            let all = links(&mut netlink)?;
            let addresses = addresses(&mut netlink)?;
            let routes = routes(&mut netlink)?;
            let neighbours = neighbours(&mut netlink)?;
            // If its tap exists, the discipline is ours.
            let is_joined = |link: &Link| all.iter().any(|other| other.name == tap_name(link.index));
            let mut foreign = Vec::new();
            for link in all.iter().filter(|link| !is_joined(link)) {
                if has_ingress(&mut netlink, link.index)? {
                    foreign.push(link.index);
                }
            }
            let plan = |link: &Link| {
                let mine = addresses.iter().filter(|address| address.link == link.index);
                let mine: Vec<String> = mine.map(|address| address.cidr.to_string()).collect();
                (!link.loopback && !link.mac.is_empty() && !mine.is_empty()).then(|| Endpoint {
                    kind: EndpointKind::Tap { tap: tap_name(link.index), keep_ingress: foreign.contains(&link.index) },
                    name: link.name.clone(),
                    mac: mac_text(&link.mac),
                    mtu: link.mtu,
                    addresses: mine,
                    routes: routes
                        .iter()
                        .filter(|route| route.link == link.index)
                        .map(|route| route_of(link, route))
                        .collect(),
                    neighbours: neighbours
                        .iter()
                        .filter(|entry| entry.link == link.index)
                        .map(|entry| neighbour_of(link, entry))
                        .collect(),
                })
            };
            Ok(all.iter().filter_map(plan).collect())
        };
        look().map_err(|e| BackendError::system("list the interfaces of the namespace", e))
    }

    fn attach(&self, _: &Namespace, endpoint: &Endpoint) -> BackendResult<()> {
        let EndpointKind::Tap { tap, .. } = &endpoint.kind;
        let join = || -> io::Result<()> {
            make_tap(tap)?;
            let mut netlink = Netlink::open()?;
            let all = links(&mut netlink)?;
            let index = |name: &str| {
                let found = all.iter().find(|link| link.name == name).map(|link| link.index);
                found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {name}")))
            };
            let (outside, inside) = (index(&endpoint.name)?, index(tap)?);
            change_link(&mut netlink, inside, LinkChange { mtu: endpoint.mtu, up: Some(true), name: None })?;
            add_ingress(&mut netlink, outside)?;
            add_ingress(&mut netlink, inside)?;
            redirect(&mut netlink, outside, inside)?;
            redirect(&mut netlink, inside, outside)?;
            Ok(())
        };
        join().map_err(|e| fail("join it to a tap", &endpoint.name, e))
    }

    fn detach(&self, given: &Namespace, endpoint: &Endpoint) -> BackendResult<()> {
        let EndpointKind::Tap { tap, keep_ingress } = &endpoint.kind;
        // A namespace that is gone has taken its interfaces with it.
        let Some(path) = given.path.as_deref().filter(|path| namespace::exists(path)) else { return Ok(()) };
        let mut result = Ok(());
        run_in_namespace(Some(path), &mut || result = part(&endpoint.name, tap, *keep_ingress))?;
        result.map_err(|e| fail("detach it from its tap", &endpoint.name, e))
    }

    fn delete(&self, _: &str, made: &Namespace) -> BackendResult<()> {
        let Some(path) = made.path.as_deref().filter(|_| made.created) else { return Ok(()) };
        nat::disconnect(path, &self.lock)?;
        namespace::remove(path)
            .map_err(|e| BackendError::system(format!("delete the network namespace {}", path.display()), e))
    }
}

/// Runs inside the namespace: gives the interface its packets back, then deletes the tap. The tap goes last because it
/// identifies the filter that is ours.
fn part(name: &str, tap: &str, keep_ingress: bool) -> io::Result<()> {
    let mut netlink = Netlink::open()?;
    let all = links(&mut netlink)?;
    let index = |name: &str| all.iter().find(|link| link.name == name).map(|link| link.index);
    match (index(name), index(tap)) {
        (Some(outside), _) if !keep_ingress => delete_ingress(&mut netlink, outside)?,
        (Some(outside), Some(inside)) if has_ingress(&mut netlink, outside)? => {
            delete_redirect(&mut netlink, outside, inside)?;
        }
        _ => {}
    }
    match index(tap) {
        Some(inside) => Ok(delete_link(&mut netlink, inside)?),
        None => Ok(()),
    }
}
