//! A second process in a container.

use super::key_value;
use clap::Args as ClapArgs;

#[derive(ClapArgs, Debug)]
pub struct Exec {
    /// POD or POD/CONTAINER.
    pub target: String,
    #[command(flatten)]
    pub how: How,
    /// The command with its arguments; `--` may stand before it.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub argv: Vec<String>,
}

/// How a command is run, which `exec` and `run` have in common.
#[derive(ClapArgs, Debug)]
pub struct How {
    /// The working directory; the container's unless given.
    #[arg(short = 'w', long, alias = "workdir", value_name = "DIR")]
    pub cwd: Option<String>,
    /// Who to be, `user` or `user:group`, names of the image or numbers; the container's user unless given. Only root
    /// has capabilities then, those of the container.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// An environment variable on top of the container's.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// Run without a terminal even where there is one.
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Nothing: standard input is always there, and a terminal where the caller has one.
    #[arg(short, hide = true)]
    pub interactive: bool,
    /// Nothing, likewise.
    #[arg(short, hide = true)]
    pub tty: bool,
}
