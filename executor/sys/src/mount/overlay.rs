//! Overlays of detached layers, in the way that the kernel has.

use super::{attach, attr, clone_tree, configure, create, explain};
use crate::{Context, Error, Result, beneath};
use rustix::mount::{FsOpenFlags, MountFlags, UnmountFlags};
use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

/// How an overlay is made. Layers are named by their descriptors, so no path of one is read as
/// anything else (a colon would separate two layers).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Of layers that stay detached: since Linux 6.15.
    Detached,
    /// Of layers that are attached meanwhile, named one by one: since Linux 6.8.
    Attached,
    /// Of layers that are attached meanwhile, named together in the options of `mount(2)`, which are a
    /// page: `fsconfig(2)` takes 255 bytes, which are the names of few layers.
    Options,
}

impl Way {
    /// The newest kernels' first.
    pub const ALL: [Self; 3] = [Self::Detached, Self::Attached, Self::Options];
}

/// A detached overlay: `layers` from the lowest to the topmost, all idmapped by the caller, and
/// writes going to `upper` (with `work` beside it), not to outlive a crash of the host. `places` is
/// an empty directory for kernels that need the layers attached.
///
/// # Errors
/// What the kernel gives, with the last line of its own explanation where there is one.
pub fn overlay(layers: &[OwnedFd], upper: &Path, work: &Path, places: &Path) -> Result<OwnedFd> {
    /// How many of [`Way::ALL`] this kernel does not have: a try would be a line in its log.
    static MISSING: AtomicUsize = AtomicUsize::new(0);
    let ways = &Way::ALL[MISSING.load(Ordering::Relaxed)..];
    let (way, mount) = overlay_by(ways, layers, (upper, work), places)?;
    let missing = Way::ALL.iter().position(|other| *other == way);
    MISSING.store(missing.unwrap_or(0), Ordering::Relaxed);
    Ok(mount)
}

/// As [`overlay`], in the first of these ways that the kernel has.
///
/// # Errors
/// As [`overlay`].
pub fn overlay_by(
    ways: &[Way],
    layers: &[OwnedFd],
    (upper, work): (&Path, &Path),
    places: &Path,
) -> Result<(Way, OwnedFd)> {
    let mut refused = Error::new("mount an overlay", io::ErrorKind::Unsupported);
    let mut attached = None;
    for way in ways {
        if *way != Way::Detached && attached.is_none() {
            attached = Some(Attached::new(layers, places)?);
        }
        let made = match way {
            Way::Options => with_options(layers, (upper, work), places),
            Way::Detached | Way::Attached => one_by_one(layers, (upper, work)),
        };
        match made {
            Ok(mount) => return Ok((*way, mount)),
            Err(error) => refused = error,
        }
        // A kernel that takes layers one by one explains whatever else it refuses.
        let explains = refused.errno() != Some(libc::EINVAL) && refused.what() != LOWER;
        if *way == Way::Attached && explains {
            break;
        }
    }
    Err(refused)
}

/// Layers that are attached until this goes.
struct Attached(Vec<std::path::PathBuf>);

impl Attached {
    fn new(layers: &[OwnedFd], places: &Path) -> Result<Self> {
        let mut attached = Self(Vec::new());
        for (index, layer) in layers.iter().enumerate() {
            let place = places.join(index.to_string());
            std::fs::create_dir_all(&place).doing(|| format!("make {}", place.display()))?;
            attach(layer.as_fd(), beneath::open_path(&place)?.as_fd())?;
            attached.0.push(place);
        }
        Ok(attached)
    }
}

impl Drop for Attached {
    /// The overlay holds clones of its own.
    fn drop(&mut self) {
        for place in &self.0 {
            let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
        }
    }
}

fn named(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

/// What is refused where a kernel doesn't take layers one by one.
const LOWER: &str = "add a layer to an overlay";

fn one_by_one(layers: &[OwnedFd], (upper, work): (&Path, &Path)) -> Result<OwnedFd> {
    let kind = "overlay";
    let context =
        rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).doing(|| "open an overlay")?;
    // `lowerdir+` appends downwards: the first given is the topmost.
    for layer in layers.iter().rev() {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", named(layer))
            .map_err(|e| explain(&context, e))
            .doing(|| LOWER)?;
    }
    configure(&context, kind, "upperdir", &upper.to_string_lossy())?;
    configure(&context, kind, "workdir", &work.to_string_lossy())?;
    // What is written to an upper directory does not outlive its container, so it need not be
    // synced: without this, the end of each container would wait until the whole file system below
    // is.
    rustix::mount::fsconfig_set_flag(&context, "volatile")
        .map_err(|e| explain(&context, e))
        .doing(|| "make an overlay volatile")?;
    // No device of an image is one (the layers hold none either): devices are Tank's to give.
    create(&context, kind, attr::NODEV)
}

/// The kernel reads a page and drops what follows without a word (`copy_mount_options`): that is some
/// two hundred layers.
const MAX_OPTIONS: usize = 4095;

/// As [`one_by_one`] has it, in one call.
fn with_options(
    layers: &[OwnedFd],
    (upper, work): (&Path, &Path),
    places: &Path,
) -> Result<OwnedFd> {
    let what = || "mount an overlay";
    let place = places.join("overlay");
    std::fs::create_dir_all(&place).doing(|| format!("make {}", place.display()))?;
    let (upper, work) = (beneath::open_path(upper)?, beneath::open_path(work)?);
    let lower: Vec<String> = layers.iter().rev().map(named).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},volatile",
        lower.join(":"),
        named(&upper),
        named(&work)
    );
    if options.len() > MAX_OPTIONS {
        let what = || format!("mount {} layers on a kernel before 6.8", layers.len());
        return Err(io::Error::from_raw_os_error(libc::E2BIG)).doing(what);
    }
    let options = CString::new(options).map_err(io::Error::from).doing(what)?;
    rustix::mount::mount(
        "overlay",
        &place,
        "overlay",
        MountFlags::NODEV,
        options.as_c_str(),
    )
    .doing(what)?;
    let detached = clone_tree(&place, false);
    rustix::mount::unmount(&place, UnmountFlags::DETACH)
        .doing(|| format!("let go of {}", place.display()))?;
    detached
}
