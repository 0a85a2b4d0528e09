//! One line of a log's file: time, stream, tags, text.

/// What a line is of what was printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line, or the end of one.
    Whole,
    /// A part that another one follows.
    Part,
    /// Nothing of the container's: the shim says what is missing.
    Notice,
}

/// A line that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// RFC 3339 in UTC.
    pub time: String,
    pub stderr: bool,
    pub kind: Kind,
    pub text: String,
}

/// The parts of a line.
pub struct Line<'a> {
    pub time: &'a [u8],
    pub stderr: bool,
    pub kind: Kind,
    pub text: &'a [u8],
}

impl<'a> Line<'a> {
    /// None: a shim has not written it, or it is damaged.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        // What was not on the disk when the power failed is zeros.
        let begin = line.iter().position(|byte| *byte != 0)?;
        let line = line.get(begin..)?;
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (time, stream, tags) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self {
            time,
            stderr: stream == b"stderr",
            kind: match tags {
                [b'P', ..] => Kind::Part,
                b"F:notice" => Kind::Notice,
                _ => Kind::Whole,
            },
            text: fields.next()?,
        })
    }

    /// Whether what begins so is a part that another one follows.
    pub fn begins_part(head: &[u8]) -> bool {
        let tags = head.splitn(4, |byte| *byte == b' ').nth(2);
        tags.is_some_and(|tags| tags.first() == Some(&b'P'))
    }
}
