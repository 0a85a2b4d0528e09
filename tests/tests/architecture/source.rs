//! Rust source as the tests of the architecture read it: without comments and texts, its paths to
//! other modules, and its functions with their lengths.
//!
//! It is no parser. It relies on what the formatter makes of a file: one item begins a line, and a
//! block ends on a line of its own, at the indentation of the line that began it.

use std::path::{Path, PathBuf};

/// A file of a crate.
pub struct SourceFile {
    /// Below the repository.
    pub path: PathBuf,
    pub text: String,
    /// The text with every comment, string and character literal blanked. Lines stay lines.
    pub code: String,
    /// The modules it is in, from the crate's root.
    pub module: Vec<String>,
}

/// A path to another module: `crate::a::b`, or what `super::b` stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Reference {
    /// Counted from 1.
    pub line: usize,
    /// From the crate's root.
    pub path: Vec<String>,
}

/// A function and how many lines it has, its signature and both braces included.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
    /// A comment `// long: <reason>` stands above it.
    pub excused: bool,
}

/// Every Rust file below `src` of the crate at `root`, in order of their paths.
pub fn of_crate(repo: &Path, root: &str) -> Vec<SourceFile> {
    let src = repo.join(root).join("src");
    let mut files = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}")) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("read");
        SourceFile {
            module: module(path.strip_prefix(&src).expect("below src")),
            path: path
                .strip_prefix(repo)
                .expect("in the repository")
                .to_owned(),
            code: blank(&text),
            text,
        }
    };
    files.into_iter().map(source).collect()
}

/// `pods/shim.rs` is the module `pods::shim`, and `pods/mod.rs` is `pods`.
fn module(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts
        .last()
        .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
    {
        parts.pop();
    }
    parts
}

/// Replaces comments and literals by spaces.
pub fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if let Some(end) = end {
            for byte in &mut code[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
        }
        at = end.unwrap_or(at + 1);
    }
    String::from_utf8(code).expect("only whole literals are blanked")
}

/// Where the comment or literal that begins at `at` ends, if one does.
fn literal_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let begins_word = at == 0 || !is_word(bytes[at - 1]);
    if rest.starts_with(b"//") {
        Some(at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()))
    } else if rest.starts_with(b"/*") {
        Some(at + block_comment(rest))
    } else if rest[0] == b'"' {
        Some(at + quoted(rest, b'"'))
    } else if begins_word && (rest[0] == b'r' || rest.starts_with(b"br") || rest.starts_with(b"cr"))
    {
        raw_string(rest).map(|length| at + length)
    } else if rest[0] == b'\'' {
        character(rest).map(|length| at + length)
    } else {
        None
    }
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// `r"…"`, `r#"…"#`, with `b` or `c` before it. None: a name that begins like one, as `r#type` does.
fn raw_string(rest: &[u8]) -> Option<usize> {
    let begin = rest.iter().position(|byte| *byte == b'r')? + 1;
    let hashes = rest[begin..].iter().take_while(|b| **b == b'#').count();
    if rest.get(begin + hashes) != Some(&b'"') {
        return None;
    }
    let end: Vec<u8> = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let body = begin + hashes + 1;
    let length = rest[body..].windows(end.len()).position(|w| w == end)?;
    Some(body + length + end.len())
}

