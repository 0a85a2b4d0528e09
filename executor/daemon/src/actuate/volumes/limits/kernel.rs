//! Whether this kernel has what keeps projects within their limits: it may be built without, and no mount option helps then.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::OnceLock,
};

/// The most bytes that are read of a list of the kernel's.
const MAX_LIST: u64 = 64 << 20;

/// The kernel's own names (kallsyms), of it and of the modules that are loaded.
const SYMBOLS: &str = "/proc/kallsyms";

/// A part of the kernel that some kernels lack.
pub(super) struct Part {
    /// As the kernel's configuration calls it.
    pub option: &'static str,
    /// A function that only it has.
    symbol: &'static str,
    /// The file of its module, where it can be one of its own.
    module: Option<&'static str>,
    known: OnceLock<Option<bool>>,
}

/// The files that ext4 keeps its quotas in (`fs/quota/quota_v2.c`).
pub(super) static EXT4: Part = Part {
    option: "CONFIG_QFMT_V2",
    symbol: "v2_read_file_info",
    module: Some("quota_v2.ko"),
    known: OnceLock::new(),
};

/// The quotas of XFS (`fs/xfs/xfs_qm.c`), of which a volume's file system has the module loaded.
pub(super) static XFS: Part = Part {
    option: "CONFIG_XFS_QUOTA",
    symbol: "xfs_qm_mount_quotas",
    module: None,
    known: OnceLock::new(),
};

impl Part {
    /// Whether the kernel is known to lack it. What can't be read says nothing. Blocking.
    pub fn is_lacking(&self) -> bool {
        let known = self.known.get_or_init(|| self.look());
        *known == Some(false)
    }

    /// None: it is not known.
    fn look(&self) -> Option<bool> {
        let symbols = read(Path::new(SYMBOLS)).ok()?;
        match has_symbol(symbols, self.symbol) {
            // A kernel that says the names of none lists its own all the same.
            Ok((_, 0)) | Err(_) => None,
            Ok((true, _)) => Some(true),
            Ok((false, _)) => Some(self.has_module()),
        }
    }

    /// Whether its module is there to be loaded.
    fn has_module(&self) -> bool {
        let Some(module) = self.module else {
            return false;
        };
        let release = rustix::system::uname();
        let Ok(release) = release.release().to_str() else {
            return false;
        };
        let list = Path::new("/lib/modules").join(release).join("modules.dep");
        read(&list).is_ok_and(|list| names_module(list, module))
    }
}

fn read(path: &Path) -> io::Result<impl BufRead> {
    Ok(BufReader::new(File::open(path)?.take(MAX_LIST)))
}

/// Whether a function is in a list of symbols (`ADDRESS KIND NAME [MODULE]` in a line), and how many are.
fn has_symbol(list: impl BufRead, symbol: &str) -> io::Result<(bool, usize)> {
    let mut count = 0;
    for line in list.lines() {
        count += 1;
        if line?.split_ascii_whitespace().nth(2) == Some(symbol) {
            return Ok((true, count));
        }
    }
    Ok((false, count))
}

/// Whether a list of modules (`PATH: NEEDS…` in a line) has one, compressed or not.
fn names_module(list: impl BufRead, module: &str) -> bool {
    let mut lines = list.lines().map_while(Result::ok);
    lines.any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        name.starts_with(module)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_has_is_in_its_lists() {
        let symbols = "0000000000000000 T dquot_initialize\n0000000000000000 t v2_read_file_info\t[quota_v2]\n";
        let has = |symbol| has_symbol(symbols.as_bytes(), symbol).expect("read");
        assert_eq!(has("v2_read_file_info"), (true, 2));
        assert_eq!(has("v2_read"), (false, 2));
        assert_eq!(has_symbol(&b""[..], "x").expect("read"), (false, 0));
        let modules = "kernel/fs/quota/quota_v2.ko.xz: kernel/fs/quota/quota_tree.ko.xz\n";
        assert!(names_module(modules.as_bytes(), "quota_v2.ko"));
        assert!(!names_module(modules.as_bytes(), "quota_tree.ko"));
    }
}
