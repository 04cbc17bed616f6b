//! Questions with a deadline, an id and retries.
//!
//! A question that gets no answer in time has an unknown outcome: it may have been done, or may still be.
//! So a question that changes something carries an id, and is sent again with the same id until the
//! deadline; the answerer recognises it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use longshore_proto::api::Answer;
use longshore_proto::codec::{self, DecodeError};
use longshore_proto::error::ApiError;
use longshore_proto::id::CommandId;
use longshore_proto::subject::{ApiVerb, Subject};
use longshore_proto::{ACTOR_HEADER, COMMAND_HEADER, INDEX_HEADER, MOMENT_HEADER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use crate::connect::{Bus, BusError, headers, jittered};

/// How long nobody answers before the question is sent again. The server gives a question to one of those who listen;
/// one that was cut off counts among them for half a minute, so that a question may need a few tries.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// The same for what is worked out or read beside the manager's loop, a few at a time: each try is that work once more.
const STUDY_PATIENCE: Duration = Duration::from_secs(4);
/// The first wait between two tries; it doubles, and a random part of it is waited.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// The longest wait between two tries.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(1);

/// How a question is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The id that makes a repeated question recognisable; needed by what changes something.
    pub command: Option<CommandId>,
    /// Who asks, as the program says it (a person's name), for the audit.
    pub actor: Option<String>,
    /// The moment of the past that is asked about, as the header says it.
    pub at: Option<String>,
    /// How long to go on trying.
    pub deadline: Duration,
}

impl Ask {
    /// A question that changes nothing.
    pub fn read(deadline: Duration) -> Self {
        Self { command: None, actor: None, at: None, deadline }
    }

    /// A question that changes something.
    pub fn write(command: CommandId, deadline: Duration) -> Self {
        Self { command: Some(command), actor: None, at: None, deadline }
    }
}

/// Why there is no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The answerer refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// Nobody listens on this subject.
    #[error(
        "nobody answers on {subject} after {waited:.0?}; is a manager running? `longshore doctor` looks"
    )]
    NoResponders {
        /// Where it was asked.
        subject: String,
        /// For how long.
        waited: Duration,
    },
    /// Somebody listens, and does not answer in time: the outcome is unknown.
    #[error(
        "no answer on {subject} within {waited:.0?}; the outcome is unknown, and asking again with the same id is safe"
    )]
    TimedOut {
        /// Where it was asked.
        subject: String,
        /// For how long.
        waited: Duration,
        /// What another try of the same question was refused with, when one was.
        refused: Option<ApiError>,
    },
    /// The bus does not take it.
    #[error("cannot ask on {subject}")]
    Bus {
        /// Where it was asked.
        subject: String,
        /// What the library says.
        source: BusError,
    },
    /// The answer cannot be read.
    #[error("the answer on {subject} cannot be read; the manager may be of another version")]
    Unreadable {
        /// Where it was asked.
        subject: String,
        /// What is wrong with it.
        source: DecodeError,
    },
}

fn patience(subject: &Subject, ask: &Ask) -> Duration {
    let (Subject::Api { verb, .. } | Subject::LeaderRead { verb, .. }) = subject else {
        return ANSWER_PATIENCE;
    };
    match verb {
        ApiVerb::TaskExplain
        | ApiVerb::ClusterWhatIf
        | ApiVerb::RebalancePlan
        | ApiVerb::BackupMake
        | ApiVerb::EventList => STUDY_PATIENCE,
        _ if ask.at.is_some() => STUDY_PATIENCE,
        _ => ANSWER_PATIENCE,
    }
}

/// What one try came to; it waits as long as it is waited for.
enum Tried<A> {
    Answered(u64, A),
    /// It is worth asking again.
    Failed(AskError),
    Refused(AskError),
}

