//! Registries that break off: what has come is not fetched again, and what is wrong is not believed.
//! Layers are converted, so these tests run as root.

use oci_spec::image::Arch;
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
};
use tank_image::{Converter, Error, Images, Registries, Rules};
use tank_model::Digest;

/// How a registry answers each request for the layer, one after the other.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// What was asked for, and after so many bytes the connection closes.
    Breaks(usize),
    /// All of it, whatever was asked for.
    Whole,
    /// What was asked for.
    Asked,
    /// That it has too much to do.
    Busy,
    /// What was asked for, with its last byte changed.
    Changed,
    /// All of it, in chunks, without the chunk that says so.
    Endless,
    /// A byte, and nothing more for as long as the connection is there.
    Hangs,
}

/// A layer with one file, of a mebibyte that does not compress: the same for all tests.
fn layer() -> Vec<u8> {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(pack).clone()
}

fn pack() -> Vec<u8> {
    let folder = std::env::temp_dir().join(format!("tank-pulls-layer-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let mut state = 1u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    };
    let content: Vec<u8> = (0..1 << 20).map(|_| next()).collect();
    fs::write(folder.join("file"), content).expect("writes");
    let tar = std::process::Command::new("tar")
        .args(["--create", "--mtime=@1", "--directory"])
        .arg(&folder)
        .arg("file")
        .output()
        .expect("tar");
    let _ = fs::remove_dir_all(folder);
    assert!(tar.status.success());
    tar.stdout
}

struct Registry {
    layer: Vec<u8>,
    answers: Mutex<VecDeque<Answer>>,
    /// The first byte that each request for the layer asked for.
    asked: Mutex<Vec<u64>>,
}

impl Registry {
    fn documents(&self) -> (String, String) {
        let digest = Digest::of(&self.layer);
        let config = format!(
            r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#,
            Arch::default()
        );
        let kind = "application/vnd.oci.image";
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{kind}.config.v1+json","digest":"{}","size":{}}},"layers":[{{"mediaType":"{kind}.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
            Digest::of(config.as_bytes()),
            config.len(),
            self.layer.len()
        );
        (config, manifest)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while let Some(Ok(first)) = lines.next() {
            let mut from = 0;
            for line in lines.by_ref() {
                let line = line?.to_ascii_lowercase();
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    from = range.trim_end_matches('-').parse().expect("a range");
                }
                if line.is_empty() {
                    break;
                }
            }
            let (config, manifest) = self.documents();
            if first.contains(&Digest::of(&self.layer).to_string()) {
                if !self.send(&mut stream, from)? {
                    return Ok(());
                }
                continue;
            }
            let body = if first.contains("/manifests/") {
                manifest
            } else {
                config
            };
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    }

    /// Answers a request for the layer; whether the connection stays.
    fn send(&self, stream: &mut TcpStream, from: u64) -> std::io::Result<bool> {
        self.asked.lock().expect("no panic").push(from);
        let answer = self
            .answers
            .lock()
            .expect("no panic")
            .pop_front()
            .unwrap_or(Answer::Asked);
        let mut rest = self.layer[from as usize..].to_vec();
        let status = if from > 0 {
            "206 Partial Content"
        } else {
            "200 OK"
        };
        let head = |status: &str, length: usize| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n")
        };
        match answer {
            Answer::Busy => {
                stream.write_all(head("503 Busy", 0).as_bytes())?;
                return Ok(true);
            }
            Answer::Whole => {
                stream.write_all(head("200 OK", self.layer.len()).as_bytes())?;
                stream.write_all(&self.layer)?;
                return Ok(true);
            }
            Answer::Endless => {
                let length = self.layer.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n"
                )?;
                stream.write_all(&self.layer)?;
                return Ok(false);
            }
            Answer::Hangs => {
                stream.write_all(head(status, rest.len()).as_bytes())?;
                stream.write_all(&rest[..1])?;
                let _ = stream.read(&mut [0]);
                return Ok(false);
            }
            Answer::Changed => *rest.last_mut().expect("a byte") ^= 1,
            Answer::Breaks(_) | Answer::Asked => {}
        }
        stream.write_all(head(status, rest.len()).as_bytes())?;
        let most = match answer {
            Answer::Breaks(most) => most.min(rest.len()),
            _ => rest.len(),
        };
        stream.write_all(&rest[..most])?;
        Ok(most == rest.len())
    }
}

/// Pulls from a registry that answers so: how it went, which bytes were asked for, and what is left in the
/// store's folder for what is half done.
fn pull(name: &str, answers: &[Answer]) -> (Result<Digest, Error>, Vec<u64>) {
    pull_with(name, answers, |_| BTreeMap::new())
}

/// A registry that answers so, and its port.
fn serve(answers: &[Answer]) -> (Arc<Registry>, u16) {
    let registry = Arc::new(Registry {
        layer: layer(),
        answers: Mutex::new(answers.iter().copied().collect()),
        asked: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let serving = Arc::clone(&registry);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serving = Arc::clone(&serving);
            std::thread::spawn(move || serving.serve(stream));
        }
    });
    (registry, port)
}

