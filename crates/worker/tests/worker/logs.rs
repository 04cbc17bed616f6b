//! What containers write, as an operator reads it over NATS.

use std::time::Duration;

use futures_util::StreamExt;
use longshore_bus::{Bus, Subscription};
use longshore_proto::codec;
use longshore_proto::error::ErrorCode;
use longshore_proto::id::{SessionId, TaskId};
use longshore_proto::name::{NodeName, UserName};
use longshore_proto::permission::Role;
use longshore_proto::rpc::{CHUNK_BYTES_MAX, Chunk, ChunkBody, Credit, LogsRequest, WINDOW_CHUNKS};
use longshore_proto::spec::RestartMode;
use longshore_proto::state::TaskState;
use longshore_proto::subject::{Pattern, RpcVerb, Subject};
use longshore_worker::OnShutdown;
use uuid::Uuid;

use crate::leader::{DEADLINE, Leader, Node, Server};

#[tokio::test(flavor = "multi_thread")]
async fn logs_stream_with_credit_across_attempts() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let script = "echo attempt $LONGSHORE_ATTEMPT; [ $LONGSHORE_ATTEMPT = 2 ]";
    let task = leader.run(script, RestartMode::OnFailure).await;
    leader.reported(task, 1, TaskState::Running).await;
    let (chunks, end) = read_logs(&server, &node.name, task, true).await;
    assert!(chunks.ends_with("attempt 2\n"), "{chunks:?}");
    assert_eq!(end, ChunkBody::End);
    leader.reported(task, 2, TaskState::Completed).await;
    let (chunks, _) = read_logs(&server, &node.name, task, false).await;
    assert_eq!(chunks, "attempt 2\n", "the newest ended container is kept");

    let (_, end) = read_logs(&server, &node.name, TaskId(Uuid::now_v7()), false).await;
    assert!(
        matches!(&end, ChunkBody::Failed(error) if error.code == ErrorCode::NotFound),
        "{end:?}"
    );

    let loud = leader
        .run(
            "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done",
            RestartMode::Never,
        )
        .await;
    leader.reported(loud, 1, TaskState::Completed).await;
    let (chunks, _) = read_logs(&server, &node.name, loud, false).await;
    assert_eq!(chunks.lines().count(), 20_000);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_does_not_credit_gets_one_window() {
    let (server, node) = (Server::start(), Node::new());
    let leader = Leader::start(&server, node.name.clone()).await;
    let worker = node.start(&server, OnShutdown::Keep);
    let bytes = 3_000_000;
    // Lines long enough for full chunks.
    let script = format!("yes $(head -c 1000 /dev/zero | tr '\\0' x) | head -c {bytes}");
    let task = leader.run(&script, RestartMode::Never).await;
    leader.reported(task, 1, TaskState::Completed).await;
    let (bus, mut out, session) = ask_logs(&server, &node.name, task, false).await;
    let (mut taken, mut sequence) = (0, 0);
    loop {
        // Long enough for a worker that would go on; one that waits sends nothing however long it is.
        let wait = if sequence < WINDOW_CHUNKS { DEADLINE } else { Duration::from_millis(300) };
        let Ok(incoming) = tokio::time::timeout(wait, out.next()).await else { break };
        let chunk: Chunk = codec::decode(&incoming.unwrap().payload).unwrap();
        sequence = chunk.sequence;
        let ChunkBody::Stdout(piece) = chunk.body else { panic!("{:?}", chunk.body) };
        assert!(piece.len() <= CHUNK_BYTES_MAX);
        taken += piece.len();
    }
    assert_eq!(sequence, WINDOW_CHUNKS);
    while taken < bytes {
        let credit = Credit { session, sequence, end: false };
        let subject = Subject::Rpc { node: node.name.clone(), verb: RpcVerb::Credit };
        bus.publish(&subject, &credit).await.unwrap();
        let incoming = tokio::time::timeout(DEADLINE, out.next()).await.unwrap().unwrap();
        let chunk: Chunk = codec::decode(&incoming.payload).unwrap();
        sequence = chunk.sequence;
        let ChunkBody::Stdout(piece) = chunk.body else { panic!("{:?}", chunk.body) };
        taken += piece.len();
    }
    assert_eq!(taken, bytes);
    worker.end().await;
}

/// Asks for a stream as an operator does.
async fn ask_logs(
    server: &Server,
    node: &NodeName,
    task: TaskId,
    follow: bool,
) -> (Bus, Subscription, SessionId) {
    let bus = Bus::connect(server.options(Role::Operator, "alice")).await.unwrap();
    let user: UserName = "alice".parse().unwrap();
    let session = SessionId(Uuid::new_v4());
    let out =
        bus.subscribe(&Pattern::OutSession(node.clone(), user.clone(), session)).await.unwrap();
    let request =
        LogsRequest { user, session, task, follow, tail: None, since_ms: None, timestamps: false };
    bus.publish(&Subject::Rpc { node: node.clone(), verb: RpcVerb::Logs }, &request).await.unwrap();
    (bus, out, session)
}

/// Reads a stream as an operator does.
async fn read_logs(
    server: &Server,
    node: &NodeName,
    task: TaskId,
    follow: bool,
) -> (String, ChunkBody) {
    let (bus, mut out, session) = ask_logs(server, node, task, follow).await;
    let (mut text, mut wanted) = (String::new(), 1);
    loop {
        let incoming = tokio::time::timeout(DEADLINE, out.next()).await.unwrap().unwrap();
        let chunk: Chunk = codec::decode(&incoming.payload).unwrap();
        assert_eq!(chunk.sequence, wanted, "no gap");
        wanted += 1;
        match chunk.body {
            ChunkBody::Stdout(bytes) | ChunkBody::Stderr(bytes) => {
                text.push_str(&String::from_utf8(bytes).unwrap())
            }
            end => return (text, end),
        }
        let credit = Credit { session, sequence: chunk.sequence, end: false };
        bus.publish(&Subject::Rpc { node: node.clone(), verb: RpcVerb::Credit }, &credit)
            .await
            .unwrap();
    }
}
