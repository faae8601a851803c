//! Values under small numbers: every distinct one is kept once, so that a state of the whole cell
//! is a handful of integers.
//!
//! Values are told apart by 128 bits of hash; what a value's `Hash` leaves out does not count.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, PoisonError, RwLock};

/// Distinct values in the order in which they were first met.
pub(crate) struct Arena<T>(RwLock<Content<T>>);

struct Content<T> {
    ids: HashMap<u128, u32>,
    values: Vec<Arc<T>>,
}

impl<T: Hash> Arena<T> {
    pub(crate) fn new() -> Arena<T> {
        let (ids, values) = (HashMap::new(), Vec::new());
        Arena(RwLock::new(Content { ids, values }))
    }

    /// The number of this value.
    pub(crate) fn number(&self, value: T) -> u32 {
        let digest = digest(&value);
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = content.ids.get(&digest) {
            return *id;
        }
        drop(content);
        let mut content = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Content { ids, values } = &mut *content;
        *ids.entry(digest).or_insert_with(|| {
            values.push(Arc::new(value));
            u32::try_from(values.len() - 1).expect("fewer than 2^32 values")
        })
    }

    pub(crate) fn get(&self, id: u32) -> Arc<T> {
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&content.values[id as usize])
    }

    pub(crate) fn len(&self) -> usize {
        let content = self.0.read().unwrap_or_else(PoisonError::into_inner);
        content.values.len()
    }
}

fn digest(value: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}
