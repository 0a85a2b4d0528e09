//! The host's settings that Tank changes: what each said before is recorded before it is changed,
//! and given back when the bridge goes, unless somebody else has changed it since.
//!
//! The record, `sysctls.json` in the run folder, is gone with a boot, as what was set is. It is
//! replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use tank_plan::{observed::ChangedSetting, target::Setting};

/// Where the kernel has its settings.
const SYSCTLS: &str = "/proc/sys";

/// The most bytes of a record that are read (1 MiB): a few settings, and the names of the host's links.
const MAX_RECORD: u64 = 1 << 20;

/// What was changed, by path.
type Changed = BTreeMap<String, ChangedSetting>;

/// What a setting says, by its path below `/proc/sys`. None: there is no such setting.
pub fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new(SYSCTLS).join(path));
    text.ok().map(|text| text.trim().to_owned())
}

fn write(path: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new(SYSCTLS).join(path), value)
}

/// What a link of Tank's own needs that is on somebody else's network, below `net` and with `{}` for
/// its name: it answers no neighbour but those that are reached by it, and listens to no router. It
/// goes with the link.
const OF_HOST_LINK: [(&str, &str); 2] = [
    ("net/ipv4/conf/{}/arp_filter", "1"),
    ("net/ipv6/conf/{}/accept_ra", "0"),
];

/// Whether a link of Tank's says what [`set_of_host_link`] sets.
pub fn is_host_link(name: &str) -> bool {
    let mut all = OF_HOST_LINK.iter();
    all.all(|(path, value)| {
        let found = read(&path.replace("{}", name));
        found.is_none_or(|found| found == *value)
    })
}

/// Sets what such a link needs. A setting that the kernel does not have is left out.
///
/// # Errors
/// What the kernel gives.
pub fn set_of_host_link(name: &str) -> Result<(), tank_sys::Error> {
    for (path, value) in OF_HOST_LINK {
        let path = path.replace("{}", name);
        match write(&path, value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let what = format!("set {}", path.replace('/', "."));
                return Err(tank_sys::Error::new(what, error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The record of a run folder.
#[derive(Debug)]
pub struct Record(PathBuf);

/// Held by who changes the record: bridges are made and removed side by side.
static CHANGING: Mutex<()> = Mutex::new(());

impl Record {
    pub fn of(run_dir: &Path) -> Self {
        Self(run_dir.join("sysctls.json"))
    }

    /// What Tank has changed since the host was booted.
    ///
    /// # Errors
    /// When the record is there and can't be read.
    pub fn read(&self) -> io::Result<Changed> {
        use io::Read;
        let file = match fs::File::open(&self.0) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Changed::new()),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(MAX_RECORD).read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What one that can't be read is renamed to.
    pub fn damaged(&self) -> PathBuf {
        self.0.with_extension("json.damaged")
    }

    /// Renames a record that holds something else than a record, and writes one anew of what
    /// `known` still knows. Returns why it can't be read; none: it can.
    ///
    /// # Errors
    /// What the kernel gives, of a file that can't be read, or written.
    pub fn mend(&self, known: impl FnOnce() -> io::Result<Changed>) -> io::Result<Option<String>> {
        let why = match self.read() {
            Ok(_) => return Ok(None),
            Err(error) if error.raw_os_error().is_some() => return Err(error),
            Err(error) => error.to_string(),
        };
        let known = known()?;
        fs::rename(&self.0, self.damaged())?;
        if !known.is_empty() {
            self.replace(&known)?;
        }
        Ok(Some(why))
    }

    fn replace(&self, changed: &Changed) -> io::Result<()> {
        if changed.is_empty() {
            return fs::remove_file(&self.0);
        }
        let next = self.0.with_extension("next");
        fs::write(&next, serde_json::to_vec(changed)?)?;
        fs::rename(next, &self.0)
    }

    /// Sets a setting of the host, after what it said is recorded. One that says so already is left
    /// alone, and one that the kernel does not have.
    ///
    /// # Errors
    /// What the kernel gives.
    pub fn set(&self, setting: &Setting) -> io::Result<()> {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let Setting { path, value, links } = setting;
        let Some(before) = read(path).filter(|found| found != value) else {
            return Ok(());
        };
        // A setting of one of Tank's own links goes with that.
        let mut changed = self.read()?;
        let entry = ChangedSetting {
            before,
            set: value.clone(),
            links: links.clone(),
            along: along(path, value),
        };
        changed.insert(path.clone(), entry);
        self.replace(&changed)?;
        write(path, value)
    }

    /// Gives back what still says what Tank set it to.
    ///
    /// # Errors
    /// What the kernel gives; what was given back until then is so, and the record stays.
    pub fn restore(&self, restore: &Changed) -> io::Result<()> {
        let _changing = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut left = self.read()?;
        if left.is_empty() {
            return Ok(());
        }
        for (path, changed) in restore {
            if read(path).is_some_and(|found| found == changed.set) {
                write(path, &changed.before)?;
                for path in &changed.along {
                    // Its link may be gone.
                    match write(path, &changed.set) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
            }
            left.remove(path);
        }
        self.replace(&left)
    }
}

/// The settings of single links that already say what the one for all of them is about to be set to:
/// the kernel sets them along with it, to both values.
fn along(path: &str, value: &str) -> BTreeSet<String> {
    let dir = match path {
        "net/ipv4/ip_forward" => "net/ipv4/conf",
        "net/ipv6/conf/all/forwarding" => "net/ipv6/conf",
        _ => return BTreeSet::new(),
    };
    let links = fs::read_dir(Path::new(SYSCTLS).join(dir))
        .into_iter()
        .flatten();
    let paths = links.flatten().filter_map(|link| {
        let name = link.file_name().into_string().ok()?;
        Some(format!("{dir}/{name}/forwarding"))
    });
    paths
        .filter(|path| read(path).as_deref() == Some(value))
        .collect()
}
