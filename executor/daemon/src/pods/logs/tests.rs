use super::{merge::Merge, *};
use std::{
    fs::{self, File},
    io::Write,
    ops::Range,
    time::UNIX_EPOCH,
};
use tank_proto::log::{renamed, runs_of};

/// A log in a folder of its own.
struct Log(PathBuf);

/// 2026-11-25 12:00, of the line `0`; the others come a second each after it.
const NOON: u64 = 1_795_608_000;

fn at(n: usize) -> String {
    time((NOON + n as u64) * 1_000)
}

impl Log {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tankd-logs-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        Self(dir.join("app.log"))
    }

    fn append(&self, text: &str) {
        let file = File::options().append(true).create(true).open(&self.0);
        file.expect("opens")
            .write_all(text.as_bytes())
            .expect("writes");
    }

    fn write(&self, lines: Range<usize>) {
        let line = |n| format!("{} stdout F line {n} of it\n", at(n));
        self.append(&lines.map(line).collect::<String>());
    }

    fn rotate(&self, files: u32) {
        for number in (0..files - 1).rev() {
            let _ = fs::rename(renamed(&self.0, number), renamed(&self.0, number + 1));
        }
    }

    fn open(&self, query: Query) -> Tail {
        Tail::open(self.0.clone(), Arc::new(query), files::BLOCK).expect("opens")
    }

    fn read(&self, query: Query) -> Vec<String> {
        all(&mut self.open(query))
    }

    fn last(&self, count: u64) -> Vec<String> {
        self.read(Query {
            tail: Some(count),
            ..Query::default()
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(self.0.parent().expect("a folder"));
    }
}

fn texts(entries: Vec<Entry>) -> Vec<String> {
    entries.into_iter().map(|entry| entry.text).collect()
}

fn all(tail: &mut Tail) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let (entries, at_end) = tail.read();
        lines.extend(texts(entries));
        if at_end {
            return lines;
        }
    }
}

fn followed(tail: &mut Tail) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let (entries, at_end) = tail.follow();
        lines.extend(texts(entries));
        if at_end {
            return lines;
        }
    }
}

fn lines(range: Range<usize>) -> Vec<String> {
    range.map(|n| format!("line {n} of it")).collect()
}

fn between(since: Option<usize>, until: Option<usize>) -> Query {
    Query {
        since: since.map(at),
        until: until.map(at),
        ..Query::default()
    }
}

#[test]
fn the_last_lines_are_found_across_blocks_and_files() {
    let log = Log::new("last");
    assert_eq!(log.last(3), Vec::<String>::new());
    log.write(0..5_000);
    log.rotate(3);
    log.write(5_000..6_000);
    log.rotate(3);
    log.write(6_000..8_000);
    assert_eq!(log.read(Query::default()), lines(0..8_000));
    for count in [
        0,
        1,
        2,
        1_999,
        2_000,
        2_001,
        3_001,
        7_999,
        8_000,
        9_000_usize,
    ] {
        assert_eq!(
            log.last(count as u64),
            lines(8_000_usize.saturating_sub(count)..8_000),
            "{count}"
        );
    }
}

#[test]
fn lines_of_a_time_are_found_across_blocks_and_files() {
    let log = Log::new("time");
    assert_eq!(log.read(between(Some(3), Some(5))), Vec::<String>::new());
    log.write(0..5_000);
    log.rotate(3);
    log.write(5_000..6_000);
    log.rotate(3);
    log.write(6_000..8_000);
    for (since, until) in [
        (0, 8_000),
        (1, 2),
        (4_999, 5_001),
        (5_000, 5_000),
        (5_500, 7_777),
        (7_999, 9_000),
        (8_000, 9_000),
    ] {
        assert_eq!(
            log.read(between(Some(since), Some(until))),
            lines(since..until.min(8_000)),
            "{since} to {until}"
        );
        let last = Query {
            tail: Some(3),
            ..between(Some(since), Some(until))
        };
        let until = until.min(8_000);
        assert_eq!(
            log.read(last),
            lines(until.saturating_sub(3).max(since)..until),
            "{since} to {until}"
        );
    }
    assert_eq!(log.read(between(Some(7_000), None)), lines(7_000..8_000));
    assert_eq!(log.read(between(None, Some(10))), lines(0..10));
}

