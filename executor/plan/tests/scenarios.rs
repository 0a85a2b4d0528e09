//! Scenarios of a host, written as scripts; what is planned at each line is kept beside them as a
//! golden.
//!
//! ```text
//! declare   {pods}      the configuration that is wanted from now on
//! plan                  prints the plan
//! step                  carries out the first step of the plan, and no more: the daemon dies after it
//! converge              carries out plans until one is empty, and prints them
//! later 30s             time goes by
//! exit web/app 1        a main process ends
//! unready web/app       … is not ready (yet)
//! ready web/app
//! lose web              a shim is killed, with everything in it
//! leave web             … and its cgroups and folders are all that is found
//! unlink web            a link, an address or a route is gone
//! fail web/app          its liveness probe fails as often as it may
//! ending web/app        … and it was asked to end
//! freeze web/app        somebody stops or freezes a container
//! edit web/app /path    somebody writes into a file
//! pids web/app 7        somebody sets a limit
//! flush                 somebody flushes the rules
//! ```

use std::{collections::BTreeSet, fmt::Write};
use tank_model::{Config, Digest, Graph, Name};
use tank_plan::{
    Dump, Inputs, Observed, Plan, Report,
    model::{apply, apply_step, inputs},
    observed::{Pod, Probed, Run, State, Verdict},
};

#[derive(Default)]
struct Scenario {
    host: Observed,
    inputs: Option<Inputs>,
    /// What was reached last: what differs from it is change, the rest is drift.
    reached: Option<Graph>,
    unready: BTreeSet<(Name, Name)>,
    out: String,
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn pair(text: &str) -> (Name, Name) {
    let (pod, container) = text.split_once('/').expect("POD/CONTAINER");
    (name(pod), name(container))
}

impl Scenario {
    /// Plans, and prints what is planned. Every plan is made a second time from what was written
    /// down of it.
    fn planned(&mut self) -> (Plan, Report) {
        let inputs = self.inputs.as_mut().expect("something is declared");
        inputs.previous = self.reached.clone();
        let (plan, report) = tank_plan::plan(&inputs.target(), &self.host);
        let dump = Dump::of(&inputs.target(), &self.host);
        let text = serde_json::to_string(&dump).expect("a dump");
        let read: Dump = serde_json::from_str(&text).expect("a dump");
        assert_eq!(read.observed, self.host);
        assert_eq!(read.plan(), (plan.clone(), report.clone()));
        let text = serde_json::to_string(&(&plan, &report)).expect("a plan");
        assert_eq!(
            serde_json::from_str::<(Plan, Report)>(&text).expect("a plan"),
            (plan.clone(), report.clone())
        );
        let out = &mut self.out;
        for (id, planned) in plan.steps.iter().enumerate() {
            let drift = if planned.drift { " (drift)" } else { "" };
            let after: Vec<String> = planned.after.iter().map(ToString::to_string).collect();
            let after = if after.is_empty() {
                String::new()
            } else {
                format!(" after {}", after.join(", "))
            };
            let _ = writeln!(
                out,
                "  {id}. {}: {}{drift}: {}{after}",
                planned.class, planned.step, planned.why
            );
        }
        for waiting in &report.waiting {
            let until = waiting
                .until
                .map(|at| format!(", in {} ms", at - self.host.now))
                .unwrap_or_default();
            let _ = writeln!(
                out,
                "  {}/{} {}{until}",
                waiting.pod, waiting.container, waiting.why
            );
        }
        for held in &report.ports {
            let _ = writeln!(out, "  {held}");
        }
        for blocked in &report.blocked {
            let _ = writeln!(out, "  {blocked}");
        }
        if plan.is_empty() && report.is_settled() {
            let _ = writeln!(out, "  nothing to do");
        }
        (plan, report)
    }

    fn pod(&mut self, name: &Name) -> &mut Pod {
        self.host.pods.get_mut(name).expect("the pod is there")
    }

