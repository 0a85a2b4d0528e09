//! By whoever talks to the daemon, and by what reaches an operator's terminal.
//!
//! A caller is a thread of this process with another user's credentials: the kernel keeps those of
//! the moment of `connect(2)`.

#[path = "output.rs"]
mod output;

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{Resource, Rlimit},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, IoSlice, PipeReader, PipeWriter, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixStream,
        },
    },
    process::Command,
    time::Duration,
};
use tank_tests::{Host, RUN, eventually, pty::Terminal, sleeper};

/// The id of the group `tank` on hosts that have one.
const TANK: u32 = 47_813;

/// A host whose group `tank` exists.
fn host_with_group() -> Host {
    let mut host = Host::without_daemon();
    let groups = fs::read_to_string("/etc/group").expect("groups");
    host.write("group", &format!("{groups}tank:x:{TANK}:\n"));
    let bound = host
        .inside("mount")
        .arg("--bind")
        .arg(host.dir.join("group"))
        .arg("/etc/group")
        .status();
    assert!(bound.expect("mount").success());
    host.start_daemon();
    host
}

/// Connects as a user with these groups.
fn connect(host: &Host, uid: u32, groups: &[u32]) -> io::Result<UnixStream> {
    Ok(connect_many(host, uid, groups, 1)?.remove(0))
}

fn connect_many(
    host: &Host,
    uid: u32,
    groups: &[u32],
    count: usize,
) -> io::Result<Vec<UnixStream>> {
    let (path, groups) = (host.socket(), groups.to_vec());
    let connecting = std::thread::spawn(move || {
        if uid != 0 {
            let groups: Vec<_> = groups
                .into_iter()
                .map(rustix::process::Gid::from_raw)
                .collect();
            let (uid, gid) = (
                rustix::process::Uid::from_raw(uid),
                rustix::process::Gid::from_raw(uid),
            );
            set_thread_groups(&groups)?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        (0..count)
            .map(|_| UnixStream::connect(&path))
            .collect::<io::Result<Vec<_>>>()
    });
    let streams: Vec<UnixStream> = connecting.join().expect("no panic")?;
    for stream in &streams {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a limit");
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .expect("a limit");
    }
    Ok(streams)
}

fn call(method: &str, parameters: &Value, more: bool) -> Vec<u8> {
    let call = json!({ "method": format!("io.tank.Executor.{method}"), "parameters": parameters, "more": more });
    [call.to_string().as_bytes(), b"\0"].concat()
}

/// The next reply; none: the connection is closed.
fn reply(stream: &mut UnixStream) -> Option<Value> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) if byte == [0] => return Some(serde_json::from_slice(&bytes).expect("JSON")),
            Ok(_) => bytes.push(byte[0]),
            // The daemon closed without having read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Whether a call is answered.
fn works(stream: &mut UnixStream) -> bool {
    stream.write_all(&call("Status", &json!({}), false)).is_ok()
        && reply(stream).is_some_and(|reply| reply["parameters"]["version"].is_string())
}

fn send_with(stream: &UnixStream, bytes: &[u8], end: &PipeWriter, count: usize) {
    let fds = vec![end.as_fd(); count];
    let mut space = vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(&fds).size()];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = rustix::net::sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    );
    assert_eq!(sent.expect("sends"), bytes.len());
}

/// Whether nobody has the other end of a pipe any more.
#[track_caller]
fn is_closed(mut pipe: PipeReader) {
    rustix::io::ioctl_fionbio(&pipe, true).expect("nonblocking");
    eventually("the descriptors are closed", || {
        matches!(pipe.read(&mut [0]), Ok(0))
    });
}

/// The most memory the daemon ever had, in bytes. The kernel sums its counters of a process up roughly: a
/// peak may be shown a little lower later.
fn peak_memory(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number")
        << 10
}

/// The bytes that the daemon has read from files so far.
fn bytes_read(host: &Host) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", host.daemon_pid())).expect("io");
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("rchar: "))
        .expect("a count");
    line.parse().expect("a number")
}

/// Many connections are as many descriptors of this process.
fn allow_many_descriptors() {
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    rustix::process::setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )
    .expect("setrlimit");
}

