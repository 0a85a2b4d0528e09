//! What has to happen so that the host becomes what is declared. Decides; never acts.
//!
//! [`plan`] is pure and total: the same graph and the same observation give the same plan on any
//! machine. It reaches no disk, no kernel and no clock; the time comes in with the observation. The
//! actuator carries steps out and chooses nothing; then the host is observed again, and planning
//! what was carried out yields nothing.
//!
//! * [`observed`]: the host as data.
//! * [`step`]: the closed set of things that can be done.
//! * [`planner`]: from the one to the other; `containers` is its part for one pod.
//! * [`health`]: whether what was changed is well.
//! * [`backoff`]: when an ended container starts again.
//! * [`ports`]: whether a port that is about to be published is somebody's already.
//! * [`model`]: a host made of data, on which the properties of the planner are tested.

#![forbid(unsafe_code)]

pub mod backoff;
mod containers;
pub mod health;
pub mod model;
pub mod observed;
pub mod planner;
pub mod ports;
pub mod step;

pub use health::Health;
pub use observed::Observed;
pub use planner::{Desired, plan};
pub use step::{Class, Plan, PlannedStep, Step, StepId, Waiting};
