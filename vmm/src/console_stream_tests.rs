use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;

/// Far longer than any of these tests takes.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

fn pipe() -> (File, File) {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    (reader.into(), writer.into())
}

fn line(number: u64) -> Vec<u8> {
    format!("{number:0>99}\n").into_bytes()
}

#[test]
fn a_reader_that_reads_costs_no_thread() {
    let (mut reader, writer) = pipe();
    let mut stream = Stream::new(writer);
    for number in 0..2000 {
        stream.write(&line(number), &ThreadRules::default()).expect("room");
        let mut back = vec![0; 100];
        reader.read_exact(&mut back).expect("written");
        assert_eq!(back, line(number));
    }
    assert!(stream.queue().is_none());
}

#[test]
fn a_reader_that_stops_and_comes_back_gets_all_that_fitted_in_order_and_the_number_of_bytes_lost() {
    let (mut reader, writer) = pipe();
    let mut stream = Stream::new(writer);
    const LINES: u64 = 5000;
    for number in 0..LINES {
        stream.write(&line(number), &ThreadRules::default()).expect("never waits");
    }
    let queue = stream.queue().expect("a pipe takes 64 KiB");
    let mut text = String::new();
    let reading = std::thread::spawn(move || reader.read_to_string(&mut text).map(|_| text));
    queue.drain(TEST_TIMEOUT);
    stream.write(b"the last\n", &ThreadRules::default()).expect("room again");
    queue.drain(TEST_TIMEOUT);
    drop((stream, queue));
    let text = reading.join().expect("no panic").expect("all of it");
    let (mut seen, mut last, mut lost) = (0, None, 0);
    for part in text.lines() {
        if let Ok(number) = part.parse::<u64>() {
            assert!(last < Some(number), "in order");
            (seen, last) = (seen + 1, Some(number));
        } else if let Some(count) = part.strip_prefix("[hutch: ") {
            lost += count.split(' ').next().expect("a number").parse::<u64>().expect("a number");
        }
    }
    assert!(seen < LINES && text.ends_with("\nthe last\n"));
    assert_eq!(lost, (LINES - seen) * 100, "each loss is reported");
}

#[test]
fn a_reader_that_is_gone_is_an_error_at_once_or_later() {
    let (reader, writer) = pipe();
    drop(reader);
    Stream::new(writer).write(b"x", &ThreadRules::default()).expect_err("a broken pipe");

    let (reader, writer) = pipe();
    let mut stream = Stream::new(writer);
    while stream.queue().is_none() {
        stream.write(&line(1), &ThreadRules::default()).expect("never waits");
    }
    drop(reader);
    stream.queue().expect("full").drain(TEST_TIMEOUT);
    stream.write(b"x", &ThreadRules::default()).expect_err("a broken pipe");
}

/// A socket, as an example of another kind.
#[test]
fn a_socket_is_written_to_as_well() {
    let (mut reader, writer) = UnixStream::pair().expect("a pair of sockets");
    let mut stream = Stream::new(std::os::fd::OwnedFd::from(writer).into());
    stream.write(b"text", &ThreadRules::default()).expect("room");
    let mut back = [0; 4];
    reader.read_exact(&mut back).expect("written");
    assert_eq!(&back, b"text");
}

#[test]
fn waiting_for_a_reader_has_an_end() {
    let (_reader, writer) = pipe();
    let mut stream = Stream::new(writer);
    while stream.queue().is_none() {
        stream.write(&line(1), &ThreadRules::default()).expect("never waits");
    }
    let queue = stream.queue().expect("full");
    queue.drain(Duration::from_millis(10));
    // It has given up.
    queue.drain(TEST_TIMEOUT * 100);
}
