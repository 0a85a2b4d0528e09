//! The messages between Tank's processes.
//!
//! * [`varlink`]: the interface `io.tank.Executor`, spoken on `/run/tank/tank.sock` by anyone who
//!   may.
//! * [`wire`]: how its messages are sent, and calls received within limits.
//! * [`socket`]: how replies are received.
//! * [`call`]: from a message to a method.
//! * [`copy`]: what is copied into or out of a container, and how that went.
//! * [`log`]: where the log of a container is.
//! * [`shim`]: packets between `tankd` and a pod's shim, on a socket only root reaches.
//! * [`names`]: packets between `tankd` and the name server.
//! * [`stream`]: what may be a standard stream, when it comes from outside the container.
//! * [`timing`]: where time went, in either.
//! * [`terminal`]: packets between a client and a shim, on a socket that `tankd` hands over: the
//!   byte pump of `attach` and the exit status of `exec` do not pass through the daemon and survive
//!   it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod call;
pub mod copy;
pub mod log;
pub mod names;
pub mod shim;
pub mod socket;
pub mod stream;
pub mod terminal;
pub mod timing;
pub mod varlink;
pub mod wire;
