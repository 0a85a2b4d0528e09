//! Names of archives: whose they are, and when they were begun.

use std::time::{Duration, UNIX_EPOCH};

/// How an archive ends, and what is written of one.
pub const END: &str = ".tar.zst";
pub const NEW: &str = ".new";

/// The name that half an archive will have.
pub fn half(name: &str) -> Option<&str> {
    name.strip_prefix('.')?.strip_suffix(NEW)
}

/// `20261127T153000Z`.
pub fn stamp(time: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs((time / 1_000).min(253_402_300_799));
    let text = humantime::format_rfc3339_seconds(time).to_string();
    text.replace(['-', ':'], "")
}

/// The time that an archive's name says, in milliseconds since the epoch. None: it is not this volume's.
pub fn time_of(name: &str, prefix: &str) -> Option<u64> {
    let text = name.strip_prefix(prefix)?.strip_suffix(END)?;
    let part = |range: std::ops::Range<usize>| text.get(range);
    let rfc3339 = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(0..4)?,
        part(4..6)?,
        part(6..8)?,
        part(9..11)?,
        part(11..13)?,
        part(13..15)?
    );
    let time = humantime::parse_rfc3339(&rfc3339).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    let millis = u64::try_from(since.as_millis()).ok()?;
    // There is one spelling of each time.
    (stamp(millis) == text).then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_volumes_alone() {
        let time = 1_795_793_400_000;
        assert_eq!(stamp(time), "20261127T153000Z");
        let of = |name: &str| time_of(name, "web.data-");
        assert_eq!(of("web.data-20261127T153000Z.tar.zst"), Some(time));
        for other in [
            "web.data-20261127T153000Z.tar",
            "web.data-20261127T153000Z.tar.zst.bak",
            "web.data-1-20261127T153000Z.tar.zst",
            "blog.web.data-20261127T153000Z.tar.zst",
            "web.data-20261127t153000z.tar.zst",
            "web.data-20261327T153000Z.tar.zst",
            "web.data-20261127T153060Z.tar.zst",
            "web.data-2026112 T153000Z.tar.zst",
            "web.data-+0261127T153000Z.tar.zst",
            "web.data-20261127T1530\u{e9}.tar.zst",
            "web.data-.tar.zst",
            "web.data",
            "",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(
            time_of("web.data-1-20261127T153000Z.tar.zst", "web.data-1-"),
            Some(time)
        );
        assert_eq!(
            half(".web.data-20261127T153000Z.tar.zst.new"),
            Some("web.data-20261127T153000Z.tar.zst")
        );
        assert_eq!(half("web.new"), None);
    }
}
