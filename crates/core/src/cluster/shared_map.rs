//! A sorted map for very many entries: little memory for each, and copied at once.
//!
//! Entries lie in chunks, each a sorted list behind a shared pointer. A copy takes the pointers, and shares with its
//! original whatever neither has changed since; whoever changes an entry first copies its chunk, if somebody else
//! still has it. So plans are made of a million tasks while everybody's decisions go on. Where keys rise, as ids do,
//! chunks are full: a tree's nodes would be half empty, and have room for as many values again.

use std::borrow::Borrow;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, RangeBounds};
use std::slice;
use std::sync::Arc;

/// How many entries a chunk has at most: few enough to be copied when one changes, and many enough that a map has
/// few.
const CHUNK: usize = 64;

/// By how many entries a chunk's room grows. Where keys do not rise, as the ids of one millisecond, chunks are two thirds
/// full on average: had each room for all it may have, the rest would be wasted.
const STEP: usize = 8;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// A sorted map whose copies share what neither has changed since.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// The first key of each chunk, so that finding one touches no others.
    firsts: Vec<K>,
    /// None of them is empty.
    chunks: Vec<Chunk<K, V>>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { firsts: Vec::new(), chunks: Vec::new(), len: 0 }
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: PartialEq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All, in the order of keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { front: [].iter(), chunks: self.chunks.iter(), back: [].iter() }
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values, in the order of keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The chunk where a key is, if it is anywhere.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.firsts.partition_point(|first| first.borrow() <= key).saturating_sub(1)
    }

    /// Where a key is: its chunk, and its place in it.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(usize, usize)>
    where
        K: Borrow<Q>,
    {
        let chunk = self.chunk_of(key);
        let place = search(self.chunks.get(chunk)?, key).ok()?;
        Some((chunk, place))
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        Some(self.get_key_value(key)?.1)
    }

    /// A key as it is kept here, and its value.
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (chunk, place) = self.find(key)?;
        let (key, value) = self.chunks.get(chunk)?.get(place)?;
        Some((key, value))
    }

    /// Whether there is such a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_some()
    }

    /// Those in a range of keys.
    pub fn range(&self, range: impl RangeBounds<K>) -> Iter<'_, K, V> {
        let from = match range.start_bound() {
            Bound::Unbounded => (0, 0),
            Bound::Included(key) => self.place(key, false),
            Bound::Excluded(key) => self.place(key, true),
        };
        let to = match range.end_bound() {
            Bound::Unbounded => (self.chunks.len(), 0),
            Bound::Included(key) => self.place(key, true),
            Bound::Excluded(key) => self.place(key, false),
        };
        let part = |chunk: usize, from: usize, to: usize| {
            let entries = self.chunks.get(chunk).map_or(&[][..], |chunk| chunk.as_slice());
            entries.get(from..to.min(entries.len())).unwrap_or_default().iter()
        };
        if from.0 >= to.0 {
            let front = if from.0 == to.0 { part(from.0, from.1, to.1) } else { [].iter() };
            return Iter { front, chunks: [].iter(), back: [].iter() };
        }
        let between = self.chunks.get(from.0 + 1..to.0).unwrap_or_default();
        Iter {
            front: part(from.0, from.1, usize::MAX),
            chunks: between.iter(),
            back: part(to.0, 0, to.1),
        }
    }

    /// The place of the first key that is not less than this one, or, `past` it, that is greater.
    fn place(&self, key: &K, past: bool) -> (usize, usize) {
        let chunk = self.chunk_of(key);
        let place = match self.chunks.get(chunk).map(|entries| search(entries, key)) {
            Some(Ok(place)) => place + usize::from(past),
            Some(Err(place)) => place,
            None => 0,
        };
        (chunk, place)
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// The value of a key, to be changed. Copies keep what they have.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, place) = self.find(key)?;
        let (_, value) = Arc::make_mut(self.chunks.get_mut(chunk)?).get_mut(place)?;
        Some(value)
    }

    /// Every value, to be changed, in the order of keys.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let entries = self.chunks.iter_mut().flat_map(|chunk| Arc::make_mut(chunk).iter_mut());
        entries.map(|(_, value)| value)
    }

    /// Gives a key a value, and the one that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let at = self.chunk_of(&key);
        let is_last = at + 1 >= self.chunks.len();
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.insert_chunk(0, vec![(key, value)]);
            self.len = 1;
            return None;
        };
        let place = match search(chunk, &key) {
            Ok(place) => {
                let (_, known) = Arc::make_mut(chunk).get_mut(place)?;
                return Some(std::mem::replace(known, value));
            }
            Err(place) => place,
        };
        self.len += 1;
        if chunk.len() < CHUNK {
            if place == 0 {
                self.firsts[at] = key.clone();
            }
            let chunk = Arc::make_mut(chunk);
            if chunk.len() == chunk.capacity() {
                let room = (chunk.len() + 1).next_multiple_of(STEP);
                chunk.reserve_exact(room - chunk.len());
            }
            chunk.insert(place, (key, value));
        } else if is_last && place == CHUNK {
            // Keys rise: this chunk stays full.
            self.insert_chunk(at + 1, vec![(key, value)]);
        } else {
            let chunk = Arc::make_mut(chunk);
            let upper = chunk.split_off(CHUNK / 2);
            chunk.shrink_to_fit();
            self.insert_chunk(at + 1, upper);
            self.len -= 1;
            return self.insert(key, value);
        }
        None
    }

    /// Takes a key out, and gives its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (at, place) = self.find(key)?;
        let chunk = Arc::make_mut(self.chunks.get_mut(at)?);
        let (_, value) = chunk.remove(place);
        self.len -= 1;
        match chunk.first() {
            Some((first, _)) if place == 0 => self.firsts[at] = first.clone(),
            Some(_) => {}
            None => {
                self.remove_chunk(at);
                return Some(value);
            }
        }
        if chunk.len() * 2 <= chunk.capacity() {
            chunk.shrink_to_fit();
        }
        if chunk.len() <= CHUNK / 4 {
            self.join(at);
        }
        Some(value)
    }

    /// Joins a chunk with a neighbour, if both together are far from full.
    fn join(&mut self, at: usize) {
        let sum = |left: usize| {
            let lengths = self.chunks.get(left).zip(self.chunks.get(left + 1));
            lengths.map_or(usize::MAX, |(one, other)| one.len() + other.len())
        };
        let neighbours = [Some(at), at.checked_sub(1)].into_iter().flatten();
        let Some(left) = neighbours.into_iter().find(|left| sum(*left) <= CHUNK * 3 / 4) else {
            return;
        };
        let right = Arc::unwrap_or_clone(self.remove_chunk(left + 1));
        Arc::make_mut(&mut self.chunks[left]).extend(right);
    }

    fn insert_chunk(&mut self, at: usize, entries: Vec<(K, V)>) {
        if let Some((first, _)) = entries.first() {
            self.firsts.insert(at, first.clone());
            self.chunks.insert(at, Arc::new(entries));
        }
    }

    fn remove_chunk(&mut self, at: usize) -> Chunk<K, V> {
        self.firsts.remove(at);
        self.chunks.remove(at)
    }
}

