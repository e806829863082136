//! `traffic-editor`: sets, copies, concatenates, deletes and renames request headers, query parameters and response headers, perhaps
//! under conditions. Default phase, priority 100.
//!
//! The first conditional set whose conditions all hold replaces the default one. Difference from Higress: takes the field names of
//! its documents (`source` and `target` of rename, `substr`) besides those of its code (`newName`, `part`).

mod config;

use std::sync::Arc;

use async_trait::async_trait;
use pingora_http::ResponseHeader;

use self::config::{Command, Config, Piece, Place, Ref};
use super::bag::{self, Bag, RequestHeaders, ResponseHeaders};
use crate::config::model::Phase;
use crate::plugins::config::is_usable;
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "traffic-editor",
    phase: Phase::Unspecified,
    priority: 100,
    family: Family::Go,
    summary: "Edits request headers, query parameters and response headers by commands, under conditions",
    build,
    check: |scope| Config::read(scope).1,
};

struct TrafficEditor {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(TrafficEditor { config }))) } else { Err(problems) }
}

/// What is left to do to the answer, with everything the request had to say in place.
#[derive(Clone, Default)]
struct Pending(Vec<Command>);

#[async_trait]
impl Plugin for TrafficEditor {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let Some(set) = self.config.effective(|target| values(request, target)) else { return Flow::Continue };
        let mut pending = Pending::default();
        let mut is_changed = false;
        for command in &set.commands {
            if command.target().place == Place::ResponseHeader {
                pending.0.extend(settled(request, command));
            } else {
                run(command, &mut On(request));
                is_changed = true;
            }
        }
        request.state.reroute |= is_changed && !set.disable_reroute;
        request.state.notes.insert(pending);
        Flow::Continue
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        let Some(Pending(commands)) = request.state.notes.remove::<Pending>() else { return };
        for command in commands {
            run(&command, &mut ResponseHeaders(response));
        }
    }
}

/// The request's side of [`Place`], as one bag: names carry where they belong.
struct On<'a, 'r>(&'a mut Request<'r>);

/// Where a command reads and writes.
trait Fields {
    fn get(&self, target: &Ref) -> Vec<String>;
    fn put(&mut self, target: &Ref, values: &[String]);
}

impl Fields for On<'_, '_> {
    fn get(&self, target: &Ref) -> Vec<String> {
        values(self.0, target)
    }

    fn put(&mut self, target: &Ref, values: &[String]) {
        if target.place == Place::RequestQuery {
            let mut query = bag::query(self.0);
            query.replace(&target.name, values);
            bag::set_query(self.0, &query);
        } else {
            RequestHeaders(self.0).set(&target.name, values);
        }
    }
}

impl Fields for ResponseHeaders<'_> {
    fn get(&self, target: &Ref) -> Vec<String> {
        self.values(&target.name)
    }

    fn put(&mut self, target: &Ref, values: &[String]) {
        self.set(&target.name, values);
    }
}

/// Values of a request header or query parameter.
fn values(request: &Request<'_>, target: &Ref) -> Vec<String> {
    match target.place {
        Place::RequestQuery => bag::query(request).get(&target.name).to_vec(),
        _ => bag::header_values(request, &target.name),
    }
}

/// Does `command` where its target is.
fn run(command: &Command, on: &mut dyn Fields) {
    match command {
        Command::Set { target, value } => on.put(target, std::slice::from_ref(value)),
        Command::Concat { target, pieces } => {
            let mut text = String::new();
            for piece in pieces {
                match piece {
                    Piece::Text(own) => text.push_str(own),
                    Piece::Of(source) => text.push_str(&on.get(source).into_iter().next().unwrap_or_default()),
                }
            }
            on.put(target, &[text]);
        }
        Command::Copy { source, target } => {
            if let Some(value) = on.get(source).into_iter().next().filter(|value| !value.is_empty()) {
                on.put(target, &[value]);
            }
        }
        Command::Delete { target } => on.put(target, &[]),
        Command::Rename { target, new_name } if *new_name != target.name => {
            let values = on.get(target);
            on.put(&Ref { name: new_name.clone(), ..target.clone() }, &values);
            on.put(target, &[]);
        }
        Command::Rename { .. } => {}
    }
}

