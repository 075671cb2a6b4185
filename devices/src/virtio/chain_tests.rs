use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use virtio_queue::QueueOwnedT;

use super::*;
use crate::ram::PlugMap;
use crate::testing::queue::{INDIRECT, WRITE};
use crate::testing::{Buffer, Descriptor, DriverQueue, Line, TestRam};
use crate::virtio::QueueError;

fn queue(ram: &TestRam) -> DriverQueue {
    DriverQueue::new(ram, &Arc::new(Line::default()), 8, 0)
}

fn collect(ram: &TestRam, queue: &DriverQueue) -> Result<Chain, ChainError> {
    let mem = ram.share();
    let mut device = queue.device_side().queue;
    let chain = device.iter(&*mem).unwrap().next().unwrap();
    Chain::collect(&mem, chain)
}

/// Publishes `descriptors` as a chain and collects it.
fn collect_raw(descriptors: &[Descriptor]) -> Result<Chain, ChainError> {
    let ram = TestRam::new();
    let mut queue = queue(&ram);
    let head = queue.write_chain(descriptors);
    queue.publish(head);
    collect(&ram, &queue)
}

fn readable(addr: u64, len: u32) -> Descriptor {
    Descriptor { addr, len, flags: 0, next: 0 }
}

fn writable(addr: u64, len: u32) -> Descriptor {
    Descriptor { addr, len, flags: WRITE, next: 0 }
}

#[test]
fn a_chain_is_read_and_written_across_its_buffers() {
    let ram = TestRam::new();
    let mem = ram.share();
    let mut queue = queue(&ram);
    let request = queue.add(&[
        Buffer::Readable(b"ab"),
        Buffer::Readable(b""),
        Buffer::Readable(b"cdefg"),
        Buffer::Writable(3),
        Buffer::Writable(4),
    ]);
    let chain = collect(&ram, &queue).unwrap();
    assert_eq!((chain.head(), chain.readable_len(), chain.writable_len()), (request.head, 7, 7));

    let mut reader = chain.reader(&mem);
    assert_eq!(reader.read_obj::<u8>().unwrap(), b'a');
    let mut all = [0; 4];
    let mut two = reader.limited(2);
    assert_eq!(two.read(&mut all).unwrap(), 2);
    assert_eq!((&all[..2], two.remaining(), reader.remaining()), (b"bc".as_slice(), 0, 6));
    reader.skip(1).unwrap();
    reader.read_exact(&mut all).unwrap();
    assert_eq!(&all, b"cdef");
    assert_eq!(reader.read_obj::<u16>(), Err(ChainError::Short));
    assert_eq!(reader.skip(2), Err(ChainError::Short));
    assert_eq!(reader.read_obj::<u8>().unwrap(), b'g');
    assert_eq!(reader.remaining(), 0);

    let mut writer = chain.writer(&mem);
    writer.write_all(b"12").unwrap();
    writer.skip(1).unwrap();
    assert_eq!(writer.write_all(b"12345"), Err(ChainError::Short));
    assert_eq!(writer.write(b"34567").unwrap(), 4);
    assert_eq!((writer.written(), writer.remaining()), (7, 0));
    assert_eq!(request.response(&ram), b"12\xee3456");
}

#[test]
fn a_chain_in_an_indirect_table_is_the_same_as_a_direct_one() {
    let ram = TestRam::new();
    let mem = ram.share();
    let mut queue = queue(&ram);
    queue.add_indirect(&[Buffer::Readable(b"xyz"), Buffer::Writable(2)]);
    let chain = collect(&ram, &queue).unwrap();
    let mut data = [0; 3];
    chain.reader(&mem).read_exact(&mut data).unwrap();
    assert_eq!((&data, chain.writable_len()), (b"xyz", 2));
}

#[test]
fn a_readable_buffer_after_a_writable_one_is_refused() {
    // VIRTIO 1.2, 2.7.4.2.
    let chain = [writable(0x1000, 4), readable(0x2000, 4)];
    assert_eq!(collect_raw(&chain).unwrap_err(), ChainError::Order);
}

