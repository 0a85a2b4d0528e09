//! The arguments of `run`.

use super::exec::How;
use clap::{Args as ClapArgs, ValueEnum};
use tank_proto::varlink::PullPolicy;

/// When the registry of an image is asked.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Pull {
    /// Each time.
    Always,
    /// When the image is not on this host.
    Missing,
    /// Never: the image has to be on this host.
    Never,
}

impl From<Pull> for PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Always => Self::Always,
            Pull::Missing => Self::Missing,
            Pull::Never => Self::Never,
        }
    }
}

#[derive(ClapArgs, Debug)]
pub struct Run {
    /// POD or POD/CONTAINER: whose image, environment, files, volumes and network the command has. Or an image with
    /// its tag, digest or registry: then the command has a pod of its own, on the default network and without volumes.
    #[arg(value_name = "POD|IMAGE")]
    pub target: String,
    /// When the registry of an image is asked: `missing` unless given.
    #[arg(long, value_name = "WHEN")]
    pub pull: Option<Pull>,
    /// What runs the command in the place of the image's entrypoint; an empty one for the command alone. Where
    /// a container declares a `command`, the image's is not used anyway.
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    #[command(flatten)]
    pub how: How,
    /// Nothing: it is always removed when it ends.
    #[arg(long, hide = true)]
    pub rm: bool,
    /// The command with its arguments; `--` may stand before it.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub argv: Vec<String>,
}
