//! When the log and the store do not fit together: join from a snapshot, heal the log from the own disk, or refuse.
//!
//! | what is found | what is done |
//! |---|---|
//! | another log under the name of the known one, with the store's last record in its place: all before it is there, too | the log is the store's own, and is read on |
//! | a snapshot of more than the log had when its end was told, and the log goes on behind that now | the log is read on |
//! | a snapshot that continues what the store holds | it is taken over, and the log read on from there |
//! | none, no other manager ever belonged to the cluster, and its journal holds its own last record and what still stands in the log | its store holds all that was ever acknowledged: it heals the log |
//! | none, and others belong to the cluster, too | one of them may know more: an operator chooses (`longshore manager --heal-log`) |

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use longshore_proto::id::ClusterId;
use longshore_proto::name::UserName;
use serde::{Deserialize, Serialize};

use super::log::{Broken, Info};
use crate::cluster::record::{Hash, Place};
use crate::cluster::state::{EPOCHS_RESTORED, Meta};
use crate::time::Time;

/// How long a manager that may not heal, and is told that there is nothing to join from, waits for one that may, in milliseconds.
pub const PATIENCE_MS: u64 = 10_000;
/// The wait between two looks for a snapshot, in milliseconds.
pub const LOOK_INTERVAL_MS: u64 = 1_000;
/// For how long whoever is about to lead asks which snapshots there are, in milliseconds: the lease is held meanwhile. When
/// servers come back from a power cut, the bucket may come later than the log, and just then the log may have lost its end.
/// But the bucket may be on other servers than the log, and they may stay away: that nobody leads because of it would be
/// worse. What the log has lost is then noticed by what workers follow.
pub const SNAPSHOTS_PATIENCE_MS: u64 = 30_000;
/// How many hashes of records before it a snapshot carries.
pub const LINKS: u64 = 1_000;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The cluster.
    pub cluster: ClusterId,
    /// The index of the last record that it holds.
    pub index: u64,
    /// That record's hash.
    pub chain: Hash,
    /// The epoch that the state goes on from: that record's, or a later one where an operator has chosen this state.
    pub epoch: u64,
    /// That record's time, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Where that record stands in the log's stream.
    pub stream_sequence: u64,
    /// When that stream was created, as the server says it.
    #[serde(default)]
    pub log_created: Option<String>,
    /// Hashes of the records before by index: who holds one of them sees that this continues it.
    #[serde(default)]
    pub links: Vec<(u64, Hash)>,
    /// The version of the manager that made it.
    #[serde(default)]
    pub version: String,
}

impl Head {
    /// Whether this continues a store that ends with a record; nothing, where the snapshot does not reach back so far.
    pub fn continues(&self, index: u64, chain: Hash) -> Option<bool> {
        match index.cmp(&self.index) {
            Ordering::Equal => Some(self.chain == chain),
            Ordering::Greater => Some(false),
            Ordering::Less => {
                let link = self.links.iter().find(|(at, _)| *at == index);
                link.map(|(_, linked)| *linked == chain)
            }
        }
    }
}

/// A snapshot as the bucket lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// The index of the last record that it holds.
    pub index: u64,
    /// The epoch that its state goes on from; unknown of one that a manager of before has stored.
    pub epoch: Option<u64>,
    /// The message of the log that its state goes on behind; as unknown.
    pub stream_sequence: Option<u64>,
}

impl Listed {
    /// Which of two is of the past that counts, and further on in it: one that a log was healed with stands before any of a
    /// past that was left by that, however far that had come.
    pub fn compare(&self, other: &Self) -> Ordering {
        let by_index = self.index.cmp(&other.index);
        match (self.epoch, other.epoch) {
            (Some(one), Some(another)) => one.cmp(&another).then(by_index),
            _ => by_index,
        }
    }
}

impl From<&Head> for Listed {
    fn from(head: &Head) -> Self {
        let (epoch, stream_sequence) = (Some(head.epoch), Some(head.stream_sequence));
        Self { index: head.index, epoch, stream_sequence }
    }
}