    fn container(&mut self, text: &str) -> &mut Run {
        let (pod, container) = pair(text);
        self.pod(&pod)
            .containers
            .get_mut(&container)
            .expect("the container is there")
    }

    fn settle(&mut self) {
        for ((pod, container), ready) in self.unready.iter().map(|key| (key.clone(), false)) {
            let found = self
                .host
                .pods
                .get_mut(&pod)
                .and_then(|found| found.containers.get_mut(&container));
            if let Some(verdict) = found.and_then(Run::verdict_mut) {
                verdict.ready = ready;
            }
        }
    }

    fn line(&mut self, line: &str) {
        let _ = writeln!(self.out, "> {line}");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            "declare" => {
                let config: Config =
                    serde_json::from_str(rest).unwrap_or_else(|e| panic!("{e}: {rest}"));
                self.inputs = Some(inputs(&config));
            }
            "plan" => drop(self.planned()),
            "step" => {
                let (plan, _) = self.planned();
                apply_step(&plan.steps.first().expect("a step").step, &mut self.host);
                self.settle();
            }
            "converge" => {
                for _ in 0..20 {
                    let (plan, _) = self.planned();
                    if plan.steps.is_empty() {
                        self.reached = self.inputs.as_ref().map(|inputs| inputs.graph.clone());
                        return;
                    }
                    apply(&plan, &mut self.host);
                    self.settle();
                }
                panic!("it does not converge: {}", self.out);
            }
            "later" => {
                let seconds: u64 = rest.trim_end_matches('s').parse().expect("seconds");
                self.host.now += seconds * 1_000;
            }
            "exit" => {
                let (at, status) = rest.split_once(' ').expect("a status");
                let now = self.host.now;
                self.container(at).state = State::Exited {
                    status: status.parse().expect("a number"),
                    at: now,
                };
            }
            "unready" => {
                self.unready.insert(pair(rest));
                self.settle();
            }
            "ready" => {
                self.unready.remove(&pair(rest));
                let now = self.host.now;
                self.container(rest).state = State::Running {
                    pid: 2,
                    verdict: Verdict::unasked(true, now),
                };
            }
            "lose" => drop(self.host.pods.remove(&name(rest))),
            "leave" => *self.pod(&name(rest)) = Pod::default(),
            "unlink" => {
                self.pod(&name(rest))
                    .sandbox
                    .as_mut()
                    .expect("a sandbox")
                    .links
                    .clear();
            }
            "fail" | "ending" => {
                let found = self.container(rest);
                found.ending = word == "ending";
                if let Some(verdict) = found.verdict_mut() {
                    verdict.failed = Some(Probed::Liveness);
                }
            }
            "freeze" => self.container(rest).halted = true,
            "edit" => {
                let (at, path) = rest.split_once(' ').expect("a path");
                let files = self.container(at).files.as_mut().expect("files");
                files.insert(path.to_owned(), Digest::of(b"somebody's"));
            }
            "pids" => {
                let (at, pids) = rest.split_once(' ').expect("a number");
                self.container(at).limits.pids = pids.parse().ok();
            }
            "flush" => self.host.firewall = None,
            _ => panic!("what is `{word}`?"),
        }
    }
}

/// Runs a script; returns it with what was planned.
fn scenario(script: &str) -> String {
    let mut scenario = Scenario {
        host: Observed {
            now: 1_000_000,
            ..Observed::default()
        },
        ..Scenario::default()
    };
    for line in script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        scenario.line(line);
    }
    scenario.out
}

#[test]
fn from_nothing_to_two_pods_and_back() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"db":{"containers":{"app":{"image":"db"}}},"web":{"containers":{"app":{"image":"web"}},"depends_on":{"db":"ready"},"publish":{"http":{"port":80}}}}}
        unready db/app
        converge
        ready db/app
        converge
        declare {"pods":{}}
        converge
        "#
    ));
}