/// What is found by halves is what is found line by line, also where the clock was set back.
#[test]
fn a_clock_that_was_set_back_loses_no_line_of_a_day_and_ends_nothing() {
    let log = Log::new("clock");
    log.write(5_000..7_000);
    log.write(0..2_000);
    assert_eq!(log.read(Query::default()).len(), 4_000);
    for since in [0, 100, 3_000, 6_000] {
        let found = log.read(between(Some(since), None));
        assert!(found.iter().all(|line| lines(since..8_000).contains(line)));
    }
}

#[test]
fn what_is_printed_may_hold_anything_but_a_line_end() {
    let log = Log::new("any");
    let mut file = File::create(&log.0).expect("makes");
    file.write_all(
        b"t stdout F \nt stderr F a  b\xff\nno line\n\0\0t stdout F c\n\nt stdout F half",
    )
    .expect("writes");
    assert_eq!(log.read(Query::default()), ["", "a  b\u{fffd}", "c"]);
    let (entries, _) = log.open(Query::default()).read();
    assert_eq!(
        entries.iter().map(|e| e.stderr).collect::<Vec<_>>(),
        [false, true, false]
    );
}

#[test]
fn a_line_in_parts_is_one_line() {
    let log = Log::new("parts");
    let part = |text: &str| format!("{} stdout P {text}\n", at(0));
    let whole = |text: &str| format!("{} stdout F {text}\n", at(0));
    let big = "x".repeat(16 << 10);
    log.append(&whole("first"));
    for _ in 0..2 {
        log.append(&(part(&big) + &part(&big)));
        // The other stream's line is its own.
        log.append(&whole("between").replace("stdout", "stderr"));
        log.append(&whole("end"));
    }
    let joined = format!("{big}{big}end");
    let mut every = vec!["first".to_owned()];
    for _ in 0..2 {
        every.extend(["between".to_owned(), joined.clone()]);
    }
    assert_eq!(log.read(Query::default()), every);
    assert_eq!(log.last(5), every);
    assert_eq!(
        log.last(1).last(),
        Some(&"end".to_owned()),
        "its parts are before another line"
    );
    assert_eq!(log.last(2), every[3..]);
    let of_both = Query {
        grep: Some(pattern("^x+end$").expect("a pattern")),
        tail: Some(1),
        ..Query::default()
    };
    assert_eq!(log.read(of_both), [joined]);
    // What is too long to be put together is given in parts.
    log.append(&(0..6).map(|_| part(&big)).collect::<String>());
    log.append(&whole("end"));
    let kinds: Vec<(Kind, usize)> = {
        let mut tail = log.open(Query {
            tail: Some(1),
            ..Query::default()
        });
        let (entries, _) = (tail.read(), tail.read());
        entries
            .0
            .iter()
            .map(|entry| (entry.kind, entry.text.len()))
            .collect()
    };
    let total: usize = 6 * big.len() + 3;
    assert!(kinds.iter().map(|(_, length)| length).sum::<usize>() <= total);
    assert!(
        kinds.iter().all(|(_, length)| *length <= 80 << 10),
        "{kinds:?}"
    );
}

#[test]
fn a_pattern_finds_lines_and_the_last_of_them() {
    let log = Log::new("grep");
    log.write(0..5_000);
    log.rotate(2);
    log.write(5_000..30_000);
    let grep = |text: &str, tail| Query {
        grep: Some(pattern(text).expect("a pattern")),
        tail,
        ..Query::default()
    };
    let expected: Vec<String> = (0..30_000)
        .filter(|n| n.to_string().contains("999"))
        .map(|n| format!("line {n} of it"))
        .collect();
    assert_eq!(log.read(grep("LINE", None)), Vec::<String>::new());
    assert_eq!(log.read(grep("(?i)LINE 77 ", None)), ["line 77 of it"]);
    assert_eq!(log.read(grep(r"^line \d*999", None)), expected);
    assert_eq!(
        log.read(grep("999", Some(3))),
        expected[expected.len() - 3..]
    );
    assert_eq!(log.read(grep("999", Some(100_000))), expected);
    assert_eq!(log.read(grep("999", Some(0))), Vec::<String>::new());
    // What follows is searched as well.
    let mut tail = log.open(grep("999", Some(1)));
    assert_eq!(followed(&mut tail), expected[expected.len() - 1..]);
    log.write(39_998..40_000);
    assert_eq!(followed(&mut tail), lines(39_998..40_000)[..]);
}

