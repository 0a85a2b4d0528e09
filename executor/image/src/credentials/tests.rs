//! Which entry of which file is meant, and which files are believed.

use super::*;
use std::os::unix::fs::{PermissionsExt, chown};

/// A folder that goes with this.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("tank-credentials-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn block<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

fn find(document: &Document, host: &str, repository: &str) -> Option<String> {
    let (_, entry) = document.entry(host, repository)?;
    let credential = entry.credential().expect("it is one")?;
    Some(match credential {
        Credential::Basic { user, password } => format!("{user} {password}"),
        Credential::Identity(token) => format!("identity {token}"),
        Credential::Bearer(token) => format!("bearer {token}"),
    })
}

#[test]
fn the_entry_that_names_the_most_is_the_one() {
    let text = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOmE6Yg=="},
        "quay.io": {"auth": "cXVheTp4"},
        "quay.io/team/app": {"auth": "YXBwOng="},
        "http://plain.example/v2/": {"identitytoken": "t"},
        "token.example": {"registrytoken": "r", "auth": "eDp5"},
        "empty.example": {}
    }, "HttpHeaders": {"x": "y"}}"#;
    let document: Document = serde_json::from_str(text).expect("a document");
    for (host, repository, expected) in [
        ("docker.io", "library/nginx", Some("hub a:b")),
        ("quay.io", "other", Some("quay x")),
        ("quay.io", "team/app", Some("app x")),
        ("quay.io", "team/app/deep", Some("app x")),
        ("quay.io", "team/apple", Some("quay x")),
        ("plain.example", "x", Some("identity t")),
        ("token.example", "x", Some("bearer r")),
        ("empty.example", "x", None),
        ("quay.io.evil.example", "x", None),
        ("evil.example", "quay.io", None),
        ("io", "x", None),
    ] {
        let found = find(&document, host, repository);
        assert_eq!(found.as_deref(), expected, "{host}/{repository}");
    }
}

#[test]
fn names_of_registries_are_read_as_others_write_them() {
    for (text, registry) in [
        ("docker.io", Some("docker.io")),
        ("https://index.docker.io/v1/", Some("docker.io")),
        ("registry-1.docker.io", Some("docker.io")),
        ("https://ghcr.io/", Some("ghcr.io")),
        ("localhost:5000", Some("localhost:5000")),
        ("registry", Some("registry")),
        ("", None),
        ("a b", None),
        ("ghcr.io/user", None),
        ("user@ghcr.io", None),
        ("../x", None),
        ("x:70000", None),
    ] {
        assert_eq!(registry_of(text).as_deref(), registry, "{text}");
    }
}

#[test]
fn what_was_kept_is_found_and_forgotten_and_is_roots_alone() {
    let folder = Folder::new("kept");
    let other = folder.write(
        "other.json",
        r#"{"auths": {"b.example": {"auth": "eDp5"}}}"#,
    );
    let kept = folder.0.join("auth.json");
    let credentials = Credentials::new(kept.clone(), vec![folder.0.join("none"), other.clone()]);
    block(async {
        credentials
            .keep("a.example", "me", "se:cret")
            .await
            .expect("kept");
        credentials
            .keep("b.example", "me", "mine")
            .await
            .expect("kept");
        let mode = fs::metadata(&kept).expect("a file").mode() & 0o7777;
        assert_eq!(mode, 0o600);
        let basic = |password: &str| {
            let (user, password) = ("me".to_owned(), password.to_owned());
            Some(Credential::Basic { user, password })
        };
        let found = credentials.find("a.example", "x").await.expect("reads");
        assert!(found == basic("se:cret"));
        let found = credentials.find("b.example", "x").await.expect("reads");
        assert!(found == basic("mine"), "what was given here comes first");
        let left = credentials.forget("b.example").await.expect("forgets");
        assert_eq!(left, (true, Some(other)));
        let found = credentials.find("b.example", "x").await.expect("reads");
        assert_eq!(found.map(|found| found.user()).as_deref(), Some("x"));
        assert_eq!(
            credentials.forget("c.example").await.expect("reads"),
            (false, None)
        );
        let found = credentials.find("a.example", "x").await.expect("reads");
        assert!(found == basic("se:cret"));
    });
}

