//! Questions with a deadline and retries, as `crates/bus` asks them: each try has a subject of its own for the answer, a refusal
//! that may pass is retried, and what has no answer by the deadline has an unknown outcome.

use std::collections::BTreeMap;

use longshore_core::cluster::Reply;
use longshore_proto::error::ApiError;

use crate::message::{Answer, Question};
use crate::time::{MS, Micros, SECOND};

const TRY_TIMEOUT: Micros = 2 * SECOND;
const RETRY_DELAY: Micros = 50 * MS;
const RETRY_DELAY_MAX: Micros = SECOND;

/// A timer of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskTimer {
    /// A try has had no answer.
    Timeout {
        /// Which question.
        ask: u64,
        /// Which try.
        number: u64,
    },
    /// The next try is due.
    Retry(u64),
}

/// What a question makes its asker do.
#[derive(Debug)]
pub enum AskOutput {
    /// Send a try.
    Try(u64, Question),
    /// Wake me.
    Wake(Micros, AskTimer),
}

#[derive(Debug)]
struct Open<P> {
    purpose: P,
    question: Question,
    started: Micros,
    deadline: Micros,
    delay: Micros,
    number: Option<u64>,
}

/// The questions of one process.
#[derive(Debug)]
pub struct Asks<P> {
    open: BTreeMap<u64, Open<P>>,
    next: u64,
}

impl<P> Default for Asks<P> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), next: 0 }
    }
}

impl<P> Asks<P> {
    /// How many questions are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Asks.
    pub fn ask(
        &mut self,
        purpose: P,
        question: Question,
        deadline: Micros,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) {
        self.next += 1;
        let ask = self.next;
        let open =
            Open { purpose, question, started: now, deadline, delay: RETRY_DELAY, number: None };
        self.open.insert(ask, open);
        self.try_now(ask, now, rng, out);
    }

    fn try_now(
        &mut self,
        ask: u64,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) {
        let Some(open) = self.open.get_mut(&ask) else { return };
        let number = rng.u64(..);
        open.number = Some(number);
        let left = (open.started + open.deadline).saturating_sub(now);
        out.push(AskOutput::Try(number, open.question.clone()));
        out.push(AskOutput::Wake(now + left.min(TRY_TIMEOUT), AskTimer::Timeout { ask, number }));
    }

    /// An answer comes. Gives the purpose and the final answer of the question that it ends.
    pub fn answer(
        &mut self,
        number: u64,
        answer: Answer,
        now: Micros,
        out: &mut Vec<AskOutput>,
    ) -> Option<(P, Option<Answer>)> {
        let (ask, _) = self.open.iter().find(|(_, open)| open.number == Some(number))?;
        let ask = *ask;
        if may_pass(&answer) {
            return self.again(ask, now, out);
        }
        self.open.remove(&ask).map(|open| (open.purpose, Some(answer)))
    }

    /// A timer fires. Gives the purpose of a question whose deadline has passed.
    pub fn timer(
        &mut self,
        timer: AskTimer,
        now: Micros,
        rng: &mut fastrand::Rng,
        out: &mut Vec<AskOutput>,
    ) -> Option<(P, Option<Answer>)> {
        match timer {
            AskTimer::Timeout { ask, number } => {
                let current = self.open.get(&ask).is_some_and(|open| open.number == Some(number));
                if current { self.again(ask, now, out) } else { None }
            }
            AskTimer::Retry(ask) => {
                self.try_now(ask, now, rng, out);
                None
            }
        }
    }

    fn again(
        &mut self,
        ask: u64,
        now: Micros,
        out: &mut Vec<AskOutput>,
    ) -> Option<(P, Option<Answer>)> {
        let open = self.open.get_mut(&ask)?;
        open.number = None;
        if now + open.delay >= open.started + open.deadline {
            return self.open.remove(&ask).map(|open| (open.purpose, None));
        }
        out.push(AskOutput::Wake(now + open.delay, AskTimer::Retry(ask)));
        open.delay = (open.delay * 2).min(RETRY_DELAY_MAX);
        None
    }
}

fn may_pass(answer: &Answer) -> bool {
    let refusal: Option<&ApiError> = match answer {
        Answer::NoResponders | Answer::Unavailable => return true,
        Answer::Brain(Reply::Barrier) => None,
        Answer::Page(page) => page.as_ref().err(),
        Answer::Brain(Reply::Command(reply)) => reply.as_ref().err(),
        Answer::Brain(Reply::Registered(reply)) => reply.as_ref().err(),
        Answer::Brain(Reply::Reports(reply)) => reply.as_ref().err(),
    };
    refusal.is_some_and(|refusal| refusal.code.is_retryable())
}
