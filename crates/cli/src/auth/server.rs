//! The server's configuration, made from the commented examples of this repository.

use std::path::Path;

use longshore_proto::name::UserName;

use crate::failure::Failure;

/// The example of a server: `nats/server.conf`.
const TEMPLATE: &str = include_str!("../../../../nats/server.conf");
/// The example of what makes it one of several: `nats/cluster.conf`.
const CLUSTER_TEMPLATE: &str = include_str!("../../../../nats/cluster.conf");

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
    /// What makes it one of several.
    pub(crate) membership: Option<Membership<'a>>,
}

/// What makes a server one of several.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Membership<'a> {
    /// The server's own name.
    pub(crate) name: &'a UserName,
    /// Where the others reach it, as `HOST:PORT`.
    pub(crate) listen: &'a str,
    /// Where each of them is reached, as `HOST:PORT`.
    pub(crate) routes: &'a [String],
    /// By which they know each other: letters and digits.
    pub(crate) password: &'a str,
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
        let mut text = filled(TEMPLATE, |key, rest| match key {
            "server_name" => self.membership.map(|member| format!("server_name: {}", member.name)),
            "listen" => Some(format!("listen: {}", quoted(self.listen))),
            "store_dir" => Some(format!("store_dir: {}", quoted(store))),
            "http" => Some(match self.monitor {
                Some(address) => format!("http: {}", quoted(address)),
                None => format!("# {rest}"),
            }),
            _ => None,
        });
        if let Some(member) = self.membership {
            text.push_str(&member.text());
        }
        Ok(text)
    }
}

impl Membership<'_> {
    fn text(&self) -> String {
        let password = self.password;
        filled(CLUSTER_TEMPLATE, |key, _| match key {
            "listen" => Some(format!("listen: {}", quoted(self.listen))),
            "authorization { user" => Some(format!(
                "authorization {{ user: \"route\", password: {}, timeout: 2 }}",
                quoted(password)
            )),
            "\"nats" => {
                let routes = self.routes.iter();
                let routes = routes.map(|at| quoted(&format!("nats://route:{password}@{at}")));
                Some(routes.collect::<Vec<_>>().join("\n    "))
            }
            _ => None,
        })
    }
}

/// A template with other lines in place of some: those of the keys that are known.
fn filled(template: &str, instead: impl Fn(&str, &str) -> Option<String>) -> String {
    let mut text = String::with_capacity(2 * template.len());
    for line in template.lines() {
        let (indent, rest) = line.split_at(line.len() - line.trim_start().len());
        let other = rest.split_once(':').and_then(|(key, _)| instead(key, rest));
        text.push_str(indent);
        text.push_str(other.as_deref().unwrap_or(rest));
        text.push('\n');
    }
    text
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
        ServerConf { listen, store: Path::new(store), monitor, membership: None }.text().unwrap()
    }

    /// The lines of a text that another does not have at the same place.
    fn changed<'a>(text: &'a str, example: &str) -> Vec<&'a str> {
        let pairs = text.lines().zip(example.lines());
        pairs.filter(|(now, before)| now != before).map(|(now, _)| now).collect()
    }

    #[test]
    fn the_example_is_its_own_text() {
        assert_eq!(
            text("127.0.0.1:4222", "/var/lib/longshore/nats", Some("127.0.0.1:8222")),
            TEMPLATE
        );
        let member = Membership {
            name: &"a".parse().unwrap(),
            listen: "127.0.0.1:6222",
            routes: &["127.0.0.1:6222".to_owned()],
            password: "a-word-of-your-own",
        };
        assert_eq!(member.text(), CLUSTER_TEMPLATE);
    }

    #[test]
    fn each_place_is_filled_once_and_nothing_else_changes() {
        let made = text("10.0.0.1:4333", "/data/js", None);
        assert_eq!(
            changed(&made, TEMPLATE),
            [
                "listen: \"10.0.0.1:4333\"",
                "  store_dir: \"/data/js\"",
                "# http: \"127.0.0.1:8222\""
            ]
        );
        assert_eq!(made.lines().count(), TEMPLATE.lines().count());
    }

    #[test]
    fn one_of_several_has_a_name_and_knows_the_others() {
        let routes = ["10.0.0.1:6222", "10.0.0.2:6222", "10.0.0.3:6222"].map(str::to_owned);
        let membership = Membership {
            name: &"b".parse().unwrap(),
            listen: "10.0.0.2:6222",
            routes: &routes,
            password: "secret",
        };
        let conf = ServerConf {
            listen: "10.0.0.2:4222",
            store: Path::new("/data/js"),
            monitor: None,
            membership: Some(membership),
        };
        let made = conf.text().unwrap();
        let (server, cluster) = made.split_at(made.len() - membership.text().len());
        assert_eq!(
            changed(server, TEMPLATE),
            [
                "server_name: b",
                "listen: \"10.0.0.2:4222\"",
                "  store_dir: \"/data/js\"",
                "# http: \"127.0.0.1:8222\""
            ]
        );
        for line in [
            "  listen: \"10.0.0.2:6222\"",
            "  authorization { user: \"route\", password: \"secret\", timeout: 2 }",
            "    \"nats://route:secret@10.0.0.3:6222\"",
        ] {
            assert_eq!(cluster.lines().filter(|other| *other == line).count(), 1, "{line}");
        }
    }

    #[test]
    fn quotes_hold() {
        assert_eq!(quoted("a\"b\\c\n"), r#""a\"b\\c\n""#);
    }
}
