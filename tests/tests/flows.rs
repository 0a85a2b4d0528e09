//! Flows of UDP, and connections of TCP, to a published port that another pod gets, or nobody: real
//! packets of both families, from a socket that keeps its port.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, Stdio},
};
use tank_tests::{
    eventually,
    segment::{From, Process, Segment, UPLINK},
    sleeper,
};

const PORT: &str = "5000";
const SCRIPT: &str = "flows/flows.py";

/// A program with open sockets that does what it is asked, a line at a time.
struct Client {
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl Client {
    fn of(mut command: Command) -> Self {
        command
            .args(["ask", PORT])
            .args(UPLINK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3");
        let asks = child.stdin.take().expect("its input");
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        let mut client = Self {
            asks,
            answers,
            _process: Process(child),
        };
        assert_eq!(client.line(), "ready");
        client
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Who answers to IPv4, then to IPv6; `nobody` where that is so.
    fn ask(&mut self, what: &str) -> String {
        writeln!(self.asks, "{what}").expect("it is asked");
        self.line()
    }
}

/// Who asks from the host's neighbour, at the port.
fn client(segment: &Segment) -> Client {
    Client::of(segment.python(From::Neighbour, SCRIPT))
}

/// Has a pod answer with its name.
fn serve(segment: &Segment, pod: &'static str) -> Process {
    let ready = segment.host.dir.join(format!("serving-{pod}"));
    let mut command = segment.python(From::Pod(pod), SCRIPT);
    let server = Process::start(command.args(["serve", PORT, pod]).arg(&ready));
    eventually("the server is there", || ready.exists());
    server
}

/// Switches to pods that sleep, of which one publishes the port.
fn switch(segment: &Segment, pods: &[&str], publishes: Option<&str>) {
    segment.host.switch(&config(pods, publishes));
}

fn config(pods: &[&str], publishes: Option<&str>) -> String {
    let pods: String = pods.iter().map(|pod| sleeper(pod)).collect();
    let publish = publishes.map_or(String::new(), |pod| {
        format!(
            "pods.{pod}.publish = {{
                four = {{ port = {PORT}, address = \"0.0.0.0\", protocol = 'both }},
                six = {{ port = {PORT}, address = \"::\", protocol = 'both }},
            }},"
        )
    });
    format!("{{ {pods} {publish} }}")
}

#[test]
fn a_flow_of_udp_goes_where_its_port_leads() {
    let segment = Segment::new(false);
    switch(&segment, &["a", "b"], Some("a"));
    let (a, b) = (serve(&segment, "a"), serve(&segment, "b"));
    let mut asks = client(&segment);
    assert_eq!(asks.ask("udp"), "a a");
    // A port that moves between pods that stay. A connection stays where it was opened.
    assert_eq!(asks.ask("tcp"), "a a");
    switch(&segment, &["a", "b"], Some("b"));
    assert_eq!(asks.ask("udp"), "b b");
    assert_eq!(asks.ask("tcp"), "a a");
    // One that is taken away.
    switch(&segment, &["a", "b"], None);
    assert_eq!(asks.ask("udp"), "nobody nobody");
    assert_eq!(asks.ask("tcp"), "a a");
    // One of a pod that goes. What is open is closed by who opened it: nothing of it is left in the pod.
    drop(asks);
    let mut asks = client(&segment);
    switch(&segment, &["a", "b"], Some("b"));
    assert_eq!(asks.ask("udp"), "b b");
    drop(b);
    switch(&segment, &["a"], Some("a"));
    assert_eq!(asks.ask("udp"), "a a");
    let steps = segment.host.tank(&["events"]).ok();
    assert!(steps.contains("end flows of UDP to "), "{steps}");
    drop((asks, a));
    segment.finish();
}

/// Whoever else asks for something else of the same pod, or of the host, is not disturbed.
#[test]
fn no_other_flow_is_ended() {
    let segment = Segment::new(false);
    let publish = |more: &str| {
        format!(
            "{{ {} pods.a.publish = {{
                four = {{ port = {PORT}, address = \"0.0.0.0\", protocol = 'udp }},
                six = {{ port = {PORT}, address = \"::\", protocol = 'udp }}, {more}
            }} }}",
            sleeper("a")
        )
    };
    let more =
        format!("other = {{ port = 5001, to = {PORT}, address = \"0.0.0.0\", protocol = 'udp }}");
    segment.host.switch(&publish(&more));
    let server = serve(&segment, "a");
    let mut asks = client(&segment);
    assert_eq!(asks.ask("udp"), "a a");
    let flows = || {
        let mut command = segment.host.inside("conntrack");
        let output = command
            .args(["-L", "-p", "udp", "--output", "id"])
            .output()
            .expect("conntrack");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let flows = text.lines().filter(|line| line.contains("dport=5000"));
        let id = |line: &str| line.rsplit("id=").next().unwrap_or_default().to_owned();
        let mut flows: Vec<String> = flows.map(id).collect();
        flows.sort();
        flows
    };
    let before = flows();
    assert!(!before.is_empty());
    segment.host.switch(&publish(""));
    assert_eq!(flows(), before);
    assert_eq!(asks.ask("udp"), "a a");
    drop((asks, server));
    segment.finish();
}

/// Who sends to a port before it is published is no stranger to it: what he goes on with reaches the pod.
#[test]
fn what_was_sent_before_a_port_is_published_reaches_the_pod() {
    let segment = Segment::new(false);
    switch(&segment, &["a"], None);
    let server = serve(&segment, "a");
    let mut asks = client(&segment);
    assert_eq!(asks.ask("udp"), "nobody nobody");
    switch(&segment, &["a"], Some("a"));
    assert_eq!(asks.ask("udp"), "a a");
    let steps = segment.host.tank(&["events"]).ok();
    assert!(steps.contains("end flows of UDP to port 5000"), "{steps}");
    drop((asks, server));
    segment.finish();
}

/// A daemon that dies between the rules and the ends of flows has another one end them.
#[test]
fn flows_end_that_a_daemon_left_which_died() {
    let mut segment = Segment::new(false);
    switch(&segment, &["a", "b"], Some("a"));
    let servers = (serve(&segment, "a"), serve(&segment, "b"));
    let mut asks = client(&segment);
    assert_eq!(asks.ask("udp"), "a a");
    let settled = |segment: &Segment| {
        let host = &segment.host;
        eventually("nothing is left to do", || {
            host.tank(&["diff", "--exit-code"]).status == 0
        });
    };
    let (mut died, mut ended) = (0, false);
    for at in 1..100 {
        segment.host.kill_daemon();
        segment
            .host
            .start_daemon_with(&[("TANKD_DIE_AT", &at.to_string())]);
        let next = config(&["a", "b"], Some("b"));
        segment.host.write("pods.ncl", &next);
        ended = segment.host.tank(&["switch", "pods.ncl"]).status == 0;
        if ended {
            break;
        }
        died += 1;
        segment.host.kill_daemon();
        segment.host.start_daemon();
        settled(&segment);
        let leads = segment.host.tank(&["list"]).ok();
        let b = leads.lines().find(|line| line.starts_with("b "));
        let expected = match b.is_some_and(|line| line.contains(PORT)) {
            true => "b b",
            false => "a a",
        };
        assert_eq!(asks.ask("udp"), expected, "it died at {at}: {leads}");
        switch(&segment, &["a", "b"], Some("a"));
        assert_eq!(asks.ask("udp"), "a a", "after it died at {at}");
    }
    assert!(ended && died > 3, "{died}");
    segment.host.kill_daemon();
    segment.host.start_daemon();
    drop((asks, servers));
    segment.finish();
}
