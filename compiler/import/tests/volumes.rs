//! Volumes of others: what they begin with, whose they are, and directories inside of them.

use tank_compiler::schema;
use tank_import as import;

/// What a file of this name becomes, and its notes: each field and why.
fn imported(name: &str, text: &str) -> (String, Vec<String>) {
    several(&[(name, text)])
}

fn several(files: &[(&str, &str)]) -> (String, Vec<String>) {
    let dir =
        std::env::temp_dir().join(format!("tank-import-{}-{}", std::process::id(), files[0].0));
    std::fs::create_dir_all(&dir).expect("a folder");
    let paths: Vec<_> = files
        .iter()
        .map(|(name, text)| {
            let path = dir.join(name);
            std::fs::write(&path, text).expect("written");
            path
        })
        .collect();
    let made = import::import(&paths, None, schema(), None).expect("imports");
    std::fs::remove_dir_all(&dir).expect("removed");
    let notes = made.notes.iter().map(|note| format!("{note:?}"));
    (made.nickel, notes.collect())
}

#[track_caller]
fn has(nickel: &str, parts: &[&str]) {
    let flat: String = nickel.split_whitespace().collect();
    for part in parts {
        let part: String = part.split_whitespace().collect();
        assert!(flat.contains(&part), "{part}\n{nickel}");
    }
}

#[test]
fn compose() {
    let text = r"
services:
  db:
    image: db
    volumes:
      - cache:/cache:nocopy
      - { type: volume, source: data, target: /data, volume: { nocopy: true, subpath: ./a/b/ } }
      - { type: volume, source: files, target: /files, volume: { subpath: ../out } }
      - { type: tmpfs, target: /scratch, tmpfs: { size: 1048576, mode: 0o1770 } }
    tmpfs: /run:uid=7,gid=8,mode=0750
volumes: { cache: {}, data: {}, files: {} }
";
    let (nickel, notes) = imported("one.compose.yaml", text);
    has(
        &nickel,
        &[
            r#"cache.no_copy = true"#,
            r#"data.no_copy = true"#,
            r#"sub_path = "a/b""#,
            r#"mode = "1770""#,
            r#"owner = "7:8""#,
            r#"mode = "0750""#,
        ],
    );
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(
        notes[0].contains("volume.subpath") && notes[0].contains("../out"),
        "{notes:?}"
    );
}

