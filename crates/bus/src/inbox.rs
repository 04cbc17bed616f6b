//! The one inbox of a connection, in which all its questions are answered.
//!
//! A subscription for each question costs the server as much as the question does, twice: when it comes and when it goes,
//! since what the server remembers of who listens to what is worth nothing then. So there is one for all, and each
//! question has a token in it, which nobody else can guess. A question that is given up leaves nothing behind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Message, SubscribeError};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// An inbox; nobody listens to it any more once it is dropped.
#[derive(Debug)]
pub(crate) struct Inbox {
    prefix: String,
    waiting: Arc<Waiting>,
    reader: JoinHandle<()>,
}

/// Questions that wait for their answers, by their tokens.
#[derive(Debug, Default)]
struct Waiting(Mutex<HashMap<u64, oneshot::Sender<Message>>>);

/// The place of one question's answer.
#[derive(Debug)]
pub(crate) struct Place {
    token: u64,
    waiting: Arc<Waiting>,
    answer: oneshot::Receiver<Message>,
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Message>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands an answer to whoever waits for it. An answer that comes twice, or too late, is nobody's.
    fn hand(&self, prefix: &str, answer: Message) {
        let token = answer.subject.strip_prefix(prefix);
        let Some(token) = token.and_then(|token| u64::from_str_radix(token, 16).ok()) else {
            return;
        };
        let asker = self.lock().remove(&token);
        if let Some(asker) = asker {
            // Who has given up meanwhile needs no answer.
            let _ = asker.send(answer);
        }
    }
}

impl Inbox {
    /// Begins to listen.
    pub(crate) async fn open(client: &Client) -> Result<Self, SubscribeError> {
        let prefix = format!("{}.", client.new_inbox());
        let mut answers = client.subscribe(format!("{prefix}*")).await?;
        let waiting = Arc::new(Waiting::default());
        let (known, own) = (prefix.clone(), Arc::clone(&waiting));
        let reader = tokio::spawn(async move {
            while let Some(answer) = answers.next().await {
                own.hand(&known, answer);
            }
            // The connection is closed for good: nobody waits in vain.
            own.lock().clear();
        });
        Ok(Self { prefix, waiting, reader })
    }

    /// A place for an answer, and the subject that leads there.
    pub(crate) fn place(&self) -> (String, Place) {
        let (sender, answer) = oneshot::channel();
        let token = rand::random::<u64>();
        self.waiting.lock().insert(token, sender);
        let place = Place { token, waiting: Arc::clone(&self.waiting), answer };
        (format!("{}{token:016x}", self.prefix), place)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Place {
    /// Waits for the answer; `None` when the connection is closed for good.
    pub(crate) async fn answer(mut self) -> Option<Message> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An inbox that no server knows of.
    fn unheard() -> Inbox {
        let reader = tokio::spawn(std::future::pending());
        Inbox { prefix: "inbox.".into(), waiting: Arc::default(), reader }
    }

    fn hand(inbox: &Inbox, subject: &str, payload: &'static str) {
        let answer = Message {
            subject: subject.into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length: payload.len(),
        };
        inbox.waiting.hand(&inbox.prefix, answer);
    }

    #[tokio::test]
    async fn each_question_gets_its_own_answer_and_only_the_first() {
        let inbox = unheard();
        let ((first, one), (second, two)) = (inbox.place(), inbox.place());
        hand(&inbox, &second, "two");
        hand(&inbox, &second, "two, once more");
        hand(&inbox, "inbox.no-token", "nobody's");
        hand(&inbox, &first, "one");
        assert_eq!(one.answer().await.unwrap().payload, "one");
        assert_eq!(two.answer().await.unwrap().payload, "two");
    }

    #[tokio::test]
    async fn a_question_that_is_given_up_leaves_nothing_behind() {
        let inbox = unheard();
        let (subject, place) = inbox.place();
        assert_eq!(inbox.waiting.lock().len(), 1);
        drop(place);
        assert!(inbox.waiting.lock().is_empty());
        hand(&inbox, &subject, "too late");
        let (_, place) = inbox.place();
        inbox.waiting.lock().clear();
        assert!(place.answer().await.is_none(), "the connection is closed");
    }
}
