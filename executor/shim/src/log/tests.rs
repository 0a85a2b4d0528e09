use super::*;
use std::{fs, path::Path, time::Duration};
use tank_proto::log::{renamed, runs_of};

/// A folder of this test's own, removed when it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tank-log-{}-{name}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("app.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bounds(max_size: u64, max_files: u32, rate: Option<u64>) -> LogBounds {
    LogBounds {
        max_size,
        max_files,
        rate,
        journald: false,
    }
}

/// The lines of a file without their times, which are in order.
fn lines_of(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "whole lines");
    let split = |line: &str| {
        let (time, rest) = line.split_once(' ').expect("a time");
        assert_eq!(time.len(), 30, "{line}");
        (time.to_owned(), rest.to_owned())
    };
    let lines: Vec<(String, String)> = text.lines().map(split).collect();
    assert!(lines.is_sorted_by_key(|(time, _)| time));
    lines.into_iter().map(|(_, rest)| rest).collect()
}

fn logged(name: &str, chunks: &[&[u8]]) -> Vec<String> {
    let folder = Folder::new(name);
    let mut log = Log::new(folder.path(), &LogBounds::default(), None);
    let mut lines = Lines::new("stdout");
    for chunk in chunks {
        lines.push(chunk, &mut log);
    }
    lines.finish(&mut log);
    lines_of(&folder.path())
}

#[test]
fn lines_are_whole_however_they_arrive() {
    assert_eq!(
        logged("whole", &[b"a", b"b\nc", b"\n\n", b"end"]),
        ["stdout F ab", "stdout F c", "stdout F ", "stdout F end"]
    );
}

#[test]
fn a_line_without_an_end_is_written_in_parts() {
    let long = vec![b'x'; MAX_LINE + 5];
    let part = format!("stdout P {}", "x".repeat(MAX_LINE));
    assert_eq!(logged("parts", &[&long]), [&part, "stdout F xxxxx"]);
    // One that ends with a part has an end all the same.
    assert_eq!(
        logged("parts-end", &[&long[..MAX_LINE]]),
        [&part, "stdout F "]
    );
    let halves = long.split_at(MAX_LINE - 1);
    assert_eq!(
        logged("parts-halves", &[halves.0, halves.1, b"\nnext\n"]),
        [&part, "stdout F xxxxx", "stdout F next"]
    );
}

