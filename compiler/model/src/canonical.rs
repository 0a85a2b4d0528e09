//! Canonical bytes: the one text a value is hashed, stored and sent as.
//!
//! JSON as RFC 8785 has it, narrowed: object keys sorted by their bytes, no white space, integers
//! only. Every quantity that people write with a fraction is an integer with a unit in the model
//! ([`crate::units`]), so floating point never reaches a hash. JSON rather than a binary form
//! because it describes itself: a field added later with `skip_serializing_if` leaves the hashes of
//! all older values as they are, and old generations stay readable.
//!
//! [`decode`] accepts exactly what [`encode`] makes. The daemon reads these bytes from a socket, so
//! a second spelling of the same value is refused and not normalised.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The most bytes [`decode`] looks at: 16 MiB, some ten thousand pods.
pub const MAX_BYTES: usize = 16 << 20;

/// Why a value has no canonical bytes, or bytes are not canonical.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// The text has so many bytes, more than [`MAX_BYTES`].
    #[error("{0} bytes are more than the {MAX_BYTES} a value may have")]
    TooLarge(usize),
    /// It is no JSON, or not of the shape that is read.
    #[error("the bytes are no JSON of the expected shape")]
    Shape(#[from] serde_json::Error),
    /// Encoding it again gives other bytes.
    #[error("the bytes are a second spelling of the same value")]
    NotCanonical,
    /// It holds a number that is not whole, which has several spellings.
    #[error("`{0}` is no integer")]
    Float(String),
}

/// The canonical bytes of `value`.
///
/// # Errors
/// When `value` holds a floating-point number or a map whose keys are no strings.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::new();
    write(&serde_json::to_value(value)?, &mut out)?;
    Ok(out)
}

/// Reads back what [`encode`] made.
///
/// # Errors
/// When there are more than [`MAX_BYTES`], when they are no `T`, or when [`encode`] would have
/// written others.
pub fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    if bytes.len() > MAX_BYTES {
        return Err(CanonicalError::TooLarge(bytes.len()));
    }
    let value: T = serde_json::from_slice(bytes)?;
    if encode(&value)? != bytes {
        return Err(CanonicalError::NotCanonical);
    }
    Ok(value)
}

/// Keys are sorted here and not by the map type: another crate's feature flag decides how that one
/// orders.
fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push(b'{');
            for (i, (key, field)) in fields.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                serde_json::to_writer(&mut *out, key)?;
                out.push(b':');
                write(field, out)?;
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Number(number) if number.is_f64() => {
            return Err(CanonicalError::Float(number.to_string()));
        }
        scalar => serde_json::to_writer(&mut *out, scalar)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_and_floats_refused() {
        let bytes = encode(&json!({"b": 1, "a": [true, null, "x\n"]})).expect("encodes");
        assert_eq!(bytes, br#"{"a":[true,null,"x\n"],"b":1}"#);
        assert!(matches!(encode(&json!(0.5)), Err(CanonicalError::Float(_))));
    }

    #[test]
    fn a_second_spelling_is_refused() {
        for bytes in [
            &br#"{"b":1,"a":2}"#[..],
            br#"{ "a":2}"#,
            br#"{"a":2,"a":2}"#,
            br#"{"a":"\u0061"}"#,
        ] {
            assert!(matches!(
                decode::<Value>(bytes),
                Err(CanonicalError::NotCanonical)
            ));
        }
        assert!(matches!(
            decode::<Value>(b"{"),
            Err(CanonicalError::Shape(_))
        ));
    }
}
