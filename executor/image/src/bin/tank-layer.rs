//! `tank-layer`: converts one layer, or writes its tar again, as nobody. `tankd` starts it and hands it the descriptors
//! ([`tank_layer::wire`]).

#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{self, BufWriter},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::ExitCode,
};
use tank_layer::{
    LayerError, Pipeline,
    budget::Budget,
    confine, convert, rebuild,
    sums::Sums,
    wire::{Order, Rebuild, Rebuilt, Reply, Request},
};
use tank_sys::{Context, Result, packet, process, with_causes};

/// The bytes of an archive that are written at once.
const PIECE: usize = 256 << 10;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("tank-layer {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error = with_causes(&error);
            eprintln!(
                "tank-layer is started by tankd, with a socket as its standard input: {error}"
            );
            let error = LayerError::Read(io::Error::other(error).into());
            let reply = serde_json::to_vec(&Reply::Failed(error)).unwrap_or_default();
            let _ = packet::send(io::stdin().as_fd(), &reply, &[]);
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    process::close_descriptors_but(&[])?;
    let (bytes, mut fds) = receive()?;
    fds.reverse();
    match serde_json::from_slice(&bytes).doing(|| "read the request")? {
        Order::Convert(request) => convert_layer(&request, fds),
        Order::Rebuild(request) => rebuild_archive(&request, fds),
    }
}

fn convert_layer(request: &Request, mut fds: Vec<OwnedFd>) -> Result<()> {
    let (root, input, output) = (
        next(&mut fds)?,
        File::from(next(&mut fds)?),
        File::from(next(&mut fds)?),
    );
    let recipe = match request.recipe {
        true => Some(File::from(next(&mut fds)?)),
        false => None,
    };
    let mut below: Vec<OwnedFd> = Vec::new();
    while below.len() < request.below.unwrap_or(0) {
        let (_, further) = receive()?;
        if further.is_empty() {
            return Err(incomplete()).doing(|| "take the layers below");
        }
        below.extend(further);
    }
    let place = output.try_clone().doing(|| "take the request")?;
    let budget = Budget::of(request.share, &request.disk, Some(place.into()));
    let filter = confine::confine(request.id, root)?;
    // Of a volume's archive nothing is kept.
    let output = match request.diff_id {
        Some(_) => Sums::new(output),
        None => Ok(Sums::none(output)),
    };
    let threads =
        Pipeline::new(input, &request.media_type).and_then(|pipeline| Ok((pipeline, output?)));
    filter.install()?;
    let converted = threads.and_then(|(pipeline, output)| {
        let below = request.below.map(|_| images(below)).transpose()?;
        convert(pipeline, (output, recipe), below, request.diff_id, &budget)
    });
    send(&Reply::of(converted, request.share, budget.left()))
}

fn rebuild_archive(request: &Rebuild, mut fds: Vec<OwnedFd>) -> Result<()> {
    let (root, recipe, image, output) = (
        next(&mut fds)?,
        File::from(next(&mut fds)?),
        File::from(next(&mut fds)?),
        File::from(next(&mut fds)?),
    );
    let budget = Budget::of(request.share, Path::new("/"), None);
    confine::confine(request.id, root)?.install()?;
    let length = match rebuild::length(&recipe) {
        Ok(length) => length,
        Err(error) => return send(&Rebuilt::Failed(LayerError::Rebuild(error.into()))),
    };
    send(&Rebuilt::Begun(length))?;
    let mut output = BufWriter::with_capacity(PIECE, output);
    let rebuilt = tank_erofs::Image::open(image)
        .and_then(|image| rebuild::rebuild(&recipe, &image, &mut output, &budget));
    // With this the pipe is at its end.
    drop(output);
    send(&match rebuilt {
        Ok(()) => Rebuilt::Done,
        Err(error) => Rebuilt::Failed(LayerError::Rebuild(error.into())),
    })
}

fn next(fds: &mut Vec<OwnedFd>) -> Result<OwnedFd> {
    fds.pop()
        .ok_or_else(incomplete)
        .doing(|| "take the request")
}

fn send(reply: &impl serde::Serialize) -> Result<()> {
    let reply = serde_json::to_vec(reply).doing(|| "write the reply")?;
    packet::send(io::stdin().as_fd(), &reply, &[]).doing(|| "reply")
}

fn incomplete() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

fn receive() -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let received = packet::receive(io::stdin().as_fd()).doing(|| "take the request")?;
    received.ok_or_else(incomplete).doing(|| "take the request")
}

fn images(files: Vec<OwnedFd>) -> std::result::Result<Vec<tank_erofs::Image>, LayerError> {
    let images = files
        .into_iter()
        .map(|file| tank_erofs::Image::open(file.into()));
    let images: io::Result<Vec<_>> = images.collect();
    images.map_err(|error| LayerError::Read(error.into()))
}
