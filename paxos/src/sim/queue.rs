//! What is yet to happen, in order of time; of the same time, in the order in which it was put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A priority queue whose heap holds small keys only; what they stand for does not move.
pub(super) struct Queue<T> {
    heap: BinaryHeap<Reverse<Key>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    pushed: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    at: u64,
    number: u32,
    index: u32,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Queue<T> {
        Queue {
            heap: BinaryHeap::with_capacity(256),
            items: Vec::with_capacity(256),
            free: Vec::new(),
            pushed: 0,
        }
    }

    /// How many items were ever put in.
    pub(super) fn pushed(&self) -> u32 {
        self.pushed
    }

    pub(super) fn push(&mut self, at: u64, item: T) {
        self.pushed += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() as u32 - 1
        });
        self.items[index as usize] = Some(item);
        let number = self.pushed;
        self.heap.push(Reverse(Key { at, number, index }));
    }

    /// When the next item is due.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(key)| key.at)
    }

    /// The next item and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse(key) = self.heap.pop()?;
        self.free.push(key.index);
        let item = self.items[key.index as usize].take()?;
        Some((key.at, item))
    }
}
