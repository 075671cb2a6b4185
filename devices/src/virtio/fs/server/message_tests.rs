use vm_memory::ByteValued;

use super::*;
use crate::testing::{Buffer, DriverQueue, Line, TestRam};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const READ: u32 = 15;
const WRITE: u32 = 16;

/// The error with which a request is refused.
fn refusal(head: InHeader, extra: u32, writable: u32) -> Option<i32> {
    let ram = TestRam::new();
    let mut driver = DriverQueue::new(&ram, &Line::default().into(), 16, 0);
    let body = vec![0; extra as usize];
    driver.add(&[Buffer::Readable(head.as_slice()), Buffer::Readable(&body), Buffer::Writable(writable)]);
    let chain = driver.device_side().pop(&ram.share()).unwrap().unwrap();
    match Request::read(&chain, &ram.share()) {
        Ok(request) => {
            assert_eq!(request.head, head);
            None
        }
        Err(Refusal::Error(_, errno)) => Some(errno),
        Err(Refusal::Unreadable) => panic!("the header is whole"),
    }
}

fn head(opcode: u32, len: u32) -> InHeader {
    InHeader { opcode, len, unique: 7, ..InHeader::default() }
}

#[test]
fn lengths_that_do_not_fit_their_buffers_are_refused() {
    assert_eq!(refusal(head(LOOKUP, 45), 5, 144), None);
    assert_eq!(refusal(head(LOOKUP, 45), 50, 200), None);
    for len in [0, 39, 46, u32::MAX] {
        assert_eq!(refusal(head(LOOKUP, len), 5, 144), Some(libc::EIO));
    }
    assert_eq!(refusal(head(LOOKUP, 45), 5, 15), Some(libc::EIO));
    assert_eq!(refusal(head(LOOKUP, 45), 5, 143), Some(libc::EINVAL), "no room for an entry");
    assert_eq!(refusal(head(WRITE, 40), MESSAGE_MAX, 16), Some(libc::EIO));
    assert_eq!(refusal(head(READ, 40), 0, MESSAGE_MAX + 1), Some(libc::EIO));
    assert_eq!(refusal(head(LOOKUP, 40 + BODY_MAX + 1), BODY_MAX + 1, 144), Some(libc::E2BIG));
    assert_eq!(refusal(head(FORGET, 48), 8, 0), None);
}

#[test]
fn requests_that_are_not_offered_are_unknown() {
    // Locks, ioctl, poll, notifications, syncfs, DAX mappings, and numbers that are none.
    for opcode in [0, 7, 31, 33, 39, 40, 41, 48, 49, 50, 52, 4096, u32::MAX] {
        assert_eq!(refusal(head(opcode, 40), 0, 16), Some(libc::ENOSYS));
    }
}

#[test]
fn arguments_that_are_cut_off_are_refused() {
    let bytes = *b"\x01\0\0\0name\0..\0/x\0\0rest";
    let mut arguments = Arguments(&bytes);
    assert_eq!(arguments.object::<u32>().unwrap(), 1);
    assert_eq!(arguments.name().unwrap(), c"name");
    for _ in ["..", "/x", ""] {
        assert!(arguments.name().is_err());
    }
    assert!(arguments.string().is_err());
    assert!(arguments.object::<u64>().is_err());
    assert!(arguments.bytes(5).is_err());
    assert_eq!(arguments.bytes(4).unwrap(), b"rest");
    assert!(arguments.object::<u32>().is_err());
}

#[test]
fn groups_are_found_among_extensions_and_bounded() {
    let extension = |kind: u32, body: &[u32]| {
        let words = [&[8 + 4 * body.len() as u32, kind], body].concat();
        words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>()
    };
    assert!(groups(&[]).unwrap().is_empty());
    let all = [extension(1, &[0, 0]), extension(EXT_GROUPS, &[2, 7, 8])].concat();
    assert_eq!(groups(&all).unwrap()[..], [7, 8]);
    // More than the list has, a list that leaves its extension, sizes that leave the request or do not advance.
    assert!(groups(&extension(EXT_GROUPS, &[3, 7, 8])).is_err());
    assert!(groups(&extension(EXT_GROUPS, &[GROUPS_MAX as u32 + 1; GROUPS_MAX + 2])).is_err());
    assert!(groups(&all[..all.len() - 1]).is_err());
    assert!(groups(&[0; 8]).is_err());
}
