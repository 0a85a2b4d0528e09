//! `tank-layer`: converts one layer, as nobody. `tankd` starts it and hands it the descriptors
//! ([`tank_layer::wire`]).

#![forbid(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};
use tank_layer::{
    LayerError, Pipeline,
    budget::Budget,
    confine, convert,
    wire::{Reply, Request},
};
use tank_sys::{Context, Result, packet, process, with_causes};

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
    let stdin = io::stdin();
    let (bytes, mut fds) = receive()?;
    let request: Request = serde_json::from_slice(&bytes).doing(|| "read the request")?;
    fds.reverse();
    let mut next = || {
        fds.pop()
            .ok_or_else(incomplete)
            .doing(|| "take the request")
    };
    let (root, input, output) = (next()?, File::from(next()?), File::from(next()?));
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
    let pipeline = Pipeline::new(input, &request.media_type);
    filter.install()?;
    let converted = pipeline.and_then(|pipeline| {
        let below = request.below.map(|_| images(below)).transpose()?;
        convert(pipeline, output, below, request.diff_id, &budget)
    });
    let reply = Reply::of(converted, request.share, budget.left());
    let reply = serde_json::to_vec(&reply).doing(|| "write the reply")?;
    packet::send(stdin.as_fd(), &reply, &[]).doing(|| "reply")
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