/// `'a'`, `'\n'`, `'…'`. None: a lifetime or a label.
fn character(rest: &[u8]) -> Option<usize> {
    if rest.get(1) == Some(&b'\\') {
        return Some(quoted(rest, b'\''));
    }
    let width = match rest.get(1)? {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    };
    (rest.get(1 + width) == Some(&b'\'')).then_some(width + 2)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl SourceFile {
    /// Where this file's code names another module of its crate. Use declarations are told apart
    /// into the paths that they import, however they are nested.
    pub fn references(&self) -> Vec<Reference> {
        let mut found = Vec::new();
        let mut read = 0;
        for (at, word) in words(&self.code) {
            let path_begins = at >= read
                && !self.code[..at].ends_with("::")
                && ["crate", "super", "self"].contains(&word)
                && self.code[at + word.len()..].starts_with("::");
            if path_begins {
                let line = 1 + self.code[..at].matches('\n').count();
                let mut module = self.module.clone();
                module.extend(inline_modules(&self.code, at));
                let mut rest = &self.code[at..];
                for path in paths(&mut rest) {
                    found.push(Reference {
                        line,
                        path: resolve(&module, &path),
                    });
                }
                read = self.code.len() - rest.len();
            }
        }
        found
    }

    /// Its functions outside of test modules.
    pub fn functions(&self) -> Vec<Function> {
        let lines: Vec<&str> = self.code.lines().collect();
        let original: Vec<&str> = self.text.lines().collect();
        let mut functions = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            if lines[at].trim() == "#[cfg(test)]" {
                let item = lines[at + 1..].iter().position(|line| {
                    !line.trim_start().starts_with("#[") && !line.trim().is_empty()
                });
                at = block_end(&lines, at + 1 + item.unwrap_or(0)) + 1;
                continue;
            }
            if let Some(name) = function_name(lines[at]) {
                functions.push(Function {
                    name: name.to_owned(),
                    line: at + 1,
                    lines: block_end(&lines, at) - at + 1,
                    excused: is_excused(&original, at),
                });
            }
            at += 1;
        }
        functions
    }
}

/// The words of a text and where they begin.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.split(move |c| !is_part(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// The modules with a body in this file that `at` is in, outermost first.
fn inline_modules(code: &str, at: usize) -> Vec<String> {
    let mut open: Vec<Option<String>> = Vec::new();
    let mut header = String::new();
    for c in code[..at].chars() {
        match c {
            '{' => {
                let mut last = header.split_whitespace().rev();
                let (name, keyword) = (last.next(), last.next());
                open.push(name.filter(|_| keyword == Some("mod")).map(str::to_owned));
                header.clear();
            }
            '}' => {
                open.pop();
                header.clear();
            }
            ';' => header.clear(),
            c => header.push(c),
        }
    }
    open.into_iter().flatten().collect()
}

/// Reads one path, or every path of a group: `crate::{a, b::{self, c}}`.
fn paths(rest: &mut &str) -> Vec<Vec<String>> {
    let mut prefix: Vec<String> = Vec::new();
    loop {
        *rest = rest.trim_start();
        if let Some(group) = rest.strip_prefix('{') {
            *rest = group;
            return group_paths(&prefix, rest);
        }
        let length = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        if length > 0 {
            prefix.push(rest[..length].to_owned());
        }
        *rest = rest[length..].trim_start();
        match rest.strip_prefix("::") {
            Some(more) => *rest = more,
            None => return vec![prefix],
        }
    }
}

fn group_paths(prefix: &[String], rest: &mut &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    loop {
        *rest = rest.trim_start();
        if rest.is_empty() {
            return all;
        }
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return all;
        }
        if let Some(after) = rest.strip_prefix([',', '*']) {
            *rest = after;
            continue;
        }
        let before = rest.len();
        for path in paths(rest) {
            all.push([prefix, &path].concat());
        }
        // `a as b`: the second name is no path.
        if let Some(alias) = rest.strip_prefix("as ") {
            let end = alias.find([',', '}']).unwrap_or(alias.len());
            *rest = &alias[end..];
        }
        assert!(rest.len() < before, "not understood: {rest:.60}");
    }
}

/// A path from the crate's root. Code in `module` wrote it.
fn resolve(module: &[String], path: &[String]) -> Vec<String> {
    let mut full: Vec<String> = module.to_vec();
    for (at, segment) in path.iter().enumerate() {
        match segment.as_str() {
            "crate" if at == 0 => full.clear(),
            "self" => {}
            "super" => drop(full.pop()),
            name => full.push(name.to_owned()),
        }
    }
    full
}

