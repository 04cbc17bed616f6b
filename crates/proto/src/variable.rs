//! Variables in a task's texts, `${node.name}`, filled in on the node where the task runs.
//!
//! A name with a dot that begins with one of our words is ours; everything else (`${HOME}` in a shell's command) is
//! left as it is. `$${` stands for `${`, where one of ours is meant literally.

use std::borrow::Cow;

/// The words that our variables begin with.
const GROUPS: [&str; 4] = ["node", "task", "job", "port"];
/// Every variable but the ports and the node's labels, which have names of their own.
const FIXED: [&str; 11] = [
    "node.name",
    "node.datacenter",
    "task.id",
    "task.index",
    "task.attempt",
    "task.epoch",
    "task.name",
    "job.name",
    "job.namespace",
    "job.version",
    "node.label.",
];

/// Why a text cannot be filled in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// A variable that is none.
    #[error("there is no variable ${{{0}}}")]
    Unknown(String),
    /// A variable that is not closed.
    #[error("${{{0} has no closing brace")]
    Open(String),
}

/// A piece of a text.
enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// Whether a name is one of ours, whatever its value.
pub fn is_known(name: &str) -> bool {
    FIXED.contains(&name) && !name.ends_with('.')
        || name.strip_prefix("port.").is_some_and(|rest| !rest.is_empty())
        || name.strip_prefix("node.label.").is_some_and(|rest| !rest.is_empty())
}

/// Fills a text in. `value` gives what a variable stands for; `None` means that there is none of this name.
///
/// # Errors
/// When a variable of ours has no value, or is not closed.
pub fn fill_in<'a>(
    text: &'a str,
    mut value: impl FnMut(&str) -> Option<String>,
) -> Result<Cow<'a, str>, VariableError> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut filled = String::with_capacity(text.len());
    pieces(text, |piece| {
        match piece {
            Piece::Text(text) => filled.push_str(text),
            Piece::Variable(name) => match value(name) {
                Some(value) => filled.push_str(&value),
                None => return Err(VariableError::Unknown(name.to_owned())),
            },
        }
        Ok(())
    })?;
    Ok(Cow::Owned(filled))
}

/// Cuts a text into pieces.
fn pieces<'a>(
    text: &'a str,
    mut each: impl FnMut(Piece<'a>) -> Result<(), VariableError>,
) -> Result<(), VariableError> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        if let Some(before) = before.strip_suffix('$') {
            each(Piece::Text(before))?;
            each(Piece::Text("${"))?;
            rest = after;
            continue;
        }
        each(Piece::Text(before))?;
        let is_ours = after.split_once('.').is_some_and(|(group, _)| GROUPS.contains(&group));
        if !is_ours {
            each(Piece::Text("${"))?;
            rest = after;
            continue;
        }
        let Some((name, after)) = after.split_once('}') else {
            return Err(VariableError::Open(after.chars().take(20).collect()));
        };
        each(Piece::Variable(name))?;
        rest = after;
    }
    each(Piece::Text(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, VariableError> {
        fill_in(text, |name| (name == "node.name").then(|| "n1".to_owned())).map(Cow::into_owned)
    }

    #[test]
    fn ours_are_filled_in_and_a_shells_own_are_left() {
        assert_eq!(filled("on ${node.name}, twice ${node.name}").unwrap(), "on n1, twice n1");
        for text in ["", "plain", "$HOME", "${HOME}", "${x.y}", "${HOME:-${a}}", "a ${", "${}"] {
            assert_eq!(filled(text).unwrap(), text);
        }
        assert_eq!(filled("$${node.name}").unwrap(), "${node.name}");
        assert_eq!(filled("$${node.name}${node.name}").unwrap(), "${node.name}n1");
    }

    #[test]
    fn what_is_ours_and_cannot_be_filled_in_is_refused() {
        assert_eq!(filled("${node.nmae}"), Err(VariableError::Unknown("node.nmae".into())));
        assert!(matches!(filled("${node.name"), Err(VariableError::Open(_))));
    }

    #[test]
    fn known_names_are_known() {
        for name in ["node.name", "task.index", "port.web", "node.label.rack", "job.version"] {
            assert!(is_known(name), "{name}");
        }
        for name in ["node.label.", "port.", "task.slot", "HOME", "node"] {
            assert!(!is_known(name), "{name}");
        }
    }
}
