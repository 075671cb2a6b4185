//! Frames between host and agent, read by each side.

use hutch_agent_proto::{
    encode_frame, parse_request, read_frame, read_payload, AgentFrame, BadRequest, Hello, HostFrame, Open,
};
use serde::Deserialize;

/// Attacks the readers of frames.
pub fn attack(data: &[u8]) {
    let mut stream = data;
    while let Ok(Some(payload)) = read_payload(&mut stream) {
        assert!(payload.len() <= data.len());
        read(&payload);
    }
    // Most inputs are not frames; their bytes are payloads.
    read(data);
}

fn read(payload: &[u8]) {
    match parse_request(payload) {
        Ok(frame) => assert_eq!(again(&frame), frame),
        Err(BadRequest::Unknown { id, .. }) => {
            // Only the id counts: the reader ignores the text of a request that it does not know.
            let only: OnlyId = serde_json::from_slice(payload).expect("a request with an id");
            assert_eq!(only.id, id);
        }
        Err(BadRequest::Malformed(_)) => {}
    }
    if let Ok(frame) = serde_json::from_slice::<AgentFrame>(payload) {
        assert_eq!(again(&frame), frame);
    }
    if let Ok(hello) = serde_json::from_slice::<Hello>(payload) {
        assert_eq!(again(&hello), hello);
    }
    if let Ok(open) = serde_json::from_slice::<Open>(payload) {
        assert_eq!(again(&open), open);
    }
    drop(serde_json::from_slice::<HostFrame>(payload));
}

#[derive(Deserialize)]
struct OnlyId {
    id: u64,
}

/// The message after a way over the wire.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(message: &T) -> T {
    let bytes = encode_frame(message).expect("a message that came in a frame fits one");
    read_frame(&mut &bytes[..]).expect("a good frame").expect("a whole frame")
}
