//! Paths of streams, as lists of names.

use crate::{MAX_LEVELS, MAX_PATH, Problem};

/// The names of a path, from the top: no `..`, and what leads nowhere left out. An absolute path is one from the top.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>, Problem> {
    if path.len() > MAX_PATH {
        return Err(Problem::TooLong);
    }
    if path.contains(&0) {
        return Err(Problem::NoName);
    }
    let parts: Vec<&[u8]> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    if parts.iter().any(|part| *part == b"..") {
        return Err(Problem::Outside);
    }
    if parts.len() > MAX_LEVELS {
        return Err(Problem::TooDeep);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_never_leads_out() {
        let ok = |path: &str| {
            let parts = parts(path.as_bytes()).expect(path);
            let text = parts.iter().map(|part| String::from_utf8_lossy(part));
            text.collect::<Vec<_>>().join("|")
        };
        assert_eq!(ok("a/b"), "a|b");
        assert_eq!(ok("./a//b/."), "a|b");
        assert_eq!(ok("/etc/passwd"), "etc|passwd");
        assert_eq!(ok("./"), "");
        assert_eq!(ok("..."), "...");
        for path in ["..", "a/..", "../a", "a/../../b", "/.."] {
            assert!(
                matches!(parts(path.as_bytes()), Err(Problem::Outside)),
                "{path}"
            );
        }
        assert!(matches!(parts(b"a\0b"), Err(Problem::NoName)));
        let deep = "a/".repeat(MAX_LEVELS + 1);
        assert!(matches!(parts(deep.as_bytes()), Err(Problem::TooDeep)));
        let long = "a".repeat(MAX_PATH + 1);
        assert!(matches!(parts(long.as_bytes()), Err(Problem::TooLong)));
    }
}
