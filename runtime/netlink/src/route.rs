//! Routes of the main table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{DefaultNla, ParseableParametrized, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteLwEnCapType, RouteMessageBuffer, RouteProtocol,
    RouteScope, RouteType,
};
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;

use crate::address::{family, octets};
use crate::socket::Plain;
use crate::{Cidr, Netlink};

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// The network that the route leads to; the default route has the prefix 0.
    pub destination: Cidr,
    /// The next hop; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    /// Number of the interface.
    pub link: u32,
    /// `RT_SCOPE_…`
    pub scope: u8,
    /// Priority; lower ones win. 0: the kernel's default.
    pub metric: u32,
}

/// Adds a route, or changes the one that exists. With `on_link` the gateway need not be in a network of the interface.
pub fn add_route(netlink: &mut Netlink, route: &RouteEntry, on_link: bool) -> Result<(), Errno> {
    netlink.execute(libc::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message(route, on_link))
}

fn message(route: &RouteEntry, on_link: bool) -> Plain<RouteHeader> {
    let Cidr { address, prefix } = route.destination;
    let header = RouteHeader {
        address_family: family(address),
        destination_prefix_length: prefix,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::from(route.scope),
        kind: RouteType::Unicast,
        flags: if on_link { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    let attributes = [
        Some((libc::RTA_OIF, route.link.to_ne_bytes().to_vec())),
        (prefix != 0).then(|| (libc::RTA_DST, octets(address))),
        route.gateway.map(|gateway| (libc::RTA_GATEWAY, octets(gateway))),
        route.source.map(|source| (libc::RTA_PREFSRC, octets(source))),
        (route.metric != 0).then(|| (libc::RTA_PRIORITY, route.metric.to_ne_bytes().to_vec())),
    ];
    let attributes = attributes.into_iter().flatten().map(|(kind, value)| DefaultNla::new(kind, value)).collect();
    Plain { header, attributes }
}

/// Lists the unicast routes of the main table, without those that the kernel adds by itself.
pub fn routes(netlink: &mut Netlink) -> Result<Vec<RouteEntry>, Errno> {
    let mut found = Vec::new();
    netlink.dump(libc::RTM_GETROUTE, &RouteHeader::default(), |kind, body| {
        if kind == libc::RTM_NEWROUTE {
            found.extend(parse(body));
        }
    })?;
    Ok(found)
}

fn parse(body: &[u8]) -> Option<RouteEntry> {
    let message = RouteMessageBuffer::new_checked(body).ok()?;
    let (family, kind) = (AddressFamily::from(message.address_family()), RouteType::from(message.kind()));
    let protocol = RouteProtocol::from(message.protocol());
    let any = match family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut link) = (u32::from(message.table()), None);
    let mut route = RouteEntry {
        destination: Cidr { address: any, prefix: message.destination_prefix_length() },
        gateway: None,
        source: None,
        link: 0,
        scope: message.scope(),
        metric: 0,
    };
    for attribute in message.attributes().map_while(Result::ok) {
        // An attribute that the library cannot parse is none of these.
        let Ok(attribute) = RouteAttribute::parse_with_param(&attribute, (family, kind, RouteLwEnCapType::None)) else {
            continue;
        };
        match attribute {
            RouteAttribute::Table(number) => table = number,
            RouteAttribute::Oif(index) => link = Some(index),
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Destination(address) => route.destination.address = ip(&address)?,
            RouteAttribute::Gateway(address) => route.gateway = ip(&address),
            RouteAttribute::PrefSource(address) => route.source = ip(&address),
            _ => {}
        }
    }
    route.link = link?;
    let is_ours = table == RouteHeader::RT_TABLE_MAIN.into() && protocol != RouteProtocol::Kernel;
    (is_ours && kind == RouteType::Unicast).then_some(route)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    #[test]
    fn a_route_that_was_written_can_be_read() {
        let cidr = |text: &str, prefix| Cidr { address: text.parse().unwrap(), prefix };
        for destination in [cidr("0.0.0.0", 0), cidr("10.9.0.0", 16), cidr("::", 0), cidr("fd99::", 48)] {
            let gateway = if destination.address.is_ipv6() { "fd00::1" } else { "10.0.0.1" };
            let route = RouteEntry {
                destination,
                gateway: Some(gateway.parse().unwrap()),
                source: None,
                link: 2,
                scope: 253,
                metric: 7,
            };
            let message = message(&route, true);
            let mut bytes = vec![0; message.buffer_len()];
            message.emit(&mut bytes);
            assert_eq!(bytes[8..12], 4u32.to_ne_bytes(), "RTNH_F_ONLINK");
            assert_eq!(parse(&bytes), Some(route));
        }
    }

    proptest! {
        #[test]
        fn any_route_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
