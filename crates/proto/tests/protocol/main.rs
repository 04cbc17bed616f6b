//! The examples of docs/protocol.md, made from the types and compared with the document: one for each message.
//! They are golden messages, too: when one changes, the wire has changed, and other versions must still read
//! it. `UPDATE_DOCS=1 cargo test -p longshore-proto --test protocol` writes them anew.

#![expect(clippy::unwrap_used, reason = "a failed example is a failed test")]

mod api;
mod events;
mod nodes;
mod plans;
mod rpc;
mod samples;

use std::fmt::Write as _;
use std::path::Path;

use longshore_proto::api::Answer;
use longshore_proto::codec::{decode, encode};
use longshore_proto::subject::ApiVerb;
use serde::Serialize;
use serde::de::DeserializeOwned;

const BEGIN: &str = "<!-- examples: begin -->";
const END: &str = "<!-- examples: end -->";

/// The document in the making.
struct Examples {
    text: String,
}

impl Examples {
    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "\n### {text}\n");
    }

    fn message<T>(&mut self, what: &str, message: &T)
    where
        T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        let bytes = encode(message);
        assert_eq!(&decode::<T>(&bytes).unwrap(), message, "{what} is read back");
        let json = serde_json::to_string(message).unwrap();
        let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let _ = writeln!(self.text, "{what}\n\n```json\n{json}\n```\n\n```msgpack\n{hex}\n```\n");
    }
}

fn ok<T>(value: T) -> Answer<T> {
    Answer::new(12, Ok(value))
}

#[test]
fn the_document_shows_every_message_as_it_is_on_the_wire() {
    let mut examples = Examples { text: String::new() };
    for (title, write) in [
        ("The api", api::api as fn(&mut Examples)),
        ("Plans", plans::plans),
        ("Events", events::events),
        ("Nodes", nodes::nodes),
        ("Streams from a worker", rpc::rpc),
    ] {
        let _ = writeln!(examples.text, "\n## Examples: {title}");
        write(&mut examples);
    }
    for verb in ApiVerb::ALL {
        assert!(
            examples.text.contains(&format!("### {} (", verb.as_str())),
            "{} has no example",
            verb.as_str()
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let (head, rest) =
        document.split_once(BEGIN).expect("the document has a place for the examples");
    let (present, tail) = rest.split_once(END).expect("the document has an end of the examples");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}\n{}{END}{tail}", examples.text)).unwrap();
        return;
    }
    for (shown, made) in present.trim().lines().zip(examples.text.trim().lines()) {
        assert_eq!(shown, made, "docs/protocol.md differs; UPDATE_DOCS=1 writes it anew");
    }
    assert_eq!(present.trim().lines().count(), examples.text.trim().lines().count());
}
