//! Opening the log, following it and standing by, as `log.rs`, `follow.rs` and `standby.rs` of the manager do. What
//! is a record, and whether the log still is what was applied, is the core's to say.

use longshore_core::cluster::{Cluster, State};
use longshore_core::leadership::follow::{Followed, Follower, Stopped};
use longshore_core::leadership::log::{
    Applied, Broken, Doubt, Info, LOOK_INTERVAL_MS, Verdict, check_followed, end,
};
use longshore_core::leadership::mend::{SNAPSHOTS_PATIENCE_MS, check_shared, cut_before};

use super::{
    ACK_TIMEOUT, Context, Ended, Manager, Output, Phase, Purpose, READ_TIMEOUT, RETRY_DELAY,
    Shared, Timer, hash_writes, node_name,
};
use crate::check::Note;
use crate::disk::ManagerBatch;
use crate::jetstream::{Bytes, LOG, Request, Response};
use crate::message::Message;
use crate::sabotage::Sabotage;
use crate::time::MS;

impl Manager {
    // Opening the log.

    pub(super) fn open(&mut self, ctx: &mut Context<'_>) {
        self.opened += 1;
        self.phase = Phase::Opening;
        self.doubt = Doubt::new(self.doubt_ms);
        self.follower = Follower::default();
        self.missing_since = None;
        self.shared = Shared::asked_for(ctx.now);
        self.find_log(ctx);
    }

