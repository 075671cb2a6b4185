//! Addresses of interfaces.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{DefaultNla, Parseable, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessageBuffer, AddressScope,
};
use netlink_packet_route::AddressFamily;
use nix::errno::Errno;

use crate::socket::Plain;
use crate::Netlink;

/// Attributes that libc does not name for every C library.
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;

/// An address with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// 0 to 32 (IPv4) or 128 (IPv6).
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkAddress {
    /// Number of the interface.
    pub link: u32,
    /// Address and prefix.
    pub cidr: Cidr,
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv6() {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Adds an address to an interface, or changes the one that exists. An IPv4 address gets the broadcast address of its
/// network. An IPv6 address is usable at once: duplicate detection makes no sense with one machine on the link.
pub fn add_address(netlink: &mut Netlink, link: u32, cidr: Cidr) -> Result<(), Errno> {
    netlink.execute(libc::RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &message(link, cidr))
}

fn message(link: u32, Cidr { address, prefix }: Cidr) -> Plain<AddressHeader> {
    let header = AddressHeader {
        family: family(address),
        prefix_len: prefix,
        flags: if address.is_ipv6() { AddressHeaderFlags::Nodad } else { AddressHeaderFlags::empty() },
        scope: AddressScope::Universe,
        index: link,
    };
    let mut attributes =
        vec![DefaultNla::new(IFA_LOCAL, octets(address)), DefaultNla::new(IFA_ADDRESS, octets(address))];
    if let (IpAddr::V4(address), ..31) = (address, prefix) {
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let broadcast = Ipv4Addr::from(u32::from(address) | host_bits);
        attributes.push(DefaultNla::new(IFA_BROADCAST, octets(broadcast.into())));
    }
    Plain { header, attributes }
}

/// Lists all addresses except link-local IPv6 ones, which the guest's kernel derives from the same MAC address.
pub fn addresses(netlink: &mut Netlink) -> Result<Vec<LinkAddress>, Errno> {
    let mut found = Vec::new();
    netlink.dump(libc::RTM_GETADDR, &AddressHeader::default(), |kind, body| {
        if kind == libc::RTM_NEWADDR {
            found.extend(parse(body));
        }
    })?;
    Ok(found)
}

fn parse(body: &[u8]) -> Option<LinkAddress> {
    let message = AddressMessageBuffer::new_checked(body).ok()?;
    let (mut local, mut other) = (None, None);
    for attribute in message.attributes().map_while(Result::ok) {
        match AddressAttribute::parse(&attribute) {
            Ok(AddressAttribute::Local(address)) => local = Some(address),
            Ok(AddressAttribute::Address(address)) => other = Some(address),
            _ => {}
        }
    }
    // On a point-to-point interface IFA_ADDRESS is the other end.
    let address = local.or(other)?;
    let link_local = address.is_ipv6() && AddressScope::from(message.scope()) == AddressScope::Link;
    let cidr = Cidr { address, prefix: message.prefix_len() };
    (!link_local).then(|| LinkAddress { link: message.index(), cidr })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn bytes(text: &str, prefix: u8) -> Vec<u8> {
        let message = message(3, Cidr { address: text.parse().unwrap(), prefix });
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn an_ipv4_address_has_its_broadcast_address() {
        let bytes = bytes("10.1.2.3", 20);
        assert_eq!(bytes[..8], [2, 20, 0, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[8..], [8, 0, 2, 0, 10, 1, 2, 3, 8, 0, 1, 0, 10, 1, 2, 3, 8, 0, 4, 0, 10, 1, 15, 255]);
        assert_eq!(super::tests::bytes("10.1.2.3", 31).len(), 24, "a network of two addresses has none");
    }

    #[test]
    fn an_ipv6_address_is_usable_at_once() {
        // IFA_F_NODAD
        assert_eq!(bytes("fd00::1", 64)[..4], [10, 64, 2, 0]);
    }

    #[test]
    fn an_address_that_was_written_can_be_read() {
        for (text, prefix) in [("10.1.2.3", 20), ("fd00::1", 64)] {
            let found = parse(&bytes(text, prefix)).unwrap();
            assert_eq!((found.link, found.cidr.to_string()), (3, format!("{text}/{prefix}")));
        }
        let mut link_local = bytes("fe80::1", 64);
        link_local[3] = 253;
        assert_eq!(parse(&link_local), None);
    }

    proptest! {
        #[test]
        fn any_address_message_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
