//! rtnetlink(7), as much of it as pods need: links, addresses, routes, neighbours, and the redirection of packets
//! between two links. Blocking, one request at a time, on a socket of the calling thread's network namespace.

mod link;
mod list;
mod message;
mod redirect;
mod socket;

pub(crate) use link::{add_address, add_default_route, delete_link, make_veth, set_up, Peer};
pub(crate) use list::{addresses, links, neighbours, routes, Link};
pub(crate) use redirect::{add_ingress, delete_ingress, delete_redirect, has_ingress, redirect};
pub(crate) use socket::Netlink;
