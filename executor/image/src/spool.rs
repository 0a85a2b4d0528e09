//! What has to wait for the end of a layer, in a file: however many directories it has, they take
//! no memory.

use rustix::fs::{Timespec, Timestamps};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// Times that wait in a file without a name, however many there are.
pub struct Spool(BufWriter<File>);

impl Spool {
    pub fn new(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        fs::remove_file(path)?;
        Ok(Self(BufWriter::new(file)))
    }

    pub fn push(&mut self, path: &Path, times: &Timestamps) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        let time = &times.last_modification;
        let length = u32::try_from(path.len()).map_err(io::Error::other)?;
        self.0.write_all(&length.to_ne_bytes())?;
        self.0.write_all(path)?;
        self.0.write_all(&time.tv_sec.to_ne_bytes())?;
        self.0.write_all(&time.tv_nsec.to_ne_bytes())
    }

    pub fn each(self, mut of: impl FnMut(&Path, &Timestamps) -> io::Result<()>) -> io::Result<()> {
        let mut file = self.0.into_inner()?;
        file.seek(SeekFrom::Start(0))?;
        let mut file = BufReader::new(file);
        let mut path = Vec::new();
        loop {
            let (mut length, mut seconds, mut nanos) = ([0; 4], [0; 8], [0; 8]);
            match file.read_exact(&mut length) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            }
            path.resize(u32::from_ne_bytes(length) as usize, 0);
            file.read_exact(&mut path)?;
            file.read_exact(&mut seconds)?;
            file.read_exact(&mut nanos)?;
            let time = Timespec {
                tv_sec: i64::from_ne_bytes(seconds),
                tv_nsec: i64::from_ne_bytes(nanos),
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            of(Path::new(OsStr::from_bytes(&path)), &times)?;
        }
    }
}