/// Whether a store takes a snapshot over. `known` says when the log's stream was made, as the store knows it; `log` is what the
/// servers say of it now.
pub fn may_join(
    meta: &Meta,
    broken: &Broken,
    head: &Head,
    known: Option<&str>,
    log: &Info,
) -> bool {
    // It is the own one where nothing but messages that were skipped came after it, and mends nothing. One that goes on
    // from a later epoch was stored to heal the log, by this manager or for it.
    let is_own = head.stream_sequence == meta.stream_sequence
        || meta.record_sequence == 0 && head.stream_sequence < meta.stream_sequence;
    let is_own = is_own && head.epoch <= meta.epoch;
    if known == Some(&*log.created) && head.index == meta.index && is_own {
        return false;
    }
    if meta.index == 0 {
        return true;
    }
    // Behind a log that was only trimmed stands the same past, further back than the snapshot's hashes tell.
    let was_trimmed = match broken {
        Broken::Begins { .. } => true,
        // Whoever was reading when it was trimmed finds the same as a hole.
        Broken::Gap { to, .. } => log.first > *to,
        // It may have been restored since, too, see [`holds_past`], and where the own last record stood is nothing any more.
        Broken::Replaced { .. } => log.first > meta.stream_sequence,
        _ => false,
    };
    let same_log = was_trimmed
        && match broken {
            // Where an operator has chosen a store meanwhile, this one may know what was left by that. A choice adds more epochs
            // than there are reigns, whichever epoch the chosen store was of.
            Broken::Replaced { .. } => {
                head.epoch >= meta.epoch
                    && head.epoch / EPOCHS_RESTORED == meta.epoch / EPOCHS_RESTORED
            }
            _ => known == head.log_created.as_deref(),
        };
    meta.cluster == Some(head.cluster) && head.continues(meta.index, meta.chain).unwrap_or(same_log)
}

/// Whether a log that had less than a snapshot goes on behind what the store has read of it: the server that told its end
/// knew too little, and the log is read on before anything else is made of that. `known` and `log` are as for [`may_join`].
pub fn may_read_on(meta: &Meta, broken: &Broken, known: Option<&str>, log: &Info) -> bool {
    matches!(broken, Broken::Lacks { .. })
        && known == Some(&*log.created)
        && log.last > meta.stream_sequence
}

/// Which messages of another log tell whether it [holds](holds_past) what a store has applied: the store's last record, and
/// what was skipped behind it.
pub fn compared(meta: &Meta) -> RangeInclusive<u64> {
    // Of a store without a record, or one that was moved, none does.
    let start = if meta.record_sequence > 0 { meta.record_sequence } else { u64::MAX };
    start..=meta.stream_sequence
}

/// Whether another log than the one that is known holds all that a store has applied: `found` is what stands where
/// [`compared`] says. A log may be lost before anybody has written to it, and be made anew by another manager; whoever did not
/// look meanwhile writes its first record, and all others, to the new one. A store without a record contradicts no log that
/// has one; an empty log may be all that is left of a cluster that the store had only not heard of yet. Where a message was
/// skipped, a record may stand in a log that was restored without it, and reading on behind it would pass that by.
pub fn holds_past<M: AsRef<[u8]>>(meta: &Meta, log: &Info, found: &[Option<M>]) -> bool {
    if meta.stream_sequence == 0 {
        return meta.index == 0 && log.last > 0;
    }
    let mut found = found.iter().map(|found| found.as_ref().map(AsRef::as_ref));
    let Some(Some(last)) = found.next() else { return false };
    let is_stray = |found: Option<&[u8]>| found.is_some_and(|found| Place::decode(found).is_err());
    meta.record_sequence > 0 && Hash::of(last) == meta.chain && found.all(is_stray)
}

/// Whether the log has whatever the snapshots hold, asked by whoever is about to lead: `newest` is the newest one, looked at
/// before the log was read to its end. A leader shares only what is in the log, so that this is so unless the log has lost
/// its end; or somebody was healing it, and has died after the store of that snapshot. Where an operator had chosen that,
/// the snapshot goes on from an epoch that the past which was left never came to.
///
/// # Errors
/// How the log is broken.
pub fn check_shared(newest: Option<Listed>, meta: &Meta) -> Result<(), Broken> {
    let Some(Listed { index: snapshot, epoch, .. }) = newest else { return Ok(()) };
    if snapshot > meta.index {
        return Err(Broken::Lacks { snapshot, index: meta.index });
    }
    match epoch.filter(|epoch| *epoch > meta.epoch) {
        Some(healed) => Err(Broken::Left { snapshot, healed, epoch: meta.epoch }),
        None => Ok(()),
    }
}