/// The name of the function whose signature begins on this line.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    while let Some(after) = ["pub", "const", "async", "unsafe", "extern"]
        .iter()
        .find_map(|word| rest.strip_prefix(word))
    {
        // `pub(crate) fn`, and what is left of `extern "C" fn`.
        let after = match after.strip_prefix('(') {
            Some(inside) => inside.split_once(')')?.1,
            None => after,
        };
        rest = after.strip_prefix(' ')?.trim_start();
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// The last line of the item that begins on line `begin`: the line that closes its block, or that
/// ends with a semicolon before any block is opened.
fn block_end(lines: &[&str], begin: usize) -> usize {
    let mut depth = 0i32;
    let mut opened = false;
    for (at, line) in lines.iter().enumerate().skip(begin) {
        for c in line.chars() {
            match c {
                '{' | '(' | '[' => (depth, opened) = (depth + 1, opened || c == '{'),
                '}' | ')' | ']' => depth -= 1,
                ';' if depth == 0 && !opened => return at,
                _ => {}
            }
        }
        if opened && depth <= 0 {
            return at;
        }
    }
    lines.len() - 1
}

/// Whether the comments and attributes right above line `at` give a reason.
fn is_excused(lines: &[&str], at: usize) -> bool {
    lines[..at]
        .iter()
        .rev()
        .map(|line| line.trim_start())
        .take_while(|line| line.starts_with("//") || line.starts_with("#["))
        .any(|line| {
            line.strip_prefix("// long: ")
                .is_some_and(|reason| !reason.trim().is_empty())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(module: &[&str], text: &str) -> SourceFile {
        SourceFile {
            path: PathBuf::new(),
            text: text.to_owned(),
            code: blank(text),
            module: module.iter().map(|part| (*part).to_owned()).collect(),
        }
    }

    fn found(module: &[&str], text: &str) -> Vec<String> {
        let references = source(module, text).references();
        references
            .iter()
            .map(|found| format!("{}:{}", found.line, found.path.join("::")))
            .collect()
    }

    #[test]
    fn literals_and_comments_are_blanked() {
        let text = "a /* crate::x /* y */ z */ b // crate::c\n'\\'' 'l: \"crate::\\\"d\" r#\"crate::\"e\"# '\u{fc}' r#type f";
        let code = blank(text);
        assert_eq!(
            code.split_whitespace().collect::<Vec<_>>(),
            ["a", "b", "'l:", "r#type", "f"]
        );
        assert_eq!(code.matches('\n').count(), 1);
    }

    #[test]
    fn groups_are_taken_apart() {
        let text = "use std::fs;\nuse crate::{\n    a::{self, b as bee, c::{D, E}},\n    f,\n};\nfn g() { crate::h::i(); }";
        assert_eq!(
            found(&["x"], text),
            ["2:a", "2:a::b", "2:a::c::D", "2:a::c::E", "2:f", "6:h::i"]
        );
        assert_eq!(found(&["x"], "use crate::a::*;"), ["1:a"]);
    }

    #[test]
    fn relative_paths_are_resolved() {
        let text = "use super::b;\nuse self::c;\nmod tests {\n    use super::*;\n    use super::super::d;\n}\nuse super::{e, super::f};";
        assert_eq!(
            found(&["x", "y"], text),
            ["1:x::b", "2:x::y::c", "4:x::y", "5:x::d", "7:x::e", "7:f"]
        );
        assert_eq!(found(&["x"], "pub(crate) fn a() {}"), Vec::<String>::new());
    }

    #[test]
    fn functions_are_measured() {
        let text = "// long: a table\n#[must_use]\npub(crate) async fn a(\n    b: [u8; 2],\n) {\n    c(\"}\");\n}\n\nimpl D {\n    fn e(&self) {}\n}\n\ntrait F {\n    fn g();\n}\n\n#[cfg(test)]\nmod tests {\n    fn h() {}\n}\nconst fn i() {\n}\n";
        let functions = source(&[], text).functions();
        let seen: Vec<(&str, usize, usize, bool)> = functions
            .iter()
            .map(|f| (f.name.as_str(), f.line, f.lines, f.excused))
            .collect();
        assert_eq!(
            seen,
            [
                ("a", 3, 5, true),
                ("e", 10, 1, false),
                ("g", 14, 1, false),
                ("i", 21, 2, false)
            ]
        );
    }
}
