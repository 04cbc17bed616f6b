//! Preemption: which tasks would have to go so that more important ones fit.
//!
//! The answer is a list of **seats**: a node, and the tasks that must go from it so that one more of the
//! waiting tasks fits there. Seats are taken from the cheapest node, again and again, with what was taken in
//! mind. One is cheaper than another when its most important victim is less important; then when it has fewer
//! victims; then when they are smaller; then by the fixed order of nodes.
//!
//! Tasks that are ending anyway count as gone, so a seat without victims is room that is coming, and nobody is
//! displaced twice for the same wish.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use longshore_proto::id::TaskId;
use longshore_proto::name::NodeName;
use longshore_proto::spec::{Port, Protocol, Resources};

use super::size;
use crate::Demand;
use crate::demand::{Amounts, DIMENSIONS, amounts};
use crate::filter::{self, Reason};
use crate::fleet::{Fleet, GroupId, Node};

/// A task that holds something of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Occupant<'a> {
    /// The task.
    pub task: TaskId,
    /// How important it is.
    pub priority: u8,
    /// Whether it was told to end: its place is as good as free.
    pub is_ending: bool,
    /// What it holds.
    pub resources: Resources,
    /// The ports that it publishes.
    pub ports: &'a [Port],
    /// Its own kind.
    pub kin: Option<GroupId>,
}

/// Room for one task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Where.
    pub node: NodeName,
    /// What must go first; nothing, where it is enough that what is ending ends.
    pub victims: Vec<TaskId>,
}

/// How much is asked for, and how much time may be spent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// Seats for so many tasks alike.
    pub seats: usize,
    /// Only tasks of at most this priority are displaced; `None`: none is.
    pub priority_max: Option<u8>,
    /// The occupants of at most so many nodes are looked at.
    pub nodes_max: usize,
    /// Begins with the node after this one by name, and goes on from the first after the last.
    pub after: Option<&'a NodeName>,
    /// These nodes are looked at besides: where an earlier search, of other nodes, has found seats.
    pub besides: &'a [NodeName],
}

impl Wanted<'_> {
    /// So many seats, wherever they are.
    pub fn anywhere(seats: usize, priority_max: Option<u8>) -> Self {
        Self { seats, priority_max, nodes_max: usize::MAX, after: None, besides: &[] }
    }
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The cheapest seats on the nodes that were looked at.
    pub seats: Vec<Seat>,
    /// How many nodes' occupants were looked at, those not counted that are looked at besides.
    pub nodes: usize,
    /// The node that was looked at last, when there were more than might be looked at.
    pub stopped_at: Option<NodeName>,
}

/// Finds seats. Fewer than wanted mean that there are no more, on the nodes that were looked at.
pub fn seats<'a>(
    fleet: &Fleet,
    demand: &Demand<'_>,
    wanted: Wanted<'_>,
    mut occupants: impl FnMut(&NodeName) -> Vec<Occupant<'a>>,
) -> Found {
    let Wanted { seats: wanted, priority_max, nodes_max, after, besides } = wanted;
    let wish = Wish::of(demand);
    let mut benches: BTreeMap<u32, Bench<'a>> = BTreeMap::new();
    let mut cheapest = BinaryHeap::new();
    let (mut nodes, mut stopped_at) = (0, None);
    let mut last: Option<&NodeName> = None;
    let mut look_at = |lane: u32, node: &Node| {
        let bench = Bench::new(fleet, node, lane, &wish, occupants(&node.name), priority_max);
        if let Some((price, victims)) = bench.price(&wish) {
            cheapest.push(Reverse((price, lane, victims)));
            benches.insert(lane, bench);
        }
    };
    let is_in_question = |node: &Node| is_in_question(filter::reason_against(fleet, node, demand));
    let besides: BTreeSet<u32> = besides.iter().filter_map(|node| fleet.lane(node)).collect();
    for lane in &besides {
        if let Some(node) = fleet.at(*lane).filter(|node| is_in_question(node)) {
            look_at(*lane, node);
        }
    }
    for lane in fleet.in_turn(after).filter(|lane| !besides.contains(lane)) {
        let Some(node) = fleet.at(lane).filter(|node| is_in_question(node)) else { continue };
        if nodes == nodes_max {
            stopped_at = last.cloned();
            break;
        }
        nodes += 1;
        last = Some(&node.name);
        look_at(lane, node);
    }
    let mut seats = Vec::new();
    while seats.len() < wanted {
        let Some(Reverse((_, lane, victims))) = cheapest.pop() else { break };
        let (Some(bench), Some(node)) = (benches.get_mut(&lane), fleet.at(lane)) else { continue };
        let victims = bench.seat(&wish, victims);
        seats.push(Seat { node: node.name.clone(), victims });
        if let Some((price, victims)) = bench.price(&wish) {
            cheapest.push(Reverse((price, lane, victims)));
        }
    }
    Found { seats, nodes, stopped_at }
}

