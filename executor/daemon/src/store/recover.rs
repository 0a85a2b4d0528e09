//! Opening the database, and what to do when it is damaged.
//!
//! It is opened read-only first, and what is found is compared with [`newest`]: opening a database
//! for good replays its log into tables and drops the log, with whatever in it could not be read.
//!
//! * The log is read so that an end which was never written is an end (what a power cut leaves of a
//!   write nobody waited for), and a change before that an error: `kTolerateCorruptedTailRecords`.
//!   RocksDB's own default, `kPointInTimeRecovery`, drops everything from a changed byte on, and
//!   says nothing.
//! * Where the end is not only short but wrong, the log is read as far as it can be. If the newest
//!   committed generation is there, nothing that a client was answered is lost, and the daemon goes
//!   on with a note.
//! * Everything else is refused, and the refusal says the ways out: a copy, `--repair-store`,
//!   `--accept-loss`. Both flags keep what there is as it is, beside the store.

use super::{
    StoreError,
    newest::{self, Agreement, Committed, Newest},
    rocks::{check_format, generation_key, read_generation, read_number},
};
use rocksdb::{BlockBasedOptions, Cache, DB, DBRecoveryMode, Options};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What the operator permits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Recovery {
    /// Go on from an older generation than the newest one that was committed.
    pub accept_loss: bool,
    /// Make the database's list of files anew from those there are.
    pub repair: bool,
}

/// What was opened.
pub struct Opened {
    pub db: DB,
    pub newest: Newest,
    /// What has to be known about how it was opened.
    pub notes: Vec<String>,
}

pub fn options(mode: DBRecoveryMode) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_wal_recovery_mode(mode);
    options.set_paranoid_checks(true);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_keep_log_file_num(2);
    options.set_max_open_files(64);
    // A store is megabytes, and read rarely: what it keeps in memory is bounded well below what a
    // host would notice.
    options.set_write_buffer_size(1 << 20);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(2 << 20));
    options.set_block_based_table_factory(&table);
    options.set_max_background_jobs(2);
    // Nobody reads them, and each takes a timer.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Opens the database in `dir`, made if it is missing.
///
/// # Errors
/// When another process has it open, the disk refuses, it is damaged, or it has lost what was
/// committed.
// long: one decision after the other, each on what the one before found
pub fn open(dir: &Path, recovery: Recovery) -> Result<Opened, StoreError> {
    let strict = DBRecoveryMode::TolerateCorruptedTailRecords;
    let record = newest::path_of(dir);
    let known = newest::read(&record)
        .map_err(|e| StoreError::Io("read the newest generation's record", e.into()))?;
    let mut notes = Vec::new();
    if recovery.repair {
        let kept = keep(dir)?;
        DB::repair(&options(strict), dir).map_err(|error| not_opened(dir, &error))?;
        notes.push(format!(
            "the store was repaired; what it was before is kept in {}",
            kept.display()
        ));
    }
    let (found, mode) = match exists(dir)? {
        false => (None, strict),
        true => match look(dir, strict) {
            Ok(found) => (found, strict),
            Err(error @ StoreError::Format { .. }) => return Err(error),
            Err(error) => {
                let error = described(&error);
                let lenient = DBRecoveryMode::PointInTime;
                let found = look(dir, lenient).map_err(|_| damaged(dir, &error))?;
                if newest::compare(found, known) != Agreement::Same && !recovery.accept_loss {
                    return Err(lost(dir, found, known, Some(error)));
                }
                notes.push(format!(
                    "the end of the store's log can't be read and was left out: {error}"
                ));
                (found, lenient)
            }
        },
    };
    let unreadable = newest::is_unreadable(&record);
    let unreadable =
        unreadable.map_err(|e| StoreError::Io("read the newest generation's record", e.into()))?;
    if unreadable && !recovery.accept_loss {
        let why = format!("{} can't be read", record.display());
        return Err(lost(dir, found, None, Some(why)));
    }
    if known.is_none() && found.is_some() {
        notes.push(format!(
            "{} says nothing, so {} is taken for the newest one",
            record.display(),
            shown(found)
        ));
    }
    let agreement = newest::compare(found, known);
    if agreement == Agreement::Behind {
        if !recovery.accept_loss {
            return Err(lost(dir, found, known, None));
        }
        let kept = keep(dir)?;
        let (found, known) = (shown(found), shown(known));
        notes.push(format!(
            "{known} is lost and {found} accepted; what there was is kept in {}",
            kept.display()
        ));
    }
    let db = DB::open(&options(mode), dir).map_err(|error| not_opened(dir, &error))?;
    let write = || -> io::Result<Newest> {
        if agreement == Agreement::Behind && found.is_none() {
            fs::remove_file(&record)?;
        }
        let newest = Newest::open(&record)?;
        if let Some(found) = found.filter(|_| agreement != Agreement::Same) {
            newest.write(found)?;
        }
        Ok(newest)
    };
    let newest =
        write().map_err(|e| StoreError::Io("write the newest generation's record", e.into()))?;
    Ok(Opened { db, newest, notes })
}

