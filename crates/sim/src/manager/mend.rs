//! When the log and the store do not fit together, as `mend.rs` of the manager does. What is done then is the core's
//! to say.

use std::rc::Rc;

use longshore_core::cluster::persist::{read_meta, write_meta};
use longshore_core::cluster::record::Record;
use longshore_core::cluster::state::Meta;
use longshore_core::leadership::log::{Broken, Info};
use longshore_core::leadership::mend::{
    LOOK_INTERVAL_MS, Listed, PATIENCE_MS, Patience, Proof, compared, holds_past, may_heal,
    may_join, may_read_on, moved,
};

use super::{Context, Ended, Manager, Output, Phase, Purpose, READ_TIMEOUT, RETRY_DELAY, Timer};
use crate::check::Note;
use crate::disk::{ManagerBatch, ManagerContent};
use crate::jetstream::{Bytes, Request, Response, Snapshot};
use crate::time::{MS, Micros};

/// What is being mended, and how far it is.
#[derive(Debug)]
pub(super) struct Mending {
    broken: Broken,
    patience: Patience,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// What its reign was writing is written to the end.
    Settling,
    /// Another log stands under the name: what does it hold?
    Recognising,
    /// What stands where the own last record stood, and behind it? So much is known.
    Comparing(Info, Vec<Option<Bytes>>),
    /// It looks for a snapshot.
    Looking,
    /// A snapshot is there; when was the log made?
    Found(Rc<Snapshot>),
    /// It writes the snapshot to its own store, or that the log is its own.
    Installing,
    /// What does the log end with?
    Proving,
    /// It waits for the next look.
    Waiting,
    /// It waits for the next look at where the log ends.
    Lagging,
    /// It makes the log, if it is gone.
    Making,
    /// It waits for the lease, since then.
    Acquiring { since: Micros },
    /// Where does the log end?
    Ending,
    /// It stores its state as a snapshot that goes on behind the end.
    Uploading { end: u64, created: String },
    /// It removes the other snapshots.
    Clearing { end: u64, created: String },
    /// It removes what is left of the log.
    Trimming { end: u64, created: String },
    /// Is nothing left of the log?
    Checking { end: u64, created: String },
    /// It writes where its state goes on.
    Moving,
}

impl Manager {
    /// The log and the store do not fit together: it leads and follows no longer, and mends.
    pub(super) fn broken(&mut self, broken: Broken, ctx: &mut Context<'_>) {
        self.drop_part(ctx);
        if self.cancelled {
            return;
        }
        let step = if ctx.disk.is_writing() { Step::Settling } else { Step::Waiting };
        let patience = Patience::default();
        self.phase = Phase::Mending(Mending { broken, patience, step });
        self.mend(ctx);
    }

    /// Whoever leads gives the lease back; whoever is about to only lets it end.
    fn drop_part(&mut self, ctx: &mut Context<'_>) {
        let led = self.leads();
        self.leave_reign(ctx);
        if !led {
            self.held = None;
        }
        self.release(ctx);
        self.opened += 1;
        self.missing_since = None;
    }

    /// Whether it waits for the lease in order to heal.
    pub(super) fn heals(&self) -> bool {
        matches!(&self.phase, Phase::Mending(Mending { step: Step::Acquiring { .. }, .. }))
    }

    fn step(&mut self, step: Step) {
        if let Phase::Mending(mending) = &mut self.phase {
            mending.step = step;
        }
    }

