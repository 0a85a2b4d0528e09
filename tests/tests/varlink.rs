//! The socket, spoken to by somebody else's client: the Python `varlink` package.

use std::{path::PathBuf, process::Command};
use tank_tests::{Ended, Host, RUN, fixtures};

/// A Python with the package, made once.
fn python() -> PathBuf {
    static ONCE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _once = ONCE.lock().expect("not poisoned");
    let venv = fixtures().parent().expect("the cache").join("venv");
    if !venv.join("ready").exists() {
        let run = |command: &mut Command| assert!(command.status().expect("python").success());
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "varlink==31.0.0"]));
        std::fs::write(venv.join("ready"), "").expect("write");
    }
    venv.join("bin/python")
}

fn script(host: &Host, text: &str) -> Ended {
    let preamble = format!(
        "import json, varlink\nclient = varlink.Client('unix:{}')\n",
        host.socket().display()
    );
    let output = Command::new(python())
        .arg("-c")
        .arg(preamble + text)
        .current_dir(&host.dir)
        .output();
    output.expect("python").into()
}

#[test]
fn another_client_introspects_lists_and_switches() {
    let host = Host::new();
    host.write(
        "pods.ncl",
        &format!("{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"),
    );
    let canonical = host.tank(&["build", "--canonical", "pods.ncl"]).ok();
    host.write("pods.json", canonical.trim());

    // Introspection gives the file in the repository, to the letter.
    let described = script(
        &host,
        "service = client.open('org.varlink.service')\n\
         print(service.GetInfo()['interfaces'])\n\
         print(service.GetInterfaceDescription('io.tank.Executor')['description'], end='')\n",
    );
    let file =
        std::fs::read_to_string(tank_tests::repo().join("executor/proto/io.tank.Executor.varlink"))
            .expect("read");
    assert_eq!(
        described.ok(),
        format!("['org.varlink.service', 'io.tank.Executor']\n{file}")
    );

    // A switch streams its progress; the client parsed the interface it was sent.
    let switched = script(
        &host,
        "tank = client.open('io.tank.Executor')\n\
         import os\n\
         config = open('pods.json').read()\n\
         stages = []\n\
         for reply in tank.Switch(config=config, base_dir=os.getcwd(), source='python', _more=True):\n\
         \x20   stages.append(reply['progress']['stage'] if 'progress' in reply else reply['outcome']['generation'])\n\
         print(stages[0], stages[1], 'step' in stages, stages[-1])\n\
         print([(pod['name'], pod['state']) for pod in tank.List()['pods']])\n",
    );
    assert_eq!(switched.ok(), "note commit True 1\n[('web', 'running')]\n");

    // What has to do with generations: a client keeps types and methods in one table.
    let generations = script(
        &host,
        "tank = client.open('io.tank.Executor')\n\
         print([each['number'] for each in tank.Generations()['generations']])\n\
         shown = tank.GetGeneration(number=1)\n\
         print(shown['generation']['source'], json.loads(shown['config']) == json.load(open('pods.json')))\n\
         print(tank.GetGeneration()['generation']['current'])\n\
         print(tank.GenerationDiff(**{'from': 1, 'to': 1})['changes'])\n\
         print(tank.Why(field='web.app.image')['since']['number'])\n",
    );
    assert_eq!(generations.ok(), "[1]\npython True\nTrue\n[]\n1\n");
    assert_eq!(host.pod("web")["state"], "running");
    host.finish();
}

#[test]
fn wrong_calls_are_refused_in_words() {
    let host = Host::new();
    let calls = format!(
        r#"
import socket
def call(method, parameters):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect('{}')
    connection.sendall(json.dumps(dict(method=method, parameters=parameters)).encode() + b'\0')
    data = b''
    while not data.endswith(b'\0'):
        chunk = connection.recv(65536)
        if not chunk:
            return 'closed'
        data += chunk
    return json.loads(data[:-1]).get('error')
print(call('io.tank.Executor.Nope', dict()))
print(call('io.nope.Other', dict()))
print(call('io.tank.Executor.Get', dict()))
print(call('io.tank.Executor.Get', dict(pod='x')))
# By the name it had in the version before.
print(call('io.tank.Executor.Generation', dict()))
print(call('io.tank.Executor.Switch', dict(config='{{"pods": {{}}}}', source='x')))
print(call('io.tank.Executor.Switch', dict(config='{{"pods":{{"a/b":{{}}}}}}', source='x')))
"#,
        host.socket().display()
    );
    let refused = script(&host, &calls);
    assert_eq!(
        refused.ok(),
        "org.varlink.service.MethodNotFound\norg.varlink.service.InterfaceNotFound\n\
         org.varlink.service.InvalidParameter\nio.tank.Executor.NoSuchPod\n\
         io.tank.Executor.NoSuchGeneration\n\
         io.tank.Executor.Invalid\nio.tank.Executor.Invalid\n"
    );
    host.finish();
}
