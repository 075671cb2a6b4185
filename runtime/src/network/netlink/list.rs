//! What there is: links, addresses, routes, neighbours.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hutch_agent_proto::{Neighbour, Route};

use super::message::{attributes, find, text, u16_at, u32_at, Request};
use super::socket::{Netlink, DUMP, REQUEST};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// struct ifinfomsg, ifaddrmsg, rtmsg, ndmsg.
const IFINFO: usize = 16;
const IFADDR: usize = 8;
const RTMSG: usize = 12;
const NDMSG: usize = 12;

const IFF_LOOPBACK: u32 = 0x8;
const RT_SCOPE_LINK: u8 = 253;
const RT_TABLE_MAIN: u32 = 254;
const RTPROT_KERNEL: u8 = 2;
const RTN_UNICAST: u8 = 1;
const NUD_PERMANENT: u16 = 0x80;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// `aa:bb:cc:dd:ee:ff`; empty if it has none.
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) loopback: bool,
}

/// All interfaces, in the kernel's order (P-201).
pub(crate) fn links(netlink: &mut Netlink) -> io::Result<Vec<Link>> {
    let mut found = Vec::new();
    netlink.dump(Request::new(RTM_GETLINK, REQUEST | DUMP, &[0; IFINFO]), |kind, body| {
        let (Some(index), Some(flags)) = (u32_at(body, 4), u32_at(body, 8)) else { return };
        let list = attributes(body, IFINFO);
        let Some(name) = find(&list, IFLA_IFNAME).filter(|_| kind == RTM_NEWLINK) else { return };
        found.push(Link {
            index,
            name: text(name),
            mac: find(&list, IFLA_ADDRESS).map(mac).unwrap_or_default(),
            mtu: find(&list, IFLA_MTU).and_then(|value| u32_at(value, 0)).unwrap_or(0),
            loopback: flags & IFF_LOOPBACK != 0,
        });
    })?;
    Ok(found)
}

fn mac(bytes: &[u8]) -> String {
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.join(":")
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into())
}

/// Addresses by interface, in CIDR form. Without link-local IPv6 addresses: the guest's kernel makes its own from the
/// same MAC.
pub(crate) fn addresses(netlink: &mut Netlink) -> io::Result<Vec<(u32, String)>> {
    let mut found = Vec::new();
    netlink.dump(Request::new(RTM_GETADDR, REQUEST | DUMP, &[0; IFADDR]), |kind, body| {
        let (Some(&prefix), Some(&scope), Some(index)) = (body.get(1), body.get(3), u32_at(body, 4)) else { return };
        let list = attributes(body, IFADDR);
        // On a point-to-point interface IFA_ADDRESS is the other end.
        let value = find(&list, IFA_LOCAL).or_else(|| find(&list, IFA_ADDRESS)).and_then(address);
        let Some(address) = value.filter(|_| kind == RTM_NEWADDR) else { return };
        if !(address.is_ipv6() && scope == RT_SCOPE_LINK) {
            found.push((index, format!("{address}/{prefix}")));
        }
    })?;
    Ok(found)
}

/// Unicast routes of the main table by interface, without those that the kernel makes by itself (P-203).
pub(crate) fn routes(netlink: &mut Netlink, links: &[Link]) -> io::Result<Vec<Route>> {
    let mut found = Vec::new();
    netlink.dump(Request::new(RTM_GETROUTE, REQUEST | DUMP, &[0; RTMSG]), |kind, body| {
        let &[_, prefix, _, _, table, protocol, scope, what] = body.get(..8).unwrap_or_default() else { return };
        let list = attributes(body, RTMSG);
        let table = find(&list, RTA_TABLE).and_then(|value| u32_at(value, 0)).unwrap_or(table.into());
        if kind != RTM_NEWROUTE || table != RT_TABLE_MAIN || protocol == RTPROT_KERNEL || what != RTN_UNICAST {
            return;
        }
        let output = find(&list, RTA_OIF).and_then(|value| u32_at(value, 0));
        let Some(link) = links.iter().find(|link| Some(link.index) == output) else { return };
        let ip = |kind| find(&list, kind).and_then(address).map(|address| address.to_string());
        let number = |kind| find(&list, kind).and_then(|value| u32_at(value, 0)).unwrap_or(0);
        let gateway = ip(RTA_GATEWAY).unwrap_or_default();
        // The default route of either family has no destination; the gateway tells which it is. Without one the
        // destination has to.
        let family_any = if body.first() == Some(&(libc::AF_INET6 as u8)) { "::" } else { "0.0.0.0" };
        let destination = match ip(RTA_DST) {
            Some(destination) => format!("{destination}/{prefix}"),
            None if gateway.is_empty() => format!("{family_any}/0"),
            None => String::new(),
        };
        found.push(Route {
            destination,
            gateway,
            device: link.name.clone(),
            source: ip(RTA_PREFSRC).unwrap_or_default(),
            scope,
            metric: number(RTA_PRIORITY),
        });
    })?;
    Ok(found)
}

/// Static neighbours (P-203).
pub(crate) fn neighbours(netlink: &mut Netlink, links: &[Link]) -> io::Result<Vec<Neighbour>> {
    let mut found = Vec::new();
    netlink.dump(Request::new(RTM_GETNEIGH, REQUEST | DUMP, &[0; NDMSG]), |kind, body| {
        let (Some(index), Some(state)) = (u32_at(body, 4), u16_at(body, 8)) else { return };
        if kind != RTM_NEWNEIGH || state & NUD_PERMANENT == 0 {
            return;
        }
        let list = attributes(body, NDMSG);
        let link = links.iter().find(|link| link.index == index);
        let (Some(link), Some(address), Some(lladdr)) =
            (link, find(&list, NDA_DST).and_then(address), find(&list, NDA_LLADDR))
        else {
            return;
        };
        // Permanent entries for multicast addresses are the kernel's own.
        if !address.is_multicast() {
            found.push(Neighbour { address: address.to_string(), mac: mac(lladdr), device: link.name.clone() });
        }
    })?;
    Ok(found)
}