    /// Looks for a snapshot; or has waited for the lease for long enough.
    pub(super) fn mend(&mut self, ctx: &mut Context<'_>) {
        match &self.phase {
            Phase::Mending(Mending {
                step: Step::Waiting,
                broken: Broken::Replaced { .. },
                ..
            }) => {
                self.step(Step::Recognising);
                self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Mend, ctx);
            }
            Phase::Mending(Mending { step: Step::Waiting, .. }) => self.look_for_snapshot(ctx),
            Phase::Mending(Mending { step: Step::Lagging, .. }) => self.heal_on(ctx),
            Phase::Mending(Mending { step: Step::Acquiring { since }, .. })
                if ctx.now - since >= PATIENCE_MS * MS =>
            {
                // Another one leads: nobody heals over it.
                ctx.out.push(Output::Exit(Ended::Broken));
            }
            _ => {}
        }
    }

    /// An answer to what it asked for while mending.
    pub(super) fn mend_answered(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Phase::Mending(mending) = &mut self.phase else { return };
        match std::mem::replace(&mut mending.step, Step::Waiting) {
            Step::Recognising => match response {
                Some(Response::Info(Some(info))) => self.compare(info, Vec::new(), ctx),
                Some(Response::Info(None)) => self.look_for_snapshot(ctx),
                // Who could not look knows nothing yet.
                _ => self.mend_later(false, ctx),
            },
            Step::Comparing(info, mut found) => match response {
                Some(Response::Message(message)) => {
                    found.push(message);
                    self.compare(info, found, ctx);
                }
                _ => self.mend_later(false, ctx),
            },
            Step::Looking => match response {
                Some(Response::Snapshot(Some(snapshot))) => {
                    mending.step = Step::Found(snapshot);
                    self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Mend, ctx);
                }
                Some(Response::Snapshot(None)) => self.prove(ctx),
                // Only who has seen that there is nothing to join from may heal, or gives up.
                _ => self.mend_later(false, ctx),
            },
            Step::Found(snapshot) => match response {
                Some(Response::Info(Some(info))) => self.join(&snapshot, info, ctx),
                Some(Response::Info(None)) => self.prove(ctx),
                // It cannot be told when the log was made, which passes.
                _ => self.mend_later(false, ctx),
            },
            Step::Proving => match response {
                Some(Response::Last(last)) => self.proven(last, ctx),
                _ => self.begin_anew(ctx),
            },
            Step::Making => match response {
                Some(Response::Info(Some(_))) => {
                    mending.step = Step::Acquiring { since: ctx.now };
                    let at = ctx.now + PATIENCE_MS * MS;
                    ctx.out.push(Output::Wake(at, Timer::Mend(self.opened)));
                    self.wait_for_lease(ctx);
                }
                _ => self.begin_anew(ctx),
            },
            Step::Ending => match response {
                Some(Response::Info(Some(info))) => self.upload(info.last, info.created, ctx),
                _ => self.begin_anew(ctx),
            },
            Step::Uploading { end, created } => match response {
                Some(Response::Done) => {
                    mending.step = Step::Clearing { end, created };
                    let Meta { index, epoch, .. } = moved(Self::meta(ctx), end, self.chosen);
                    let own = Listed { index, epoch: Some(epoch), stream_sequence: Some(end) };
                    self.ask(Request::BucketKeepOnly(own), READ_TIMEOUT, Purpose::Mend, ctx);
                }
                _ => ctx.out.push(Output::Exit(Ended::Bucket)),
            },
            Step::Clearing { end, created } => match response {
                Some(Response::Done) => {
                    mending.step = Step::Trimming { end, created };
                    self.ask(Request::Trim { before: end + 1 }, READ_TIMEOUT, Purpose::Mend, ctx);
                }
                _ => ctx.out.push(Output::Exit(Ended::Bucket)),
            },
            Step::Trimming { end, created } => match response {
                Some(Response::Done) => {
                    mending.step = Step::Checking { end, created };
                    self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Mend, ctx);
                }
                _ => self.begin_anew(ctx),
            },
            Step::Checking { end, created } => match response {
                Some(Response::Info(Some(info))) if (info.first, info.last) == (end + 1, end) => {
                    self.move_to(end, created, ctx);
                }
                Some(Response::Info(Some(_))) => {
                    // A server that knew too little has told the end.
                    mending.step = Step::Lagging;
                    let at = ctx.now + LOOK_INTERVAL_MS * MS;
                    ctx.out.push(Output::Wake(at, Timer::Mend(self.opened)));
                }
                _ => self.begin_anew(ctx),
            },
            step @ (Step::Settling
            | Step::Installing
            | Step::Waiting
            | Step::Lagging
            | Step::Acquiring { .. }
            | Step::Moving) => {
                mending.step = step;
            }
        }
    }

    /// What it wrote while mending is synced.
    pub(super) fn mend_synced(&mut self, ctx: &mut Context<'_>) {
        let Phase::Mending(mending) = &mut self.phase else { return };
        match mending.step {
            Step::Settling if !ctx.disk.is_writing() => {
                mending.step = Step::Waiting;
                self.mend(ctx);
            }
            Step::Installing => self.open(ctx),
            Step::Moving => self.healed(ctx),
            _ => {}
        }
    }

    fn meta(ctx: &Context<'_>) -> Meta {
        ctx.disk.content().meta()
    }

    /// Another log stands under the name. The own past may be in it.
    fn compare(&mut self, log: Info, found: Vec<Option<Bytes>>, ctx: &mut Context<'_>) {
        let meta = Self::meta(ctx);
        if let Some(next) = compared(&meta).nth(found.len()) {
            self.step(Step::Comparing(log, found));
            return self.ask(Request::Get(next), READ_TIMEOUT, Purpose::Mend, ctx);
        }
        if !holds_past(&meta, &log, &found) {
            return self.look_for_snapshot(ctx);
        }
        self.step(Step::Installing);
        self.write(vec![ManagerBatch::LogCreated(log.created)], ctx);
    }

    fn look_for_snapshot(&mut self, ctx: &mut Context<'_>) {
        self.step(Step::Looking);
        self.ask(Request::BucketGet, READ_TIMEOUT, Purpose::Mend, ctx);
    }

    fn join(&mut self, snapshot: &Rc<Snapshot>, log: Info, ctx: &mut Context<'_>) {
        let Phase::Mending(mending) = &self.phase else { return };
        let (meta, known) = (Self::meta(ctx), ctx.disk.content().log_created.clone());
        if may_read_on(&meta, &mending.broken, known.as_deref(), &log) {
            return self.begin_anew(ctx);
        }
        if !may_join(&meta, &mending.broken, &snapshot.head, known.as_deref(), &log) {
            return self.prove(ctx);
        }
        self.step(Step::Installing);
        ctx.notes
            .push(Note::Joined { manager: self.identity.manager, head: snapshot.head.clone() });
        let batches = vec![
            ManagerBatch::InstallBegins,
            ManagerBatch::Install(Rc::clone(snapshot)),
            ManagerBatch::LogCreated(log.created),
        ];
        self.write(batches, ctx);
    }

    fn prove(&mut self, ctx: &mut Context<'_>) {
        self.step(Step::Proving);
        self.ask(Request::Last, READ_TIMEOUT, Purpose::Mend, ctx);
    }

    fn proven(&mut self, last: Option<Bytes>, ctx: &mut Context<'_>) {
        let meta = Self::meta(ctx);
        let journal = &ctx.disk.content().journal;
        let holds_end = match last {
            None => true,
            Some(last) => Record::decode(&last)
                .is_ok_and(|record| journal.get(&record.index).is_some_and(|own| *own == last)),
        };
        let has_company = ctx.disk.content().has_company;
        let proof = Proof { has_company, holds_last: journal.contains_key(&meta.index), holds_end };
        if may_heal(&meta, &self.identity.name, self.chosen, &proof) {
            ctx.notes.push(Note::Heals { manager: self.number });
            self.step(Step::Making);
            return self.ask(Request::LogMake, READ_TIMEOUT, Purpose::Mend, ctx);
        }
        self.mend_later(true, ctx);
    }

    /// Looks again a moment later, or gives up where it is told that nothing helps.
    fn mend_later(&mut self, is_told: bool, ctx: &mut Context<'_>) {
        let Phase::Mending(mending) = &mut self.phase else { return };
        let now = self.clock.read(ctx.now).time;
        if mending.patience.is_over(is_told, now) {
            return ctx.out.push(Output::Exit(Ended::Broken));
        }
        mending.step = Step::Waiting;
        let at = ctx.now + LOOK_INTERVAL_MS * MS;
        ctx.out.push(Output::Wake(at, Timer::Mend(self.opened)));
    }

    /// The lease is held: nobody else heals.
    pub(super) fn heal_on(&mut self, ctx: &mut Context<'_>) {
        self.step(Step::Ending);
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Mend, ctx);
    }

    fn upload(&mut self, end: u64, created: String, ctx: &mut Context<'_>) {
        let meta = moved(Self::meta(ctx), end, self.chosen);
        let snapshot = Rc::new(ctx.disk.content().moved_snapshot(&meta, &created));
        self.step(Step::Uploading { end, created });
        self.ask(Request::BucketPut(snapshot, None), READ_TIMEOUT, Purpose::Mend, ctx);
    }

    fn move_to(&mut self, end: u64, created: String, ctx: &mut Context<'_>) {
        self.step(Step::Moving);
        let meta = moved(Self::meta(ctx), end, self.chosen);
        let writes = vec![write_meta(&meta)];
        let goes_on = ManagerBatch::Records { writes, records: Vec::new(), events: Vec::new() };
        self.write(vec![ManagerBatch::LogCreated(created), goes_on], ctx);
    }

    fn healed(&mut self, ctx: &mut Context<'_>) {
        self.release(ctx);
        self.open(ctx);
    }

    /// Something that passes went wrong: it begins with the log anew, a moment later.
    pub(super) fn begin_anew(&mut self, ctx: &mut Context<'_>) {
        self.drop_part(ctx);
        if self.cancelled {
            return;
        }
        self.phase = Phase::Opening;
        ctx.out.push(Output::Wake(ctx.now + 2 * RETRY_DELAY, Timer::Retry));
    }
}

impl ManagerContent {
    /// What stands once in the state.
    pub fn meta(&self) -> Meta {
        let stored = self.state.get(b"meta".as_slice());
        stored.and_then(|value| read_meta(value).ok()).unwrap_or_default()
    }
}
