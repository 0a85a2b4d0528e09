//! ufw and firewalld, the programs of Debian's packages (`scripts/firewalls.sh`), in the network of a host: which of a
//! pod's packets they let through, after which of their commands. The table of `docs/ports.md` is held here.

use std::path::PathBuf;
use std::process::Command;
use tank_tests::{
    Ended, bin, eventually, repo,
    segment::{From, NEIGHBOUR, Process, Segment, UPLINK, call_for_bridged, sh},
    sleeper,
};

/// What `web` answers at and publishes; where the neighbour and a program of the host answer.
const OPEN: &str = "80";
const PUBLISHED: &str = "8080";
const OF_HOST: &str = "8001";

const BRIDGE: [&str; 2] = ["10.90.0.1", "fd74:616e:6b00::1"];

/// Everybody who might reach somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// From outside to the published port.
    In,
    /// From a pod to somebody outside.
    Out,
    /// From a pod to the name server.
    Name,
    /// From a pod to another one.
    Pod,
    /// From a pod to a program of the host.
    Host,
    /// From the host to the published port.
    Itself,
}

use Way::{Host, In, Itself, Name, Out, Pod};

/// One question: who asks, what, and the answer if it is let through.
struct Question {
    way: Way,
    from: From,
    asked: String,
    answer: String,
}

/// A server with a firewall of Debian's, and the pods `web` and `client`.
struct Server {
    segment: Segment,
    root: PathBuf,
    questions: Vec<Question>,
    web: String,
    /// Tank's tables before there was a firewall.
    rules: String,
}

impl Server {
    fn new() -> Self {
        let made = Command::new(repo().join("scripts/firewalls.sh")).output();
        let lower = Ended::from(made.expect("firewalls.sh")).ok();
        let mut segment = Segment::new(false);
        let root = segment.host.dir.join("debian");
        // Seen by nobody else, and gone with the host: what is changed is in memory.
        sh(
            &segment.host,
            &format!(
                "set -e; mkdir {0} {0}.upper; mount -t tmpfs none {0}.upper; cd {0}.upper; mkdir upper work
                 mount -t overlay -o lowerdir={1},upperdir=upper,workdir=work none {0}
                 mount -t proc none {0}/proc; mount --bind /dev {0}/dev; mkdir -p {0}/run/dbus",
                root.display(),
                lower.trim()
            ),
        );
        segment.host.switch(&format!(
            "{{ {} pods.web.publish.http = {{ port = {PUBLISHED}, to = {OPEN}, address = [\"0.0.0.0\", \"::\"] }}, {} }}",
            sleeper("web"),
            sleeper("client")
        ));
        segment.serve(From::Pod("web"), OPEN);
        segment.serve(From::Neighbour, OPEN);
        segment.serve(From::Host, OF_HOST);
        let of = |pod| segment.addresses(pod)["eth0"].clone();
        let (web, client) = (of("web"), of("client"));
        let questions = questions(&web, &client);
        let rules = own_rules(&segment);
        let [web, _] = web;
        Self {
            segment,
            root,
            questions,
            web,
            rules,
        }
    }

    /// A program of Debian's, in the host's network.
    fn command(&self, words: &str) -> Command {
        let mut command = self.segment.inside(From::Host, "chroot");
        command.arg(&self.root).args(words.split_whitespace());
        command
    }

    #[track_caller]
    fn run(&self, words: &str) -> String {
        Ended::from(self.command(words).output().expect(words)).ok()
    }

