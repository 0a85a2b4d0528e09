//! Images that a test packs.

use crate::{Host, fixtures, repo};
use std::process::Command;

/// What a script may call to add an entry to the layer `t`, a `tarfile`.
const WORDS: &str = r"
import tarfile, io, sys
t = tarfile.open(sys.argv[1], 'w', format=tarfile.PAX_FORMAT)
def add(name, kind, mode=0o644, uid=0, gid=0, data=b'', link='', pax={}, time=1000000000):
    i = tarfile.TarInfo(name)
    i.type, i.mode, i.uid, i.gid, i.linkname, i.mtime = kind, mode, uid, gid, link, time
    i.size, i.pax_headers = len(data), dict(pax)
    if kind in (tarfile.CHRTYPE, tarfile.BLKTYPE): i.devmajor, i.devminor = 1, 1
    t.addfile(i, io.BytesIO(data))
def folder(name, mode=0o755, uid=0, gid=0, **more): add(name, tarfile.DIRTYPE, mode, uid, gid, **more)
def file(name, data=b'', mode=0o644, uid=0, gid=0, **more): add(name, tarfile.REGTYPE, mode, uid, gid, data, **more)
def link(name, to, **more): add(name, tarfile.SYMTYPE, 0o777, link=to, **more)
def same(name, to): add(name, tarfile.LNKTYPE, link=to)
def fifo(name): add(name, tarfile.FIFOTYPE)
def device(name): add(name, tarfile.CHRTYPE, 0o666)
";

/// Packs a layer that a script in Python makes (`folder`, `file`, `link`, `same`, `fifo`, `device`) on
/// top of BusyBox: the image's reference.
#[track_caller]
pub fn image(host: &Host, tag: &str, script: &str) -> String {
    let layer = host.dir.join(format!("{tag}.tar"));
    let python = |args: &[&std::ffi::OsStr]| {
        let output = Command::new("python3").args(args).output();
        let output = output.expect("python3");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    };
    let script = format!("{WORDS}{script}\nt.close()\n");
    python(&["-c".as_ref(), script.as_ref(), layer.as_ref()]);
    python(&[
        repo().join("tests/fixtures/pack.py").as_ref(),
        fixtures().join("busybox").as_ref(),
        host.dir.join("images").as_ref(),
        tag.as_ref(),
        layer.as_ref(),
    ]);
    format!("oci:./images:{tag}")
}
