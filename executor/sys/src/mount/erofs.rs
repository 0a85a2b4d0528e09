//! EROFS images, mounted from their files.

use super::{attr, create, explain};
use crate::{Context, Result};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::FsOpenFlags,
};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

/// How often a loop device is asked for that somebody else has taken meanwhile.
const LOOP_TRIES: u32 = 64;

/// Nothing of a layer is a device, a program of another user or one at all where it is mounted: it
/// becomes that in the overlay of a container.
const ATTRIBUTES: u64 = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// A detached mount of an image. Since Linux 6.12 the kernel reads the file itself, before that through
/// a loop device that goes with the mount. Either way content is read past the page cache of the file, where the
/// kernel can do that (of a file itself since 6.15): it is in memory once, as the mount's.
///
/// # Errors
/// What the kernel gives, with the last line of its own explanation where there is one.
pub fn erofs(image: &Path) -> Result<OwnedFd> {
    mount_from(image).or_else(|error| {
        let device = Loop::of(image)?;
        // The file's refusal says more than that of a device of it.
        mount_from(Path::new(&device.path)).map_err(|_| error)
    })
}

fn mount_from(source: &Path) -> Result<OwnedFd> {
    let kind = "erofs";
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .doing(|| "open an erofs (the module erofs)")?;
    rustix::mount::fsconfig_set_flag(&context, "ro")
        .map_err(|e| explain(&context, e))
        .doing(|| "make an erofs read-only")?;
    // A kernel that does not know it says so, and goes on without.
    let _ = rustix::mount::fsconfig_set_flag(&context, "directio");
    rustix::mount::fsconfig_set_string(&context, "source", source)
        .map_err(|e| explain(&context, e))
        .doing(|| format!("mount {}", source.display()))?;
    create(&context, kind, ATTRIBUTES)
}

/// A loop device, which the kernel takes apart when nobody uses it.
struct Loop {
    path: String,
    _device: OwnedFd,
}

/// `struct loop_info64` and `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

impl Loop {
    fn of(image: &Path) -> Result<Self> {
        const GET_FREE: libc::Ioctl = 0x4c82; // LOOP_CTL_GET_FREE
        const CONFIGURE: libc::Ioctl = 0x4c0a; // LOOP_CONFIGURE
        const READ_ONLY: u32 = 1; // LO_FLAGS_READ_ONLY
        const AUTOCLEAR: u32 = 4; // LO_FLAGS_AUTOCLEAR
        const DIRECT: u32 = 16; // LO_FLAGS_DIRECT_IO
        let what = || {
            format!(
                "mount {} by a loop device (the module loop)",
                image.display()
            )
        };
        let open =
            |path: &str, flags| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
        let file = rustix::fs::open(image, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let file = file.doing(what)?;
        let control = open("/dev/loop-control", OFlags::RDWR).doing(what)?;
        for _ in 0..LOOP_TRIES {
            // SAFETY: the request takes no argument and gives a number.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE) };
            if number < 0 {
                return Err(io::Error::last_os_error()).doing(what);
            }
            let path = format!("/dev/loop{number}");
            let device = open(&path, OFlags::RDONLY).doing(what)?;
            // SAFETY: all of the structure may be zero.
            let mut config: Config = unsafe { std::mem::zeroed() };
            config.fd = file.as_raw_fd() as u32;
            config.info.flags = READ_ONLY | AUTOCLEAR | DIRECT;
            // SAFETY: the request takes the structure, which outlives it, and reads no more of it.
            let set = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE, &raw const config) };
            if set == 0 {
                return Ok(Self {
                    path,
                    _device: device,
                });
            }
            let error = io::Error::last_os_error();
            if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
                return Err(error).doing(what);
            }
        }
        Err(io::Error::from(Errno::BUSY)).doing(what)
    }
}
