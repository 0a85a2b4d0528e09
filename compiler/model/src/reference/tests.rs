//! What references mean, and what is none.

use super::*;

fn registry(text: &str) -> (String, String, Option<String>) {
    match text.parse::<Reference>().expect(text).source {
        ImageSource::Registry {
            registry,
            repository,
            tag,
            ..
        } => (registry, repository, tag),
        other => panic!("{text} is {other:?}"),
    }
}

#[test]
fn defaults_are_the_ones_users_know() {
    let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), Some(c.to_owned()));
    assert_eq!(
        registry("nginx"),
        own("docker.io", "library/nginx", "latest")
    );
    assert_eq!(
        registry("nginx:1.27"),
        own("docker.io", "library/nginx", "1.27")
    );
    assert_eq!(registry("a/b"), own("docker.io", "a/b", "latest"));
    for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        let nginx = own("docker.io", "library/nginx", "1.27");
        assert_eq!(registry(&format!("{host}/nginx:1.27")), nginx);
        assert_eq!(registry(&format!("{host}/library/nginx:1.27")), nginx);
    }
    for host in [
        "Docker.io",
        "registry.hub.docker.com",
        "docker.io:443",
        "docker.io.",
    ] {
        let nginx = own("docker.io", "library/nginx", "latest");
        assert_eq!(registry(&format!("{host}/nginx")), nginx);
    }
    for host in ["QUAY.io", "quay.io."] {
        let app = own("quay.io", "app", "latest");
        assert_eq!(registry(&format!("{host}/app")), app);
    }
    assert_eq!(registry("LOCALHOST/app"), own("localhost", "app", "latest"));
    assert_eq!(registry("quay.io/nginx"), own("quay.io", "nginx", "latest"));
    assert_eq!(
        registry("localhost:5000/a/b:c"),
        own("localhost:5000", "a/b", "c")
    );
    let pinned = format!("ghcr.io/a/b@{}", Digest::of(b""));
    assert_eq!(registry(&pinned).2, None);
    assert_eq!(
        pinned.parse::<Reference>().expect("parses").digest(),
        Some(Digest::of(b""))
    );
}

#[test]
fn layouts_have_a_path_and_a_tag() {
    for (text, path, tag) in [
        ("oci:./image", "./image", "latest"),
        ("oci:/a/b:v1", "/a/b", "v1"),
    ] {
        let expected = ImageSource::Layout {
            path: path.to_owned(),
            tag: tag.to_owned(),
        };
        assert_eq!(text.parse::<Reference>().expect(text).source, expected);
    }
}

#[test]
fn archives_have_a_path_and_a_name() {
    for (text, path, name, format) in [
        (
            "oci-archive:./app.tar",
            "./app.tar",
            None,
            ArchiveFormat::Oci,
        ),
        (
            "oci-archive:/a/b.tar:v1",
            "/a/b.tar",
            Some("v1"),
            ArchiveFormat::Oci,
        ),
        (
            "docker-archive:app.tar",
            "app.tar",
            None,
            ArchiveFormat::Docker,
        ),
        (
            "docker-archive:app.tar:team/app:2",
            "app.tar",
            Some("team/app:2"),
            ArchiveFormat::Docker,
        ),
        (
            "docker-archive:a@b.tar:localhost:5000/x:y",
            "a@b.tar",
            Some("localhost:5000/x:y"),
            ArchiveFormat::Docker,
        ),
    ] {
        let expected = ImageSource::Archive {
            path: path.to_owned(),
            format,
            name: name.map(str::to_owned),
        };
        let reference: Reference = text.parse().expect(text);
        assert_eq!(reference.source, expected);
        let pinned = reference.pinned(Digest::of(b"1")).expect("pins");
        assert_eq!(pinned.source, expected);
        assert_eq!(pinned.digest(), Some(Digest::of(b"1")));
    }
}

#[test]
fn folders_and_store_paths_are_images() {
    let app = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-app-1.2+b_c?d=e";
    let [folder, closure] = ["./a:b@c", app].map(str::to_owned);
    for (text, expected) in [
        (
            "dir:./a:b@c".to_owned(),
            ImageSource::Folder { path: folder },
        ),
        (format!("nix:{app}"), ImageSource::Closure { path: closure }),
    ] {
        let reference: Reference = text.parse().expect("parses");
        assert_eq!(reference.source, expected);
        assert_eq!(reference.source.path().map(str::len), Some(text.len() - 4));
        let pinned = reference.pinned(Digest::of(b"1")).expect("pins");
        assert_eq!(
            (&pinned.source, pinned.digest()),
            (&expected, Some(Digest::of(b"1")))
        );
    }
    for (text, why) in [
        ("dir:", "the path of the folder is missing"),
        ("nix:./result", "readlink -f"),
        ("nix:/nix/store", "a store path is written"),
        ("nix:/nix/store/../../etc", "the store path alone"),
        (
            "nix:/nix/store/0123456789abcdfghijklmnpqrsvwxyz-app/bin/app",
            "the store path alone",
        ),
        (
            "nix:/nix/store/0123456789abcdfghijklmnpqrsvwxye-app",
            "it is no store path",
        ),
        (
            "nix:/nix/store/0123456789abcdfghijklmnpqrsvwxyz-",
            "it is no store path",
        ),
        (
            "nix:/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a b",
            "it is no store path",
        ),
    ] {
        let refused = text.parse::<Reference>().expect_err(text).to_string();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn what_was_resolved_can_be_pinned_again_and_again() {
    let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
    for text in [
        "nginx",
        "nginx:1.27",
        "localhost:5000/a/b:c",
        "oci:./image",
        "oci:./im@ge:v1",
    ] {
        let reference: Reference = text.parse().expect(text);
        let pinned = reference.pinned(one).expect("pins");
        assert_eq!(pinned.as_str(), format!("{text}@{one}"));
        assert_eq!((reference.digest(), pinned.digest()), (None, Some(one)));
        assert_eq!(
            pinned.pinned(two).expect("pins").as_str(),
            format!("{text}@{two}")
        );
        if reference.source().path().is_some() {
            assert_eq!(pinned.source(), reference.source());
        }
    }
}

#[test]
fn the_rest_is_refused() {
    let long = "a".repeat(600);
    for bad in [
        "",
        "NGINX",
        "a b",
        "nginx:",
        "nginx:a/b:",
        "a//b",
        "x@sha256:12",
        "-",
        "h.io:99999/a",
        "./app.tar",
        "/app.tar",
        "~/app.tar",
        "file:app.tar",
        "127.1:5000/a",
        "0x7f000001:5000/a",
        "2130706433:5000/a",
        "1.2.3.4.5/a",
        "oci:",
        "oci-archive:",
        "oci-archive::v1",
        "oci-archive:a.tar:a/b",
        "docker-archive:a.tar:",
        "docker-archive:a.tar:A",
        "docker://nginx",
        "https://docker.io/nginx",
        &long,
    ] {
        assert!(bad.parse::<Reference>().is_err(), "{bad}");
    }
}
