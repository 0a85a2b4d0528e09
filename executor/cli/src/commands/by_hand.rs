//! `stop`, `start`, `restart`: by hand, without a generation. And `explain`.

use crate::{
    args::Selection,
    client::Client,
    error::Error,
    output::{self, ago},
    progress::ProgressView,
};
use std::time::{SystemTime, UNIX_EPOCH};
use tank_model::units::Millis;
use tank_proto::varlink::{
    ExplainReply, Method, OperateCall, OperateReply, Operated, Operation, Reason,
};

/// What is asked for.
pub struct Asked {
    pub operation: Operation,
    pub which: Selection,
    pub timeout: Option<Millis>,
    pub wait: Option<Millis>,
}

/// Stops, starts or restarts, and says what came of it.
pub async fn operate(client: &mut Client, asked: Asked, json: bool) -> Result<u8, Error> {
    let Asked {
        operation,
        which,
        timeout,
        wait,
    } = asked;
    let call = OperateCall {
        operation,
        pods: Some(which.pods).filter(|pods| !pods.is_empty()),
        stack: which.stack.map(|stack| stack.to_string()),
        all: which.all.then_some(true),
        timeout: timeout.map(|timeout| timeout.0),
        wait: wait.map(|wait| wait.0),
    };
    let mut view = ProgressView::new();
    client.send(Method::Operate(call), Vec::new(), true).await?;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let operated = loop {
        let received = tokio::select! {
            received = client.receive::<OperateReply>() => received,
            _ = &mut interrupt => {
                view.finish();
                let what = operation.to_string();
                return Err(Error::GoesOn { what });
            }
        };
        let (reply, _, more) = received.inspect_err(|_| view.finish())?;
        if let Some(progress) = &reply.progress {
            view.show(progress);
        }
        if !more {
            break reply
                .operated
                .ok_or(Error::Answer("tankd does not say how it ended"))?;
        }
    };
    view.finish();
    if json {
        output::json(&operated)?;
    }
    if let Some(failure) = operated.failure {
        let what = format!("{operation} {}", operated.concerned.join(", "));
        return Err(Error::failed(what, failure));
    }
    if !json {
        for line in lines(operation, &operated) {
            output::sentence(&line, 2)?;
        }
    }
    Ok(0)
}

fn lines(operation: Operation, operated: &Operated) -> Vec<String> {
    let Operated {
        concerned,
        unchanged,
        ended,
        ..
    } = operated;
    let mut lines = Vec::new();
    if !concerned.is_empty() {
        let all = concerned.join(", ");
        lines.push(match operation {
            Operation::Stop => {
                format!("stopped {all}; `tank start`, or the next switch to it, starts it again")
            }
            Operation::Start => format!("started {all}"),
            Operation::Restart => format!("restarted {all}"),
        });
    }
    if let Some(ended) = ended {
        let all = ended.join(", ");
        lines.push(format!(
            "ended {all}: what is run by hand is not started again"
        ));
    }
    if !unchanged.is_empty() {
        let all = unchanged.join(", ");
        lines.push(match operation {
            Operation::Stop => format!("stopped already: {all}"),
            Operation::Start | Operation::Restart => format!("running already: {all}"),
        });
    }
    if lines.is_empty() {
        lines.push("no pods are declared".to_owned());
    }
    lines
}

/// Why a pod is in the state it is in.
pub async fn explain(client: &mut Client, pod: String, json: bool) -> Result<u8, Error> {
    let reply: ExplainReply = client.call(Method::Explain { pod }).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    output::line(&format!("{}: {}", reply.pod, reply.state))?;
    if reply.reasons.is_empty() {
        output::line("  it is as it is declared; `tank get` shows how that is")?;
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64;
    for reason in &reply.reasons {
        output::sentence(&format!("  {}", sentence(reason, now)), 2)?;
        if let Some(next) = &reason.next {
            output::line(&format!("    see  {next}"))?;
        }
    }
    Ok(0)
}

fn sentence(reason: &Reason, now: u64) -> String {
    let of = reason.container.as_ref().map(|name| format!("{name}: "));
    let since = reason.since.map(|since| format!(", {}", ago(since)));
    let until = reason.until.map(|until| match until.saturating_sub(now) {
        0 => "; it is tried again now".to_owned(),
        left => format!("; it is tried again in {} s", left.div_ceil(1_000)),
    });
    let text = &reason.text;
    format!(
        "{}{text}{}{}",
        of.unwrap_or_default(),
        since.unwrap_or_default(),
        until.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_said_and_how_it_ends() {
        let operated = |concerned: &[&str], unchanged: &[&str]| Operated {
            concerned: concerned.iter().map(|one| (*one).to_owned()).collect(),
            unchanged: unchanged.iter().map(|one| (*one).to_owned()).collect(),
            ended: None,
            failure: None,
        };
        let with_run = Operated {
            ended: Some(vec!["web/run-0123abcd".to_owned()]),
            ..operated(&["db/app"], &[])
        };
        assert_eq!(
            lines(Operation::Stop, &with_run),
            [
                "stopped db/app; `tank start`, or the next switch to it, starts it again",
                "ended web/run-0123abcd: what is run by hand is not started again"
            ]
        );
        assert_eq!(
            lines(Operation::Stop, &operated(&["web/app"], &["db/app"])),
            [
                "stopped web/app; `tank start`, or the next switch to it, starts it again",
                "stopped already: db/app"
            ]
        );
        assert_eq!(
            lines(Operation::Start, &operated(&[], &["db/app"])),
            ["running already: db/app"]
        );
        assert_eq!(
            lines(Operation::Restart, &operated(&["a/x", "a/y"], &[])),
            ["restarted a/x, a/y"]
        );
        assert_eq!(
            lines(Operation::Stop, &operated(&[], &[])),
            ["no pods are declared"]
        );
    }

    #[test]
    fn a_reason_says_when_it_is_tried_again() {
        let reason = |until| Reason {
            container: Some("app".to_owned()),
            text: "it keeps ending".to_owned(),
            since: None,
            until,
            next: None,
        };
        assert_eq!(sentence(&reason(None), 5), "app: it keeps ending");
        assert_eq!(
            sentence(&reason(Some(4_200)), 1_000),
            "app: it keeps ending; it is tried again in 4 s"
        );
        assert_eq!(
            sentence(&reason(Some(4_200)), 9_000),
            "app: it keeps ending; it is tried again now"
        );
    }
}
