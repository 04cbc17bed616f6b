//! Keeps `docs/job.md` and `docs/job.schema.json` to what is really read.

use std::collections::BTreeSet;

use longshore_proto::name::Namespace;
use serde_json::Value;

use super::{Language, read};

const PAGE: &str = include_str!("../../../../docs/job.md");
const SCHEMA: &str = include_str!("../../../../docs/job.schema.json");

/// The fields that the reader knows, as it lists them when it meets one that it does not know.
fn known(text: &str) -> BTreeSet<String> {
    let failure = read(text, Language::Toml, &Namespace::standard()).unwrap_err();
    let text = failure.told().unwrap().0.to_owned();
    let (_, list) = text.split_once("expected one of ").unwrap_or_else(|| panic!("{text}"));
    list.split(", ").map(|name| name.trim().trim_matches('`').to_owned()).collect()
}

fn schema_fields(pointer: &str) -> BTreeSet<String> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let properties = schema.pointer(pointer).and_then(|object| object.get("properties")).unwrap();
    properties.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_and_the_page_have_every_field_and_no_other() {
    for (text, pointer) in [
        ("x = 1", ""),
        ("name = \"a\"\ntask = [{ x = 1 }]", "/$defs/task"),
        ("name = \"a\"\ntask = [{ restart = { x = 1 } }]", "/$defs/restart"),
        ("name = \"a\"\ntask = [{ reschedule = { x = 1 } }]", "/$defs/reschedule"),
    ] {
        let known = known(text);
        assert_eq!(known, schema_fields(pointer), "{pointer}");
        for name in &known {
            assert!(PAGE.contains(&format!("| `{name}` |")), "docs/job.md has no `{name}`");
        }
    }
}

#[test]
fn the_example_on_the_page_is_accepted() {
    let (_, rest) = PAGE.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let job = read(example, Language::Toml, &Namespace::standard()).unwrap();
    assert_eq!(job.specs[0].instances, 3);
}