    /// That these ways are open and the others closed, and that Tank has nothing to repair.
    #[track_caller]
    fn opens(&self, state: &str, open: &[Way]) {
        // What is closed is closed in each round; what is open may take a busy machine more than one.
        eventually(&format!("{state}: open are {open:?}"), || {
            let found = self.ask_all();
            let wrong = |(question, answer): &(&Question, String)| {
                let is_open = answer == &question.answer;
                let should = open.contains(&question.way);
                let closed = ["refused", "nothing"].contains(&answer.as_str());
                assert!(should || closed, "{state}: {}: {answer}", question.asked);
                (should != is_open).then(|| format!("{}: {answer}", question.asked))
            };
            let wrong: Vec<String> = found.iter().filter_map(wrong).collect();
            if !wrong.is_empty() {
                eprintln!("{state}: {wrong:?}");
            }
            wrong.is_empty()
        });
        assert_eq!(own_rules(&self.segment), self.rules, "{state}");
        let host = &self.segment.host;
        assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0, "{state}");
    }

    /// What everybody is answered, all asked at once.
    fn ask_all(&self) -> Vec<(&Question, String)> {
        let (names, others): (Vec<_>, Vec<_>) =
            self.questions.iter().partition(|one| one.way == Name);
        std::thread::scope(|scope| {
            let askers = [From::Neighbour, From::Pod("client"), From::Host].map(|from| {
                let own = others.iter().filter(|one| one.from == from);
                let own: Vec<&Question> = own.copied().collect();
                scope.spawn(move || {
                    let asked: Vec<String> = own.iter().map(|one| one.asked.clone()).collect();
                    let answers = self.segment.ask(from, &asked);
                    own.into_iter().zip(answers).collect::<Vec<_>>()
                })
            });
            let resolvers = names.iter().map(|one| {
                let one = *one;
                scope.spawn(move || vec![(one, self.name(&one.asked))])
            });
            let all: Vec<_> = askers.into_iter().chain(resolvers).collect();
            let all = all.into_iter();
            all.flat_map(|one| one.join().expect("asked")).collect()
        })
    }

    /// What `client` is answered by a name server: `ADDRESS source=ADDRESS`.
    fn name(&self, asked: &str) -> String {
        let (server, source) = asked.split_once(' ').expect("two words");
        let mut command = self.segment.python(From::Pod("client"), "names/dns.py");
        let command = command.args(["ask", server, "web.tank.internal", "A", source]);
        let answer = Ended::from(command.output().expect("python3")).ok();
        let answered = answer.contains(&self.web);
        if answered { "its name" } else { "nothing" }.to_owned()
    }

    fn doctor(&self) -> String {
        let host = &self.segment.host;
        let mut command = host.inside(&bin("tank").display().to_string());
        let said = command.arg("--socket").arg(host.socket()).arg("doctor");
        Ended::from(said.output().expect("tank")).stdout
    }

    #[track_caller]
    fn says(&self, text: &str) {
        let said = self.doctor();
        assert!(said.contains(text), "{text}: {said}");
    }

    /// That a change of Tank's leaves what `listing` lists as it is.
    #[track_caller]
    fn leaves_alone(&self, listing: &str) {
        let before = self.run(listing);
        assert!(before.contains("FORWARD"), "{before}");
        let host = &self.segment.host;
        let config = std::fs::read_to_string(host.dir.join("pods.ncl")).expect("the source");
        let more = format!(
            "{config} & {{ {} pods.more.publish.p = {{ port = 8090, to = 80, address = \"0.0.0.0\" }} }}",
            sleeper("more")
        );
        host.switch(&more);
        assert_ne!(own_rules(&self.segment), self.rules);
        host.switch(&config);
        assert_eq!(self.run(listing), before);
        assert_eq!(own_rules(&self.segment), self.rules);
    }

    /// Ends everything; what the firewall leaves behind is its own business.
    #[track_caller]
    fn finish(self) {
        sh(
            &self.segment.host,
            &format!(
                "nft list tables | grep -vw tank | while read -r table; do nft delete $table; done
                 umount {0}/proc {0}/dev {0} {0}.upper",
                self.root.display()
            ),
        );
        self.segment.finish();
    }
}

fn questions(web: &[String; 2], client: &[String; 2]) -> Vec<Question> {
    let pod = From::Pod("client");
    let one = |way, from, asked: String, answer: &str| Question {
        way,
        from,
        asked,
        answer: answer.to_owned(),
    };
    let mut all = vec![one(
        Itself,
        From::Host,
        format!("tcp 127.0.0.1 {PUBLISHED}"),
        BRIDGE[0],
    )];
    for family in 0..2 {
        let tcp = |address: &str, port: &str| format!("tcp {address} {port}");
        let (up, next) = (UPLINK[family], NEIGHBOUR[family]);
        all.extend([
            one(In, From::Neighbour, tcp(up, PUBLISHED), next),
            one(Out, pod, tcp(next, OPEN), up),
            one(
                Name,
                pod,
                format!("{} source={}", BRIDGE[family], client[family]),
                "its name",
            ),
            one(Pod, pod, tcp(&web[family], OPEN), &client[family]),
            one(Host, pod, tcp(up, OF_HOST), &client[family]),
        ]);
    }
    all
}

/// Tank's tables, as they are listed.
fn own_rules(segment: &Segment) -> String {
    sh(
        &segment.host,
        "nft --stateless list table inet tank && nft --stateless list table bridge tank",
    )
}

