//! Static entries of the neighbour tables (ARP and NDP).

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, ParseableParametrized, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessageBuffer, NeighbourState,
};
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;

use crate::address::{family, octets};
use crate::socket::Plain;
use crate::Netlink;

/// A static entry: the link-layer address of an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighbourEntry {
    /// Number of the interface.
    pub link: u32,
    /// IP address of the neighbour.
    pub address: IpAddr,
    /// Link-layer address of the neighbour.
    pub mac: Vec<u8>,
}

/// Adds a static entry, or changes the one that exists.
pub fn add_neighbour(netlink: &mut Netlink, entry: &NeighbourEntry) -> Result<(), Errno> {
    let header = NeighbourHeader {
        family: family(entry.address),
        ifindex: entry.link,
        state: NeighbourState::Permanent,
        ..NeighbourHeader::default()
    };
    let attributes = vec![
        DefaultNla::new(libc::NDA_DST, octets(entry.address)),
        DefaultNla::new(libc::NDA_LLADDR, entry.mac.clone()),
    ];
    netlink.execute(libc::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &Plain { header, attributes })
}

/// Lists the static entries, without those for multicast addresses, which the kernel makes.
pub fn neighbours(netlink: &mut Netlink) -> Result<Vec<NeighbourEntry>, Errno> {
    let mut found = Vec::new();
    netlink.dump(libc::RTM_GETNEIGH, &NeighbourHeader::default(), |kind, body| {
        if kind == libc::RTM_NEWNEIGH {
            found.extend(parse(body));
        }
    })?;
    Ok(found)
}

fn parse(body: &[u8]) -> Option<NeighbourEntry> {
    let message = NeighbourMessageBuffer::new_checked(body).ok()?;
    let family = AddressFamily::from(message.family());
    if message.state() & u16::from(NeighbourState::Permanent) == 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in message.attributes().map_while(Result::ok) {
        match NeighbourAttribute::parse_with_param(&attribute, family) {
            Ok(NeighbourAttribute::Destination(NeighbourAddress::Inet(found))) => address = Some(IpAddr::V4(found)),
            Ok(NeighbourAttribute::Destination(NeighbourAddress::Inet6(found))) => address = Some(IpAddr::V6(found)),
            Ok(NeighbourAttribute::LinkLayerAddress(found)) => mac = Some(found),
            _ => {}
        }
    }
    let address = address.filter(|address| !address.is_multicast())?;
    Some(NeighbourEntry { link: message.ifindex(), address, mac: mac? })
}
