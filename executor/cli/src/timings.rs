//! The spans of a change as a picture: when each began, how long it took, and which lies within
//! which.

use tank_proto::timing::Span;
use tank_sys::trace;

/// How many characters wide the picture of the time is.
const WIDTH: u64 = 40;

/// What this command itself has spent.
#[derive(Default)]
pub struct Timings(Vec<Span>);

impl Timings {
    /// Does something and notes how long it takes.
    pub fn of<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let begin = trace::now();
        let done = work();
        self.end(name, begin);
        done
    }

    /// Notes what began at `begin` and ends now.
    pub fn end(&mut self, name: &str, begin: u64) {
        self.0.push(Span {
            name: name.to_owned(),
            begin,
            end: trace::now(),
        });
    }

    /// These and the daemon's, each before what lies within it.
    pub fn merge(&mut self, others: Vec<Span>) -> Vec<Span> {
        let mut spans = std::mem::take(&mut self.0);
        spans.extend(others);
        spans.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.end)));
        spans
    }
}

/// A line for each span.
pub fn picture(spans: &[Span]) -> String {
    let (Some(begin), Some(end)) = (
        spans.iter().map(|span| span.begin).min(),
        spans.iter().map(|span| span.end).max(),
    ) else {
        return String::new();
    };
    let total = (end - begin).max(1);
    let millis = |micros: u64| format!("{}.{:02}", micros / 1000, micros % 1000 / 10);
    let mut text = format!(
        "{:>9} {:>9}  {:<w$}  (milliseconds)\n",
        "AT",
        "TOOK",
        "",
        w = WIDTH as usize
    );
    // Those that are not over yet: what begins meanwhile and ends before them lies within.
    let mut open: Vec<u64> = Vec::new();
    for span in spans {
        open.retain(|end| *end > span.begin && *end >= span.end);
        let left = (span.begin - begin) * WIDTH / total;
        let right = ((span.end - begin) * WIDTH).div_ceil(total).max(left + 1);
        let bar: String = (0..WIDTH)
            .map(|at| {
                if (left..right).contains(&at) {
                    '█'
                } else {
                    '·'
                }
            })
            .collect();
        let (at, took, depth) = (
            millis(span.begin - begin),
            millis(span.end - span.begin),
            open.len(),
        );
        text.push_str(&format!(
            "{at:>9} {took:>9}  {bar}  {}{}\n",
            "  ".repeat(depth),
            span.name
        ));
        open.push(span.end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_within_is_indented() {
        let span = |name: &str, begin, end| Span {
            name: name.to_owned(),
            begin,
            end,
        };
        let mut own = Timings(vec![
            span("request", 2_000, 12_000),
            span("compile", 0, 1_500),
        ]);
        let spans = own.merge(vec![
            span("commit", 2_500, 3_500),
            span("start web/app", 4_000, 9_000),
            span("start db/app", 4_000, 11_000),
            span("observe", 11_000, 11_990),
        ]);
        insta::assert_snapshot!(picture(&spans));
    }

    #[test]
    fn nothing_makes_no_picture() {
        assert_eq!(picture(&[]), "");
    }
}
