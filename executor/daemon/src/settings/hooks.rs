//! What is run, or called, when something has happened.

use serde::Deserialize;
use std::{collections::BTreeSet, path::Path};
use tank_model::units::Millis;
use tank_plan::events::{Event, Filter, Kind};

/// The most of them.
pub const MAX_HOOKS: usize = 32;

/// Who runs a command that does not say.
const NOBODY: &str = "nobody";

/// How long a command may take that does not say, and the longest.
const LIMIT: Millis = Millis(30_000);
const MAX_LIMIT: Millis = Millis(600_000);

/// The most arguments of a command.
const MAX_ARGUMENTS: usize = 64;

/// One `[[on_event]]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
pub struct Hook {
    pub filter: Filter,
    pub action: Action,
}

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// A program of the host, with its arguments, as a user.
    Command {
        argv: Vec<String>,
        user: String,
        limit: Millis,
    },
    /// A POST.
    Webhook(Webhook),
}

/// Where to. It may have a secret, so it is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(pub reqwest::Url);

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.host_str().unwrap_or_default())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    kinds: BTreeSet<Kind>,
    #[serde(default)]
    pods: BTreeSet<String>,
    stack: Option<String>,
    command: Option<Vec<String>>,
    user: Option<String>,
    limit: Option<Millis>,
    webhook: Option<String>,
}

impl TryFrom<Table> for Hook {
    type Error = String;

    fn try_from(table: Table) -> Result<Self, String> {
        if table.kinds.is_empty() {
            return Err("kinds: name one at least".to_owned());
        }
        if table.kinds.contains(&Kind::Hook) {
            return Err(
                "kinds: a hook that is run when a hook has failed would never end".to_owned(),
            );
        }
        let action = match (table.command, table.webhook) {
            (Some(argv), None) => command(argv, table.user, table.limit)?,
            (None, Some(url)) if table.user.is_none() && table.limit.is_none() => webhook(&url)?,
            (None, Some(_)) => return Err("`user` and `limit` are of a command".to_owned()),
            _ => return Err("say `command` or `webhook`, and one of them".to_owned()),
        };
        let filter = Filter {
            pods: table.pods,
            kinds: table.kinds,
            stack: table.stack,
            ..Filter::default()
        };
        Ok(Self { filter, action })
    }
}

fn command(
    argv: Vec<String>,
    user: Option<String>,
    limit: Option<Millis>,
) -> Result<Action, String> {
    let program = argv.first().map(String::as_str).unwrap_or_default();
    if !Path::new(program).is_absolute() {
        return Err("command: it begins with the absolute path of a program".to_owned());
    }
    if argv.len() > MAX_ARGUMENTS || argv.iter().any(|word| word.contains('\0')) {
        return Err(format!(
            "command: at most {MAX_ARGUMENTS} words, none of them with a zero byte"
        ));
    }
    let limit = limit.unwrap_or(LIMIT);
    if limit.0 == 0 || limit.0 > MAX_LIMIT.0 {
        return Err(format!(
            "limit: more than 0, and {} s at most",
            MAX_LIMIT.0 / 1_000
        ));
    }
    Ok(Action::Command {
        argv,
        user: user.unwrap_or_else(|| NOBODY.to_owned()),
        limit,
    })
}

fn webhook(text: &str) -> Result<Action, String> {
    let wrong = || "webhook: write `https://HOST/PATH`; `http` to this host only".to_owned();
    let url = reqwest::Url::parse(text).map_err(|_| wrong())?;
    url.host_str().ok_or_else(wrong)?;
    match url.scheme() {
        "https" => {}
        "http" if is_here(&url) => {}
        _ => return Err(wrong()),
    }
    Ok(Action::Webhook(Webhook(url)))
}

/// Whether a URL leads to this host, by an address of loopback or its usual name.
pub fn is_here(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl Hook {
    /// Whether it is run for an event: of what repeats itself, for the first, the second, the fourth and so on.
    pub fn is_for(&self, event: &Event) -> bool {
        event.kind != Kind::Hook && event.is_milestone() && self.filter.admits(event)
    }
}
