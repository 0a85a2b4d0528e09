//! Times as people write them: how long ago, or when.

use std::time::{SystemTime, UNIX_EPOCH};
use tank_model::units::Millis;

const DAY: u64 = 86_400;

/// Milliseconds since the epoch, of `10m`, `1h30m`, `2d` (ago), `2026-11-27T10:00:00Z`, `2026-11-27 10:00`,
/// `2026-11-27`, or seconds since the epoch.
///
/// # Errors
/// When it is none of these, in words.
pub fn parse(text: &str) -> Result<u64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.unwrap_or_default().as_millis() as u64;
    read(text.trim(), now, tank_sys::clock::local_seconds).ok_or_else(|| {
        "write for example `10m`, `2026-11-27T10:00:00Z`, `2026-11-27 10:00` or `1764237600`"
            .to_owned()
    })
}

/// How long: `30s`, `1m30s`, `500ms`, or a number of seconds as Docker takes it.
///
/// # Errors
/// When it is none of these, in words.
pub fn duration(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    let seconds = || decimal(text, 1_000);
    let millis = seconds().or_else(|| span(text));
    millis.map(Millis).ok_or_else(|| {
        "write for example `30s`, `1m30s`, `500ms`, or a number of seconds".to_owned()
    })
}

/// How old: `12h`, `30d`, `1w2d`. A number without a unit is none: of days or of hours, nobody knows.
///
/// # Errors
/// When it is none of these, in words.
pub fn age(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    let days = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
    let words = "write for example `12h`, `30d` or `8w`".to_owned();
    span(text).map(Millis).ok_or_else(|| match days {
        true => format!("{words}: `{text}d` is {text} days"),
        false => words,
    })
}

/// A day and a time of it, as they are written.
type Written = (i32, u32, u32, u64);

fn read(text: &str, now: u64, local: impl Fn(i32, u32, u32, u64) -> Option<i64>) -> Option<u64> {
    if let Some(millis) = decimal(text, 1_000) {
        return Some(millis);
    }
    if let Some(millis) = span(text) {
        return Some(now.saturating_sub(millis));
    }
    let ((year, month, day, second), millis, zone) = calendar(text)?;
    let seconds = match zone {
        Some(offset) => days(year, month, day) * DAY as i64 + second as i64 - offset,
        None => local(year, month, day, second)?,
    };
    // What is before 1970 is before every line.
    Some(u64::try_from(seconds).map_or(0, |seconds| seconds * 1_000 + millis))
}

/// A number with up to nine decimals, so many times.
fn decimal(text: &str, times: u64) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 9 || whole.len() > 15 {
        return None;
    }
    let (whole, scale) = (whole.parse::<u64>().ok()?, 10_u64.pow(part.len() as u32));
    let part = u128::from(part.parse::<u64>().ok()?) * u128::from(times) / u128::from(scale);
    whole
        .checked_mul(times)?
        .checked_add(u64::try_from(part).ok()?)
}

/// `1h30m`: numbers with units, in milliseconds.
fn span(mut text: &str) -> Option<u64> {
    let mut sum = 0_u64;
    loop {
        let number = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(number);
        let unit = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(unit);
        let unit = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => DAY * 1_000,
            "w" => 7 * DAY * 1_000,
            _ => return None,
        };
        sum = sum.checked_add(decimal(number, unit)?)?;
        if rest.is_empty() {
            return Some(sum);
        }
        text = rest;
    }
}

/// A day, with a time of it and a zone if they are given: milliseconds of its last second, and the zone's offset
/// in seconds.
fn calendar(text: &str) -> Option<(Written, u64, Option<i64>)> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time.trim_start()),
        None => (text, "00:00"),
    };
    let mut fields = date.split('-');
    let (year, month, day) = (fields.next()?, fields.next()?, fields.next()?);
    if year.len() != 4 || fields.next().is_some() {
        return None;
    }
    let (year, month, day) = (
        number(year, 0, 9_999)?,
        number(month, 1, 12)?,
        number(day, 1, 31)?,
    );
    if day > length_of(year, month) {
        return None;
    }
    let begin = time.find(['Z', 'z', '+', '-']).unwrap_or(time.len());
    let (time, zone) = time.split_at(begin);
    let (second, millis) = clock(time.trim_end())?;
    let zone = match zone {
        "" => None,
        "Z" | "z" => Some(0),
        offset => {
            let (sign, offset) = offset.split_at(1);
            let (seconds, _) = clock(offset).filter(|_| offset.len() == 5)?;
            Some(if sign == "-" {
                -(seconds as i64)
            } else {
                seconds as i64
            })
        }
    };
    Some(((year as i32, month, day, second), millis, zone))
}

