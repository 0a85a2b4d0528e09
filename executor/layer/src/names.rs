//! Names of extended attributes in pax records, and which attributes an image can have.
//!
//! A record is `KEY=VALUE`, so the name of an attribute that has a `=` itself is written with `%3D` in its place, and `%` with `%25`,
//! as GNU tar does. Bytes that are no ASCII, which a key of a record need not be able to hold, are written in the same way.

use crate::error::EntryError;

/// The longest name (xattr(7)).
const MAX_NAME: usize = 255;

/// The longest value of which EROFS can say how long it is (`e_value_size`). The kernel's limit is one byte more.
pub const MAX_VALUE: usize = u16::MAX as usize;

/// What an attribute of this name is called in an archive.
pub fn escape(name: &[u8]) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name {
        match byte {
            b'%' | b'=' | 0x80.. => escaped.push_str(&format!("%{byte:02X}")),
            _ => escaped.push(char::from(*byte)),
        }
    }
    escaped
}

/// The name of an attribute of which an archive says this: nothing but what [`escape`] writes is another name.
pub fn unescape(escaped: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((first, behind)) = rest.split_first() {
        let byte = match behind {
            [high, low, ..] if *first == b'%' => byte_of([*high, *low]),
            _ => None,
        };
        name.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => behind.get(2..).unwrap_or_default(),
            None => behind,
        };
    }
    name
}

/// The byte of two digits, if it is one that is escaped.
fn byte_of(digits: [u8; 2]) -> Option<u8> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let [high, low] = digits;
    let byte = digit(high)? << 4 | digit(low)?;
    matches!(byte, b'%' | b'=' | 0x80..).then_some(byte)
}

/// Refuses an attribute that no file of an image can have.
pub(crate) fn refuse_unusable(name: &[u8], value: &[u8]) -> Result<(), EntryError> {
    let shown = || name.escape_ascii().to_string();
    if name.len() > MAX_NAME || name.contains(&0) {
        let shown = shown().chars().take(MAX_NAME).collect();
        return Err(EntryError::AttributeName(shown));
    }
    match value.len() <= MAX_VALUE {
        true => Ok(()),
        false => Err(EntryError::AttributeValue(shown(), value.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_written_as_tar_writes_them() {
        assert_eq!(escape(b"user.plain"), "user.plain");
        assert_eq!(escape(b"user.a=b"), "user.a%3Db");
        assert_eq!(escape(b"user.100%"), "user.100%25");
        assert_eq!(escape(b"user.\xff\xc3"), "user.%FF%C3");
        // What nobody escapes is what it says.
        for name in [
            "user.a%41",
            "user.%3d",
            "user.%",
            "user.%3",
            "user.%%3",
            "user.%\u{e9}",
        ] {
            assert_eq!(unescape(name.as_bytes()), name.as_bytes());
        }
        assert_eq!(unescape(b"user.%%3D%253D"), b"user.%=%3D");
    }

    #[test]
    fn what_no_image_has_is_refused_by_its_name() {
        let long = [b'a'; MAX_NAME + 1];
        let refused = |name: &[u8], length| {
            let refused = refuse_unusable(name, &vec![0; length]);
            refused.map_err(|error| error.to_string())
        };
        assert_eq!(refused(&long[1..], MAX_VALUE), Ok(()));
        let why = refused(b"user.\x1b", MAX_VALUE + 1);
        assert_eq!(
            why.expect_err("too long"),
            r"its attribute `user.\x1b` has 65536 bytes, and 65535 are the most"
        );
        let why = refused(&long, 0).expect_err("too long");
        assert!(
            why.contains("of at most 255 bytes without a NUL: `aaa"),
            "{why}"
        );
        refused(b"user.\0", 0).expect_err("a NUL");
    }

    proptest! {
        #[test]
        fn an_escaped_name_is_read_again(name in proptest::collection::vec(1u8.., 0..60)) {
            let escaped = escape(&name);
            prop_assert!(escaped.is_ascii() && !escaped.contains('='));
            prop_assert_eq!(unescape(escaped.as_bytes()), name);
        }
    }
}