#[test]
fn a_buffer_outside_of_memory_is_refused() {
    let hole = TestRam::HOLE.raw_value();
    for (addr, len) in [(hole, 1), (hole - 1, 2), (TestRam::OUTSIDE.raw_value(), 1), (u64::MAX, 1), (u64::MAX - 1, 8)] {
        for descriptor in [readable(addr, len), writable(addr, len)] {
            assert_eq!(collect_raw(&[descriptor]).unwrap_err(), ChainError::OutOfMemory(addr));
        }
    }
    assert!(collect_raw(&[writable(hole - 2, 2)]).is_ok());
}

#[test]
fn a_loop_a_wild_next_and_a_wild_head_are_refused() {
    let ram = TestRam::new();
    let mut queue = queue(&ram);
    queue.write_descriptor(0, Descriptor { addr: 0x1000, len: 1, flags: 1, next: 1 });
    queue.write_descriptor(1, Descriptor { addr: 0x1000, len: 1, flags: 1, next: 0 });
    queue.publish(0);
    assert_eq!(collect(&ram, &queue).unwrap_err(), ChainError::Broken);

    queue.write_descriptor(1, Descriptor { addr: 0x1000, len: 1, flags: 1, next: 8 });
    assert_eq!(collect(&ram, &queue).unwrap_err(), ChainError::Broken);

    let mut queue = self::queue(&ram);
    queue.publish(8);
    assert_eq!(collect(&ram, &queue).unwrap_err(), ChainError::Broken);
}

#[test]
fn bad_indirect_tables_are_refused() {
    let broken = |addr, len| collect_raw(&[Descriptor { addr, len, flags: INDIRECT, next: 0 }]).unwrap_err();
    assert_eq!(broken(0x1000, 0), ChainError::Broken);
    assert_eq!(broken(0x1000, 15), ChainError::Broken);
    assert_eq!(broken(TestRam::OUTSIDE.raw_value(), 16), ChainError::Broken);

    // A table within a table.
    let ram = TestRam::new();
    let mut queue = queue(&ram);
    let mut inner = [0; 16];
    inner[8..10].copy_from_slice(&16u16.to_le_bytes());
    inner[12..14].copy_from_slice(&INDIRECT.to_le_bytes());
    let addr = ram.put(&inner).raw_value();
    let head = queue.write_chain(&[Descriptor { addr, len: 16, flags: INDIRECT, next: 0 }]);
    queue.publish(head);
    assert_eq!(collect(&ram, &queue).unwrap_err(), ChainError::Broken);
}

#[test]
fn a_chain_of_more_than_4_gib_is_refused() {
    // All entries of the table name the same megabytes. Their sum does not fit into a length.
    let ram = TestRam::new();
    let mut queue = queue(&ram);
    let buffers: Vec<u8> = (0..1000u16)
        .flat_map(|index| {
            let mut bytes = [0; 16];
            bytes[8..12].copy_from_slice(&(7u32 << 20).to_le_bytes());
            bytes[12..14].copy_from_slice(&u16::from(index < 999).to_le_bytes());
            bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
            bytes
        })
        .collect();
    let addr = ram.put(&buffers).raw_value();
    let head = queue.write_chain(&[Descriptor { addr, len: buffers.len() as u32, flags: INDIRECT, next: 0 }]);
    queue.publish(head);
    assert_eq!(collect(&ram, &queue).unwrap_err(), ChainError::Broken);
}

#[test]
fn a_chain_has_a_limit() {
    for (count, result) in [(MAX_SEGMENTS, None), (MAX_SEGMENTS + 1, Some(ChainError::TooLong))] {
        let ram = TestRam::new();
        let mut queue = queue(&ram);
        queue.add_indirect(&vec![Buffer::Writable(1); count]);
        assert_eq!(collect(&ram, &queue).err(), result);
    }
}

