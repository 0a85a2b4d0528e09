//! One suite over every backend.

use super::{recover::Recovery, *};

fn generation(number: u64, parent: Option<u64>) -> Generation {
    let root = Digest::of(&number.to_be_bytes());
    Generation {
        rollback: None,
        data: std::collections::BTreeMap::new(),
        number,
        root,
        parent,
        time: 7,
        uid: 0,
        source: "test".to_owned(),
        provenance: None,
    }
}

fn change(new: &[(&str, u32)], released: &[&str]) -> LeaseChange {
    let new = new.iter().map(|(pod, lease)| ((*pod).to_owned(), *lease));
    let released = released.iter().map(|pod| (*pod).to_owned());
    LeaseChange {
        new: new.collect(),
        released: released.collect(),
    }
}

fn open(dir: &std::path::Path) -> rocks::RocksStore {
    let (store, notes) = rocks::RocksStore::open(dir, Recovery::default()).expect("opens");
    assert_eq!(notes, Vec::<String>::new());
    store
}

/// A folder that is not there, nor what lies beside it.
fn fresh(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("tank-store-{name}-{}", std::process::id()));
    remove(&dir);
    dir
}

fn remove(dir: &std::path::Path) {
    for path in [dir.to_owned(), dir.with_extension("damaged")] {
        let _ = std::fs::remove_dir_all(path);
    }
    let _ = std::fs::remove_file(newest::path_of(dir));
}

fn both(test: impl Fn(&dyn Store)) {
    test(&memory::MemoryStore::default());
    let dir = fresh(&format!("{:p}", &test));
    {
        let store = open(&dir);
        test(&store);
    }
    remove(&dir);
}

#[test]
fn a_fresh_store_is_empty() {
    both(|store| {
        assert_eq!(store.current().expect("reads"), None);
        assert_eq!(store.generations().expect("reads"), []);
        assert_eq!(store.node(&Digest::of(b"x")).expect("reads"), None);
        assert_eq!(next_number(store).expect("reads"), 1);
    });
}

#[test]
fn nodes_are_found_by_their_hash() {
    both(|store| {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        store
            .put_nodes(&[(one, b"1".to_vec()), (two, b"2".to_vec())])
            .expect("writes");
        store
            .put_nodes(&[(one, b"1".to_vec())])
            .expect("writes again");
        assert_eq!(store.node(&two).expect("reads"), Some(b"2".to_vec()));
    });
}

#[test]
fn a_commit_moves_generation_and_pointer_together() {
    both(|store| {
        store.commit(&generation(1, None)).expect("commits");
        store.commit(&generation(2, Some(1))).expect("commits");
        assert_eq!(store.current().expect("reads"), Some(2));
        assert_eq!(
            store.generation(1).expect("reads"),
            Some(generation(1, None))
        );
        let numbers: Vec<u64> = store
            .generations()
            .expect("reads")
            .iter()
            .map(|g| g.number)
            .collect();
        assert_eq!(numbers, [1, 2]);
    });
}

#[test]
fn a_gate_comes_with_its_generation() {
    both(|store| {
        let gate = Gate {
            rollback: true,
            wait: 60_000,
        };
        store
            .commit_with(
                &generation(1, None),
                Some(&gate),
                &LeaseChange::default(),
                None,
            )
            .expect("commits");
        store.commit(&generation(2, Some(1))).expect("commits");
        assert!(
            store
                .commit_with(
                    &generation(3, Some(1)),
                    Some(&gate),
                    &LeaseChange::default(),
                    None,
                )
                .is_err()
        );
        let gates: Vec<_> = (1..=3)
            .map(|number| store.gate(number).expect("reads"))
            .collect();
        assert_eq!(gates, [Some(gate), None, None]);
    });
}

#[test]
fn a_stale_parent_is_refused_and_changes_nothing() {
    both(|store| {
        store.commit(&generation(1, None)).expect("commits");
        for stale in [None, Some(7)] {
            let refused = store.commit(&generation(2, stale));
            assert!(matches!(
                refused,
                Err(StoreError::StaleParent {
                    actual: Some(1),
                    ..
                })
            ));
        }
        assert_eq!(store.current().expect("reads"), Some(1));
        assert_eq!(store.generation(2).expect("reads"), None);
    });
}

