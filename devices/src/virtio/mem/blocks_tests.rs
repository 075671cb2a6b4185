use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::ram::Pins;

const ADDR: u64 = 4 << 30;
const SIZE: u64 = 16 * BLOCK_SIZE;

fn blocks() -> Blocks {
    Blocks::new(Arc::new(PlugMap::new(ADDR, SIZE, BLOCK_SIZE)))
}

/// Records the ranges that were plugged and unplugged, or refuses to.
#[derive(Default)]
struct Host {
    plugged: Mutex<Vec<(u64, u64)>>,
    unplugged: Mutex<Vec<(u64, u64)>>,
    refuses: bool,
    /// The error of a host that refuses, if it is not that of a lack of memory.
    errno: Option<i32>,
}

impl Host {
    fn record(&self, list: &Mutex<Vec<(u64, u64)>>, addr: u64, len: u64) -> io::Result<()> {
        if self.refuses {
            return Err(self.errno.map_or(io::ErrorKind::OutOfMemory.into(), io::Error::from_raw_os_error));
        }
        list.lock().unwrap().push((addr, len));
        Ok(())
    }
}

impl RegionMemory for Host {
    fn plug(&self, addr: u64, len: u64) -> io::Result<()> {
        self.record(&self.plugged, addr, len)
    }

    fn unplug(&self, addr: u64, len: u64) -> io::Result<()> {
        self.record(&self.unplugged, addr, len)
    }
}

fn at(block: u64, blocks: u16) -> Span {
    Span { addr: ADDR + block * BLOCK_SIZE, blocks }
}

#[test]
fn blocks_are_plugged_up_to_the_requested_size() {
    let (mut blocks, host) = (blocks(), Host::default());
    assert_eq!(blocks.serve(MemRequest::Plug(at(0, 1)), &host), MemResponse::Nack, "nothing is wanted yet");
    assert_eq!(blocks.request(4 * BLOCK_SIZE + 5), 4 * BLOCK_SIZE);
    assert_eq!(blocks.serve(MemRequest::Plug(at(2, 3)), &host), MemResponse::Ack);
    assert_eq!(blocks.serve(MemRequest::Plug(at(4, 1)), &host), MemResponse::Error, "it is plugged");
    assert_eq!(blocks.serve(MemRequest::Plug(at(5, 2)), &host), MemResponse::Nack, "one too many");
    assert_eq!(blocks.serve(MemRequest::Plug(at(15, 1)), &host), MemResponse::Ack);
    assert_eq!((blocks.plugged(), blocks.requested()), (4 * BLOCK_SIZE, 4 * BLOCK_SIZE));
    assert_eq!(blocks.request(u64::MAX), SIZE, "the region is the limit");
}

#[test]
fn unplugged_memory_goes_back_to_the_host() {
    let (mut blocks, host) = (blocks(), Host::default());
    blocks.request(SIZE);
    assert_eq!(blocks.serve(MemRequest::Plug(at(0, 16)), &host), MemResponse::Ack);
    assert_eq!(blocks.serve(MemRequest::Unplug(at(3, 2)), &host), MemResponse::Ack);
    assert_eq!(blocks.serve(MemRequest::Unplug(at(4, 2)), &host), MemResponse::Error, "half of it is not plugged");
    assert_eq!(blocks.serve(MemRequest::State(at(3, 2)), &host), MemResponse::State(BlockState::Unplugged));
    assert_eq!(blocks.serve(MemRequest::State(at(4, 2)), &host), MemResponse::State(BlockState::Mixed));
    assert_eq!(blocks.serve(MemRequest::State(at(5, 11)), &host), MemResponse::State(BlockState::Plugged));
    assert_eq!(blocks.serve(MemRequest::UnplugAll, &host), MemResponse::Ack);
    assert_eq!(blocks.plugged(), 0);
    let unplugged = host.unplugged.lock().unwrap().clone();
    let runs = [(3, 2), (0, 3), (5, 11)];
    assert_eq!(unplugged, runs.map(|(first, count)| (at(first, 0).addr, count * BLOCK_SIZE)), "each run once");
    assert_eq!(*host.plugged.lock().unwrap(), [(ADDR, SIZE)]);
    assert_eq!(blocks.serve(MemRequest::Unknown(9), &host), MemResponse::Error);
}