    pub(super) fn find_log(&mut self, ctx: &mut Context<'_>) {
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Open, ctx);
    }

    pub(super) fn opened(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Opening) {
            return;
        }
        let Some(Response::Info(info)) = response else {
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        };
        let content = ctx.disk.content();
        let known = content.log_created.clone();
        let is_bound = known.is_some() || content.must_join;
        match (info, known) {
            (None, _) if is_bound => {
                let since = *self.missing_since.get_or_insert(ctx.now);
                if ctx.now - since < self.doubt_ms * MS {
                    return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
                }
                self.broken(Broken::Gone { stream: LOG.into() }, ctx);
            }
            (None, _) => self.ask(Request::LogMake, READ_TIMEOUT, Purpose::Open, ctx),
            (Some(info), Some(known)) if info.created != known => {
                let (stream, created) = (LOG.into(), info.created);
                self.broken(Broken::Replaced { stream, created, known }, ctx);
            }
            (Some(info), None) if is_bound && info.last == 0 => {
                self.broken(Broken::Empty { stream: LOG.into() }, ctx);
            }
            (Some(_), Some(_)) => self.await_name(ctx),
            (Some(info), None) => {
                self.phase = Phase::Marking;
                self.write(vec![ManagerBatch::LogCreated(info.created)], ctx);
            }
        }
    }

    pub(super) fn load(&mut self, ctx: &mut Context<'_>) {
        let pairs = ctx.disk.content().state.iter();
        match State::load(pairs.map(|(key, value)| Ok((key.into(), value.into())))) {
            Ok(state) => {
                let (identity, settings) = (self.identity.clone(), self.settings.clone());
                self.cluster = Some(Cluster::new(identity, settings, state));
            }
            Err(_) => return ctx.out.push(Output::Exit(Ended::Unreadable)),
        }
        self.catch_up(ctx);
    }

    /// Writes batches, and is told when they are synced.
    pub(super) fn write(&mut self, batches: Vec<ManagerBatch>, ctx: &mut Context<'_>) -> bool {
        let count = batches.len();
        if batches.into_iter().all(|batch| ctx.disk.begin(batch)) {
            ctx.out.push(Output::Sync(count));
            return true;
        }
        ctx.out.push(Output::Exit(Ended::DiskFull));
        false
    }

    // Catching up.

    pub(super) fn catch_up(&mut self, ctx: &mut Context<'_>) {
        self.phase = Phase::Reading { end: 0, next: 0 };
        if !self.shared.is_told && (self.chosen || self.held.is_some()) {
            return self.ask(Request::BucketList, ACK_TIMEOUT, Purpose::Shared, ctx);
        }
        let applied = self.applied();
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::End { applied }, ctx);
    }

    /// Which snapshots there are, before the log is read to its end by whoever is about to lead.
    pub(super) fn shared_told(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Reading { next: 0, .. }) {
            return;
        }
        match response {
            Some(Response::Bucket(there)) => {
                self.shared.newest = there.first().copied();
            }
            _ if ctx.now - self.shared.since < SNAPSHOTS_PATIENCE_MS * MS => {
                return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
            }
            // Nobody is to lead because of the bucket alone never.
            _ => {}
        }
        self.shared.is_told = true;
        self.catch_up(ctx);
    }

    /// Whether it is in a reign.
    pub(super) fn leads(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Appending { .. })
    }

    /// Where it stands in the log.
    pub(super) fn applied(&self) -> Applied {
        self.cluster
            .as_ref()
            .map_or_else(Applied::default, |cluster| Applied::of(&cluster.state().meta))
    }

    /// Whether the log lists it, or nobody yet.
    pub(super) fn is_listed(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| {
            let managers = &cluster.state().meta.managers;
            managers.is_empty() || managers.contains(&self.identity.name)
        })
    }

    /// Judges what is said of the log's ends, by what was applied before it was asked. Nothing, where nothing can be told.
    pub(super) fn judge(
        &mut self,
        info: Option<&Info>,
        applied: Applied,
        ctx: &mut Context<'_>,
    ) -> Option<Result<u64, Broken>> {
        let created = ctx.disk.content().log_created.clone().unwrap_or_default();
        let now = self.looked_for().unwrap_or(applied);
        let told = end(LOG, info, &created, applied.sequence, now.sequence);
        let is_opening = matches!(self.phase, Phase::Reading { .. });
        let told = if is_opening && ctx.sabotage == Some(Sabotage::LeadOverLostTail) {
            Ok(info.map_or(0, |info| info.last))
        } else {
            told
        };
        match self.doubt.judge(told, self.clock.read(ctx.now).time) {
            Ok(end) => Some(Ok(end)),
            Err(Verdict::Believed(broken)) => Some(Err(broken)),
            Err(Verdict::Doubted { .. }) => None,
        }
    }

    pub(super) fn end_known(
        &mut self,
        applied: Applied,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        if !matches!(self.phase, Phase::Reading { next: 0, .. }) {
            return;
        }
        let Some(Response::Info(info)) = response else {
            if self.doubt.is_open() {
                return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
            }
            return self.begin_anew(ctx);
        };
        let end = match self.judge(info.as_ref(), applied, ctx) {
            Some(Ok(end)) => end,
            Some(Err(broken)) => return self.broken(broken, ctx),
            None => return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry)),
        };
        let applied = self.over_lost_tail(end, applied, ctx.sabotage);
        self.phase = Phase::Reading { end, next: applied.sequence + 1 };
        match applied.tip() {
            Some(tip) => self.ask(Request::Get(tip), READ_TIMEOUT, Purpose::Tip { applied }, ctx),
            None => self.read_on(ctx),
        }
    }

    /// A broken manager goes on from wherever the log ends.
    fn over_lost_tail(
        &mut self,
        end: u64,
        applied: Applied,
        sabotage: Option<Sabotage>,
    ) -> Applied {
        match &mut self.cluster {
            Some(cluster)
                if sabotage == Some(Sabotage::LeadOverLostTail) && end < applied.sequence =>
            {
                cluster.appended(end);
                Applied::of(&cluster.state().meta)
            }
            _ => applied,
        }
    }

    pub(super) fn tip_known(
        &mut self,
        applied: Applied,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        if !matches!(self.phase, Phase::Reading { .. }) {
            return;
        }
        let Some(Response::Message(payload)) = response else { return self.begin_anew(ctx) };
        match applied.check(payload.as_deref()) {
            Err(broken) if ctx.sabotage != Some(Sabotage::LeadOverLostTail) => {
                self.broken(broken, ctx);
            }
            _ => self.read_on(ctx),
        }
    }

    pub(super) fn read_on(&mut self, ctx: &mut Context<'_>) {
        let Phase::Reading { end, next } = self.phase else { return };
        if next == 0 {
            return self.catch_up(ctx);
        }
        if next <= end {
            return self.ask(Request::Read(next), READ_TIMEOUT, Purpose::Read, ctx);
        }
        self.position = self.applied();
        if let Err(broken) = self.check_all() {
            return self.broken(broken, ctx);
        }
        // What an operator has chosen is done, or there was nothing to do.
        self.chosen = false;
        // Another one may have taken the lease meanwhile.
        self.held.take_if(|held| held.lost);
        if self.held.is_some() {
            self.take_over(ctx);
        } else if self.is_listed() {
            self.attempt(ctx);
        } else {
            self.stand(ctx);
        }
    }

    /// Whether the log holds what it should, as far as whoever is about to lead, or to heal it, can tell.
    fn check_all(&self) -> Result<(), Broken> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        if self.chosen || self.held.is_some() {
            check_shared(self.shared.newest, &cluster.state().meta)?;
        }
        if self.chosen { check_followed(cluster.state()) } else { Ok(()) }
    }

    fn take_over(&mut self, ctx: &mut Context<'_>) {
        let meta = self.cluster.as_ref().map(|cluster| &cluster.state().meta);
        match meta.and_then(|meta| cut_before(self.shared.newest, meta)) {
            Some(before) => self.ask(Request::Trim { before }, READ_TIMEOUT, Purpose::Cut, ctx),
            None => self.begin_reign(ctx),
        }
    }

    /// What was left of a log that was healed is removed.
    pub(super) fn cut(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        match (&self.phase, response) {
            (Phase::Reading { .. }, Some(Response::Done)) if self.held.is_some() => {
                self.begin_reign(ctx);
            }
            (Phase::Reading { .. }, _) => {
                ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
            }
            _ => {}
        }
    }

    pub(super) fn read(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        let Phase::Reading { end, .. } = self.phase else { return };
        let Some(Response::Messages(messages)) = response else {
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        };
        if messages.is_empty() {
            // What was told of may have been lost since.
            self.phase = Phase::Reading { end: 0, next: 0 };
            return ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
        }
        if self.apply(messages, ctx) {
            self.phase = Phase::Reading { end, next: self.applied().sequence + 1 };
        }
    }

    /// Applies messages, and writes what they changed as one batch. False when nothing is written.
    fn apply(&mut self, messages: Vec<(u64, Bytes)>, ctx: &mut Context<'_>) -> bool {
        let Some(cluster) = &mut self.cluster else { return false };
        let (mut writes, mut records, mut stopped) = (Vec::new(), Vec::new(), None);
        let mut events = Vec::new();
        for (sequence, payload) in messages {
            match self.follower.take(cluster, sequence, &payload) {
                Ok(Followed::Known) => {}
                Ok(Followed::Record { index, writes: changed, events: told }) => {
                    ctx.notes.push(Note::Applied {
                        manager: self.identity.manager,
                        index,
                        chain: cluster.state().meta.chain,
                        writes: hash_writes(&changed),
                    });
                    writes.extend(changed);
                    records.push((index, payload));
                    if ctx.sabotage != Some(Sabotage::ForgetEvents) || ctx.rng.u8(0..8) > 0 {
                        events.extend(told);
                    }
                }
                Ok(Followed::Skipped { write, .. }) => writes.push(write),
                Err(reason) => {
                    stopped = Some(reason);
                    break;
                }
            }
        }
        if ctx.sabotage == Some(Sabotage::StoreForgetsTasks) {
            writes.retain(|write| !write.key.starts_with(b"task/"));
        }
        let writes_any = !writes.is_empty();
        if writes_any && !self.write(vec![ManagerBatch::Records { writes, records, events }], ctx) {
            return false;
        }
        match stopped {
            Some(Stopped::Broken(broken)) => {
                self.broken(broken, ctx);
                false
            }
            Some(_) => {
                ctx.out.push(Output::Exit(Ended::Unreadable));
                false
            }
            None if writes_any => true,
            None => {
                ctx.out.push(Output::Wake(ctx.now + RETRY_DELAY, Timer::Retry));
                false
            }
        }
    }

    // Standing by.

    pub(super) fn stand(&mut self, ctx: &mut Context<'_>) {
        self.phase = Phase::Standing;
        self.tail_syncing = false;
        self.wait_for_lease(ctx);
        self.check_soon(ctx);
        self.read_tail(ctx);
    }

    /// A node's sign of life, heard while another manager leads.
    pub(super) fn overhear(&mut self, message: &Message, ctx: &mut Context<'_>) {
        let now = self.clock.read(ctx.now).time;
        if let (Phase::Standing, Message::Heartbeat { from, heartbeat }, Some(cluster)) =
            (&self.phase, message, &mut self.cluster)
        {
            cluster.overhear(&node_name(*from), heartbeat, now);
        }
    }

    pub(super) fn read_tail(&mut self, ctx: &mut Context<'_>) {
        if matches!(self.phase, Phase::Standing) && !self.tail_syncing {
            let next = self.applied().sequence + 1;
            self.ask(Request::Read(next), READ_TIMEOUT, Purpose::Tail, ctx);
        }
    }

    pub(super) fn tail(&mut self, response: Option<Response>, ctx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Standing) || self.tail_syncing {
            return;
        }
        match response {
            Some(Response::Messages(messages)) if !messages.is_empty() => {
                self.tail_syncing = self.apply(messages, ctx);
                if !self.tail_syncing && matches!(self.phase, Phase::Standing) {
                    self.tail_soon(ctx);
                }
            }
            _ => self.tail_soon(ctx),
        }
    }

    pub(super) fn tail_synced(&mut self, ctx: &mut Context<'_>) {
        self.tail_syncing = false;
        if self.held.is_some() { self.catch_up(ctx) } else { self.tail_soon(ctx) }
    }

    fn tail_soon(&mut self, ctx: &mut Context<'_>) {
        let wait = ctx.rng.u64(20 * MS..400 * MS);
        ctx.out.push(Output::Wake(ctx.now + wait, Timer::Tail(self.opened)));
    }

    // Looking, once a second, by leader and standby alike.

    pub(super) fn check_soon(&self, ctx: &mut Context<'_>) {
        ctx.out.push(Output::Wake(ctx.now + LOOK_INTERVAL_MS * MS, Timer::Check(self.opened)));
    }

    /// Where whoever looks must find the log to end: read before the question, because what is written meanwhile only
    /// makes the log longer. And where it may begin: read when the answer is there.
    fn looked_for(&self) -> Option<Applied> {
        match self.phase {
            Phase::Standing => Some(self.applied()),
            _ if self.leads() => Some(self.position),
            _ => None,
        }
    }

    pub(super) fn check_now(&mut self, ctx: &mut Context<'_>) {
        let Some(applied) = self.looked_for() else { return self.check_soon(ctx) };
        self.ask(Request::LogInfo, READ_TIMEOUT, Purpose::Check { applied }, ctx);
    }

    pub(super) fn checked(
        &mut self,
        applied: Applied,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        if let (Some(Response::Info(info)), Some(_)) = (response, self.looked_for()) {
            match (self.judge(info.as_ref(), applied, ctx), applied.tip()) {
                (Some(Err(broken)), _) => return self.broken(broken, ctx),
                // Nothing of its own is on its way.
                (Some(Ok(end)), _)
                    if matches!(self.phase, Phase::Idle)
                        && end > self.position.sequence
                        && ctx.sabotage != Some(Sabotage::IgnoreTheFence) =>
                {
                    return self.end_reign(ctx);
                }
                (Some(Ok(_)), Some(tip)) => {
                    let purpose = Purpose::CheckTip { applied };
                    return self.ask(Request::Get(tip), READ_TIMEOUT, purpose, ctx);
                }
                _ => {}
            }
        }
        self.check_soon(ctx);
    }

    pub(super) fn tip_checked(
        &mut self,
        applied: Applied,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        let is_told = matches!(response, Some(Response::Message(_)));
        if self.contradicts(applied, response, ctx) {
            return;
        }
        let before = self.looked_at;
        match before.tip() {
            _ if !is_told => self.check_soon(ctx),
            Some(tip) if self.leads() => {
                let purpose = Purpose::CheckBefore { applied, before };
                self.ask(Request::Get(tip), READ_TIMEOUT, purpose, ctx);
            }
            _ => {
                self.looked_at = applied;
                self.check_soon(ctx);
            }
        }
    }

    pub(super) fn before_checked(
        &mut self,
        applied: Applied,
        before: Applied,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) {
        let is_told = matches!(response, Some(Response::Message(_)));
        if self.leads() && self.contradicts(before, response, ctx) {
            return;
        }
        if is_told {
            self.looked_at = applied;
        }
        self.check_soon(ctx);
    }

    /// Whether another record stands where one was applied: it mends then.
    fn contradicts(
        &mut self,
        applied: Applied,
        response: Option<Response>,
        ctx: &mut Context<'_>,
    ) -> bool {
        if let (Some(Response::Message(found)), Some(_)) = (response, self.looked_for())
            && let Err(broken) = applied.check(found.as_deref())
        {
            self.broken(broken, ctx);
            return true;
        }
        false
    }
}
