//! Observe, plan, carry out.

pub mod failures;
