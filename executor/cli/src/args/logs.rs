//! The arguments of `logs`.

use crate::when;
use clap::Args as ClapArgs;
use tank_model::Name;

#[derive(ClapArgs, Debug)]
pub struct Logs {
    /// POD, with all its containers, or POD/CONTAINER. Also pods that are gone, until `tank gc` collects their logs.
    #[arg(value_name = "POD", required_unless_present_any = ["all", "stack"])]
    pub targets: Vec<String>,
    /// All pods that are declared.
    #[arg(short, long, conflicts_with_all = ["targets", "stack"])]
    pub all: bool,
    /// All pods of this stack.
    #[arg(long, value_parser = super::stack, conflicts_with = "targets")]
    pub stack: Option<Name>,
    /// Go on as more is printed.
    #[arg(short, long, conflicts_with = "until")]
    pub follow: bool,
    /// Only the last lines of each container, of those that are wanted otherwise; `all` of them.
    #[arg(short = 'n', long, value_name = "LINES", value_parser = tail, allow_hyphen_values = true)]
    pub tail: Option<Tail>,
    /// Only lines of this time or later: `10m`, `1h30m`, `2d` ago, `2026-11-27T10:00:00Z`, `2026-11-27 10:00` (this host's time
    /// unless it names a zone), or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<u64>,
    /// Only lines of before this time, written as that of `--since`.
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub until: Option<u64>,
    /// Only lines in which this regular expression finds anything. `(?i)` before it: in large or small letters.
    #[arg(short, long, value_name = "PATTERN")]
    pub grep: Option<String>,
    /// Only what was printed from the start before the last to the last one: why it was started again.
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    /// Begin each line with its time, in UTC.
    #[arg(short, long)]
    pub timestamps: bool,
}

/// How many lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    Last(u64),
    All,
}

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        // `-1` is what Docker calls it.
        "all" | "-1" => Ok(Tail::All),
        number => number
            .parse()
            .map(Tail::Last)
            .map_err(|_| "this is a number of lines, or `all`".to_owned()),
    }
}
