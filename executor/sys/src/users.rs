//! What the users of this host are called, for people.

use std::io::Read;

/// The most bytes of `/etc/passwd` that are read.
const MAX_PASSWD: u64 = 1 << 20;

/// The name of a user as `/etc/passwd` has it (passwd(5)), or `uid 1234`: of one that only a directory service knows nothing is
/// asked, since that may take long. Nothing is decided by it.
pub fn named(uid: u32) -> String {
    let mut text = Vec::new();
    let read = std::fs::File::open("/etc/passwd")
        .and_then(|file| file.take(MAX_PASSWD).read_to_end(&mut text));
    let found = match read {
        Ok(_) => find(&String::from_utf8_lossy(&text), uid),
        Err(_) => None,
    };
    found.unwrap_or_else(|| match uid {
        0 => "root".to_owned(),
        other => format!("uid {other}"),
    })
}

/// The first name that a user has. One that is no plain word is none.
fn find(passwd: &str, uid: u32) -> Option<String> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?.to_owned(), fields.nth(1)?);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_it = number.parse() == Ok(uid) && !name.is_empty() && name.chars().all(is_plain);
        is_it.then_some(name)
    };
    passwd.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_that_the_host_gives_it() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbad name:x:7:7::/:\nanna:x:1000:1000:Anna:/home/anna:/bin/sh\n\
                      again:x:1000:1000::/:\nshort:x\n\x1b[2J:x:8:8::/:\n";
        let of = |uid| find(passwd, uid);
        assert_eq!(of(0).as_deref(), Some("root"));
        assert_eq!(of(1000).as_deref(), Some("anna"));
        assert_eq!((of(7), of(8), of(9)), (None, None, None));
        assert_eq!(named(0), "root");
        assert_eq!(named(u32::MAX - 7), format!("uid {}", u32::MAX - 7));
    }
}
