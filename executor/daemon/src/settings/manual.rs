//! tank.toml(5): the page for `man` that says what the file may say. It is made of the file that is installed, which
//! has every key with its default; the tests hold that.

/// What is installed as `/etc/tank/tank.toml`.
const INSTALLED: &str = include_str!("../../../../packaging/tank.toml");

/// The page, for man(7).
pub fn page() -> String {
    let mut page = format!(
        ".TH TANK.TOML 5 \"\" \"Tank {}\"\n.nh\n\
         .SH NAME\ntank.toml \\- how tankd is set up\n\
         .SH SYNOPSIS\n/etc/tank/tank.toml\n\
         .SH DESCRIPTION\n\
         The file is read when tankd starts. It is optional, and so is each key: what is shown beside a key holds without it. \
         An unknown key is an error, at its line.\n\
         .SH KEYS\n",
        env!("CARGO_PKG_VERSION")
    );
    // The first paragraph is about the file itself.
    for block in INSTALLED.trim().split("\n\n").skip(1) {
        page.push_str(&entry(block));
    }
    page.push_str(
        ".SH FILES\nAnother file is read where tankd is given \\fB\\-\\-config\\fR; that one has to be there.\n\
         .SH SEE ALSO\ntankd(8), tank(1)\n",
    );
    page
}

/// A paragraph of the file: its keys, what they are for, and an example.
fn entry(block: &str) -> String {
    let lines = || block.lines().filter_map(|line| line.strip_prefix('#'));
    let mut text = String::new();
    let keys = lines().filter(|line| !line.is_empty() && !line.starts_with(' '));
    for (at, key) in keys.enumerate() {
        text.push_str(if at == 0 { ".TP\n" } else { ".TQ\n" });
        text.push_str(&format!("\\fB{}\\fR\n", plain(key)));
    }
    let mut example = false;
    for line in lines().filter(|line| line.is_empty() || line.starts_with(' ')) {
        let (begins, line) = match line.strip_prefix("    ") {
            Some(line) => (true, line),
            None => (false, line.trim_start()),
        };
        // An empty line within an example is one of it; any other is between prose and example.
        if line.is_empty() {
            text.push_str(if example { "\n" } else { "" });
            continue;
        }
        if begins && !example {
            text.push_str(".RS\n.PP\n.EX\n");
            example = true;
        }
        text.push_str(&plain(line));
        text.push('\n');
    }
    if example {
        text.push_str(".EE\n.RE\n");
    }
    text
}

/// A line as roff(7) shows it as it is.
fn plain(line: &str) -> String {
    let line = line.replace('\\', "\\e").replace('-', "\\-");
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line,
    }
}
