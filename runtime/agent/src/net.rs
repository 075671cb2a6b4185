//! Configures the guest's network as the host describes it: interfaces first, then routes and neighbours (P-203). Runs
//! on connection threads, in the calling thread's network namespace.

use std::net::IpAddr;

use hutch_agent_proto::{Interface, Neighbour, NetworkSpec, Route};
use nix::errno::Errno;

use crate::failure::{invalid, not_found, system, Outcome};
use crate::netlink::{attributes, u32_at, Message, Netlink, Received};

/// Longest interface name in bytes (`IFNAMSIZ` less the NUL).
const MAX_NAME: usize = 15;
/// Bytes of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// Attributes that libc does not name.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// `IFA_F_NODAD`: no one else is on the link, so the address is usable at once.
const IFA_F_NODAD: u8 = 0x02;
const RTPROT_STATIC: u8 = 4;
const RTNH_F_ONLINK: u32 = 4;
const NUD_PERMANENT: u16 = 0x80;
/// Add, or change what is there.
const ADD: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// An address and the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// An interface of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    index: i32,
    name: String,
    mac: Vec<u8>,
    up: bool,
}

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
    for (route, message) in checked.routes {
        add_route(&mut netlink, &links, route, message)?;
    }
    for (neighbour, address, mac) in checked.neighbours {
        let index = index_of(&links, &neighbour.device)?;
        let message = neighbour_message(index, address, &mac);
        netlink
            .request(message, |_| {})
            .map_err(|errno| system(format_args!("neighbour {}", neighbour.address), errno))?;
    }
    Ok(())
}

/// Brings the loopback interface up; its addresses come by themselves.
///
/// # Errors
/// `System`.
pub fn loopback_up() -> Outcome<()> {
    let up = || -> Result<(), Errno> {
        let mut netlink = Netlink::open()?;
        // The loopback interface is the first of its namespace.
        let message = Message::new(libc::RTM_NEWLINK, 0).link(1, libc::IFF_UP as u32, libc::IFF_UP as u32);
        netlink.request(message, |_| {})
    };
    up().map_err(|errno| system("bringing up the loopback interface", errno))
}

