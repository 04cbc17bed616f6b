//! A client that notices what the server refuses it.
//!
//! A refused publish is silence to its sender, but for an error that the server tells the connection. The
//! server answers in order, so a subject that nobody may use, tried last, says when everything was judged.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerError};
use bytes::Bytes;
use longshore_proto::permission::{Role, inbox_prefix};
use longshore_tests::users::Users;
use tokio::sync::mpsc;

/// A subject that nobody may publish on or subscribe to.
const CANARY: &str = "canary.nobody.may";
/// How many subjects are tried at once: the client drops what it is told faster than it passes on.
const TRIED_AT_ONCE: usize = 16;
/// How long the server may take to judge.
const DEADLINE: Duration = Duration::from_secs(20);

/// A user's bare connection.
pub(crate) struct Probe {
    pub(crate) client: Client,
    refusals: mpsc::UnboundedReceiver<String>,
}

/// What may be tried on a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Publish,
    Subscribe,
}

impl Probe {
    /// Connects as a user, without any of Longshore's own care.
    pub(crate) async fn connect(url: &str, users: &Users, role: Role, name: &str) -> Self {
        let (sender, refusals) = mpsc::unbounded_channel();
        let client = ConnectOptions::new()
            .nkey(users.credentials(role, name).nkey_seed.reveal().to_owned())
            .custom_inbox_prefix(inbox_prefix(role, &name.parse().unwrap()))
            .event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(text)) = event {
                    // Gone when the test has ended.
                    let _ = sender.send(text.to_lowercase());
                }
                std::future::ready(())
            })
            .connect(url)
            .await
            .unwrap();
        Self { client, refusals }
    }

    /// Tries subjects, and gives those that the server refused.
    pub(crate) async fn refused(&mut self, act: Act, subjects: &[&str]) -> BTreeSet<String> {
        let mut refused = BTreeSet::new();
        for subjects in subjects.chunks(TRIED_AT_ONCE) {
            let mut subscriptions = Vec::new();
            for subject in subjects {
                match act {
                    Act::Publish => self.publish(subject).await,
                    Act::Subscribe => {
                        let subject = (*subject).to_owned();
                        subscriptions.push(self.client.subscribe(subject).await.unwrap());
                    }
                }
            }
            refused.extend(self.judged().await);
        }
        refused
    }

    /// What the server refused of everything so far: the subjects, or reply subjects.
    pub(crate) async fn judged(&mut self) -> BTreeSet<String> {
        self.publish(CANARY).await;
        self.client.flush().await.unwrap();
        let mut refused = BTreeSet::new();
        loop {
            let next = tokio::time::timeout(DEADLINE, self.refusals.recv()).await;
            let Ok(Some(text)) = next else { panic!("the server does not judge even the canary") };
            let subject = text.split('"').nth(1);
            let Some(subject) = subject.filter(|_| text.contains("permissions violation")) else {
                panic!("the server says something else: {text}")
            };
            if subject == CANARY {
                return refused;
            }
            refused.insert(subject.to_owned());
        }
    }

    async fn publish(&self, subject: &str) {
        self.client.publish(subject.to_owned(), Bytes::from_static(b"x")).await.unwrap();
    }

    /// Tries to publish with a reply subject; true when the server let it through.
    pub(crate) async fn publishes_with_reply(
        &mut self,
        subject: &str,
        reply: &str,
        payload: &[u8],
    ) -> bool {
        self.client
            .publish_with_reply(
                subject.to_owned(),
                reply.to_owned(),
                Bytes::copy_from_slice(payload),
            )
            .await
            .unwrap();
        let refused = self.judged().await;
        !refused.contains(&subject.to_lowercase()) && !refused.contains(&reply.to_lowercase())
    }
}
