//! The power is cut, again and again, at random moments of a host that switches all the time: a virtual machine is
//! killed, its disk is kept, it boots again. What it finds then is the old generation or the new one, whole, and
//! nothing beside it; the script in it checks that (`tests/fixtures/vm-power.sh`).

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};
use tank_tests::{bin, fixtures, repo};

/// How often the power is cut.
const CUTS: u32 = 20;

/// The longest a boot may take until it says that it found its host in order.
const BOOT: Duration = Duration::from_secs(90);

struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Machine {
    fn boot(image: &std::path::Path, disk: &std::path::Path) -> Self {
        let mut command = Command::new(repo().join("scripts/vm.sh"));
        command.arg("--boot").arg(image).arg(disk).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut qemu = command.spawn().expect("vm.sh");
        let output = BufReader::new(qemu.stdout.take().expect("a console"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                    break;
                }
            }
        });
        Self { qemu, lines, said: Vec::new() }
    }

    /// Reads the console for so long; true when `until` was said.
    fn read(&mut self, time: Duration, until: Option<&str>) -> bool {
        let deadline = Instant::now() + time;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = until.is_some_and(|until| line.ends_with(until));
                    self.said.push(line);
                    if found {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// As pulling the plug: what the machine had not written to its disk is lost.
    fn cut(mut self) -> Vec<String> {
        self.qemu.kill().expect("kill");
        self.qemu.wait().expect("wait");
        self.read(Duration::from_secs(5), None);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[test]
fn a_host_that_loses_its_power_comes_back_to_one_of_its_generations() {
    let dir = std::env::temp_dir().join(format!("tank-power-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder");
    let (image, disk) = (dir.join("image"), dir.join("disk"));
    // Forty images, each with a layer of its own: what a pull was at when the power went has to be whole or not there.
    let images = dir.join("images");
    let pack = repo().join("scripts/pack-layout.sh");
    let script = format!(
        "set -e; cp -r {busybox}/. {images}; mv {images}/manifests.latest {images}/manifests.base; \
         sed -i 's/\"latest\"/\"base\"/' {images}/manifests.base; \
         for i in $(seq 0 39); do mkdir -p root/payload; \
           for j in $(seq 30); do head -c 5000 /dev/urandom > root/payload/$j; done; \
           (cd root/payload && sha256sum [0-9]* > sums); \
           BASE=base {pack} root {images} $i '{{\"Env\":[\"PATH=/bin\"]}}'; rm -r root; done",
        busybox = fixtures().join("busybox").display(),
        images = images.display(),
        pack = pack.display(),
    );
    fs::create_dir(&images).expect("a folder");
    let packed = Command::new("sh").args(["-c", &script]).current_dir(&dir).status().expect("sh");
    assert!(packed.success());
    let target = bin("tank").parent().and_then(std::path::Path::parent).expect("the target folder").to_owned();
    let made = Command::new(repo().join("scripts/vm.sh"))
        .arg("--image")
        .arg(&image)
        .arg(repo().join("tests/fixtures/vm-power.sh"))
        .arg(format!("{}=/tmp/images", images.display()))
        .env("CARGO_TARGET_DIR", target)
        .status()
        .expect("vm.sh");
    assert!(made.success());
    let mut found: Vec<String> = Vec::new();
    let mut delays = Vec::new();
    for cut in 0..=CUTS {
        let mut machine = Machine::boot(&image, &disk);
        let ready = machine.read(BOOT, Some("READY"));
        assert!(ready, "boot {cut}, after cuts at {delays:?}:\n{}", machine.said.join("\n"));
        if cut == CUTS {
            found.extend(machine.cut());
            break;
        }
        // A switch takes about two seconds here: anywhere in the first few of them; and now and then just when one begins,
        // before it can have committed.
        let delay = Duration::from_millis(RandomState::new().hash_one(cut) % 6_000);
        machine.read(delay, None);
        if cut % 4 == 3 {
            assert!(machine.read(BOOT, Some("ATTEMPTED")), "it switches no more: {}", machine.said.join("\n"));
        }
        delays.push(delay);
        let said = machine.cut();
        assert!(!said.iter().any(|line| line.contains("FAILED")), "cut {cut}: {}", said.join("\n"));
        found.extend(said);
    }
    let found: Vec<String> = found.into_iter().filter(|line| line.starts_with("FOUND")).collect();
    eprintln!("{}", found.join("\n"));
    assert!(found.len() as u32 >= CUTS - 1, "{found:?}");
    // Both kinds were met, or the cuts were at no interesting moments.
    let number = |line: &str, word: &str| -> u64 {
        let rest = line.split_once(word).expect("the word").1;
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
    };
    let new = found.iter().filter(|line| number(line, "FOUND ") == number(line, "attempted ")).count();
    assert!(new > 0 && new < found.len() && number(found.last().expect("one"), "reached ") > 5, "{found:?}");
    fs::remove_dir_all(&dir).expect("removes");
}
