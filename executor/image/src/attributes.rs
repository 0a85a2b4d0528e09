//! Extended attributes of files that somebody else writes to (xattr(7)): read, given to a copy, and said in an archive. What can't be
//! is an error that names them: nothing that has fewer is taken for a copy.

use rustix::{fs::XattrFlags, io::Errno};
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
};
use tank_erofs::{MAX_ROOT_XATTRS, XATTR_ENTRY};
use tank_layer::names::{MAX_VALUE, escape};
use tar_core::builder::EntryBuilder;

/// The most bytes of a list of names that the kernel gives (XATTR_LIST_MAX), and of a value (XATTR_SIZE_MAX).
pub(crate) const MAX_ATTRIBUTE: usize = 64 << 10;

/// The most bytes of one file's attributes, names and values, and what each takes beside those. EROFS has no more of a file
/// (`i_xattr_icount`), and an archive is unpacked by way of one; what an archive may say of a file is more than that.
const MAX_ATTRIBUTES: usize = 256 << 10;
const PER_ATTRIBUTE: usize = 32;

/// What users may set. The rest gives rights, or is the host's.
const USER: &[u8] = b"user.";

/// What an overlay that was mounted without privileges notes of its files: it would be one of another mount in a copy.
const OVERLAY: &[u8] = b"user.overlay.";

type Attribute = (CString, Vec<u8>);

/// The names of a file's attributes, each with a NUL behind it.
///
/// # Errors
/// What the kernel gives; also that there are more names than it lists: nobody can find out what they are.
pub(crate) fn names<'b>(file: &OwnedFd, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
    buffer.resize(MAX_ATTRIBUTE, 0);
    let length = match rustix::fs::flistxattr(file, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        Err(Errno::TOOBIG | Errno::RANGE) => {
            let why = "the names of its attributes have more than 64 KiB, and the kernel lists no more of them";
            return Err(io::Error::other(why));
        }
        length => length?,
    };
    Ok(buffer.get(..length).unwrap_or_default())
}

/// What of the value is in `buffer`. None: it was removed meanwhile.
pub(crate) fn value<'b>(
    file: &OwnedFd,
    name: &CStr,
    buffer: &'b mut Vec<u8>,
) -> io::Result<Option<&'b [u8]>> {
    buffer.resize(MAX_ATTRIBUTE, 0);
    match rustix::fs::fgetxattr(file, name, &mut buffer[..]) {
        Ok(length) => Ok(Some(buffer.get(..length).unwrap_or_default())),
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(of(name, error.into())),
    }
}

/// Gives a file an attribute.
///
/// # Errors
/// What the kernel gives, with the name.
pub(crate) fn set(file: &OwnedFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let set = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty());
    set.map_err(|error| not_set(name, value, error))
}

/// As [`set`], as far as the file system has room for it.
///
/// # Errors
/// The same.
pub(crate) fn set_if_possible(file: &OwnedFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::TOOBIG) => Ok(()),
        Err(error) => Err(not_set(name, value, error)),
    }
}

fn not_set(name: &CStr, value: &[u8], error: Errno) -> io::Error {
    let (error, length) = (io::Error::from(error), value.len());
    let why = format!("a value of {length} bytes is not taken: {error}");
    of(name, io::Error::new(error.kind(), why))
}

/// An error with the attribute that it is about.
fn of(name: &CStr, error: io::Error) -> io::Error {
    let name = name.to_bytes().escape_ascii();
    io::Error::new(error.kind(), format!("its attribute `{name}`: {error}"))
}

/// The attributes of a file that users may set.
///
/// # Errors
/// What the kernel gives; and where they are more than an archive of the file could have.
pub(crate) fn of_users(file: &OwnedFd) -> io::Result<Vec<Attribute>> {
    let too_many = || io::Error::other("its attributes (`user.*`) have more than 256 KiB");
    let mut found = Vec::new();
    let (mut list, mut buffer) = (Vec::new(), Vec::new());
    let mut left = MAX_ATTRIBUTES;
    for name in names(file, &mut list)?.split(|byte| *byte == 0) {
        if !name.starts_with(USER) || name.starts_with(OVERLAY) {
            continue;
        }
        let name = CString::new(name)?;
        if let Some(value) = value(file, &name, &mut buffer)? {
            let bytes = name.as_bytes().len() + value.len() + PER_ATTRIBUTE;
            left = left.checked_sub(bytes).ok_or_else(too_many)?;
            found.push((name, value.to_vec()));
        }
    }
    Ok(found)
}