/// As [`pull`], by the rules for the registry with this port.
fn pull_with(
    name: &str,
    answers: &[Answer],
    mirrors: impl Fn(u16) -> BTreeMap<String, Rules>,
) -> (Result<Digest, Error>, Vec<u64>) {
    assert!(
        rustix::process::geteuid().is_root(),
        "layers are converted: run it as root"
    );
    let dir: PathBuf =
        std::env::temp_dir().join(format!("tank-pulls-{name}-{}", std::process::id()));
    let converter = Converter {
        program: env!("CARGO_BIN_EXE_tank-layer").into(),
        id: 3_000_000_000,
    };
    let (registry, port) = serve(answers);
    let rules = mirrors(port);
    let registries = Registries::new(&rules, &[], dir.join("auth.json"), Vec::new());
    let images = Images::open(&dir, registries.expect("rules"), converter).expect("opens");
    let reference = format!("127.0.0.1:{port}/x").parse().expect("a reference");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let pulled = runtime
        .expect("a runtime")
        .block_on(images.pull(&reference, None, None));
    let whole = pulled
        .as_ref()
        .is_ok_and(|digest| images.find(*digest).is_ok());
    assert_eq!(whole, pulled.is_ok());
    assert_eq!(fs::read_dir(dir.join("tmp")).expect("a folder").count(), 0);
    let layers = fs::read_dir(dir.join("layers")).expect("a folder").count();
    // Each with its recipe, and the record of their digests.
    assert_eq!(
        layers,
        3 * usize::from(whole),
        "nothing is visible that is not verified"
    );
    fs::remove_dir_all(&dir).expect("removes");
    let asked = registry.asked.lock().expect("no panic").clone();
    (pulled, asked)
}

#[test]
fn a_connection_that_breaks_goes_on_where_it_was() {
    use Answer::{Asked, Breaks, Busy, Whole};
    let (pulled, asked) = pull("breaks", &[Breaks(300_000), Busy, Breaks(200_000), Asked]);
    pulled.expect("it is pulled");
    assert_eq!(asked, [0, 300_000, 300_000, 500_000]);
    // One that knows nothing of ranges gives what is known again.
    let (pulled, asked) = pull("whole", &[Breaks(300_000), Whole]);
    pulled.expect("it is pulled");
    assert_eq!(asked, [0, 300_000]);
}

#[test]
fn a_registry_that_breaks_off_for_ever_is_given_up() {
    let (pulled, asked) = pull("for-ever", &[Answer::Breaks(100); 9]);
    let error = pulled.expect_err("it is given up").message();
    let cause = "end of file before message length reached";
    assert!(error.ends_with(cause), "{error}");
    assert_eq!(asked, [0, 100, 200, 300, 400, 500]);
    let (pulled, asked) = pull("busy", &[Answer::Busy; 9]);
    let error = pulled.expect_err("it is given up").message();
    assert!(error.contains("503"), "{error}");
    assert_eq!(asked, [0; 6]);
}

#[test]
fn what_comes_after_a_break_is_verified_with_what_came_before() {
    let (pulled, _) = pull("changed", &[Answer::Breaks(300_000), Answer::Changed]);
    let error = pulled.expect_err("it is another blob");
    assert!(
        matches!(error, Error::Mismatch { .. }),
        "{}",
        error.message()
    );
}

/// The rules by which the registry with this port has mirrors.
fn with_mirrors(port: u16, mirrors: &[u16]) -> BTreeMap<String, Rules> {
    let mirrors: Vec<String> = mirrors
        .iter()
        .map(|port| format!("127.0.0.1:{port}"))
        .collect();
    let rules = serde_json::json!({ "mirrors": mirrors });
    let rules = serde_json::from_value(rules).expect("rules");
    BTreeMap::from([(format!("127.0.0.1:{port}"), rules)])
}

#[test]
fn a_layer_that_is_whole_is_whole_however_its_connection_ends() {
    let (pulled, asked) = pull("endless", &[Answer::Endless]);
    pulled.expect("it is pulled");
    assert_eq!(asked, [0]);
}

#[test]
fn what_a_mirror_changes_or_breaks_off_is_asked_of_the_registry() {
    let (liar, port) = serve(&[Answer::Changed]);
    let (pulled, asked) = pull_with("liar", &[], |own| with_mirrors(own, &[port]));
    pulled.expect("it is pulled");
    assert_eq!(asked, [0], "all of it, of the registry itself");
    assert_eq!(*liar.asked.lock().expect("no panic"), [0]);
    let (broken, port) = serve(&[Answer::Breaks(1_000); 9]);
    let (pulled, asked) = pull_with("broken", &[], |own| with_mirrors(own, &[port]));
    pulled.expect("it is pulled");
    assert_eq!(asked, [6_000], "what the mirror has not given");
    assert_eq!(broken.asked.lock().expect("no panic").len(), 6);
    let (_, port) = serve(&[Answer::Changed]);
    let (pulled, _) = pull_with("both", &[Answer::Changed], |own| with_mirrors(own, &[port]));
    assert!(matches!(pulled, Err(Error::Mismatch { .. })), "{pulled:?}");
}

/// A registry that sends a layer slowly, which another has as well.
#[test]
fn who_sends_slowly_keeps_nobody_from_having_it_elsewhere() {
    let dir = std::env::temp_dir().join(format!("tank-pulls-slow-{}", std::process::id()));
    let converter = Converter {
        program: env!("CARGO_BIN_EXE_tank-layer").into(),
        id: 3_000_000_000,
    };
    let images = Images::open(&dir, Registries::default(), converter).expect("opens");
    let ((slow, hangs), (_, answers)) = (serve(&[Answer::Hangs; 9]), serve(&[]));
    let reference = |port: u16| format!("127.0.0.1:{port}/x").parse().expect("a reference");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let hanging = {
        let (images, reference) = (images.clone(), reference(hangs));
        runtime.spawn(async move { images.pull(&reference, None, None).await })
    };
    while slow.asked.lock().expect("no panic").is_empty() {
        std::thread::yield_now();
    }
    let pulled = runtime.block_on(images.pull(&reference(answers), None, None));
    let digest = pulled.expect("it is pulled");
    assert!(!hanging.is_finished(), "the other one hangs still");
    images.find(digest).expect("it is whole");
    hanging.abort();
    drop(runtime);
    fs::remove_dir_all(&dir).expect("removes");
}
