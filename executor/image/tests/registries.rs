//! Registries that ask who one is, their mirrors, and where they lead. No layer is fetched: what a tag
//! stands for is asked.

use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::thread::ThreadNameSpaceType;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::PathBuf,
    process::{Child, Command},
    sync::{Arc, Mutex},
};
use tank_image::{Converter, Error, Images, Registries, Rules};
use tank_model::Digest;

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":2},"layers":[]}"#;

/// A request: its first line, its `Authorization`, and its body.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    authorization: Option<String>,
    body: String,
}

/// A server that answers as `answer` says, with what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` gives the head, without its length, and the body.
    fn new(answer: impl Fn(&Asked) -> (String, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("listens");
        let port = listener.local_addr().expect("an address").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, kept) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, kept) = (Arc::clone(&answer), Arc::clone(&kept));
                std::thread::spawn(move || serve(stream, &*answer, &kept));
            }
        });
        Self { port, asked }
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

fn serve(
    mut stream: TcpStream,
    answer: &dyn Fn(&Asked) -> (String, String),
    kept: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut asked = Asked {
            line: line.trim_end().to_owned(),
            authorization: None,
            body: String::new(),
        };
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else {
                break;
            };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => asked.authorization = Some(value.to_owned()),
                "content-length" => length = value.parse().expect("a length"),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        asked.body = String::from_utf8(body).expect("text");
        kept.lock().expect("no panic").push(asked.clone());
        let (head, body) = answer(&asked);
        write!(
            stream,
            "{head}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}

fn ok(body: &str) -> (String, String) {
    ("HTTP/1.1 200 OK".to_owned(), body.to_owned())
}

fn refused(challenge: &str) -> (String, String) {
    let head = format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}");
    (head, String::new())
}

fn basic(user: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{user}:{password}"))
    )
}

/// A store in a folder of its own, with a file of another tool beside it.
struct Store {
    dir: PathBuf,
    images: Images,
}

