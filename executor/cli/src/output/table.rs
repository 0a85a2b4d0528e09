//! Tables: each column as wide as its widest cell, and on a terminal no wider than that where words allow it.

use super::{OUT, in_lines, line, width};
use crate::error::Error;

/// What the last column of a table keeps, however wide the others are.
const LAST: usize = 30;

/// What stands between two columns.
const GAP: &str = "  ";

/// Prints rows below a heading, each column as wide as its widest cell. On a terminal that is narrower, the words of wide cells
/// have lines of their own.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Error> {
    let most = if *OUT { width() } else { usize::MAX };
    let lines = table_lines(heading, &in_columns(heading, rows, most));
    lines.iter().try_for_each(|text| line(text))
}

/// As [`table`], where the last cell of a row is several sentences: each is on a line of its own, and on a
/// terminal none is longer than that is wide.
pub fn table_of_sentences(heading: &[&str], rows: &[Vec<String>]) -> Result<(), Error> {
    let most = if *OUT { width() } else { usize::MAX };
    let lines = table_lines(heading, &in_sentences(rows, most));
    lines.iter().try_for_each(|text| line(text))
}

/// Rows that are `most` characters wide, if that can be.
fn in_columns(heading: &[&str], rows: &[Vec<String>], most: usize) -> Vec<Vec<String>> {
    let widths = narrowed(heading, rows, most);
    rows.iter().flat_map(|row| divided(row, &widths)).collect()
}

/// How wide each column is where all of them have `most` characters, if that can be: the widest are narrowed to what their
/// longest words take.
fn narrowed(heading: &[&str], rows: &[Vec<String>], most: usize) -> Vec<usize> {
    let mut widths = widths(heading, rows);
    let least: Vec<usize> = (0..heading.len())
        .map(|column| {
            let words = rows.iter().filter_map(|row| row.get(column));
            let words = words.flat_map(|cell| cell.split(' '));
            let longest = words.map(|word| word.chars().count()).max();
            longest.unwrap_or(0).max(heading[column].chars().count())
        })
        .collect();
    let gaps = GAP.len() * heading.len().saturating_sub(1);
    loop {
        let over = (widths.iter().sum::<usize>() + gaps).saturating_sub(most);
        let columns = widths.iter_mut().zip(&least);
        let widest = columns
            .filter(|(width, least)| **width > **least)
            .max_by_key(|(width, _)| **width);
        match widest {
            Some((width, least)) if over > 0 => {
                *width = (*least).max(width.saturating_sub(over.div_ceil(4)));
            }
            _ => break,
        }
    }
    widths
}

/// A row whose cells are no wider than their columns, as several.
fn divided(row: &[String], widths: &[usize]) -> Vec<Vec<String>> {
    let cells = row.iter().zip(widths);
    let cells: Vec<Vec<String>> = cells
        .map(|(cell, most)| in_lines(cell, *most, *most))
        .collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(0);
    let line = |at: usize| {
        let cells = cells.iter();
        cells
            .map(|lines| lines.get(at).cloned().unwrap_or_default())
            .collect()
    };
    (0..height).map(line).collect()
}

/// Rows in which each cell has one line: the last has its sentences and words below each other, others their words if
/// there is too little room for it.
fn in_sentences(rows: &[Vec<String>], most: usize) -> Vec<Vec<String>> {
    let count = rows.iter().map(|row| row.len().saturating_sub(1)).max();
    let count = count.unwrap_or(0);
    let others: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().take(count).cloned().collect())
        .collect();
    let gap = if count == 0 { 0 } else { GAP.len() };
    let widths = narrowed(&vec![""; count], &others, most.saturating_sub(LAST + gap));
    let before: usize = widths.iter().map(|width| width + GAP.len()).sum();
    let rest = most.saturating_sub(before).max(LAST);
    let mut lines = Vec::new();
    for (row, others) in rows.iter().zip(&others) {
        let last = row.get(count).map_or("", String::as_str);
        let sentences = last.split("; ").flat_map(|text| in_lines(text, rest, rest));
        let sentences: Vec<String> = sentences.collect();
        let others = divided(others, &widths);
        for at in 0..sentences.len().max(others.len()) {
            let others = others.get(at).cloned();
            let mut line = others.unwrap_or_else(|| vec![String::new(); count]);
            line.push(sentences.get(at).cloned().unwrap_or_default());
            lines.push(line);
        }
    }
    lines
}

/// How wide each column is.
fn widths(heading: &[&str], rows: &[Vec<String>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain([heading[column].chars().count()])
            .max()
            .unwrap_or(0)
    };
    (0..heading.len()).map(width).collect()
}

/// How wide a table is.
pub fn table_width(heading: &[&str], rows: &[Vec<String>]) -> usize {
    let lines = table_lines(heading, rows);
    let lines = lines.iter().map(|line| line.chars().count());
    lines.max().unwrap_or(0)
}

/// The lines of a table.
pub fn table_lines(heading: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let widths = widths(heading, rows);
    let drawn = |cells: &[String]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join(GAP).trim_end().to_owned()
    };
    let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
    let rows = rows.iter().map(|row| drawn(row));
    [drawn(&heading)].into_iter().chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned<const N: usize>(rows: &[[&str; N]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.map(str::to_owned).to_vec())
            .collect()
    }

    #[test]
    fn sentences_have_lines_of_their_own() {
        let why = "db is reached by web, shop:api, 10.0.0.0/8 and this host only; db reaches the internet only; Tank's rules are not there";
        let rows = owned(&[
            ["create", "create pod db", "it is declared"],
            ["in place", "publish ports", why],
        ]);
        let heading = ["CLASS", "STEP", "WHY"];
        let drawn = |most| table_lines(&heading, &in_sentences(&rows, most)).join("\n");
        insta::assert_snapshot!("sentences", drawn(usize::MAX));
        insta::assert_snapshot!("sentences_narrow", drawn(60));
    }

    #[test]
    fn a_table_is_as_wide_as_its_terminal_where_words_allow_it() {
        let heading = ["IMAGE", "DIGEST", "GENERATIONS", "PODS"];
        let rows = owned(&[
            [
                "docker.io/library/nginx:1.27, registry.example/team/nginx:1.27",
                "0123456789ab",
                "1-3, 7, 9-12, 14",
                "web, shop:front, shop:back",
            ],
            ["busybox:latest", "ba9876543210", "-", "-"],
        ]);
        let drawn = |most| table_lines(&heading, &in_columns(&heading, &rows, most));
        let natural = drawn(usize::MAX);
        assert_eq!(natural.len(), 3);
        assert_eq!(natural, drawn(natural[1].chars().count()));
        let narrow = drawn(80);
        assert!(
            narrow.iter().all(|line| line.chars().count() <= 80),
            "{narrow:#?}"
        );
        insta::assert_snapshot!("narrow", narrow.join("\n"));
        // No word is broken, however narrow it is.
        for most in 0..200 {
            for word in [
                "registry.example/team/nginx:1.27",
                "shop:front,",
                "0123456789ab",
            ] {
                assert!(
                    drawn(most).iter().any(|line| line.contains(word)),
                    "{most} {word}"
                );
            }
        }
    }
}
