//! Archives that are right, wrong, and hostile.

use super::*;
use proptest::prelude::*;

/// A header of the old format with a right checksum.
fn header(kind: u8, name: &[u8], size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..=7)
        .map(|digits| rest + digits)
        .find(|n| n.to_string().len() + rest == *n)
        .expect("a length");
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn with_pax(records: &[u8], name: &[u8], content: &[u8]) -> Vec<u8> {
    let pax = [
        header(b'x', b"pax", records.len() as u64),
        padded(records.to_vec()),
    ]
    .concat();
    [
        pax,
        header(b'0', name, content.len() as u64),
        padded(content.to_vec()),
        vec![0; 2 * BLOCK],
    ]
    .concat()
}

/// Reads all of an archive and gives the most that was held in memory.
fn read_all(bytes: &[u8]) -> (io::Result<u64>, usize) {
    let mut archive = Archive::new(bytes);
    let mut most = 0;
    let mut members = 0;
    loop {
        let next = archive.advance();
        most = most.max(archive.buffer.capacity());
        match next {
            Ok(Some(_)) => members += 1,
            Ok(None) => return (Ok(members), most),
            Err(error) => return (Err(error), most),
        }
        if members % 2 == 0
            && let Err(error) = io::copy(&mut archive, &mut io::sink())
        {
            return (Err(error), most);
        }
    }
}

#[test]
fn a_pax_value_may_hold_any_byte() {
    let value: Vec<u8> = (0..=255).chain(*b"\n12 path=/etc/passwd\n").collect();
    let bytes = with_pax(&record("SCHILY.xattr.user.x", &value), b"file", b"content");
    let mut archive = Archive::new(bytes.as_slice());
    let member = archive.advance().expect("reads").expect("a member");
    assert_eq!((member.path.as_slice(), member.size), (&b"file"[..], 7));
    assert_eq!(member.xattrs, [(b"user.x".to_vec(), value)]);
    let mut content = String::new();
    archive.read_to_string(&mut content).expect("reads");
    assert_eq!(content, "content");
    assert!(archive.advance().expect("ends").is_none());
}

#[test]
fn a_time_has_a_fraction_and_may_lie_before_1970() {
    let time = |text| parse_time(text).map(|time| (time.tv_sec, time.tv_nsec));
    assert_eq!(time("12"), Some((12, 0)));
    assert_eq!(time("12.5"), Some((12, 500_000_000)));
    assert_eq!(time("-1.25"), Some((-2, 750_000_000)));
    assert_eq!(time("-0.5"), Some((-1, 500_000_000)));
    assert_eq!(time("12.0000000019"), Some((12, 1)));
    assert_eq!(time("12.x"), None);
    assert_eq!(time(""), None);
}

#[test]
fn a_size_that_is_no_number_is_refused() {
    let bytes = with_pax(&record("size", b"lots"), b"file", b"content");
    let error = Archive::new(bytes.as_slice())
        .advance()
        .expect_err("refused");
    assert_eq!(error.to_string(), "its `size` is no number");
}

#[test]
fn names_and_records_are_refused_before_they_are_read() {
    for kind in [b'L', b'K', b'x', b'g'] {
        let head = header(kind, b"x", u64::from(MAX_METADATA) + 1);
        let mut archive = Archive::new(head.chain(io::repeat(b'a')));
        archive.advance().expect_err("refused");
        assert!(
            archive.buffer.capacity() < 4 * BLOCK,
            "{}",
            archive.buffer.capacity()
        );
    }
}

#[test]
fn a_map_without_an_end_is_refused() {
    let pax = [
        record("GNU.sparse.major", b"1"),
        record("GNU.sparse.minor", b"0"),
        record("GNU.sparse.realsize", b"10"),
    ]
    .concat();
    let start = [
        header(b'x', b"pax", pax.len() as u64),
        padded(pax),
        header(b'0', b"f", 1 << 30),
    ]
    .concat();
    let mut archive = Archive::new(start.chain(io::repeat(b'1')));
    archive.advance().expect_err("refused");
    let mut archive = Archive::new(
        start
            .chain(io::Cursor::new(b"32768\n"))
            .chain(io::repeat(b'\n')),
    );
    archive.advance().expect_err("refused");
    let many = header(b'S', b"f", 1 << 30);
    Archive::new(many.chain(io::repeat(b'1')))
        .advance()
        .expect_err("refused");
}

#[test]
fn pieces_lie_in_order_within_the_file() {
    check_pieces(&[(0, 5), (10, 5), (20, 0)], 20, 10).expect("a sparse file");
    for (pieces, size, stored) in [
        (vec![(10, 5), (0, 5)], 20, 10),
        (vec![(0, 5), (4, 5)], 20, 10),
        (vec![(0, 21)], 20, 21),
        (vec![(u64::MAX, 2)], u64::MAX, 2),
        (vec![(0, 5)], 20, 6),
    ] {
        check_pieces(&pieces, size, stored).expect_err("refused");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_end_within_the_bound(bytes in proptest::collection::vec(any::<u8>(), 0..8_192)) {
        let (_, most) = read_all(&bytes);
        prop_assert!(most <= 2 * MAX_HEAD);
    }

    #[test]
    fn arbitrary_members_end_within_the_bound(
        members in proptest::collection::vec(
            (any::<u8>(), 0..100_000u64, proptest::collection::vec(any::<u8>(), 0..2_000)), 0..8),
    ) {
        let mut bytes = Vec::new();
        for (kind, size, content) in members {
            let kind = *b"0123457xgLKS"
                .get(usize::from(kind) % 16).unwrap_or(&kind);
            let size = if size % 3 == 0 { content.len() as u64 } else { size };
            bytes.extend(header(kind, b"name", size));
            bytes.extend(padded(content));
        }
        let (_, most) = read_all(&bytes);
        prop_assert!(most <= 2 * MAX_HEAD);
    }

    #[test]
    fn what_was_written_is_read(key in "[a-z.]{1,20}", value in proptest::collection::vec(any::<u8>(), 0..300),
        content in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let bytes = with_pax(&record(&format!("SCHILY.xattr.user.{key}"), &value), b"file", &content);
        let mut archive = Archive::new(bytes.as_slice());
        let member = archive.advance().expect("reads").expect("a member");
        prop_assert_eq!(&member.xattrs[0].1, &value);
        let mut found = Vec::new();
        archive.read_to_end(&mut found).expect("reads");
        prop_assert_eq!(found, content);
    }
}
