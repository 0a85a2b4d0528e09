//! Files into and out of running containers. The stream goes from a process in the container to the client through a pipe that
//! this daemon makes: no byte of it and no path of the container passes through here.

use super::{
    Floors,
    exec::{shim, target},
    refusal::{Refusal, internal, of_shim},
    volumes::pipe,
};
use crate::pods::unexpected;
use std::{fs::File, os::fd::AsFd, os::fd::OwnedFd};
use tank_proto::{
    copy::{Copy, MAX_PATH},
    shim::{self as protocol, ExecSpec, Reply, Request},
    varlink::{CopyReply, Error},
};

/// The longest name of a file.
const MAX_NAME: usize = 255;

/// What is wrong with a call.
fn check(copy: &Copy) -> Result<(), String> {
    let path = copy.path();
    if !path.starts_with('/') || path.contains('\0') || path.len() > MAX_PATH {
        return Err(format!(
            "a path in a container begins with its `/`, and has at most {MAX_PATH} bytes"
        ));
    }
    let Copy::Out { name, .. } = copy else {
        return Ok(());
    };
    let is_name = !name.is_empty() && name != ".." && name.len() <= MAX_NAME;
    if !is_name || name.contains(['/', '\0']) {
        return Err(format!("`{}` is no name of a file", name.escape_debug()));
    }
    Ok(())
}

/// Begins to copy; gives the client's descriptors: the control socket, the stream, how it went.
pub async fn begin(
    floors: &Floors,
    (pod, container): (&str, Option<&str>),
    copy: Copy,
) -> Result<(CopyReply, Vec<OwnedFd>), Refusal> {
    let (pod, container) = target(&floors.generations, pod, container)?;
    check(&copy).map_err(|problem| Error::invalid(vec![problem]))?;
    let shim = shim(&floors.pods, &pod, &container)?;
    let refused = |e| Refusal::from(of_shim(&e, pod.as_str(), container.as_str()));
    let state = shim.state().await.map_err(refused)?;
    if state.version < protocol::WITH_COPY {
        let what = format!("copy files of pod `{pod}`");
        let why = format!(
            "its shim is of a Tank before this, and copies none: `tank delete {pod}` and another switch to it make it anew"
        );
        return Err(Error::failed(what, why).into());
    }
    let is_out = matches!(copy, Copy::Out { .. });
    let spec = ExecSpec {
        container: container.to_string(),
        argv: Vec::new(),
        env: Vec::new(),
        cwd: Some("/".to_owned()),
        terminal: None,
        user: None,
        kill_on_close: false,
        copy: Some(copy),
    };
    let text = serde_json::to_vec(&spec).map_err(|e| internal("write a specification", e))?;
    let sealed = tank_sys::packet::sealed("copy", &text)
        .map_err(|e| internal("write a specification", e))?;
    let null = File::options().read(true).write(true).open("/dev/null");
    let null: OwnedFd = null.map_err(|e| internal("copy files", e))?.into();
    let ((read, write), (end, end_writer)) = (pipe()?, pipe()?);
    let (input, output, stream) = match is_out {
        true => (null, write, read),
        false => (read, null, write),
    };
    let fds = [
        sealed.as_fd(),
        input.as_fd(),
        output.as_fd(),
        end_writer.as_fd(),
    ];
    match shim.request(&Request::Exec, &fds).await {
        Ok((Reply::Executed { .. }, mut fds)) => {
            fds.extend([stream, end]);
            let container = container.to_string();
            Ok((CopyReply { container }, fds))
        }
        Ok((other, _)) => Err(refused(unexpected(other))),
        Err(error) => Err(refused(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_and_a_name_is_one() {
        let out = |path: &str, name: &str| {
            check(&Copy::Out {
                path: path.to_owned(),
                name: name.to_owned(),
                follow: false,
            })
        };
        assert_eq!(out("/etc", "etc"), Ok(()));
        assert_eq!(out("/", "."), Ok(()));
        for (path, name) in [
            ("etc", "etc"),
            ("", "etc"),
            ("/a\0b", "b"),
            (&"/a".repeat(3000), "a"),
            ("/etc", ""),
            ("/etc", ".."),
            ("/etc", "a/b"),
            ("/etc", &"a".repeat(256)),
        ] {
            assert!(out(path, name).is_err(), "{path} {name}");
        }
    }
}
