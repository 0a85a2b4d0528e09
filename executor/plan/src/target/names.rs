//! What pods find each other by: the answers of Tank's name server, as data.
//!
//! A name is one of a pod: its own, its `hostname`, its aliases. Each is answered as it stands and
//! below [`DOMAIN`], so that a resolver's search list and a query of one label both find it. What
//! one pod alone has for a name is answered whether the pod is ready or not, since its address is
//! its own for good; a name of several pods leads to those that are ready.
//!
//! Who asks decides what there is: each client has a [`View`], and names of one view are not seen
//! in another. Each stack has one: its own pods have their names, so two stacks with a `db` never
//! meet; pods of other stacks are named with theirs, `db.shop`.

use crate::{observed::Observed, target::Target};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};
use tank_model::{Digest, Name, canonical};

/// The domain of the pods' names. `internal` is reserved for private use (ICANN, 2024).
pub const DOMAIN: &str = "tank.internal";

/// The view of the pods that belong to no stack, and of the host: no stack is called so.
const NO_STACK: &str = "";

/// What Tank's name server answers, to whom, and whom it asks for the rest.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Zone {
    /// Where it is asked: the bridge's own addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Who may ask, and whose addresses have names here or none: the pods' networks.
    pub networks: BTreeSet<IpNet>,
    /// What the pods of each stack see first, by its name, and those that belong to none.
    pub views: BTreeMap<String, View>,
    /// What all of them see: the pods of every stack, with its name behind theirs.
    #[serde(default)]
    pub shared: View,
    /// By their addresses. Who is not among them is refused.
    pub clients: BTreeMap<IpAddr, Client>,
    /// The servers that are asked for all other names, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<IpAddr>,
}

/// The names that some clients see.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct View {
    /// The addresses of each name, in lower case and without a dot at its end. None of them: the
    /// name is known, and nobody who has it is ready.
    pub names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The name of each address, below [`DOMAIN`].
    pub reverse: BTreeMap<IpAddr, String>,
}

/// Somebody who may ask.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Client {
    /// The name of its view.
    pub view: String,
    /// Servers of its own, in place of the zone's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<IpAddr>,
}

impl Zone {
    /// Names all that it says.
    pub fn digest(&self) -> Digest {
        Digest::of(&canonical::encode(self).unwrap_or_default())
    }

    /// All names, for people: those of a stack with its name.
    pub fn names(&self) -> BTreeSet<&str> {
        let views = self.views.get(NO_STACK).into_iter().chain([&self.shared]);
        let names = views.flat_map(|view| view.names.keys());
        names.map(String::as_str).collect()
    }
}

