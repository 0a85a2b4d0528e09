//! Which commands are read in pages.

use super::{Args, Command, Generations};

impl Args {
    /// Whether what is printed may be longer than a terminal, and is read from its beginning.
    pub fn is_paged(&self) -> bool {
        let is_long = match &self.command {
            // Without a file it is all that is printed.
            Command::Diff { observed, .. } => observed.is_none(),
            Command::Doc { import_path, .. } => !import_path,
            Command::Events(events) => !events.follow,
            Command::Generations(Generations::Show { .. } | Generations::Diff { .. }) => true,
            Command::Why { .. } | Command::Explain { .. } | Command::Get { .. } => true,
            _ => false,
        };
        is_long && !self.json && !self.no_pager
    }
}
