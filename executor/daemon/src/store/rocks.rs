//! The store on disk: RocksDB, one column family, the key layout of [`super`]. [`super::recover`]
//! opens it.
//!
//! After an I/O error RocksDB refuses every write until it is opened again. That is done here: it
//! replays its log and writes what it finds to the disk anew, so what is then there is on the disk,
//! whatever became of the write that failed.

mod writes;

use super::{
    Removal, Store, StoreError, check_removal,
    leases::{LeaseChange, Leases},
    newest::{Committed, Newest},
    recover::{self, Opened, Recovery},
};
use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch, WriteOptions};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};
use tank_model::{Digest, Gate, Generation, Outcome, canonical};
use tank_plan::Overrides;
use writes::{OVERRIDES, add_leases, encode_overrides, free_space, synced};

/// The layout this code reads and writes.
const FORMAT: u32 = 1;

/// The longest that the database takes to find out that there is space again, twice over.
const RECOVERY: Duration = Duration::from_secs(12);

/// What has to be free beside what is written until that counts as space: the database's log is
/// longer than its content.
const SPARE: u64 = 4 << 20;

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

pub struct RocksStore {
    dir: PathBuf,
    /// Nothing while it could not be opened again.
    db: RwLock<Option<DB>>,
    newest: Newest,
    /// Serialises commits, which read before they write, and the taking of leases.
    writing: Mutex<()>,
    /// Every lease: they are asked for at every look at the host.
    leases: Mutex<Arc<Leases>>,
}

/// What went wrong, and what to do about it where the database does not help itself.
fn io(what: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |error| match error.kind() {
        rocksdb::ErrorKind::Corruption => {
            let help =
                "stop tankd, and put a copy of the store back or start `tankd --repair-store`";
            StoreError::Io(what, format!("{error}; {help}").into())
        }
        _ => StoreError::Io(what, error.into()),
    }
}

/// Whether this code reads what a database says its format is; a new one says nothing.
pub fn check_format(found: Option<&[u8]>) -> Result<(), StoreError> {
    match found.map(String::from_utf8_lossy) {
        Some(found) if found != FORMAT.to_string() => Err(StoreError::Format {
            found: found.into_owned(),
            known: FORMAT,
        }),
        _ => Ok(()),
    }
}

/// The key of a generation.
pub fn generation_key(number: u64) -> Vec<u8> {
    numbered(b"g/", number)
}

/// The record of a generation.
pub fn read_generation(bytes: &[u8], number: u64) -> Result<Generation, StoreError> {
    canonical::decode(bytes).map_err(|_| StoreError::Corrupt(format!("generation {number}")))
}

fn numbered(prefix: &[u8; 2], number: u64) -> Vec<u8> {
    [&prefix[..], &number.to_be_bytes()].concat()
}

fn node_key(hash: &Digest) -> Vec<u8> {
    [b"n/", &hash.as_bytes()[..]].concat()
}

impl RocksStore {
    /// Opens the store in `dir`, made if it is missing; what has to be known about that.
    ///
    /// # Errors
    /// When another process has it open, the disk refuses, it is damaged or has lost a generation,
    /// or it has another format.
    pub fn open(dir: &Path, recovery: Recovery) -> Result<(Self, Vec<String>), StoreError> {
        let Opened { db, newest, notes } = recover::open(dir, recovery)?;
        let (writing, leases) = (Mutex::new(()), Mutex::default());
        let store = Self {
            dir: dir.to_owned(),
            db: RwLock::new(Some(db)),
            newest,
            writing,
            leases,
        };
        let format = store.get(b"m/format")?;
        check_format(format.as_deref())?;
        if format.is_none() {
            store.put_synced(b"m/format", FORMAT.to_string().as_bytes())?;
        }
        let read = |(key, bytes): &Pair| {
            let pod = String::from_utf8_lossy(&key[2..]).into_owned();
            match bytes.as_slice().try_into() {
                Ok(bytes) => Ok((pod, u32::from_be_bytes(bytes))),
                Err(_) => Err(StoreError::Corrupt(format!("the lease of {pod}"))),
            }
        };
        let leases = store
            .scan(b"l/")?
            .iter()
            .map(read)
            .collect::<Result<_, _>>()?;
        *store.leases.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(leases);
        Ok((store, notes))
    }

