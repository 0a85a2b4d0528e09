//! From the names of a source to those of the host: `web` in a source of the stack `blog` is
//! `blog:web`, and back again where a mistake has to be shown at the user's own line.

use crate::{Inputs, nickel::Evaluated};
use serde_json::{Map, Value};
use tank_model::{Name, NameError, spec::Peer, stack::RESERVED_STACKS};

/// The stack that a source belongs to: by the source itself, or as it was asked for. That both say
/// different ones is a problem.
fn stack_of(value: &Value, inputs: &Inputs, evaluated: &mut Evaluated) -> Option<Name> {
    let asked = inputs.stack.as_ref();
    let said = value.get("stack").and_then(Value::as_str);
    let said = said.and_then(|said| Name::new(said).ok());
    if let (Some(said), Some(asked)) = (&said, asked)
        && said != asked
    {
        let message = format!("the stack is called `{said}` here, and `{asked}` is asked for");
        let help = "leave one of the two out, here or on the command line";
        problem(
            evaluated,
            "tank::stack::two_names",
            &["stack"],
            (message, help),
        );
    }
    let asked = asked.or(inputs.default_stack.as_ref());
    let stack = said.or_else(|| asked.cloned());
    if let Some(stack) = stack
        .as_ref()
        .filter(|stack| RESERVED_STACKS.contains(&stack.as_str()))
    {
        let message = format!(
            "no stack can be called `{stack}`: its pods would have names like `web.{stack}`"
        );
        let help = "choose another: what ends so is looked for on the Internet, or on this machine";
        problem(
            evaluated,
            "tank::stack::reserved",
            &["stack"],
            (message, help),
        );
    }
    stack
}

fn problem(evaluated: &mut Evaluated, code: &str, at: &[&str], (message, help): (String, &str)) {
    let at: Vec<String> = at.iter().map(|part| (*part).to_owned()).collect();
    let found = evaluated.problem(code, &at, message, Some(help.to_owned()));
    evaluated.problems.push(found);
    evaluated.poisoned.insert(at);
}

/// Gives the pods, networks and shared volumes of a configuration, and what pods name of others, the names that they have
/// on a host. What can't have one is left out and reported.
pub fn qualify(value: &mut Value, inputs: &Inputs, evaluated: &mut Evaluated) {
    let stack = stack_of(value, inputs, evaluated);
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    if let Some(stack) = &stack {
        fields.insert("stack".to_owned(), stack.to_string().into());
    }
    for group in ["networks", "volumes", "pods"] {
        let Some(all) = fields.get_mut(group).and_then(Value::as_object_mut) else {
            continue;
        };
        for (own, mut spec) in std::mem::take(all) {
            match Name::new(&own).and_then(|name| name.in_stack(stack.as_ref())) {
                Ok(name) => {
                    if group == "pods" {
                        names_within(&mut spec, (&own, stack.as_ref()), evaluated);
                    }
                    all.insert(name.to_string(), spec);
                }
                Err(error) => too_long(error, &[group, &own], evaluated),
            }
        }
    }
}

/// The names that a pod says.
fn names_within(spec: &mut Value, of: (&str, Option<&Name>), evaluated: &mut Evaluated) {
    for field in NAMED {
        named(spec, field, of, evaluated);
    }
    peers(spec, of, evaluated);
}

/// The fields of a pod that are keyed by what the host has: each name may be said with its stack.
const NAMED: [&str; 2] = ["depends_on", "networks"];

/// What the name `said` means, as a key of one of [`NAMED`].
fn meant(field: &str, said: &str, stack: Option<&Name>) -> Result<Name, NameError> {
    match field {
        "networks" => Name::network(said, stack),
        _ => Name::reference(said, stack),
    }
}

fn too_long(error: NameError, at: &[&str], evaluated: &mut Evaluated) {
    let help = "choose a shorter one, for this or for its stack";
    problem(
        evaluated,
        "tank::name::invalid",
        at,
        (error.to_string(), help),
    );
}

fn named(
    spec: &mut Value,
    field: &str,
    (pod, stack): (&str, Option<&Name>),
    evaluated: &mut Evaluated,
) {
    let keyed = spec.get_mut(field).and_then(Value::as_object_mut);
    let Some(keyed) = keyed else { return };
    let mut named = Map::new();
    for (said, value) in std::mem::take(keyed) {
        let at = ["pods", pod, field, &said];
        match meant(field, &said, stack) {
            Err(error) => too_long(error, &at, evaluated),
            Ok(name) if named.contains_key(name.as_str()) => {
                let message = format!("`{said}` is named twice, as `{name}` and without its stack");
                problem(
                    evaluated,
                    "tank::name::invalid",
                    &at,
                    (message, "keep one of the two"),
                );
            }
            Ok(name) => drop(named.insert(name.to_string(), value)),
        }
    }
    *keyed = named;
}

/// Gives the pods that policies name the names that they have on a host.
fn peers(spec: &mut Value, (pod, stack): (&str, Option<&Name>), evaluated: &mut Evaluated) {
    for field in ["allow_from", "egress"] {
        let list = spec.get_mut(field).and_then(Value::as_array_mut);
        for (at, peer) in list.into_iter().flatten().enumerate() {
            let Some(said) = peer
                .as_str()
                .filter(|said| Peer::of_address(said).is_none())
            else {
                continue;
            };
            match Name::reference(said, stack) {
                Ok(name) => *peer = Peer::Pod(name).to_string().into(),
                Err(error) => too_long(error, &["pods", pod, field, &at.to_string()], evaluated),
            }
        }
    }
}

/// The path of a field by the names of a host.
pub fn host_path(path: &[String], stack: Option<&Name>) -> Vec<String> {
    let mut out = path.to_vec();
    if !is_below_names(path) {
        return out;
    }
    if let Some(own) = out.get_mut(1)
        && let Ok(name) = Name::new(own.as_str()).and_then(|name| name.in_stack(stack))
    {
        *own = name.to_string();
    }
    if let Some(field) = named_field(path)
        && let Some(other) = out.get_mut(3)
        && let Ok(name) = meant(field, other, stack)
    {
        *other = name.to_string();
    }
    out
}

/// The path of a field as the source has it: what another stack may have too is written with its
/// stack or without.
pub fn source_path(path: &[String], evaluated: &Evaluated) -> Vec<String> {
    let mut out = path.to_vec();
    let own = path.get(1).and_then(|own| Name::of_pod(own.as_str()).ok());
    let Some(own) = own.filter(|_| is_below_names(path)) else {
        return out;
    };
    out[1] = own.local().to_owned();
    if let Some(field) = named_field(path)
        && let Ok(other) = Name::of_pod(path[3].as_str())
    {
        let usual = match field {
            "networks" => other.network_as_seen_from(own.stack()),
            _ => other.as_seen_from(own.stack()),
        };
        let plain = other.as_seen_from(None);
        for said in [usual.clone(), plain, format!(":{}", other.local())] {
            out[3] = said;
            if evaluated.places.contains_key(&out[..4]) {
                return out;
            }
        }
        out[3] = usual;
    }
    out
}

fn is_below_names(path: &[String]) -> bool {
    path.first()
        .is_some_and(|first| matches!(first.as_str(), "pods" | "networks" | "volumes"))
}

/// The one of [`NAMED`] that a path leads into.
fn named_field(path: &[String]) -> Option<&str> {
    let field = path
        .get(2)
        .filter(|_| path.len() > 3 && path[0] == "pods")?;
    NAMED.into_iter().find(|named| named == field)
}