#[test]
fn every_class_of_change() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"web":{"containers":{"app":{"image":"web:1","mounts":{"d":{"volume":"data","path":"/d"}},"files":{"/live":{"text":"1","reload":"SIGHUP"},"/fixed":{"text":"1"}}}},"volumes":{"data":{}}}}}
        converge
        declare {"pods":{"web":{"labels":{"a":"b"},"containers":{"app":{"image":"web:1","limits":{"pids":9},"mounts":{"d":{"volume":"data","path":"/d"}},"files":{"/live":{"text":"2","reload":"SIGHUP"},"/fixed":{"text":"1"}}}},"volumes":{"data":{}}}}}
        converge
        declare {"pods":{"web":{"containers":{"app":{"image":"web:1","limits":{"pids":9},"mounts":{"d":{"volume":"data","path":"/d"}},"files":{"/live":{"text":"2","reload":"SIGHUP"},"/fixed":{"text":"2"}}}},"volumes":{"data":{}}}}}
        converge
        declare {"pods":{"web":{"containers":{"app":{"image":"web:2","limits":{"pids":9},"mounts":{"d":{"volume":"data","path":"/d"}},"files":{"/live":{"text":"2","reload":"SIGHUP"},"/fixed":{"text":"2"}}}},"volumes":{"data":{}}}}}
        converge
        declare {"pods":{"web":{"containers":{"app":{"image":"web:2","limits":{"pids":9},"mounts":{"d":{"volume":"data","path":"/d"}},"files":{"/live":{"text":"2","reload":"SIGHUP"},"/fixed":{"text":"2"}}}},"volumes":{"data":{"tmpfs":4096}}}}}
        converge
        declare {"pods":{"web":{"hostname":"other","containers":{"app":{"image":"web:2","limits":{"pids":9},"mounts":{"d":{"volume":"data","path":"/d"}},"files":{"/live":{"text":"2","reload":"SIGHUP"},"/fixed":{"text":"2"}}}},"volumes":{"data":{"tmpfs":4096}}}}}
        converge
        "#
    ));
}

#[test]
fn what_runs_before_the_containers() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"web":{"init":{"a":{"image":"a"},"b":{"image":"b"}},"containers":{"app":{"image":"web"}}}}}
        plan
        converge
        exit web/app 1
        converge
        declare {"pods":{"web":{"init":{"a":{"image":"a"},"b":{"image":"b:2"}},"containers":{"app":{"image":"web"}}}}}
        step
        exit web/b 4
        later 2s
        plan
        converge
        "#
    ));
}

#[test]
fn somebody_meddles_with_the_host() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"web":{"containers":{"app":{"image":"web","files":{"/a":{"text":"1"}}}},"publish":{"http":{"port":80}}}}}
        converge
        freeze web/app
        edit web/app /a
        pids web/app 7
        unlink web
        flush
        converge
        lose web
        converge
        leave web
        converge
        "#
    ));
}

#[test]
fn networks_come_change_and_go() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"networks":{"back":{"internal":true},"unused":{}},"pods":{"db":{"containers":{"app":{"image":"db"}},"networks":{"back":{}}},"web":{"containers":{"app":{"image":"web"}}}}}
        converge
        unlink db
        flush
        converge
        declare {"networks":{"back":{},"unused":{}},"pods":{"db":{"containers":{"app":{"image":"db"}},"networks":{"back":{}}},"web":{"containers":{"app":{"image":"web"}}}}}
        converge
        declare {"networks":{"back":{},"unused":{}},"pods":{"db":{"containers":{"app":{"image":"db"}},"networks":{"back":{},"unused":{}}},"web":{"containers":{"app":{"image":"web"}}}}}
        converge
        declare {"pods":{"web":{"containers":{"app":{"image":"web"}}}}}
        converge
        declare {"pods":{}}
        converge
        "#
    ));
}