/// A command for the answer with what it takes from the request filled in, as the request is now. `None` if there is nothing to take.
fn settled(request: &Request<'_>, command: &Command) -> Option<Command> {
    let first = |source: &Ref| values(request, source).into_iter().next().unwrap_or_default();
    Some(match command {
        Command::Copy { source, target } if source.place != Place::ResponseHeader => {
            let value = Some(first(source)).filter(|value| !value.is_empty())?;
            Command::Set { target: target.clone(), value }
        }
        Command::Concat { target, pieces } => {
            let settle = |piece: &Piece| match piece {
                Piece::Of(source) if source.place != Place::ResponseHeader => Piece::Text(first(source)),
                piece => piece.clone(),
            };
            Command::Concat { target: target.clone(), pieces: pieces.iter().map(settle).collect() }
        }
        command => command.clone(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, answer, built, problem_fields};

    fn header(name: &str) -> Value {
        json!({"type": "request_header", "name": name})
    }

    fn query(name: &str) -> Value {
        json!({"type": "request_query", "name": name})
    }

    fn response(name: &str) -> Value {
        json!({"type": "response_header", "name": name})
    }

    #[test]
    fn commands_run_in_order_on_both_halves() {
        let plugin = built(
            &SPEC,
            &json!({"defaultConfig": {"commands": [
                {"type": "set", "target": header("X-User"), "value": "admin"},
                {"type": "copy", "source": header("x-user"), "target": query("u")},
                {"type": "copy", "source": query("id"), "target": response("x-id")},
                {"type": "copy", "source": query("none"), "target": response("x-none")},
                {"type": "delete", "target": query("id")},
                {"type": "rename", "target": header("x-old"), "newName": "x-new"},
                {"type": "rename", "source": response("x-up"), "target": response("x-down")},
                {"type": "concat", "target": response("x-sum"), "values": ["<", query("u"), "|", response("x-down"), ">"]},
                {"type": "delete", "target": response("server")},
            ]}}),
        );
        let mut exchange = Exchange::new("GET", "/?id=7", &[("x-old", "a"), ("x-old", "b")]);
        exchange.run(&plugin);
        assert_eq!(exchange.head.uri.to_string(), "/?u=admin");
        assert_eq!(
            (exchange.header("x-new"), exchange.header("x-old"), exchange.state.reroute),
            (Some("a"), None, true)
        );
        let got = exchange.answered(&plugin, answer(200, &[("server", "x"), ("x-up", "up")], ""));
        let got = &got.head.headers;
        assert_eq!(
            (&got["x-id"], &got["x-down"], &got["x-sum"]),
            (&"7".parse().unwrap(), &"up".parse().unwrap(), &"<admin|up>".parse().unwrap())
        );
        for absent in ["server", "x-up", "x-none"] {
            assert!(!got.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn the_first_set_whose_conditions_hold_is_used() {
        let set = |value: &str| json!([{"type": "set", "target": header("x-set"), "value": value}]);
        let plugin = built(
            &SPEC,
            &json!({
                "defaultConfig": {"commands": set("default"), "disableReroute": true},
                "conditionalConfigs": [
                    {"conditions": [
                        {"type": "equals", "value1": query("role"), "value2": "admin"},
                        {"type": "prefix", "value": header("x-p"), "prefix": "/api/"},
                        {"type": "suffix", "value": header("x-p"), "suffix": ".json"},
                    ], "commands": set("all three")},
                    {"conditions": [{"type": "contains", "value": header("x-p"), "substr": "b"}], "commands": set("contains")},
                    {"conditions": [{"type": "regex", "value": query("email"), "pattern": "^.+@example\\.com$"}], "commands": set("regex")},
                ],
            }),
        );
        for (path, x_p, expected, reroute) in [
            ("/?role=admin", "/api/a.json", "all three", true),
            ("/?role=user", "/api/a.json", "default", false),
            ("/", "/b", "contains", true),
            ("/?email=me%40example.com", "/", "regex", true),
        ] {
            let mut exchange = Exchange::new("GET", path, &[("x-p", x_p)]);
            exchange.run(&plugin);
            assert_eq!((exchange.header("x-set"), exchange.state.reroute), (Some(expected), reroute), "{path} {x_p}");
        }
    }

    #[test]
    fn problems_name_their_field() {
        let config = json!({"defaultConfig": {"commands": [
            {"type": "jump"}, {"type": "set", "target": {"type": "body"}}, {"type": "copy", "source": response("a"), "target": header("b")},
        ]}, "conditionalConfigs": [{"conditions": [{"type": "regex", "value": response("a"), "pattern": "("}]}]});
        let expected = [
            "defaultConfig.commands[0].type",
            "defaultConfig.commands[1].target.type",
            "defaultConfig.commands[1].target.name",
            "defaultConfig.commands[1].value",
            "defaultConfig.commands[2].source",
            "conditionalConfigs[0].commands",
            "conditionalConfigs[0].conditions[0].pattern",
            "conditionalConfigs[0].conditions[0].value",
        ];
        let mut found = problem_fields(&SPEC, &config);
        found.sort();
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}
