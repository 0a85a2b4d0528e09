//! What containers print, as lines in a bounded file.
//!
//! The format is the one of the Kubernetes CRI, which log shippers read: time (RFC 3339, UTC),
//! stream, `F` for a full line or `P` for a part of one, text. A file that reaches [`MAX_FILE`]
//! becomes `NAME.log.1`, replacing the one before, so a container's logs never take more than twice
//! that.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

/// The most bytes of one file: 16 MiB.
pub const MAX_FILE: u64 = 16 << 20;

/// The most bytes of a line before it is written in parts: 16 KiB, as the CRI has it.
const MAX_LINE: usize = 16 << 10;

/// One stream of one container.
pub struct Lines {
    stream: &'static str,
    partial: Vec<u8>,
}

impl Lines {
    pub fn new(stream: &'static str) -> Self {
        Self {
            stream,
            partial: Vec::new(),
        }
    }

    /// Takes what was read, writes the lines that are complete.
    pub fn push(&mut self, mut data: &[u8], log: &mut LogFile) -> io::Result<()> {
        while !data.is_empty() {
            let room = MAX_LINE - self.partial.len();
            match data.iter().take(room).position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.partial.extend(&data[..end]);
                    data = &data[end + 1..];
                    self.write('F', log)?;
                }
                None => {
                    let taken = data.len().min(room);
                    self.partial.extend(&data[..taken]);
                    data = &data[taken..];
                    if self.partial.len() == MAX_LINE {
                        self.write('P', log)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The stream has ended: writes what came without a line end.
    pub fn finish(&mut self, log: &mut LogFile) -> io::Result<()> {
        if self.partial.is_empty() {
            Ok(())
        } else {
            self.write('F', log)
        }
    }

    fn write(&mut self, tag: char, log: &mut LogFile) -> io::Result<()> {
        let mut line = format!(
            "{} {} {tag} ",
            humantime::format_rfc3339_nanos(SystemTime::now()),
            self.stream
        )
        .into_bytes();
        line.append(&mut self.partial);
        line.push(b'\n');
        log.write(&line)
    }
}

/// A file that is made, with its folder, when there is something to write, and renamed when it is
/// full.
pub struct LogFile {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl LogFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// The file and its length.
    fn file(&mut self) -> io::Result<&mut (File, u64)> {
        if self.open.is_none() {
            if let Some(dir) = self.path.parent() {
                fs::create_dir_all(dir)?;
            }
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(&self.path)?;
            let length = file.metadata()?.len();
            self.open = Some((file, length));
        }
        self.open
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// One write a line, so a reader never sees half of one.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let (_, length) = self.file()?;
        if *length + line.len() as u64 > MAX_FILE {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.open = None;
        }
        let (file, length) = self.file()?;
        file.write_all(line)?;
        *length += line.len() as u64;
        Ok(())
    }
}

/// Milliseconds since the epoch.
pub fn now_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(chunks: &[&[u8]]) -> Vec<String> {
        let path =
            std::env::temp_dir().join(format!("tank-log-{}-{:p}.log", std::process::id(), &chunks));
        let mut log = LogFile::new(path.clone());
        let mut lines = Lines::new("stdout");
        for chunk in chunks {
            lines.push(chunk, &mut log).expect("writes");
        }
        lines.finish(&mut log).expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        fs::remove_file(path).expect("removes");
        text.lines()
            .map(|line| line.split_once(' ').expect("a time").1.to_owned())
            .collect()
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(
            logged(&[b"a", b"b\nc", b"\n\n", b"end"]),
            ["stdout F ab", "stdout F c", "stdout F ", "stdout F end"]
        );
    }

    #[test]
    fn a_line_without_an_end_is_written_in_parts() {
        let long = vec![b'x'; MAX_LINE + 5];
        let lines = logged(&[&long]);
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].len(), lines[1].as_str()),
            ("stdout P ".len() + MAX_LINE, "stdout F xxxxx")
        );
    }
}