    /// Calls `of` with the database, opened again if it had to be closed.
    fn with<R>(
        &self,
        what: &'static str,
        of: impl Fn(&DB) -> Result<R, rocksdb::Error>,
    ) -> Result<Result<R, rocksdb::Error>, StoreError> {
        if let Some(db) = &*self.db.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(of(db));
        }
        self.reopen(what)?;
        match &*self.db.read().unwrap_or_else(PoisonError::into_inner) {
            Some(db) => Ok(of(db)),
            None => Err(StoreError::Io(
                what,
                "it is closed after an I/O error".into(),
            )),
        }
    }

    /// Opens the database again, after an I/O error.
    fn reopen(&self, what: &'static str) -> Result<(), StoreError> {
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // It holds a lock on its folder.
        drop(db.take());
        let opened = recover::open(&self.dir, Recovery::default()).map_err(|error| {
            let help = "it is opened again at the next attempt; look at the kernel's log for what ails the disk";
            let error = recover::described(&error);
            StoreError::Io(what, format!("after an I/O error it can't be opened again: {error}; {help}").into())
        })?;
        tracing::warn!("the store was opened again after an I/O error");
        *db = Some(opened.db);
        Ok(())
    }

    /// As a store that a later version has written.
    #[cfg(test)]
    pub fn pretend_format(&self, format: &str) -> Result<(), StoreError> {
        self.put_synced(b"m/format", format.as_bytes())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.with("read", |db| db.get(key))?.map_err(io("read"))
    }

    fn put_synced(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let batch = || {
            let mut batch = WriteBatch::default();
            batch.put(key, value);
            batch
        };
        self.write("write", batch, &synced())
    }

    /// Writes a batch; `make` makes it, and again where it is tried again.
    ///
    /// After a write for which there was no space the database refuses all others, with that same
    /// error, until it has found out by itself that there is space again: it looks every five
    /// seconds. So where there is space now, it is waited for. After any other error of the disk it
    /// is opened again, once: a batch may be written twice.
    fn write(
        &self,
        what: &'static str,
        make: impl Fn() -> WriteBatch,
        how: &WriteOptions,
    ) -> Result<(), StoreError> {
        let deadline = Instant::now() + RECOVERY;
        let mut reopened = false;
        loop {
            let needed = SPARE + make().size_in_bytes() as u64;
            let Err(error) = self.with(what, |db| db.write_opt(make(), how))? else {
                return Ok(());
            };
            if error.to_string().contains("No space left") {
                if Instant::now() > deadline
                    || free_space(&self.dir).is_none_or(|free| free <= needed)
                {
                    return Err(io(what)(error));
                }
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a runtime writes through `OffWorker`"
                )]
                std::thread::sleep(Duration::from_millis(100));
            } else if reopened {
                return Err(io(what)(error));
            } else {
                tracing::error!("can't {what} in the store: {error}");
                self.reopen(what)?;
                reopened = true;
            }
        }
    }

    /// Makes a change to the leases in memory that was written.
    fn apply(&self, change: &LeaseChange) {
        if !change.is_empty() {
            let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
            change.apply(Arc::make_mut(&mut leases));
        }
    }

    /// Every key and value below `prefix`, in order.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        let scan = |db: &DB| {
            let mut found = Vec::new();
            for item in db.iterator(IteratorMode::From(prefix, Direction::Forward)) {
                let (key, value) = item?;
                if !key.starts_with(prefix) {
                    break;
                }
                found.push((key.into_vec(), value.into_vec()));
            }
            Ok(found)
        };
        self.with("list", scan)?.map_err(io("list"))
    }
}

pub fn read_number(bytes: &[u8], what: &str) -> Result<u64, StoreError> {
    bytes
        .try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| StoreError::Corrupt(what.to_owned()))
}

impl Store for RocksStore {
    fn put_nodes(&self, nodes: &[(Digest, Vec<u8>)]) -> Result<(), StoreError> {
        let mut new = Vec::new();
        for (hash, bytes) in nodes {
            let key = node_key(hash);
            if self.get(&key)?.is_none() {
                new.push((key, bytes));
            }
        }
        let batch = || {
            let mut batch = WriteBatch::default();
            new.iter().for_each(|(key, bytes)| batch.put(key, bytes));
            batch
        };
        self.write("write nodes", batch, &WriteOptions::default())
    }

    fn node(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(&node_key(hash))
    }