/// Whether one more task will fit on a node once what is ending there has ended, with nobody displaced.
pub fn is_coming(
    fleet: &Fleet,
    demand: &Demand<'_>,
    node: &NodeName,
    occupants: Vec<Occupant<'_>>,
) -> bool {
    let (Some(node), Some(lane)) = (fleet.node(node), fleet.lane(node)) else { return false };
    let wish = Wish::of(demand);
    is_in_question(filter::reason_against(fleet, node, demand))
        && Bench::new(fleet, node, lane, &wish, occupants, None).room.holds(&wish)
}

/// Whether only what tasks hold is in the way.
fn is_in_question(reason: Option<Reason>) -> bool {
    use Reason::{Cpu, Disk, Memory, OwnKind, PortTaken, Tasks};
    reason.is_none_or(|reason| matches!(reason, OwnKind | PortTaken | Cpu | Memory | Disk | Tasks))
}

/// What of a demand others can be in the way of.
struct Wish {
    amounts: Amounts,
    ports: Vec<(u16, Protocol)>,
    /// The own kind, where none of it may be near.
    apart_from: Option<GroupId>,
}

impl Wish {
    fn of(demand: &Demand<'_>) -> Self {
        Self {
            amounts: demand.amounts(),
            // A port that the worker chooses is in nobody's way.
            ports: demand
                .ports
                .iter()
                .filter(|port| !port.is_dynamic())
                .map(|port| (port.host, port.protocol))
                .collect(),
            apart_from: demand.kin.filter(|_| demand.distinct_hosts),
        }
    }
}

/// What is left on a node of what is wished for.
#[derive(Clone)]
struct Room {
    /// Of each dimension; below zero where more is promised than there is.
    free: [i64; DIMENSIONS],
    /// How many hold each port that is wished for.
    port_holders: Vec<u32>,
    /// How many there are of the kind that none may be of.
    unwelcome: u32,
}

impl Room {
    fn holds(&self, wish: &Wish) -> bool {
        let enough = |r: usize| wish.amounts[r] == 0 || signed(wish.amounts[r]) <= self.free[r];
        self.unwelcome == 0
            && self.port_holders.iter().all(|holders| *holders == 0)
            && (0..DIMENSIONS).all(enough)
    }

    fn leave(&mut self, wish: &Wish, occupant: &Occupant<'_>) {
        for (free, held) in self.free.iter_mut().zip(amounts(occupant.resources, 1)) {
            *free += signed(held);
        }
        for (port, holders) in wish.ports.iter().zip(&mut self.port_holders) {
            *holders = holders.saturating_sub(u32::from(publishes(occupant, *port)));
        }
        let unwelcome = wish.apart_from.is_some() && occupant.kin == wish.apart_from;
        self.unwelcome = self.unwelcome.saturating_sub(u32::from(unwelcome));
    }

    /// Takes back a [`Room::leave`].
    fn stay(&mut self, wish: &Wish, occupant: &Occupant<'_>) {
        for (free, held) in self.free.iter_mut().zip(amounts(occupant.resources, 1)) {
            *free -= signed(held);
        }
        for (port, holders) in wish.ports.iter().zip(&mut self.port_holders) {
            *holders += u32::from(publishes(occupant, *port));
        }
        let unwelcome = wish.apart_from.is_some() && occupant.kin == wish.apart_from;
        self.unwelcome += u32::from(unwelcome);
    }
}

fn publishes(occupant: &Occupant<'_>, (host, protocol): (u16, Protocol)) -> bool {
    occupant.ports.iter().any(|port| port.host == host && port.protocol == protocol)
}

/// How dear a seat is: the importance of its most important victim, how many there are, how large, and the order
/// of nodes.
type Price = (u8, usize, u64, u64);

/// One node with those who hold something of it.
struct Bench<'a> {
    tie: u64,
    /// What is free, what is ending counted as gone.
    room: Room,
    /// Who may be displaced, the least important first and of those the smallest.
    occupants: Vec<Occupant<'a>>,
}

