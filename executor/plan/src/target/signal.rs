//! The numbers of signals: those of x86-64 and aarch64 (signal(7)), which are the same.

use tank_model::spec::SIGNALS;

/// What asks a main process to end where neither its container nor its image names a signal.
pub const SIGTERM: i32 = 15;

/// The first real-time signal that programs may use: the two below it are the C library's own.
const SIGRTMIN: i32 = 34;

/// The highest number of a signal.
const SIGRTMAX: i32 = 64;

/// The number of a signal by its name, with or without `SIG`, in either case, or by its number.
/// None: there is no such signal.
pub fn number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=SIGRTMAX).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = short.strip_prefix("RTMIN") {
        let offset: i32 = match offset {
            "" => 0,
            offset => offset.strip_prefix('+')?.parse().ok()?,
        };
        return (0..=SIGRTMAX - SIGRTMIN)
            .contains(&offset)
            .then_some(SIGRTMIN + offset);
    }
    // The list is in the order of the numbers, which begin with 1.
    let place = SIGNALS
        .iter()
        .position(|known| known.strip_prefix("SIG") == Some(short))?;
    i32::try_from(place + 1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, expected) in [
            ("SIGTERM", SIGTERM),
            ("quit", 3),
            ("9", 9),
            ("SIGSYS", 31),
            ("SIGRTMIN+3", 37),
            ("rtmin", 34),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for bad in [
            "",
            "SIG",
            "SIGNOPE",
            "none",
            "0",
            "65",
            "SIGRTMIN+99",
            "SIGRTMIN-1",
        ] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }
}
