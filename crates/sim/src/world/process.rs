//! Processes: they start, take their steps, and what they want of the world is done.

use longshore_core::leadership::log::DOUBT_OF_ONE_MS;

use super::{Checked, Event, World};
use crate::ask::AskOutput;
use crate::check::Note;
use crate::client;
use crate::fault::Fault;
use crate::manager::{self, Ended, Manager, Options};
use crate::message::{Message, Process};
use crate::runtime::{self, Runtime};
use crate::sabotage::Sabotage;
use crate::time::{MS, SECOND};
use crate::worker::{self, Worker};

impl World {
    pub(super) fn start(&mut self, process: Process) -> Checked {
        let now = self.now;
        let runs = match process {
            Process::Manager(number) => {
                let is_unwanted = number == self.size.managers && !self.has_namesake;
                self.managers[number].process.is_some() || is_unwanted
            }
            Process::Worker(number) => {
                self.workers[number].process.is_some() || self.operator.has_switched_off(number)
            }
            Process::Client(_) => true,
        };
        if runs {
            return Ok(());
        }
        let (bus_up, home) = (self.bus_up, self.servers.pick(&mut self.chaos.rng));
        if let Some(link) = self.link_mut(process) {
            link.has_session = bus_up && link.is_up;
            link.home = home;
        }
        let connected = self.can_talk(process);
        match process {
            Process::Manager(number) => {
                let place = &mut self.managers[number];
                let clock = place.clock(now);
                let (mut out, mut notes) = (Vec::new(), Vec::new());
                let mut ctx = manager::Context {
                    now,
                    disk: &mut place.disk,
                    out: &mut out,
                    notes: &mut notes,
                    rng: &mut self.chaos.rng,
                    sabotage: self.sabotage,
                };
                let options = Options {
                    name: place.name,
                    settings: self.settings.clone(),
                    snapshot_records: self.size.snapshot_records,
                    doubt_ms: match self.sabotage {
                        Some(Sabotage::BelieveOneServer) => DOUBT_OF_ONE_MS,
                        _ => self.size.doubt() / MS,
                    },
                    chosen: std::mem::take(&mut place.chosen),
                };
                let started = Manager::start(number, clock, options, connected, &mut ctx);
                place.process = Some(started);
                self.notes(&notes)?;
                self.manager_out(number, out)
            }
            Process::Worker(number) => {
                let place = &mut self.workers[number];
                let clock = place.clock(now);
                let (mut out, mut notes) = (Vec::new(), Vec::new());
                let mut ctx = worker::Context {
                    now,
                    disk: &mut place.disk,
                    out: &mut out,
                    notes: &mut notes,
                    chaos: &mut self.chaos,
                    sabotage: self.sabotage,
                };
                let capacity = self.capacity[number];
                let started = Worker::start(number, clock, capacity, connected, &mut ctx);
                place.process = Some(started);
                self.notes(&notes)?;
                self.worker_out(number, out)
            }
            Process::Client(_) => Ok(()),
        }
    }

    pub(super) fn manager(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Manager, &mut manager::Context<'_>),
    ) -> Checked {
        let place = &mut self.managers[number];
        let Some(mut process) = place.process.take() else { return Ok(()) };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut ctx = manager::Context {
            now: self.now,
            disk: &mut place.disk,
            out: &mut out,
            notes: &mut notes,
            rng: &mut self.chaos.rng,
            sabotage: self.sabotage,
        };
        act(&mut process, &mut ctx);
        place.process = Some(process);
        self.notes(&notes)?;
        self.manager_out(number, out)
    }

    pub(super) fn worker(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Worker, &mut worker::Context<'_>),
    ) -> Checked {
        let place = &mut self.workers[number];
        let Some(mut process) = place.process.take() else { return Ok(()) };
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut ctx = worker::Context {
            now: self.now,
            disk: &mut place.disk,
            out: &mut out,
            notes: &mut notes,
            chaos: &mut self.chaos,
            sabotage: self.sabotage,
        };
        act(&mut process, &mut ctx);
        place.process = Some(process);
        self.notes(&notes)?;
        self.worker_out(number, out)
    }

    pub(super) fn notes(&mut self, notes: &[Note]) -> Checked {
        for note in notes {
            self.trace.note(note);
            self.checks.note(note, self.now)?;
            if let Note::Joined { .. } = note {
                self.chaos.counts.count(Fault::Joined);
            }
        }
        Ok(())
    }

