//! Groups of tasks that are counted by node: those of one spec (its own kind), and those of one image.
//!
//! A group is known by what it is of, and not by a number that was given to it. So nobody need remember one that
//! has no tasks, and whoever names it later names the same one.
//!
//! A group's tasks on one node are a *pair*. Each pair stands in the list of its group and in that of its lane, so
//! that a node that goes costs what it had tasks of, however many groups there are. Everything lies in a few arrays,
//! which are copied as a whole where plans are made.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};
use std::num::NonZeroU128;

use longshore_proto::name::{JobKey, SpecName};

/// A group, by a hash of what it is of: of a million groups two share one with a chance of 10^-27.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub(crate) NonZeroU128);

impl GroupId {
    /// The group of the tasks of one spec.
    pub fn of_spec(job: &JobKey, spec: &SpecName) -> Self {
        Self::of(&["spec", job.namespace.as_str(), job.name.as_str(), spec.as_str()])
    }

    /// The group of the tasks of one image.
    pub fn of_image(image: &str) -> Self {
        Self::of(&["image", image])
    }

    fn of(words: &[&str]) -> Self {
        let half = |which: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(which);
            for word in words {
                hasher.write_usize(word.len());
                hasher.write(word.as_bytes());
            }
            u128::from(hasher.finish())
        };
        Self(NonZeroU128::new(half(0) << 64 | half(1)).unwrap_or(NonZeroU128::MIN))
    }
}

/// Nobody: the end of a list.
const NONE: u32 = u32::MAX;

/// The neighbours in a list.
#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
}

/// A group's tasks on one node.
#[derive(Debug, Clone, Copy)]
struct Pair {
    /// The place of its group among those that are counted.
    group: u32,
    lane: u32,
    tasks: u32,
    in_group: Link,
    in_lane: Link,
}

/// A group that has tasks.
#[derive(Debug, Clone, Copy)]
struct Counted {
    id: GroupId,
    /// The first of its pairs.
    first: u32,
}

/// Every group that has tasks, and how many of them each lane's node has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    /// Where each group stands in `groups`.
    places: Numbers<GroupId>,
    groups: Vec<Counted>,
    vacant_groups: Vec<u32>,
    /// Where the pair of a group's place and a lane stands in `pairs`.
    pair_of: Numbers<(u32, u32)>,
    pairs: Vec<Pair>,
    vacant_pairs: Vec<u32>,
    /// The first pair of each lane.
    first_of_lane: Vec<u32>,
}

impl Groups {
    /// How many tasks of the group the node on a lane has.
    pub(crate) fn count(&self, group: GroupId, lane: u32) -> u32 {
        let pair = self.places.get(&group).and_then(|group| self.pair_of.get(&(*group, lane)));
        pair.map_or(0, |pair| self.pairs[*pair as usize].tasks)
    }

    /// Whether the group has no task anywhere.
    pub(crate) fn is_empty(&self, group: GroupId) -> bool {
        !self.places.contains_key(&group)
    }

    /// How many groups have tasks.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The lanes that have tasks of the group, with how many, in no order that could be relied on.
    pub(crate) fn members(&self, group: GroupId) -> impl Iterator<Item = (u32, u32)> {
        let first =
            self.places.get(&group).map_or(NONE, |group| self.groups[*group as usize].first);
        let pairs = self.list(first, |pair| pair.in_group);
        pairs.map(|pair| (pair.lane, pair.tasks))
    }

    fn list(&self, first: u32, link: fn(&Pair) -> Link) -> impl Iterator<Item = &Pair> {
        let pair = |at: u32| self.pairs.get(at as usize);
        std::iter::successors(pair(first), move |one| pair(link(one).after))
    }