#[test]
fn files_are_bounded_in_size_and_number_and_hold_whole_lines() {
    let folder = Folder::new("rotate");
    let path = folder.path();
    // Of a run that could have more.
    fs::write(renamed(&path, 3), "old\n").expect("writes");
    let mut log = Log::new(path.clone(), &bounds(1_000, 3, None), None);
    let mut lines = Lines::new("stderr");
    let text = |n: u32| format!("line {n:03}\n");
    // One read that is more than all files together, and some lines by themselves.
    lines.push((0..100).map(text).collect::<String>().as_bytes(), &mut log);
    for n in 100..105 {
        lines.push(text(n).as_bytes(), &mut log);
    }
    assert!(!renamed(&path, 3).exists());
    let mut all = Vec::new();
    for number in [2, 1, 0] {
        let file = renamed(&path, number);
        let size = fs::metadata(&file).expect("is there").len();
        assert!(size <= 1_000, "{size}");
        assert!(number == 0 || size > 900, "{size}");
        all.extend(lines_of(&file));
    }
    let first = 105 - all.len() as u32;
    let expected: Vec<String> = (first..105)
        .map(|n| format!("stderr F line {n:03}"))
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn a_log_of_one_file_begins_again() {
    let folder = Folder::new("one");
    let mut log = Log::new(folder.path(), &bounds(200, 1, None), None);
    let mut lines = Lines::new("stdout");
    for n in 0..20 {
        lines.push(format!("line {n}\n").as_bytes(), &mut log);
    }
    assert_eq!(
        lines_of(&folder.path()).last().expect("some"),
        "stdout F line 19"
    );
    assert_eq!(fs::read_dir(&folder.0).expect("reads").count(), 1);
    // A line that is longer than a file may be is the only one in its file.
    lines.push(format!("{}\n", "y".repeat(500)).as_bytes(), &mut log);
    assert_eq!(lines_of(&folder.path()).len(), 1);
}

#[test]
fn two_shims_write_one_log() {
    let folder = Folder::new("two");
    let bounds = bounds(2_000, 2, None);
    let mut logs = [0, 1].map(|_| Log::new(folder.path(), &bounds, None));
    let mut lines = [0, 1].map(|_| Lines::new("stdout"));
    for n in 0..100 {
        for (log, lines) in logs.iter_mut().zip(&mut lines) {
            lines.push(format!("line {n:03}\n").as_bytes(), log);
        }
    }
    let mut all = lines_of(&renamed(&folder.path(), 1));
    all.extend(lines_of(&folder.path()));
    let first = 200 - all.len();
    let expected: Vec<String> = (first..200)
        .map(|n| format!("stdout F line {:03}", n / 2))
        .collect();
    assert_eq!(all, expected, "none is lost that another file has room for");
}

#[test]
fn half_a_line_of_a_killed_shim_is_taken_back() {
    let folder = Folder::new("torn");
    let whole = "2026-11-25T12:00:00.000000000Z stdout F whole\n";
    for (torn, kept) in [
        ("2026-11-25T12:00:01.000000000Z stdout F ha", whole),
        ("", whole),
    ] {
        fs::write(folder.path(), format!("{whole}{torn}")).expect("writes");
        let mut log = Log::new(folder.path(), &LogBounds::default(), None);
        Lines::new("stdout").push(b"next\n", &mut log);
        assert_eq!(
            lines_of(&folder.path()),
            ["stdout F whole", "stdout F next"],
            "{kept}"
        );
    }
    // What another shim is about to write is that one's.
    fs::write(folder.path(), format!("{whole}2026")).expect("writes");
    let other = fs::File::open(folder.path()).expect("opens");
    rustix::fs::flock(&other, rustix::fs::FlockOperation::LockShared).expect("locks");
    let mut log = Log::new(folder.path(), &LogBounds::default(), None);
    Lines::new("stdout").push(b"next\n", &mut log);
    let text = fs::read_to_string(folder.path()).expect("reads");
    assert!(text.starts_with(&format!("{whole}2026")), "{text}");
}

#[test]
fn what_is_beyond_the_rate_is_dropped_and_noted() {
    let folder = Folder::new("rate");
    let mut log = Log::new(folder.path(), &bounds(1 << 20, 2, Some(1_000)), None);
    let mut lines = Lines::new("stdout");
    let begin = Now::read();
    // A while ago, since `finish` below reads the clock.
    let ago = begin.time - Duration::from_secs(60);
    let after = |millis| Now {
        time: ago + Duration::from_millis(millis),
        instant: begin.instant + Duration::from_millis(millis),
    };
    lines.push_at(after(0), "0123456789\n".repeat(1_000).as_bytes(), &mut log);
    // Half a line of what is dropped; its other half is as well, whenever it comes.
    lines.push_at(after(500), b"half", &mut log);
    let due = log.notice_due().expect("something is to be noted");
    assert!(due <= after(1_000).instant);
    log.note_dropped(after(900));
    assert!(log.notice_due().is_some(), "its second is not over");
    log.note_dropped(after(1_000));
    assert_eq!(log.notice_due(), None);
    lines.push_at(after(1_100), b" of it\nnext\n", &mut log);
    let found = lines_of(&folder.path());
    let is_line = |line: &&String| *line == "stdout F 0123456789";
    // Of 51 bytes each.
    let written = found.iter().take_while(is_line).count();
    assert_eq!(written, 20);
    // The last 4 KiB are written after all, as far as they are whole lines.
    let noted = format!(
        "stderr F:notice tank: dropped {} lines, {} bytes, printed from ",
        980 - 371,
        (980 - 371) * 11 + 4
    );
    assert!(found[20].starts_with(&noted), "{}", found[20]);
    assert!(
        found[20].ends_with(": more than 1000 bytes a second (logs.rate)"),
        "{}",
        found[20]
    );
    let rest: Vec<&String> = found.iter().skip(21).skip_while(is_line).collect();
    assert_eq!(found.iter().filter(is_line).count(), 20 + 371);
    assert_eq!(rest, ["stdout F next"]);
    // The line of the two halves.
    lines.finish(&mut log);
    let last = lines_of(&folder.path()).pop().expect("some");
    let noted = "stderr F:notice tank: dropped 1 line, 7 bytes, ";
    assert!(last.starts_with(noted), "{last}");
}

/// Whoever ends after printing much leaves its last words, with a line end or without.
#[test]
fn the_last_words_are_never_dropped() {
    for (name, end) in [
        ("last-words", "the last words\n"),
        ("last-word", "the last words"),
    ] {
        let folder = Folder::new(name);
        let mut log = Log::new(folder.path(), &bounds(1 << 20, 2, Some(1_000)), None);
        let mut lines = Lines::new("stderr");
        let begin = Now::read();
        lines.push_at(begin, "much\n".repeat(10_000).as_bytes(), &mut log);
        lines.push_at(begin, end.as_bytes(), &mut log);
        log.lift_rate();
        lines.finish(&mut log);
        let found = lines_of(&folder.path());
        assert_eq!(found.last().expect("some"), "stderr F the last words");
        let notice = found
            .iter()
            .find(|line| line.contains("F:notice"))
            .expect("a notice");
        let dropped: usize = notice
            .split(' ')
            .nth(4)
            .expect("a word")
            .parse()
            .expect("a number");
        assert_eq!(found.len() - 1 + dropped, 10_001);
    }
}

#[test]
fn a_line_in_parts_that_is_cut_by_the_rate_has_an_end() {
    let folder = Folder::new("cut");
    let mut log = Log::new(folder.path(), &bounds(1 << 20, 2, Some(20_000)), None);
    let mut lines = Lines::new("stdout");
    let begin = Now::read();
    lines.push_at(begin, &vec![b'x'; 3 * MAX_LINE], &mut log);
    lines.push_at(begin, b"\n", &mut log);
    // What an ended process has left is written.
    log.lift_rate();
    lines.push(b"last words\n", &mut log);
    lines.finish(&mut log);
    let found: Vec<String> = lines_of(&folder.path())
        .into_iter()
        .map(|line| line.chars().take(40).collect())
        .collect();
    let part = format!("stdout P {}", "x".repeat(31));
    assert_eq!(found[..3], [part.clone(), part, "stdout F ".to_owned()]);
    assert!(
        found[3].starts_with("stderr F:notice tank: dropped 1 line"),
        "{found:?}"
    );
    assert_eq!(found[4..], ["stdout F last words"]);
}

#[test]
fn what_cannot_be_written_is_noted_when_something_can() {
    let folder = Folder::new("full");
    let path = folder.0.join("below/app.log");
    // In the place of its folder is a file.
    fs::write(folder.0.join("below"), "").expect("writes");
    let mut log = Log::new(path.clone(), &LogBounds::default(), None);
    let mut lines = Lines::new("stdout");
    lines.push(b"lost\nlost\n", &mut log);
    lines.push(b"lost\n", &mut log);
    fs::remove_file(folder.0.join("below")).expect("removes");
    lines.push(b"kept\n", &mut log);
    let found = lines_of(&path);
    assert!(
        found[0].starts_with("stderr F:notice tank: dropped 3 lines, "),
        "{found:?}"
    );
    assert!(
        found[0].contains("the log could not be written: "),
        "{found:?}"
    );
    assert_eq!(found[1..], ["stdout F kept"]);
}

#[test]
fn starts_are_noted_and_bounded() {
    let folder = Folder::new("runs");
    let log = Log::new(folder.path(), &LogBounds::default(), None);
    let at = |n: u64| UNIX_EPOCH + Duration::from_secs(n);
    for n in 0..200 {
        log.begin_run(at(n));
        let text = fs::read_to_string(runs_of(&folder.path())).expect("reads");
        let last = text.lines().last().expect("some").to_owned();
        assert_eq!(last, humantime::format_rfc3339_nanos(at(n)).to_string());
        assert!(text.lines().count() <= 64, "{}", text.lines().count());
        assert!(n == 0 || text.lines().count() >= 2);
    }
    assert_eq!(fs::read_dir(&folder.0).expect("reads").count(), 1);
}
