//! What goes on beside the loop of who leads, as `keeper.rs` and `members.rs` of the manager do: snapshots to the
//! bucket, the log trimmed behind them, and a look at who stands by.

use std::collections::BTreeSet;
use std::rc::Rc;

use longshore_core::cluster::Input;
use longshore_proto::name::UserName;

use super::{Context, Manager, Output, Purpose, READ_TIMEOUT, Timer};
use crate::jetstream::{Request, Response, Snapshot};
use crate::time::{MS, SECOND};

const KEEP_RETRY_DELAY: u64 = 10 * SECOND;
const MEMBERS_INTERVAL: u64 = 300 * MS;

/// What a leader keeps.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// After how many records a snapshot is made. As many stay in the log behind it.
    records: u64,
    point: Option<Rc<Snapshot>>,
    shared: Option<u64>,
    step: Step,
    /// Who stands by, and was told to the brain.
    told: BTreeSet<UserName>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Idle,
    Listing,
    Putting,
    Trimming,
    /// It waits for the next try.
    Waiting,
}

impl Keeping {
    /// A snapshot after so many records.
    pub(super) fn every(records: u64) -> Self {
        Self { records, ..Self::default() }
    }
}

impl Manager {
    /// A reign begins.
    pub(super) fn keep_from_now(&mut self, ctx: &mut Context<'_>) {
        self.keeping = Keeping::every(self.keeping.records);
        ctx.out.push(Output::Wake(ctx.now + MEMBERS_INTERVAL, Timer::Members(self.opened)));
    }

    /// Makes a point when it is due, and shares it.
    pub(super) fn keep(&mut self, ctx: &mut Context<'_>) {
        if !self.listening {
            return;
        }
        let keeping = &mut self.keeping;
        if keeping.step == Step::Waiting {
            keeping.step = Step::Idle;
        }
        let index = ctx.disk.content().meta().index;
        let last = keeping.point.as_ref().map_or(0, |point| point.head.index);
        // The log is trimmed behind what is being stored, and not behind a later one.
        if index >= last + keeping.records && keeping.step == Step::Idle {
            keeping.point = Some(Rc::new(ctx.disk.content().snapshot()));
        }
        let due =
            keeping.point.as_ref().is_some_and(|point| keeping.shared != Some(point.head.index));
        if due && keeping.step == Step::Idle {
            keeping.step = Step::Listing;
            self.ask(Request::BucketList, READ_TIMEOUT, Purpose::Keep, ctx);
        }
    }

    pub(super) fn kept(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Some(point) = self.keeping.point.clone().filter(|_| self.leads()) else { return };
        let keeping = &mut self.keeping;
        let request = match (std::mem::take(&mut keeping.step), response) {
            (Step::Listing, Some(Response::Bucket(there))) => {
                if there.first().is_some_and(|newest| newest.index >= point.head.index) {
                    keeping.shared = Some(point.head.index);
                    return;
                }
                keeping.step = Step::Putting;
                Request::BucketPut(point, Some(there.into_iter().skip(1).collect()))
            }
            (Step::Putting, Some(Response::Done)) => {
                keeping.step = Step::Trimming;
                let before = point.head.stream_sequence.saturating_sub(keeping.records);
                Request::Trim { before }
            }
            (Step::Trimming, Some(Response::Done)) => {
                keeping.shared = Some(point.head.index);
                return self.keep(ctx);
            }
            _ => {
                keeping.step = Step::Waiting;
                let at = ctx.now + KEEP_RETRY_DELAY;
                return ctx.out.push(Output::Wake(at, Timer::Keep(self.opened)));
            }
        };
        self.ask(request, READ_TIMEOUT, Purpose::Keep, ctx);
    }

    pub(super) fn look_for_members(&mut self, ctx: &mut Context<'_>) {
        if self.leads() {
            self.ask(Request::Members, READ_TIMEOUT, Purpose::Members, ctx);
        }
    }

    pub(super) fn members_known(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !self.leads() {
            return;
        }
        if let Some(Response::Members(names)) = response {
            let told = &mut self.keeping.told;
            let new: Vec<_> = names.into_iter().filter(|name| told.insert(name.clone())).collect();
            if new.iter().any(|name| *name != self.identity.name) {
                ctx.disk.note(|content| content.has_company = true);
            }
            if !new.is_empty() {
                self.queue.extend(new.into_iter().map(|name| Input::ManagerSeen { name }));
                self.turn_soon(ctx);
            }
        }
        ctx.out.push(Output::Wake(ctx.now + MEMBERS_INTERVAL, Timer::Members(self.opened)));
    }
}
