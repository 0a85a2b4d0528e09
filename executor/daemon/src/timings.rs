//! Where the time of a change goes: spans, kept only while somebody has asked for them.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};
use tank_proto::timing::Span;
use tank_sys::trace;

/// The most spans that are kept: a start of one container makes about thirty.
const MOST: usize = 1 << 16;

#[derive(Debug, Default)]
pub struct Timings {
    asked: AtomicUsize,
    spans: Mutex<Vec<Span>>,
}

impl Timings {
    fn spans(&self) -> MutexGuard<'_, Vec<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any recording is under way.
    pub fn is_on(&self) -> bool {
        self.asked.load(Ordering::Relaxed) > 0
    }

    /// Keeps spans until the recording is dropped.
    pub fn record(&self) -> Recording<'_> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Recording {
            timings: self,
            begin: trace::now(),
        }
    }

    /// Begins a span, which ends when it is dropped.
    pub fn span(&self, name: impl FnOnce() -> String) -> Running<'_> {
        Running(self.is_on().then(|| (self, name(), trace::now())))
    }

    /// Keeps what another process has spent.
    pub fn add(&self, within: &str, spans: Vec<Span>) {
        if self.is_on() {
            spans.into_iter().for_each(|span| {
                self.push(Span {
                    name: format!("{within}: {}", span.name),
                    ..span
                })
            });
        }
    }

    fn push(&self, span: Span) {
        let mut spans = self.spans();
        if spans.len() < MOST {
            spans.push(span);
        }
    }
}

/// While one is held, spans are kept.
pub struct Recording<'a> {
    timings: &'a Timings,
    begin: u64,
}

impl Recording<'_> {
    /// What was spent since it began, in the order of its beginning.
    pub fn read(&self) -> Vec<Span> {
        // Backwards: of two that the clock cannot tell apart the later to end is the outer one.
        let mut spans: Vec<Span> = self
            .timings
            .spans()
            .iter()
            .rev()
            .filter(|span| span.begin >= self.begin)
            .cloned()
            .collect();
        spans.sort_by_key(|span| (span.begin, std::cmp::Reverse(span.end)));
        spans
    }
}

impl Drop for Recording<'_> {
    fn drop(&mut self) {
        if self.timings.asked.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.timings.spans() = Vec::new();
        }
    }
}

/// A span that has begun.
#[must_use = "it ends when it is dropped"]
pub struct Running<'a>(Option<(&'a Timings, String, u64)>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some((timings, name, begin)) = self.0.take() {
            timings.push(Span {
                name,
                begin,
                end: trace::now(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_kept_while_somebody_asks() {
        let timings = Timings::default();
        drop(timings.span(|| unreachable!("nobody asks")));
        let recording = timings.record();
        {
            let _outer = timings.span(|| "outer".to_owned());
            drop(timings.span(|| "inner".to_owned()));
        }
        let other = timings.record();
        let names: Vec<String> = recording.read().into_iter().map(|span| span.name).collect();
        assert_eq!(names, ["outer", "inner"]);
        drop(recording);
        assert!(timings.is_on());
        drop(other);
        assert!(!timings.is_on() && timings.spans().is_empty());
    }
}