#[test]
fn a_stranger_is_stopped_by_the_kernel() {
    let host = host_with_group();
    let meta = fs::metadata(host.socket()).expect("a socket");
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o660, 0, TANK)
    );
    let refused = connect(&host, 1000, &[]).expect_err("a stranger got in");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    assert!(works(&mut connect(&host, 1000, &[TANK]).expect("a member")));
    host.finish();

    // Where there is no such group, there is nobody to let in but root.
    let host = Host::new();
    let meta = fs::metadata(host.socket()).expect("a socket");
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o600, 0, 0)
    );
    assert!(works(&mut connect(&host, 0, &[]).expect("root")));
    host.finish();
}

#[test]
fn a_stranger_past_the_mode_is_refused_before_a_byte_is_read() {
    let host = host_with_group();
    fs::set_permissions(host.socket(), fs::Permissions::from_mode(0o666)).expect("chmod");
    // They have sent nothing, and nothing is waited for; however many there are, each gets the
    // reason.
    for mut stranger in connect_many(&host, 1000, &[1001], 100).expect("the mode lets them in") {
        let refused = reply(&mut stranger).expect("a reply");
        assert_eq!(
            refused,
            json!({ "error": "org.varlink.service.PermissionDenied" })
        );
        assert_eq!(reply(&mut stranger), None);
    }
    // The command's message names what to do.
    let tank = host.dir.join("tank");
    fs::copy(tank_tests::bin("tank"), &tank).expect("copy");
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .arg(&tank)
        .arg("--socket")
        .arg(host.socket());
    let ended: tank_tests::Ended = command.arg("list").output().expect("setpriv").into();
    assert_eq!(ended.status, 1, "{}", ended.stdout);
    assert!(
        ended.stderr.contains("become a member of the group `tank`"),
        "{}",
        ended.stderr
    );
    host.finish();
}

