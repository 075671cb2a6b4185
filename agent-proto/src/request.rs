//! Parses requests so that even an unknown one can be answered, and checks the form of tokens.

use serde::{de::IgnoredAny, Deserialize};

use crate::{HostFrame, RemoteError, RemoteErrorKind};

/// Longest [`crate::Token`] in bytes.
pub const MAX_TOKEN: usize = 128;

/// Whether `text` may be a [`crate::Token`]: 1 to [`MAX_TOKEN`] visible ASCII characters.
pub fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A payload that is not a request.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// The payload has an id, so the agent can answer it: with this error.
    #[error("request {id}: {error}")]
    Unknown {
        /// Id of the request.
        id: u64,
        /// The error to answer with.
        error: RemoteError,
    },
    /// The payload has no id: the other side speaks another protocol.
    #[error("not a request: {0}")]
    Malformed(serde_json::Error),
}

/// Parses the payload of a frame as a request of the host.
///
/// # Errors
/// [`BadRequest::Unknown`] if the request can be answered, [`BadRequest::Malformed`] if not.
pub fn parse_request(payload: &[u8]) -> Result<HostFrame, BadRequest> {
    #[derive(Deserialize)]
    struct Envelope {
        id: u64,
        #[serde(rename = "request")]
        _request: IgnoredAny,
    }
    serde_json::from_slice(payload).map_err(|reason| match serde_json::from_slice::<Envelope>(payload) {
        Ok(Envelope { id, .. }) => {
            let message = format!("the agent does not understand this request: {reason}");
            BadRequest::Unknown { id, error: RemoteError::new(RemoteErrorKind::Unsupported, message) }
        }
        Err(_) => BadRequest::Malformed(reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Request;

    #[test]
    fn a_known_request_is_understood() {
        let frame = parse_request(br#"{"id":3,"request":"ping","later":1}"#).unwrap();
        assert_eq!(frame, HostFrame { id: 3, request: Request::Ping });
    }

    #[test]
    fn an_unknown_request_can_be_answered() {
        for payload in
            [&br#"{"id":4,"request":{"fly":{"to":"moon"}}}"#[..], br#"{"id":4,"request":{"wait_process":{}}}"#]
        {
            match parse_request(payload) {
                Err(BadRequest::Unknown { id: 4, error }) => assert_eq!(error.kind, RemoteErrorKind::Unsupported),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_payload_without_id_is_malformed() {
        for payload in [&b"{}"[..], b"\xff", b"", br#"{"id":-1,"request":"ping"}"#, br#"{"id":1}"#] {
            assert!(matches!(parse_request(payload), Err(BadRequest::Malformed(_))), "{payload:?}");
        }
    }

    #[test]
    fn tokens_are_visible_ascii_of_bounded_length() {
        assert!(is_token("a") && is_token(&"x".repeat(MAX_TOKEN)) && is_token("pod/c-1:exec.2"));
        for bad in ["", "a b", "a\n", "é", "\0", &"x".repeat(MAX_TOKEN + 1)] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }
}
