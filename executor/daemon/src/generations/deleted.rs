//! What a deletion names.

use super::Error;
use tank_model::{Graph, Name};

/// What is to be removed, by its name on the host.
pub enum Deleted {
    Pods(Vec<String>),
    Stack(String),
    Network(String),
    /// Of the volumes that pods share: what is in it stays.
    Volume(String),
}

/// The name of a declared network, or an error with the nearest one.
pub(super) fn declared_network(graph: &Graph, network: &str) -> Result<Name, Error> {
    let names = || graph.networks().map(|(name, _)| name);
    let found = names().find(|name| name.as_str() == network).cloned();
    found.ok_or_else(|| {
        // One that is named without its stack is that of the first that has it.
        let of_stack = names().find(|name| name.local() == network);
        let nearest = tank_model::name::nearest(network, names().map(Name::as_str));
        Error::NoSuchNetwork {
            network: network.to_owned(),
            nearest: of_stack.map(Name::as_str).or(nearest).map(str::to_owned),
        }
    })
}

/// As [`declared_network`], of a volume that pods share.
pub(super) fn declared_volume(graph: &Graph, volume: &str) -> Result<Name, Error> {
    let names = || graph.shared_volumes().map(|(name, _)| name);
    let found = names().find(|name| name.as_str() == volume).cloned();
    found.ok_or_else(|| {
        let of_stack = names().find(|name| name.local() == volume);
        let nearest = tank_model::name::nearest(volume, names().map(Name::as_str));
        Error::NoSuchVolume {
            volume: volume.to_owned(),
            nearest: of_stack.map(Name::as_str).or(nearest).map(str::to_owned),
        }
    })
}