/// Says in an archive which attributes a file has that users may set.
///
/// # Errors
/// As [`of_users`]; and where one could not be unpacked again. `is_top`: it is the directory that all of the archive is in.
pub(crate) fn describe(file: &OwnedFd, is_top: bool, entry: &mut EntryBuilder) -> io::Result<()> {
    let mut left = MAX_ROOT_XATTRS;
    for (name, value) in of_users(file)? {
        if value.len() > MAX_VALUE {
            let (length, most) = (value.len(), MAX_VALUE);
            let why = format!("it has {length} bytes, and {most} are the most in an archive");
            return Err(of(&name, io::Error::other(why)));
        }
        if is_top {
            let bytes = XATTR_ENTRY + name.as_bytes().len() - USER.len() + value.len();
            let rest = left.checked_sub(bytes.next_multiple_of(XATTR_ENTRY));
            let why = format!(
                "with it the attributes (`user.*`) of the top directory have more than {MAX_ROOT_XATTRS} bytes"
            );
            left = rest.ok_or_else(|| of(&name, io::Error::other(why)))?;
        }
        entry.add_pax(&format!("SCHILY.xattr.{}", escape(name.as_bytes())), value);
    }
    Ok(())
}

/// As [`describe`], in order, in a layer: there a name is not escaped, so one with a `=` can't be said.
///
/// # Errors
/// The same.
pub(crate) fn describe_in_layer(file: &OwnedFd, entry: &mut EntryBuilder) -> io::Result<()> {
    let mut all = of_users(file)?;
    all.sort();
    for (name, value) in all {
        let plain = name.to_str().ok().filter(|name| !name.contains('='));
        let unsayable = || {
            of(
                &name,
                io::Error::other("no layer can have one of this name"),
            )
        };
        let plain = plain.ok_or_else(unsayable)?;
        entry.add_pax(&format!("SCHILY.xattr.{plain}"), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, path::PathBuf};

    /// A file that is gone at the end. Which attributes it takes is its file system's to say.
    struct Scratch(PathBuf, OwnedFd);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("tank-xattr-{name}-{}", std::process::id()));
            let file = File::create(&path).expect("a file");
            Self(path, file.into())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_said_with_the_attribute() {
        let scratch = Scratch::new("refused");
        let name = c"user.a\x1b=b";
        let long = vec![0; MAX_ATTRIBUTE + 1];
        let why = set(&scratch.1, name, &long)
            .expect_err("too long")
            .to_string();
        let expected = r"its attribute `user.a\x1b=b`: a value of 65537 bytes is not taken: ";
        assert!(why.starts_with(expected), "{why}");
    }

    #[test]
    fn what_users_set_is_read_whatever_its_name_is() {
        let scratch = Scratch::new("read");
        let all: [(&CStr, &[u8]); 3] = [
            (c"user.a=b", b"1"),
            (c"user.overlay.opaque", b"y"),
            (c"user.\xff%", b""),
        ];
        for (name, value) in all {
            set(&scratch.1, name, value).expect("it is set");
        }
        let mut found = of_users(&scratch.1).expect("they are read");
        found.sort();
        let expected = [all[0], all[2]].map(|(name, value)| (name.to_owned(), value.to_vec()));
        assert_eq!(found, expected);
        let mut entry = EntryBuilder::new_ustar();
        describe(&scratch.1, false, &mut entry).expect("they are said");
        let said = String::from_utf8_lossy(&entry.finish_bytes()).into_owned();
        assert!(said.contains("SCHILY.xattr.user.a%3Db=1\n"), "{said}");
        assert!(said.contains("SCHILY.xattr.user.%FF%25=\n"), "{said}");
        assert!(!said.contains("overlay"), "{said}");
        let why = describe_in_layer(&scratch.1, &mut entry).expect_err("it can't be said");
        assert_eq!(
            why.to_string(),
            "its attribute `user.a=b`: no layer can have one of this name"
        );
    }

    #[test]
    fn the_top_of_an_archive_has_no_more_than_can_be_unpacked() {
        let scratch = Scratch::new("top");
        let bytes = MAX_ROOT_XATTRS - XATTR_ENTRY - 1;
        set(&scratch.1, c"user.a", &vec![7; bytes]).expect("it is set");
        let describe = |is_top| describe(&scratch.1, is_top, &mut EntryBuilder::new_ustar());
        describe(true).expect("it fits");
        set(&scratch.1, c"user.a", &vec![7; bytes + 1]).expect("it is set");
        describe(false).expect("it is a file's");
        let why = describe(true).expect_err("too much").to_string();
        assert!(why.starts_with("its attribute `user.a`: with it"), "{why}");
    }
}
