//! A terminal that a test types into and reads from.

use rustix::{fs::Mode, pty::OpenptFlags, termios::Winsize};
use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

pub struct Terminal {
    master: File,
    child: Child,
    output: Receiver<Vec<u8>>,
    /// Everything the terminal has shown so far.
    pub shown: String,
    /// Where the next `expect` begins to look.
    seen: usize,
}

impl Terminal {
    /// Runs a command with a terminal of 24 rows and 80 columns as its controlling one.
    pub fn run(command: &Command) -> Self {
        Self::of(command, 80)
    }

    /// The same with so many columns. What the command's environment has beside the test's own is the
    /// same, too.
    pub fn of(command: &Command, columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags).expect("a terminal");
        rustix::pty::unlockpt(&master).expect("unlock");
        let name = rustix::pty::ptsname(&master, Vec::new()).expect("a name");
        let open = || -> OwnedFd {
            let flags =
                rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
            rustix::fs::open(name.as_c_str(), flags, Mode::empty()).expect("open")
        };
        resize(&master, 24, columns);
        let mut setsid = Command::new("setsid");
        setsid
            .args(["--ctty", "--wait"])
            .arg(command.get_program())
            .args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            setsid.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        setsid.env("TERM", "vt220");
        let child = setsid
            .stdin(Stdio::from(open()))
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .expect("setsid");
        let master = File::from(master);
        let mut reader = master.try_clone().expect("clone");
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            master,
            child,
            output,
            shown: String::new(),
            seen: 0,
        }
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("type");
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        resize(&self.master, rows, columns);
    }

    /// Waits until the terminal shows `text`, after what earlier calls waited for.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("never shown: {text:?}; shown: {:?}", self.shown),
            }
        }
    }

    /// Waits for the command to end.
    #[track_caller]
    pub fn ended(&mut self) -> i32 {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            while let Ok(bytes) = self.output.try_recv() {
                self.shown.push_str(&String::from_utf8_lossy(&bytes));
            }
            if let Some(status) = self.child.try_wait().expect("wait") {
                // What it printed last may still be on its way here.
                while let Ok(bytes) = self.output.recv_timeout(Duration::from_millis(200)) {
                    self.shown.push_str(&String::from_utf8_lossy(&bytes));
                }
                return status.code().unwrap_or(-1);
            }
            assert!(
                Instant::now() < deadline,
                "it does not end; shown: {:?}",
                self.shown
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(master: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).expect("resize");
}
