//! The server's configuration, made from the commented example of this repository.

use std::path::Path;

use crate::failure::Failure;

/// The example: `nats/server.conf`.
const TEMPLATE: &str = include_str!("../../../../nats/server.conf");

/// What the example leaves to whoever uses it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServerConf<'a> {
    /// Where the server listens, as `HOST:PORT`.
    pub(crate) listen: &'a str,
    /// Where JetStream keeps its streams.
    pub(crate) store: &'a Path,
    /// Where the server can be looked at, as `HOST:PORT`, if it is to be: anybody who reaches it may, and two
    /// servers of one machine would fight for one port.
    pub(crate) monitor: Option<&'a str>,
}

impl ServerConf<'_> {
    /// The configuration's text.
    pub(crate) fn text(&self) -> Result<String, Failure> {
        let store = self.store.to_str().ok_or_else(|| {
            Failure::new(format!(
                "the folder {} cannot be written in a configuration",
                self.store.display()
            ))
            .hint("choose one whose name is UTF-8")
        })?;
        let mut text = String::with_capacity(TEMPLATE.len() + store.len());
        for line in TEMPLATE.lines() {
            let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
            let line = match rest.split_once(':').map(|(key, _)| key) {
                Some("listen") => format!("listen: {}", quoted(self.listen)),
                Some("store_dir") => format!("store_dir: {}", quoted(store)),
                Some("http") => match self.monitor {
                    Some(address) => format!("http: {}", quoted(address)),
                    None => format!("# {rest}"),
                },
                _ => rest.to_owned(),
            };
            text.push_str(indent);
            text.push_str(&line);
            text.push('\n');
        }
        Ok(text)
    }
}

/// A text in the configuration's quotes.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    format!("\"{}\"", escaped.replace('\r', r"\r").replace('\t', r"\t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(listen: &str, store: &str, monitor: Option<&str>) -> String {
        ServerConf { listen, store: Path::new(store), monitor }.text().unwrap()
    }

    #[test]
    fn the_example_is_its_own_text() {
        assert_eq!(
            text("127.0.0.1:4222", "/var/lib/longshore/nats", Some("127.0.0.1:8222")),
            TEMPLATE
        );
    }

    #[test]
    fn each_place_is_filled_once_and_nothing_else_changes() {
        let made = text("10.0.0.1:4333", "/data/js", None);
        let changed: Vec<&str> = made
            .lines()
            .zip(TEMPLATE.lines())
            .filter(|(now, before)| now != before)
            .map(|(now, _)| now)
            .collect();
        assert_eq!(
            changed,
            [
                "listen: \"10.0.0.1:4333\"",
                "  store_dir: \"/data/js\"",
                "# http: \"127.0.0.1:8222\""
            ]
        );
        assert_eq!(made.lines().count(), TEMPLATE.lines().count());
    }

    #[test]
    fn quotes_hold() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\n""#);
    }
}