/// The first message that is to stay in the log where what stands before a state is to be removed: the state goes on behind
/// records of which it has none, and the newest snapshot is of just this state. That is so once a log was healed, and whoever
/// healed it may not have come so far. What was skipped since stays: whoever joins from that snapshot reads on behind it.
pub fn cut_before(newest: Option<Listed>, meta: &Meta) -> Option<u64> {
    let newest = newest.filter(|newest| {
        newest.index == meta.index && newest.epoch.is_none_or(|epoch| epoch == meta.epoch)
    })?;
    let goes_on_behind = newest.stream_sequence.unwrap_or(meta.stream_sequence);
    let is_moved = meta.index > 0 && meta.record_sequence == 0;
    is_moved.then(|| goes_on_behind.min(meta.stream_sequence) + 1)
}

/// For how long it has been told, each time that a manager looked, that there is nothing to join from, and that it may not
/// heal.
#[derive(Debug, Clone, Default)]
pub struct Patience {
    since: Option<Time>,
}

impl Patience {
    /// Whether a manager gives up after a look. Who could not look, because the bucket or the log did not answer, knows nothing
    /// yet: nothing may be lost at all.
    pub fn is_over(&mut self, is_told: bool, now: Time) -> bool {
        if !is_told {
            self.since = None;
            return false;
        }
        now - *self.since.get_or_insert(now) >= PATIENCE_MS
    }
}

/// What a manager's own disk shows of what was acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// Whether the manager ever was about to list another one: of that record it may not know that it was committed, and
    /// what came after it.
    pub has_company: bool,
    /// Whether its journal holds the record that its state ends with. One that has joined from a snapshot, and has followed
    /// nothing since, does not know what came after that.
    pub holds_last: bool,
    /// Whether its journal holds the record that the log ends with, if there is any.
    pub holds_end: bool,
}

/// Whether a manager may make its own store the truth: an operator has chosen it, or nobody else ever belonged to the
/// cluster and it has followed the log to its end. Then everything that was acknowledged is on its disk.
pub fn may_heal(meta: &Meta, name: &UserName, chosen: bool, proof: &Proof) -> bool {
    let is_sole = !proof.has_company && meta.managers_known && meta.managers.iter().eq([name]);
    meta.index > 0 && (chosen || (is_sole && proof.holds_last && proof.holds_end))
}

/// What stands once in a state that the log goes on from, behind the message `end`. None of its records stands there any
/// more.
pub fn moved(meta: Meta, end: u64, chosen: bool) -> Meta {
    let meta = Meta { stream_sequence: end, record_sequence: 0, ..meta };
    if chosen { restored(meta) } else { meta }
}

