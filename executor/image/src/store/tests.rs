//! What a pull leaves when nobody waits for it any more.

use super::*;
use oci_spec::image::Arch;
use std::{
    io::{BufRead, BufReader},
    net::{TcpListener, TcpStream},
    sync::{
        atomic::AtomicBool,
        mpsc::{Sender, channel},
    },
    time::Duration,
};

/// An image with a layer of a gibibyte.
fn image() -> (Vec<u8>, Vec<u8>, Digest) {
    let layer = Digest::of(b"layer");
    let config = format!(
        r#"{{"architecture":"{}","os":"linux","rootfs":{{"type":"layers","diff_ids":["{layer}"]}}}}"#,
        Arch::default()
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":{}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{}}}]}}"#,
        Digest::of(config.as_bytes()),
        config.len(),
        1 << 30
    );
    (config.into_bytes(), manifest.into_bytes(), layer)
}

/// Answers one connection; says when it has begun with the layer, and when the other side has closed it in the middle of the layer.
fn answer(mut stream: TcpStream, begun: &AtomicBool, closed: &Sender<()>) -> std::io::Result<()> {
    let (config, manifest, layer) = image();
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while let Some(Ok(first)) = lines.next() {
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let body = if first.contains("/manifests/") {
            manifest.as_slice()
        } else {
            config.as_slice()
        };
        if first.contains(&layer.to_string()) {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
                1 << 30
            )?;
            begun.store(true, Ordering::SeqCst);
            while stream.write_all(&[0; 1024]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = closed.send(());
            return Ok(());
        }
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_is_dropped_closes_its_connection_and_leaves_nothing() {
    let dir = std::env::temp_dir().join(format!("tank-images-{}", std::process::id()));
    // It reads nothing: what comes is thrown away.
    let converter = Converter {
        program: "/bin/cat".into(),
        id: 0,
    };
    let images = Images::open(&dir, crate::Registries::default(), converter).expect("opens");
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let port = listener.local_addr().expect("an address").port();
    let (sender, closed) = channel();
    let begun = Arc::new(AtomicBool::new(false));
    let serving = Arc::clone(&begun);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (sender, begun) = (sender.clone(), Arc::clone(&serving));
            std::thread::spawn(move || answer(stream, &begun, &sender));
        }
    });
    let halves = || fs::read_dir(dir.join("tmp")).expect("a folder").count();
    let reference = format!("127.0.0.1:{port}/x").parse().expect("a reference");
    let is_begun = async {
        while halves() == 0 || !begun.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        pulled = images.pull(&reference, None, None) => panic!("it ended with {pulled:?}"),
        () = is_begun => {}
    }
    // The future is gone, and with it the connection, which a worker closes, and the file.
    closed
        .recv_timeout(Duration::from_secs(30))
        .expect("the connection is closed");
    assert_eq!(halves(), 0);
    fs::remove_dir_all(&dir).expect("removes");
}