#[test]
fn a_host_that_does_not_take_memory_back_leaves_it_plugged_and_one_that_gives_none_unplugged() {
    let mut blocks = blocks();
    blocks.request(SIZE);
    assert_eq!(blocks.serve(MemRequest::Plug(at(0, 4)), &Host::default()), MemResponse::Ack);
    let host = Host { refuses: true, ..Host::default() };
    assert_eq!(blocks.serve(MemRequest::Unplug(at(0, 1)), &host), MemResponse::Busy);
    assert_eq!(blocks.serve(MemRequest::UnplugAll, &host), MemResponse::Busy);
    assert_eq!(blocks.serve(MemRequest::Plug(at(4, 1)), &host), MemResponse::Busy);
    assert_eq!(blocks.plugged(), 4 * BLOCK_SIZE);
    assert_eq!(blocks.serve(MemRequest::State(at(0, 4)), &host), MemResponse::State(BlockState::Plugged));
    assert_eq!(blocks.serve(MemRequest::State(at(4, 1)), &host), MemResponse::State(BlockState::Unplugged));
}

#[test]
fn blocks_that_a_device_uses_are_not_unplugged() {
    let (mut blocks, host) = (blocks(), Host::default());
    blocks.request(SIZE);
    assert_eq!(blocks.serve(MemRequest::Plug(at(2, 4)), &host), MemResponse::Ack);
    let mut pins = Pins::new();
    pins.add(&blocks.map, at(3, 0).addr + 77, 1).expect("plugged");
    assert_eq!(blocks.serve(MemRequest::Unplug(at(2, 2)), &host), MemResponse::Busy);
    assert_eq!(blocks.serve(MemRequest::UnplugAll, &host), MemResponse::Busy);
    assert_eq!((blocks.plugged(), host.unplugged.lock().unwrap().len()), (4 * BLOCK_SIZE, 0));
    drop(pins);
    assert_eq!(blocks.serve(MemRequest::UnplugAll, &host), MemResponse::Ack);
}

#[test]
fn a_guest_cannot_cut_the_region_into_more_runs_than_the_host_has_mappings_for() {
    let count = 2 * MAX_RUNS + 8;
    let (mut blocks, host) = (Blocks::new(Arc::new(PlugMap::new(0, count * BLOCK_SIZE, BLOCK_SIZE))), Host::default());
    blocks.request(u64::MAX);
    let one = |block: u64| Span { addr: block * BLOCK_SIZE, blocks: 1 };
    for block in 0..MAX_RUNS {
        assert_eq!(blocks.serve(MemRequest::Plug(one(2 * block)), &host), MemResponse::Ack);
    }
    assert_eq!(blocks.serve(MemRequest::Plug(one(2 * MAX_RUNS)), &host), MemResponse::Busy);
    assert_eq!(blocks.serve(MemRequest::Plug(one(2 * MAX_RUNS - 1)), &host), MemResponse::Ack, "beside another");
    assert_eq!(blocks.serve(MemRequest::Plug(one(2 * MAX_RUNS)), &host), MemResponse::Ack, "beside another");
    assert_eq!(blocks.serve(MemRequest::Unplug(one(2 * MAX_RUNS - 1)), &host), MemResponse::Busy, "it would cut a run");
    assert_eq!(blocks.serve(MemRequest::Unplug(one(2 * MAX_RUNS)), &host), MemResponse::Ack);
    assert_eq!(blocks.serve(MemRequest::UnplugAll, &host), MemResponse::Ack);
    assert_eq!((blocks.plugged(), blocks.runs), (0, 0));
}

/// Linux asks again for as long as more blocks are plugged than requested.
#[test]
fn a_wish_that_the_host_cannot_fulfil_itself_is_withdrawn() {
    for (errno, tries) in [(None, DISCARD_TRIES), (Some(libc::EAGAIN), DISCARD_TRIES), (Some(libc::EINVAL), 1)] {
        let (mut blocks, mut host) = (blocks(), Host { errno, ..Host::default() });
        blocks.request(2 * BLOCK_SIZE);
        blocks.serve(MemRequest::Plug(at(0, 2)), &host);
        blocks.request(0);
        host.refuses = true;
        let asked = (1..1000).find(|_| {
            assert_eq!(blocks.serve(MemRequest::Unplug(at(0, 1)), &host), MemResponse::Busy);
            blocks.requested() == blocks.plugged()
        });
        assert_eq!((asked, blocks.plugged(), blocks.withdrawn()), (Some(tries), 2 * BLOCK_SIZE, true));
        // A new wish is a new attempt.
        blocks.request(BLOCK_SIZE);
        assert!(!blocks.withdrawn());
        host.refuses = false;
        assert_eq!(blocks.serve(MemRequest::Unplug(at(0, 1)), &host), MemResponse::Ack);
    }
}