impl Bus {
    /// Asks, and asks again what may be asked again until the deadline. Gives the log index that the answer
    /// reflects, and the answer.
    ///
    /// A try that is not answered is not given up when the next one begins: an answer that takes long is still the
    /// answer, and whoever listens may be a process that is cut off, of which the server does not know yet.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: &Subject,
        question: &Q,
        ask: Ask,
    ) -> Result<(u64, A), AskError> {
        let patience = patience(subject, &ask);
        let subject = &subject.text(self.root());
        let payload = bytes::Bytes::from(codec::encode(question));
        let start = Instant::now();
        let deadline = start + ask.deadline;
        let attempt = || self.try_once(subject, payload.clone(), self.headers_of(&ask), start);
        // Not by the timer, which knows whole milliseconds only: a question to a manager with nothing else to do is
        // answered in less than two.
        let mut tries = FuturesUnordered::from_iter([attempt()]);
        let mut next = start + patience;
        let mut delay = RETRY_DELAY;
        let mut failure = None;
        // Why one that may have done what was asked for did not say so.
        let mut left_open = None;
        let unknown = |refused| AskError::TimedOut {
            subject: subject.clone(),
            waited: start.elapsed(),
            refused,
        };
        loop {
            tokio::select! {
                biased;
                Some(tried) = tries.next() => match tried {
                    Tried::Answered(index, answer) => {
                        self.index_seen().fetch_max(index, Ordering::Relaxed);
                        return Ok((index, answer));
                    }
                    Tried::Refused(error) => return Err(error),
                    Tried::Failed(error) => {
                        if let AskError::Refused(refusal) = &error
                            && refusal.outcome_unknown
                        {
                            left_open = Some(refusal.clone());
                        }
                        if tries.is_empty() && Instant::now() + delay >= deadline {
                            return Err(match left_open {
                                Some(refusal) => unknown(Some(refusal)),
                                None => error,
                            });
                        }
                        debug!(%subject, %error, "asking again");
                        failure = Some(error);
                        next = Instant::now() + jittered(delay);
                        delay = (delay * 2).min(RETRY_DELAY_MAX);
                    }
                },
                () = tokio::time::sleep_until(next.min(deadline)) => {
                    if Instant::now() >= deadline {
                        return Err(match failure {
                            _ if left_open.is_some() => unknown(left_open),
                            Some(failure) if tries.is_empty() => failure,
                            // A refusal tells more than the silence that came after it.
                            Some(failure @ AskError::Refused(_)) if ask.command.is_none() => failure,
                            // Somebody has heard of a change and not answered: its outcome is unknown, whatever other
                            // tries came to.
                            Some(AskError::Refused(refusal)) => unknown(Some(refusal)),
                            _ => unknown(None),
                        });
                    }
                    if !tries.is_empty() {
                        debug!(%subject, "no answer yet; asking again");
                    }
                    tries.push(attempt());
                    next = Instant::now() + patience;
                }
            }
        }
    }

    fn headers_of(&self, ask: &Ask) -> HeaderMap {
        let mut headers = headers();
        if let Some(command) = ask.command {
            headers.insert(COMMAND_HEADER, command.to_string());
        }
        if let Some(actor) = &ask.actor {
            headers.insert(ACTOR_HEADER, actor.replace(['\r', '\n'], " "));
        }
        if let Some(at) = &ask.at {
            headers.insert(MOMENT_HEADER, at.as_str());
        }
        // Any manager may answer a question, and must not show less than was seen already.
        let seen = self.index_seen().load(Ordering::Relaxed);
        if ask.command.is_none() && seen > 0 {
            headers.insert(INDEX_HEADER, seen.to_string());
        }
        headers
    }

    async fn try_once<A: DeserializeOwned>(
        &self,
        subject: &str,
        payload: bytes::Bytes,
        headers: HeaderMap,
        start: Instant,
    ) -> Tried<A> {
        let asked = self.answer_to(subject, payload, headers).await;
        let (subject, waited) = (subject.to_owned(), start.elapsed());
        match asked {
            Ok(message) if message.status == Some(StatusCode::NO_RESPONDERS) => {
                Tried::Failed(AskError::NoResponders { subject, waited })
            }
            Ok(message) => match codec::decode::<Answer<A>>(&message.payload) {
                Ok(Answer { index, ok: Some(answer), .. }) => Tried::Answered(index, answer),
                Ok(Answer { error: Some(refusal), .. }) if refusal.code.is_retryable() => {
                    Tried::Failed(AskError::Refused(refusal))
                }
                Ok(Answer { error: Some(refusal), .. }) => {
                    Tried::Refused(AskError::Refused(refusal))
                }
                Ok(Answer { .. }) => {
                    let source = DecodeError::Malformed("neither ok nor error");
                    Tried::Refused(AskError::Unreadable { subject, source })
                }
                Err(source) => Tried::Refused(AskError::Unreadable { subject, source }),
            },
            Err(source) => Tried::Refused(AskError::Bus { subject, source }),
        }
    }

    /// Publishes a question, and waits for its answer as long as it is waited for.
    async fn answer_to(
        &self,
        subject: &str,
        payload: bytes::Bytes,
        headers: HeaderMap,
    ) -> Result<Message, BusError> {
        let (reply, place) = self.inbox().place();
        let subject = subject.to_owned();
        let sent =
            self.client().publish_with_reply_and_headers(subject.clone(), reply, headers, payload);
        match sent.await {
            Ok(()) => place.answer().await.ok_or(BusError::Closed { subject }),
            Err(source) => Err(BusError::Publish { subject, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_proto::subject::Scope;

    use super::*;

    #[test]
    fn what_is_work_is_not_asked_again_as_soon() {
        let (scope, verb) = (Scope::Cluster, ApiVerb::ClusterWhatIf);
        let ask = Ask::read(Duration::from_secs(10));
        assert_eq!(patience(&Subject::Api { scope: scope.clone(), verb }, &ask), STUDY_PATIENCE);
        assert_eq!(
            patience(&Subject::LeaderRead { scope: scope.clone(), verb }, &ask),
            STUDY_PATIENCE
        );
        let list = Subject::Api { scope, verb: ApiVerb::NodeList };
        assert_eq!(patience(&list, &ask), ANSWER_PATIENCE);
        let past = Ask { at: Some("100".into()), ..ask };
        assert_eq!(patience(&list, &past), STUDY_PATIENCE, "a whole state may be made for it");
    }
}
