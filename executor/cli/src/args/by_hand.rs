//! The arguments of what is done by hand: `stop`, `start`, `restart`.

use super::stack;
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
    #[arg(short, long, value_parser = seconds, value_name = "TIME")]
    pub timeout: Option<Millis>,
}

#[derive(ClapArgs, Debug)]
pub struct Start {
    #[command(flatten)]
    pub which: Selection,
    /// How long to wait until they are ready: `30s`, `2m`, or a number of seconds.
    #[arg(short, long, value_parser = seconds, value_name = "TIME")]
    pub wait: Option<Millis>,
}

#[derive(ClapArgs, Debug)]
pub struct Restart {
    #[command(flatten)]
    pub which: Selection,
    /// As of `stop`.
    #[arg(short, long, value_parser = seconds, value_name = "TIME")]
    pub timeout: Option<Millis>,
    /// As of `start`.
    #[arg(short, long, value_parser = seconds, value_name = "TIME")]
    pub wait: Option<Millis>,
}

/// A time with its unit, or a number of seconds, as `docker stop --time` takes it.
fn seconds(text: &str) -> Result<Millis, String> {
    match text.parse::<u64>() {
        Ok(seconds) => match seconds.checked_mul(1_000) {
            Some(millis) => Ok(Millis(millis)),
            None => Err(format!("`{text}` seconds are too many")),
        },
        Err(_) => Millis::parse(text).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_seconds_unless_it_says_its_unit() {
        assert_eq!(seconds("5"), Ok(Millis(5_000)));
        assert_eq!(seconds("0"), Ok(Millis(0)));
        assert_eq!(seconds("1500ms"), Ok(Millis(1_500)));
        assert_eq!(seconds("2m"), Ok(Millis(120_000)));
        for wrong in ["", "-1", "5 parsecs", "99999999999999999999"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
