//! The language in an editor: Nickel's own language server with Tank's contracts.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};
use tank_tests::{desk::Desk, repo};

/// A language server that is spoken to over its standard streams.
struct Server {
    child: Child,
    replies: mpsc::Receiver<Value>,
    next: u64,
}

impl Server {
    fn start(program: &str, import_path: &str) -> Self {
        let mut child = Command::new(program)
            .env("NICKEL_IMPORT_PATH", import_path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("nls");
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let (send, replies) = mpsc::channel();
        std::thread::spawn(move || {
            loop {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    if out.read_line(&mut line).unwrap_or(0) == 0 {
                        return;
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    if let Some(bytes) = line.strip_prefix("Content-Length: ") {
                        length = bytes.trim().parse().expect("a length");
                    }
                }
                let mut body = vec![0; length];
                out.read_exact(&mut body).expect("a message");
                if send
                    .send(serde_json::from_slice(&body).expect("JSON"))
                    .is_err()
                {
                    return;
                }
            }
        });
        Self {
            child,
            replies,
            next: 0,
        }
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        let stdin = self.child.stdin.as_mut().expect("stdin");
        write!(stdin, "Content-Length: {}\r\n\r\n{text}", text.len()).expect("write");
        stdin.flush().expect("flush");
    }

    fn notify(&mut self, method: &str, params: &Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params }));
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let reply = self
                .replies
                .recv_timeout(Duration::from_secs(60))
                .expect("an answer of nls");
            if reply["id"] == id {
                return reply["result"].clone();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_language_server_completes_and_explains() {
    let output = Command::new(repo().join("scripts/nls.sh"))
        .output()
        .expect("scripts/nls.sh");
    let program = String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned();
    assert!(
        Path::new(&program).exists(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let desk = Desk::new("editor");
    let import_path = desk
        .tank(&["doc", "--import-path"], &[])
        .ok()
        .trim()
        .to_owned();
    // Braces and not dotted paths: the server completes only inside the former while the file is
    // incomplete.
    let text = "let tank = import \"tank.ncl\" in\n{\n  pods = { web = {\n    containers = { app = {\n      image = \"nginx\",\n      read\n    } },\n    publ\n  } },\n}\n| tank.Config\n";
    desk.write("pods.ncl", text);
    let uri = format!("file://{}", desk.0.join("pods.ncl").display());
    let mut server = Server::start(&program, &import_path);
    server.ask(
        "initialize",
        &json!({ "processId": null, "rootUri": null, "capabilities": {
        "textDocument": { "completion": { "completionItem": { "documentationFormat": ["markdown"] } } } } }),
    );
    server.notify("initialized", &json!({}));
    let document = json!({ "uri": uri, "languageId": "nickel", "version": 1, "text": text });
    server.notify("textDocument/didOpen", &json!({ "textDocument": document }));
    let mut complete = |line: u64, character: u64| -> Vec<String> {
        let at = json!({ "textDocument": { "uri": uri }, "position": { "line": line, "character": character } });
        let items = server.ask("textDocument/completion", &at);
        let items = items
            .as_array()
            .cloned()
            .or_else(|| items["items"].as_array().cloned())
            .unwrap_or_default();
        items
            .iter()
            .filter_map(|item| Some(item["label"].as_str()?.to_owned()))
            .collect()
    };
    let inside = complete(5, 10);
    for field in ["readiness", "read_only"] {
        assert!(
            inside.iter().any(|label| label == field),
            "{field} is not completed in a container: {inside:?}"
        );
    }
    let outside = complete(7, 8);
    assert!(
        outside.iter().any(|label| label == "publish"),
        "publish is not completed in a pod: {outside:?}"
    );
    let at = json!({ "textDocument": { "uri": uri }, "position": { "line": 4, "character": 8 } });
    let hover = server.ask("textDocument/hover", &at).to_string();
    assert!(
        hover.contains("A tag is resolved to a digest once"),
        "no doc on hover: {hover}"
    );
}