fn search<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized>(
    entries: &[(K, V)],
    key: &Q,
) -> Result<usize, usize> {
    entries.binary_search_by(|(known, _)| known.borrow().cmp(key))
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

impl<K: Ord, V> std::ops::Index<&K> for SharedMap<K, V> {
    type Output = V;

    /// # Panics
    /// There is no such key.
    fn index(&self, key: &K) -> &V {
        let (chunk, place) = self.find(key).unwrap_or((usize::MAX, 0));
        &self.chunks[chunk][place].1
    }
}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

/// Entries of a [`SharedMap`], in the order of keys.
#[derive(Debug, Clone)]
pub struct Iter<'a, K, V> {
    front: slice::Iter<'a, (K, V)>,
    chunks: slice::Iter<'a, Chunk<K, V>>,
    back: slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.front.next() {
                return Some((key, value));
            }
            let Some(chunk) = self.chunks.next() else { break };
            self.front = chunk.iter();
        }
        self.back.next().map(|(key, value)| (key, value))
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.back.next_back() {
                return Some((key, value));
            }
            let Some(chunk) = self.chunks.next_back() else { break };
            self.back = chunk.iter();
        }
        self.front.next_back().map(|(key, value)| (key, value))
    }
}

impl<K, V> FusedIterator for Iter<'_, K, V> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(map: &SharedMap<u16, u32>, model: &BTreeMap<u16, u32>) {
        assert_eq!(map.len(), model.len());
        assert!(map.iter().eq(model));
        assert!(map.iter().rev().eq(model.iter().rev()));
        assert!(map.chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
        assert!(map.chunks.iter().zip(&map.firsts).all(|(chunk, first)| chunk[0].0 == *first));
    }

    proptest! {
        /// It is a sorted map, and a copy stays what it was.
        #[test]
        fn it_is_a_map_and_copies_stay_what_they_were(
            steps in proptest::collection::vec((0..500_u16, any::<u32>(), 0..10_u8), 1..1_500),
            (from, to) in (0..500_u16, 0..500_u16),
        ) {
            let (mut map, mut model) = (SharedMap::default(), BTreeMap::new());
            let mut copy = (map.clone(), model.clone());
            for (key, value, act) in steps {
                match act {
                    0..5 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    5..8 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    8 => {
                        let (ours, theirs) = (map.get_mut(&key), model.get_mut(&key));
                        prop_assert_eq!(ours.is_some(), theirs.is_some());
                        if let (Some(ours), Some(theirs)) = (ours, theirs) {
                            (*ours, *theirs) = (value, value);
                        }
                    }
                    _ => copy = (map.clone(), model.clone()),
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
            }
            check(&map, &model);
            check(&copy.0, &copy.1);
            let bounds = [
                (Bound::Included(from.min(to)), Bound::Excluded(to.max(from))),
                (Bound::Excluded(from.min(to)), Bound::Included(to.max(from) + 1)),
                (Bound::Unbounded, Bound::Included(to)),
                (Bound::Excluded(from), Bound::Unbounded),
            ];
            for range in bounds {
                prop_assert!(map.range(range).eq(model.range(range)));
                prop_assert!(map.range(range).rev().eq(model.range(range).rev()));
            }
        }
    }

    #[test]
    fn rising_keys_fill_chunks_and_copies_share_them() {
        let mut map: SharedMap<u32, u32> = (0..1_000).map(|key| (key, key)).collect();
        assert_eq!(map.chunks.len(), 1_000_usize.div_ceil(CHUNK));
        assert!(map.chunks.iter().all(|chunk| chunk.capacity() <= CHUNK));
        let copy = map.clone();
        *map.get_mut(&500).unwrap() = 7;
        let pairs = map.chunks.iter().zip(&copy.chunks);
        assert_eq!(pairs.filter(|(one, other)| !Arc::ptr_eq(one, other)).count(), 1);
        assert_eq!((map[&500], copy[&500]), (7, 500));
        assert!(map.get_mut(&5_000).is_none());
    }

    #[test]
    fn keys_in_no_order_waste_little_room() {
        let scrambled = (0..10_000_u32).map(|key| key.wrapping_mul(2_654_435_761));
        let map: SharedMap<u32, u32> = scrambled.map(|key| (key, key)).collect();
        assert_eq!(map.len(), 10_000);
        let room: usize = map.chunks.iter().map(|chunk| chunk.capacity()).sum();
        assert!(room <= 11_500, "room for {room}");
    }

    #[test]
    fn what_is_taken_out_gives_its_room_back() {
        let mut map: SharedMap<u32, u32> = (0..6_400).map(|key| (key, key)).collect();
        for key in (0..6_400).filter(|key| key % 16 != 0) {
            map.remove(&key);
        }
        assert_eq!(map.len(), 400);
        let room: usize = map.chunks.iter().map(|chunk| chunk.capacity()).sum();
        assert!(room <= 1_000, "room for {room}");
        assert!(map.chunks.len() <= 25, "{} chunks", map.chunks.len());
    }
}
