//! Relays between pipes and socket pairs that act as the guest.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Mutex;

use nix::fcntl::{fcntl, FcntlArg, OFlag};
use nix::unistd::pipe2;

use super::*;

const SOON: Duration = Duration::from_secs(120);
const SILENCE_TIMEOUT: Duration = Duration::from_millis(100);

/// A process whose streams are socket pairs: the opener for the relay, and the guest's ends.
struct Process {
    open: OpenStream,
    ends: HashMap<StdStream, UnixStream>,
}

impl Process {
    fn new(streams: &[StdStream]) -> Self {
        let mut host = HashMap::new();
        let mut ends = HashMap::new();
        for stream in streams {
            let (a, b) = UnixStream::pair().unwrap();
            host.insert(*stream, a);
            ends.insert(*stream, b);
        }
        let host = Mutex::new(host);
        let open = Arc::new(move |stream| Ok(host.lock().unwrap().remove(&stream).expect("opened twice")));
        Self { open, ends }
    }

    fn end(&mut self, stream: StdStream) -> UnixStream {
        self.ends.remove(&stream).unwrap()
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe2(OFlag::O_CLOEXEC).unwrap()
}

fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

#[test]
fn sixty_four_mib_arrive_whole_both_ways() {
    const SIZE: usize = 64 << 20;
    let mut process = Process::new(&[StdStream::Stdin, StdStream::Stdout]);
    let (in_read, in_write) = pipe();
    let (out_read, out_write) = pipe();
    let fds = StdioFds { stdin: Some(in_read), stdout: Some(out_write), stderr: None };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    // `cat` in the guest.
    let (mut stdin, mut stdout) = (process.end(StdStream::Stdin), process.end(StdStream::Stdout));
    let cat = thread::spawn(move || io::copy(&mut stdin, &mut stdout).unwrap());
    let writer = thread::spawn(move || {
        let mut file = File::from(in_write);
        let block: Vec<u8> = (0..251 * 400).map(pattern).collect();
        let mut left = SIZE;
        while left > 0 {
            let count = left.min(block.len());
            file.write_all(&block[..count]).unwrap();
            left -= count;
        }
    });
    let reader = thread::spawn(move || {
        let mut file = File::from(out_read);
        let mut buffer = vec![0; 100_000];
        let mut total = 0;
        loop {
            let count = file.read(&mut buffer).unwrap();
            if count == 0 {
                return total;
            }
            assert!(buffer[..count].iter().enumerate().all(|(i, b)| *b == pattern(total + i)));
            total += count;
        }
    });
    writer.join().unwrap();
    assert_eq!(cat.join().unwrap(), SIZE as u64);
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    assert_eq!(reader.join().unwrap(), SIZE);
}

#[test]
fn stdout_and_stderr_stay_apart_and_the_first_byte_is_noted() {
    let mut process = Process::new(&[StdStream::Stdout, StdStream::Stderr]);
    let ((out_read, out_write), (err_read, err_write)) = (pipe(), pipe());
    let fds = StdioFds { stdin: None, stdout: Some(out_write), stderr: Some(err_write) };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    assert_eq!(relay.first_byte_ns(), None);
    process.end(StdStream::Stderr).write_all(b"err").unwrap();
    assert_eq!(io::read_to_string(File::from(err_read)).unwrap(), "err");
    assert!(relay.first_byte_ns().is_some());
    process.end(StdStream::Stdout).write_all(b"out").unwrap();
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    assert_eq!(io::read_to_string(File::from(out_read)).unwrap(), "out");
}

#[test]
fn end_of_stdin_shuts_the_write_side_only() {
    let mut process = Process::new(&[StdStream::Terminal]);
    let ((in_read, in_write), (out_read, out_write)) = (pipe(), pipe());
    let fds = StdioFds { stdin: Some(in_read), stdout: Some(out_write), stderr: None };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, true, SILENCE_TIMEOUT).unwrap();
    let mut end = process.end(StdStream::Terminal);
    File::from(in_write).write_all(b"last words").unwrap();
    let mut text = String::new();
    end.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
    end.write_all(b"answer after the end").unwrap();
    drop(end);
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    assert_eq!(io::read_to_string(File::from(out_read)).unwrap(), "answer after the end");
}

