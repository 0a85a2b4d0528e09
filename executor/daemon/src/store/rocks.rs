//! The store on disk: RocksDB, one column family, the key layout of [`super`].

use super::{Store, StoreError, leases::Leases};
use rocksdb::{BlockBasedOptions, Cache, DB, Direction, IteratorMode, Options, WriteBatch, WriteOptions};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tank_model::{Digest, Generation, Outcome, canonical};

/// The layout this code reads and writes.
const FORMAT: u32 = 1;

/// The longest that the database takes to find out that there is space again, twice over.
const RECOVERY: Duration = Duration::from_secs(12);

/// What has to be free beside what is written until that counts as space: the database's log is longer than its content.
const SPARE: u64 = 4 << 20;

/// A key and its value.
type Pair = (Vec<u8>, Vec<u8>);

pub struct RocksStore {
    db: DB,
    /// Serialises commits, which read before they write, and the taking of leases.
    writing: Mutex<()>,
    /// Every lease: they are asked for at every look at the host.
    leases: Mutex<Arc<Leases>>,
}

fn io(what: &'static str) -> impl FnOnce(rocksdb::Error) -> StoreError {
    move |error| StoreError::Io(what, error.into())
}

fn numbered(prefix: &[u8; 2], number: u64) -> Vec<u8> {
    [&prefix[..], &number.to_be_bytes()].concat()
}

fn node_key(hash: &Digest) -> Vec<u8> {
    [b"n/", &hash.as_bytes()[..]].concat()
}

impl RocksStore {
    /// Opens the store in `dir`, made if it is missing.
    ///
    /// # Errors
    /// When another process has it open, the disk refuses, or it has another format.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(64);
        // A store is megabytes, and read rarely: what it keeps in memory is bounded well below what a host would notice.
        options.set_write_buffer_size(1 << 20);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(2 << 20));
        options.set_block_based_table_factory(&table);
        options.set_max_background_jobs(2);
        // Nobody reads them, and each takes a timer.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        let db = DB::open(&options, dir).map_err(io("open the database"))?;
        let store = Self { db, writing: Mutex::new(()), leases: Mutex::default() };
        let format = store.get(b"m/format")?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        match format {
            None => store.put_synced(b"m/format", FORMAT.to_string().as_bytes())?,
            Some(found) if found == FORMAT.to_string() => {}
            Some(found) => return Err(StoreError::Format { found, known: FORMAT }),
        }
        let read = |(key, bytes): &Pair| {
            let pod = String::from_utf8_lossy(&key[2..]).into_owned();
            match bytes.as_slice().try_into() {
                Ok(bytes) => Ok((pod, u32::from_be_bytes(bytes))),
                Err(_) => Err(StoreError::Corrupt(format!("the lease of {pod}"))),
            }
        };
        let leases = store.scan(b"l/")?.iter().map(read).collect::<Result<_, _>>()?;
        *store.leases.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(leases);
        Ok(store)
    }

    /// As a store that a later version has written.
    #[cfg(test)]
    pub fn pretend_format(&self, format: &str) -> Result<(), StoreError> {
        self.put_synced(b"m/format", format.as_bytes())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get(key).map_err(io("read"))
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
    /// After a write for which there was no space the database refuses all others, with that same error, until it has
    /// found out by itself that there is space again: it looks every five seconds. So where there is space now, it is
    /// waited for.
    fn write(&self, what: &'static str, make: impl Fn() -> WriteBatch, how: &WriteOptions) -> Result<(), StoreError> {
        let deadline = Instant::now() + RECOVERY;
        loop {
            let batch = make();
            let needed = SPARE + batch.size_in_bytes() as u64;
            match self.db.write_opt(batch, how) {
                Err(error)
                    if Instant::now() < deadline
                        && error.to_string().contains("No space left")
                        && free_space(self.db.path()).is_some_and(|free| free > needed) =>
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return other.map_err(io(what)),
            }
        }
    }

    /// Every key and value below `prefix`, in order.
    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StoreError> {
        let mut found = Vec::new();
        for item in self.db.iterator(IteratorMode::From(prefix, Direction::Forward)) {
            let (key, value) = item.map_err(io("list"))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.into_vec(), value.into_vec()));
        }
        Ok(found)
    }
}

/// The bytes that are free for this process on the file system of `path`.
fn free_space(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn read_number(bytes: &[u8], what: &str) -> Result<u64, StoreError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| StoreError::Corrupt(what.to_owned()))
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

    fn commit(&self, generation: &Generation) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let actual = self.current()?;
        if actual != generation.parent {
            return Err(StoreError::StaleParent { expected: generation.parent, actual });
        }
        let record = canonical::encode(generation).map_err(|e| StoreError::Io("encode a generation", e.into()))?;
        let batch = || {
            let mut batch = WriteBatch::default();
            batch.put(numbered(b"g/", generation.number), &record);
            batch.put(b"p/current", generation.number.to_be_bytes());
            batch
        };
        self.write("commit a generation", batch, &synced())
    }

    fn current(&self) -> Result<Option<u64>, StoreError> {
        self.get(b"p/current")?.map(|bytes| read_number(&bytes, "p/current")).transpose()
    }

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        let bytes = self.get(&numbered(b"g/", number))?;
        let read =
            |bytes: Vec<u8>| canonical::decode(&bytes).map_err(|_| StoreError::Corrupt(format!("generation {number}")));
        bytes.map(read).transpose()
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        let read = |(key, bytes): Pair| {
            let name = || format!("generation {:?}", &key[2..]);
            canonical::decode(&bytes).map_err(|_| StoreError::Corrupt(name()))
        };
        self.scan(b"g/")?.into_iter().map(read).collect()
    }

    fn set_outcome(&self, number: u64, outcome: Outcome) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&outcome).map_err(|e| StoreError::Io("encode an outcome", e.into()))?;
        self.put_synced(&numbered(b"o/", number), &text)
    }

    fn outcome(&self, number: u64) -> Result<Outcome, StoreError> {
        let bytes = self.get(&numbered(b"o/", number))?;
        let read = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|_| StoreError::Corrupt(format!("the outcome of {number}")))
        };
        Ok(bytes.map(read).transpose()?.unwrap_or(Outcome::Pending))
    }

    fn leases(&self) -> Arc<Leases> {
        Arc::clone(&self.leases.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take_leases(&self, new: &Leases, released: &BTreeSet<String>) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |pod: &str| [b"l/", pod.as_bytes()].concat();
        let batch = || {
            let mut batch = WriteBatch::default();
            released.iter().for_each(|pod| batch.delete(key(pod)));
            new.iter().for_each(|(pod, lease)| batch.put(key(pod), lease.to_be_bytes()));
            batch
        };
        self.write("take leases", batch, &WriteOptions::default())?;
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        let leases = Arc::make_mut(&mut leases);
        leases.retain(|pod, _| !released.contains(pod));
        leases.extend(new.clone());
        Ok(())
    }
}
