//! `port-forward`: from loopback here to ports of pods, whatever network they are on.

use serde_json::Value;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tank_tests::{Ended, Host, eventually};

/// A running `tank port-forward`.
struct Forward {
    child: Child,
    /// The local port of each that was asked for.
    ports: Vec<u16>,
    said: std::path::PathBuf,
}

impl Forward {
    fn start(host: &Host, args: &[&str]) -> Self {
        let said = host.dir.join("forward.log");
        let mut command = host.command(&[&["--json", "port-forward"], args].concat());
        let log = std::fs::File::create(&said).expect("a log");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("tank");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut ports = Vec::new();
        for _ in args.iter().skip(1) {
            let line = lines.next().expect("a line").expect("text");
            let line: Value = serde_json::from_str(&line).expect("JSON");
            let v4 = line["addresses"][0].as_str().expect("an address");
            let port = v4.strip_prefix("127.0.0.1:").expect("loopback");
            assert_eq!(line["addresses"][1], format!("[::1]:{port}"));
            assert_eq!(line["addresses"][2], Value::Null);
            ports.push(port.parse().expect("a port"));
        }
        Self { child, ports, said }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).expect("a log")
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill").success());
    }

    fn interrupted(mut self) -> i32 {
        self.signal("INT");
        let ended = self.child.wait().expect("wait");
        ended.code().expect("a status")
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for a page, closes the one direction, and reads the other one to its end.
fn page(address: &str, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

fn server(pod: &str, at: &str, more: &str) -> String {
    format!(
        "pods.{pod} = {{ {more} containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\",
            command = [\"/bin/sh\", \"-c\", \"exec httpd -f -p {at} -h /www\"],
            files.\"/www/index.html\" = {{ text = \"{pod}\" }} }} }},"
    )
}

#[test]
fn a_port_leads_into_a_pod_on_any_network() {
    let mut host = Host::new();
    let config = [
        server("web", "80", ""),
        server("shut", "127.0.0.1:80", "network = 'none,"),
        server("inner", "80", "networks.back = {},"),
        // At its own address alone.
        server("own", "$(hostname -i | cut -d ' ' -f 1):80", ""),
        "networks.back = { internal = true },".to_owned(),
    ];
    host.switch(&format!("{{ {} }}", config.concat()));

    for pod in ["shut", "inner", "own"] {
        let forward = Forward::start(&host, &[pod, ":80"]);
        let port = forward.ports[0];
        assert_eq!(page("127.0.0.1", port).expect("a page"), pod);
        assert_eq!(page("::1", port).expect("a page"), pod);
        assert_eq!(forward.interrupted(), 0);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    let forward = Forward::start(&host, &["web", ":80", ":81"]);
    let [served, nobody] = forward.ports[..] else {
        panic!("{:?}", forward.ports)
    };
    assert_eq!(page("127.0.0.1", served).expect("a page"), "web");
    // Nobody listens: that is said, once, and it goes on.
    let refused = page("127.0.0.1", nobody);
    assert!(
        refused.as_ref().map_or(true, String::is_empty),
        "{refused:?}"
    );
    eventually("it is said", || {
        forward.said().contains("connect to port 81 of pod `web`")
    });
    assert_eq!(forward.said().lines().count(), 1, "{}", forward.said());
    assert!(forward.said().contains("nobody listens there"));

    // It goes to whoever has the pod's name by now, also after the daemon was another one.
    host.tank(&["restart", "web"]).ok();
    assert_eq!(page("127.0.0.1", served).expect("a page"), "web");
    host.kill_daemon();
    let refused = page("127.0.0.1", served);
    assert!(
        refused.as_ref().map_or(true, String::is_empty),
        "{refused:?}"
    );
    host.start_daemon();
    assert_eq!(page("127.0.0.1", served).expect("a page"), "web");

    // A port that is taken here, a pod that there is not, and one that does not run.
    let refused = |args: &[&str]| {
        let Ended { status, stderr, .. } = host.tank(&[&["port-forward"], args].concat());
        assert_eq!(status, 1, "{stderr}");
        stderr
    };
    let taken = refused(&["web", &format!("{served}:80")]);
    assert!(
        taken.contains(&format!("listen at 127.0.0.1:{served}")),
        "{taken}"
    );
    assert!(refused(&["wbe", "80"]).contains("did you mean `web`?"));
    host.tank(&["stop", "shut"]).ok();
    host.tank(&["stop", "web"]).ok();
    let stopped = page("127.0.0.1", served);
    assert!(
        stopped.as_ref().map_or(true, String::is_empty),
        "{stopped:?}"
    );
    assert_eq!(forward.interrupted(), 0);
    host.finish();
}

#[test]
fn several_at_once_and_more_than_fits_a_buffer() {
    let host = Host::new();
    // Sends back what it gets, until that ends, one after the other: it has next to no queue.
    let echo = "pods.echo.containers.app = { image = \"oci:./busybox\", stop.signal = \"SIGKILL\",
             command = [\"/bin/nc\", \"-ll\", \"-p\", \"7\", \"-e\", \"/bin/cat\"] },";
    host.switch(&format!("{{ {echo} {} }}", server("web", "80", "")));
    eventually("it listens", || {
        host.exec("echo", "netstat -ltn").contains(":7 ")
    });
    let forward = Forward::start(&host, &["echo", ":7"]);
    for one in 0..3u32 {
        let sent: Vec<u8> = (0..1_000_000u32)
            .map(|at| (at.wrapping_mul(31) + one) as u8)
            .collect();
        let stream = TcpStream::connect(("127.0.0.1", forward.ports[0]));
        let mut stream = stream.expect("connects");
        let mut reads = stream.try_clone().expect("a descriptor");
        let reader = std::thread::spawn(move || {
            let mut back = Vec::new();
            reads.read_to_end(&mut back).map(|_| back)
        });
        stream.write_all(&sent).expect("writes");
        stream.shutdown(Shutdown::Write).expect("an end");
        let back = reader.join().expect("a thread").expect("reads");
        assert!(back == sent, "{} of {} bytes", back.len(), sent.len());
    }
    assert_eq!(forward.said(), "");
    assert_eq!(forward.interrupted(), 0);

    let forward = Forward::start(&host, &["web", ":80"]);
    let port = forward.ports[0];
    let pages: Vec<_> = (0..6)
        .map(|_| std::thread::spawn(move || page("127.0.0.1", port)))
        .collect();
    for page in pages {
        assert_eq!(page.join().expect("a thread").expect("a page"), "web");
    }
    assert_eq!(forward.said(), "");
    assert_eq!(forward.interrupted(), 0);
    host.finish();
}

/// A client that is stopped holds a socket of the pod's network: that outlives the pod, and is in nobody's way.
#[test]
fn a_client_that_is_stopped_holds_nobody_up() {
    let host = Host::new();
    let config = format!(
        "{{ {} }}",
        server("web", "80", "publish.http = { port = 8080, to = 80 },")
    );
    host.switch(&config);
    let forward = Forward::start(&host, &["web", ":80"]);
    let mut held = TcpStream::connect(("127.0.0.1", forward.ports[0])).expect("connects");
    held.write_all(b"GET / HTTP/1.0\r\n").expect("writes");
    eventually("it is connected", || {
        host.exec("web", "netstat -tn").contains("ESTABLISHED")
    });
    forward.signal("STOP");
    host.tank(&["delete", "web"]).ok();
    host.switch(&config);
    assert_eq!(host.get("http://127.0.0.1:8080/").ok(), "web");
    assert!(host.tank(&["diff"]).ok().starts_with("nothing to do"));
    forward.signal("CONT");
    assert_eq!(page("127.0.0.1", forward.ports[0]).expect("a page"), "web");
    drop(held);
    assert_eq!(forward.interrupted(), 0);
    host.finish();
}
