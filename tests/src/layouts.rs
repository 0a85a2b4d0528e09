//! Image layouts that a test can push to.

use crate::Host;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Makes the image of a layout another one, with the same content: its manifest says more.
pub fn push_another(layout: &Path) {
    let read = |path: &Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path).expect("reads")).expect("a document")
    };
    let mut index = read(&layout.join("index.json"));
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let old = index["manifests"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    let mut manifest = read(&blob(&old));
    manifest["annotations"]["another"] = old.into();
    let bytes = manifest.to_string();
    let temporary = layout.join("manifest");
    fs::write(&temporary, &bytes).expect("writes");
    let sum = Command::new("sha256sum")
        .arg(&temporary)
        .output()
        .expect("sha256sum");
    let digest = format!(
        "sha256:{}",
        String::from_utf8_lossy(&sum.stdout)
            .split(' ')
            .next()
            .expect("a sum")
    );
    fs::rename(&temporary, blob(&digest)).expect("moves");
    index["manifests"][0]["digest"] = digest.into();
    index["manifests"][0]["size"] = bytes.len().into();
    fs::write(layout.join("index.json"), index.to_string()).expect("writes");
}

/// A copy of the BusyBox image that can be pushed to.
pub fn copy_of_busybox(host: &Host, name: &str) -> PathBuf {
    let layout = host.dir.join(name);
    let copied = Command::new("cp")
        .args(["-rL"])
        .arg(crate::fixtures().join("busybox"))
        .arg(&layout)
        .status();
    assert!(copied.expect("cp").success());
    layout
}