    pub(super) fn add(&mut self, group: GroupId, lane: u32, tasks: u32) {
        let place = self.place(group);
        if let Some(pair) = self.pair_of.get(&(place, lane)) {
            self.pairs[*pair as usize].tasks += tasks;
            return;
        }
        if self.first_of_lane.len() <= lane as usize {
            self.first_of_lane.resize(lane as usize + 1, NONE);
        }
        let before = |after| Link { before: NONE, after };
        let pair = Pair {
            group: place,
            lane,
            tasks,
            in_group: before(self.groups[place as usize].first),
            in_lane: before(self.first_of_lane[lane as usize]),
        };
        let at = put(&mut self.pairs, &mut self.vacant_pairs, pair);
        if let Some(next) = self.pairs.get_mut(pair.in_group.after as usize) {
            next.in_group.before = at;
        }
        if let Some(next) = self.pairs.get_mut(pair.in_lane.after as usize) {
            next.in_lane.before = at;
        }
        self.groups[place as usize].first = at;
        self.first_of_lane[lane as usize] = at;
        self.pair_of.insert((place, lane), at);
    }

    pub(super) fn subtract(&mut self, group: GroupId, lane: u32) {
        let pair = self.places.get(&group).and_then(|group| self.pair_of.get(&(*group, lane)));
        let Some(pair) = pair.copied() else { return };
        let tasks = &mut self.pairs[pair as usize].tasks;
        *tasks -= 1;
        if *tasks == 0 {
            self.forget(pair);
        }
    }

    /// Takes a lane out of every group, and gives what it was counted for.
    pub(super) fn take_lane(&mut self, lane: u32) -> BTreeMap<GroupId, u32> {
        let mut taken = BTreeMap::new();
        let mut next = self.first_of_lane.get(lane as usize).copied().unwrap_or(NONE);
        while let Some(Pair { group, tasks, in_lane, .. }) = self.pairs.get(next as usize).copied()
        {
            taken.insert(self.groups[group as usize].id, tasks);
            self.forget(next);
            next = in_lane.after;
        }
        taken
    }

    /// The place of a group, which is counted from now on.
    fn place(&mut self, id: GroupId) -> u32 {
        let (groups, vacant) = (&mut self.groups, &mut self.vacant_groups);
        let new = || put(groups, vacant, Counted { id, first: NONE });
        *self.places.entry(id).or_insert_with(new)
    }

    /// A pair has no tasks any more; when it was the last of its group, neither has the group.
    fn forget(&mut self, at: u32) {
        let Pair { group, lane, in_group, in_lane, .. } = self.pairs[at as usize];
        match self.pairs.get_mut(in_group.before as usize) {
            Some(before) => before.in_group.after = in_group.after,
            None => self.groups[group as usize].first = in_group.after,
        }
        match self.pairs.get_mut(in_lane.before as usize) {
            Some(before) => before.in_lane.after = in_lane.after,
            None => self.first_of_lane[lane as usize] = in_lane.after,
        }
        if let Some(after) = self.pairs.get_mut(in_group.after as usize) {
            after.in_group.before = in_group.before;
        }
        if let Some(after) = self.pairs.get_mut(in_lane.after as usize) {
            after.in_lane.before = in_lane.before;
        }
        self.pair_of.remove(&(group, lane));
        self.vacant_pairs.push(at);
        let Counted { id, first } = self.groups[group as usize];
        if first == NONE {
            self.places.remove(&id);
            self.vacant_groups.push(group);
        }
    }
}

/// Puts something where nothing is, and says where.
fn put<T>(all: &mut Vec<T>, vacant: &mut Vec<u32>, one: T) -> u32 {
    if let Some(at) = vacant.pop() {
        all[at as usize] = one;
        return at;
    }
    all.push(one);
    u32::try_from(all.len() - 1).unwrap_or(NONE)
}

/// Finds by numbers that nobody outside can choose.
type Numbers<K> = HashMap<K, u32, BuildHasherDefault<Mixer>>;

