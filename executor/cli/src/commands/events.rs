//! `events`: what has happened.

use crate::{
    args,
    client::Client,
    error::Error,
    output::{self, ago},
};
use tank_proto::varlink::{Event, EventsCall, EventsReply, Method};

/// What stands before a message: how long ago, and the kind.
const AGO: usize = 8;
const KIND: usize = 9;

pub async fn events(client: &mut Client, asked: args::Events, json: bool) -> Result<u8, Error> {
    let some = |words: Vec<String>| Some(words).filter(|words| !words.is_empty());
    let wide = asked.wide;
    let call = EventsCall {
        follow: Some(asked.follow),
        pods: some(asked.pods),
        stack: asked.stack.map(|stack| stack.to_string()),
        kinds: some(asked.kinds),
        since: asked.since,
        until: asked.until,
        tail: asked.tail,
    };
    client.send(Method::Events(call), Vec::new(), true).await?;
    let most = output::is_terminal().then(output::width);
    loop {
        let (reply, _, more) = client.receive::<EventsReply>().await?;
        if !more {
            return Ok(0);
        }
        if json {
            output::json(&reply.event)?;
            continue;
        }
        let event = &reply.event;
        let time = wide.then(|| format!("{}  ", local(event.time)));
        let when = format!("{}{:>AGO$}", time.unwrap_or_default(), ago(event.time));
        lines(event, &when, most)
            .iter()
            .try_for_each(|text| output::line(text))?;
    }
}

/// A time as `--since` takes it: in this host's zone.
fn local(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1_000).unwrap_or(i64::MAX);
    match tank_sys::clock::local_time(seconds) {
        Some([year, month, day, hour, minute, second]) => {
            format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
        }
        None => seconds.to_string(),
    }
}

/// An event in lines of `most` characters, those after its first below its message; in one line where nothing says how wide that may
/// be. Its message never begins a line of its own: what a container printed can't look like another event.
fn lines(event: &Event, when: &str, most: Option<usize>) -> Vec<String> {
    let pod = event.pod.as_deref().map(|pod| format!("{pod}: "));
    let again = event
        .count
        .zip(event.since)
        .map(|(count, since)| format!(" ({count} times, first {})", ago(since)));
    let text = format!(
        "{}{}{}",
        pod.unwrap_or_default(),
        event.message.trim_end(),
        again.unwrap_or_default()
    );
    let head = format!("{when}  {:<KIND$}  ", event.kind);
    let Some(most) = most else {
        return vec![format!("{head}{}", text.replace('\n', "\\n"))];
    };
    let before = head.chars().count();
    let room = most.saturating_sub(before).max(MIN_ROOM);
    let text = output::visible(&text).into_owned();
    let below = text.split('\n').flat_map(|line| {
        let line = line.trim_end_matches(' ');
        let indent = line.len() - line.trim_start_matches(' ').len();
        let left = room.saturating_sub(indent).max(MIN_ROOM);
        let words = output::in_lines(line.trim_start_matches(' '), left, left);
        let words = words.into_iter();
        words.map(move |words| format!("{:indent$}{words}", ""))
    });
    let begin = |(at, text): (usize, String)| match at {
        0 => format!("{head}{text}"),
        _ => format!("{:before$}{text}", ""),
    };
    below.enumerate().map(begin).collect()
}

/// The fewest characters that a message has on a line.
const MIN_ROOM: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn event(message: &str) -> Event {
        Event {
            time: 0,
            kind: "failed".to_owned(),
            pod: Some("proj:web".to_owned()),
            container: None,
            generation: None,
            uid: None,
            message: message.to_owned(),
            count: None,
            since: None,
        }
    }

    #[test]
    fn a_message_is_broken_between_words_below_itself() {
        let text = "generation 7: proj:web/app ended with status 1 again and again, and is not waited for any longer\n  \
                    proj:web/app: cannot open /etc/app.conf";
        let shown = lines(&event(text), "  5m ago", Some(60)).join("\n");
        insta::assert_snapshot!(shown, @r"
          5m ago  failed     proj:web: generation 7: proj:web/app
                             ended with status 1 again and again,
                             and is not waited for any longer
                               proj:web/app: cannot open
                               /etc/app.conf
        ");
    }

    /// Whoever reads lines reads one an event, whatever a container has printed.
    #[test]
    fn what_a_container_printed_is_no_event() {
        let forged = event("it failed\n  1s ago  ready      db: container app is ready\x1b[2J");
        let piped = lines(&forged, "  1s ago", None);
        assert_eq!(piped.len(), 1);
        assert!(piped[0].contains("it failed\\n  1s ago"), "{piped:?}");
        let shown = lines(&forged, "  1s ago", Some(200));
        assert_eq!(shown.len(), 2);
        assert!(shown[1].starts_with(&" ".repeat(21)), "{shown:?}");
        assert!(shown[1].ends_with("\\u{1b}[2J"), "{shown:?}");
    }
}
