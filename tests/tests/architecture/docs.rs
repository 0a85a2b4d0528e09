//! What the documents point to is there: paths, types, and the eight stops of the walk.

use std::{collections::BTreeSet, process::Command};
use tank_tests::repo;

/// The documents, below the repository: those at its root, every page of `docs/`, and the guides of examples.
fn documents() -> Vec<String> {
    let inside = |folder: &str| -> Vec<String> {
        let entries = std::fs::read_dir(repo().join(folder)).expect(folder);
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| format!("{folder}/{}", name.to_string_lossy()));
        names.collect()
    };
    let (pages, examples) = (inside("docs"), inside("examples"));
    let guides = examples
        .iter()
        .map(|example| format!("{example}/README.md"));
    let guides = guides.filter(|guide| repo().join(guide).exists());
    let mut documents: Vec<String> = pages.into_iter().chain(guides).collect();
    documents.push("examples/README.md".to_owned());
    documents.retain(|name| name.ends_with(".md"));
    documents.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned));
    documents.sort();
    documents
}

/// How long a line of prose is at most, of the pages for users that are written by hand.
const WIDTH: usize = 120;
const ANY_WIDTH: [&str; 4] = [
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/design.md",
    "docs/reference.md",
];

/// How long the README is at most: what is more belongs into a page of its own.
const README: usize = 250;

/// The folders whose paths the documents write from the repository's root.
const ROOMS: [&str; 7] = [
    "compiler/",
    "executor/",
    "stdlib/",
    "examples/",
    "tests/",
    "scripts/",
    "docs/",
];

fn text(document: &str) -> String {
    let path = repo().join(document);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"))
}

/// What stands between backticks on one line.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn every_path_of_the_documents_is_there() {
    let mut found = 0;
    for document in documents() {
        let text = text(&document);
        let paths = quoted(&text).filter(|path| {
            ROOMS.iter().any(|room| path.starts_with(room)) && !path.contains([' ', '*', '{', '<'])
        });
        for path in paths {
            assert!(
                repo().join(path).exists(),
                "{document}: `{path}` is not there"
            );
            found += 1;
        }
    }
    assert!(found >= 40, "only {found} paths were found");
}

#[test]
fn every_link_of_the_documents_leads_to_a_file() {
    for document in documents() {
        let text = text(&document);
        let folder = repo().join(&document);
        let folder = folder.parent().expect("a folder");
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("a first part");
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match file {
                "" => repo().join(&document),
                file => folder.join(file),
            };
            assert!(file.exists(), "{document}: {link}");
            if !anchor.is_empty() {
                let target = std::fs::read_to_string(&file).expect("a document");
                assert!(
                    anchors(&target).contains(anchor),
                    "{document}: {link}: there is no such heading"
                );
            }
        }
    }
}

/// The names by which headings are linked to: in small letters, with hyphens for spaces and nothing for punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let name = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        });
        kept.collect()
    };
    headings.map(name).collect()
}

#[test]
fn a_page_has_lines_that_a_terminal_shows() {
    for document in documents() {
        if ANY_WIDTH.contains(&document.as_str()) {
            continue;
        }
        // A table's line is as long as the table is wide, and a figure's as long as the figure.
        for (at, line) in text(&document).lines().enumerate() {
            let is_prose = !line.starts_with('|') && !line.contains(['█', '│']);
            let long = line.chars().count();
            assert!(
                !is_prose || long <= WIDTH,
                "{document}:{}: {long}: {line}",
                at + 1
            );
        }
    }
}

#[test]
fn the_readme_is_short_and_the_index_has_every_page() {
    let readme = text("README.md");
    assert!(
        readme.lines().count() <= README,
        "{}",
        readme.lines().count()
    );
    let index = text("docs/README.md");
    for document in documents() {
        let page = document
            .strip_prefix("docs/")
            .filter(|page| *page != "README.md");
        if let Some(page) = page {
            assert!(
                index.contains(&format!("({page})")),
                "docs/README.md: {page}"
            );
        }
    }
}

/// The figures of the README are those of the page that says how they were measured, column by column.
#[test]
fn the_figures_of_the_readme_are_those_of_their_page() {
    let (readme, page) = (text("README.md"), text("docs/speed.md"));
    let table = readme
        .split("\n| milliseconds |")
        .nth(1)
        .expect("the table");
    let mut rows = table.lines().take_while(|line| !line.is_empty());
    let names = cells(rows.next().expect("its head"));
    let head = page.lines().find(|line| line.starts_with("| | Tank |"));
    let head = cells(head.expect("the page's table"));
    let mut found = 0;
    for row in rows.skip(1).map(cells) {
        let begin = format!("| {} |", row[0]);
        let full = page.lines().find(|line| line.starts_with(&begin));
        let full = cells(full.expect(&begin));
        for (name, figure) in names.iter().zip(&row[1..]) {
            let at = head.iter().position(|head| head == name).expect(name);
            assert_eq!(*figure, full[at], "{begin} {name}");
            found += 1;
        }
    }
    assert_eq!(found, 5 * 6);
}

fn cells(line: &str) -> Vec<String> {
    let cells = line.trim().trim_matches('|').split('|');
    cells.map(|cell| cell.trim().to_owned()).collect()
}

