//! The arguments of `list`, and the words it shows.

use super::{Listed, stack};
use clap::Args as ClapArgs;
use tank_model::Name;

/// What the STATE of `list`, and the state that `get`, `explain` and `status` show, means.
const STATES: &str = "\
States, the same in `list`, `get`, `explain`, `status` and --json:
  absent        it was never started: `tank explain POD` says what it waits for
  starting      a pod: it is not ready yet
  running       it runs; `running, not ready` until its readiness probe succeeds
  degraded      a pod: some of its containers run, and others do not
  completed     it ended with status 0
  failed        it ended with another status, which is shown: `failed (1)`
  stopped       somebody stopped it by hand: `tank start` starts it
  outdated      it is there as an earlier generation declared it
  undeclared    a pod: it is there, and no configuration declares it
  unresponsive  its shim does not answer: `tank explain POD` says more";

#[derive(ClapArgs, Debug)]
#[command(after_long_help = STATES)]
pub struct List {
    #[arg(value_enum, default_value = "pods")]
    pub what: Listed,
    /// Shorten nothing: every address, every published one, and images with their registry. What is piped is never
    /// shortened.
    #[arg(short, long)]
    pub wide: bool,
    /// Only those of this stack.
    #[arg(long, value_parser = stack)]
    pub stack: Option<Name>,
}

#[cfg(test)]
mod tests {
    use super::STATES;
    use tank_proto::varlink::State;

    /// Whoever asks what a word means finds it, and no word that there is not.
    #[test]
    fn every_state_is_explained() {
        let explained: Vec<&str> = STATES
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        let all: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
        assert_eq!(explained, all);
        let page = include_str!("../../../../docs/names-and-states.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let of_page: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
        assert_eq!(of_page, all);
        let widest = STATES.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest <= 80), "{widest:?}");
    }
}