impl Store {
    fn new(name: &str, rules: &str, auths: &str) -> Self {
        let dir = format!("tank-registries-{name}-{}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("config.json");
        fs::write(&file, auths).expect("writes");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let rules: BTreeMap<String, Rules> = serde_json::from_str(rules).expect("rules");
        let registries = Registries::new(&rules, &[], dir.join("auth.json"), vec![file]);
        let converter = Converter {
            program: "/nonexistent".into(),
            id: 3_000_000_000,
        };
        let images = Images::open(&dir.join("images"), registries.expect("rules"), converter);
        let images = images.expect("opens");
        Self { dir, images }
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(work)
    }

    fn resolve(&self, reference: &str) -> Result<Digest, Error> {
        let reference = reference.parse().expect("a reference");
        Self::run(self.images.resolve(&reference))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.expect_err("it is refused");
    let help = error
        .help()
        .map_or(String::new(), |help| format!(" ({help})"));
    format!("{}{help}", error.message())
}

#[test]
fn a_registry_that_asks_for_a_password_gets_its_own_and_only_when_it_asks() {
    let right = basic("me", "se:cret");
    let server = Server::new(move |asked| match &asked.authorization {
        Some(authorization) if *authorization == right => ok(MANIFEST),
        _ => refused("Basic realm=\"x\""),
    });
    let (name, image) = (server.name(), format!("{}/team/app", server.name()));
    let store = Store::new("basic", "{}", "{}");
    let anonymous = format!(
        "{name} does not let anonymous users pull `team/app` (is the name right? if the image is private: `tank login {name}`)"
    );
    assert_eq!(message(store.resolve(&image)), anonymous);
    let login = |user, password| Store::run(store.images.registries().login(&name, user, password));
    let wrong = format!("{name} does not know `me` with this password");
    assert_eq!(message(login("me", "wrong")), wrong);
    assert_eq!(message(store.resolve(&image)), anonymous, "it was not kept");
    let kept = login("me", "se:cret").expect("it is taken");
    assert_eq!((kept.registry, kept.tried), (name.clone(), true));
    assert_eq!(
        store.resolve(&image).expect("resolves"),
        Digest::of(MANIFEST.as_bytes())
    );
    let asked = server.asked();
    let [first, second] = asked.last_chunk().expect("two requests");
    assert_eq!(first.line, "GET /v2/team/app/manifests/latest HTTP/1.1");
    assert_eq!(first.authorization, None, "nobody has asked yet");
    assert_eq!(second.authorization, Some(basic("me", "se:cret")));
    let left = Store::run(store.images.registries().logout(&name)).expect("forgets");
    assert!(left.known && left.elsewhere.is_none(), "{left:?}");
    assert_eq!(message(store.resolve(&image)), anonymous);
}

#[test]
fn tokens_are_given_for_passwords_and_for_identity_tokens() {
    let giver = Server::new(|asked| {
        let with_password = asked.authorization == Some(basic("me", "s"));
        let with_token = asked.body.contains("refresh_token=i%26d");
        match with_password || with_token {
            true => ok(r#"{"access_token": "given"}"#),
            false => ("HTTP/1.1 401 Unauthorized".to_owned(), String::new()),
        }
    });
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"s p\"",
        giver.name()
    );
    let server = Server::new(move |asked| match asked.authorization.as_deref() {
        Some("Bearer given") => ok(MANIFEST),
        _ => refused(&challenge),
    });
    let name = server.name();
    let entry = |entry: serde_json::Value| {
        serde_json::json!({ "auths": { server.name(): entry } }).to_string()
    };
    let auth = BASE64_STANDARD.encode("me:s");
    let store = Store::new(
        "password",
        "{}",
        &entry(serde_json::json!({ "auth": auth })),
    );
    store.resolve(&format!("{name}/app:1")).expect("resolves");
    let asked = giver.asked();
    assert_eq!(
        asked.last().map(|asked| asked.line.as_str()),
        Some("GET /token?scope=repository%3Aapp%3Apull&service=s+p HTTP/1.1")
    );
    let identity = entry(serde_json::json!({ "identitytoken": "i&d" }));
    let store = Store::new("identity", "{}", &identity);
    store.resolve(&format!("{name}/app:1")).expect("resolves");
    let asked = giver.asked().pop().expect("a request");
    assert_eq!(asked.line, "POST /token HTTP/1.1");
    let body = "grant_type=refresh_token&client_id=tank&refresh_token=i%26d&scope=repository%3Aapp%3Apull&service=s+p";
    assert_eq!((asked.body.as_str(), asked.authorization), (body, None));
    let wrong = entry(serde_json::json!({ "auth": BASE64_STANDARD.encode("you:s") }));
    let store = Store::new("wrong", "{}", &wrong);
    let expected = format!(
        "{name} does not let `you` pull `app` (if that user may have it, the password is no longer right: `tank login {name}`)"
    );
    assert_eq!(message(store.resolve(&format!("{name}/app:1"))), expected);
}

/// What is for one is not given to another, whoever sends there.
#[test]
fn a_password_goes_to_no_host_that_a_registry_leads_to() {
    let elsewhere = Server::new(|_| ok(MANIFEST));
    let target = format!("http://localhost:{}/there", elsewhere.port);
    let right = basic("me", "s");
    let server = Server::new(move |asked| match &asked.authorization {
        Some(authorization) if *authorization == right => {
            let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {target}");
            (head, String::new())
        }
        _ => refused("Basic realm=\"x\""),
    });
    let auths = serde_json::json!({ "auths": { server.name(): { "auth": BASE64_STANDARD.encode("me:s") } } });
    let store = Store::new("redirect", "{}", &auths.to_string());
    store
        .resolve(&format!("{}/app", server.name()))
        .expect("resolves");
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].line, "GET /there HTTP/1.1");
    assert_eq!(asked[0].authorization, None);
}

