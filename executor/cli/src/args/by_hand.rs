//! The arguments of what is done by hand: `stop`, `start`, `restart`.

use super::stack;
use crate::when::duration;
use clap::Args as ClapArgs;
use tank_model::{Name, units::Millis};

#[derive(ClapArgs, Debug)]
pub struct Selection {
    /// Pods, or containers of pods as `POD/CONTAINER`.
    #[arg(value_name = "POD[/CONTAINER]", required_unless_present_any = ["stack", "all"])]
    pub pods: Vec<String>,
    /// All pods of this stack.
    #[arg(long, value_parser = stack, conflicts_with_all = ["pods", "all"])]
    pub stack: Option<Name>,
    /// Every pod.
    #[arg(long, conflicts_with = "pods")]
    pub all: bool,
}

#[derive(ClapArgs, Debug)]
pub struct Stop {
    #[command(flatten)]
    pub which: Selection,
    /// How long containers have to end until they are killed: `30s`, or a number of seconds. As they
    /// are declared (`stop.timeout`) unless given.
    #[arg(short, long, value_parser = duration, value_name = "TIME")]
    pub timeout: Option<Millis>,
}

#[derive(ClapArgs, Debug)]
pub struct Start {
    #[command(flatten)]
    pub which: Selection,
    /// How long to wait until they are ready: `30s`, `2m`, or a number of seconds.
    #[arg(short, long, value_parser = duration, value_name = "TIME")]
    pub wait: Option<Millis>,
}

#[derive(ClapArgs, Debug)]
pub struct Restart {
    #[command(flatten)]
    pub which: Selection,
    /// As of `stop`.
    #[arg(short, long, value_parser = duration, value_name = "TIME")]
    pub timeout: Option<Millis>,
    /// As of `start`.
    #[arg(short, long, value_parser = duration, value_name = "TIME")]
    pub wait: Option<Millis>,
}
