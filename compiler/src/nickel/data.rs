//! JSON, YAML and TOML files as values that can be merged.
//!
//! nickel-lang-core 0.19.0 reads such a file into plain records within records. Merging two records
//! evaluates the result as a recursive one, which expects each field to be a constant or a thunk:
//! a debug build ends with `assertion failed: value.is_constant()` (`eval/fixpoint.rs`). Records of
//! Nickel's own have thunks there since they were first evaluated; those of a file get them here.

use nickel_lang_core::{
    cache::{CacheHub, InputFormat, TermEntry},
    closurize::Closurize,
    eval::{
        Environment, VmContext,
        cache::{Cache, CacheImpl},
        value::{ArrayData, Container, NickelValue, ValueContent},
    },
    files::FileId,
};

/// Makes every data file that was read ready to be merged. To be called once all files are
/// prepared, and before any is evaluated.
pub(super) fn make_mergeable(context: &mut VmContext<CacheHub, CacheImpl>) {
    let terms = &mut context.import_resolver.terms;
    let is_data = |entry: &TermEntry| {
        matches!(
            entry.format,
            InputFormat::Json | InputFormat::Yaml | InputFormat::Toml
        )
    };
    let entries: Vec<(FileId, TermEntry)> = terms
        .terms()
        .iter()
        .filter(|(_, entry)| is_data(entry))
        .map(|(id, entry)| (*id, entry.clone()))
        .collect();
    for (id, mut entry) in entries {
        let read = match entry.value.as_thunk() {
            Some(thunk) => context.cache.get(thunk.clone()).value,
            None => entry.value,
        };
        entry.value = lazy(read, &mut context.cache);
        terms.insert(id, entry);
    }
}

/// The value with a thunk for every record and array in it, and for itself.
fn lazy(value: NickelValue, cache: &mut CacheImpl) -> NickelValue {
    let position = value.pos_idx();
    let value = match value.content() {
        ValueContent::Record(lens) => match lens.take() {
            Container::Alloc(record) => {
                let record = record.map_values(|_, value| value.map(|value| lazy(value, cache)));
                NickelValue::record(record, position)
            }
            Container::Empty => NickelValue::empty_record().with_pos_idx(position),
        },
        ValueContent::Array(lens) => match lens.take() {
            Container::Alloc(ArrayData {
                array,
                pending_contracts,
            }) => {
                let array = array.into_iter().map(|item| lazy(item, cache)).collect();
                NickelValue::array(array, pending_contracts, position)
            }
            Container::Empty => NickelValue::empty_array().with_pos_idx(position),
        },
        other => other.restore(),
    };
    value.closurize(cache, Environment::new())
}
