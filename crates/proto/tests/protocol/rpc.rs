//! What streams between a worker and a person.

use std::collections::BTreeMap;

use longshore_proto::id::{SessionId, TaskId};
use longshore_proto::name::{Root, UserName};
use longshore_proto::rpc::{
    Chunk, ChunkBody, CopyFromRequest, CopyToRequest, Credit, ExecRequest, FileKind, FileStat,
    ForwardRequest, Input, InputBody, LogsRequest, TerminalSize,
};
use longshore_proto::subject::{RpcVerb, Subject};
use uuid::Uuid;

use crate::Examples;
use crate::samples::uuid;

pub(crate) fn rpc(examples: &mut Examples) {
    let root = Root::standard();
    let title = |verb: RpcVerb| {
        let subject = Subject::Rpc { node: "n1".parse().unwrap(), verb }.text(&root);
        format!("{} (`{subject}`)", verb.as_str())
    };
    let session = SessionId(Uuid::from_u128(0x936d_a01f_9abd_4d9d_80c7_02af_85c8_22a8));
    examples.heading(&title(RpcVerb::Logs));
    let request = LogsRequest {
        user: "alice".parse().unwrap(),
        session,
        task: TaskId(uuid(7)),
        follow: true,
        tail: Some(10),
        since_ms: Some(1_763_800_000_000),
        timestamps: false,
    };
    examples.message("Request (answered by the stream):", &request);
    examples.heading(&title(RpcVerb::Exec));
    let exec = ExecRequest {
        user: "alice".parse().unwrap(),
        session: SessionId(uuid(9)),
        task: TaskId(uuid(7)),
        command: vec!["sh".into(), "-l".into()],
        env: BTreeMap::from([("TERM".to_owned(), "xterm".to_owned())]),
        run_as: Some("root".into()),
        working_dir: Some("/tmp".into()),
        terminal: Some(TerminalSize { columns: 80, rows: 24 }),
        stdin: true,
    };
    examples.message("Request (the answer is a stream of chunks):", &exec);
    let taken = Chunk { sequence: 2, body: ChunkBody::Taken(1) };
    examples.message("A chunk that says which input has been taken:", &taken);
    let exit = Chunk { sequence: 3, body: ChunkBody::Exit(0) };
    examples.message("The chunk before the last:", &exit);

    examples.heading(&title(RpcVerb::CopyFrom));
    let (user, task): (UserName, _) = ("alice".parse().unwrap(), TaskId(uuid(7)));
    let copy = CopyFromRequest {
        user: user.clone(),
        session,
        task,
        path: "/etc/hosts".into(),
        follow_link: true,
    };
    examples.message("Request (the answer is a stream of chunks):", &copy);
    let found = FileStat { path: "/etc/hosts".into(), kind: FileKind::File, size_bytes: 174 };
    let found = Chunk { sequence: 1, body: ChunkBody::Found(Some(found)) };
    examples.message("The first chunk; the bytes of a tar archive follow:", &found);

    examples.heading(&title(RpcVerb::CopyTo));
    let copy = CopyToRequest { user: user.clone(), session, task, path: "/srv/new".into() };
    examples.message("Request (the answer is a stream of chunks):", &copy);
    let found = Chunk { sequence: 1, body: ChunkBody::Found(None) };
    examples.message("The first chunk, where nothing has that path yet:", &found);

    examples.heading(&title(RpcVerb::Forward));
    examples.message(
        "Request (the answer is a stream of chunks):",
        &ForwardRequest { user, session, task, port: 80 },
    );
    let end = Chunk { sequence: 4, body: ChunkBody::OutputEnd };
    examples.message("The task writes no more:", &end);

    examples.heading(&title(RpcVerb::Input));
    let input = |sequence, body| Input { session: SessionId(uuid(9)), sequence, body };
    examples.message("Bytes:", &input(1, InputBody::Bytes(b"ls\r".to_vec())));
    let size = TerminalSize { columns: 120, rows: 40 };
    examples.message("Another size of the terminal:", &input(2, InputBody::Size(size)));
    examples.message("The end of the input:", &input(3, InputBody::End));

    examples.heading(&title(RpcVerb::Credit));
    examples.message("Payload (no answer):", &Credit { session, sequence: 32, end: false });
    let out = Subject::Out { node: "n1".parse().unwrap(), user: "alice".parse().unwrap(), session };
    examples.heading(&format!("chunks (`{}`)", out.text(&root)));
    examples
        .message("Output:", &Chunk { sequence: 1, body: ChunkBody::Stdout(b"hello\n".to_vec()) });
    examples.message("The end:", &Chunk { sequence: 2, body: ChunkBody::End });
}