/// The rows of the table that begins like this, without its head.
fn rows(document: &str, begin: &str) -> Vec<Vec<String>> {
    let text = text(document);
    let lines = text.lines().skip_while(|line| !line.starts_with(begin));
    let lines = lines.take_while(|line| line.starts_with('|')).skip(2);
    lines.map(cells).collect()
}

/// What is between `[` and `](`, and what the link leads to.
fn links(cell: &str) -> Vec<(String, String)> {
    let parts = cell.split('[').skip(1);
    let links = parts.filter_map(|part| {
        let (name, rest) = part.split_once("](")?;
        Some((name.to_owned(), rest.split_once(')')?.0.to_owned()))
    });
    links.collect()
}

/// Each row of the comparison has a page, a test that is there (or is one of what is not there, which has its own list), and a page of the
/// documentation of each other.
#[test]
fn the_comparison_rests_on_something() {
    /// Whose documentation is where, in the order of the columns.
    const OTHERS: [&[&str]; 5] = [
        &["https://docs.docker.com/"],
        &["https://docs.podman.io/"],
        &["https://nixos.org/manual/"],
        &["https://developer.hashicorp.com/nomad/"],
        &["https://docs.k3s.io/", "https://kubernetes.io/docs/"],
    ];
    let claims = rows("README.md", "| | Tank | Compose");
    let proofs = rows("docs/compared.md", "| row |");
    let names = |rows: &[Vec<String>]| -> Vec<String> {
        rows.iter().map(|row| row[0].replace("**", "")).collect()
    };
    assert_eq!(names(&claims), names(&proofs));
    assert!(claims.len() > 10, "{claims:?}");
    for (claim, proof) in claims.iter().zip(&proofs) {
        let [row, page, held, others] = proof.as_slice() else {
            panic!("{proof:?}");
        };
        let own = links(page);
        assert!(!own.is_empty(), "{row}: no page");
        // That they lead somewhere is held for every link.
        assert!(own.iter().all(|(_, to)| !to.contains("://")), "{row}");
        let is_no = claim[1].starts_with("**no");
        assert_eq!(is_no, held == "not there", "{row}: {}", claim[1]);
        if !is_no {
            let words: Vec<&str> = quoted(held).collect();
            let [file, test] = words.as_slice() else {
                panic!("{row}: {held}");
            };
            let test = format!("#[test]\nfn {test}() {{");
            assert!(text(file).contains(&test), "{row}: {held}");
        }
        let sources = links(others);
        assert_eq!(
            (sources.len(), claim.len()),
            (OTHERS.len(), OTHERS.len() + 2),
            "{row}"
        );
        for ((name, source), known) in sources.iter().zip(OTHERS) {
            let is_theirs = known.iter().any(|begin| source.starts_with(begin));
            assert!(is_theirs, "{row}: {name} has {source}");
        }
    }
}

/// The stops of the walk: the numbered paragraphs of its section.
fn stops() -> Vec<String> {
    let text = text("docs/design.md");
    let walk = text.split("## The walk").nth(1).expect("the walk");
    let walk = walk.split("\n## ").next().expect("its end");
    let mut stops: Vec<String> = Vec::new();
    for line in walk.lines() {
        let number = format!("{}. ", stops.len() + 1);
        match line.strip_prefix(&number) {
            Some(first) => stops.push(first.to_owned()),
            None if line.starts_with("   ") => {
                let stop = stops.last_mut().expect("a stop before it goes on");
                stop.push('\n');
                stop.push_str(line.trim());
            }
            None => (),
        }
    }
    stops
}

#[test]
fn the_walk_has_eight_stops_each_with_its_place() {
    let stops = stops();
    assert_eq!(stops.len(), 8, "{stops:#?}");
    for stop in &stops {
        let places = quoted(stop).filter(|path| ROOMS.iter().any(|room| path.starts_with(room)));
        assert!(places.count() >= 1, "{stop}");
    }
}

/// Types that the walk names are declared in a file that the same stop names.
#[test]
fn the_types_of_the_walk_are_where_it_says() {
    let mut checked = BTreeSet::new();
    for stop in stops() {
        let places: Vec<&str> = quoted(&stop)
            .filter(|path| ROOMS.iter().any(|room| path.starts_with(room)))
            .collect();
        let names = quoted(&stop).filter_map(|name| {
            let last = name.rsplit("::").next()?;
            let is_type = last.starts_with(|c: char| c.is_ascii_uppercase())
                && last.chars().all(|c| c.is_ascii_alphanumeric());
            is_type.then_some(last)
        });
        for name in names {
            let declared = Command::new("grep")
                .args(["-rqE", &format!(r"pub (struct|enum) {name}\b")])
                // A type of a file's module may be declared in the folder beside it.
                .args(places.iter().map(|place| place.trim_end_matches(".rs")))
                .args(places.iter().filter(|place| place.ends_with(".rs")))
                .arg("-s")
                .current_dir(repo())
                .status()
                .expect("grep");
            assert!(
                declared.success(),
                "`{name}` is declared in none of {places:?}"
            );
            checked.insert(name.to_owned());
        }
    }
    assert!(checked.len() >= 4, "{checked:?}");
}