/// `10:00` or `10:00:01.5`: seconds of the day, and milliseconds of the last.
fn clock(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split(':');
    let (hour, minute) = (
        number(fields.next()?, 0, 23)?,
        number(fields.next()?, 0, 59)?,
    );
    let last = fields.next().unwrap_or("0");
    let millis =
        decimal(last, 1_000).filter(|millis| *millis < 61_000 && fields.next().is_none())?;
    let second = u64::from(hour) * 3_600 + u64::from(minute) * 60 + millis / 1_000;
    Some((second, millis % 1_000))
}

fn number(text: &str, least: u32, most: u32) -> Option<u32> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (least..=most).contains(&number).then_some(number)
}

fn length_of(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => {
            29
        }
        2 => 28,
        _ => 31,
    }
}

/// Days since the epoch, of the Gregorian calendar: with years that begin in March the leap day is the last.
fn days(year: i32, month: u32, day: u32) -> i64 {
    let (year, month) = (i64::from(year), i64::from(month));
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let of_year = (153 * month + 2) / 5 + i64::from(day) - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_773_600_000;

    /// Two hours east of Greenwich.
    fn local(year: i32, month: u32, day: u32, second: u64) -> Option<i64> {
        Some(days(year, month, day) * DAY as i64 + second as i64 - 7_200)
    }

    fn seconds(text: &str) -> Option<f64> {
        read(text, NOW, local).map(|millis| millis as f64 / 1_000.0)
    }

    #[test]
    fn how_long_ago() {
        let ago = |text| seconds(text).map(|at| NOW as f64 / 1_000.0 - at);
        assert_eq!(ago("10m"), Some(600.0));
        assert_eq!(ago("1h30m"), Some(5_400.0));
        assert_eq!(ago("1.5h"), Some(5_400.0));
        assert_eq!(ago("2d"), Some(172_800.0));
        assert_eq!(ago("250ms"), Some(0.25));
        assert_eq!(seconds("99999w"), Some(0.0), "before every line");
        for wrong in [
            "10",
            "m",
            "10x",
            "10m5",
            "-10m",
            "1e3s",
            "",
            "10 m",
            "99999999999999999999w",
        ] {
            assert!(span(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn when() {
        // `date -u -d "2026-11-27 10:00" +%s`
        let ten = 1_795_773_600.0;
        assert_eq!(seconds("2026-11-27T10:00:00Z"), Some(ten));
        assert_eq!(seconds("2026-11-27T10:00:00.25z"), Some(ten + 0.25));
        assert_eq!(seconds("2026-11-27T11:30:00+01:30"), Some(ten));
        assert_eq!(seconds("2026-11-27 08:00:00 -02:00"), Some(ten));
        assert_eq!(seconds("2026-11-27 12:00"), Some(ten), "this host's time");
        assert_eq!(seconds("2026-11-27"), Some(ten - 43_200.0));
        assert_eq!(seconds("1795773600"), Some(ten));
        assert_eq!(seconds("1795773600.5"), Some(ten + 0.5));
        assert_eq!(seconds("2028-02-29T00:00Z"), Some(1_835_395_200.0));
        assert_eq!(seconds("1969-12-31T00:00Z"), Some(0.0));
        assert_eq!(seconds("9999-12-31T23:59:59Z"), Some(253_402_300_799.0));
        for wrong in [
            "yesterday",
            "2026-11",
            "2026-02-29",
            "2026-13-01",
            "2026-11-27T24:00Z",
            "2026-11-27T10:61",
            "2026-11-27T10:00:61Z",
            "2026-11-27T10:00+1",
            "26-11-27",
            "2026-11-27T",
            "T10:00",
            "2026-11-27T10:00:00:00",
        ] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_hosts_own_time_is_asked_for() {
        // Whatever its zone is, that is within a day, and a day has a length.
        let at = |text| parse(text).expect("a time") as i64;
        assert!((at("2026-11-27 10:00") - at("2026-11-27T10:00Z")).abs() <= 86_400_000);
        assert_eq!(at("2026-11-28 10:00") - at("2026-11-27 10:00"), 86_400_000);
        assert!(parse("soon").expect_err("none").contains("`10m`"));
    }

    #[test]
    fn a_duration_is_in_seconds_unless_it_says_its_unit() {
        for (text, millis) in [
            ("5", 5_000),
            ("0", 0),
            ("1.5", 1_500),
            ("1500ms", 1_500),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(duration(text), Ok(Millis(millis)), "{text}");
        }
        for wrong in ["", "-1", "5 parsecs", "1m30", "99999999999999999999", "m"] {
            let why = duration(wrong).expect_err(wrong);
            assert!(why.contains("`1m30s`"), "{why}");
        }
    }

    #[test]
    fn an_age_has_its_unit() {
        assert_eq!(age("1d12h"), Ok(Millis(129_600_000)));
        assert_eq!(age("8w"), Ok(Millis(8 * 604_800_000)));
        let why = age("30").expect_err("no unit");
        assert!(why.ends_with("`30d` is 30 days"), "{why}");
        assert!(age("").is_err() && age("x").is_err());
    }
}
