//! MessagePack both ways: maps with field names, and bounds that hold **while** decoding.
//!
//! A decoder that trusts lengths can be made to overflow its stack or to turn one megabyte into hundreds
//! (a byte `0x80`, the empty map, may become a structure of hundreds of bytes). So the bytes are walked once
//! before serde sees them: without recursion, counting depth, members and values.

use std::cell::RefCell;
use std::io::Write;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest payload that is decoded, in bytes: NATS servers' usual `max_payload`.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The deepest nesting of maps and arrays.
pub const DEPTH_MAX: usize = 32;
/// The most values in one payload, whatever they are.
pub const VALUES_MAX: usize = 65_536;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than [`PAYLOAD_BYTES_MAX`].
    #[error("the payload has {0} bytes; at most 1048576 are read")]
    TooLarge(usize),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("the payload is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// More values than [`VALUES_MAX`].
    #[error("the payload has more than {VALUES_MAX} values")]
    TooMany,
    /// The bytes end within a value, or go on after it, or are no MessagePack.
    #[error("the payload is no MessagePack: {0}")]
    Malformed(&'static str),
    /// MessagePack, but not of this message.
    #[error("the payload does not fit: {0}")]
    Shape(String),
}

/// Encodes a message.
///
/// # Panics
/// Never for the types of this crate: they have no map keys or values that MessagePack cannot carry; the
/// error exists for serialisers that write to something that can fail.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    encode_into(message)
}

/// Encodes a message into what is made of its bytes, without another copy of them on the way.
///
/// # Panics
/// As [`encode`]: never for the types of this crate.
pub fn encode_into<T: Serialize, B: for<'a> From<&'a [u8]>>(message: &T) -> B {
    // Written into room that is there already, and copied out of it once its size is known: a buffer of its own would be
    // made larger several times on the way. Taken out meanwhile, so that a message within a message is no trouble.
    let mut room = ROOM.take();
    room.clear();
    write(message, &mut room);
    let bytes = B::from(room.as_slice());
    if room.capacity() <= ROOM_BYTES_MAX {
        ROOM.set(room);
    }
    bytes
}

/// How many bytes [`encode`] makes of a message.
pub fn encoded_bytes<T: Serialize>(message: &T) -> usize {
    let mut count = Count(0);
    write(message, &mut count);
    count.0
}

/// How much room each thread keeps to encode in, in bytes: what records and pages of answers take, mostly.
const ROOM_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Counts what is written to it.
struct Count(usize);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write<T: Serialize>(message: &T, to: &mut impl Write) {
    #[expect(
        clippy::expect_used,
        reason = "writing to memory cannot fail, and every type here is plain data"
    )]
    message
        .serialize(&mut rmp_serde::Serializer::new(to).with_struct_map())
        .expect("plain data encodes into memory");
}

/// Decodes a message, refusing what is too large, too deep or too much.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    check(bytes)?;
    decode_trusted(bytes)
}

/// Decodes what this process, or one of its own kind, has stored: without the bounds on size.
pub fn decode_trusted<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
    deserializer.set_max_depth(DEPTH_MAX * 4);
    T::deserialize(&mut deserializer).map_err(|error| DecodeError::Shape(error.to_string()))
}

/// Walks the bytes of one value without building anything.
fn check(bytes: &[u8]) -> Result<(), DecodeError> {
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge(bytes.len()));
    }
    let mut rest = bytes;
    let mut values = 0usize;
    // How many values are still to come at each level that is open.
    let mut open: Vec<usize> = vec![1];
    while let Some(left) = open.last_mut() {
        if *left == 0 {
            open.pop();
            continue;
        }
        *left -= 1;
        values += 1;
        if values > VALUES_MAX {
            return Err(DecodeError::TooMany);
        }
        let members = skip_head(&mut rest)?;
        if members > 0 {
            // A member is at least one byte, so a length that the bytes cannot hold is a lie.
            if members > rest.len() {
                return Err(DecodeError::Malformed("a length beyond the end"));
            }
            if open.len() > DEPTH_MAX {
                return Err(DecodeError::TooDeep);
            }
            open.push(members);
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("bytes after the end")) }
}

