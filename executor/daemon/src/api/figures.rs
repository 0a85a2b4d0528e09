//! What pods have used over time.

use super::{
    client::Client,
    refusal::{Refusal, internal},
};
use crate::{
    events::now,
    figures::{Figures, Series},
    generations::Generations,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tank_model::Name;
use tank_plan::figures::{Kept, MAX_POINTS, Point, Sample, Window, points};
use tank_proto::varlink::{ContainerHistory, Error, PodHistory, UsageHistoryReply, UsagePoint};
use tokio::task::spawn_blocking;

/// The most pods that a call names.
const MAX_PODS: usize = 4_096;

/// The most points of one answer, of all series together; each has this many at least.
const MAX_ALL_POINTS: u64 = 50_000;
const MIN_POINTS: u64 = 12;

impl Client {
    pub(super) async fn usage_history(
        &mut self,
        generations: &Arc<Generations>,
        (pods, stack): (Option<Vec<String>>, Option<String>),
        since: u64,
    ) -> Result<(), Refusal> {
        let named = pods.unwrap_or_default();
        let mut problems = Vec::new();
        if named.len() > MAX_PODS {
            problems.push(format!("name at most {MAX_PODS} pods"));
        }
        if since > now() {
            problems.push("`since` is still to come".to_owned());
        }
        if !problems.is_empty() {
            return Err(Error::invalid(problems).into());
        }
        let store = Arc::clone(generations);
        let choose = move || store.chosen(&named, stack.as_deref());
        let chosen = spawn_blocking(choose).await;
        let (pods, _) = chosen.map_err(|e| internal("look for the pods", e))??;
        let reconciler = Arc::clone(&self.floors.reconciler);
        // As it is now is the last point.
        let read = move || {
            let newest = reconciler.sample_now();
            history(reconciler.figures(), &newest, &pods, since)
        };
        let read = spawn_blocking(read).await;
        let reply = read.map_err(|e| internal("read what pods have used", e))?;
        self.reply(&reply, false, Vec::new()).await
    }
}

/// What is of now, which is not kept.
type Newest = BTreeMap<Series, Sample>;

/// Blocking.
fn history(
    figures: &Figures,
    newest: &Newest,
    pods: &BTreeSet<Name>,
    since: u64,
) -> UsageHistoryReply {
    let now = now();
    let window = Window::new(since, now, points_of_each(figures.count()));
    let pods = pods
        .iter()
        .map(|pod| pod_history(figures, newest, pod, window));
    UsageHistoryReply {
        since: window.since,
        until: window.until,
        step: window.step,
        pods: pods.collect(),
    }
}

fn points_of_each(series: usize) -> u64 {
    (MAX_ALL_POINTS / (series as u64).max(1)).clamp(MIN_POINTS, MAX_POINTS)
}

fn pod_history(figures: &Figures, newest: &Newest, pod: &Name, window: Window) -> PodHistory {
    let mut all = figures.read(pod);
    for ((_, part), sample) in newest.iter().filter(|((of, _), _)| of == pod) {
        let kept = all.entry(part.clone()).or_default();
        kept.newest.push(*sample);
    }
    let shown =
        |kept: &Kept| -> Vec<UsagePoint> { points(kept, window).into_iter().map(point).collect() };
    let own = all.remove(&None).unwrap_or_default();
    let containers = all.into_iter().filter_map(|(name, kept)| {
        let name = name?.to_string();
        let points = shown(&kept);
        // One that has been gone for longer than what is asked for.
        (!points.is_empty()).then_some(ContainerHistory { name, points })
    });
    PodHistory {
        pod: pod.to_string(),
        points: shown(&own),
        containers: containers.collect(),
    }
}

fn point(point: Point) -> UsagePoint {
    UsagePoint {
        time: point.time,
        span: point.span,
        cpu: point.cpu,
        memory: point.memory,
        read: point.read,
        written: point.written,
        received: point.received,
        sent: point.sent,
        pids: point.pids,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded() {
        let each = [0, 1, 208, 209, 1_024, usize::MAX].map(points_of_each);
        assert_eq!(each, [240, 240, 240, 239, 48, 12]);
    }
}