#[test]
fn a_file_that_others_may_have_written_is_refused() {
    let own = rustix::process::geteuid().as_raw();
    let folder = Folder::new("others");
    let text = r#"{"credsStore": "evil"}"#;
    let found = |path: &Path| {
        let credentials = Credentials::new(folder.0.join("none"), vec![path.to_owned()]);
        let found = block(credentials.find("a.example", "x"));
        found.expect_err("it is refused").to_string()
    };
    let path = folder.write("group.json", text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).expect("a mode");
    let refused = found(&path);
    assert!(
        refused.contains(&format!("is not root's alone (owner {own}, mode 0620)")),
        "{refused}"
    );
    // Somebody else's: of root, where this is not root.
    let path = match own {
        0 => {
            let path = folder.write("another.json", text);
            chown(&path, Some(1000), None).expect("an owner");
            path
        }
        _ => PathBuf::from("/etc/passwd"),
    };
    let other = if own == 0 {
        "(owner 1000, mode"
    } else {
        "(owner 0, mode"
    };
    assert!(found(&path).contains(other));
    let path = folder.write("long.json", &" ".repeat((1 << 20) + 1));
    assert!(found(&path).ends_with("has more than 1048576 bytes"));
    let path = folder.write("wrong.json", "{\"auths\": []}");
    assert!(found(&path).ends_with("can't be read as credentials"));
    let path = folder.write(
        "entry.json",
        r#"{"auths": {"a.example": {"auth": "eA=="}}}"#,
    );
    assert!(found(&path).contains("has an entry for `a.example` that is no `USER:PASSWORD`"));
    for name in ["", "../evil", "a b", "a/b", "-\u{e9}"] {
        let text = serde_json::json!({ "credHelpers": { "a.example": name } });
        let path = folder.write("name.json", &text.to_string());
        assert!(found(&path).contains("which is no name of one"), "{name}");
    }
    assert!(found(&folder.0).ends_with("is no file"));
    let fifo = folder.0.join("fifo");
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, 0o600.into(), 0).expect("a FIFO");
    assert!(found(&fifo).ends_with("is no file"));
}

#[test]
fn what_could_change_a_header_or_a_file_is_not_kept() {
    for (user, password) in [
        ("", "x"),
        ("x", ""),
        ("a:b", "x"),
        ("a\nb", "x"),
        ("a", "x\r\nHost: y"),
        ("a", "\0"),
    ] {
        assert!(check(user, password).is_err(), "{user:?} {password:?}");
    }
    assert!(check(&"x".repeat(1025), "x").is_err());
    assert!(check("me", &"x".repeat((64 << 10) + 1)).is_err());
    assert!(check("robot$app", "p: \"ä\" q").is_ok());
}

#[test]
fn what_a_helper_answers_is_not_believed_blindly() {
    let folder = Folder::new("helper");
    let ask_with = |script: &str| {
        let path = folder.write("docker-credential-x", &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a mode");
        block(ask_program(&path, "x", "a.example"))
    };
    let basic = ask_with(
        r#"read server; [ "$1 $server" = "get a.example" ] && echo '{"ServerURL":"x","Username":"me","Secret":"s"}'"#,
    );
    assert_eq!(
        basic.expect("answers").map(|found| found.user()).as_deref(),
        Some("me")
    );
    let token = ask_with(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
    assert!(token.expect("answers") == Some(Credential::Identity("t".to_owned())));
    let none = ask_with("echo credentials not found in native keychain; exit 1");
    assert!(none.expect("answers").is_none());
    for (script, why) in [
        ("echo locked; exit 1", "fails: locked"),
        (
            "echo '\"secret\"'",
            "answers with something else than credentials",
        ),
        ("head -c 100000 /dev/zero", "answers more than 65536 bytes"),
        (
            r#"printf '{"Username":"a\\u000ab","Secret":"t"}'"#,
            "answers: a user's name and a password have no control characters, nor line ends",
        ),
    ] {
        let error = ask_with(script).expect_err(script).to_string();
        assert!(error.ends_with(why), "{error}");
    }
}