#[test]
fn outcomes_begin_pending() {
    both(|store| {
        store.commit(&generation(1, None)).expect("commits");
        assert_eq!(store.outcome(1).expect("reads"), Outcome::Pending);
        store.set_outcome(1, Outcome::Good).expect("writes");
        assert_eq!(store.outcome(1).expect("reads"), Outcome::Good);
    });
}

#[test]
fn leases_are_taken_and_released_together() {
    both(|store| {
        let all = |leases: &[(&str, u32)]| {
            leases
                .iter()
                .map(|(pod, n)| ((*pod).to_owned(), *n))
                .collect::<Leases>()
        };
        assert_eq!(*store.leases(), Leases::new());
        store
            .take_leases(&change(&[("web", 7), ("db", 9)], &[]))
            .expect("takes");
        let before = store.leases();
        store
            .commit_with(
                &generation(1, None),
                None,
                &change(&[("new", 9)], &["db"]),
                None,
            )
            .expect("takes");
        assert_eq!(
            *before,
            all(&[("web", 7), ("db", 9)]),
            "what was read stays what it was"
        );
        assert_eq!(*store.leases(), all(&[("web", 7), ("new", 9)]));
    });
}

// long: one store through all of it
#[test]
fn what_is_removed_goes_as_a_whole_and_its_numbers_are_not_used_again() {
    both(|store| {
        let hashes: Vec<Digest> = (0..5_u8).map(|i| Digest::of(&[i])).collect();
        let nodes: Vec<_> = hashes.iter().map(|hash| (*hash, vec![1; 10])).collect();
        store.put_nodes(&nodes).expect("writes");
        for number in 1..=3 {
            let parent = (number > 1).then(|| number - 1);
            let gate = Gate {
                rollback: true,
                wait: 1,
            };
            store
                .commit_with(
                    &generation(number, parent),
                    Some(&gate),
                    &LeaseChange::default(),
                    None,
                )
                .expect("commits");
            store.set_outcome(number, Outcome::Good).expect("writes");
        }
        store
            .take_leases(&change(&[("web", 7), ("db", 8)], &[]))
            .expect("takes");
        store.set_pin(1, true).expect("pins");
        assert!(matches!(store.set_pin(9, true), Err(StoreError::Gone(9))));
        assert_eq!(store.pins().expect("reads"), BTreeSet::from([1]));
        let removal = Removal {
            generations: BTreeSet::from([1, 2]),
            nodes: BTreeSet::from([hashes[1], hashes[3]]),
            leases: BTreeSet::from(["db".to_owned()]),
        };
        // It was decided on when another one was current.
        assert!(matches!(
            store.remove(&removal, Some(2)),
            Err(StoreError::StaleParent { .. })
        ));
        let own = Removal {
            generations: BTreeSet::from([3]),
            ..Removal::default()
        };
        assert!(store.remove(&own, Some(3)).is_err());
        assert_eq!(store.generations().expect("reads").len(), 3);
        store.remove(&removal, Some(3)).expect("removes");
        for number in [1, 2] {
            assert_eq!(store.generation(number).expect("reads"), None);
            assert_eq!(store.outcome(number).expect("reads"), Outcome::Pending);
            assert_eq!(store.gate(number).expect("reads"), None);
        }
        assert_eq!(store.pins().expect("reads"), BTreeSet::new());
        assert_eq!(*store.leases(), Leases::from([("web".to_owned(), 7)]));
        let kept: BTreeSet<Digest> = [0, 2, 4].into_iter().map(|i| hashes[i]).collect();
        let mut listed = Vec::new();
        loop {
            let last = listed.last().map(|(hash, _)| *hash);
            let next = store.node_hashes(last.as_ref(), 2).expect("lists");
            if next.is_empty() {
                break;
            }
            listed.extend(next);
        }
        assert!(listed.iter().all(|(_, bytes)| *bytes == 10));
        assert!(listed.is_sorted());
        let listed: BTreeSet<Digest> = listed.into_iter().map(|(hash, _)| hash).collect();
        assert_eq!(listed, kept);
        assert_eq!(next_number(store).expect("reads"), 4);
    });
}