#[test]
fn a_pattern_is_bounded() {
    assert!(pattern("(").is_err());
    assert!(pattern(&"a".repeat(2_000)).is_err());
    let why = pattern(r"(\pL{500}){500}").expect_err("too much");
    assert_eq!(why, "the pattern stands for too much");
    for usual in [
        r"\w+ \d{3}",
        "(?i)größe|fehler",
        r"^\S+ (GET|POST) /\S* 5\d\d$",
    ] {
        assert!(pattern(usual).is_ok(), "{usual}");
    }
    // What would take for ever by trying takes no longer than another.
    let evil = pattern("(a*)*(a*)*b").expect("a pattern");
    assert!(!evil.is_match("a".repeat(16 << 10).as_bytes()));
}

#[test]
fn following_goes_on_in_the_next_files() {
    let log = Log::new("follow");
    let mut tail = log.open(Query::default());
    assert!(followed(&mut tail).is_empty());
    log.write(0..2);
    assert_eq!(followed(&mut tail), lines(0..2));
    log.write(2..3);
    log.rotate(4);
    log.write(3..4);
    assert_eq!(followed(&mut tail), lines(2..4));
    assert!(followed(&mut tail).is_empty());
    // Several files since.
    log.write(4..5);
    for n in 5..7 {
        log.rotate(4);
        log.write(n..n + 1);
    }
    assert_eq!(followed(&mut tail), lines(4..7));
    // More than are kept: that is said, and what is there is read.
    for n in 7..13 {
        log.rotate(4);
        log.write(n..n + 1);
    }
    let found = followed(&mut tail);
    assert!(
        found[0].starts_with("tank: lines may be missing here"),
        "{found:?}"
    );
    assert_eq!(found[1..], lines(9..13));
}

#[test]
fn a_log_of_one_file_is_followed_without_alarm() {
    let log = Log::new("one");
    log.write(0..1);
    let mut tail = log.open(Query::default());
    assert_eq!(followed(&mut tail), lines(0..1));
    fs::remove_file(&log.0).expect("removes");
    log.write(1..2);
    assert_eq!(followed(&mut tail), lines(1..2));
}

#[test]
fn the_run_before_is_between_the_last_two_starts() {
    let log = Log::new("runs");
    log.write(0..10);
    let query = |log: &Log, query: Query| query.of_previous_run(&log.0);
    assert!(query(&log, Query::default()).is_none());
    let starts = |at_line: &[usize]| {
        let text: String = at_line.iter().map(|n| format!("{}\n", at(*n))).collect();
        fs::write(runs_of(&log.0), text).expect("writes");
    };
    starts(&[0]);
    assert!(query(&log, Query::default()).is_none());
    starts(&[0, 2, 7]);
    let previous = query(&log, Query::default()).expect("known");
    assert_eq!(log.read(previous), lines(2..7));
    let within = query(&log, between(Some(1), Some(4))).expect("known");
    assert_eq!(log.read(within), lines(2..4));
    let last = query(
        &log,
        Query {
            tail: Some(2),
            ..between(Some(4), Some(9))
        },
    )
    .expect("known");
    assert_eq!(log.read(last), lines(5..7));
    // The last run has printed nothing: the one before it still is that.
    starts(&[0, 7, 20]);
    assert_eq!(
        log.read(query(&log, Query::default()).expect("known")),
        lines(7..10)
    );
    // What is no time is none.
    fs::write(runs_of(&log.0), "nonsense\n\n").expect("writes");
    assert!(query(&log, Query::default()).is_none());
}

