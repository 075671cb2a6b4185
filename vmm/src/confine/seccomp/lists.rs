//! The lists of each kind of thread, whose union it may call.

use super::calls::{
    Call, BLOCK, CONSOLE, CONTROL, EVENTS, EVERYWHERE, FILE_SERVER, FOREGROUND, IMAGES, MAKER, MEMORY, NETWORK, OWNER,
    SHIM, SOCKETS, VCPU,
};

/// In the order of [`Kind::index`](super::Kind), with the kinds' names.
pub(super) const LISTS: [(&str, &[&[Call]]); 13] = [
    ("MAKER", &[EVERYWHERE, EVENTS, MAKER, VCPU, BLOCK, FILE_SERVER, MEMORY, NETWORK, SOCKETS, IMAGES, CONSOLE]),
    ("VCPU", &[EVERYWHERE, VCPU]),
    ("BLOCK", &[EVERYWHERE, EVENTS, BLOCK]),
    ("ENTROPY", &[EVERYWHERE, EVENTS]),
    ("FILESERVER", &[EVERYWHERE, EVENTS, MAKER, FILE_SERVER]),
    ("MEMORY", &[EVERYWHERE, EVENTS, MEMORY]),
    ("NETWORK", &[EVERYWHERE, EVENTS, NETWORK]),
    ("SOCKETS", &[EVERYWHERE, EVENTS, SOCKETS]),
    ("IMAGES", &[EVERYWHERE, IMAGES]),
    ("CONSOLE", &[EVERYWHERE, CONSOLE]),
    (
        "OWNER",
        &[
            EVERYWHERE,
            EVENTS,
            MAKER,
            VCPU,
            BLOCK,
            FILE_SERVER,
            MEMORY,
            NETWORK,
            SOCKETS,
            IMAGES,
            CONSOLE,
            CONTROL,
            OWNER,
        ],
    ),
    ("FOREGROUND", &[EVERYWHERE, EVENTS, MAKER, SOCKETS, FOREGROUND]),
    ("SHIM", &[EVERYWHERE, EVENTS, MAKER, SHIM, OWNER]),
];
