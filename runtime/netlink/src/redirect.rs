//! Redirection: sends every packet that comes in on one interface out of another. The first interface gets an ingress
//! queueing discipline with a filter that matches everything and a mirred action (tc-mirred(8)).

use netlink_packet_core::{ParseableParametrized, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterU32, TcFilterU32Option, TcHandle, TcHeader, TcMessage, TcMessageBuffer, TcMirror, TcMirrorActionType,
    TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};
use nix::errno::Errno;

use crate::Netlink;

/// Handle of the ingress discipline.
const INGRESS_HANDLE: TcHandle = TcHandle { major: u16::MAX, minor: 0 };
/// Parent of its filters; both `ingress` and `clsact` have that class.
const INGRESS_FILTERS: TcHandle = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
/// Number of the first action in a filter's list.
const FIRST: u16 = 1;

fn header(index: u32, handle: TcHandle, parent: TcHandle, info: u32) -> TcHeader {
    TcHeader { index: index as i32, handle, parent, info, ..TcHeader::default() }
}

fn message(header: TcHeader, attributes: Vec<TcAttribute>) -> TcMessage {
    TcMessage::from_parts(header, attributes)
}

fn kind(kind: &str) -> TcAttribute {
    TcAttribute::Kind(kind.to_owned())
}

/// Adds an ingress discipline to an interface; an existing one is fine.
pub fn add_ingress(netlink: &mut Netlink, index: u32) -> Result<(), Errno> {
    let header = header(index, INGRESS_HANDLE, TcHandle::INGRESS, 0);
    let message = message(header, vec![kind("ingress")]);
    match netlink.execute(libc::RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &message) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether an interface has an ingress discipline, `ingress` or `clsact`.
pub fn has_ingress(netlink: &mut Netlink, index: u32) -> Result<bool, Errno> {
    let mut found = false;
    let request = header(index, TcHandle::UNSPEC, TcHandle::UNSPEC, 0);
    netlink.dump(libc::RTM_GETQDISC, &request, |kind, body| {
        let is_ingress = |message: TcMessageBuffer<&[u8]>| {
            message.index() == index as i32 && TcHandle::from(message.parent()) == TcHandle::INGRESS
        };
        found |= kind == libc::RTM_NEWQDISC && TcMessageBuffer::new_checked(body).is_ok_and(is_ingress);
    })?;
    Ok(found)
}

/// Removes the ingress discipline of an interface with its filters; a missing one is fine.
pub fn delete_ingress(netlink: &mut Netlink, index: u32) -> Result<(), Errno> {
    match netlink.execute(libc::RTM_DELQDISC, 0, &header(index, INGRESS_HANDLE, TcHandle::INGRESS, 0)) {
        Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// A filter for incoming packets.
#[derive(Debug, PartialEq, Eq)]
struct Filter {
    /// Priority and protocol, as the kernel packs them.
    info: u32,
    /// The interface to which a filter of [`redirect`] sends packets.
    target: Option<u32>,
}

impl Filter {
    fn priority(&self) -> u32 {
        self.info >> 16
    }
}

/// The filters for incoming packets of an interface that has an ingress discipline.
fn filters(netlink: &mut Netlink, index: u32) -> Result<Vec<Filter>, Errno> {
    let mut filters = Vec::new();
    let request = header(index, TcHandle::UNSPEC, INGRESS_FILTERS, 0);
    netlink.dump(libc::RTM_GETTFILTER, &request, |kind, body| {
        if let (libc::RTM_NEWTFILTER, Ok(message)) = (kind, TcMessageBuffer::new_checked(body)) {
            filters.push(Filter { info: message.info(), target: target(message) });
        }
    })?;
    Ok(filters)
}

/// The interface to which a u32 filter redirects. Filters of another kind have none, whether the library can parse them
/// or not.
fn target(message: TcMessageBuffer<&[u8]>) -> Option<u32> {
    let mut kind = String::new();
    for attribute in message.attributes().map_while(Result::ok) {
        match TcAttribute::parse_with_param(&attribute, kind.as_str()) {
            Ok(TcAttribute::Kind(found)) => kind = found,
            Ok(TcAttribute::Options(options)) => return options.iter().find_map(first_action).and_then(mirred),
            _ => {}
        }
    }
    None
}

fn first_action(option: &TcOption) -> Option<&TcAction> {
    match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => actions.iter().find(|action| action.tab == FIRST),
        _ => None,
    }
}

/// The interface to which a mirred action redirects.
fn mirred(action: &TcAction) -> Option<u32> {
    action.attributes.iter().find_map(|attribute| {
        let TcActionAttribute::Options(options) = attribute else { return None };
        options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(parameters)) => {
                (parameters.eaction == TcMirrorActionType::EgressRedir).then_some(parameters.ifindex)
            }
            _ => None,
        })
    })
}

/// Redirects every packet that comes in on `from` out of `to`, unless an existing filter handles it. `from` must have an
/// ingress discipline. `ENOSPC` if every filter priority is in use.
pub fn redirect(netlink: &mut Netlink, from: u32, to: u32) -> Result<(), Errno> {
    let present = filters(netlink, from)?;
    let is_free = |priority: &u32| present.iter().all(|filter| filter.priority() != *priority);
    let priority = (1..=0xffff).find(is_free).ok_or(Errno::ENOSPC)?;
    let protocol = u32::from((libc::ETH_P_ALL as u16).to_be());
    let header = header(from, TcHandle::UNSPEC, INGRESS_FILTERS, priority << 16 | protocol);
    netlink.execute(libc::RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &message(header, redirection(to)))
}

/// Kind and options of the filter: no bit of the first word needs a value, so every packet matches.
fn redirection(to: u32) -> Vec<TcAttribute> {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.keys = vec![TcU32Key::default()];
    selector.nkeys = 1;
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    let mut action = TcAction::default();
    action.tab = FIRST;
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror))]),
    ];
    vec![
        kind(TcFilterU32::KIND),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ]
}

/// Removes the filters that redirect packets from `from` to `to`, and no others; missing ones are fine.
pub fn delete_redirect(netlink: &mut Netlink, from: u32, to: u32) -> Result<(), Errno> {
    for filter in filters(netlink, from)?.iter().filter(|filter| filter.target == Some(to)) {
        // Deletes all filters of the priority, which only our filter has: it was unused when we added ours.
        let header = header(from, TcHandle::UNSPEC, INGRESS_FILTERS, filter.info);
        match netlink.execute(libc::RTM_DELTFILTER, 0, &message(header, vec![kind(TcFilterU32::KIND)])) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    #[test]
    fn the_target_of_our_own_filter_is_found() {
        let message = message(header(2, TcHandle::UNSPEC, INGRESS_FILTERS, 0x0001_0300), redirection(7));
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        assert_eq!(target(TcMessageBuffer::new_checked(bytes.as_slice()).unwrap()), Some(7));
        // struct tcmsg: interface 2, parent ffff:fff2.
        assert_eq!(bytes[4..8], 2u32.to_ne_bytes());
        assert_eq!(bytes[12..16], 0xffff_fff2u32.to_ne_bytes());
    }

    proptest! {
        #[test]
        fn any_filter_is_survived(bytes in proptest::collection::vec(any::<u8>(), 20..200)) {
            let _ = target(TcMessageBuffer::new_checked(bytes.as_slice()).unwrap());
        }
    }
}
