//! Packets between `tankd` and the name server, on sockets that only root reaches.
//!
//! A connection carries one [`Request`] at a time, each answered by one [`Reply`]. Descriptors
//! travel beside the packet. A zone can be larger than a packet, so it is in a sealed memory file,
//! the first descriptor of [`Request::Serve`].
//!
//! The name server outlives the daemon. [`VERSION`] is part of what it reports, with the program
//! that it runs ([`Setup::program`]): where one of them is not the daemon's own, another process
//! is made, gets the sockets on which it is asked, and serves before the old one is asked to
//! [end](Request::End). For that any daemon can ask any name server for its [sockets](Request::Sockets).

use serde::{Deserialize, Serialize};

/// The version of these messages, and of the sockets: since 2 they are transparent (`IP_TRANSPARENT`), by
/// which rules know the name server.
pub const VERSION: u32 = 2;

/// The most bytes of a zone: 16 MiB, some ten times what all pods of a host take.
pub const MAX_ZONE: u64 = 16 << 20;

/// How many sockets of UDP an address has at most. Which one a client's queries come over is settled by
/// its address.
pub const LANES: usize = 16;

/// The most sockets on which it is asked: of each address, of which 256 networks and the default one have
/// two, one of TCP and the lanes of UDP.
pub const MAX_SOCKETS: usize = 3_072;

/// The most sockets beside one packet; the others follow, as many in each packet, with the text `d`.
pub const SOCKETS_BESIDE: usize = 100;

/// The name of its socket in the run folder.
pub const SOCKET: &str = "names.sock";

/// What a name server is made with, as the first packet on its standard input. Beside it come an
/// empty directory that becomes its root, the socket on which it takes connections, the ways into
/// its cgroups, and then the sockets on which it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Its user and group: ids of Tank's range that no pod has.
    pub id: u32,
    /// Which program it is made from, in the words of who made it.
    pub program: String,
    /// The name of its cgroup among those of name servers: while one takes another's place there are
    /// two.
    pub part: String,
    /// How many of the descriptors are ways into cgroups.
    pub cgroups: usize,
    /// How many packets with further sockets follow.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What the daemon wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Answer what the zone says that is the first descriptor. [`Reply::State`].
    Serve,
    /// What it is and does. [`Reply::State`].
    State,
    /// The sockets on which it is asked, as descriptors of [`Reply::Sockets`]. It keeps them, too.
    Sockets,
    /// Take no more queries, answer those that were taken, and end. [`Reply::State`] says that no
    /// more are taken.
    End,
}

/// What the name server answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// See [`State`].
    State(State),
    /// The descriptors that come with it.
    Sockets {
        /// How many packets with further ones follow.
        #[serde(default, skip_serializing_if = "is_zero")]
        more: usize,
    },
    /// Nothing was done: why, for people.
    Failed {
        /// The reason.
        why: String,
    },
}

/// What a name server is and does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`VERSION`] of the program it runs.
    pub version: u32,
    /// [`Setup::program`].
    pub program: String,
    /// [`Setup::part`].
    pub part: String,
    /// The digest of the zone that it serves. None: it was given none yet.
    pub zone: Option<String>,
    /// How many queries it has answered.
    pub answered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a name server of version 1 sends and is sent: those that run are asked in these words.
    #[test]
    fn the_words_of_version_one_stay() {
        let request = |request: &Request| serde_json::to_string(request).expect("JSON");
        assert_eq!(request(&Request::Serve), r#"{"op":"serve"}"#);
        assert_eq!(request(&Request::State), r#"{"op":"state"}"#);
        assert_eq!(request(&Request::Sockets), r#"{"op":"sockets"}"#);
        assert_eq!(request(&Request::End), r#"{"op":"end"}"#);
        let state = r#"{"reply":"state","version":1,"program":"p","part":"0","zone":"sha256:0","answered":7}"#;
        let read: Reply = serde_json::from_str(state).expect("a reply");
        assert_eq!(serde_json::to_string(&read).expect("JSON"), state);
        let sockets: Reply = serde_json::from_str(r#"{"reply":"sockets"}"#).expect("a reply");
        assert_eq!(sockets, Reply::Sockets { more: 0 });
        assert_eq!(
            serde_json::to_string(&sockets).expect("JSON"),
            r#"{"reply":"sockets"}"#
        );
    }
}
