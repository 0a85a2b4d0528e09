//! The arguments of what looks at the past, and at what pods use.

use super::stack;
use crate::when;
use clap::Args as ClapArgs;
use tank_model::Name;

#[derive(ClapArgs, Debug)]
pub struct Events {
    /// Only those of these pods.
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
    /// Go on as more happens.
    #[arg(short, long)]
    pub follow: bool,
    /// Not before: so long ago (`10m`, `2d`), or a time (`2026-11-27T19:00:00Z`), as `tank logs` has it.
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    pub since: Option<u64>,
    /// Not after; with --follow, until then.
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    pub until: Option<u64>,
    /// Only those of these kinds: `failed`, `exited,unhealthy`.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// Only those of the pods of this stack.
    #[arg(long, value_parser = stack)]
    pub stack: Option<Name>,
    /// Show the time of each as well, in this host's zone, as --since takes it.
    #[arg(short, long)]
    pub wide: bool,
    /// Only the last of what there is already.
    #[arg(short = 'n', long, value_name = "EVENTS")]
    pub tail: Option<u64>,
}

#[derive(ClapArgs, Debug)]
pub struct Stats {
    /// Only these pods; all unless named.
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
    /// Only the pods of this stack.
    #[arg(long, value_parser = stack)]
    pub stack: Option<Name>,
    /// What they have used since then: so long ago (`1h`, `7d`), or a time, as `tank logs` has it. A week is kept.
    #[arg(long, value_name = "WHEN", value_parser = when::parse)]
    pub since: Option<u64>,
    /// Print it once; a terminal is shown it every second otherwise.
    #[arg(short = '1', long)]
    pub no_stream: bool,
}