#[test]
fn kubernetes() {
    let text = r"
apiVersion: v1
kind: Pod
metadata: { name: db }
spec:
  volumes:
    - { name: data, emptyDir: {} }
    - { name: files, hostPath: { path: /srv/files } }
    - { name: fast, emptyDir: { medium: Memory } }
  containers:
    - name: db
      image: db
      volumeMounts:
        - { name: data, mountPath: /data, subPath: db/data }
        - { name: files, mountPath: /files, subPath: in }
        - { name: fast, mountPath: /fast, subPath: nope }
";
    let (nickel, notes) = imported("two.pod.yaml", text);
    has(&nickel, &[r#"sub_path = "db/data""#, r#"sub_path = "in""#]);
    assert_eq!(nickel.matches("sub_path").count(), 2, "{nickel}");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("subPath"), "{notes:?}");
}

#[test]
fn quadlet() {
    let (nickel, notes) = several(&[
        (
            "db.container",
            "[Container]\nImage=db\nVolume=data.volume:/data\nVolume=other.volume:/other:nocopy\n",
        ),
        ("data.volume", "[Volume]\nUser=999\nGroup=998\nCopy=false\n"),
        ("other.volume", "[Volume]\nUser=somebody\n"),
    ]);
    has(&nickel, &[r#"owner = "999:998""#, "no_copy = true"]);
    assert_eq!(nickel.matches("no_copy").count(), 2, "{nickel}");
    assert!(notes.iter().any(|note| note.contains("User")), "{notes:?}");
}

#[test]
fn what_limits_a_volume_where_it_comes_from_limits_it_here() {
    let text = "services:\n  db:\n    image: db\n    volumes: [ 'data:/data', 'other:/other' ]\nvolumes:\n  data: { driver: local, driver_opts: { size: 10g } }\n  other: { driver_opts: { size: 1g, type: tmpfs } }\n";
    let (nickel, notes) = imported("most.compose.yaml", text);
    has(&nickel, &[r#"size = "10GiB""#]);
    assert_eq!(nickel.matches("size =").count(), 1, "{nickel}");
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("other.driver_opts"), "{notes:?}");
    let text = "apiVersion: v1\nkind: Pod\nmetadata: { name: db }\nspec:\n  volumes:\n    - { name: data, emptyDir: { sizeLimit: 500Mi } }\n  containers:\n    - { name: db, image: db, volumeMounts: [ { name: data, mountPath: /data } ] }\n";
    let (nickel, notes) = imported("most.pod.yaml", text);
    has(&nickel, &[r#"size = "500MiB""#]);
    assert!(notes.is_empty(), "{notes:?}");
    let (nickel, notes) = several(&[
        (
            "db.container",
            "[Container]\nImage=db\nVolume=data.volume:/data\nVolume=disk.volume:/disk\n",
        ),
        ("data.volume", "[Volume]\nOptions=size=2G\n"),
        (
            "disk.volume",
            "[Volume]\nDevice=/dev/sdb\nOptions=size=2G\n",
        ),
    ]);
    has(&nickel, &[r#"size = "2GiB""#]);
    assert_eq!(nickel.matches("size =").count(), 1, "{nickel}");
    assert!(
        notes
            .iter()
            .any(|note| note.contains("disk.volume") && note.contains("Options")),
        "{notes:?}"
    );
}

/// As the YAML of Compose and Kubernetes has it, `0750` is octal; a text is read as it is.
#[test]
fn modes_are_octal_however_they_are_written() {
    for (written, mode) in [
        ("0750", "0750"),
        ("0o750", "0750"),
        ("\"0750\"", "0750"),
        ("488", "0750"),
        ("01777", "1777"),
    ] {
        let text = format!(
            "services:\n  db:\n    image: db\n    volumes:\n      - {{ type: tmpfs, target: /scratch, tmpfs: {{ mode: {written} }} }}\n"
        );
        let (nickel, notes) = imported("modes.compose.yaml", &text);
        has(&nickel, &[&format!("mode = \"{mode}\"")]);
        assert!(notes.is_empty(), "{notes:?}");
    }
    let text = "services:\n  db:\n    image: db\n    configs:\n      - { source: c, target: /c, mode: 0440 }\nconfigs: { c: { content: x } }\n";
    let (nickel, _) = imported("config.compose.yaml", text);
    has(&nickel, &["mode = \"0440\""]);
}

/// What several have is declared once, beside the pods; what one has is its own.
#[test]
fn a_volume_of_several_is_shared() {
    let text = r"
services:
  web:
    image: web
    volumes: ['my_up:/srv', 'own:/own', 'my-up:/other']
  worker:
    image: worker
    volumes:
      - { type: volume, source: my_up, target: /work, read_only: true, volume: { subpath: in } }
      - my-up:/other
volumes: { my_up: {}, my-up: {}, own: {} }
";
    let (nickel, notes) = imported("shared.compose.yaml", text);
    has(
        &nickel,
        &[
            r#"volumes = { my-up = {}, my-up-2 = {}, }"#,
            r#"volumes = { my-up.shared = "my-up", my-up-2.shared = "my-up-2", own = {} }"#,
            r#"sub_path = "in""#,
        ],
    );
    assert!(notes.is_empty(), "{notes:?}\n{nickel}");
    let text = "services:\n  a: { image: a, volumes: ['d:/d:nocopy'] }\n  b: { image: b, volumes: ['d:/d'] }\nvolumes: { d: }\n";
    let (nickel, notes) = imported("mixed.compose.yaml", text);
    // Whichever starts first, the content of the image is there.
    has(&nickel, &["volumes.d = {}"]);
    assert!(!nickel.contains("no_copy"), "{nickel}");
    assert_eq!(notes.len(), 1, "{notes:?}");
    let text = "services:\n  a: { image: a, volumes: [{ type: image, source: b, target: /b }] }\n";
    let (nickel, notes) = imported("image.compose.yaml", text);
    assert!(!nickel.contains("mounts."), "{nickel}");
    assert!(
        notes[0].contains("Tank has no mounts of type `image`"),
        "{notes:?}"
    );
    let claim = |name: &str, claim: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  volumes: [{{ name: v, persistentVolumeClaim: {{ claimName: {claim} }} }}]\n  containers: [{{ name: app, image: x, volumeMounts: [{{ name: v, mountPath: /v }}] }}]\n"
        )
    };
    let text = [claim("a", "both"), claim("b", "both"), claim("c", "one")].concat();
    let (nickel, notes) = imported("claims.yaml", &text);
    assert_eq!(nickel.matches("shared = \"both\"").count(), 2, "{nickel}");
    assert!(!nickel.contains("\"one\""), "{nickel}");
    assert!(notes.is_empty(), "{notes:?}");
    let (nickel, notes) = several(&[
        ("a.container", "[Container]\nImage=a\nVolume=d.volume:/d\n"),
        ("b.container", "[Container]\nImage=b\nVolume=d.volume:/e\n"),
        ("d.volume", "[Volume]\nUser=7\n"),
    ]);
    has(&nickel, &[r#"d.owner = "7:0""#]);
    assert_eq!(nickel.matches("shared = \"d\"").count(), 2, "{nickel}");
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn what_is_mounted_later_is_followed_in_one_direction() {
    for (options, follows, notes) in [
        ("rslave", true, 0),
        ("slave", true, 0),
        ("rprivate", false, 0),
        ("rshared", false, 1),
        ("ro,rslave", false, 1),
    ] {
        let text =
            format!("services:\n  db:\n    image: db\n    volumes: ['/media:/media:{options}']\n");
        let (nickel, found) = imported("follows.compose.yaml", &text);
        assert_eq!(nickel.contains("propagation = 'slave"), follows, "{nickel}");
        assert_eq!(found.len(), notes, "{options}: {found:?}");
    }
    let text = "services:\n  db:\n    image: db\n    volumes: [{ type: bind, source: /media, target: /media, bind: { propagation: rslave } }]\n";
    let (nickel, found) = imported("follows.compose.yaml", text);
    has(&nickel, &["propagation = 'slave"]);
    assert!(found.is_empty(), "{found:?}");
    for (propagation, more, follows, notes) in [
        ("HostToContainer", "", true, 0),
        ("None", "", false, 0),
        ("Bidirectional", "", false, 1),
        ("HostToContainer", ", readOnly: true", false, 1),
    ] {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: db }}\nspec:\n  volumes: [{{ name: m, hostPath: {{ path: /media }} }}]\n  containers: [{{ name: db, image: db, volumeMounts: [{{ name: m, mountPath: /m, mountPropagation: {propagation}{more} }}] }}]\n"
        );
        let (nickel, found) = imported("follows.yaml", &text);
        assert_eq!(nickel.contains("propagation = 'slave"), follows, "{nickel}");
        assert_eq!(found.len(), notes, "{propagation}{more}: {found:?}");
    }
}

#[test]
fn a_named_volume_that_is_a_directory_of_the_host_is_one() {
    let text = |options: &str| {
        format!(
            "services:\n  a: {{ image: a, volumes: ['d:/d'] }}\n  b: {{ image: b, volumes: ['d:/d:ro'] }}\nvolumes:\n  d: {{ driver: local, driver_opts: {options} }}\n"
        )
    };
    let (nickel, notes) = imported(
        "bound.compose.yaml",
        &text("{ type: none, o: bind, device: /srv/data }"),
    );
    assert_eq!(
        nickel.matches("host = \"/srv/data\"").count(),
        2,
        "{nickel}"
    );
    assert!(notes.is_empty(), "{notes:?}");
    for other in [
        "{ type: nfs, o: 'addr=10.0.0.1', device: ':/srv' }",
        "{ type: none, o: bind }",
        "{ type: tmpfs, o: 'size=1m', device: tmpfs }",
    ] {
        let (nickel, notes) = imported("unbound.compose.yaml", &text(other));
        assert!(nickel.contains("shared = \"d\""), "{nickel}");
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
}