#[test]
fn a_store_that_somebody_has_open_is_not_called_damaged() {
    let dir = fresh("open");
    let store = open(&dir);
    store.commit(&generation(1, None)).expect("commits");
    let refused = rocks::RocksStore::open(&dir, Recovery::default());
    let refused = refused.err().expect("refused");
    assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
    let said = refused.to_string();
    assert!(
        said.contains("Nothing is damaged") && !said.contains("repair"),
        "{said}"
    );
    drop(store);
    open(&dir);
    remove(&dir);
}

#[test]
fn a_store_of_another_format_is_refused_and_stays_what_it_is() {
    let dir = fresh("format");
    {
        let store = open(&dir);
        store.commit(&generation(1, None)).expect("commits");
        store.pretend_format("99").expect("writes");
    }
    for _ in 0..2 {
        let refused = rocks::RocksStore::open(&dir, Recovery::default())
            .err()
            .expect("refused");
        assert_eq!(
            refused.to_string(),
            "the store has format 99, this tankd reads format 1: another version of Tank wrote it, and it is left as it is; install that again"
        );
    }
    remove(&dir);
}

#[test]
fn rocks_keeps_everything_when_it_is_opened_again() {
    let dir = fresh("again");
    let leases = {
        let store = open(&dir);
        store
            .put_nodes(&[(Digest::of(b"1"), b"1".to_vec())])
            .expect("writes");
        store.commit(&generation(1, None)).expect("commits");
        let all = Leases::from([
            ("web".to_owned(), 7),
            ("db".to_owned(), 8),
            ("gone".to_owned(), 9),
        ]);
        let taken = LeaseChange {
            new: all,
            ..LeaseChange::default()
        };
        store.take_leases(&taken).expect("takes");
        store
            .take_leases(&change(&[], &["gone"]))
            .expect("releases");
        store.leases()
    };
    let store = open(&dir);
    assert_eq!(store.current().expect("reads"), Some(1));
    assert_eq!(
        store.node(&Digest::of(b"1")).expect("reads"),
        Some(b"1".to_vec())
    );
    assert_eq!(store.leases(), leases);
    drop(store);
    remove(&dir);
}

/// What was asked for by hand, of one container.
fn overrides(ended: &str) -> Overrides {
    let text = format!(
        r#"{{"web":{{"app":{{"override":"stopped","timeout":1500,"uid":7,"time":9{ended}}}}},"db":{{"app":{{"override":"restarted","since":3,"uid":0,"time":9}}}}}}"#
    );
    serde_json::from_str(&text).expect("overrides")
}

#[test]
fn overrides_stay_until_others_come_and_change_with_a_commit_or_not_at_all() {
    both(|store| {
        assert!(store.overrides().expect("reads").is_empty());
        let (first, second) = (overrides(""), overrides(r#","ended":2"#));
        store.set_overrides(&first).expect("writes");
        assert_eq!(store.overrides().expect("reads"), first);
        store.commit(&generation(1, None)).expect("commits");
        assert_eq!(store.overrides().expect("reads"), first);
        let none = LeaseChange::default();
        let stale = store.commit_with(&generation(2, None), None, &none, Some(&second));
        assert!(stale.is_err());
        assert_eq!(store.overrides().expect("reads"), first);
        store
            .commit_with(&generation(2, Some(1)), None, &none, Some(&second))
            .expect("commits");
        assert_eq!(store.overrides().expect("reads"), second);
    });
}

#[test]
fn overrides_are_there_after_the_store_was_opened_again() {
    let dir = fresh("overrides");
    open(&dir).set_overrides(&overrides("")).expect("writes");
    assert_eq!(open(&dir).overrides().expect("reads"), overrides(""));
    remove(&dir);
}
