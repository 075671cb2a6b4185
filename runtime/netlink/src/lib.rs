//! rtnetlink(7) requests of the runtime and of the guest's agent. Headers, attributes and messages are those of
//! `netlink-packet-core` and `netlink-packet-route`; the [`Netlink`] socket is blocking, with one request at a time, in the network namespace of the thread that opened it.
//!
//! | requests | used by |
//! |---|---|
//! | interfaces: list, change | runtime, agent |
//! | interfaces: veth pairs, delete | runtime |
//! | addresses, routes, neighbours: list | runtime |
//! | addresses, routes, neighbours: add | agent; runtime for the pods' own networks |
//! | redirection of packets between interfaces | runtime |
//!
//! Lists take from each message of the kernel the attributes that hutch uses, and ignore malformed or unknown ones: a new
//! kernel may send more than `netlink-packet-route` can parse.

#![forbid(unsafe_code)]

mod address;
mod link;
mod neighbour;
mod redirect;
mod route;
mod socket;

pub use address::{add_address, addresses, Cidr, LinkAddress};
pub use link::{change_link, delete_link, links, make_veth, Link, LinkChange, Peer};
pub use neighbour::{add_neighbour, neighbours, NeighbourEntry};
pub use redirect::{add_ingress, delete_ingress, delete_redirect, has_ingress, redirect};
pub use route::{add_route, routes, RouteEntry};
pub use socket::Netlink;
