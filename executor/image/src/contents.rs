//! Trees of files that others have chosen, put into directories of Tank's own: what an image has at a
//! path, with which a volume begins, and what an archive has.

use crate::{
    Error, Images, Pace,
    config::mount_layers,
    copy::{self, Untaken},
    error::Attempt,
    store::{Temporary, look_after},
};
use rustix::{fs::OFlags, io::Errno};
use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::Arc,
    time::{Duration, Instant},
};
use tank_layer::{
    budget::Budget,
    wire::{Reply, Request},
};
use tank_model::Digest;
use tank_sys::{
    mount::{self, attr},
    quota,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::unix::pipe,
};

impl Images {
    /// Copies what an image has in the directory `path` into the empty directory `into`, with the
    /// owners and modes that a container of it sees: how many entries there are. None, and nothing
    /// done, where it has no such directory. `path` is looked up as a process of that container
    /// would: no link leads out of the image. Blocks, and mounts.
    ///
    /// # Errors
    /// When the image is not here, or what the budget refuses, or the kernel.
    pub fn copy_out(
        &self,
        digest: Digest,
        path: &str,
        into: BorrowedFd<'_>,
        budget: &Budget,
    ) -> Result<Option<u64>, Error> {
        let what = || format!("copy {path} of the image");
        let scratch = Temporary(self.temporary(digest));
        let root = mount_layers(self.mounts(), &self.find(digest)?, &scratch.0)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let from = match mount::open_in_root(root.as_fd(), path, flags) {
            Ok(from) => from,
            Err(error) if is_no_directory(&error) => return Ok(None),
            Err(error) => return Err(error).attempt(what),
        };
        quota::within_limits(|| copy::tree(from.as_fd(), into, budget, Untaken::LeftOut))
            .map(Some)
            .attempt(what)
    }
}

/// Whether a path leads to no directory: to nothing, to something else, or in a circle.
fn is_no_directory(error: &io::Error) -> bool {
    let none = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG];
    let code = error.raw_os_error();
    none.iter().any(|errno| code == Some(errno.raw_os_error()))
}

/// The archives that are told apart, by how they begin and what a layer of that kind is called.
const FORMS: [(&[u8], &str); 2] = [
    (&[0x1f, 0x8b], "application/vnd.oci.image.layer.v1.tar+gzip"),
    (
        &[0x28, 0xb5, 0x2f, 0xfd],
        "application/vnd.oci.image.layer.v1.tar+zstd",
    ),
];
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";

/// The bytes of an archive that are passed on at once.
const PIECE: usize = 64 << 10;

impl Images {
    /// Puts what an archive (tar, plain or of gzip or zstd) has into the empty directory `into`: how
    /// many entries. It is read as a layer is, by a process that owns nothing, into one read-only
    /// image, of which `into` is a copy; and it has to have an end. The future may be dropped at any
    /// time.
    ///
    /// # Errors
    /// Why it is no archive, what the budget refuses, or the kernel. What is in `into` then is
    /// anything.
    pub async fn unpack(
        &self,
        mut archive: pipe::Receiver,
        into: OwnedFd,
        budget: &Budget,
    ) -> Result<u64, Error> {
        let what = || "read an archive".to_owned();
        let first = tokio::time::timeout(FIRST_BYTES, begin(&mut archive)).await;
        let first = first.map_err(io::Error::from).flatten().attempt(what)?;
        let form = FORMS.iter().find(|(magic, _)| first.starts_with(magic));
        let temporary = Temporary(self.temporary(Digest::of(b"archive")));
        let mut options = fs::File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let output = options.open(&temporary.0).attempt(what)?;
        let request = Request {
            media_type: form.map_or(PLAIN, |(_, kind)| kind).to_owned(),
            diff_id: None,
            below: None,
            recipe: false,
            share: budget.left(),
            disk: self.dir.clone(),
            id: self.converter.id,
        };
        let root = self.dir.join("empty");
        let (mut conversion, mut feed) =
            self.converter
                .start(&request, &root, (&output, None), &[])?;
        let pump = async move {
            let fed = async {
                feed.write_all(&first).await?;
                pass_on(&mut archive, &mut feed).await
            };
            match fed.await {
                // It has ended, and says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                other => other,
            }
        };
        let converted = async {
            let (pumped, reply) = tokio::join!(pump, conversion.reply());
            pumped.attempt(what)?;
            reply
        };
        let output = Arc::new(output);
        let reply = tokio::select! {
            reply = converted => reply?,
            refused = look_after(&output, budget) => return Err(refused),
        };
        if let Reply::Failed(error) = reply {
            return Err(error.into());
        }
        let budget = budget.clone();
        let copy = move || copy_image(&temporary, &into, &budget);
        let copied = tokio::task::spawn_blocking(copy).await;
        copied.map_err(io::Error::from).attempt(what)?
    }
}

/// Sends on what comes, to its end, for as long as somebody keeps sending ([`Pace`]).
async fn pass_on(from: &mut pipe::Receiver, into: &mut pipe::Sender) -> io::Result<()> {
    let (mut pace, mut bytes) = (Pace::default(), vec![0; PIECE]);
    loop {
        let begun = Instant::now();
        let read = tokio::time::timeout(pace.left(), from.read(&mut bytes)).await;
        let read = read.unwrap_or_else(|_| Err(Pace::late_to_send()))?;
        if read == 0 {
            return Ok(());
        }
        pace.add(read as u64, begun.elapsed());
        into.write_all(bytes.get(..read).unwrap_or_default())
            .await?;
    }
}

/// The longest that is waited for the first bytes of an archive: somebody may type a password first.
const FIRST_BYTES: Duration = Duration::from_secs(600);

/// How an archive begins: as much as tells what it is packed with.
async fn begin(archive: &mut pipe::Receiver) -> io::Result<Vec<u8>> {
    let mut first = vec![0; PIECE];
    let mut begin = 0;
    // A pipe may give a byte at a time.
    while begin < 4 {
        match archive
            .read(first.get_mut(begin..).unwrap_or_default())
            .await?
        {
            0 => break,
            length => begin += length,
        }
    }
    first.truncate(begin);
    Ok(first)
}

/// Copies what an EROFS image has.
fn copy_image(image: &Temporary, into: &OwnedFd, budget: &Budget) -> Result<u64, Error> {
    let image = mount::erofs(&image.0).map_err(Error::Mount)?;
    let restricted = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
    mount::restrict(image.as_fd(), restricted, false).map_err(Error::Mount)?;
    let copy = || copy::tree(image.as_fd(), into.as_fd(), budget, Untaken::Fails);
    let copied = quota::within_limits(copy);
    copied.attempt(|| "copy what an archive has".to_owned())
}
