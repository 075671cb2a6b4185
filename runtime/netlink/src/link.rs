//! Network interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{parse_u32, DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage, LinkMessageBuffer,
};
use nix::errno::Errno;

use crate::socket::Plain;
use crate::Netlink;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Number of the interface in its namespace.
    pub index: u32,
    /// Name of the interface, at most 15 bytes.
    pub name: String,
    /// Link-layer address; empty if the interface has none.
    pub mac: Vec<u8>,
    /// Bytes.
    pub mtu: u32,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Whether it is up.
    pub up: bool,
}

/// Lists all interfaces in the kernel's order.
pub fn links(netlink: &mut Netlink) -> Result<Vec<Link>, Errno> {
    let mut found = Vec::new();
    netlink.dump(libc::RTM_GETLINK, &LinkHeader::default(), |kind, body| {
        if kind == libc::RTM_NEWLINK {
            found.extend(parse(body));
        }
    })?;
    Ok(found)
}

/// Reads only three attributes: parsing all of them would be a large part of the agent's code.
fn parse(body: &[u8]) -> Option<Link> {
    let message = LinkMessageBuffer::new_checked(body).ok()?;
    let flags = LinkFlags::from_bits_retain(message.flags());
    let mut link = Link {
        index: message.link_index(),
        name: String::new(),
        mac: Vec::new(),
        mtu: 0,
        loopback: flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes().map_while(Result::ok) {
        match attribute.kind() {
            libc::IFLA_IFNAME => {
                link.name = String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned();
            }
            libc::IFLA_ADDRESS => link.mac = attribute.value().to_vec(),
            libc::IFLA_MTU => link.mtu = parse_u32(attribute.value()).unwrap_or_default(),
            _ => {}
        }
    }
    Some(link)
}

/// A change to an interface. The kernel applies name, MTU and state in that order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkChange<'a> {
    /// The new name. The interface must be down.
    pub name: Option<&'a str>,
    /// The new MTU; 0: unchanged.
    pub mtu: u32,
    /// Up or down.
    pub up: Option<bool>,
}

/// Changes the interface with number `index`.
pub fn change_link(netlink: &mut Netlink, index: u32, change: LinkChange<'_>) -> Result<(), Errno> {
    let mut header = LinkHeader { index, ..LinkHeader::default() };
    if let Some(up) = change.up {
        header.change_mask = LinkFlags::Up;
        header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    }
    let name = change.name.map(|name| DefaultNla::new(libc::IFLA_IFNAME, [name.as_bytes(), &[0]].concat()));
    let mtu = (change.mtu != 0).then(|| DefaultNla::new(libc::IFLA_MTU, change.mtu.to_ne_bytes().to_vec()));
    let message = Plain { header, attributes: name.into_iter().chain(mtu).collect() };
    netlink.execute(libc::RTM_NEWLINK, 0, &message)
}

/// Deletes an interface.
pub fn delete_link(netlink: &mut Netlink, index: u32) -> Result<(), Errno> {
    netlink.execute(libc::RTM_DELLINK, 0, &LinkHeader { index, ..LinkHeader::default() })
}

/// The other end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct Peer<'a> {
    /// Name of the interface.
    pub name: &'a str,
    /// Network namespace of the interface.
    pub namespace: BorrowedFd<'a>,
}

/// Creates a veth pair: `name` in the socket's namespace, and its peer. `EEXIST` if either name is taken.
pub fn make_veth(netlink: &mut Netlink, name: &str, peer: Peer<'_>) -> Result<(), Errno> {
    let mut other = LinkMessage::default();
    other.attributes =
        vec![LinkAttribute::IfName(peer.name.to_owned()), LinkAttribute::NetNsFd(peer.namespace.as_raw_fd())];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]),
    ];
    netlink.execute(libc::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{Emitable, Parseable};
    use proptest::prelude::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let links = links(&mut Netlink::open().unwrap()).unwrap();
        let loopback: Vec<&Link> = links.iter().filter(|link| link.loopback).collect();
        assert_eq!((loopback.len(), loopback[0].name.as_str(), loopback[0].mac.len()), (1, "lo", 6));
        assert!(loopback[0].mtu > 0);
    }

    #[test]
    fn an_attribute_that_the_library_cannot_parse_does_no_harm() {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.attributes = vec![LinkAttribute::Carrier(1), LinkAttribute::IfName("eth0".into())];
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        // One byte, as the kind IFLA_TXQLEN, whose value has four.
        bytes[18] = 13;
        assert!(LinkMessage::parse(&LinkMessageBuffer::new_checked(&bytes.as_slice()).unwrap()).is_err());
        assert_eq!(parse(&bytes).map(|link| (link.index, link.name)), Some((3, "eth0".into())));
    }

    proptest! {
        #[test]
        fn any_link_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