impl<'a> Bench<'a> {
    fn new(
        fleet: &Fleet,
        node: &Node,
        lane: u32,
        wish: &Wish,
        occupants: Vec<Occupant<'a>>,
        priority_max: Option<u8>,
    ) -> Self {
        let (capacity, committed) = (node.capacity_amounts(), node.committed_amounts());
        let holders = |&(host, protocol): &(u16, Protocol)| node.port_holders(host, protocol);
        let mut room = Room {
            free: std::array::from_fn(|r| signed(capacity[r]) - signed(committed[r])),
            port_holders: wish.ports.iter().map(holders).collect(),
            unwelcome: wish.apart_from.map_or(0, |kin| fleet.groups().count(kin, lane)),
        };
        let (ending, mut staying): (Vec<_>, Vec<_>) =
            occupants.into_iter().partition(|occupant| occupant.is_ending);
        for occupant in &ending {
            room.leave(wish, occupant);
        }
        staying.retain(|occupant| priority_max.is_some_and(|most| occupant.priority <= most));
        staying.sort_by_key(|one| (one.priority, size(one.resources), one.task));
        Self { tie: node.tie(), room, occupants: staying }
    }

    /// The cheapest victims for one more task, by their places among the occupants, and how dear they are.
    /// `None` when it fits whoever goes.
    fn price(&self, wish: &Wish) -> Option<(Price, Vec<usize>)> {
        let mut room = self.room.clone();
        // Everybody up to the importance that it takes.
        let mut gone = 0;
        while !room.holds(wish) {
            let priority = self.occupants.get(gone)?.priority;
            let alike = self.occupants.iter().skip(gone);
            for occupant in alike.take_while(|occupant| occupant.priority == priority) {
                room.leave(wish, occupant);
                gone += 1;
            }
        }
        let involved = &self.occupants[..gone];
        if involved.is_empty() {
            return Some(self.priced(Vec::new()));
        }
        // One is enough, if one is: the smallest.
        let alone = involved.iter().position(|occupant| {
            let mut room = self.room.clone();
            room.leave(wish, occupant);
            room.holds(wish)
        });
        if let Some(place) = alone {
            return Some(self.priced(vec![place]));
        }
        // As many as can stay do, the most important first. To ask small ones first leaves few victims; to ask
        // large ones first may leave fewer still.
        let sets = [false, true].map(|large_first| {
            let mut order: Vec<usize> = (0..gone).collect();
            order.sort_by_key(|&place| {
                let size = size(involved[place].resources);
                let rank = if large_first { u64::MAX - size } else { size };
                (Reverse(involved[place].priority), rank, place)
            });
            let mut room = room.clone();
            order.retain(|&place| {
                room.stay(wish, &involved[place]);
                let must_go = !room.holds(wish);
                if must_go {
                    room.leave(wish, &involved[place]);
                }
                must_go
            });
            order.sort_unstable();
            self.priced(order)
        });
        sets.into_iter().min()
    }

    fn priced(&self, victims: Vec<usize>) -> (Price, Vec<usize>) {
        let each = || victims.iter().map(|&place| &self.occupants[place]);
        let priority = each().map(|occupant| occupant.priority).max().unwrap_or(0);
        let sum = each().map(|occupant| size(occupant.resources)).fold(0, u64::saturating_add);
        ((priority, victims.len(), sum, self.tie), victims)
    }

    /// Displaces the victims, whose places rise, and seats one more task. Gives who they were.
    fn seat(&mut self, wish: &Wish, victims: Vec<usize>) -> Vec<TaskId> {
        let mut gone = Vec::with_capacity(victims.len());
        for place in victims.into_iter().rev() {
            let occupant = self.occupants.remove(place);
            self.room.leave(wish, &occupant);
            gone.push(occupant.task);
        }
        gone.reverse();
        for (free, wanted) in self.room.free.iter_mut().zip(wish.amounts) {
            *free -= signed(wanted);
        }
        for holders in &mut self.room.port_holders {
            *holders += 1;
        }
        self.room.unwelcome += u32::from(wish.apart_from.is_some());
        gone
    }
}

