//! What has to happen so that the host becomes what is declared. Decides; never acts.
//!
//! [`plan`] is pure and total: the same target and the same observation give the same plan on any
//! machine. It reaches no disk, no kernel and no clock; the time comes in with the observation.
//! Steps say everything, so the actuator carries them out and chooses nothing; then the host is
//! observed again, and planning what was carried out yields nothing.
//!
//! * [`target`]: what the host should be, as data: from the graph, its images and its leases.
//! * [`observed`]: what the host is, as data.
//! * [`step`]: the closed set of things that can be done; [`why`]: the reasons for them.
//! * [`planner`]: from the one to the other; `containers` is its part for one pod.
//! * [`report`]: what is left undone, and why.
//! * [`overrides`]: what somebody has asked for by hand.
//! * [`runs`]: what somebody runs by hand.
//! * [`inputs`]: all that a plan is made from, to be written down and planned from again.
//! * [`explain`]: why a pod is in the state it is in, for people.
//! * [`health`]: whether what was changed is well.
//! * [`backoff`]: when an ended container starts again.
//! * [`backups`]: which backups of volumes are due.
//! * [`events`]: what has happened, and which of that somebody asks for.
//! * [`figures`]: what pods have used over time, and what is shown of it.
//! * [`ports`]: whether a port that is about to be published is somebody's already.
//! * `model`, with the feature `model-host`: a host made of data, on which the properties of the
//!   planner are tested. No program has it.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod backoff;
pub mod backups;
mod containers;
pub mod events;
pub mod explain;
pub mod figures;
pub mod flows;
pub mod health;
pub mod inputs;
#[cfg(any(test, feature = "model-host"))]
pub mod model;
pub mod observed;
pub mod overrides;
pub mod planner;
pub mod ports;
pub mod report;
pub mod runs;
pub mod step;
pub mod target;
pub mod unmet;
pub mod unusable;
pub mod why;

pub use health::Health;
pub use inputs::{Dump, Inputs};
pub use observed::Observed;
pub use overrides::Overrides;
pub use planner::plan;
pub use report::{Blocked, Held, Report, Waiting};
pub use runs::{RunByHand, Runs};
pub use step::{Class, Plan, PlannedStep, Step, StepId};
pub use target::{Target, TargetError};
pub use unmet::Unmet;
pub use why::{WaitsFor, Why};
