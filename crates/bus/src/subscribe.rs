//! Typed messages in, and answers out: each answer goes to its asker's own inbox, or nowhere.

use std::pin::Pin;
use std::task::{Context, Poll};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use longshore_proto::codec;
use longshore_proto::name::UserName;
use longshore_proto::permission::{Role, inbox_prefix};
use longshore_proto::subject::Subject;
use serde::Serialize;
use tracing::{debug, warn};

use crate::connect::{Bus, headers};

/// A stream of messages.
#[derive(Debug)]
pub struct Subscription {
    bus: Bus,
    subscriber: Subscriber,
}

impl Subscription {
    pub(crate) fn new(bus: Bus, subscriber: Subscriber) -> Self {
        Self { bus, subscriber }
    }
}

impl Stream for Subscription {
    type Item = Incoming;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let bus = self.bus.clone();
        self.subscriber
            .poll_next_unpin(context)
            .map(|next| next.map(|message| Incoming::new(bus, message)))
    }
}

/// A message that came in.
#[derive(Debug)]
pub struct Incoming {
    bus: Bus,
    /// What it came on; `None` when that is no subject of ours.
    pub subject: Option<Subject>,
    /// Its bytes, not to be trusted.
    pub payload: Bytes,
    message: Message,
}

impl Incoming {
    pub(crate) fn new(bus: Bus, message: Message) -> Self {
        let subject = Subject::parse(bus.root(), &message.subject);
        Self { bus, subject, payload: message.payload.clone(), message }
    }

    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(|value| value.as_str())
    }

    /// The subject as it came, for a line in the log.
    pub fn subject_text(&self) -> &str {
        &self.message.subject
    }

    /// Whether an answer is wanted.
    pub fn wants_answer(&self) -> bool {
        self.message.reply.is_some()
    }

    /// Who asks, by the inbox that the answer is wanted in: `None` for anything that is no inbox of ours.
    /// The server lets nobody else listen there, so a lie only sends the answer to somebody else.
    pub fn asker(&self) -> Option<(Role, UserName)> {
        asker(self.message.reply.as_deref()?)
    }

    /// Answers, if the asker is who `allowed` says and wants it in its own inbox; else stays silent and says
    /// so in the log. NATS does not check that an asker may publish on the subject it wants the answer on,
    /// so an answer to an unchecked subject would lend it our rights.
    pub async fn answer<T: Serialize>(
        &self,
        allowed: impl FnOnce(Role, &UserName) -> bool,
        answer: &T,
    ) {
        let Some(reply) = self.message.reply.clone() else {
            debug!(subject = %self.message.subject, "nobody waits for an answer");
            return;
        };
        match asker(&reply) {
            Some((role, user)) if allowed(role, &user) => {
                let payload = codec::encode(answer).into();
                if let Err(error) =
                    self.bus.publish_bytes(reply.to_string(), headers(), payload).await
                {
                    warn!(subject = %self.message.subject, %error, "an answer was not sent; the asker will ask again");
                }
            }
            _ => warn!(
                subject = %self.message.subject, %reply,
                "an answer was wanted on a subject that is not the asker's inbox, and was withheld"
            ),
        }
    }
}

/// Reads `_INBOX.<role>.<name>.<anything>`, and `_R_.<anything>`, which the server puts in the place of the
/// inbox of an observer that asks from its own account.
pub(crate) fn asker(reply: &str) -> Option<(Role, UserName)> {
    if reply.starts_with("_R_.") {
        return "imported".parse().ok().map(|user| (Role::Observer, user));
    }
    let mut tokens = reply.split('.');
    if tokens.next() != Some("_INBOX") {
        return None;
    }
    let role_token = tokens.next()?;
    let role = Role::ALL.into_iter().find(|role| role.as_str() == role_token)?;
    let user: UserName = tokens.next()?.parse().ok()?;
    let rest = reply.strip_prefix(&inbox_prefix(role, &user))?.strip_prefix('.')?;
    (!rest.is_empty() && !rest.contains(['*', '>', ' '])).then_some((role, user))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_inboxes_of_ours_have_an_asker() {
        assert_eq!(asker("_INBOX.worker.w1.abc.1"), Some((Role::Worker, "w1".parse().unwrap())));
        for reply in [
            "longshore.v1.log",
            "$JS.API.STREAM.PURGE.longshore-log",
            "_INBOX.abc",
            "_INBOX.worker.w1",
            "_INBOX.worker.w1.",
            "_INBOX.root.w1.x",
            "_INBOX.worker.w1.>",
        ] {
            assert_eq!(asker(reply), None, "{reply}");
        }
    }
}