// long: one command after the other
#[test]
fn ufw_holds_and_opens_published_ports_as_the_page_says() {
    let server = Server::new();
    let ufw = |words: &str, open: &[Way]| {
        server.run(&format!("ufw {words}"));
        server.opens(&format!("ufw {words}"), open);
    };
    server.opens("no firewall", &[In, Out, Name, Pod, Host, Itself]);
    assert!(!server.doctor().contains("others' rules"));

    ufw("--force enable", &[Pod, Itself]);
    server.says("what is forwarded is dropped unless a rule accepts it: `ip filter FORWARD`, `ip6 filter FORWARD`");
    server.says("what is for this host is dropped unless a rule accepts it: `ip filter INPUT`, `ip6 filter INPUT`");
    // As Docker has it: what pods say to each other passes the host's rules, too.
    if std::path::Path::new("/proc/sys/net/bridge").exists() {
        call_for_bridged(&server.segment.host, true);
        server.opens("bridge-nf-call-iptables", &[Itself]);
        call_for_bridged(&server.segment.host, false);
    }

    // A rule for what is for the host opens no published port: its packets are for a pod.
    ufw("allow 8080/tcp", &[Pod, Itself]);
    ufw("delete allow 8080/tcp", &[Pod, Itself]);
    let one = "allow out on tank0 to any port 80 proto tcp";
    ufw(&format!("route {one}"), &[In, Pod, Itself]);
    ufw(&format!("route delete {one}"), &[Pod, Itself]);
    ufw("route allow out on tank0", &[In, Pod, Itself]);
    ufw("route allow in on tank0", &[In, Out, Pod, Itself]);
    let all = [In, Out, Name, Pod, Itself];
    ufw("allow in on tank0 to any port 53", &all);
    ufw("reload", &all);
    server.leaves_alone("iptables -S");

    // Nor does one close it; a rule for what is forwarded does, before the one that opens it, by the pod's port.
    ufw("deny 8080/tcp", &all);
    server.says("what is for this host is filtered, which published ports are not: `ip filter INPUT`, `ip6 filter INPUT`");
    let closed = [Out, Name, Pod, Itself];
    ufw(
        "route insert 1 deny in on up0 out on tank0 to any port 80 proto tcp",
        &closed,
    );
    ufw("reload", &closed);
    ufw("disable", &[In, Out, Name, Pod, Host, Itself]);
    server.finish();
}

/// firewalld with a bus of its own.
struct Firewalld<'a> {
    server: &'a Server,
    _processes: [Process; 2],
}

impl<'a> Firewalld<'a> {
    fn start(server: &'a Server) -> Self {
        let bus = Process::start(&mut server.command("dbus-daemon --system --nofork --nopidfile"));
        let socket = server.root.join("run/dbus/system_bus_socket");
        eventually("the bus is there", || {
            let mut test = server.segment.inside(From::Host, "test");
            let there = test.arg("-S").arg(&socket).status();
            there.is_ok_and(|there| there.success())
        });
        let firewalld = Process::start(&mut server.command("firewalld --nofork --nopid"));
        let started = Self {
            server,
            _processes: [bus, firewalld],
        };
        eventually("firewalld runs", || {
            let state = server.command("firewall-cmd --state").output();
            state.is_ok_and(|state| state.status.success())
        });
        started
    }

    #[track_caller]
    fn run(&self, words: &str) {
        self.server.run(&format!("firewall-cmd {words}"));
    }
}

// long: one command after the other
#[test]
fn firewalld_holds_and_opens_published_ports_as_the_page_says() {
    let server = Server::new();
    server.opens("no firewall", &[In, Out, Name, Pod, Host, Itself]);
    let firewalld = Firewalld::start(&server);
    // Its own first rule accepts whatever somebody has translated: published ports are open, whatever the zone says.
    server.opens("firewalld", &[In, Pod, Itself]);
    server.says(
        "what is forwarded is dropped unless a rule accepts it: `inet firewalld filter_FORWARD`",
    );
    server.says(
        "what is for this host is dropped unless a rule accepts it: `inet firewalld filter_INPUT`",
    );
    firewalld.run("--zone=drop --change-interface=up0");
    server.opens("up0 in zone drop", &[In, Pod, Itself]);
    firewalld.run("--zone=public --change-interface=up0");

    // A zone in which pods may ask for names, and a policy by which they reach others.
    for words in [
        "--permanent --new-zone=tank",
        "--permanent --zone=tank --add-interface=tank0",
        "--permanent --zone=tank --add-service=dns",
        "--reload",
    ] {
        firewalld.run(words);
    }
    server.opens("zone tank with dns", &[In, Name, Pod, Itself]);
    for words in [
        "--permanent --new-policy=tank-out",
        "--permanent --policy=tank-out --add-ingress-zone=tank",
        "--permanent --policy=tank-out --add-egress-zone=ANY",
        "--permanent --policy=tank-out --set-target=ACCEPT",
        "--reload",
    ] {
        firewalld.run(words);
    }
    let all = [In, Out, Name, Pod, Itself];
    server.opens("policy tank-out", &all);
    server.leaves_alone("nft --stateless list table inet firewalld");

    // A published port is closed by a direct rule, by the port that was published.
    for family in ["ipv4", "ipv6"] {
        firewalld.run(&format!(
            "--permanent --direct --add-rule {family} filter FORWARD 0 -i up0 -p tcp -m conntrack --ctorigdstport 8080 -j DROP"
        ));
    }
    firewalld.run("--reload");
    let closed = [Out, Name, Pod, Itself];
    server.opens("direct rule for 8080", &closed);
    firewalld.run("--complete-reload");
    server.opens("complete reload", &closed);
    // Zone `trusted` is more than pods need: every service of the host is open to them.
    firewalld.run("--zone=trusted --change-interface=tank0");
    server.opens("tank0 in zone trusted", &[Out, Name, Pod, Host, Itself]);
    drop(firewalld);
    server.finish();
}
