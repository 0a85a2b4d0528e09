//! `image save`: images as an archive that others load.

use super::transfer;
use crate::{client::Client, error::Error, output};
use std::path::Path;
use tank_proto::varlink::{Method, TransferReply};

/// Writes images into a file that must not exist, or to standard output.
pub async fn save(
    client: &mut Client,
    images: Vec<String>,
    file: Option<&Path>,
    json: bool,
) -> Result<u8, Error> {
    let count = images.len();
    let target = transfer::target(file)?;
    let call = Method::SaveImages { images };
    client.send(call, Vec::new(), true).await?;
    let (_, mut fds, _) = client.receive::<TransferReply>().await?;
    let pipe = fds.pop().ok_or(Error::Answer("tankd sent no pipe"))?;
    let last = transfer::last::<TransferReply>(client);
    let (done, place) = transfer::write(pipe, target, last).await?;
    if let Some(place) = place {
        let place = place.display();
        let images = if count == 1 { "image" } else { "images" };
        match json {
            true => output::json(&done)?,
            false => output::line(&format!("wrote {count} {images} to {place}"))?,
        }
    }
    Ok(0)
}