/// What stands once in a state that a cluster goes on from though it may have missed reigns.
pub fn restored(meta: Meta) -> Meta {
    Meta { epoch: meta.epoch + EPOCHS_RESTORED, is_restored: true, ..meta }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use longshore_proto::id::ManagerId;
    use uuid::Uuid;

    use super::*;
    use crate::cluster::record::{RECORD_FORMAT, Record};

    const MONDAY: &str = "monday";

    fn head() -> Head {
        Head {
            cluster: ClusterId(Uuid::from_u128(1)),
            index: 7,
            chain: Hash::of(b"seven"),
            epoch: 2,
            at_ms: 0,
            stream_sequence: 9,
            log_created: Some(MONDAY.into()),
            links: vec![(6, Hash::of(b"six"))],
            version: String::new(),
        }
    }

    fn meta(index: u64, record: &[u8]) -> Meta {
        Meta {
            cluster: Some(ClusterId(Uuid::from_u128(1))),
            index,
            chain: Hash::of(record),
            epoch: 2,
            stream_sequence: index,
            managers_known: true,
            managers: BTreeSet::from(["m0".parse().unwrap()]),
            ..Meta::default()
        }
    }

    fn log(first: u64) -> Info {
        Info { created: MONDAY.into(), first, last: 9 }
    }

    fn joins(meta: &Meta, broken: &Broken) -> bool {
        may_join(meta, broken, &head(), Some(MONDAY), &log(1))
    }

    #[test]
    fn a_snapshot_is_taken_over_where_its_hashes_show_that_it_continues_the_store() {
        let gap = Broken::Gap { from: 7, to: 8 };
        assert!(joins(&meta(6, b"six"), &gap));
        assert!(joins(&meta(7, b"seven"), &gap), "it stands elsewhere in the stream");
        assert!(!joins(&meta(6, b"other"), &gap));
        assert!(!joins(&meta(8, b"eight"), &gap), "the store knows more");
        assert!(joins(&Meta::default(), &gap), "an empty store contradicts nothing");
        let stranger = Meta { cluster: Some(ClusterId(Uuid::from_u128(2))), ..meta(6, b"six") };
        assert!(!joins(&stranger, &gap));
        let own = Meta { stream_sequence: 9, ..meta(7, b"seven") };
        assert!(!joins(&own, &gap), "the own snapshot mends nothing");
        assert!(may_join(&own, &gap, &head(), Some("sunday"), &log(1)), "on a log that is new");
        let skipped = Meta { stream_sequence: 10, record_sequence: 0, ..own.clone() };
        assert!(!joins(&skipped, &gap), "what is skipped behind it would be read again and again");
        let elsewhere = Meta { stream_sequence: 10, record_sequence: 10, ..own };
        assert!(joins(&elsewhere, &gap), "the log was healed, and ends earlier");
    }

    #[test]
    fn behind_a_trimmed_log_a_store_may_be_older_than_the_hashes_tell_but_not_contradict_them() {
        let trimmed = Broken::Begins { first: 8, known: 3, end: 9 };
        assert!(joins(&meta(3, b"three"), &trimmed));
        let gap = Broken::Gap { from: 4, to: 7 };
        assert!(!joins(&meta(3, b"three"), &gap), "a hole");
        let joins_behind =
            |first| may_join(&meta(3, b"three"), &gap, &head(), Some(MONDAY), &log(first));
        assert!(joins_behind(8) && !joins_behind(7), "it was being read when it was trimmed");
        assert!(!joins(&meta(6, b"other"), &trimmed), "another past");
    }

    #[test]
    fn behind_a_log_that_was_trimmed_and_restored_a_store_joins_unless_an_operator_has_chosen() {
        let (stream, created, known) = ("log".into(), "tuesday".into(), MONDAY.into());
        let replaced = Broken::Replaced { stream, created, known };
        let joins = |head: &Head, first| {
            let log = Info { created: "tuesday".into(), first, last: 9 };
            may_join(&meta(3, b"three"), &replaced, head, Some(MONDAY), &log)
        };
        let since = Head { log_created: Some("tuesday".into()), ..head() };
        assert!(joins(&since, 4) && joins(&head(), 4), "stored since then, and before");
        assert!(!joins(&since, 3), "its own record stands there, and is another one");
        let chosen = Head { epoch: 2 + EPOCHS_RESTORED, ..since };
        assert!(!joins(&chosen, 4), "it may know what was left");
        let before = Head { log_created: Some(MONDAY.into()), ..chosen };
        assert!(!joins(&before, 4), "the log that was left had been healed");
        let many = Meta { epoch: 50, ..meta(3, b"three") };
        let older = Head { epoch: 3 + EPOCHS_RESTORED, ..before };
        let log = Info { created: "tuesday".into(), first: 4, last: 9 };
        assert!(
            !may_join(&many, &replaced, &older, Some(MONDAY), &log),
            "a much older store was chosen"
        );
        let stranger = Head { cluster: ClusterId(Uuid::from_u128(2)), ..head() };
        assert!(!joins(&stranger, 4));
    }

    #[test]
    fn a_store_that_was_chosen_goes_on_beyond_every_reign_that_it_may_have_missed() {
        let sole = Meta { epoch: 3, record_sequence: 7, ..meta(7, b"seven") };
        let goes_on = moved(sole.clone(), 20, false);
        assert_eq!((goes_on.stream_sequence, goes_on.record_sequence, goes_on.epoch), (20, 0, 3));
        assert!(!goes_on.is_restored);
        let goes_on = moved(sole, 20, true);
        assert_eq!((goes_on.epoch, goes_on.is_restored), (3 + EPOCHS_RESTORED, true));
    }

    #[test]
    fn nobody_leads_over_a_log_that_has_less_than_a_snapshot() {
        let own = meta(41, b"forty-one");
        assert_eq!(check_shared(None, &own), Ok(()));
        let listed = |index| Some(Listed { index, epoch: Some(2), stream_sequence: Some(41) });
        assert_eq!(check_shared(listed(41), &own), Ok(()));
        let lacks = Broken::Lacks { snapshot: 46, index: 41 };
        assert_eq!(check_shared(listed(46), &own), Err(lacks.clone()));
        // The one who healed the log has died before it removed what was left of it: whoever comes joins, and does that.
        let healed = Head { index: 46, stream_sequence: 41, ..head() };
        let healed = Head { links: vec![(41, Hash::of(b"forty-one"))], ..healed };
        assert!(may_join(&own, &lacks, &healed, Some(MONDAY), &log(1)));
        let joined = Meta { stream_sequence: 41, ..meta(46, b"forty-six") };
        assert_eq!(cut_before(listed(46), &joined), Some(42));
        let only_log = "only the log has what came after the snapshot";
        assert_eq!(cut_before(listed(37), &joined), None, "{only_log}");
        assert_eq!(cut_before(listed(46), &Meta { record_sequence: 46, ..joined.clone() }), None);
        assert_eq!(cut_before(None, &Meta::default()), None);
        let skipped = Meta { stream_sequence: 43, ..joined };
        assert_eq!(cut_before(listed(46), &skipped), Some(42), "who joins reads 42 and 43, too");
        let unknown = listed(46).map(|listed| Listed { stream_sequence: None, ..listed });
        assert_eq!(cut_before(unknown, &skipped), Some(44), "by a manager of before");
    }

    #[test]
    fn a_log_that_goes_on_behind_the_end_that_was_told_is_read_on() {
        let lacks = Broken::Lacks { snapshot: 7, index: 5 };
        let reads_on = |last, broken| {
            let log = Info { created: MONDAY.into(), first: 1, last };
            may_read_on(&meta(5, b"five"), broken, Some(MONDAY), &log)
        };
        assert!(reads_on(6, &lacks));
        assert!(!reads_on(5, &lacks), "it has lost its end, or somebody was healing it");
        assert!(!reads_on(6, &Broken::Contradicts { index: 5 }));
        let another = Info { created: "tuesday".into(), first: 1, last: 9 };
        assert!(!may_read_on(&meta(5, b"five"), &lacks, Some(MONDAY), &another));
    }

    #[test]
    fn a_log_that_was_made_anew_is_the_own_one_where_the_last_record_stands_in_its_place() {
        let own = Meta { record_sequence: 5, ..meta(5, b"five") };
        let holds = |meta: &Meta, found: &[Option<&str>]| holds_past(meta, &log(1), found);
        assert_eq!(compared(&own), 5..=5);
        assert!(holds(&own, &[Some("five")]));
        assert!(!holds(&own, &[Some("other")]), "another cluster");
        assert!(!holds(&own, &[None]), "it is shorter, or trimmed");
        let moved = Meta { record_sequence: 0, ..own };
        assert!(compared(&moved).is_empty() && !holds(&moved, &[]), "a log was healed with it");
        let nothing = Meta::default();
        assert!(compared(&nothing).is_empty() && holds(&nothing, &[]));
        let empty = Info { created: MONDAY.into(), first: 1, last: 0 };
        assert!(!holds_past::<&str>(&nothing, &empty, &[]), "it may be lost once more");
        let skipped = Meta { stream_sequence: 1, ..Meta::default() };
        assert!(!holds(&skipped, &[]), "it would not read message 1");
    }

    #[test]
    fn a_log_that_was_made_anew_without_a_message_that_was_skipped_is_not_read_on_behind_it() {
        let own = Meta { record_sequence: 5, stream_sequence: 6, ..meta(5, b"five") };
        assert_eq!(compared(&own), 5..=6);
        let next = Record {
            format: RECORD_FORMAT,
            index: 6,
            epoch: 2,
            manager: ManagerId(Uuid::from_u128(3)),
            at_ms: 0,
            previous: own.chain,
            facts: Vec::new(),
        };
        let next = next.encode();
        let five = Some(b"five".as_slice());
        let holds = |found: &[Option<&[u8]>]| holds_past(&own, &log(1), found);
        assert!(holds(&[five, Some(b"no record")]));
        assert!(!holds(&[five, Some(&next)]), "it would pass by what was acknowledged");
        assert!(!holds(&[five, None]), "a record may come to stand there");
    }

    #[test]
    fn nobody_leads_the_past_that_a_log_was_healed_without() {
        // An operator has chosen a store that knew less; its manager has died once its snapshot was stored.
        let chosen = moved(meta(41, b"forty-one"), 46, true);
        let head = Head { index: 41, chain: Hash::of(b"forty-one"), epoch: chosen.epoch, ..head() };
        let head = Head { stream_sequence: 46, links: Vec::new(), ..head };
        let (listed, left) = (Listed::from(&head), meta(46, b"forty-six"));
        let broken = Broken::Left { snapshot: 41, healed: chosen.epoch, epoch: 2 };
        assert_eq!(check_shared(Some(listed), &left), Err(broken.clone()));
        assert!(!may_join(&left, &broken, &head, Some(MONDAY), &log(1)), "it knows what was left");
        // The one that was chosen has not moved its own store yet, and does so by joining.
        let own = Meta { stream_sequence: 46, ..meta(41, b"forty-one") };
        assert_eq!(check_shared(Some(listed), &own), Err(broken.clone()));
        assert!(may_join(&own, &broken, &head, Some(MONDAY), &log(1)));
        assert_eq!(check_shared(Some(listed), &chosen), Ok(()));
        assert!(!may_join(&chosen, &broken, &head, Some(MONDAY), &log(1)), "it is done");
        assert_eq!(cut_before(Some(listed), &chosen), Some(47));
        assert_eq!(cut_before(Some(listed), &own), None, "it is not what the snapshot is of");
        // A snapshot of before says nothing of its epoch.
        let unknown = Listed { epoch: None, ..listed };
        assert_eq!(check_shared(Some(unknown), &left), Ok(()));
        assert_eq!(cut_before(Some(unknown), &chosen), Some(47));
    }

    #[test]
    fn the_snapshot_that_a_log_was_healed_with_is_the_newest_however_far_the_past_had_come() {
        let listed = |index, epoch| Listed { index, epoch, stream_sequence: None };
        let healed = listed(41, Some(1_002));
        assert!(healed.compare(&listed(46, Some(2))).is_gt());
        assert!(listed(46, Some(2)).compare(&listed(41, Some(2))).is_gt());
        assert!(listed(60, None).compare(&healed).is_gt(), "by a manager of before");
        assert!(listed(40, None).compare(&healed).is_lt());
    }

    #[test]
    fn nobody_gives_up_while_what_it_could_join_from_does_not_answer() {
        let mut patience = Patience::default();
        assert!(!patience.is_over(true, Time(1_000)));
        assert!(!patience.is_over(true, Time(10_999)));
        assert!(patience.is_over(true, Time(11_000)));
        assert!(!patience.is_over(false, Time(60_000)));
        assert!(!patience.is_over(true, Time(61_000)), "it is told anew");
        assert!(patience.is_over(true, Time(71_000)));
    }

    #[test]
    fn only_the_one_manager_that_ever_was_heals_by_itself() {
        let name: UserName = "m0".parse().unwrap();
        let sole = meta(7, b"seven");
        let whole = Proof { has_company: false, holds_last: true, holds_end: true };
        assert!(may_heal(&sole, &name, false, &whole));
        let refuted = Proof { holds_end: false, ..whole };
        assert!(!may_heal(&sole, &name, false, &refuted), "the log holds what it does not");
        assert!(may_heal(&sole, &name, true, &refuted), "an operator has chosen");
        let joined = Proof { holds_last: false, ..whole };
        assert!(!may_heal(&sole, &name, false, &joined), "what came after the snapshot is lost");
        let has_company = Proof { has_company: true, ..whole };
        assert!(!may_heal(&sole, &name, false, &has_company), "it may have listed another one");
        assert!(may_heal(&sole, &name, true, &has_company));
        let unlisted = Meta { managers_known: false, ..sole.clone() };
        assert!(!may_heal(&unlisted, &name, false, &whole));
        let mut two = sole;
        two.managers.insert("m1".parse().unwrap());
        assert!(!may_heal(&two, &name, false, &whole));
        let nothing = Meta::default();
        assert!(!may_heal(&nothing, &name, true, &whole), "there is nothing to heal from");
    }
}
