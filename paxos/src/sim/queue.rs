//! What is yet to happen, in order of time; of the same time, in the order in which it was put in.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A priority queue whose heap holds small keys only; what they stand for does not move.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Key>>,
    items: Vec<Option<T>>,
    free: Vec<u32>,
    pushed: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    at: u64,
    number: u32,
    index: u32,
}

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue {
            heap: BinaryHeap::with_capacity(256),
            items: Vec::with_capacity(256),
            free: Vec::new(),
            pushed: 0,
        }
    }
}

impl<T> Queue<T> {
    /// How many items were ever put in.
    #[must_use]
    pub fn pushed(&self) -> u32 {
        self.pushed
    }

    /// Puts something in that will happen at this time.
    pub fn push(&mut self, at: u64, item: T) {
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
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse(key)| key.at)
    }

    /// The next item and its time.
    pub fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse(key) = self.heap.pop()?;
        self.free.push(key.index);
        let item = self.items[key.index as usize].take()?;
        Some((key.at, item))
    }

    /// Takes out what is not wanted any more.
    pub fn forget(&mut self, unwanted: impl Fn(&T) -> bool) {
        let (items, free) = (&mut self.items, &mut self.free);
        self.heap.retain(|Reverse(key)| {
            let gone = items[key.index as usize].take_if(|item| unwanted(item));
            if gone.is_some() {
                free.push(key.index);
            }
            gone.is_none()
        });
    }
}