    pub(super) fn manager_out(&mut self, number: usize, out: Vec<manager::Output>) -> Checked {
        let incarnation = self.managers[number].incarnation;
        for output in out {
            match output {
                manager::Output::Ask(ask, request) => {
                    if self.chaos.strikes(Fault::QuestionLost) {
                        continue;
                    }
                    let wait = if self.chaos.strikes(Fault::QuestionLate) {
                        let wait = self.chaos.rng.u64(2 * SECOND..9 * SECOND);
                        self.late_until = self.late_until.max(self.now + wait);
                        wait
                    } else {
                        self.latency()
                    };
                    let event = Event::Question { from: number, incarnation, ask, request };
                    self.depart(Process::Manager(number), wait, event);
                }
                manager::Output::Send(to, message) => {
                    self.send(Process::Manager(number), to, message);
                }
                manager::Output::Wake(at, timer) => {
                    self.at(at, Event::Manager { number, incarnation, timer });
                }
                manager::Output::Sync(batches) => {
                    let wait = self.sync_time();
                    self.after(wait, Event::ManagerSynced { number, incarnation, batches });
                }
                manager::Output::Exit(why) => {
                    self.trace.say(|| format!("m{number} ends: {why:?}"));
                    match why {
                        Ended::Broken => {
                            self.checks.refused(number)?;
                            self.operator.refused(number);
                        }
                        Ended::NameTaken => self.chaos.counts.count(Fault::NameTaken),
                        _ => {}
                    }
                    self.kill(Process::Manager(number));
                    let wait = self.chaos.rng.u64(SECOND..3 * SECOND);
                    self.after(wait, Event::Start(Process::Manager(number)));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn worker_out(&mut self, number: usize, out: Vec<worker::Output>) -> Checked {
        let incarnation = self.workers[number].incarnation;
        let from = Process::Worker(number);
        for output in out {
            match output {
                worker::Output::Ask(try_number, question) => {
                    self.ask(from, try_number, question);
                }
                worker::Output::Beat(heartbeat) => {
                    for leader in self.hearing() {
                        let heartbeat = heartbeat.clone();
                        let message = Message::Heartbeat { from: number, heartbeat };
                        self.send(from, leader, message);
                    }
                }
                worker::Output::Runtime(verb) => {
                    self.runtime(number, |runtime, ctx| runtime.call(incarnation, verb, ctx))?;
                }
                worker::Output::Subscribe(watch) => {
                    self.runtime(number, |runtime, ctx| {
                        runtime.subscribe(incarnation, watch, ctx)
                    })?;
                }
                worker::Output::Wake(at, timer) => {
                    self.at(at, Event::Worker { number, incarnation, timer });
                }
                worker::Output::Sync => {
                    let wait = self.sync_time();
                    self.after(wait, Event::WorkerSynced { number, incarnation });
                }
                worker::Output::Exit(why) => {
                    self.trace.say(|| format!("n{number} ends: {why}"));
                    self.kill(from);
                    let wait = self.chaos.rng.u64(SECOND..5 * SECOND);
                    self.after(wait, Event::Start(from));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(super) fn runtime(
        &mut self,
        number: usize,
        act: impl FnOnce(&mut Runtime, &mut runtime::Context<'_>),
    ) -> Checked {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut ctx = runtime::Context {
            now: self.now,
            chaos: &mut self.chaos,
            notes: &mut notes,
            out: &mut out,
        };
        act(&mut self.runtimes[number], &mut ctx);
        self.notes(&notes)?;
        self.runtime_out(number, out);
        Ok(())
    }

    pub(super) fn runtime_out(&mut self, number: usize, out: Vec<runtime::Output>) {
        for output in out {
            let wait = self.chaos.rng.u64(100..2 * MS);
            match output {
                runtime::Output::Answer(incarnation, answer) => {
                    self.after(wait, Event::RuntimeAnswer { number, incarnation, answer });
                }
                runtime::Output::Event(incarnation, watch, event) => {
                    self.after(wait, Event::RuntimeTells { number, incarnation, watch, event });
                }
                runtime::Output::EventsEnd(incarnation, watch) => {
                    self.after(wait, Event::RuntimeBreaksOff { number, incarnation, watch });
                }
                runtime::Output::Later(at, step) => self.at(at, Event::Runtime { number, step }),
            }
        }
    }

    pub(super) fn client(&mut self, number: usize, timer: client::Timer) -> Checked {
        let now = self.now;
        let mut out = Vec::new();
        let outcome = match timer {
            client::Timer::Next => {
                if self.calm_at.is_some() {
                    return Ok(());
                }
                let client = &mut self.clients[number];
                if client.questions() < 4 {
                    client.next(now, &mut self.chaos.rng, &mut out);
                }
                let wait = client::pause(&mut self.chaos.rng);
                self.after(wait, Event::Client { number, timer: client::Timer::Next });
                None
            }
            client::Timer::Ask(timer) => {
                self.clients[number].timer(timer, now, &mut self.chaos.rng, &mut out)
            }
        };
        self.client_out(number, out);
        self.outcome(outcome)
    }

    pub(super) fn client_out(&mut self, number: usize, out: Vec<AskOutput>) {
        for output in out {
            match output {
                AskOutput::Try(try_number, question) => {
                    self.ask(Process::Client(number), try_number, question);
                }
                AskOutput::Wake(at, timer) => {
                    let timer = client::Timer::Ask(timer);
                    self.at(at, Event::Client { number, timer });
                }
            }
        }
    }

    pub(super) fn outcome(&mut self, outcome: Option<client::Outcome>) -> Checked {
        let Some(outcome) = outcome else { return Ok(()) };
        self.trace.say(|| format!("answered {}: {:?}", outcome.id, outcome.granted));
        self.word_taken(outcome.id);
        outcome.counts_as().into_iter().for_each(|fault| self.chaos.counts.count(fault));
        self.checks.answered(outcome.id, outcome.granted.as_ref())
    }
}
