//! The power is cut, again and again, at random moments of a host that switches all the time: a
//! virtual machine is killed and boots again from its disk. Its memory is gone, and its page cache
//! with it. A disk has a cache too, and that of a killed machine is the host's page cache, which
//! would keep what a real one loses: so after every other cut the disk is what it was at the boot
//! and what the machine wrote before its last flush, and nothing else ([`Disk::lose`]); after the
//! others all that was written has reached it. What the next boot finds is the old generation or
//! the new one, whole, and nothing beside it; the script in it checks that
//! (`tests/fixtures/vm-power.sh`).

use std::{
    fs,
    hash::{BuildHasher, RandomState},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};
use tank_tests::{bin, fixtures, repo};

fn run(program: &str, args: &[&std::ffi::OsStr]) {
    assert!(
        Command::new(program)
            .args(args)
            .status()
            .expect(program)
            .success(),
        "{program} {args:?}"
    );
}

/// How often the power is cut.
const CUTS: u32 = 20;

/// The longest a boot may take until it says that it found its host in order.
const BOOT: Duration = Duration::from_secs(300);

/// A disk with a cache of its own.
struct Disk {
    file: PathBuf,
    /// What it was when its machine booted.
    before: PathBuf,
    /// What the machine has written since, and each flush.
    log: PathBuf,
}

impl Disk {
    fn new(dir: &Path) -> Self {
        let [file, before, log] = ["disk", "disk.before", "disk.log"].map(|name| dir.join(name));
        run(
            "truncate",
            &["-s".as_ref(), "512M".as_ref(), file.as_os_str()],
        );
        run("mkfs.ext4", &["-q".as_ref(), file.as_os_str()]);
        Self { file, before, log }
    }

    /// Keeps what the disk is and begins an empty log.
    fn begin(&self) {
        run(
            "cp",
            &[
                "--sparse=always".as_ref(),
                self.file.as_os_str(),
                self.before.as_os_str(),
            ],
        );
        fs::File::create(&self.log)
            .expect("a log")
            .set_len(8 << 30)
            .expect("a sparse file");
    }

    /// Loses what is in the disk's cache: it becomes what it was at the boot and what was written
    /// before the last flush that was answered. Returns how many writes that does not have.
    ///
    /// The log is that of dm-log-writes (Linux, `drivers/md/dm-log-writes.c`): a sector that begins
    /// with a magic number and the version; then for each entry a sector with where it begins, how
    /// many sectors it has, its flags; then what was written. Numbers have 64 bits and are
    /// little-endian. An entry is in the log before the machine is answered.
    fn lose(&self) -> usize {
        const SECTOR: u64 = 512;
        const MAGIC: u64 = 0x6a_7366_7773_6872;
        const FLUSH: u64 = 1;
        const DISCARD: u64 = 4;
        fs::rename(&self.before, &self.file).expect("renamed");
        let mut disk = fs::OpenOptions::new()
            .write(true)
            .open(&self.file)
            .expect("the disk");
        let mut log = BufReader::new(fs::File::open(&self.log).expect("the log"));
        let head = |log: &mut BufReader<fs::File>| -> [u64; 3] {
            let mut sector = [0; SECTOR as usize];
            log.read_exact(&mut sector).expect("a sector");
            std::array::from_fn(|i| {
                u64::from_le_bytes(sector[i * 8..][..8].try_into().expect("eight bytes"))
            })
        };
        let [magic, version, _] = head(&mut log);
        assert_eq!((magic, version), (MAGIC, 1), "it is no log of writes");
        let mut cached: Vec<(u64, Vec<u8>)> = Vec::new();
        loop {
            let [begin, sectors, flags] = head(&mut log);
            if (sectors, flags) == (0, 0) {
                return cached.len();
            }
            if flags & FLUSH != 0 {
                for (at, bytes) in cached.drain(..) {
                    disk.seek(SeekFrom::Start(at)).expect("a place");
                    disk.write_all(&bytes).expect("written");
                }
            }
            if flags & DISCARD == 0 && sectors > 0 {
                let mut bytes = vec![0; usize::try_from(sectors * SECTOR).expect("fits")];
                log.read_exact(&mut bytes).expect("what was written");
                cached.push((begin * SECTOR, bytes));
            }
        }
    }
}

struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Machine {
    fn boot(image: &Path, disk: &Disk) -> Self {
        disk.begin();
        let mut command = Command::new(repo().join("scripts/vm.sh"));
        command
            .arg("--boot")
            .args([image, &disk.file, &disk.log])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut qemu = command.spawn().expect("vm.sh");
        let output = BufReader::new(qemu.stdout.take().expect("a console"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                if sender
                    .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
        Self {
            qemu,
            lines,
            said: Vec::new(),
        }
    }

    /// Reads the console for so long; true when `until` was said.
    fn read(&mut self, time: Duration, until: Option<&str>) -> bool {
        let deadline = Instant::now() + time;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
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

    /// As pulling the plug: what the machine had in its memory is lost.
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
    let (image, disk) = (dir.join("image"), Disk::new(&dir));
    // Forty images, each with a layer of its own: what a pull was at when the power went has to be
    // whole or not there.
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
    let packed = Command::new("sh")
        .args(["-c", &script])
        .current_dir(&dir)
        .status()
        .expect("sh");
    assert!(packed.success());
    let target = bin("tank")
        .parent()
        .and_then(std::path::Path::parent)
        .expect("the target folder")
        .to_owned();
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
    let mut lost = Vec::new();
    for cut in 0..=CUTS {
        let mut machine = Machine::boot(&image, &disk);
        let ready = machine.read(BOOT, Some("READY"));
        assert!(
            ready,
            "boot {cut}, after cuts at {delays:?}:\n{}",
            machine.said.join("\n")
        );
        if cut == CUTS {
            found.extend(machine.cut());
            break;
        }
        // A switch takes about two seconds here: anywhere in the first few of them; and now and
        // then just when one begins, before it can have committed, or just when one has, with and
        // without what the disk had in its cache; and in the middle of a collection of old generations.
        let delay = Duration::from_millis(RandomState::new().hash_one(cut) % 6_000);
        machine.read(delay, None);
        if cut % 4 == 3 {
            assert!(
                machine.read(BOOT, Some("ATTEMPTED")),
                "it switches no more: {}",
                machine.said.join("\n")
            );
        }
        if cut % 4 == 1 || cut % 8 == 2 {
            assert!(
                machine.read(BOOT, Some("COMMITTED")),
                "it commits no more: {}",
                machine.said.join("\n")
            );
        }
        if cut % 8 == 6 {
            assert!(
                machine.read(BOOT, Some("COLLECTING")),
                "it collects no more: {}",
                machine.said.join("\n")
            );
            machine.read(delay / 40, None);
        }
        delays.push(delay);
        let said = machine.cut();
        if cut % 2 == 0 {
            lost.push(disk.lose());
        }
        assert!(
            !said.iter().any(|line| line.contains("FAILED")),
            "cut {cut}: {}",
            said.join("\n")
        );
        found.extend(said);
    }
    let found: Vec<String> = found
        .into_iter()
        .filter(|line| line.starts_with("FOUND"))
        .collect();
    eprintln!("{}\nwrites that were lost: {lost:?}", found.join("\n"));
    assert!(
        lost.iter().any(|writes| *writes > 0),
        "no cut met anything that was not flushed"
    );
    assert!(found.len() as u32 >= CUTS - 1, "{found:?}");
    // Both kinds were met, or the cuts were at no interesting moments.
    let number = |line: &str, word: &str| -> u64 {
        let rest = line.split_once(word).expect("the word").1;
        rest.chars()
            .take_while(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .expect("a number")
    };
    let new = found
        .iter()
        .filter(|line| number(line, "FOUND ") == number(line, "attempted "))
        .count();
    assert!(
        new > 0 && new < found.len() && number(found.last().expect("one"), "reached ") > 5,
        "{found:?}"
    );
    fs::remove_dir_all(&dir).expect("removes");
}