#[test]
fn a_reader_that_goes_away_gives_the_process_epipe_even_if_it_writes_nothing() {
    let mut process = Process::new(&[StdStream::Stdout]);
    let (out_read, out_write) = pipe();
    let fds = StdioFds { stdin: None, stdout: Some(out_write), stderr: None };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    let mut end = process.end(StdStream::Stdout);
    drop(out_read);
    // The stream ends for the guest, and writing fails.
    assert_eq!(end.read(&mut [0]).unwrap(), 0);
    assert_eq!(end.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
}

#[test]
fn a_process_that_closes_stdin_stops_the_reading() {
    let mut process = Process::new(&[StdStream::Stdin]);
    let (in_read, in_write) = pipe();
    let fds = StdioFds { stdin: Some(in_read), ..StdioFds::default() };
    let _relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    drop(process.end(StdStream::Stdin));
    // An error on the write end: the relay, the only reader, has closed its end.
    let mut fds = [PollFd::new(in_write.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut fds, PollTimeout::try_from(SOON).unwrap()).unwrap(), 1, "still reading");
}

#[test]
fn bytes_written_just_before_the_end_arrive() {
    for _ in 0..200 {
        let mut process = Process::new(&[StdStream::Stdout]);
        let (out_read, out_write) = pipe();
        let fds = StdioFds { stdout: Some(out_write), ..StdioFds::default() };
        let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
        let mut end = process.end(StdStream::Stdout);
        let writer = thread::spawn(move || end.write_all(b"last").unwrap());
        writer.join().unwrap();
        assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
        assert_eq!(io::read_to_string(File::from(out_read)).unwrap(), "last");
    }
}

#[test]
fn a_stream_kept_open_by_a_survivor_ends_when_it_is_quiet() {
    let mut process = Process::new(&[StdStream::Stdout]);
    let (out_read, out_write) = pipe();
    let fds = StdioFds { stdout: Some(out_write), ..StdioFds::default() };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    let mut survivor = process.end(StdStream::Stdout);
    survivor.write_all(b"said").unwrap();
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    assert_eq!(io::read_to_string(File::from(out_read)).unwrap(), "said");
    drop(survivor);
}

#[test]
fn a_slow_caller_is_not_mistaken_for_a_quiet_process() {
    let mut process = Process::new(&[StdStream::Stdout]);
    let (out_read, out_write) = pipe();
    let fds = StdioFds { stdout: Some(out_write), ..StdioFds::default() };
    // A busy machine may hold the writer up, but not for this long.
    let quiet = Duration::from_secs(3);
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, quiet).unwrap();
    let mut end = process.end(StdStream::Stdout);
    let writer = thread::spawn(move || {
        end.write_all(&vec![7; 1 << 20]).unwrap();
    });
    let reader = thread::spawn(move || {
        let mut file = File::from(out_read);
        let mut bytes = vec![0; 1000];
        file.read_exact(&mut bytes).unwrap();
        thread::sleep(quiet + quiet / 3);
        file.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    writer.join().unwrap();
    assert_eq!(reader.join().unwrap(), 1 << 20);
}

#[test]
fn a_caller_that_never_reads_is_given_up_at_the_limit() {
    let mut process = Process::new(&[StdStream::Stdout]);
    let (_out_read, out_write) = pipe();
    let fds = StdioFds { stdout: Some(out_write), ..StdioFds::default() };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    let end = process.end(StdStream::Stdout);
    let writer = thread::spawn(move || {
        let _ = (&end).write_all(&vec![7; 1 << 20]);
    });
    assert_eq!(relay.finish(Some(Duration::from_millis(50))).unwrap(), Drained::Stuck);
    drop(_out_read);
    writer.join().unwrap();
}

#[test]
fn shared_descriptors_keep_their_flags_and_non_blocking_ones_work() {
    let mut process = Process::new(&[StdStream::Stdout, StdStream::Stdin]);
    let ((in_read, in_write), (out_read, out_write)) = (pipe(), pipe());
    fcntl(&out_write, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    fcntl(&in_read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let (blocking, stdin) = (out_write.try_clone().unwrap(), in_read.try_clone().unwrap());
    let fds = StdioFds { stdin: Some(in_read), stdout: Some(out_write), stderr: None };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    let mut end = process.end(StdStream::Stdout);
    let writer = thread::spawn(move || end.write_all(&vec![7; 1 << 20]).unwrap());
    let mut bytes = vec![0; 1 << 20];
    File::from(out_read).read_exact(&mut bytes).unwrap();
    writer.join().unwrap();
    File::from(in_write).write_all(b"in").unwrap();
    assert_eq!(io::read_to_string(process.end(StdStream::Stdin)).unwrap(), "in");
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    for fd in [&blocking, &stdin] {
        let flags = OFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_NONBLOCK), "the relay changed the caller's flags");
    }
}

#[test]
fn a_full_disk_of_the_caller_is_reported() {
    let mut process = Process::new(&[StdStream::Stdout]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let fds = StdioFds { stdout: Some(full.into()), ..StdioFds::default() };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, SILENCE_TIMEOUT).unwrap();
    process.end(StdStream::Stdout).write_all(b"x").unwrap();
    let error = relay.finish(Some(SOON)).unwrap_err();
    assert!(matches!(error, RelayError::Caller { stream: StdStream::Stdout, .. }), "{error:?}");
}

#[test]
fn a_stream_that_can_not_be_opened_is_reported() {
    let open: OpenStream = Arc::new(|stream| {
        let source = io::ErrorKind::ConnectionRefused.into();
        Err(AgentError::OpenStream { stream, source })
    });
    let (_out_read, out_write) = pipe();
    let fds = StdioFds { stdout: Some(out_write), ..StdioFds::default() };
    let mut relay = Relay::start(open, fds, false, SILENCE_TIMEOUT).unwrap();
    assert!(matches!(relay.finish(Some(SOON)), Err(RelayError::Open(_))));
}

/// A guest that takes no input. The relay's thread waits with it, and nothing else does.
#[test]
fn a_guest_that_never_reads_holds_nothing_up() {
    let mut process = Process::new(&[StdStream::Stdin, StdStream::Stdout]);
    let ((in_read, in_write), (out_read, out_write)) = (pipe(), pipe());
    let fds = StdioFds { stdin: Some(in_read), stdout: Some(out_write), stderr: None };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, Duration::from_secs(1)).unwrap();
    // More than socket and pipe hold together; the writer ends when the relay lets go of the pipe.
    let writer = thread::spawn(move || File::from(in_write).write_all(&vec![1; 64 << 20]).is_ok());
    let (unread, mut output) = (process.end(StdStream::Stdin), process.end(StdStream::Stdout));
    output.write_all(b"out").unwrap();
    drop(output);
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    drop(relay);
    let mut text = String::new();
    File::from(out_read).read_to_string(&mut text).unwrap();
    assert_eq!(text, "out");
    assert!(!writer.is_finished(), "the caller is slowed down, the host keeps no input for the guest");
    drop(unread);
    assert!(!writer.join().unwrap(), "once the guest is gone, the caller is told so");
}

/// A guest that sends output without end, also after its process is said to have ended: the wait for it has the caller's
/// bound, and the caller's hang-up ends it.
#[test]
fn a_guest_that_sends_without_end_is_waited_for_no_longer_than_asked() {
    let mut process = Process::new(&[StdStream::Stdout]);
    let (out_read, out_write) = pipe();
    let fds = StdioFds { stdout: Some(out_write), ..StdioFds::default() };
    let mut relay = Relay::start(Arc::clone(&process.open), fds, false, Duration::from_secs(3600)).unwrap();
    let mut end = process.end(StdStream::Stdout);
    let guest = thread::spawn(move || while end.write_all(&[7; 4096]).is_ok() {});
    let mut caller = File::from(out_read);
    let mut bytes = vec![0; 1 << 20];
    caller.read_exact(&mut bytes).unwrap();
    assert_eq!(relay.finish(Some(Duration::from_millis(20))).unwrap(), Drained::Stuck);
    caller.read_exact(&mut bytes).unwrap();
    drop(caller);
    assert_eq!(relay.finish(Some(SOON)).unwrap(), Drained::All);
    guest.join().unwrap();
}
