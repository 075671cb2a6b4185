use super::*;
use crate::testing::{Buffer, DriverQueue, Line, TestRam};
use crate::virtio::faults::{self, Fault, Operation};
use crate::virtio::{Chain, DeviceQueue};

/// A chain of the given buffers.
fn chain(ram: &TestRam, buffers: &[Buffer<'_>]) -> Chain {
    let mut driver = DriverQueue::new(ram, &Line::default().into(), 16, 0);
    driver.add(buffers);
    let mut queue: DeviceQueue = driver.device_side();
    queue.pop(&ram.share()).unwrap().unwrap()
}

/// Sends `data` as one payload.
fn write(ram: &TestRam, socket: &mut StreamSocket, data: &[u8]) -> io::Result<usize> {
    let chain = chain(ram, &[Buffer::Readable(data)]);
    socket.write(chain.reader(&ram.share()))
}

#[test]
fn bytes_go_both_ways_over_several_ranges() {
    let ram = TestRam::new();
    let (mut socket, mut host) = StreamSocket::pair().unwrap();
    let out = chain(&ram, &[Buffer::Readable(b"hel"), Buffer::Readable(b"lo")]);
    assert_eq!(socket.write(out.reader(&ram.share())).unwrap(), 5);
    let mut text = [0; 5];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello");

    host.write_all(b"world").unwrap();
    let back = chain(&ram, &[Buffer::Writable(2), Buffer::Writable(9)]);
    let memory = ram.share();
    let mut vectors = ReadVectors::new();
    back.writer(&memory).push_to(&mut vectors);
    assert_eq!(socket.read(&mut vectors).unwrap(), 5);
    assert_eq!(socket.read(&mut vectors).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn bytes_that_do_not_fit_are_kept_in_order() {
    let ram = TestRam::new();
    let (mut socket, mut host) = StreamSocket::pair().unwrap();
    let mut sent = Vec::new();
    while socket.buffered() < 50_000 {
        let block = vec![sent.len() as u8; 10_000];
        assert!(write(&ram, &mut socket, &block).unwrap() <= block.len());
        sent.extend(block);
    }
    let mut received = vec![0; sent.len()];
    let mut filled = 0;
    while filled < received.len() {
        filled += host.read(&mut received[filled..]).unwrap();
        socket.flush().unwrap();
    }
    assert!(received == sent);
    assert_eq!(socket.buffered(), 0);
}

#[test]
fn a_closed_host_end_is_an_error() {
    let ram = TestRam::new();
    let (mut socket, host) = StreamSocket::pair().unwrap();
    drop(host);
    assert!(write(&ram, &mut socket, b"x").is_err());
}

#[test]
fn after_a_close_the_host_reads_everything_and_then_the_end() {
    let ram = TestRam::new();
    let (mut socket, mut host) = StreamSocket::pair().unwrap();
    host.write_all(b"never read").unwrap();
    write(&ram, &mut socket, b"last words").unwrap();
    socket.close();
    let mut text = String::new();
    host.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
}

#[test]
fn closing_at_once_leaves_a_full_backlog_to_the_kernel() {
    let ram = TestRam::new();
    let (mut socket, mut host) = StreamSocket::pair().unwrap();
    let mut total = 0;
    while socket.buffered() < 190_000 {
        write(&ram, &mut socket, &[7; 10_000]).unwrap();
        total += 10_000;
    }
    let lost = socket.close_at_once();
    let mut received = Vec::new();
    host.read_to_end(&mut received).unwrap();
    assert_eq!(received.len() + lost, total);
}

#[test]
fn short_interrupted_and_blocked_writes_keep_every_byte_in_order() {
    let ram = TestRam::new();
    let (mut socket, mut host) = StreamSocket::pair().unwrap();
    let [again, interrupted] = [libc::EAGAIN, libc::EINTR].map(Fault::Error);
    let faults = [Fault::Short(1), interrupted, Fault::Short(3), again];
    faults::inject(&socket.stream, Operation::Transfer, faults);
    assert_eq!(write(&ram, &mut socket, b"hello, world").unwrap(), 4);
    assert_eq!((faults::forget(&socket.stream), socket.buffered()), (0, 8));
    assert_eq!(write(&ram, &mut socket, b"!").unwrap(), 0, "after the bytes that are kept");
    assert_eq!(socket.flush().unwrap(), 9);
    let mut text = [0; 13];
    host.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello, world!");
}

#[test]
fn errors_of_the_kernel_are_errors_of_the_socket() {
    let ram = TestRam::new();
    let (mut socket, mut host) = StreamSocket::pair().unwrap();
    host.write_all(b"x").unwrap();
    for errno in [libc::ENOMEM, libc::ENOBUFS, libc::EIO, libc::EPIPE, libc::ECONNRESET] {
        faults::inject(&socket.stream, Operation::Transfer, [Fault::Error(errno), Fault::Error(errno)]);
        assert_eq!(write(&ram, &mut socket, b"y").unwrap_err().raw_os_error(), Some(errno));
        assert_eq!(socket.buffered(), 0, "the bytes of a connection that ends are not kept");
        assert_eq!(socket.read(&mut ReadVectors::new()).unwrap_err().raw_os_error(), Some(errno));
    }
}