/// No figure passes 2^52, so sums of a node's are far from the end of the range.
fn signed(figure: u64) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{demand, join, join_as, name, port, resources, task};
    use longshore_proto::name::{JobKey, Namespace};
    use longshore_proto::state::{Eligibility, NodeStatus};

    /// A task as `(number, priority, cores)`.
    type Held = (u128, u8, u64);

    /// Tasks on nodes of 8 cores.
    struct Cluster {
        fleet: Fleet,
        tasks: BTreeMap<NodeName, Vec<Occupant<'static>>>,
    }

    impl Cluster {
        fn new(nodes: &[(&str, &[Held])]) -> Self {
            let (mut fleet, mut tasks) = (Fleet::default(), BTreeMap::new());
            for (node, held) in nodes {
                join(&mut fleet, node, resources(8, 64));
                let occupants = held.iter().map(|&(number, priority, cores)| {
                    fleet.reserve(&name(node), &demand(cores, 0));
                    Occupant {
                        task: task(number),
                        priority,
                        is_ending: false,
                        resources: resources(cores, 0),
                        ports: &[],
                        kin: None,
                    }
                });
                tasks.insert(name(node), occupants.collect());
            }
            Self { fleet, tasks }
        }

        fn seats(&self, cores: u64, wanted: usize, priority_max: u8) -> Vec<(String, Vec<u128>)> {
            let occupants = |node: &NodeName| self.tasks[node].clone();
            let wanted = Wanted::anywhere(wanted, Some(priority_max));
            let seats = seats(&self.fleet, &demand(cores, 0), wanted, occupants).seats;
            let short = |seat: Seat| {
                let victims = seat.victims.iter().map(|task| task.0.as_u128()).collect();
                (seat.node.to_string(), victims)
            };
            seats.into_iter().map(short).collect()
        }
    }

    fn seat(node: &str, victims: &[u128]) -> (String, Vec<u128>) {
        (node.to_owned(), victims.to_vec())
    }

    #[test]
    fn the_least_important_go_first_then_the_fewest_then_the_smallest() {
        let cluster = Cluster::new(&[
            ("n1", &[(1, 50, 8)]),
            ("n2", &[(2, 10, 4), (3, 20, 4)]),
            ("n3", &[(4, 20, 8)]),
            ("n4", &[(5, 20, 6), (6, 60, 2)]),
        ]);
        assert_eq!(cluster.seats(4, 1, 89), [seat("n2", &[2])]);
        assert_eq!(cluster.seats(6, 1, 89), [seat("n4", &[5])], "one of 20, and the smaller one");
        assert_eq!(cluster.seats(8, 1, 89), [seat("n3", &[4])], "one is fewer than two");
        assert_eq!(
            cluster.seats(8, 9, 50),
            [seat("n3", &[4]), seat("n2", &[2, 3]), seat("n1", &[1]),]
        );
    }

    #[test]
    fn nobody_goes_who_is_important_enough_or_need_not() {
        let cluster = Cluster::new(&[("n1", &[(1, 10, 2), (2, 10, 3), (3, 10, 2), (4, 30, 1)])]);
        assert_eq!(cluster.seats(2, 1, 9), []);
        assert_eq!(cluster.seats(3, 1, 89), [seat("n1", &[2])]);
        assert_eq!(cluster.seats(4, 1, 89), [seat("n1", &[1, 3])], "the smaller pair");
        assert_eq!(cluster.seats(9, 1, 89), [], "it never fits");
    }

    #[test]
    fn several_are_seated_with_each_other_in_mind() {
        let cluster = Cluster::new(&[("n1", &[(1, 10, 4), (2, 20, 4)]), ("n2", &[(3, 15, 8)])]);
        assert_eq!(
            cluster.seats(4, 9, 89),
            [seat("n1", &[1]), seat("n2", &[3]), seat("n2", &[]), seat("n1", &[2]),]
        );
    }

    #[test]
    fn what_is_ending_counts_as_gone() {
        let mut cluster = Cluster::new(&[("n1", &[(1, 10, 4), (2, 10, 4)]), ("n2", &[(3, 90, 8)])]);
        cluster.tasks.get_mut(&name("n1")).unwrap()[0].is_ending = true;
        assert_eq!(cluster.seats(4, 1, 89), [seat("n1", &[])]);
        assert_eq!(cluster.seats(8, 1, 89), [seat("n1", &[2])]);
        let occupants = || cluster.tasks[&name("n1")].clone();
        assert!(is_coming(&cluster.fleet, &demand(4, 0), &name("n1"), occupants()));
        assert!(!is_coming(&cluster.fleet, &demand(5, 0), &name("n1"), occupants()));
        assert!(!is_coming(&cluster.fleet, &demand(4, 0), &name("n9"), occupants()));
    }

    #[test]
    fn ports_and_the_own_kind_are_made_way_for_too() {
        let mut cluster = Cluster::new(&[("n1", &[])]);
        let ports: &'static [Port] = Box::leak(Box::new([port(80)]));
        let job = JobKey { namespace: Namespace::standard(), name: "a".parse().unwrap() };
        let kin = GroupId::of_spec(&job, &"main".parse().unwrap());
        let wanted = Demand { ports, ..demand(1, 0) };
        cluster.fleet.reserve(&name("n1"), &wanted);
        let holder = Occupant {
            task: task(1),
            priority: 10,
            is_ending: false,
            resources: resources(1, 0),
            ports,
            kin: None,
        };
        let two = Wanted::anywhere(2, Some(50));
        let found = seats(&cluster.fleet, &wanted, two, |_| vec![holder]).seats;
        assert_eq!(
            found,
            [Seat { node: name("n1"), victims: vec![task(1)] }],
            "one holder at a time"
        );
        let apart = Demand { kin: Some(kin), distinct_hosts: true, ..demand(1, 0) };
        cluster.fleet.reserve(&name("n1"), &apart);
        let like = Occupant { task: task(2), ports: &[], kin: Some(kin), ..holder };
        let found = seats(&cluster.fleet, &apart, two, |_| vec![holder, like]).seats;
        assert_eq!(found, [Seat { node: name("n1"), victims: vec![task(2)] }]);
    }

    #[test]
    fn a_search_looks_at_no_more_than_it_may_and_the_next_goes_on_from_there() {
        let held: Vec<(String, [Held; 1])> =
            (1..=9).map(|number| (format!("n{number}"), [(number, 10, 8)])).collect();
        let nodes: Vec<(&str, &[Held])> =
            held.iter().map(|(node, held)| (node.as_str(), held.as_slice())).collect();
        let cluster = Cluster::new(&nodes);
        let search = |after: Option<&NodeName>, nodes_max| {
            let mut asked = Vec::new();
            let wanted = Wanted { nodes_max, after, ..Wanted::anywhere(1, Some(50)) };
            let found = seats(&cluster.fleet, &demand(8, 0), wanted, |node| {
                asked.push(node.to_string());
                cluster.tasks[node].clone()
            });
            assert_eq!((found.nodes, found.seats.len()), (asked.len(), 1));
            (asked, found.stopped_at)
        };
        let (asked, stopped_at) = search(None, 4);
        assert_eq!(asked, ["n1", "n2", "n3", "n4"]);
        assert_eq!(stopped_at, Some(name("n4")));
        assert_eq!(search(stopped_at.as_ref(), 4).0, ["n5", "n6", "n7", "n8"]);
        let (asked, stopped_at) = search(Some(&name("n8")), 9);
        assert_eq!(asked, ["n9", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8"]);
        assert_eq!(stopped_at, None, "there are no more");
    }

    #[test]
    fn two_searches_find_together_what_one_finds() {
        let held: Vec<(String, [Held; 1])> = (1..=9)
            .map(|number| {
                (format!("n{number}"), [(number, 10 + u8::try_from(number % 4).unwrap(), 8)])
            })
            .collect();
        let nodes: Vec<(&str, &[Held])> =
            held.iter().map(|(node, held)| (node.as_str(), held.as_slice())).collect();
        let cluster = Cluster::new(&nodes);
        let search = |wanted: Wanted<'_>| {
            seats(&cluster.fleet, &demand(8, 0), wanted, |node| cluster.tasks[node].clone())
        };
        let four = Wanted::anywhere(4, Some(50));
        let first = search(Wanted { nodes_max: 5, ..four });
        let besides: Vec<NodeName> = first.seats.into_iter().map(|seat| seat.node).collect();
        let (after, besides) = (first.stopped_at.as_ref(), besides.as_slice());
        let second = search(Wanted { nodes_max: 5, after, besides, ..four });
        assert_eq!(second.seats, search(four).seats);
        assert_eq!(second.nodes, 5);
    }

    #[test]
    fn nobody_is_displaced_where_the_task_may_not_run_anyway() {
        let mut cluster = Cluster::new(&[("n1", &[(1, 10, 8)])]);
        let full = resources(8, 64);
        join_as(&mut cluster.fleet, "n1", full, NodeStatus::Ready, Eligibility::Cordoned);
        assert_eq!(cluster.seats(4, 1, 89), []);
    }
}
