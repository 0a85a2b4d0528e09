//! From the bytes of a call to a [`Method`]. The parameters are read straight into their types:
//! what no type has is skipped and takes no memory, however much of it there is.

use crate::varlink::{INTERFACE, METHODS, Method, RENAMED};
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor,
        value::MapAccessDeserializer,
    },
};
use std::fmt;

/// A call without its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Head {
    /// The full name.
    pub method: String,
    /// The client takes several replies.
    #[serde(default)]
    pub more: bool,
    /// The client takes no reply at all.
    #[serde(default)]
    pub oneway: bool,
    /// Whether there are parameters: `null` is none.
    #[serde(default, deserialize_with = "is_there")]
    parameters: bool,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(deserializer)?.is_some())
}

/// Why a call is none of the interface's: the errors of `org.varlink.service`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such interface.
    Interface(String),
    /// The interface has no such method; the full name.
    Method(String),
    /// The parameter that is missing or of another type.
    Parameter(String),
}

impl Head {
    /// Reads it from a call.
    ///
    /// # Errors
    /// When the bytes are no call.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// The call of the interface that `bytes`, from which this was parsed, are.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn method(&self, bytes: &[u8]) -> Result<Method, Wrong> {
        let Some(name) = self
            .method
            .strip_prefix(INTERFACE)
            .and_then(|rest| rest.strip_prefix('.'))
        else {
            let interface = self
                .method
                .rsplit_once('.')
                .map_or(self.method.as_str(), |(interface, _)| interface);
            return Err(Wrong::Interface(interface.to_owned()));
        };
        let name = RENAMED
            .iter()
            .find(|(old, _)| *old == name)
            .map_or(name, |(_, new)| *new);
        if !METHODS.contains(&name) {
            return Err(Wrong::Method(self.method.clone()));
        }
        let name = format!("{INTERFACE}.{name}");
        let bytes = if self.parameters {
            bytes
        } else {
            br#"{"parameters":{}}"#
        };
        let mut track = serde_path_to_error::Track::new();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let read = Envelope(&name).deserialize(serde_path_to_error::Deserializer::new(
            &mut json, &mut track,
        ));
        read.map_err(|error| {
            Wrong::Parameter(parameter(&track.path().to_string(), &error.to_string()))
        })
    }
}

/// The parameter's name: of one that is missing, serde names only the struct that it is missing
/// from.
fn parameter(path: &str, error: &str) -> String {
    let path = path
        .strip_prefix("parameters")
        .map_or(path, |rest| rest.strip_prefix('.').unwrap_or(rest));
    let missing = error
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
        .unwrap_or_default();
    let names: Vec<&str> = [path, missing]
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    names.join(".")
}

/// A call whose method is known.
struct Envelope<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Envelope<'_> {
    type Value = Method;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Method, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Envelope<'_> {
    type Value = Method;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Method, A::Error> {
        let mut method = None;
        while let Some(key) = map.next_key::<String>()? {
            if key == "parameters" && method.is_none() {
                let tagged = Tagged {
                    name: self.0,
                    map: &mut map,
                    next: Part::Name,
                };
                method = Some(Method::deserialize(MapAccessDeserializer::new(tagged))?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        method.ok_or_else(|| A::Error::missing_field("parameters"))
    }
}

/// The name and then the value that `map` is at, as [`Method`] reads them.
struct Tagged<'a, A> {
    name: &'a str,
    map: &'a mut A,
    next: Part,
}

#[derive(Clone, Copy)]
enum Part {
    Name,
    Parameters,
    End,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Tagged<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let key = match self.next {
            Part::Name => "method",
            Part::Parameters => "parameters",
            Part::End => return Ok(None),
        };
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.next {
            Part::Name => {
                self.next = Part::Parameters;
                seed.deserialize(self.name.into_deserializer())
            }
            Part::Parameters | Part::End => {
                self.next = Part::End;
                self.map.next_value_seed(seed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Method, Wrong> {
        Head::parse(text.as_bytes())
            .expect("a call")
            .method(text.as_bytes())
    }

    fn wrong(text: &str) -> String {
        match read(text) {
            Err(Wrong::Parameter(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parameters_are_read_wherever_they_stand() {
        let get = Ok(Method::Get {
            pod: "x".to_owned(),
        });
        assert_eq!(
            read(r#"{"method":"io.tank.Executor.Get","parameters":{"pod":"x"}}"#),
            get
        );
        assert_eq!(
            read(r#"{"parameters":{"more":[1],"pod":"x"},"method":"io.tank.Executor.Get"}"#),
            get
        );
        for none in ["", r#","parameters":{}"#, r#","parameters":null"#] {
            assert_eq!(
                read(&format!(r#"{{"method":"io.tank.Executor.List"{none}}}"#)),
                Ok(Method::List {})
            );
        }
        let head = Head::parse(br#"{"method":"a.b.C","oneway":true}"#).expect("a call");
        assert!(head.oneway && !head.more);
    }

    #[test]
    fn a_renamed_method_is_still_called_by_its_old_name() {
        let number = Ok(Method::GetGeneration { number: Some(3) });
        for name in ["Generation", "GetGeneration"] {
            let text =
                format!(r#"{{"method":"io.tank.Executor.{name}","parameters":{{"number":3}}}}"#);
            assert_eq!(read(&text), number);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            read(r#"{"method":"io.other.Get"}"#),
            Err(Wrong::Interface("io.other".to_owned()))
        );
        let unknown = "io.tank.Executor.Nope";
        assert_eq!(
            read(&format!(r#"{{"method":"{unknown}"}}"#)),
            Err(Wrong::Method(unknown.to_owned()))
        );
        let exec = |parameters: &str| {
            wrong(&format!(
                r#"{{"method":"io.tank.Executor.Exec","parameters":{{{parameters}}}}}"#
            ))
        };
        assert_eq!(exec(r#""pod":"x","argv":["a"]"#), "env");
        assert_eq!(exec(r#""pod":"x","argv":["a",1],"env":{}"#), "argv[1]");
        assert_eq!(
            exec(r#""pod":"x","argv":["a"],"env":{},"rows":"many""#),
            "rows"
        );
        assert_eq!(exec(r#""pod":"x","argv":["a"],"env":null"#), "env");
        assert_eq!(wrong(r#"{"method":"io.tank.Executor.Get"}"#), "pod");
    }
}
