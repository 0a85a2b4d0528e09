//! The arguments of what looks at the past, and at what pods use.

use super::stack;
use clap::Args as ClapArgs;
use std::time::{SystemTime, UNIX_EPOCH};
use tank_model::{Name, units::Millis};

#[derive(ClapArgs, Debug)]
pub struct Events {
    /// Only those of these pods.
    #[arg(value_name = "POD")]
    pub pods: Vec<String>,
    /// Go on as more happens.
    #[arg(short, long)]
    pub follow: bool,
    /// Not before: so long ago (`10m`, `2d`), or a time (`2026-11-27T19:00:00Z`).
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub since: Option<u64>,
    /// Not after; with --follow, until then.
    #[arg(long, value_name = "WHEN", value_parser = when)]
    pub until: Option<u64>,
    /// Only those of these kinds: `failed`, `exited,unhealthy`.
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// Only those of the pods of this stack.
    #[arg(long, value_parser = stack)]
    pub stack: Option<Name>,
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
    /// Print it once; a terminal is shown it every second otherwise.
    #[arg(short = '1', long)]
    pub no_stream: bool,
}

/// A time in milliseconds since the epoch: said as a date, as so long ago, or in seconds since the epoch.
fn when(text: &str) -> Result<u64, String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64;
    when_at(text, now)
}

fn when_at(text: &str, now: u64) -> Result<u64, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds.saturating_mul(1_000));
    }
    if let Ok(age) = Millis::parse_age(text) {
        return Ok(now.saturating_sub(age.0));
    }
    let time = humantime::parse_rfc3339_weak(text);
    let since = time
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map(|since| since.as_millis() as u64).ok_or_else(|| {
        "write so long ago (`10m`, `2d`), or a time (`2026-11-27T19:00:00Z`, in UTC)".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_three_ways() {
        let now = 1_800_000_000_000;
        assert_eq!(when_at("10m", now), Ok(now - 600_000));
        assert_eq!(when_at("2d", now), Ok(now - 172_800_000));
        assert_eq!(when_at("1700000000", now), Ok(1_700_000_000_000));
        let date = Ok(1_795_806_000_000);
        assert_eq!(when_at("2026-11-27T19:00:00Z", now), date);
        assert_eq!(when_at("2026-11-27 19:00:00", now), date);
        for wrong in [
            "",
            "-1m",
            "yesterday",
            "99999999999999999999d",
            "1960-01-01T00:00:00Z",
        ] {
            assert!(when_at(wrong, now).is_err(), "{wrong}");
        }
    }
}
