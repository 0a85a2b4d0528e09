//! The arguments of `image`.

use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand, Debug)]
pub enum Images {
    /// All images that something needs: what they take of the disk, which generations and pods need them, and which are kept by
    /// hand.
    #[command(visible_alias = "ls")]
    List,
    /// One image: its configuration, its layers, and who needs it.
    Inspect {
        /// A reference, a digest, or six or more of its first digits.
        image: String,
    },
    /// Fetch an image of a registry and keep it, whichever generations there are, until it is removed. A container with `pull =
    /// 'missing` or `'never` finds it.
    Pull {
        /// `nginx:1.27`, `ghcr.io/team/app@sha256:…`.
        image: String,
        /// For machines of another kind: `linux/arm64`, `linux/arm/v7`.
        #[arg(long, value_name = "PLATFORM")]
        platform: Option<String>,
    },
    /// Take in the images of an archive that `docker save`, `podman save` or `skopeo` wrote, and keep them as `pull` does.
    Load {
        /// Read from this file; standard input unless given. It is not compressed.
        file: Option<PathBuf>,
        /// The same, as Docker has it.
        #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
        input: Option<PathBuf>,
        /// What the image is called, where the archive has one and no name for it, or another.
        #[arg(long, value_name = "NAME:TAG")]
        name: Option<String>,
    },
    /// Keep images no longer that were pulled or loaded by hand. `tank gc` removes what nothing needs then.
    #[command(visible_alias = "rm")]
    Remove {
        /// References, digests, or six or more of a digest's first digits.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Write images that generations have into one archive, which `docker load`, `podman load`,
    /// `skopeo` and Tank take (`docker-archive:FILE`, `oci-archive:FILE`).
    Save {
        /// The images, as configurations name them.
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Write to this file, which must not exist; `-` and nothing are standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}
