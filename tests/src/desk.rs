//! A place to write configurations, for tests without a host.

use crate::{Ended, bin};
use std::{path::PathBuf, process::Command};

/// A folder with a configuration, and a cache of its own.
pub struct Desk(pub PathBuf);

impl Desk {
    /// An empty folder; `name` is another one for each test.
    pub fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tank-language-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        Self(dir)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("write");
    }

    /// The `tank` command in that folder, without a daemon.
    pub fn tank(&self, args: &[&str], env: &[(&str, &str)]) -> Ended {
        let mut command = Command::new(bin("tank"));
        command
            .args(args)
            .current_dir(&self.0)
            .env("TANK_CACHE_DIR", self.0.join("cache"));
        command.env("TANK_SOCKET", self.0.join("none.sock"));
        command.envs(env.iter().copied());
        command.output().expect("tank").into()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
