//! Questions with a deadline, an id and retries.
//!
//! A question that gets no answer in time has an unknown outcome: it may have been done, or may still be.
//! So a question that changes something carries an id, and is sent again with the same id until the
//! deadline; the answerer recognises it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{RequestErrorKind, client::Request};
use longshore_proto::api::Answer;
use longshore_proto::codec::{self, DecodeError};
use longshore_proto::error::ApiError;
use longshore_proto::id::CommandId;
use longshore_proto::subject::Subject;
use longshore_proto::{ACTOR_HEADER, COMMAND_HEADER, INDEX_HEADER, MOMENT_HEADER};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::debug;

use crate::connect::{Bus, headers, jittered};

/// How long one try waits for its answer before the question is sent again.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
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
    },
    /// The bus does not take it.
    #[error("cannot ask on {subject}")]
    Bus {
        /// Where it was asked.
        subject: String,
        /// What the library says.
        source: async_nats::RequestError,
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

impl Bus {
    /// Asks, and retries what may be retried until the deadline. Gives the log index that the answer
    /// reflects, and the answer.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        subject: &Subject,
        question: &Q,
        ask: Ask,
    ) -> Result<(u64, A), AskError> {
        let subject = subject.text(self.root());
        let payload = bytes::Bytes::from(codec::encode(question));
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
        let start = Instant::now();
        let mut delay = RETRY_DELAY;
        loop {
            let left = ask.deadline.saturating_sub(start.elapsed());
            let timeout = left.min(TRY_TIMEOUT);
            // Any manager may answer a question, and must not show less than was seen already.
            let seen = self.index_seen().load(Ordering::Relaxed);
            if ask.command.is_none() && seen > 0 {
                headers.insert(INDEX_HEADER, seen.to_string());
            }
            // An inbox of its own: the shared one remembers every question that is never answered.
            let request = Request::new()
                .payload(payload.clone())
                .headers(headers.clone())
                .inbox(self.client().new_inbox())
                .timeout(Some(timeout));
            let asked = self.client().send_request(subject.clone(), request);
            // The library's timeout does not cover a queue that is full; the outer one does.
            let outcome = tokio::time::timeout(timeout, asked).await;
            let waited = start.elapsed();
            let error = match outcome {
                Ok(Ok(message)) => match codec::decode::<Answer<A>>(&message.payload) {
                    Ok(Answer { index, ok: Some(answer), .. }) => {
                        self.index_seen().fetch_max(index, Ordering::Relaxed);
                        return Ok((index, answer));
                    }
                    Ok(Answer { error: Some(refusal), .. }) if refusal.code.is_retryable() => {
                        AskError::Refused(refusal)
                    }
                    Ok(Answer { error: Some(refusal), .. }) => {
                        return Err(AskError::Refused(refusal));
                    }
                    Ok(Answer { .. }) => {
                        let source = DecodeError::Malformed("neither ok nor error");
                        return Err(AskError::Unreadable { subject, source });
                    }
                    Err(source) => return Err(AskError::Unreadable { subject, source }),
                },
                Ok(Err(error)) => match error.kind() {
                    RequestErrorKind::NoResponders => {
                        AskError::NoResponders { subject: subject.clone(), waited }
                    }
                    RequestErrorKind::TimedOut => {
                        AskError::TimedOut { subject: subject.clone(), waited }
                    }
                    _ => return Err(AskError::Bus { subject, source: error }),
                },
                Err(_) => AskError::TimedOut { subject: subject.clone(), waited },
            };
            if waited + delay >= ask.deadline {
                return Err(error);
            }
            debug!(%subject, %error, "asking again");
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }
}
