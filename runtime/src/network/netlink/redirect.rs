//! Sending everything that comes in on one interface out of another: an ingress queueing discipline with a filter that
//! matches everything and a mirred action (tc-mirred(8)).

use std::io;

use super::message::{attributes, find, u32_at, Request};
use super::socket::{Netlink, ACK, CREATE, DUMP, EXCLUSIVE, REQUEST};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;

/// TC_H_INGRESS.
const INGRESS: u32 = 0xffff_fff1;
/// Handle of the ingress discipline.
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// Where its filters hang; both `ingress` and `clsact` have that class (TC_H_MIN_INGRESS).
const INGRESS_FILTERS: u32 = 0xffff_fff2;
/// struct tcmsg.
const TCMSG: usize = 20;
const ETH_P_ALL: u16 = 3;
const TC_U32_TERMINAL: u8 = 1;
const TCA_EGRESS_REDIR: i32 = 1;
const TC_ACT_STOLEN: i32 = 4;

/// struct tcmsg.
fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut fixed = [0; 20];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        fixed[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    fixed
}

/// Gives an interface an ingress discipline; one that is there already is fine.
pub(crate) fn add_ingress(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let fixed = tcmsg(index, INGRESS_HANDLE, INGRESS, 0);
    let mut request = Request::new(RTM_NEWQDISC, REQUEST | ACK | CREATE | EXCLUSIVE, &fixed);
    request.text(TCA_KIND, "ingress");
    match netlink.execute(request) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Whether an interface has an ingress discipline, `ingress` or `clsact`.
pub(crate) fn has_ingress(netlink: &mut Netlink, index: u32) -> io::Result<bool> {
    let mut found = false;
    netlink.dump(Request::new(RTM_GETQDISC, REQUEST | DUMP, &tcmsg(index, 0, 0, 0)), |kind, body| {
        found |= kind == RTM_NEWQDISC && u32_at(body, 4) == Some(index) && u32_at(body, 12) == Some(INGRESS);
    })?;
    Ok(found)
}

/// A filter for what comes in.
struct Filter {
    /// Priority and protocol, as the kernel packs them.
    info: u32,
    /// Where it sends what it matches, if it is of the kind that [`redirect`] makes.
    to: Option<u32>,
}

impl Filter {
    fn priority(&self) -> u32 {
        self.info >> 16
    }
}

/// Filters for what comes in on an interface that has an ingress discipline.
fn filters(netlink: &mut Netlink, index: u32) -> io::Result<Vec<Filter>> {
    let mut filters = Vec::new();
    let request = Request::new(RTM_GETTFILTER, REQUEST | DUMP, &tcmsg(index, 0, INGRESS_FILTERS, 0));
    netlink.dump(request, |kind, body| {
        if let (RTM_NEWTFILTER, Some(info)) = (kind, u32_at(body, 16)) {
            filters.push(Filter { info, to: target(body) });
        }
    })?;
    Ok(filters)
}

/// The interface that a u32 filter redirects to.
fn target(body: &[u8]) -> Option<u32> {
    let list = attributes(body, TCMSG);
    find(&list, TCA_KIND).filter(|kind| kind.starts_with(b"u32"))?;
    let actions = find(&attributes(find(&list, TCA_OPTIONS)?, 0), TCA_U32_ACT)?;
    // The first action of the list.
    let action = attributes(find(&attributes(actions, 0), 1)?, 0);
    find(&action, TCA_ACT_KIND).filter(|kind| kind.starts_with(b"mirred"))?;
    let parameters = find(&attributes(find(&action, TCA_ACT_OPTIONS)?, 0), TCA_MIRRED_PARMS)?;
    u32_at(parameters, 24).filter(|_| u32_at(parameters, 20) == Some(TCA_EGRESS_REDIR as u32))
}

/// Takes away the filters that send what comes in on `from` out of `to`, and no others; missing ones are fine.
pub(crate) fn delete_redirect(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<()> {
    for filter in filters(netlink, from)?.iter().filter(|filter| filter.to == Some(to)) {
        // All of its priority, which nobody else has used when it was made.
        let mut request = Request::new(RTM_DELTFILTER, REQUEST | ACK, &tcmsg(from, 0, INGRESS_FILTERS, filter.info));
        request.text(TCA_KIND, "u32");
        match netlink.execute(request) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Takes the ingress discipline of an interface away, with its filters; a missing one is fine.
pub(crate) fn delete_ingress(netlink: &mut Netlink, index: u32) -> io::Result<()> {
    let request = Request::new(RTM_DELQDISC, REQUEST | ACK, &tcmsg(index, INGRESS_HANDLE, INGRESS, 0));
    match netlink.execute(request) {
        Err(e) if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) => Err(e),
        _ => Ok(()),
    }
}

/// Sends everything that comes in on `from` out of `to`, unless a filter that is there already wants it. `from` has an
/// ingress discipline.
pub(crate) fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> io::Result<()> {
    let present = filters(netlink, from)?;
    let is_free = |priority: &u32| present.iter().all(|filter| filter.priority() != *priority);
    let priority =
        (1..=0xffff).find(is_free).ok_or_else(|| io::Error::other("all priorities of filters are in use"))?;
    let fixed = tcmsg(from, 0, INGRESS_FILTERS, priority << 16 | u32::from(ETH_P_ALL.to_be()));
    let mut request = Request::new(RTM_NEWTFILTER, REQUEST | ACK | CREATE | EXCLUSIVE, &fixed);
    request.text(TCA_KIND, "u32");
    request.nested(TCA_OPTIONS, |options| {
        options.attribute(TCA_U32_SEL, &match_everything());
        options.nested(TCA_U32_ACT, |actions| {
            // The first action of the list.
            actions.nested(1, |action| {
                action.text(TCA_ACT_KIND, "mirred");
                action.nested(TCA_ACT_OPTIONS, |options| options.attribute(TCA_MIRRED_PARMS, &mirred(to)));
            });
        });
    });
    netlink.execute(request)
}

/// struct tc_u32_sel with one struct tc_u32_key: no bit of the first word has to have any value.
fn match_everything() -> [u8; 32] {
    let mut selector = [0; 32];
    selector[0] = TC_U32_TERMINAL;
    // Number of keys.
    selector[2] = 1;
    selector
}

/// struct tc_mirred.
fn mirred(to: u32) -> [u8; 28] {
    let mut parameters = [0; 28];
    parameters[8..12].copy_from_slice(&TC_ACT_STOLEN.to_ne_bytes());
    parameters[20..24].copy_from_slice(&TCA_EGRESS_REDIR.to_ne_bytes());
    parameters[24..28].copy_from_slice(&to.to_ne_bytes());
    parameters
}
