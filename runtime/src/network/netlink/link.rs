//! Making and changing interfaces.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::message::Request;
use super::socket::{Netlink, ACK, CREATE, EXCLUSIVE, REQUEST};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// struct ifinfomsg.
fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// Brings an interface up, with another MTU if that is not 0.
pub(crate) fn set_up(netlink: &mut Netlink, index: u32, mtu: u32) -> io::Result<()> {
    let mut request = Request::new(RTM_NEWLINK, REQUEST | ACK, &ifinfo(index, IFF_UP, IFF_UP));
    if mtu > 0 {
        request.attribute(IFLA_MTU, &mtu.to_ne_bytes());
    }
    netlink.execute(request)
}

/// Deletes an interface.
pub(crate) fn delete_link(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    netlink.execute(Request::new(RTM_DELLINK, REQUEST | ACK, &ifinfo(index, 0, 0)))
}

/// The other end of a pair.
pub(crate) struct Peer<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its namespace.
    pub(crate) namespace: BorrowedFd<'a>,
}

/// Makes a pair of virtual Ethernet interfaces, `name` here and `peer` elsewhere. `AlreadyExists` if either name is
/// taken.
pub(crate) fn make_veth(netlink: &mut Netlink, name: &str, peer: &Peer<'_>) -> io::Result<()> {
    let flags = REQUEST | ACK | CREATE | EXCLUSIVE;
    let mut request = Request::new(RTM_NEWLINK, flags, &ifinfo(0, 0, 0));
    request.text(IFLA_IFNAME, name);
    request.nested(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "veth");
        info.nested(IFLA_INFO_DATA, |data| {
            data.nested(VETH_INFO_PEER, |other| {
                other.raw(&ifinfo(0, 0, 0));
                other.text(IFLA_IFNAME, peer.name);
                other.attribute(IFLA_NET_NS_FD, &peer.namespace.as_raw_fd().to_ne_bytes());
            });
        });
    });
    netlink.execute(request)
}

fn octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    }
}

/// Gives an interface an address.
pub(crate) fn add_address(netlink: &mut Netlink, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let (family, bytes) = octets(address);
    let mut fixed = [family, prefix, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut request = Request::new(RTM_NEWADDR, REQUEST | ACK | CREATE | EXCLUSIVE, &fixed);
    request.attribute(IFA_LOCAL, &bytes);
    request.attribute(IFA_ADDRESS, &bytes);
    netlink.execute(request)
}

/// Sends everything else through `gateway`.
pub(crate) fn add_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> io::Result<()> {
    let (family, bytes) = octets(gateway);
    let fixed = [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0, 0, 0, 0];
    let mut request = Request::new(RTM_NEWROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, &fixed);
    request.attribute(RTA_GATEWAY, &bytes);
    request.attribute(RTA_OIF, &index.to_ne_bytes());
    netlink.execute(request)
}
