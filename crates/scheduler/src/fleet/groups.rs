//! Groups of tasks that are counted by node: those of one spec (its own kind), and those of one image.
//!
//! A group is known by what it is of, and not by a number that was given to it. So nobody need remember one that
//! has no tasks, and whoever names it later names the same one.
//!
//! How many tasks of which groups a node has stands in one short list by lane: whoever places or ends a task on a large
//! fleet waits for memory and for little else, and reads that list alone. So a node that goes costs what it had tasks of,
//! however many groups there are. Of each group it is known in bits on which lanes it is, which is little enough to stay
//! close at hand.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hasher};
use std::num::NonZeroU128;

use longshore_proto::name::{JobKey, SpecName};
use smallvec::SmallVec;

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

/// A group that has tasks.
#[derive(Debug, Clone)]
struct Counted {
    id: GroupId,
    /// The lanes whose nodes have tasks of it, as bits by blocks of 64.
    lanes: HashMap<u32, u64, BuildHasherDefault<Mixer>>,
}

/// How many tasks a node has of a group, which is named by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    group: u32,
    tasks: u32,
}

/// What a node has tasks of, in the order of places. Seven fit with their number into one line of the processor's caches.
type AllHeld = SmallVec<[Held; 7]>;

/// Every group that has tasks, and how many of them each lane's node has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    /// Where each group stands in `groups`.
    places: Numbers<GroupId>,
    groups: Vec<Counted>,
    vacant_groups: Vec<u32>,
    /// By lane.
    held: Vec<AllHeld>,
}

impl Groups {
    /// How many tasks of the group the node on a lane has.
    pub(crate) fn count(&self, group: GroupId, lane: u32) -> u32 {
        self.places.get(&group).map_or(0, |place| self.tasks(*place, lane))
    }

    fn tasks(&self, place: u32, lane: u32) -> u32 {
        let held = self.held.get(lane as usize).map_or(&[][..], |held| held);
        find(held, place).map_or(0, |at| held[at].tasks)
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
        let place = self.places.get(&group).copied();
        let blocks = place.into_iter().flat_map(|place| {
            let blocks = self.groups[place as usize].lanes.iter();
            blocks.map(move |(block, bits)| (place, *block, *bits))
        });
        blocks.flat_map(move |(place, block, bits)| {
            let lanes = (0..u64::BITS).filter(move |bit| bits >> bit & 1 == 1);
            let lanes = lanes.map(move |bit| block * u64::BITS + bit);
            lanes.map(move |lane| (lane, self.tasks(place, lane)))
        })
    }

    pub(super) fn add(&mut self, group: GroupId, lane: u32, tasks: u32) {
        let place = self.place(group);
        if self.held.len() <= lane as usize {
            self.held.resize_with(lane as usize + 1, AllHeld::new);
        }
        let held = &mut self.held[lane as usize];
        match find(held, place) {
            Ok(at) => held[at].tasks += tasks,
            Err(at) => {
                held.insert(at, Held { group: place, tasks });
                let (block, bit) = (lane / u64::BITS, lane % u64::BITS);
                *self.groups[place as usize].lanes.entry(block).or_insert(0) |= 1 << bit;
            }
        }
    }

    pub(super) fn subtract(&mut self, group: GroupId, lane: u32) {
        let Some(place) = self.places.get(&group).copied() else { return };
        let Some(held) = self.held.get_mut(lane as usize) else { return };
        let Ok(at) = find(held, place) else { return };
        held[at].tasks -= 1;
        if held[at].tasks == 0 {
            held.remove(at);
            self.leave(place, lane);
        }
    }

    /// Takes a lane out of every group, and gives what it was counted for.
    pub(super) fn take_lane(&mut self, lane: u32) -> BTreeMap<GroupId, u32> {
        let mut taken = BTreeMap::new();
        let held = self.held.get_mut(lane as usize).map(std::mem::take);
        for Held { group, tasks } in held.into_iter().flatten() {
            taken.insert(self.groups[group as usize].id, tasks);
            self.leave(group, lane);
        }
        taken
    }

    /// The place of a group, which is counted from now on.
    fn place(&mut self, id: GroupId) -> u32 {
        let (groups, vacant) = (&mut self.groups, &mut self.vacant_groups);
        let new = || put(groups, vacant, Counted { id, lanes: HashMap::default() });
        *self.places.entry(id).or_insert_with(new)
    }

    /// A group has no tasks on a lane any more; when that was its last one, it has none at all.
    fn leave(&mut self, place: u32, lane: u32) {
        let Counted { id, lanes } = &mut self.groups[place as usize];
        if let Entry::Occupied(mut bits) = lanes.entry(lane / u64::BITS) {
            *bits.get_mut() &= !(1 << (lane % u64::BITS));
            if *bits.get() == 0 {
                bits.remove();
            }
        }
        if lanes.is_empty() {
            self.places.remove(id);
            *lanes = HashMap::default();
            self.vacant_groups.push(place);
        }
    }
}

/// Where a group stands among those of a lane, or would.
fn find(held: &[Held], place: u32) -> Result<usize, usize> {
    held.binary_search_by_key(&place, |held| held.group)
}

/// Puts something where nothing is, and says where.
fn put<T>(all: &mut Vec<T>, vacant: &mut Vec<u32>, one: T) -> u32 {
    if let Some(at) = vacant.pop() {
        all[at as usize] = one;
        return at;
    }
    all.push(one);
    u32::try_from(all.len() - 1).unwrap_or(u32::MAX)
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

    /// What there is to remember: as many groups as have tasks, and on the lanes where they have, each found by everybody.
    fn check(groups: &Groups, model: &BTreeMap<(GroupId, u32), u32>, ids: &[GroupId]) {
        let live: std::collections::BTreeSet<GroupId> = model.keys().map(|(id, _)| *id).collect();
        assert_eq!(groups.len(), live.len());
        assert_eq!(groups.groups.len() - groups.vacant_groups.len(), live.len());
        assert_eq!(groups.held.iter().map(|held| held.len()).sum::<usize>(), model.len());
        let bits =
            |group: &Counted| group.lanes.values().map(|bits| bits.count_ones()).sum::<u32>();
        assert_eq!(groups.groups.iter().map(bits).sum::<u32>() as usize, model.len());
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