impl Target<'_> {
    /// What the name server has to say. None: no pod is on the bridge, and there is to be no server.
    pub fn zone(&self, observed: &Observed) -> Option<Zone> {
        if !self.needs_bridge() {
            return None;
        }
        let own: BTreeSet<IpAddr> = self.bridge_addresses().iter().map(IpNet::addr).collect();
        let bridged = || self.graph.pods().filter(|pod| self.is_bridged(pod));
        let stacks: BTreeSet<Option<&str>> = bridged().map(Name::stack).chain([None]).collect();
        let views = stacks.into_iter().map(|stack| {
            let name = |pod: &Name, name: &str| (pod.stack() == stack).then(|| name.to_owned());
            let own = stack.unwrap_or(NO_STACK).to_owned();
            (own, self.view(name, observed))
        });
        // A name with dots is for its own stack alone: `www.bank` of a stack `com` is no bank.
        let shared = |pod: &Name, name: &str| {
            let of = pod.stack().filter(|_| !name.contains('.'));
            of.map(|of| format!("{name}.{of}"))
        };
        let (views, shared) = (views.collect(), self.view(shared, observed));
        let client = |stack: Option<&str>, upstreams: Vec<IpAddr>| Client {
            view: stack.unwrap_or(NO_STACK).to_owned(),
            upstreams,
        };
        let mut clients: BTreeMap<IpAddr, Client> = own
            .iter()
            .map(|address| (*address, client(None, Vec::new())))
            .collect();
        for pod in bridged() {
            let servers = self
                .graph
                .pod(pod)
                .into_iter()
                .flat_map(|node| node.dns.servers.values());
            let servers: Vec<IpAddr> = servers.copied().collect();
            let own = client(pod.stack(), servers);
            clients.extend(self.hosts(pod).map(|address| (address, own.clone())));
        }
        let mut upstreams = self.resolver.upstreams();
        // It would ask itself, and so on.
        upstreams.retain(|server| !own.contains(server));
        Some(Zone {
            addresses: own,
            networks: self.host.networks.iter().map(IpNet::trunc).collect(),
            views,
            shared,
            clients,
            upstreams,
        })
    }

    /// The names that `name_of` gives the names of a pod. None: it has none in this view.
    fn view(&self, name_of: impl Fn(&Name, &str) -> Option<String>, observed: &Observed) -> View {
        let mut carriers: BTreeMap<String, BTreeSet<&Name>> = BTreeMap::new();
        let mut reverse = BTreeMap::new();
        for pod in self.graph.pods().filter(|pod| self.is_bridged(pod)) {
            for name in self.names_of(pod) {
                if let Some(name) = name_of(pod, &name) {
                    carriers.entry(name).or_default().insert(pod);
                }
            }
            if let Some(name) = name_of(pod, pod.local()) {
                reverse.extend(self.hosts(pod).map(|address| (address, name.clone())));
            }
        }
        let answers = |pods: &BTreeSet<&Name>| -> BTreeSet<IpAddr> {
            let alone = pods.len() == 1;
            let counts = |pod: &&&Name| alone || self.is_ready(pod, observed);
            let pods = pods.iter().filter(counts);
            pods.flat_map(|pod| self.hosts(pod)).collect()
        };
        let names = carriers.iter();
        View {
            names: names
                .map(|(name, pods)| (name.clone(), answers(pods)))
                .collect(),
            reverse,
        }
    }

    /// A pod's addresses without their networks.
    fn hosts(&self, pod: &Name) -> impl Iterator<Item = IpAddr> {
        self.addresses(pod).into_iter().map(|net| net.addr())
    }

    /// Every name of a pod within its stack, in lower case.
    fn names_of(&self, pod: &Name) -> BTreeSet<String> {
        let hostname = self
            .graph
            .sandbox(pod)
            .map(|(node, _)| node.hostname.clone());
        let node = self.graph.pod(pod);
        let aliases = node
            .into_iter()
            .flat_map(|node| node.aliases.iter().cloned());
        let names = [pod.local().to_owned()]
            .into_iter()
            .chain(hostname)
            .chain(aliases);
        names.map(|name| name.to_ascii_lowercase()).collect()
    }

    /// Whether every container of a pod runs and is ready.
    fn is_ready(&self, pod: &Name, observed: &Observed) -> bool {
        let found = observed.pods.get(pod);
        found.is_some_and(|found| found.ready(self.graph.containers(pod).map(|(name, ..)| name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inputs, model, planner};
    use tank_model::Config;

    fn inputs(pods: serde_json::Value) -> Inputs {
        let config: Result<Config, _> = serde_json::from_value(serde_json::json!({ "pods": pods }));
        model::inputs(&config.expect("a configuration"))
    }

    fn pod(more: serde_json::Value) -> serde_json::Value {
        let mut pod = serde_json::json!({ "containers": { "app": { "image": "x" } } });
        for (field, value) in more.as_object().into_iter().flatten() {
            pod[field] = value.clone();
        }
        pod
    }

    fn converged(inputs: &Inputs) -> Observed {
        let mut host = Observed::default();
        for _ in 0..3 {
            let (plan, _) = planner::plan(&inputs.target(), &host);
            model::apply(&plan, &mut host);
        }
        assert!(planner::plan(&inputs.target(), &host).0.is_empty());
        host
    }

    /// The addresses of a name, as texts.
    fn answers(inputs: &Inputs, host: &Observed, name: &str) -> Option<Vec<String>> {
        let zone = inputs.target().zone(host).expect("a zone");
        let found = zone.views.get(NO_STACK)?.names.get(name)?;
        Some(found.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn a_name_of_one_is_answered_and_one_of_several_where_it_is_ready() {
        let alias = serde_json::json!({ "aliases": { "api": {} }, "hostname": "Host.Example" });
        let inputs = inputs(serde_json::json!({
            "a": pod(alias.clone()), "b": pod(serde_json::json!({ "aliases": { "api": {} } })),
            "c": pod(serde_json::json!({ "network": "host" })),
        }));
        // Nothing runs yet: the address is known all the same.
        let none = Observed::default();
        assert_eq!(
            answers(&inputs, &none, "a"),
            Some(vec!["10.90.0.2".to_owned()])
        );
        assert_eq!(
            answers(&inputs, &none, "host.example"),
            answers(&inputs, &none, "a")
        );
        assert_eq!(
            answers(&inputs, &none, "api"),
            Some(vec![]),
            "nobody is ready"
        );
        assert_eq!(
            answers(&inputs, &none, "c"),
            None,
            "it has no address of its own"
        );
        let mut host = converged(&inputs);
        assert_eq!(answers(&inputs, &host, "api").map(|all| all.len()), Some(2));
        // One is lost: the plan says so, and has no other step for it than its own.
        let b = Name::new("b").expect("a name");
        host.pods
            .get_mut(&b)
            .expect("it is there")
            .containers
            .clear();
        assert_eq!(
            answers(&inputs, &host, "api"),
            Some(vec!["10.90.0.2".to_owned()])
        );
        assert_eq!(
            answers(&inputs, &host, "b"),
            Some(vec!["10.90.0.3".to_owned()])
        );
    }

    #[test]
    fn servers_of_the_host_or_of_ones_own_are_asked_and_never_the_server_itself() {
        let own =
            serde_json::json!({ "dns": { "servers": { "z": "192.0.2.1", "a": "192.0.2.2" } } });
        let mut inputs =
            inputs(serde_json::json!({ "own": pod(own), "web": pod(serde_json::json!({})) }));
        inputs.resolver.host =
            "nameserver 10.90.0.1\nnameserver 127.0.0.1\nnameserver 9.9.9.9\n".to_owned();
        let zone = inputs.target().zone(&Observed::default()).expect("a zone");
        let texts = |servers: &[IpAddr]| servers.iter().map(IpAddr::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&zone.upstreams), ["127.0.0.1", "9.9.9.9"]);
        let client = |address: [u8; 4]| texts(&zone.clients[&IpAddr::from(address)].upstreams);
        assert_eq!(
            client([10, 90, 0, 2]),
            ["192.0.2.2", "192.0.2.1"],
            "in the order of their keys"
        );
        assert_eq!(client([10, 90, 0, 3]), Vec::<String>::new());
        // The host itself may ask.
        assert!(zone.clients.contains_key(&IpAddr::from([10, 90, 0, 1])));
    }

    #[test]
    fn a_name_with_dots_is_for_its_own_stack() {
        let alias = serde_json::json!({ "aliases": { "www.bank": {}, "api": {} } });
        let inputs = inputs(serde_json::json!({ "com:web": pod(alias) }));
        let zone = inputs.target().zone(&Observed::default()).expect("a zone");
        let own: Vec<&str> = zone.views["com"].names.keys().map(String::as_str).collect();
        assert_eq!(own, ["api", "web", "www.bank"]);
        let shared: Vec<&str> = zone.shared.names.keys().map(String::as_str).collect();
        assert_eq!(shared, ["api.com", "web.com"]);
    }

    #[test]
    fn nothing_is_served_where_no_pod_is_on_the_bridge() {
        let inputs =
            inputs(serde_json::json!({ "web": pod(serde_json::json!({ "network": "none" })) }));
        assert_eq!(inputs.target().zone(&Observed::default()), None);
    }

    #[test]
    fn a_server_that_can_not_be_had_keeps_no_pod_down() {
        let inputs = inputs(serde_json::json!({ "web": pod(serde_json::json!({})) }));
        let mut host = Observed::default();
        let depends = |host: &Observed| {
            let (plan, _) = planner::plan(&inputs.target(), host);
            let place =
                |is: fn(&crate::Step) -> bool| plan.steps.iter().position(|one| is(&one.step));
            let names =
                place(|step| matches!(step, crate::Step::EnsureNames { .. })).expect("names");
            let link =
                place(|step| matches!(step, crate::Step::EnsureNetwork { .. })).expect("a link");
            (
                plan.steps[link].after.contains(&names),
                plan.steps[names].step.id(),
            )
        };
        let (before, step) = depends(&host);
        assert!(before, "its first query is answered");
        host.failures.push(crate::observed::FailedStep {
            step,
            count: 1,
            at: 0,
            why: "taken".to_owned(),
        });
        assert!(!depends(&host).0);
    }
}