/// A spec whose every text has been understood.
struct Checked<'a> {
    interfaces: Vec<(&'a Interface, [u8; 6], Vec<Cidr>)>,
    routes: Vec<(&'a Route, RouteParts)>,
    neighbours: Vec<(&'a Neighbour, IpAddr, [u8; 6])>,
}

impl<'a> Checked<'a> {
    fn new(spec: &'a NetworkSpec) -> Outcome<Self> {
        let interfaces = spec.interfaces.iter().map(|interface| {
            check_name(&interface.name)?;
            let addresses = interface.addresses.iter().map(|text| parse_cidr(text)).collect::<Outcome<_>>()?;
            Ok((interface, parse_mac(&interface.mac)?, addresses))
        });
        let routes = spec.routes.iter().map(|route| Ok((route, RouteParts::new(route)?)));
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
    let message = link_message(link.index, name, spec.mtu);
    netlink.request(message, |_| {}).map_err(|errno| system(format_args!("setting up interface {name:?}"), errno))?;
    for cidr in addresses {
        let message = address_message(link.index, *cidr);
        netlink
            .request(message, |_| {})
            .map_err(|errno| system(format_args!("address {}/{} of {name:?}", cidr.address, cidr.prefix), errno))?;
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
        let spare = format!("hutch{}\0", other.index);
        let message =
            Message::new(libc::RTM_NEWLINK, 0).link(other.index, 0, 0).attribute(libc::IFLA_IFNAME, spare.as_bytes());
        netlink.request(message, |_| {}).map_err(|errno| system(format_args!("renaming interface {name:?}"), errno))?;
    }
    Ok(())
}

fn take_down(netlink: &mut Netlink, link: &Link) -> Outcome<()> {
    let message = Message::new(libc::RTM_NEWLINK, 0).link(link.index, 0, libc::IFF_UP as u32);
    netlink.request(message, |_| {}).map_err(|errno| system(format_args!("taking down {:?}", link.name), errno))
}

fn links(netlink: &mut Netlink) -> Outcome<Vec<Link>> {
    let mut links = Vec::new();
    let dump = Message::new(libc::RTM_GETLINK, libc::NLM_F_DUMP).link(0, 0, 0);
    netlink
        .request(dump, |received| links.extend(parse_link(received)))
        .map_err(|errno| system("listing interfaces", errno))?;
    Ok(links)
}

fn parse_link(received: Received) -> Option<Link> {
    if received.kind != libc::RTM_NEWLINK {
        return None;
    }
    let index = u32_at(received.payload, 4)? as i32;
    let up = u32_at(received.payload, 8)? & libc::IFF_UP as u32 != 0;
    let mut link = Link { index, name: String::new(), mac: Vec::new(), up };
    for (kind, value) in attributes(received.payload.get(IFINFOMSG..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_string(),
            libc::IFLA_ADDRESS => link.mac = value.to_vec(),
            _ => {}
        }
    }
    Some(link)
}

fn index_of(links: &[Link], device: &str) -> Outcome<i32> {
    let link = links.iter().find(|link| link.name == device);
    link.map(|link| link.index).ok_or_else(|| not_found(format!("the guest has no interface {device:?}")))
}

/// Name, MTU and "up" in one request; the kernel applies them in that order.
fn link_message(index: i32, name: &str, mtu: u32) -> Message {
    let message = Message::new(libc::RTM_NEWLINK, 0).link(index, libc::IFF_UP as u32, libc::IFF_UP as u32);
    let message = message.attribute(libc::IFLA_IFNAME, format!("{name}\0").as_bytes());
    match mtu {
        0 => message,
        mtu => message.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes()),
    }
}

/// `struct ifaddrmsg` and attributes.
fn address_message(index: i32, Cidr { address, prefix }: Cidr) -> Message {
    let flags = if address.is_ipv6() { IFA_F_NODAD } else { 0 };
    let bytes = octets(address);
    let message = Message::new(libc::RTM_NEWADDR, ADD)
        .put(&[family(address), prefix, flags, libc::RT_SCOPE_UNIVERSE])
        .put(&index.to_ne_bytes())
        .attribute(IFA_LOCAL, &bytes)
        .attribute(IFA_ADDRESS, &bytes);
    match address {
        IpAddr::V4(address) if prefix < 31 => {
            let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            message.attribute(IFA_BROADCAST, &(u32::from(address) | host_bits).to_be_bytes())
        }
        _ => message,
    }
}

/// A route whose texts have been understood.
struct RouteParts {
    destination: Option<Cidr>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    ipv6: bool,
}

impl RouteParts {
    fn new(route: &Route) -> Outcome<Self> {
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
        // 0.0.0.0/0 is the default route written out.
        let destination = destination.filter(|cidr| cidr.prefix != 0);
        Ok(Self { destination, gateway, source, ipv6 })
    }

    /// `struct rtmsg` and attributes.
    fn message(&self, route: &Route, index: i32, flags: u32) -> Message {
        let family = if self.ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let prefix = self.destination.map_or(0, |cidr| cidr.prefix);
        let message = Message::new(libc::RTM_NEWROUTE, ADD)
            .put(&[family, prefix, 0, 0, libc::RT_TABLE_MAIN, RTPROT_STATIC, route.scope, libc::RTN_UNICAST])
            .put(&flags.to_ne_bytes())
            .attribute(RTA_OIF, &index.to_ne_bytes());
        let metric = (route.metric != 0).then(|| route.metric.to_ne_bytes().to_vec());
        let optional = [
            (RTA_DST, self.destination.map(|cidr| octets(cidr.address))),
            (RTA_GATEWAY, self.gateway.map(octets)),
            (RTA_PREFSRC, self.source.map(octets)),
            (RTA_PRIORITY, metric),
        ];
        optional.iter().fold(message, |message, (kind, value)| match value {
            Some(value) => message.attribute(*kind, value),
            None => message,
        })
    }
}

fn add_route(netlink: &mut Netlink, links: &[Link], route: &Route, parts: RouteParts) -> Outcome<()> {
    let index = index_of(links, &route.device)?;
    let result = match netlink.request(parts.message(route, index, 0), |_| {}) {
        // A gateway outside of the interface's own network, as point-to-point set-ups have it.
        Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH) if parts.gateway.is_some() => {
            netlink.request(parts.message(route, index, RTNH_F_ONLINK), |_| {})
        }
        result => result,
    };
    result.map_err(|errno| {
        let destination = if route.destination.is_empty() { "default" } else { &route.destination };
        system(format_args!("route {destination} via {:?} on {}", route.gateway, route.device), errno)
    })
}

/// `struct ndmsg` and attributes.
fn neighbour_message(index: i32, address: IpAddr, mac: &[u8; 6]) -> Message {
    Message::new(libc::RTM_NEWNEIGH, ADD)
        .put(&[family(address), 0, 0, 0])
        .put(&index.to_ne_bytes())
        .put(&NUD_PERMANENT.to_ne_bytes())
        .put(&[0, 0])
        .attribute(NDA_DST, &octets(address))
        .attribute(NDA_LLADDR, mac)
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
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
