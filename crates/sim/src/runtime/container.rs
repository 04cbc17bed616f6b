//! What becomes of containers: how they are made, started, asked to end, and gone; what fails, lies and is told of it.

use longshore_core::agent::labels::Owner;
use longshore_core::agent::{
    ContainerChange, ContainerEnd, ContainerEvent, ContainerState, Failure, Input, StartContainer,
    StartedContainer,
};

use longshore_proto::node::fencing_token;

use super::{Context, Made, OVERLAP, Output, Runtime, Step, Verb, VerbAnswer};
use crate::check::Note;
use crate::fault::Fault;
use crate::sabotage::Sabotage;
use crate::time::{MS, SECOND};

impl Runtime {
    pub(super) fn create(&mut self, number: u64, start: &StartContainer, ctx: &mut Context<'_>) {
        if ctx.chaos.strikes(Fault::CreateFails) {
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot create".into())),
                ctx,
            );
        }
        let known = self.containers.iter().find(|(_, made)| made.name == start.name);
        let known = known.filter(|_| self.sabotage != Some(Sabotage::StartTwice));
        let id = match known {
            Some((id, made)) => {
                let (id, state) = (id.clone(), made.state);
                if let ContainerState::Ended(end) = state {
                    let started = StartedContainer { container_id: id, ended: Some(end) };
                    return self.answer_started(number, Ok(started), ctx);
                }
                if state == ContainerState::Running {
                    let started = StartedContainer { container_id: id, ended: None };
                    return self.answer_started(number, Ok(started), ctx);
                }
                id
            }
            None => {
                self.made += 1;
                let id = format!("n{}-{}", self.worker, self.made);
                let owner = Owner::read(&start.labels);
                let made = Made {
                    name: start.name.clone(),
                    labels: start.labels.clone(),
                    state: ContainerState::Created,
                    run: 0,
                    image: start.run.spec.image.clone(),
                    grace_ms: start.run.spec.stop_grace_ms,
                    owner: owner.clone(),
                    token: start.run.epoch.and_then(|epoch| fencing_token(epoch, start.attempt)),
                    disowned: false,
                    ending: None,
                    waiting: Vec::new(),
                    doomed: false,
                };
                self.containers.insert(id.clone(), made);
                if let Some(owner) = owner {
                    ctx.notes.push(Note::Created {
                        worker: self.worker,
                        task: owner.task,
                        attempt: owner.attempt,
                    });
                }
                id
            }
        };
        if ctx.chaos.strikes(Fault::StartFails) {
            self.disown(&start.name, ctx);
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot start".into())),
                ctx,
            );
        }
        if ctx.chaos.strikes(Fault::AnswerLost) {
            // The daemon's answer breaks off, and it goes on.
            self.answer(number, |verb| verb.failed(Failure::RuntimeAway), ctx);
        } else if ctx.chaos.strikes(Fault::StartLies) {
            self.disown(&start.name, ctx);
            self.answer(
                number,
                |verb| verb.failed(Failure::Refused("said to have failed".into())),
                ctx,
            );
        }
        let latency = ctx.chaos.rng.u64(20 * MS..300 * MS);
        ctx.out.push(Output::Later(ctx.now + latency, Step::Start(number, id, self.daemon)));
    }

    pub(super) fn started(&mut self, number: u64, id: &str, ctx: &mut Context<'_>) {
        let worker = self.worker;
        let Some(made) = self.containers.get_mut(id) else {
            return self.answer_started(
                number,
                Err(Failure::Refused("the container is gone".into())),
                ctx,
            );
        };
        if !self.is_up {
            return;
        }
        if made.state == ContainerState::Created {
            made.state = ContainerState::Running;
            made.run += 1;
            let (run, image, token) = (made.run, made.image.clone(), made.token);
            if let Some(Owner { task, attempt, .. }) = made.owner {
                ctx.notes.push(Note::Started { worker, task, attempt, token });
            }
            let end = match image.split(':').next() {
                Some("batch") => Some((ctx.chaos.rng.u64(SECOND..20 * SECOND), 0)),
                Some("fail") if ctx.chaos.is_on() => {
                    Some((ctx.chaos.rng.u64(SECOND..5 * SECOND), 1))
                }
                Some("unfit") => {
                    Some((ctx.chaos.rng.u64(SECOND..5 * SECOND), i64::from(ctx.chaos.is_on())))
                }
                Some("flaky") if ctx.chaos.is_on() && ctx.chaos.rng.u8(..) < 100 => {
                    Some((ctx.chaos.rng.u64(2 * SECOND..40 * SECOND), 1))
                }
                _ => None,
            };
            if let Some((after, code)) = end {
                ctx.out.push(Output::Later(ctx.now + after, Step::End(id.to_owned(), run, code)));
            }
            self.tell(id, ContainerChange::Started, ctx);
        }
        let ended = match self.containers.get(id).map(|made| made.state) {
            Some(ContainerState::Ended(end)) => Some(end),
            _ => None,
        };
        let started = StartedContainer { container_id: id.to_owned(), ended };
        self.answer_started(number, Ok(started), ctx);
    }

    pub(super) fn stop(
        &mut self,
        number: u64,
        container_id: &str,
        grace_ms: u64,
        ctx: &mut Context<'_>,
    ) {
        if ctx.chaos.strikes(Fault::StopFails) {
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot stop".into())),
                ctx,
            );
        }
        let end = match self.containers.get(container_id).map(|made| made.state) {
            Some(ContainerState::Running) => {
                if self.sabotage == Some(Sabotage::PretendRemovals) {
                    ContainerEnd::exited(143)
                } else {
                    return self.ask_to_end(number, container_id, grace_ms, ctx);
                }
            }
            Some(ContainerState::Ended(end)) => end,
            Some(ContainerState::Created) | None => ContainerEnd::default(),
        };
        let container_id = container_id.to_owned();
        self.answer(
            number,
            |_| VerbAnswer::Input(Input::Stopped { container_id, result: Ok(end) }),
            ctx,
        );
    }

    pub(super) fn remove(
        &mut self,
        number: u64,
        container: &str,
        grace_ms: u64,
        ctx: &mut Context<'_>,
    ) {
        let id = self
            .containers
            .iter()
            .find(|(id, made)| *id == container || made.name == container)
            .map(|(id, _)| id.clone());
        let id = id.filter(|_| self.sabotage != Some(Sabotage::PretendRemovals));
        let Some(id) = id else {
            let container = container.to_owned();
            return self.answer(
                number,
                |_| VerbAnswer::Input(Input::Removed { container, result: Ok(()) }),
                ctx,
            );
        };
        if ctx.chaos.strikes(Fault::RemoveFails) {
            return self.answer(
                number,
                |verb| verb.failed(Failure::Refused("cannot remove".into())),
                ctx,
            );
        }
        if let Some(made) = self.containers.get_mut(&id)
            && made.state == ContainerState::Running
        {
            made.doomed = true;
            return self.ask_to_end(number, &id, grace_ms, ctx);
        }
        if self.containers.get(&id).is_some_and(|made| made.owner.is_none()) {
            ctx.notes.push(Note::TouchedStranger { worker: self.worker, container: id.clone() });
        }
        self.destroy(&id, ctx);
        let container = container.to_owned();
        self.answer(
            number,
            |_| VerbAnswer::Input(Input::Removed { container, result: Ok(()) }),
            ctx,
        );
    }

    pub(super) fn ask_to_end(
        &mut self,
        number: u64,
        id: &str,
        grace_ms: u64,
        ctx: &mut Context<'_>,
    ) {
        let worker = self.worker;
        let Some(made) = self.containers.get_mut(id) else { return };
        made.waiting.push(number);
        match &made.owner {
            None => ctx.notes.push(Note::TouchedStranger { worker, container: id.to_owned() }),
            Some(owner) if made.ending.is_none() => ctx.notes.push(Note::AskedToEnd {
                worker,
                task: owner.task,
                attempt: owner.attempt,
                disowned: made.disowned,
            }),
            Some(_) => {}
        }
        let grace = if self.sabotage == Some(Sabotage::KillAtOnce) { 0 } else { grace_ms * MS };
        made.ending.get_or_insert(ctx.now);
        let by_itself = if made.image.starts_with("stubborn") {
            grace
        } else {
            ctx.chaos.rng.u64(10 * MS..1_500 * MS).min(grace)
        };
        let run = made.run;
        ctx.out.push(Output::Later(ctx.now + by_itself, Step::Ended(id.to_owned(), run)));
    }

    /// A container ends.
    pub(super) fn end(&mut self, id: &str, code: i64, ctx: &mut Context<'_>) {
        let worker = self.worker;
        let Some(made) = self.containers.get_mut(id) else { return };
        if made.state != ContainerState::Running {
            return;
        }
        let end = ContainerEnd::exited(code);
        made.state = ContainerState::Ended(end);
        made.run += 1;
        made.ending = None;
        note_end(worker, made, ctx);
        let (waiting, doomed) = (std::mem::take(&mut made.waiting), made.doomed);
        self.tell(id, ContainerChange::Died(end), ctx);
        if doomed {
            self.destroy(id, ctx);
        }
        for number in waiting {
            self.answer(
                number,
                |verb| match verb.clone() {
                    Verb::Stop { container_id, .. } => {
                        VerbAnswer::Input(Input::Stopped { container_id, result: Ok(end) })
                    }
                    Verb::Remove { container, .. } => {
                        VerbAnswer::Input(Input::Removed { container, result: Ok(()) })
                    }
                    other => other.failed(Failure::RuntimeAway),
                },
                ctx,
            );
        }
    }

    pub(super) fn destroy(&mut self, id: &str, ctx: &mut Context<'_>) {
        self.tell(id, ContainerChange::Destroyed, ctx);
        if let Some(owner) = self.containers.remove(id).and_then(|made| made.owner) {
            ctx.notes.push(Note::Destroyed {
                worker: self.worker,
                task: owner.task,
                attempt: owner.attempt,
            });
        }
    }

    pub(super) fn tell(&mut self, id: &str, change: ContainerChange, ctx: &mut Context<'_>) {
        let Some(made) = self.containers.get(id) else { return };
        let labels = made.labels.clone();
        let event = ContainerEvent { container_id: id.to_owned(), labels, change };
        if !self.is_up {
            return;
        }
        self.recent.push_back((ctx.now, event.clone()));
        self.recent.retain(|(at, _)| *at + OVERLAP > ctx.now);
        let Some((incarnation, watch)) = self.subscriber else { return };
        if ctx.chaos.strikes(Fault::EventLost) {
            return;
        }
        ctx.out.push(Output::Event(incarnation, watch, event.clone()));
        if ctx.chaos.strikes(Fault::EventTwice) {
            ctx.out.push(Output::Event(incarnation, watch, event));
        }
    }

    pub(super) fn disown(&mut self, name: &str, ctx: &mut Context<'_>) {
        for made in self.containers.values_mut().filter(|made| made.name == name) {
            made.disowned = true;
            if let Some(Owner { task, attempt, .. }) = made.owner {
                ctx.notes.push(Note::Disowned { task, attempt });
            }
        }
    }
}

pub(super) fn note_end(worker: usize, made: &Made, ctx: &mut Context<'_>) {
    if let Some(owner) = &made.owner {
        ctx.notes.push(Note::Ended {
            worker,
            task: owner.task,
            attempt: owner.attempt,
            disowned: made.disowned,
        });
    }
}