/// Mixes numbers by one multiplication each, and names of nodes eight bytes at a time: operators say who may join, so
/// that names come from nobody who would make them collide.
#[derive(Debug, Default)]
pub(super) struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let wide = u128::from(self.0 ^ number ^ 0x243f_6a88_85a3_08d3) * 0x9e37_79b9_7f4a_7c15;
        self.0 = (wide ^ wide >> 64) as u64;
    }

    fn write_u128(&mut self, number: u128) {
        // It is a hash already.
        self.0 = number as u64;
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::name::Namespace;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_group_is_known_by_what_it_is_of() {
        let job = |namespace: &str, name: &str| JobKey {
            namespace: namespace.parse().unwrap(),
            name: name.parse().unwrap(),
        };
        let of = |namespace, name, spec: &str| {
            GroupId::of_spec(&job(namespace, name), &spec.parse().unwrap())
        };
        assert_eq!(of("a", "b", "c"), of("a", "b", "c"));
        let ids = [
            of("a", "b", "c"),
            of("a", "c", "b"),
            of("ab", "c", "c"),
            of("a", "bc", "c"),
            GroupId::of_image("c"),
            GroupId::of_image("c:1"),
            GroupId::of_image(Namespace::standard().as_str()),
        ];
        let different: std::collections::BTreeSet<GroupId> = ids.into_iter().collect();
        assert_eq!(different.len(), ids.len());
    }

    /// What there is to remember: as many groups and pairs as have tasks, each found by everybody.
    fn check(groups: &Groups, model: &BTreeMap<(GroupId, u32), u32>, ids: &[GroupId]) {
        let live: std::collections::BTreeSet<GroupId> = model.keys().map(|(id, _)| *id).collect();
        assert_eq!(groups.len(), live.len());
        assert_eq!(groups.groups.len() - groups.vacant_groups.len(), live.len());
        assert_eq!(groups.pairs.len() - groups.vacant_pairs.len(), model.len());
        assert_eq!(groups.pair_of.len(), model.len());
        for id in ids {
            assert_eq!(groups.is_empty(*id), !live.contains(id));
            let members: BTreeMap<(GroupId, u32), u32> =
                groups.members(*id).map(|(lane, tasks)| ((*id, lane), tasks)).collect();
            let of_id = model.iter().filter(|((one, _), _)| one == id);
            assert_eq!(members, of_id.map(|(key, tasks)| (*key, *tasks)).collect());
            for ((_, lane), tasks) in &members {
                assert_eq!(groups.count(*id, *lane), *tasks);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_remembered_is_what_has_tasks(
            steps in proptest::collection::vec((0..8_usize, 0..6_u32, 0..10_u8), 1..200)
        ) {
            let ids: Vec<GroupId> =
                (0..8).map(|image| GroupId::of_image(&image.to_string())).collect();
            let mut groups = Groups::default();
            let mut model: BTreeMap<(GroupId, u32), u32> = BTreeMap::new();
            for (id, lane, act) in steps {
                let id = ids[id];
                match act {
                    0..5 => {
                        groups.add(id, lane, 1);
                        *model.entry((id, lane)).or_default() += 1;
                    }
                    5..9 => {
                        groups.subtract(id, lane);
                        if let Some(tasks) = model.get_mut(&(id, lane)) {
                            *tasks -= 1;
                        }
                        model.retain(|_, tasks| *tasks > 0);
                    }
                    _ => {
                        let taken: BTreeMap<(GroupId, u32), u32> = groups
                            .take_lane(lane)
                            .into_iter()
                            .map(|(id, tasks)| ((id, lane), tasks))
                            .collect();
                        let of_lane = model.iter().filter(|((_, on), _)| *on == lane);
                        prop_assert_eq!(taken, of_lane.map(|(key, tasks)| (*key, *tasks)).collect());
                        model.retain(|(_, on), _| *on != lane);
                    }
                }
                check(&groups, &model, &ids);
            }
            for (id, lane) in model.into_keys() {
                while groups.count(id, lane) > 0 {
                    groups.subtract(id, lane);
                }
            }
            check(&groups, &BTreeMap::new(), &ids);
        }
    }
}
