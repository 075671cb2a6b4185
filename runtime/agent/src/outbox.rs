//! The sending half of a control connection. Any thread may send; no thread waits for a host that does not read.
//!
//! A frame goes straight to the socket while that has room. Otherwise the frame is queued, and a new thread writes the
//! queue to the socket and ends when the queue is empty. A host that lets more than `MAX_QUEUED` bytes pile up loses
//! its connection.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard};

use hutch_agent_proto::{encode_frame, AgentFrame, RemoteError, Response};
use nix::errno::Errno;

use crate::connection::HostConnection;
use crate::thread::{lock, spawn_thread};

/// Bytes that may wait for a slow host: two of the largest frames.
const MAX_QUEUED: usize = 2 * hutch_agent_proto::MAX_FRAME;

/// The sending half of a control connection.
pub struct Outbox {
    connection: Arc<HostConnection>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A thread writes the queue; new frames go to its end.
    flushing: bool,
    closed: bool,
}

impl Outbox {
    /// The sending half of `connection`.
    pub fn new(connection: Arc<HostConnection>) -> Arc<Self> {
        Arc::new(Self { connection, queue: Mutex::default() })
    }

    /// Sends the answer to request `id`.
    pub fn reply(self: &Arc<Self>, id: u64, result: Result<Response, RemoteError>) {
        let frame = AgentFrame::Reply { id, result };
        let bytes = encode_frame(&frame).or_else(|error| {
            let result = Err(crate::failure::invalid(format!("the answer cannot be sent: {error}")));
            encode_frame(&AgentFrame::Reply { id, result })
        });
        if let Ok(bytes) = bytes {
            self.send(bytes);
        }
    }

    /// Sends the bytes of a frame, after all frames sent before.
    pub fn send(self: &Arc<Self>, mut bytes: Vec<u8>) {
        let mut queue = self.lock();
        if queue.closed {
            return;
        }
        if !queue.flushing {
            match self.connection.send_now(&bytes) {
                Ok(sent) if sent == bytes.len() => return,
                Ok(sent) => drop(bytes.drain(..sent)),
                Err(Errno::EAGAIN) => {}
                Err(_) => return self.close(&mut queue),
            }
        }
        queue.bytes += bytes.len();
        queue.frames.push_back(bytes);
        if queue.bytes > MAX_QUEUED {
            return self.close(&mut queue);
        }
        if !queue.flushing {
            let outbox = Arc::clone(self);
            match spawn_thread("flush", move || outbox.flush()) {
                Ok(()) => queue.flushing = true,
                Err(_) => self.close(&mut queue),
            }
        }
    }

    /// Drops the queue and ends the connection.
    pub fn shut(&self) {
        self.close(&mut self.lock());
    }

    fn close(&self, queue: &mut Queue) {
        queue.closed = true;
        queue.frames.clear();
        self.connection.close();
    }

    /// Writes until the queue is empty. Runs on a thread of its own, at most one at a time.
    fn flush(&self) {
        let mut stream = &*self.connection;
        let mut queue = self.lock();
        while let Some(frame) = queue.frames.pop_front() {
            drop(queue);
            let result = stream.write_all(&frame);
            queue = self.lock();
            queue.bytes -= frame.len();
            if result.is_err() {
                self.close(&mut queue);
            }
        }
        queue.flushing = false;
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hutch_agent_proto::{read_frame, Event};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    fn pair() -> (Arc<Outbox>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        (Outbox::new(Arc::new(ours.into())), theirs)
    }

    fn event(number: usize, padding: usize) -> Vec<u8> {
        let message = format!("{number} {}", "x".repeat(padding));
        encode_frame(&AgentFrame::Event(Event::Log { level: "info".into(), message })).unwrap()
    }

    #[test]
    fn a_slow_host_gets_everything_in_order() {
        let (outbox, mut host) = pair();
        // More than a socket buffer holds, so that the flushing thread takes over in between.
        for number in 0..100 {
            outbox.send(event(number, 20_000));
        }
        for number in 0..100 {
            let Some(AgentFrame::Event(Event::Log { message, .. })) = read_frame(&mut host).unwrap() else {
                panic!("not an event")
            };
            assert!(message.starts_with(&format!("{number} ")));
        }
        outbox.send(event(100, 0));
        assert!(read_frame::<AgentFrame>(&mut host).unwrap().is_some());
    }

    #[test]
    fn a_host_that_never_reads_is_cut_off() {
        let (outbox, host) = pair();
        for number in 0..200 {
            outbox.send(event(number, 100_000));
        }
        let queue = outbox.lock();
        assert!(queue.closed && queue.frames.is_empty());
        drop(queue);
        drop(host);
    }

    #[test]
    fn a_reply_too_large_becomes_an_error() {
        let (outbox, mut host) = pair();
        let big =
            RemoteError::new(hutch_agent_proto::RemoteErrorKind::Invalid, "x".repeat(hutch_agent_proto::MAX_FRAME));
        outbox.reply(7, Err(big));
        let frame: AgentFrame = read_frame(&mut host).unwrap().unwrap();
        assert!(matches!(frame, AgentFrame::Reply { id: 7, result: Err(_) }), "{frame:?}");
    }
}