/// Takes one marker and, for scalars, its content off the front; gives how many values a container holds.
fn skip_head(rest: &mut &[u8]) -> Result<usize, DecodeError> {
    let marker = take(rest, 1)?.first().copied().unwrap_or(0xc1);
    let content = match marker {
        0x00..=0x7f | 0xc0 | 0xc2 | 0xc3 | 0xe0..=0xff => 0,
        0x80..=0x8f => return Ok(usize::from(marker & 0x0f) * 2),
        0x90..=0x9f => return Ok(usize::from(marker & 0x0f)),
        0xa0..=0xbf => usize::from(marker & 0x1f),
        0xc4 | 0xd9 => length(rest, 1)?,
        0xc5 | 0xda => length(rest, 2)?,
        0xc6 | 0xdb => length(rest, 4)?,
        0xc7 => length(rest, 1)?.saturating_add(1),
        0xc8 => length(rest, 2)?.saturating_add(1),
        0xc9 => length(rest, 4)?.saturating_add(1),
        0xcc | 0xd0 => 1,
        0xcd | 0xd1 => 2,
        0xca | 0xce | 0xd2 => 4,
        0xcb | 0xcf | 0xd3 => 8,
        0xd4 => 2,
        0xd5 => 3,
        0xd6 => 5,
        0xd7 => 9,
        0xd8 => 17,
        0xdc => return length(rest, 2),
        0xdd => return length(rest, 4),
        0xde => return Ok(length(rest, 2)?.saturating_mul(2)),
        0xdf => return Ok(length(rest, 4)?.saturating_mul(2)),
        0xc1 => return Err(DecodeError::Malformed("a marker that is never used")),
    };
    take(rest, content)?;
    Ok(0)
}

/// Takes `count` bytes off the front.
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], DecodeError> {
    let (head, tail) =
        rest.split_at_checked(count).ok_or(DecodeError::Malformed("it ends within a value"))?;
    *rest = tail;
    Ok(head)
}

/// Takes a big-endian length of `width` bytes off the front.
fn length(rest: &mut &[u8], width: usize) -> Result<usize, DecodeError> {
    Ok(take(rest, width)?.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::node::{Heartbeat, Reports};

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Old {
        a: u32,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct New {
        a: u32,
        b: Option<String>,
    }

    /// A message that holds another one, encoded while it is.
    struct Outer(New);

    impl Serialize for Outer {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&encode(&self.0))
        }
    }

    #[test]
    fn a_message_is_encoded_the_same_whatever_was_encoded_before() {
        let large = New { a: 7, b: Some("x".repeat(2 * ROOM_BYTES_MAX)) };
        let (small, inner) = (New { a: 1, b: None }, New { a: 2, b: Some("y".into()) });
        let first = encode(&small);
        for message in [&large, &inner, &small] {
            let bytes = encode(message);
            assert_eq!(decode_trusted::<New>(&bytes).as_ref(), Ok(message));
            assert_eq!(encoded_bytes(message), bytes.len());
        }
        assert_eq!(encode(&small), first);
        let within = encode(&Outer(inner));
        // The head of bytes of this length is two bytes long.
        assert_eq!(within[2..], encode(&New { a: 2, b: Some("y".into()) }));
        assert!(
            ROOM.take().capacity() <= ROOM_BYTES_MAX,
            "what one large message took is given back"
        );
    }

    #[test]
    fn old_and_new_read_each_other() {
        let new = New { a: 7, b: Some("x".into()) };
        assert_eq!(decode::<Old>(&encode(&new)), Ok(Old { a: 7 }));
        assert_eq!(decode::<New>(&encode(&Old { a: 7 })), Ok(New { a: 7, b: None }));
    }

    #[test]
    fn a_message_is_a_map_with_names() {
        assert_eq!(encode(&Old { a: 7 }), [0x81, 0xa1, b'a', 7]);
    }

    #[test]
    fn nesting_is_bounded() {
        let mut deep = vec![0x91; 40];
        deep.push(0);
        assert_eq!(check(&deep), Err(DecodeError::TooDeep));
        let mut fine = vec![0x91; 30];
        fine.push(0);
        assert_eq!(check(&fine), Ok(()));
    }

    #[test]
    fn values_are_bounded() {
        let mut bombs = vec![0xdd, 0, 1, 0, 0];
        bombs.extend(std::iter::repeat_n(0x80, 1 << 16));
        assert_eq!(check(&bombs), Err(DecodeError::TooMany));
        assert!(matches!(
            decode::<Old>(&vec![0xc0; PAYLOAD_BYTES_MAX + 1]),
            Err(DecodeError::TooLarge(_))
        ));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for lie in [
            &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
            &[0xdb, 0xff, 0xff, 0xff, 0xff],
            &[0xdf, 0xff, 0xff, 0xff, 0xff, 0],
        ] {
            assert!(matches!(check(lie), Err(DecodeError::Malformed(_))), "{lie:x?}");
        }
        assert_eq!(check(&[]), Err(DecodeError::Malformed("it ends within a value")));
        assert_eq!(check(&[0xc0, 0xc0]), Err(DecodeError::Malformed("bytes after the end")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<Heartbeat>(&bytes);
            let _ = decode::<Reports>(&bytes);
        }

        #[test]
        fn what_is_encoded_passes_the_check(map in proptest::collection::btree_map(".*", any::<(u64, i64, f64, bool)>(), 0..40)) {
            let map: BTreeMap<String, (u64, i64, f64, bool)> = map;
            prop_assert_eq!(check(&encode(&map)), Ok(()));
        }
    }
}