/// A member of the group copies files and connects to ports as root does; nobody else.
#[test]
fn a_member_copies_and_forwards_and_nobody_else() {
    let host = host_with_group();
    let serve =
        r#"command = ["/bin/httpd", "-f", "-p", "80", "-h", "/etc"], stop.signal = "SIGKILL""#;
    host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {serve} }} }}"
    ));
    let tank = host.dir.join("tank");
    fs::copy(tank_tests::bin("tank"), &tank).expect("copy");
    let own = host.dir.join("of-member");
    fs::create_dir(&own).expect("a folder");
    std::os::unix::fs::chown(&own, Some(1000), Some(1000)).expect("chown");
    let of = |groups: &str, args: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid=1000",
                "--regid=1000",
                &format!("--groups={groups}"),
            ])
            .arg(&tank)
            .arg("--socket")
            .arg(host.socket())
            .args(args)
            .current_dir(&own);
        command
    };
    let member = TANK.to_string();
    let ended = |groups: &str, args: &[&str]| -> tank_tests::Ended {
        of(groups, args).output().expect("setpriv").into()
    };
    // Both ways, and what comes here is the member's own.
    ended(&member, &["cp", "web:/etc/passwd", "there"]).ok();
    let there = fs::metadata(own.join("there")).expect("a file");
    assert_eq!((there.uid(), there.gid()), (1000, 1000));
    ended(&member, &["cp", "there", "web:/etc/back"]).ok();
    assert!(host.exec("web", "cat /etc/back").contains("root:"));
    // No file that the member itself may not read goes into a container, and none comes where it may not write.
    host.write("roots", "secret");
    let roots = host.dir.join("roots");
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o600)).expect("chmod");
    let roots = roots.display().to_string();
    let refused = ended(&member, &["cp", &roots, "web:/etc/roots"]);
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    let refused = ended(&member, &["cp", "web:/etc/passwd", &roots]);
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    assert_eq!(fs::read_to_string(&roots).expect("reads"), "secret");
    let mut forward = of(&member, &["--json", "port-forward", "web", ":80"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("setpriv");
    let mut line = String::new();
    let read = io::BufRead::read_line(
        &mut io::BufReader::new(forward.stdout.as_mut().expect("stdout")),
        &mut line,
    );
    read.expect("reads");
    let line: Value = serde_json::from_str(&line).expect("JSON");
    let address = line["addresses"][0].as_str().expect("an address");
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    stream
        .write_all(b"GET /back HTTP/1.0\r\n\r\n")
        .expect("writes");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("reads");
    forward.kill().expect("it ends");
    forward.wait().expect("it ends");
    assert!(page.contains("root:"), "{page}");
    for args in [
        &["cp", "web:/etc/passwd", "again"][..],
        &["cp", "there", "web:/etc/again"],
        &["port-forward", "web", ":80"],
    ] {
        let refused = ended("1001", args);
        assert_eq!(refused.status, 1, "{args:?}: {}", refused.stdout);
        let text = tank_tests::words(&refused.stderr);
        assert!(text.contains("member of the group `tank`"), "{text}");
    }
    assert!(!own.join("again").exists());
    host.finish();
}

#[test]
fn calls_of_a_hundred_megabytes_are_refused_before_they_are_kept() {
    let host = host_with_group();
    fs::set_permissions(host.socket(), fs::Permissions::from_mode(0o666)).expect("chmod");
    let before = peak_memory(&host);
    let callers = [
        (1000, TANK),
        (1001, TANK),
        (1001, TANK),
        (1002, 1),
        (1003, 1),
        (0, 0),
    ];
    let sending = callers.map(|(uid, group)| {
        let mut stream = connect(&host, uid, &[group]).expect("connects");
        std::thread::spawn(move || {
            let begin =
                br#"{"method":"io.tank.Executor.Switch","parameters":{"source":"x","config":""#;
            let chunk = vec![b'x'; 1 << 20];
            let mut left = 100;
            let mut sent = stream.write_all(begin);
            while sent.is_ok() && left > 0 {
                sent = stream.write_all(&chunk);
                left -= 1;
            }
            (reply(&mut stream), sent.is_err())
        })
    });
    let answers = sending.map(|sending| sending.join().expect("no panic"));
    let too_long = json!({
        "error": "io.tank.Executor.Invalid",
        "parameters": { "call": true, "problems": ["a call may have 33554432 bytes at most"] }
    });
    let denied = json!({ "error": "org.varlink.service.PermissionDenied" });
    for (answer, expected) in answers
        .iter()
        .zip([&too_long, &too_long, &too_long, &denied, &denied, &too_long])
    {
        assert_eq!(answer, &(Some(expected.clone()), true));
    }
    let more = peak_memory(&host).saturating_sub(before) >> 20;
    assert!(more < 200, "{more} MiB more");
    host.finish();
}

#[test]
fn a_call_of_a_million_small_values_takes_no_more_than_its_bytes() {
    let host = Host::new();
    let before = peak_memory(&host);
    let mut stream = connect(&host, 0, &[]).expect("connects");
    // Unknown fields, wherever they stand: each value would take 32 bytes where it takes two here.
    let many = vec!["0"; 6 << 20].join(",");
    let text = format!(
        r#"{{"x":[{many}],"parameters":{{"y":[{many}]}},"method":"io.tank.Executor.Status"}}{}"#,
        '\0'
    );
    stream.write_all(text.as_bytes()).expect("sends");
    let answer = reply(&mut stream).expect("a reply");
    assert!(answer["parameters"]["version"].is_string(), "{answer}");
    let more = peak_memory(&host).saturating_sub(before) >> 20;
    assert!(more < 100, "{more} MiB more");
    host.finish();
}

#[test]
fn idle_connections_of_a_member_lock_nobody_out() {
    allow_many_descriptors();
    let host = host_with_group();
    // One that has a call in flight, before there is a crowd.
    let mut follower = connect(&host, 1001, &[TANK]).expect("connects");
    follower
        .write_all(&call("Events", &json!({ "follow": true }), true))
        .expect("sends");
    let crowd = connect_many(&host, 1000, &[TANK], 600).expect("connects");
    for _ in 0..50 {
        host.tank(&["list"]).ok();
    }
    assert!(works(
        &mut connect(&host, 1001, &[TANK]).expect("another member")
    ));
    assert!(works(&mut connect(&host, 1000, &[TANK]).expect("himself")));
    // Members together, and root with itself.
    let crowds: Vec<_> = (2000..2012)
        .map(|uid| connect_many(&host, uid, &[TANK], 60).expect("connects"))
        .collect();
    assert!(works(
        &mut connect(&host, 3000, &[TANK]).expect("one more member")
    ));
    let own = connect_many(&host, 0, &[], 600).expect("connects");
    for _ in 0..50 {
        host.tank(&["list"]).ok();
    }
    // The call in flight went on all the time.
    host.switch("{}");
    let replies = std::iter::from_fn(|| reply(&mut follower));
    let mut messages = replies.map(|reply| {
        reply["parameters"]["event"]["message"]
            .as_str()
            .unwrap_or("")
            .to_owned()
    });
    assert!(messages.any(|message| message.starts_with("generation 1: switch pods.ncl")));
    drop((crowd, crowds, own));
    host.finish();
}

#[test]
fn a_user_with_a_call_in_every_place_is_refused_and_others_are_served() {
    let host = host_with_group();
    let mut at_work = connect_many(&host, 1000, &[TANK], 64).expect("connects");
    for stream in &mut at_work {
        stream
            .write_all(&call("Events", &json!({ "follow": true }), true))
            .expect("sends");
        // Under way: the first of what is remembered is there.
        host.tank(&["list"]).ok();
    }
    eventually("every place has a call in flight", || {
        let refused = reply(&mut connect(&host, 1000, &[TANK]).expect("connects"));
        refused.is_some_and(|refused| refused["error"] == "io.tank.Executor.Busy")
    });
    assert!(works(
        &mut connect(&host, 1001, &[TANK]).expect("another member")
    ));
    drop(at_work);
    eventually("a place is free again", || {
        works(&mut connect(&host, 1000, &[TANK]).expect("connects"))
    });
    host.finish();
}

#[test]
fn descriptors_are_taken_for_exec_alone_and_not_kept() {
    let host = Host::new();
    let pipe = || io::pipe().expect("a pipe");

    // With a call that goes on for ever.
    let (out, end) = pipe();
    let mut stream = connect(&host, 0, &[]).expect("connects");
    send_with(
        &stream,
        &call("Events", &json!({ "follow": true }), true),
        &end,
        3,
    );
    drop(end);
    is_closed(out);

    // More than any call takes.
    for count in [4, 200] {
        let (out, end) = pipe();
        let mut stream = connect(&host, 0, &[]).expect("connects");
        send_with(&stream, &call("List", &json!({}), false), &end, count);
        drop(end);
        is_closed(out);
        let refused = reply(&mut stream).expect("a reply");
        assert_eq!(
            refused["parameters"]["problems"],
            json!(["a call may come with 3 descriptors at most"])
        );
        assert_eq!(reply(&mut stream), None);
    }

    // While a call has not ended they wait, and no program that the daemon executes meanwhile gets
    // them.
    let (out, end) = pipe();
    let partly = connect(&host, 0, &[]).expect("connects");
    send_with(&partly, b"{", &end, 3);
    let inode = fs::metadata(format!("/proc/self/fd/{}", end.as_raw_fd()))
        .expect("a pipe")
        .ino();
    let daemon = format!("/proc/{}", host.daemon_pid());
    let held = || -> Vec<String> {
        let all = fs::read_dir(format!("{daemon}/fd"))
            .expect("descriptors")
            .flatten();
        let held = all.filter(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|to| to.as_os_str() == format!("pipe:[{inode}]").as_str())
        });
        held.map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    eventually("they have arrived", || held().len() == 3);
    for fd in held() {
        let info = fs::read_to_string(format!("{daemon}/fdinfo/{fd}")).expect("a descriptor");
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .expect("flags")
            .trim();
        let cloexec = i64::from_str_radix(flags, 8).expect("octal") & 0o2_000_000;
        assert_ne!(cloexec, 0, "a descriptor would be inherited");
    }
    drop((partly, end));
    is_closed(out);
    stream.shutdown(std::net::Shutdown::Both).expect("closes");
    assert!(reply(&mut stream).is_none_or(|reply| reply["error"].is_null()));
    host.finish();
}