#[test]
fn files_are_read_and_written_in_place_even_across_regions() {
    let ram = TestRam::new();
    let mem = ram.share();
    let mut queue = queue(&ram);
    let border = TestRam::BORDER.raw_value();
    ram.write(GuestAddress(border - 3), b"across");
    let head = queue.write_chain(&[readable(border - 3, 6), writable(border - 5, 4), writable(border + 10, 3)]);
    queue.publish(head);
    let chain = collect(&ram, &queue).unwrap();

    let mut file = tempfile::tempfile().unwrap();
    chain.reader(&mem).write_all_at(&file, 10).unwrap();
    let mut content = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut content).unwrap();
    assert_eq!(content, b"\0\0\0\0\0\0\0\0\0\0across");

    let mut writer = chain.writer(&mem);
    writer.fill_from_at(&file, 9).unwrap();
    assert_eq!(writer.written(), 7);
    assert_eq!(ram.read(GuestAddress(border - 5), 4), b"\0acr");
    assert_eq!(ram.read(GuestAddress(border + 10), 3), b"oss");

    let mut writer = chain.writer(&mem);
    let error = writer.fill_from_at(&file, 12).unwrap_err();
    assert_eq!((error.kind(), writer.written()), (io::ErrorKind::UnexpectedEof, 4));
    assert_eq!(writer.fill_from_at(&file, u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn streams_move_by_what_the_kernel_took() {
    let ram = TestRam::new();
    let mem = ram.share();
    let mut queue = queue(&ram);
    queue.add(&[Buffer::Readable(b"hello "), Buffer::Readable(b"world"), Buffer::Writable(4), Buffer::Writable(8)]);
    let chain = collect(&ram, &queue).unwrap();
    let (mut near, far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();

    let mut reader = chain.reader(&mem);
    assert_eq!(reader.write_to(&far, 8).unwrap(), 8);
    assert_eq!((reader.remaining(), reader.write_to(&far, u32::MAX).unwrap()), (3, 3));
    let mut data = [0; 11];
    near.read_exact(&mut data).unwrap();
    assert_eq!(&data, b"hello world");

    let mut writer = chain.writer(&mem);
    assert_eq!(writer.read_from(&far, u32::MAX).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    near.write_all(b"123456").unwrap();
    assert_eq!(writer.read_from(&far, 5).unwrap(), 5);
    assert_eq!((writer.written(), writer.remaining()), (5, 7));
    assert_eq!(writer.read_from(&far, u32::MAX).unwrap(), 1);
    drop(near);
    assert_eq!(writer.read_from(&far, u32::MAX).unwrap(), 0);
}

#[test]
fn host_and_guest_buffers_go_into_one_system_call() {
    let ram = TestRam::new();
    let mem = ram.share();
    let mut queue = queue(&ram);
    let request = queue.add(&[Buffer::Readable(b"body"), Buffer::Writable(4)]);
    let chain = collect(&ram, &queue).unwrap();
    let (near, far) = UnixStream::pair().unwrap();

    let mut out = WriteVectors::new();
    out.push_slice(b"head-");
    chain.reader(&mem).push_to(&mut out);
    assert_eq!(out.writev(&near).unwrap(), 9);

    let (mut before, mut after) = ([0; 3], [0; 10]);
    let mut vectors = ReadVectors::new();
    vectors.push_slice(&mut before);
    chain.writer(&mem).push_to(&mut vectors);
    vectors.push_slice(&mut after);
    assert_eq!(vectors.readv(&far).unwrap(), 9);
    assert_eq!((&before, request.response(&ram).as_slice(), &after[..2]), (b"hea", b"d-bo".as_slice(), &b"dy"[..]));
}

mod random {
    use proptest::prelude::*;

    use super::*;

    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let hole = TestRam::HOLE.raw_value();
        let addr = prop_oneof![0..0x1000u64, hole - 64..hole + 64, any::<u64>()];
        let len = prop_oneof![0..100u32, (0..20u32).prop_map(|entries| entries * 16), any::<u32>()];
        // Mostly valid flags: chains that end at once test nothing.
        let flags = prop_oneof![3 => 0..4u16, 1 => 0..8u16, 1 => any::<u16>()];
        (addr, len, flags, 0..10u16).prop_map(|(addr, len, flags, next)| Descriptor { addr, len, flags, next })
    }

    proptest! {
        /// For any table, and any indirect table at address 0, a chain is refused or lies wholly in guest memory.
        #[test]
        fn chains_are_refused_or_valid(
            table in prop::collection::vec(descriptor(), 8),
            indirect in prop::collection::vec(any::<u8>(), 320),
            head in 0..10u16,
        ) {
            let ram = TestRam::new();
            let mem = ram.share();
            let mut queue = queue(&ram);
            ram.write(GuestAddress(0), &indirect);
            for (index, descriptor) in (0..).zip(&table) {
                queue.write_descriptor(index, *descriptor);
            }
            queue.publish(head);
            if let Ok(chain) = collect(&ram, &queue) {
                let (mut reader, mut writer) = (chain.reader(&mem), chain.writer(&mem));
                prop_assert_eq!((reader.remaining(), writer.remaining()), (chain.readable_len(), chain.writable_len()));
                let some = reader.remaining().min(1000);
                reader.read_exact(&mut vec![0; some as usize]).unwrap();
                reader.skip(reader.remaining()).unwrap();
                let some = writer.remaining().min(1000);
                writer.write_all(&vec![0xee; some as usize]).unwrap();
                writer.skip(writer.remaining()).unwrap();
                prop_assert_eq!((reader.remaining(), writer.written()), (0, chain.writable_len()));
            }
        }
    }
}

/// A chain of one buffer, and the map of the memory in which it lies.
fn collect_in_pluggable(offset: u64, len: u32, indirect: bool) -> (Result<Chain, ChainError>, Arc<PlugMap>) {
    let ram = TestRam::pluggable();
    let map = ram.plug_map();
    map.plug(0..2);
    let mut queue = queue(&ram);
    let buffer = TestRam::PLUGGABLE.0 + offset;
    let head = queue.write_chain(&[match indirect {
        true => {
            // Every entry of the table ends its chain.
            Descriptor { addr: buffer, len, flags: INDIRECT, next: 0 }
        }
        false => writable(buffer, len),
    }]);
    queue.publish(head);
    let mem = ram.share();
    (
        queue.device_side().pop(&mem).map(Option::unwrap).map_err(|error| match error {
            QueueError::Chain { source, .. } => source,
            other => panic!("{other}"),
        }),
        map,
    )
}

#[test]
fn buffers_in_memory_that_is_not_plugged_in_are_refused_and_others_stay_plugged_in() {
    const BLOCK: u32 = TestRam::BLOCK as u32;
    let plugged = 2 * TestRam::BLOCK;
    for (offset, len, at) in [(plugged, 1, 0), (plugged - 1, 2, 0), (0, 4 * BLOCK, 0), (plugged + 5, BLOCK, 0)] {
        let (refused, map) = collect_in_pluggable(offset, len, false);
        assert_eq!(refused.unwrap_err(), ChainError::NotPlugged(TestRam::PLUGGABLE.0 + offset + at));
        assert!(map.unplug(0..2), "nothing is in use");
    }
    let (chain, map) = collect_in_pluggable(plugged - 16, 16, false);
    let chain = chain.unwrap();
    assert!(!map.unplug(1..2), "in use");
    assert!(map.unplug(0..1));
    drop(chain);
    assert!(map.unplug(1..2));
}

#[test]
fn a_table_in_memory_that_is_not_plugged_in_is_not_read() {
    let plugged = 2 * TestRam::BLOCK;
    for offset in [plugged, plugged - 8] {
        let (refused, map) = collect_in_pluggable(offset, 16, true);
        assert_eq!(refused.unwrap_err(), ChainError::Broken);
        assert!(map.unplug(0..2), "nothing is in use");
    }
    // An entry of zeroes is a buffer without bytes.
    let (chain, map) = collect_in_pluggable(plugged - 16, 16, true);
    assert_eq!(chain.unwrap().writable_len(), 0);
    assert!(map.unplug(0..2), "the table has been read");
}