#[test]
fn a_failure_does_not_undo_a_wish_for_more() {
    let (mut blocks, mut host) = (blocks(), Host { errno: Some(libc::EINVAL), ..Host::default() });
    blocks.request(4 * BLOCK_SIZE);
    blocks.serve(MemRequest::Plug(at(0, 2)), &host);
    host.refuses = true;
    assert_eq!(blocks.serve(MemRequest::UnplugAll, &host), MemResponse::Busy);
    assert_eq!((blocks.requested(), blocks.withdrawn()), (4 * BLOCK_SIZE, false));
}

/// A request that a guest might send: often near the region, sometimes anywhere.
fn request() -> impl Strategy<Value = MemRequest> {
    let addr = prop_oneof![
        6 => (0..20u64).prop_map(|block| ADDR + block * BLOCK_SIZE),
        1 => (0..BLOCK_SIZE).prop_map(|offset| ADDR + offset),
        1 => any::<u64>(),
    ];
    let blocks = prop_oneof![6 => 0..6u16, 1 => any::<u16>()];
    (0..5u16, addr, blocks).prop_map(|(kind, addr, blocks)| {
        let span = Span { addr, blocks };
        match kind {
            0 => MemRequest::Plug(span),
            1 => MemRequest::Unplug(span),
            2 => MemRequest::UnplugAll,
            3 => MemRequest::State(span),
            other => MemRequest::Unknown(other),
        }
    })
}

/// The state before a request. Checks that a plugged range was not plugged and an unplugged one was.
struct Model {
    plugged: [bool; 16],
    /// Errors of the calls to come: none, or a number.
    errors: Mutex<Vec<Option<i32>>>,
}

impl Model {
    fn check(&self, addr: u64, len: u64, state: bool) -> io::Result<()> {
        let first = usize::try_from((addr - ADDR) / BLOCK_SIZE).unwrap();
        let count = usize::try_from(len / BLOCK_SIZE).unwrap();
        assert!(count > 0 && len.is_multiple_of(BLOCK_SIZE) && first + count <= 16);
        assert!(self.plugged[first..first + count].iter().all(|plugged| *plugged == state));
        match self.errors.lock().unwrap().pop().flatten() {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }
}

impl RegionMemory for Model {
    fn plug(&self, addr: u64, len: u64) -> io::Result<()> {
        self.check(addr, len, false)
    }

    fn unplug(&self, addr: u64, len: u64) -> io::Result<()> {
        self.check(addr, len, true)
    }
}

/// Errors of the host's calls for one request, most of them none.
fn errors() -> impl Strategy<Value = Vec<Option<i32>>> {
    let errno = prop::sample::select(vec![libc::ENOMEM, libc::EAGAIN, libc::EINVAL, libc::EPERM]);
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(prop::option::of(errno), 0..4)]
}

proptest! {
    /// Compares with a model that handles one block at a time. The host fails at times: what it did not do does not count.
    #[test]
    fn no_sequence_of_requests_gets_more_than_requested_or_anything_outside(
        steps in prop::collection::vec((request(), prop::option::of(0..20u64), errors()), 1..60)
    ) {
        let mut blocks = blocks();
        let mut model = [false; 16];
        for (request, wanted, errors) in steps {
            if let Some(wanted) = wanted {
                blocks.request(wanted * BLOCK_SIZE);
            }
            let before = blocks.plugged();
            let fails = errors.iter().any(Option::is_some);
            let host = Model { plugged: model, errors: Mutex::new(errors) };
            let answer = blocks.serve(request, &host);
            if fails && answer == MemResponse::Busy && request == MemRequest::UnplugAll {
                // Each run for itself.
                for (index, block) in model.iter_mut().enumerate() {
                    let now = blocks.map.is_plugged(index);
                    prop_assert!(*block || !now);
                    *block = now;
                }
            }
            if answer == MemResponse::Ack {
                let (span, to) = match request {
                    MemRequest::Plug(span) => (span, true),
                    MemRequest::Unplug(span) => (span, false),
                    _ => (at(0, 16), false),
                };
                for block in 0..u64::from(span.blocks) {
                    let index = usize::try_from((span.addr - ADDR) / BLOCK_SIZE + block).unwrap();
                    prop_assert!(to != model[index] || request == MemRequest::UnplugAll);
                    model[index] = to;
                }
            }
            let count = model.iter().filter(|plugged| **plugged).count() as u64;
            prop_assert_eq!(blocks.plugged(), count * BLOCK_SIZE);
            prop_assert!((0..16).all(|index| blocks.map.is_plugged(index) == model[index]));
            let starts = (0..16).filter(|at| model[*at] && (*at == 0 || !model[*at - 1])).count() as u64;
            prop_assert_eq!(blocks.runs, starts);
            prop_assert!(blocks.plugged() <= before || blocks.plugged() <= blocks.requested());
            prop_assert!(blocks.requested() <= SIZE);
        }
    }
}