/// Whether there is a database. One that has lost the file by which it begins is no new one.
fn exists(dir: &Path) -> Result<bool, StoreError> {
    if dir.join("CURRENT").exists() {
        return Ok(true);
    }
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(|error| damaged(dir, &error.to_string()))?,
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("MANIFEST-") || name.ends_with(".sst") || name.ends_with(".log") {
            return Err(damaged(
                dir,
                &format!(
                    "{} is missing, and {name} is there",
                    dir.join("CURRENT").display()
                ),
            ));
        }
    }
    Ok(false)
}

/// The newest generation that the database has, without changing anything.
fn look(dir: &Path, mode: DBRecoveryMode) -> Result<Option<Committed>, StoreError> {
    let io = |error: rocksdb::Error| StoreError::Damaged(error.to_string());
    let db = DB::open_for_read_only(&options(mode), dir, false).map_err(io)?;
    let read = |key: &[u8]| db.get(key).map_err(io);
    check_format(read(b"m/format")?.as_deref())?;
    let Some(number) = read(b"p/current")? else {
        return Ok(None);
    };
    let number = read_number(&number, "p/current")?;
    let bytes = read(&generation_key(number))?;
    let generation = bytes
        .map(|bytes| read_generation(&bytes, number))
        .transpose()?;
    let generation =
        generation.ok_or_else(|| StoreError::Corrupt(format!("generation {number}")))?;
    Ok(Some(Committed {
        number,
        root: generation.root,
    }))
}

/// An error with what caused it.
pub fn described(error: &StoreError) -> String {
    let source = std::error::Error::source(error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    format!("{error}{source}")
}

/// The most copies that are kept.
const MAX_KEPT: u32 = 8;

/// Copies the database as it is, beside it: `store.damaged`, and `store.damaged.2` and so on where
/// that is there.
fn keep(dir: &Path) -> Result<PathBuf, StoreError> {
    let place = |number| match number {
        1 => dir.with_extension("damaged"),
        number => dir.with_extension(format!("damaged.{number}")),
    };
    let Some(kept) = (1..=MAX_KEPT).map(place).find(|place| !place.exists()) else {
        let why = format!(
            "there are {MAX_KEPT} already, beside {}: move them away",
            dir.display()
        );
        return Err(StoreError::Io("keep a copy of the database", why.into()));
    };
    let copy = || -> io::Result<()> {
        let temporary = dir.with_extension("damaged.new");
        if temporary.exists() {
            fs::remove_dir_all(&temporary)?;
        }
        fs::create_dir(&temporary)?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), temporary.join(entry.file_name()))?;
            }
        }
        fs::rename(&temporary, &kept)
    };
    copy().map_err(|error| StoreError::Io("keep a copy of the database", error.into()))?;
    Ok(kept)
}

fn shown(committed: Option<Committed>) -> String {
    committed.map_or_else(
        || "no generation".to_owned(),
        |one| format!("generation {} ({})", one.number, one.root),
    )
}

/// Whoever has the database open holds its `LOCK`: the process that a killed daemon is until its last thread has ended, too.
fn not_opened(dir: &Path, error: &rocksdb::Error) -> StoreError {
    let lock = dir.join("LOCK");
    let is_locked = error.kind() == rocksdb::ErrorKind::IOError
        && error.as_ref().contains(&lock.display().to_string());
    match is_locked {
        true => StoreError::Open {
            dir: dir.display().to_string(),
        },
        false => damaged(dir, error.as_ref()),
    }
}

fn damaged(dir: &Path, why: &str) -> StoreError {
    let dir = dir.display();
    StoreError::Damaged(format!(
        "can't open the database in the store: {why}\n  help: put a copy of {dir} back if there is one; \
         or `tankd --repair-store` reads what is left of it: that keeps it as {dir}.damaged, and goes on only if no \
         committed generation is lost"
    ))
}

fn lost(
    dir: &Path,
    found: Option<Committed>,
    newest: Option<Committed>,
    why: Option<String>,
) -> StoreError {
    let dir = dir.display();
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let committed = newest.map_or_else(
        || "it is not known whether that was the newest one".to_owned(),
        |newest| format!("{} was committed", shown(Some(newest))),
    );
    let found = shown(found);
    StoreError::Damaged(format!(
        "the store at {dir} ends with {found}, and {committed}{why}\n  help: nothing was changed; put a copy of {dir} \
         back if there is one; or `tankd --accept-loss` goes on with {found}: that keeps what is there now as {dir}.damaged"
    ))
}