#[test]
fn what_wants_no_reply_gets_none_and_what_is_missing_is_named() {
    let host = Host::new();
    let mut stream = connect(&host, 0, &[]).expect("connects");
    let oneway = |method: &str| {
        let call = json!({ "method": format!("io.tank.Executor.{method}"), "oneway": true });
        [call.to_string().as_bytes(), b"\0"].concat()
    };
    for method in ["Status", "List", "Get", "Nope", "Events"] {
        stream.write_all(&oneway(method)).expect("sends");
    }
    assert!(
        works(&mut stream),
        "the first reply is the one that was wanted"
    );

    let mut error = |method: &str, parameters: Value| {
        stream
            .write_all(&call(method, &parameters, false))
            .expect("sends");
        let reply = reply(&mut stream).expect("a reply");
        assert_eq!(
            reply["error"], "org.varlink.service.InvalidParameter",
            "{reply}"
        );
        reply["parameters"].clone()
    };
    let exec = json!({ "pod": "web", "argv": ["true"], "rows": 24 });
    assert_eq!(error("Exec", exec), json!({ "parameter": "env" }));
    assert_eq!(error("Get", json!({})), json!({ "parameter": "pod" }));
    assert_eq!(
        error("GenerationDiff", json!({ "from": 1, "to": "two" })),
        json!({ "parameter": "to" })
    );
    host.finish();
}
