//! `logs`: what containers printed.

use crate::{
    args::{Logs, Tail},
    client::Client,
    error::Error,
    output,
};
use std::collections::BTreeMap;
use tank_proto::varlink::{LogLine, LogName, LogsCall, LogsReply, Method};

/// The colours of names, by their numbers in SGR (ECMA-48): none that a terminal has as its background.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 91];

pub async fn logs(client: &mut Client, call: Logs, json: bool) -> Result<u8, Error> {
    let (terminal, colours) = output::to_terminal();
    let mut printer = Printer::new(call.timestamps, terminal, colours);
    let previous = call.previous;
    client.send(method(call), Vec::new(), true).await?;
    let mut known = 0;
    loop {
        let (reply, _, more) = client.receive::<LogsReply>().await?;
        if let Some(names) = reply.logs {
            known = names.len();
            printer.set_names(&names);
        }
        let mut text = String::new();
        for line in &reply.lines {
            if json {
                text.push_str(&output::json_of(line)?);
                text.push('\n');
            } else {
                printer.print(line, &mut text);
            }
        }
        if !text.is_empty() {
            output::lines(&text)?;
        }
        if !more {
            break;
        }
    }
    output::lines(printer.end())?;
    if known > 0 {
        return Ok(0);
    }
    output::error(match previous {
        true => "tank: nothing is known of a run before the last\n",
        false => "tank: no such pod is declared\n",
    });
    Ok(1)
}

fn method(call: Logs) -> Method {
    Method::Logs(LogsCall {
        targets: call.targets,
        stack: call.stack.map(|stack| stack.to_string()),
        since: call.since,
        until: call.until,
        tail: match call.tail {
            Some(Tail::Last(count)) => Some(count),
            Some(Tail::All) | None => None,
        },
        grep: call.grep,
        previous: Some(call.previous),
        follow: Some(call.follow),
    })
}

/// Lines as they are shown: of several logs each with whose it is.
struct Printer {
    timestamps: bool,
    terminal: bool,
    colours: bool,
    /// What each line begins with, where there are several logs.
    prefixes: BTreeMap<LogName, String>,
    /// Whose part was printed last, and on which stream: the line goes on.
    open: Option<(LogName, String)>,
}

impl Printer {
    fn new(timestamps: bool, terminal: bool, colours: bool) -> Self {
        Self {
            timestamps,
            terminal,
            colours,
            prefixes: BTreeMap::new(),
            open: None,
        }
    }

    fn set_names(&mut self, names: &[LogName]) {
        self.prefixes.clear();
        if names.len() < 2 {
            return;
        }
        let shown = |name: &LogName| format!("{}/{}", name.pod, name.container);
        let width = names
            .iter()
            .map(|name| shown(name).len())
            .max()
            .unwrap_or(0);
        for (number, name) in names.iter().enumerate() {
            let shown = format!("{:<width$} | ", shown(name));
            let colour = COLOURS.get(number % COLOURS.len()).filter(|_| self.colours);
            let prefix = match colour {
                Some(colour) => format!("\x1b[{colour}m{shown}\x1b[0m"),
                None => shown,
            };
            self.prefixes.insert(name.clone(), prefix);
        }
    }

    fn print(&mut self, line: &LogLine, to: &mut String) {
        let (pod, container) = (line.pod.clone(), line.container.clone());
        let name = LogName { pod, container };
        let whose = (name, line.stream.clone());
        if self.open.as_ref() != Some(&whose) {
            to.push_str(self.end());
            to.push_str(self.prefixes.get(&whose.0).map_or("", String::as_str));
            if self.timestamps {
                to.push_str(&line.time);
                to.push(' ');
            }
        }
        self.open = None;
        match self.terminal {
            // A terminal in the container ends its lines so.
            true => to.push_str(&output::visible(
                line.line.strip_suffix('\r').unwrap_or(&line.line),
            )),
            false => to.push_str(&line.line),
        }
        if line.partial == Some(true) {
            self.open = Some(whose);
        } else {
            to.push('\n');
        }
    }

    /// Ends a line whose rest has not come.
    fn end(&mut self) -> &'static str {
        if self.open.take().is_some() { "\n" } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(pod: &str, text: &str) -> LogLine {
        LogLine {
            pod: pod.to_owned(),
            container: "app".to_owned(),
            time: "2026-11-27T10:00:00.000000000Z".to_owned(),
            stream: "stdout".to_owned(),
            partial: None,
            notice: None,
            line: text.to_owned(),
        }
    }

    fn printed(mut printer: Printer, lines: &[LogLine]) -> String {
        let mut pods: Vec<&str> = lines.iter().map(|line| line.pod.as_str()).collect();
        pods.sort_unstable();
        pods.dedup();
        let name = |pod: &&str| LogName {
            pod: (*pod).to_owned(),
            container: "app".to_owned(),
        };
        printer.set_names(&pods.iter().map(name).collect::<Vec<_>>());
        let mut text = String::new();
        lines.iter().for_each(|line| printer.print(line, &mut text));
        text + printer.end()
    }

    #[test]
    fn one_log_is_printed_as_it_was() {
        let evil = line("web", "\x1b]0;owned\x07\r");
        let plain = || Printer::new(false, false, false);
        assert_eq!(
            printed(plain(), std::slice::from_ref(&evil)),
            "\x1b]0;owned\x07\r\n"
        );
        let shown = printed(Printer::new(false, true, true), &[evil]);
        assert_eq!(shown, "\\u{1b}]0;owned\\u{7}\n");
        let timed = printed(Printer::new(true, false, false), &[line("web", "a")]);
        assert_eq!(timed, "2026-11-27T10:00:00.000000000Z a\n");
    }

    #[test]
    fn of_several_each_line_says_whose_it_is() {
        let lines = [line("web", "a"), line("database", "b\x1b[2J")];
        assert_eq!(
            printed(Printer::new(false, false, false), &lines),
            "web/app      | a\ndatabase/app | b\x1b[2J\n"
        );
        // Colours are Tank's alone.
        assert_eq!(
            printed(Printer::new(false, true, true), &lines),
            "\x1b[33mweb/app      | \x1b[0ma\n\x1b[36mdatabase/app | \x1b[0mb\\u{1b}[2J\n"
        );
        assert_eq!(
            printed(Printer::new(false, true, false), &lines[..1]),
            "a\n"
        );
    }

    #[test]
    fn parts_are_one_line_unless_another_comes_between() {
        let part = LogLine {
            partial: Some(true),
            ..line("web", "a")
        };
        let plain = || Printer::new(false, false, false);
        assert_eq!(printed(plain(), &[part.clone(), line("web", "b")]), "ab\n");
        assert_eq!(
            printed(plain(), &[part.clone(), line("db", "x"), line("web", "b")]),
            "web/app | a\ndb/app  | x\nweb/app | b\n"
        );
        assert_eq!(printed(plain(), &[part]), "a\n");
    }
}