#[test]
fn a_container_that_keeps_ending() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"web":{"restart":"on_failure","containers":{"app":{"image":"web"}}}}}
        converge
        exit web/app 1
        converge
        exit web/app 1
        plan
        later 1s
        converge
        later 10s
        exit web/app 1
        converge
        exit web/app 0
        plan
        "#
    ));
}

#[test]
fn a_container_that_does_not_answer() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"db":{"containers":{"app":{"image":"db","stop":{"timeout":7000}}}},"web":{"containers":{"app":{"image":"web"}},"depends_on":{"db":"ready"}},"job":{"restart":"never","containers":{"app":{"image":"job"}}}}}
        converge
        fail db/app
        ending db/app
        plan
        fail db/app
        freeze db/app
        converge
        fail job/app
        converge
        fail db/app
        declare {"pods":{"db":{"containers":{"app":{"image":"db:2"}}}}}
        converge
        "#
    ));
}

#[test]
fn the_daemon_dies_on_the_way() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"a":{"containers":{"app":{"image":"a"}}},"b":{"containers":{"app":{"image":"b"}},"depends_on":{"a":"started"}}}}
        step
        step
        converge
        declare {"pods":{"c":{"containers":{"app":{"image":"c"}}}}}
        step
        step
        converge
        "#
    ));
}

/// A port that moves leads to the old pod until the new one is ready, or the old one is no more.
#[test]
fn a_port_waits_for_the_pod_it_moves_to() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"pods":{"a":{"containers":{"app":{"image":"a"}},"publish":{"http":{"port":8080,"to":80}}}}}
        converge
        declare {"pods":{"a":{"containers":{"app":{"image":"a"}}},"b":{"containers":{"app":{"image":"b"},"more":{"image":"c"}},"publish":{"http":{"port":8080,"to":81}}}}}
        unready b/app
        converge
        plan
        ready b/app
        converge
        declare {"pods":{"a":{"containers":{"app":{"image":"a"}},"publish":{"http":{"port":8080,"to":80}}},"b":{"containers":{"app":{"image":"b"},"more":{"image":"c"}}}}}
        unready a/app
        plan
        exit b/app 1
        exit b/more 1
        plan
        ready a/app
        converge
        declare {"pods":{"b":{"containers":{"app":{"image":"b"},"more":{"image":"c"}},"publish":{"http":{"port":8080,"to":81}}}}}
        converge
        "#
    ));
}

#[test]
fn a_volume_that_pods_share() {
    insta::assert_snapshot!(scenario(
        r#"
        declare {"volumes":{"up":{}},"pods":{"a":{"containers":{"app":{"image":"a","mounts":{"u":{"volume":"own","path":"/u"}}}},"volumes":{"own":{"shared":"up"}}},"b":{"containers":{"app":{"image":"b","mounts":{"u":{"volume":"up","path":"/u","read_only":true}}}},"volumes":{"up":{"shared":"up"}}},"c":{"containers":{"app":{"image":"c"}},"volumes":{"up":{"shared":"up"}}}}}
        converge
        declare {"volumes":{"up":{"mode":"0700"}},"pods":{"a":{"containers":{"app":{"image":"a","mounts":{"u":{"volume":"own","path":"/u"}}}},"volumes":{"own":{"shared":"up"}}},"b":{"containers":{"app":{"image":"b","mounts":{"u":{"volume":"up","path":"/u","read_only":true}}}},"volumes":{"up":{"shared":"up"}}},"c":{"containers":{"app":{"image":"c"}},"volumes":{"up":{"shared":"up"}}}}}
        converge
        declare {"volumes":{"up":{"mode":"0700"},"other":{}},"pods":{"a":{"containers":{"app":{"image":"a","mounts":{"u":{"volume":"own","path":"/u"}}}},"volumes":{"own":{"shared":"other"}}},"b":{"containers":{"app":{"image":"b","mounts":{"u":{"volume":"up","path":"/u","read_only":true}}}},"volumes":{"up":{"shared":"up"}}}}}
        converge
        "#
    ));
}
