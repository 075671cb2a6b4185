//! Messages and their attributes: building and taking apart. What comes from the kernel is treated as if it did not.

/// Attributes and messages are padded to this.
const ALIGN: usize = 4;
/// struct nlmsghdr.
pub(super) const HEADER: usize = 16;
/// NLA_F_NESTED and NLA_F_NET_BYTEORDER, which are no part of an attribute's type.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;

/// A request under construction.
#[derive(Debug, Clone)]
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of type `kind` with `flags` (NLM_F_…) and its fixed part.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut request = Self { bytes };
        request.pad();
        request
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// Adds an attribute.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// Adds an attribute that holds a text with its end.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes);
    }

    /// Adds an attribute that holds what `fill` adds.
    pub(super) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// Adds bytes that are no attribute: the fixed part of something nested.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// The whole message.
    pub(super) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// Takes a datagram apart; stops at what does not make sense.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<Received<'_>> {
    let mut found = Vec::new();
    while let (Some(len), Some(kind), Some(sequence)) = (u32_at(bytes, 0), u16_at(bytes, 4), u32_at(bytes, 8)) {
        let len = len as usize;
        let Some(body) = bytes.get(HEADER..len) else { break };
        found.push(Received { kind, sequence, body });
        bytes = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    found
}

/// The attributes after the fixed part of a body.
pub(super) fn attributes(body: &[u8], fixed: usize) -> Vec<(u16, &[u8])> {
    let mut rest = body.get(fixed.next_multiple_of(ALIGN)..).unwrap_or_default();
    let mut found = Vec::new();
    while let (Some(len), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let len = usize::from(len);
        let Some(value) = rest.get(4..len) else { break };
        found.push((kind & TYPE_MASK, value));
        rest = rest.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    }
    found
}

/// The value of one attribute.
pub(super) fn find<'a>(attributes: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    attributes.iter().find(|(found, _)| *found == kind).map(|(_, value)| *value)
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A text that may or may not have its end.
pub(super) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_can_be_taken_apart() {
        let mut request = Request::new(16, 5, &[1, 2, 3, 4, 5, 6, 7, 8]);
        request.text(3, "eth0");
        request.nested(18, |info| {
            info.text(1, "veth");
            info.attribute(2, &7u32.to_ne_bytes());
        });
        let bytes = request.finish(9);
        let found = messages(&bytes);
        assert_eq!((found.len(), found[0].kind, found[0].sequence), (1, 16, 9));
        let attributes = attributes(found[0].body, 8);
        assert_eq!(text(find(&attributes, 3).unwrap()), "eth0");
        let inner = super::attributes(find(&attributes, 18).unwrap(), 0);
        assert_eq!((text(find(&inner, 1).unwrap()), u32_at(find(&inner, 2).unwrap(), 0)), ("veth".into(), Some(7)));
    }

    #[test]
    fn nonsense_ends_the_list() {
        for bytes in [&[][..], &[0; 3], &[0; 16], &[255; 40], &[17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(messages(bytes).is_empty(), "{bytes:?}");
            assert!(attributes(bytes, 0).len() < 2, "{bytes:?}");
        }
        assert!(attributes(&[8, 0, 1, 0, 1], 0).is_empty());
        assert!(attributes(&[], 100).is_empty());
    }
}