/// Who is redirected to asks who is there, and names somebody for tokens: both for themselves.
#[test]
fn who_is_redirected_to_may_not_ask_for_the_registrys_password() {
    let thief = Server::new(|_| ok(r#"{"token": "x"}"#));
    let challenge = format!("Bearer realm=\"http://{}/token\"", thief.name());
    let elsewhere = Server::new(move |_| refused(&challenge));
    let target = format!("http://{}/there", elsewhere.name());
    let server = Server::new(move |_| {
        let head = format!("HTTP/1.1 302 Found\r\nLocation: {target}");
        (head, String::new())
    });
    let auths = |entry: &str| format!(r#"{{"auths": {{"{}": {entry}}}}}"#, server.name());
    let secret = BASE64_STANDARD.encode("me:s");
    for entry in [
        format!(r#"{{"auth": "{secret}"}}"#),
        r#"{"identitytoken": "i"}"#.to_owned(),
    ] {
        let store = Store::new("thief", "{}", &auths(&entry));
        let refused = message(store.resolve(&format!("{}/app", server.name())));
        assert!(refused.contains("does not let"), "{refused}");
        let login = Store::run(store.images.registries().login(&server.name(), "me", "s"));
        assert!(matches!(login, Err(Error::NoLogin { .. })), "{login:?}");
    }
    assert!(!elsewhere.asked().is_empty());
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
    // Nor does whom a registry names for tokens lead anybody there.
    let target = format!("http://{}/steal", thief.name());
    let giver = Server::new(move |_| {
        let head = format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {target}");
        (head, String::new())
    });
    let challenge = format!("Bearer realm=\"http://{}/token\"", giver.name());
    let server = Server::new(move |_| refused(&challenge));
    let auths = format!(
        r#"{{"auths": {{"{}": {{"identitytoken": "i"}}}}}}"#,
        server.name()
    );
    let store = Store::new("steal", "{}", &auths);
    let refused = message(store.resolve(&format!("{}/app", server.name())));
    assert!(refused.contains("does not let"), "{refused}");
    assert_eq!(giver.asked().len(), 1);
    assert!(thief.asked().is_empty(), "{:?}", thief.asked());
}

#[test]
fn mirrors_are_asked_first_and_what_they_do_not_have_is_asked_of_the_registry() {
    let other = MANIFEST.replace("\"schemaVersion\":2", "\"schemaVersion\": 2");
    let body = other.clone();
    let liar = Server::new(move |_| ok(&body));
    let empty = Server::new(|_| ("HTTP/1.1 404 Not Found".to_owned(), String::new()));
    let closed = Server::new(|_| refused("Basic realm=\"x\""));
    let registry = Server::new(|_| ok(MANIFEST));
    let name = registry.name();
    let rules = |mirrors: &[&str]| serde_json::json!({ &name: { "mirrors": mirrors } }).to_string();
    let mirrors = [
        &empty.name(),
        &format!("{}/hub", closed.name()),
        "127.0.0.1:1",
    ];
    let store = Store::new("mirrors", &rules(&mirrors), "{}");
    let image = format!("{name}/team/app:1");
    assert_eq!(
        store.resolve(&image).expect("resolves"),
        Digest::of(MANIFEST.as_bytes())
    );
    let line = |server: &Server| server.asked().last().map(|asked| asked.line.clone());
    assert_eq!(
        line(&empty).as_deref(),
        Some("GET /v2/team/app/manifests/1 HTTP/1.1")
    );
    assert_eq!(
        line(&closed).as_deref(),
        Some("GET /v2/hub/team/app/manifests/1 HTTP/1.1")
    );
    // A tag is what the first says that it is, and a digest is what it is.
    let store = Store::new("first", &rules(&[&liar.name()]), "{}");
    assert_eq!(
        store.resolve(&image).expect("resolves"),
        Digest::of(other.as_bytes())
    );
    let pinned = format!("{name}/team/app@{}", Digest::of(MANIFEST.as_bytes()));
    let before = registry.asked().len();
    let pulled = Store::run(
        store
            .images
            .pull(&pinned.parse().expect("a reference"), None, None),
    );
    let error = pulled.expect_err("it has no layer").message();
    assert!(
        error.contains("the manifest has 0 layers") || error.contains("blob sha256:0000"),
        "{error}"
    );
    assert!(
        registry.asked().len() > before,
        "the registry itself was asked"
    );
    // Who answers with a page is no mirror.
    let page = Server::new(|_| ok("<html>log in</html>"));
    let store = Store::new("page", &rules(&[&page.name()]), "{}");
    assert_eq!(
        store.resolve(&image).expect("resolves"),
        Digest::of(MANIFEST.as_bytes())
    );
    // When nobody has it, the registry's own answer is shown.
    let store = Store::new(
        "nobody",
        &serde_json::json!({ closed.name(): { "mirrors": [empty.name()] } }).to_string(),
        "{}",
    );
    let refused = message(store.resolve(&format!("{}/app", closed.name())));
    assert!(
        refused.starts_with(&format!("{} does not let anonymous", closed.name())),
        "{refused}"
    );
}

#[test]
fn a_registry_that_is_blocked_is_not_asked_nor_are_its_mirrors() {
    let server = Server::new(|_| ok(MANIFEST));
    let rules = serde_json::json!({ "*": { "blocked": true }, "ours.example": {}, "theirs.example": { "blocked": true, "mirrors": [server.name()] } });
    let store = Store::new("blocked", &rules.to_string(), "{}");
    let help = "(use an image of a registry that is not, or change `registries` in tank.toml)";
    for name in [&server.name(), "theirs.example"] {
        let refused = message(store.resolve(&format!("{name}/app")));
        assert_eq!(refused, format!("{name} is blocked in tank.toml {help}"));
        let login = Store::run(store.images.registries().login(name, "me", "s"));
        assert!(matches!(login, Err(Error::Blocked(_))));
    }
    assert!(server.asked().is_empty());
}

/// A network namespace of a thread's own, whose loopback link has an address beside its own.
struct Network {
    holder: Child,
}

impl Network {
    fn enter(address: &str) -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "3600"])
            .spawn();
        let network = Self {
            holder: holder.expect("unshare"),
        };
        let path = |process: &str| format!("/proc/{process}/ns/net");
        let own = fs::read_link(path("thread-self")).expect("a namespace");
        let held = path(&network.holder.id().to_string());
        while fs::read_link(&held).expect("a namespace") == own {
            std::thread::yield_now();
        }
        let held = fs::File::open(held).expect("opens");
        tank_sys::namespace::enter(held.as_fd(), ThreadNameSpaceType::NETWORK).expect("enters");
        for arguments in ["link set lo up", &format!("address add {address} dev lo")] {
            let made = Command::new("ip").args(arguments.split(' ')).status();
            assert!(made.expect("ip").success(), "{arguments}");
        }
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A registry elsewhere sends to a service of this host, by a redirect and for a token.
#[test]
fn a_registry_elsewhere_leads_to_nothing_of_this_host() {
    let network = Network::enter("192.0.2.7/32");
    for address in ["127.0.0.1", "192.0.2.7"] {
        leads_nowhere(address);
    }
    drop(network);
}

fn leads_nowhere(address: &'static str) {
    let service = Server::new(|_| ok(MANIFEST));
    // The proxy stands for the network: it answers as the registry does.
    let proxy = Server::new({
        let port = service.port;
        move |asked| match asked.line.contains("/redirect/") {
            true => {
                let head = format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{address}:{port}/"
                );
                (head, String::new())
            }
            false => refused(&format!("Bearer realm=\"http://{address}:{port}/token\"")),
        }
    });
    let rules = serde_json::json!({ "there.example": { "insecure": true, "proxy": format!("http://{}", proxy.name()) } });
    let store = Store::new(&format!("leads-{address}"), &rules.to_string(), "{}");
    let redirected = message(store.resolve("there.example/redirect/app"));
    assert!(
        redirected.contains("it redirects to this host, or to its own link"),
        "{redirected}"
    );
    let token = message(store.resolve("there.example/app"));
    let expected = format!(
        "it wants a token to be fetched from {address}, which is this host or its own link"
    );
    assert!(token.contains(&expected), "{token}");
    assert_eq!(proxy.asked().len(), 2, "both were asked for by the proxy");
    assert!(service.asked().is_empty());
}