#[test]
fn several_logs_are_in_the_order_of_their_times() {
    let logs = [0, 1, 2].map(|n| Log::new(&format!("merge-{n}")));
    for n in 0..3_000 {
        logs[n % 3].write(n..n + 1);
    }
    logs[1].rotate(2);
    logs[1].write(3_000..3_001);
    let mut merge = Merge::new(true);
    for log in &logs {
        let added = merge.add(log.0.clone(), Arc::new(Query::default()), 1_000);
        added.expect("opens");
    }
    let mut found = Vec::new();
    loop {
        let (lines, at_end) = merge.next();
        assert!(lines.len() < 600, "{}", lines.len());
        found.extend(
            lines
                .into_iter()
                .map(|(number, entry)| (number, entry.text)),
        );
        if at_end {
            break;
        }
    }
    let numbered = |range: Range<usize>| -> Vec<(usize, String)> {
        let whose = |n| if n == 3_000 { 1 } else { n % 3 };
        range.clone().map(whose).zip(lines(range)).collect()
    };
    assert_eq!(found, numbered(0..3_001));
    // Lines without a text are not for nothing: not all of them are given at once.
    let empty = Log::new("merge-empty");
    empty.append(&format!("{} stdout F \n", at(0)).repeat(20_000));
    let mut of_empty = Merge::new(false);
    let added = of_empty.add(empty.0.clone(), Arc::new(Query::default()), 1);
    added.expect("opens");
    let mut count = 0;
    loop {
        let (lines, at_end) = of_empty.next();
        assert!(lines.len() < 600, "{}", lines.len());
        count += lines.len();
        if at_end {
            break;
        }
    }
    assert_eq!(count, 20_000);
    // Nothing is read of one that nobody wakes.
    logs[0].write(3_003..3_004);
    logs[2].write(3_002..3_003);
    assert_eq!(merge.next(), (Vec::new(), true));
    merge.wake(2);
    merge.wake(2);
    merge.wake(0);
    let (lines, at_end) = merge.next();
    let texts: Vec<String> = lines.into_iter().map(|(_, entry)| entry.text).collect();
    assert_eq!((texts, at_end), (super::tests::lines(3_002..3_004), true));
}

#[test]
fn an_excerpt_has_nothing_of_runs_before() {
    let log = Log::new("since");
    log.write(0..3);
    log.append(&format!("{} stderr F of this run\n", at(5)));
    let since = |n: u64| UNIX_EPOCH + Duration::from_secs(NOON + n);
    assert_eq!(excerpt(log.0.clone(), 10, since(0)).len(), 4);
    assert_eq!(excerpt(log.0.clone(), 10, since(5)), ["of this run"]);
    assert_eq!(excerpt(log.0.clone(), 10, since(6)), Vec::<String>::new());
}

#[test]
fn an_excerpt_is_bounded() {
    let log = Log::new("excerpt");
    for n in 0..10 {
        log.append(&format!("{} stdout F {n}{}\n", at(n), "x".repeat(16 << 10)));
    }
    let excerpt = excerpt(log.0.clone(), 10, UNIX_EPOCH);
    assert_eq!(
        excerpt.iter().map(|line| &line[..1]).collect::<String>(),
        "789"
    );
}

#[test]
fn times_are_as_shims_write_them() {
    assert_eq!(time(0), "1970-01-01T00:00:00.000000000Z");
    assert_eq!(time(NOON * 1_000), "2026-11-25T12:00:00.000000000Z");
    assert_eq!(time(u64::MAX), "9999-12-31T23:59:59.999000000Z");
}

#[test]
fn names_of_logs_are_read_from_their_files() {
    let folder = Log::new("names");
    let dir = folder.0.parent().expect("a folder");
    for name in ["app.log", "db.log.1", "db.runs", "late.runs"] {
        fs::write(dir.join(name), "").expect("writes");
    }
    assert_eq!(
        logged_in(dir),
        BTreeSet::from(["app".to_owned(), "db".to_owned()])
    );
}
