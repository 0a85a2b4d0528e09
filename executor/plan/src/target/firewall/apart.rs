//! What the rules still say of the host's settings that were changed, where the record of that is
//! lost: between which links nothing was forwarded before.

use super::{Table, Value};
use crate::{observed::ChangedSetting, target::network::FORWARDS};
use std::collections::{BTreeMap, BTreeSet};

/// The sets of links that stay apart, as the settings by which the host forwards.
pub(super) const APART: [&str; 2] = ["apart4", "apart6"];

/// The settings that Tank has changed, by path, as the sets of links that stay apart have it. Other
/// settings are in no rule.
pub fn changed_settings(table: &Table) -> BTreeMap<String, ChangedSetting> {
    let of = |((_, path), name): ((_, &str), &str)| {
        let set = table.sets.iter().find(|set| set.name == name)?;
        let link = |element: &Vec<Value>| match element.as_slice() {
            [Value::Interface(link)] => Some(link.clone()),
            _ => None,
        };
        let links: BTreeSet<String> = set.elements.iter().filter_map(link).collect();
        let changed = ChangedSetting {
            before: "0".to_owned(),
            set: "1".to_owned(),
            links,
            along: BTreeSet::new(),
        };
        Some((path.to_owned(), changed))
    };
    FORWARDS.into_iter().zip(APART).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::inputs, observed::HostNetwork};

    #[test]
    fn the_rules_say_which_links_were_apart() {
        let config = r#"{"pods":{"web":{"containers":{"app":{"image":"x"}}}}}"#;
        let inputs = inputs(&serde_json::from_str(config).expect("a configuration"));
        let forwards = |value: &str| HostNetwork {
            settings: [("net/ipv4/ip_forward".to_owned(), value.to_owned())].into(),
            links: ["eth0", "eth1"].map(str::to_owned).into(),
            ..HostNetwork::default()
        };
        let of = |host: &HostNetwork| inputs.target().firewall(host).expect("a table");
        let table = of(&forwards("0"));
        let found = changed_settings(&table);
        let changed = &found["net/ipv4/ip_forward"];
        assert_eq!((changed.before.as_str(), changed.set.as_str()), ("0", "1"));
        assert_eq!(changed.links, forwards("0").links);
        assert_eq!(found.len(), 1);
        // With that the rules stay what they are, where the host forwards by now.
        let host = HostNetwork {
            changed: found,
            ..forwards("1")
        };
        assert_eq!(of(&host), table);
        // Where the host forwarded before, nothing says that Tank changed it.
        assert_eq!(changed_settings(&of(&forwards("1"))), BTreeMap::new());
    }
}
