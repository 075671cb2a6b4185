//! Configures the guest's network as the host describes it: interfaces first, then routes and neighbours (P-203). Runs
//! on connection threads, in the calling thread's network namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hutch_agent_proto::{Interface, Neighbour, NetworkSpec, Route};
use hutch_netlink::{
    add_address, add_neighbour, add_route, change_link, Cidr, Link, LinkChange, NeighbourEntry, Netlink, RouteEntry,
};
use nix::errno::Errno;

use crate::failure::{invalid, not_found, system, Outcome};

/// Longest interface name in bytes (`IFNAMSIZ` less the NUL).
const MAX_NAME: usize = 15;

/// Applies `spec`. Checks all of it before it changes anything.
///
/// # Errors
/// `Invalid` for a malformed address or name, `NotFound` for an interface that the guest does not have.
pub fn configure(spec: &NetworkSpec) -> Outcome<()> {
    let checked = Checked::new(spec)?;
    if spec.interfaces.is_empty() && spec.routes.is_empty() && spec.neighbours.is_empty() {
        return Ok(());
    }
    let mut netlink = Netlink::open().map_err(|errno| system("netlink", errno))?;
    for (interface, mac, addresses) in &checked.interfaces {
        configure_interface(&mut netlink, interface, mac, addresses)?;
    }
    let links = links(&mut netlink)?;
    for (route, entry) in checked.routes {
        let entry = RouteEntry { link: index_of(&links, &route.device)?, ..entry };
        set_route(&mut netlink, route, &entry)?;
    }
    for (neighbour, address, mac) in checked.neighbours {
        let entry = NeighbourEntry { link: index_of(&links, &neighbour.device)?, address, mac: mac.to_vec() };
        add_neighbour(&mut netlink, &entry)
            .map_err(|errno| system(format_args!("neighbour {}", neighbour.address), errno))?;
    }
    Ok(())
}

/// Brings the loopback interface up; the kernel adds its addresses.
pub fn loopback_up() -> Outcome<()> {
    let up = || -> Result<(), Errno> {
        // The loopback interface is the first of its namespace.
        change_link(&mut Netlink::open()?, 1, LinkChange { up: Some(true), ..LinkChange::default() })
    };
    up().map_err(|errno| system("bringing up the loopback interface", errno))
}

