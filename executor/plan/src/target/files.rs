//! What the files say that Tank writes into a container: names and resolvers, and those that were
//! declared. Secrets are none of them: they never become data.

use crate::target::Target;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tank_model::{
    Digest, Name,
    spec::{self, Network},
};

impl Target<'_> {
    /// What a container's files say, by their paths.
    pub fn files(&self, pod: &Name, container: &Name) -> BTreeMap<String, spec::File> {
        let mut files = self.graph.files(pod, container);
        let Some((sandbox, _)) = self.graph.sandbox(pod) else {
            return files;
        };
        let addresses: BTreeSet<IpAddr> =
            self.addresses(pod).iter().map(ipnet::IpNet::addr).collect();
        let generated = [
            ("/etc/hosts", hosts_file(&sandbox.hostname, &addresses)),
            ("/etc/hostname", format!("{}\n", sandbox.hostname)),
            (
                "/etc/resolv.conf",
                self.resolver.text(sandbox.network == Network::Host),
            ),
        ];
        for (path, text) in generated {
            files.entry(path.to_owned()).or_insert(spec::File {
                text,
                mode: spec::Mode(0o644),
                reload: None,
            });
        }
        files
    }

    /// The digests of what a container's files say, by their paths: what an observation is compared
    /// with.
    pub fn file_digests(&self, pod: &Name, container: &Name) -> BTreeMap<String, Digest> {
        let files = self.files(pod, container).into_iter();
        files
            .map(|(path, file)| (path, Digest::of(file.text.as_bytes())))
            .collect()
    }
}

/// `/etc/hosts` of a pod: loopback, and its own name at its own addresses.
fn hosts_file(hostname: &str, addresses: &BTreeSet<IpAddr>) -> String {
    let own: String = if addresses.is_empty() {
        format!("127.0.0.1\t{hostname}\n")
    } else {
        let line = |address| format!("{address}\t{hostname}\n");
        addresses.iter().map(line).collect()
    };
    format!("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{own}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_say_what_a_pod_can_reach() {
        let addresses = BTreeSet::from([IpAddr::from([10, 90, 0, 2])]);
        assert!(hosts_file("web", &addresses).contains("10.90.0.2\tweb\n"));
        assert!(hosts_file("web", &BTreeSet::new()).contains("127.0.0.1\tweb\n"));
    }
}
