//! The shape of a configuration as data: which fields each contract of `stdlib/tank.ncl` has, of
//! which kind, in which order.
//!
//! The contracts are the only list of fields there is. The compiler reads them from the file's
//! syntax into a [`Schema`]; the walk over a configuration, `tank doc` and the importers follow it.

use std::collections::BTreeMap;

/// Every contract and helper of the stdlib, by name.
#[derive(Debug, Default)]
pub struct Schema {
    /// By the name the stdlib gives it: `Pod`, `Port`, `replicas`.
    pub contracts: BTreeMap<String, Contract>,
}

/// One entry of the stdlib.
#[derive(Debug)]
pub struct Contract {
    /// Its documentation: Markdown, with examples in blocks of Nickel.
    pub doc: String,
    /// What it accepts.
    pub shape: Shape,
}

/// What a contract is.
#[derive(Debug)]
pub enum Shape {
    /// A record with these fields, in the order of the file.
    Record(Vec<Field>),
    /// One of these tags, without their `'`.
    Enum(Vec<String>),
    /// A value that a function of Nickel checks, and the compiler's `check_value` in Rust.
    Value,
    /// Not a contract but a function for users.
    Helper,
}

/// One field of a record contract.
#[derive(Debug)]
pub struct Field {
    /// Its name in a configuration.
    pub name: String,
    /// Its documentation, as [`Contract::doc`].
    pub doc: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether the stdlib marks it `optional`.
    pub optional: bool,
    /// The default, in Nickel as the stdlib writes it.
    pub default: Option<String>,
}

impl Field {
    /// Whether a record without it is refused.
    pub fn required(&self) -> bool {
        !self.optional && self.default.is_none()
    }
}

/// The type of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    String,
    /// `true` or `false`.
    Bool,
    /// An array of values of one kind.
    Array(Box<Kind>),
    /// A record with keys of the user's choice and values of one kind.
    Dict(Box<Kind>),
    /// A contract by its name.
    Named(String),
}

impl Kind {
    /// The kind in Nickel, as the stdlib writes it.
    pub fn text(&self) -> String {
        match self {
            Self::String => "String".to_owned(),
            Self::Bool => "Bool".to_owned(),
            Self::Array(of) => format!("Array {}", of.text()),
            Self::Dict(of) => format!("{{ _ | {} }}", of.text()),
            Self::Named(name) => name.clone(),
        }
    }

    /// Whether a [`Kind::Dict`] of this kind has [`crate::Name`]s for keys. Records of Tank's own
    /// have, unless their keys are paths (`files`), resources (`ulimits`) or names with dots
    /// (`aliases`, `extra_hosts`).
    pub fn keys_are_names(&self) -> bool {
        matches!(self, Self::Named(name) if !matches!(name.as_str(), "Alias" | "File" | "HostAddress" | "Ulimit"))
    }
}

impl Schema {
    /// The fields of the record contract `name`; none if there is no such record contract.
    pub fn record(&self, name: &str) -> Option<&[Field]> {
        match &self.contracts.get(name)?.shape {
            Shape::Record(fields) => Some(fields),
            _ => None,
        }
    }
}
