//! The checkers bite: for each of them a cluster that is broken on purpose, and seeds that find it. (E-4 is shown
//! beside its checker: no shell can keep a brain from placing what fits.)

use longshore_sim::run::run;
use longshore_sim::sabotage::Sabotage;

/// How many seeds may pass before one catches what is broken.
const SEEDS: u64 = 160;

/// Runs seeds until one fails, and tells which property it says is broken. That such a cluster does not settle in the
/// end (an E property) shows little, unless it is what is looked for: then the next seed is asked. So does that something
/// runs on a node that is called drained (I-18): whoever lies about what has ended is found out by that soon enough.
fn caught(sabotage: Sabotage, wanted: &[&str]) -> Option<(u64, &'static str)> {
    (0..SEEDS).find_map(|seed| {
        let id = run(seed, Some(sabotage), false).violation?.id;
        (wanted.contains(&id) || !(id.starts_with("E-") || id == "I-18")).then_some((seed, id))
    })
}

macro_rules! bites {
    ($($test:ident: $sabotage:ident => $($id:literal)|+;)+) => {
        $(
            #[test]
            fn $test() {
                let (seed, id) = caught(Sabotage::$sabotage, &[$($id),+]).expect("no seed has caught it");
                assert!([$($id),+].contains(&id), "seed {seed} says that {id} is broken");
            }
        )+

        #[test]
        fn every_broken_variant_has_its_test() {
            let tested = [$(Sabotage::$sabotage),+];
            let untested: Vec<_> =
                Sabotage::ALL.iter().filter(|sabotage| !tested.contains(sabotage)).collect();
            assert!(untested.is_empty(), "{untested:?}");
        }
    };
}

bites! {
    agreement: IgnoreTheFence => "I-1";
    durability: SpeakBeforeCommit => "I-2" | "I-5";
    delivery: AcknowledgeUnread => "I-2";
    determinism: StoreForgetsTasks => "I-3" | "I-2" | "I-8";
    epochs: ReignWithoutElection => "I-4";
    effects_follow_commits: InventAssignments => "I-5";
    identity: StartTwice => "I-6";
    monotone_states: RecordBackwards => "I-7";
    capacity: Overcommit => "I-8";
    count: CreateTooMany => "I-9";
    one_at_most: TrustSilence => "I-10";
    rising_tokens: ReuseTokens => "I-10";
    one_manager_a_name: ShareTheName => "N-1";
    no_early_events: InventEvents => "V-1";
    no_gap_in_events: PublishUnchained => "V-2";
    whole_histories: ForgetEvents => "V-3" | "V-2";
    no_false_death: DeclareFalseDeath => "I-12";
    brake: LoseManyAtOnce => "I-13" | "I-12";
    restart_law: HurryRestarts => "I-14";
    idempotence: GrantTwice => "I-15";
    gap_safety: DeafWorker => "I-16";
    strangers: DisguiseStrangers => "I-19";
    stops_have_reasons: StopUnasked => "I-20";
    bounds: ForgetAskers => "I-21";
    forks: LeadOverLostTail => "I-22";
    lost_ends: TrustShortLog => "I-16";
    false_alarms: BelieveOneServer => "I-22";
    lease: LeaseWithoutEnd => "I-24";
    placement: PlaceOnLostNodes => "I-28";
    graceful_stop: KillAtOnce => "I-29";
    convergence: KeepReports => "E-1";
    no_orphans: PretendRemovals => "E-2" | "I-6";
    a_leader: NeverLead => "E-3";
    gangs: PlaceHalfAGang => "P-2";
    displacing: DisplaceEquals => "P-1";
    moves: HandOverEarly => "P-3";
    rollbacks: GoBackAgain => "P-4";
    health: BlameTheUnknown => "H-1";
    drains: DrainedEarly => "I-18";
}