/// A spec with its texts parsed.
struct Checked<'a> {
    interfaces: Vec<(&'a Interface, [u8; 6], Vec<Cidr>)>,
    routes: Vec<(&'a Route, RouteEntry)>,
    neighbours: Vec<(&'a Neighbour, IpAddr, [u8; 6])>,
}

impl<'a> Checked<'a> {
    fn new(spec: &'a NetworkSpec) -> Outcome<Self> {
        let interfaces = spec.interfaces.iter().map(|interface| {
            check_name(&interface.name)?;
            let addresses = interface.addresses.iter().map(|text| parse_cidr(text)).collect::<Outcome<_>>()?;
            Ok((interface, parse_mac(&interface.mac)?, addresses))
        });
        let routes = spec.routes.iter().map(|route| Ok((route, parse_route(route)?)));
        let neighbours = spec.neighbours.iter().map(|neighbour| {
            check_name(&neighbour.device)?;
            Ok((neighbour, parse_address(&neighbour.address)?, parse_mac(&neighbour.mac)?))
        });
        Ok(Self {
            interfaces: interfaces.collect::<Outcome<_>>()?,
            routes: routes.collect::<Outcome<_>>()?,
            neighbours: neighbours.collect::<Outcome<_>>()?,
        })
    }
}

fn configure_interface(netlink: &mut Netlink, spec: &Interface, mac: &[u8; 6], addresses: &[Cidr]) -> Outcome<()> {
    let name = &spec.name;
    let links = links(netlink)?;
    let link = links.iter().find(|link| link.mac == mac);
    let link =
        link.ok_or_else(|| not_found(format!("interface {name:?}: the guest has none with MAC {}", spec.mac)))?;
    if link.name != *name {
        make_room(netlink, &links, link, name)?;
    }
    let change = LinkChange { name: Some(name), mtu: spec.mtu, up: Some(true) };
    change_link(netlink, link.index, change)
        .map_err(|errno| system(format_args!("setting up interface {name:?}"), errno))?;
    for cidr in addresses {
        add_address(netlink, link.index, *cidr)
            .map_err(|errno| system(format_args!("address {cidr} of {name:?}"), errno))?;
    }
    Ok(())
}

/// Prepares the renaming of `link` to `name`: takes `link` down, and renames the interface that has that name now. (The
/// kernel numbers devices in the order in which it finds them; the spec names the other interface later.)
fn make_room(netlink: &mut Netlink, links: &[Link], link: &Link, name: &str) -> Outcome<()> {
    if link.up {
        take_down(netlink, link)?;
    }
    if let Some(other) = links.iter().find(|other| other.name == name) {
        if other.up {
            take_down(netlink, other)?;
        }
        let spare = format!("hutch{}", other.index);
        let change = LinkChange { name: Some(&spare), ..LinkChange::default() };
        change_link(netlink, other.index, change)
            .map_err(|errno| system(format_args!("renaming interface {name:?}"), errno))?;
    }
    Ok(())
}

fn take_down(netlink: &mut Netlink, link: &Link) -> Outcome<()> {
    change_link(netlink, link.index, LinkChange { up: Some(false), ..LinkChange::default() })
        .map_err(|errno| system(format_args!("taking down {:?}", link.name), errno))
}

fn links(netlink: &mut Netlink) -> Outcome<Vec<Link>> {
    hutch_netlink::links(netlink).map_err(|errno| system("listing interfaces", errno))
}

fn index_of(links: &[Link], device: &str) -> Outcome<u32> {
    let link = links.iter().find(|link| link.name == device);
    link.map(|link| link.index).ok_or_else(|| not_found(format!("the guest has no interface {device:?}")))
}

/// The route of `route`, for an interface whose number is not known yet.
fn parse_route(route: &Route) -> Outcome<RouteEntry> {
    check_name(&route.device)?;
    let optional = |text: &String| (!text.is_empty()).then(|| parse_address(text)).transpose();
    let destination = (!route.destination.is_empty()).then(|| parse_cidr(&route.destination)).transpose()?;
    let (gateway, source) = (optional(&route.gateway)?, optional(&route.source)?);
    let addresses = [destination.map(|cidr| cidr.address), gateway, source];
    let mut families = addresses.iter().flatten().map(IpAddr::is_ipv6);
    let ipv6 = families.next().unwrap_or(false);
    if families.any(|other| other != ipv6) {
        return Err(invalid(format!("route to {:?} mixes IPv4 and IPv6", route.destination)));
    }
    let any = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let destination = destination.unwrap_or(Cidr { address: any, prefix: 0 });
    Ok(RouteEntry { destination, gateway, source, link: 0, scope: route.scope, metric: route.metric })
}

fn set_route(netlink: &mut Netlink, route: &Route, entry: &RouteEntry) -> Outcome<()> {
    let result = match add_route(netlink, entry, false) {
        // A gateway outside the interface's own network, as in point-to-point set-ups.
        Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) if entry.gateway.is_some() => add_route(netlink, entry, true),
        result => result,
    };
    result.map_err(|errno| {
        let destination = if route.destination.is_empty() { "default" } else { &route.destination };
        system(format_args!("route {destination} via {:?} on {}", route.gateway, route.device), errno)
    })
}

fn parse_address(text: &str) -> Outcome<IpAddr> {
    text.parse().map_err(|_| invalid(format!("{text:?} is not an IP address")))
}

/// `address/prefix`; without a prefix it is a single host.
fn parse_cidr(text: &str) -> Outcome<Cidr> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (parse_address(address)?, Some(prefix)),
        None => (parse_address(text)?, None),
    };
    let longest = if address.is_ipv6() { 128 } else { 32 };
    let in_range = |digits: &str| digits.parse().ok().filter(|&prefix| prefix <= longest && !digits.starts_with('+'));
    let prefix = prefix.map_or(Some(longest), in_range);
    let prefix = prefix.ok_or_else(|| invalid(format!("{text:?}: the prefix is not 0 to {longest}")))?;
    Ok(Cidr { address, prefix })
}

fn parse_mac(text: &str) -> Outcome<[u8; 6]> {
    let hex = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let octet = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| hex(part));
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    let mac = octets.and_then(|octets| octets.try_into().ok());
    mac.ok_or_else(|| invalid(format!("{text:?} is not a MAC address (aa:bb:cc:dd:ee:ff)")))
}

fn check_name(name: &str) -> Outcome<()> {
    let good = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    if (1..=MAX_NAME).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(good) {
        return Ok(());
    }
    Err(invalid(format!("{name:?} is not an interface name of 1 to {MAX_NAME} characters")))
}

#[cfg(test)]
#[path = "net_tests.rs"]
mod tests;