    fn commit_with(
        &self,
        generation: &Generation,
        gate: Option<&Gate>,
        leases: &LeaseChange,
        overrides: Option<&Overrides>,
    ) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let actual = self.current()?;
        if actual != generation.parent {
            return Err(StoreError::StaleParent {
                expected: generation.parent,
                actual,
            });
        }
        let record = canonical::encode(generation)
            .map_err(|e| StoreError::Io("encode a generation", e.into()))?;
        let gate = gate
            .map(serde_json::to_vec)
            .transpose()
            .map_err(|e| StoreError::Io("encode a gate", e.into()))?;
        let overrides = overrides.map(encode_overrides).transpose()?;
        let batch = || {
            let mut batch = WriteBatch::default();
            batch.put(generation_key(generation.number), &record);
            gate.iter()
                .for_each(|gate| batch.put(numbered(b"t/", generation.number), gate));
            overrides
                .iter()
                .for_each(|overrides| batch.put(OVERRIDES, overrides));
            batch.put(b"p/current", generation.number.to_be_bytes());
            add_leases(&mut batch, leases);
            batch
        };
        self.write("commit a generation", batch, &synced())?;
        self.apply(leases);
        // It is committed. That the second record stays behind is no loss, and the next one makes
        // up for it.
        let committed = Committed {
            number: generation.number,
            root: generation.root,
        };
        if let Err(error) = self.newest.write(committed) {
            tracing::error!(
                "can't record that generation {} is the newest one: {error}",
                generation.number
            );
        }
        Ok(())
    }

    fn gate(&self, number: u64) -> Result<Option<Gate>, StoreError> {
        let bytes = self.get(&numbered(b"t/", number))?;
        let read = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes)
                .map_err(|_| StoreError::Corrupt(format!("the gate of {number}")))
        };
        bytes.map(read).transpose()
    }

    fn current(&self) -> Result<Option<u64>, StoreError> {
        self.get(b"p/current")?
            .map(|bytes| read_number(&bytes, "p/current"))
            .transpose()
    }

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        let bytes = self.get(&generation_key(number))?;
        bytes
            .map(|bytes| read_generation(&bytes, number))
            .transpose()
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        let read = |(key, bytes): Pair| {
            let name = || format!("generation {:?}", &key[2..]);
            canonical::decode(&bytes).map_err(|_| StoreError::Corrupt(name()))
        };
        self.scan(b"g/")?.into_iter().map(read).collect()
    }

    fn set_outcome(&self, number: u64, outcome: Outcome) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&outcome)
            .map_err(|e| StoreError::Io("encode an outcome", e.into()))?;
        self.put_synced(&numbered(b"o/", number), &text)
    }

    fn outcome(&self, number: u64) -> Result<Outcome, StoreError> {
        let bytes = self.get(&numbered(b"o/", number))?;
        let read = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes)
                .map_err(|_| StoreError::Corrupt(format!("the outcome of {number}")))
        };
        Ok(bytes.map(read).transpose()?.unwrap_or(Outcome::Pending))
    }

    fn overrides(&self) -> Result<Overrides, StoreError> {
        let bytes = self.get(OVERRIDES)?;
        let read = |bytes: Vec<u8>| {
            let corrupt = |_| StoreError::Corrupt("p/overrides".to_owned());
            serde_json::from_slice(&bytes).map_err(corrupt)
        };
        Ok(bytes.map(read).transpose()?.unwrap_or_default())
    }

    fn set_overrides(&self, overrides: &Overrides) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put_synced(OVERRIDES, &encode_overrides(overrides)?)
    }

    fn leases(&self) -> Arc<Leases> {
        Arc::clone(&self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_leases(&self, change: &LeaseChange) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let batch = || {
            let mut batch = WriteBatch::default();
            add_leases(&mut batch, change);
            batch
        };
        self.write("take leases", batch, &WriteOptions::default())?;
        self.apply(change);
        Ok(())
    }

    fn pins(&self) -> Result<BTreeSet<u64>, StoreError> {
        let pins = self.scan(b"k/")?;
        let pins = pins
            .iter()
            .map(|(key, _)| read_number(&key[2..], "the name of a pin"));
        pins.collect()
    }

    fn set_pin(&self, number: u64, pinned: bool) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation(number)?.is_none() {
            return Err(StoreError::Gone(number));
        }
        let batch = || {
            let mut batch = WriteBatch::default();
            match pinned {
                true => batch.put(numbered(b"k/", number), b""),
                false => batch.delete(numbered(b"k/", number)),
            }
            batch
        };
        self.write("pin a generation", batch, &synced())
    }

    fn node_hashes(
        &self,
        after: Option<&Digest>,
        most: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let first = after.map_or_else(
            || b"n/".to_vec(),
            |after| [&node_key(after)[..], &[0]].concat(),
        );
        let list = |db: &DB| {
            let mut found = Vec::new();
            let mut options = ReadOptions::default();
            // What is read once does not push out what is read often.
            options.fill_cache(false);
            let mode = IteratorMode::From(&first, Direction::Forward);
            for item in db.iterator_opt(mode, options).take(most) {
                let (key, value) = item?;
                let Some(hash) = key.strip_prefix(b"n/") else {
                    break;
                };
                found.push((hash.to_vec(), value.len() as u64));
            }
            Ok(found)
        };
        let read = |(hash, bytes): (Vec<u8>, u64)| match <[u8; 32]>::try_from(hash.as_slice()) {
            Ok(hash) => Ok((Digest::from_bytes(hash), bytes)),
            Err(_) => Err(StoreError::Corrupt(format!("the node {hash:?}"))),
        };
        let found = self.with("list", list)?.map_err(io("list"))?;
        found.into_iter().map(read).collect()
    }

    fn verify(&self) -> Result<(), StoreError> {
        let read = |db: &DB| {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            options.set_verify_checksums(true);
            db.iterator_opt(IteratorMode::Start, options)
                .try_for_each(|item| item.map(drop))
        };
        self.with("verify what is", read)?
            .map_err(io("verify what is"))
    }

    fn remove(&self, removal: &Removal, current: Option<u64>) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        check_removal(removal, current, self.current()?)?;
        let released = LeaseChange {
            new: Leases::new(),
            released: removal.leases.clone(),
        };
        let batch = || {
            let mut batch = WriteBatch::default();
            for number in &removal.generations {
                for prefix in [b"g/", b"o/", b"t/", b"k/"] {
                    batch.delete(numbered(prefix, *number));
                }
            }
            for hash in &removal.nodes {
                batch.delete(node_key(hash));
            }
            add_leases(&mut batch, &released);
            batch
        };
        self.write("remove generations", batch, &synced())?;
        self.apply(&released);
        Ok(())
    }
}
