//! How registries are asked: by which hosts, with or without TLS, through which proxy, and as whom.
//! What `tank.toml` says of them, as data; nothing is asked here.

use crate::{
    Error,
    credentials::{self, Credential, Credentials, registry_of},
    http::{Http, HttpError, shown},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};
use tank_model::reference::canonical_registry;
use url::Url;

/// The rules of every registry that has none of its own are under this name.
const ALL: &str = "*";

/// How one registry is asked: `[registries."HOST:PORT"]` of `tank.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Who has copies of what it has. They are asked before it, in this order.
    pub mirrors: Vec<Mirror>,
    /// It is spoken to without TLS, as those on loopback always are.
    pub insecure: bool,
    /// Nothing is pulled from it, nor from its mirrors.
    pub blocked: bool,
    /// The proxy that it is asked through; what the daemon's environment says (`HTTPS_PROXY`,
    /// `HTTP_PROXY`, `NO_PROXY`) unless given.
    pub proxy: Option<Proxy>,
}

/// A mirror: `HOST`, `HOST:PORT`, or either with a path that is put before each repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mirror {
    host: String,
    /// Without a `/` at either end. Empty: none.
    prefix: String,
}

impl TryFrom<String> for Mirror {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (host, prefix) = text.split_once('/').unwrap_or((&text, ""));
        let prefix = prefix.trim_end_matches('/');
        // What a reference may not name is not asked.
        let example = if prefix.is_empty() { "x" } else { prefix };
        if !is_host(host) || !is_repository(host, example) {
            return Err(format!(
                "`{text}` is no mirror, write for example \"mirror.example:5000\""
            ));
        }
        Ok(Self {
            host: canonical_registry(host),
            prefix: prefix.to_owned(),
        })
    }
}

impl From<Mirror> for String {
    fn from(mirror: Mirror) -> Self {
        match mirror.prefix.as_str() {
            "" => mirror.host,
            prefix => format!("{}/{prefix}", mirror.host),
        }
    }
}

/// Through what a registry is asked: `"http://HOST:PORT"`, or `"none"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Proxy {
    /// Nothing, whatever the environment says.
    None,
    /// This proxy.
    Url(Url),
}

impl TryFrom<String> for Proxy {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let url = Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        url.map(Self::Url)
            .ok_or_else(|| format!("`{text}` is no proxy, write \"http://HOST:PORT\" or \"none\""))
    }
}

impl From<Proxy> for String {
    fn from(proxy: Proxy) -> Self {
        match proxy {
            Proxy::None => "none".to_owned(),
            Proxy::Url(url) => url.into(),
        }
    }
}

/// How registries are asked.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    rules: BTreeMap<String, Rules>,
    pub(crate) credentials: Credentials,
}

/// One host that has a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As users know it, with its port.
    pub host: String,
    pub repository: String,
    /// Without TLS.
    pub plain: bool,
    pub proxy: Option<Proxy>,
}

impl Endpoint {
    /// The proxy that it is asked by, without a password.
    pub fn shown_proxy(&self) -> Option<String> {
        let Some(Proxy::Url(url)) = &self.proxy else {
            return None;
        };
        let port = url.port().map_or(String::new(), |port| format!(":{port}"));
        let host = url.host_str().unwrap_or_default();
        Some(format!("{}://{host}{port}", url.scheme()))
    }
}

impl Registries {
    /// By these rules, each under its registry's name (or `*`, for those that have none); those of
    /// `insecure` are spoken to without TLS. What `tank login` is given is kept in `kept`, and
    /// `files` are looked into behind it.
    ///
    /// # Errors
    /// A text that says what is wrong with the rules.
    pub fn new(
        rules: &BTreeMap<String, Rules>,
        insecure: &[String],
        kept: PathBuf,
        files: Vec<PathBuf>,
    ) -> Result<Self, String> {
        let canonical =
            |(name, rules): (&String, &Rules)| (canonical_registry(name), rules.clone());
        let mut rules: BTreeMap<String, Rules> = rules.iter().map(canonical).collect();
        for (name, rules) in &rules {
            if name != ALL && !is_host(name) {
                return Err(format!(
                    "registries: `{name}` is no registry, write HOST, HOST:PORT or *"
                ));
            }
            if name == ALL && !rules.mirrors.is_empty() {
                return Err(
                    "registries: a mirror is one of a registry, and `*` is all of them".to_owned(),
                );
            }
        }
        let all = rules.get(ALL).cloned().unwrap_or_default();
        for name in insecure {
            if !is_host(name) {
                return Err(format!(
                    "insecure_registries: `{name}` is no registry, write HOST or HOST:PORT"
                ));
            }
            rules
                .entry(canonical_registry(name))
                .or_insert_with(|| all.clone())
                .insecure = true;
        }
        let credentials = Credentials::new(kept, files);
        Ok(Self { rules, credentials })
    }

    /// The rules that name a registry.
    fn own_rules(&self, registry: &str) -> Option<&Rules> {
        // The port of `https` may be written or not.
        let other = match registry.strip_suffix(":443") {
            Some(name) => name.to_owned(),
            None => format!("{registry}:443"),
        };
        self.rules.get(registry).or_else(|| self.rules.get(&other))
    }

    fn rules(&self, registry: &str) -> Rules {
        let found = self.own_rules(registry).or_else(|| self.rules.get(ALL));
        found.cloned().unwrap_or_default()
    }

    fn endpoint(&self, host: &str, repository: String) -> Endpoint {
        let rules = self.rules(host);
        let loopback = is_loopback(host);
        Endpoint {
            host: host.to_owned(),
            repository,
            plain: loopback || rules.insecure,
            proxy: match loopback {
                true => Some(Proxy::None),
                false => rules.proxy,
            },
        }
    }

    /// Whom to ask for a repository of a registry, one after the other.
    ///
    /// # Errors
    /// When the registry is blocked.
    pub(crate) fn endpoints(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Vec<Endpoint>, Error> {
        let rules = self.rules(registry);
        if rules.blocked {
            return Err(Error::Blocked(registry.to_owned()));
        }
        let mirrors = rules.mirrors.iter();
        // What holds for all that are not named does not block one that is named here.
        let blocked = |host: &str| self.own_rules(host).is_some_and(|rules| rules.blocked);
        let mirrors = mirrors.filter(|mirror| !blocked(&mirror.host));
        let mut endpoints: Vec<Endpoint> = mirrors
            .map(|mirror| match mirror.prefix.as_str() {
                "" => self.endpoint(&mirror.host, repository.to_owned()),
                prefix => self.endpoint(&mirror.host, format!("{prefix}/{repository}")),
            })
            .collect();
        endpoints.push(self.endpoint(registry, repository.to_owned()));
        Ok(endpoints)
    }
}

impl Registries {
    /// Asks a registry whether it takes this user, and keeps the password for it where it does.
    ///
    /// # Errors
    /// When it does not, or can't be asked; nothing is kept then.
    pub async fn login(&self, named: &str, user: &str, password: &str) -> Result<LoggedIn, Error> {
        let registry = registry_of(named);
        let registry = registry.ok_or_else(|| Error::NoSuchRegistry(shown(named)))?;
        credentials::check(user, password)?;
        if self.rules(&registry).blocked {
            return Err(Error::Blocked(registry));
        }
        let credential = Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        let endpoint = self.endpoint(&registry, String::new());
        let checked = Http::as_user(&endpoint, credential)?.check().await;
        let tried = checked.map_err(|error| match error {
            HttpError::Denied(_) => Error::NoLogin {
                registry: registry.clone(),
                user: shown(user),
            },
            HttpError::NoAnswer(_) | HttpError::LateHead(_) => {
                Error::Unreachable(registry.clone(), error)
            }
            error => Error::Registry(registry.clone(), error),
        })?;
        self.credentials.keep(&registry, user, password).await?;
        Ok(LoggedIn { registry, tried })
    }

    /// Forgets what is kept for a registry.
    ///
    /// # Errors
    /// What the disk gives; and a file of another tool that is not as it should be.
    pub async fn logout(&self, named: &str) -> Result<LoggedOut, Error> {
        let registry = registry_of(named);
        let registry = registry.ok_or_else(|| Error::NoSuchRegistry(shown(named)))?;
        let (known, elsewhere) = self.credentials.forget(&registry).await?;
        Ok(LoggedOut {
            registry,
            known,
            elsewhere,
        })
    }
}

/// What is kept for a registry now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// Its name.
    pub registry: String,
    /// It has asked for the password, and taken it.
    pub tried: bool,
}

/// What became of the credentials for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedOut {
    /// Its name.
    pub registry: String,
    /// Something was kept for it.
    pub known: bool,
    /// A file of another tool that still has something for it.
    pub elsewhere: Option<PathBuf>,
}

/// Whether a registry is one of this host, by its name.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Whether a reference may name this registry.
pub(crate) fn is_host(text: &str) -> bool {
    !text.contains('/') && is_repository(text, "x")
}

fn is_repository(host: &str, repository: &str) -> bool {
    use tank_model::reference::{ImageSource, Reference};
    let text = format!("{host}/{repository}");
    // One word is no host for a reference of an image, and is one here.
    let text = match host == "localhost" || host.contains(['.', ':']) {
        true => text,
        false => format!("{host}:443/{repository}"),
    };
    let parsed = text.parse::<Reference>();
    let of_a_registry = |reference: Reference| matches!(reference.source(), ImageSource::Registry { tag, digest: None, .. } if tag.as_deref() == Some("latest"));
    !host.is_empty() && !repository.contains([':', '@']) && parsed.is_ok_and(of_a_registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(toml: &str) -> Registries {
        let rules: BTreeMap<String, Rules> = serde_json::from_str(toml).expect("rules");
        Registries::new(&rules, &["old:5000".to_owned()], PathBuf::new(), Vec::new())
            .expect("they are right")
    }

    fn asked(registries: &Registries, registry: &str) -> Vec<String> {
        let endpoints = registries
            .endpoints(registry, "library/x")
            .expect("not blocked");
        let one = |endpoint: &Endpoint| {
            let scheme = if endpoint.plain { "http" } else { "https" };
            let proxy = endpoint.proxy.clone().map_or(String::new(), |proxy| {
                format!(" by {}", String::from(proxy))
            });
            format!(
                "{scheme}://{}/{}{proxy}",
                endpoint.host, endpoint.repository
            )
        };
        endpoints.iter().map(one).collect()
    }

    #[test]
    fn mirrors_are_asked_first_each_by_its_own_rules() {
        let registries = registries(
            r#"{
                "docker.io": {"mirrors": ["mirror.lan:5000/hub/", "127.0.0.1:5001", "bad.lan"], "proxy": "http://proxy:3128"},
                "mirror.lan:5000": {"insecure": true, "proxy": "none"},
                "bad.lan": {"blocked": true}
            }"#,
        );
        assert_eq!(
            asked(&registries, "docker.io"),
            [
                "http://mirror.lan:5000/hub/library/x by none",
                "http://127.0.0.1:5001/library/x by none",
                "https://docker.io/library/x by http://proxy:3128/"
            ]
        );
        assert_eq!(asked(&registries, "quay.io"), ["https://quay.io/library/x"]);
        assert_eq!(
            asked(&registries, "old:5000"),
            ["http://old:5000/library/x"]
        );
        assert!(matches!(
            registries.endpoints("bad.lan", "x"),
            Err(Error::Blocked(_))
        ));
    }

    #[test]
    fn all_others_may_be_blocked() {
        let registries = registries(
            r#"{"*": {"blocked": true}, "ours.example": {}, "Docker.IO": {"mirrors": ["ours.example", "unnamed.example"]}}"#,
        );
        assert!(registries.endpoints("quay.io", "x").is_err());
        assert!(registries.endpoints("ours.example:443", "x").is_ok());
        assert!(registries.endpoints("ours.example:8443", "x").is_err());
        // It was named, and is blocked as those that were not.
        assert!(registries.endpoints("old:5000", "x").is_err());
        assert_eq!(
            asked(&registries, "docker.io"),
            [
                "https://ours.example/library/x",
                "https://unnamed.example/library/x",
                "https://docker.io/library/x"
            ]
        );
    }

    #[test]
    fn what_is_no_rule_is_refused_in_words() {
        let read = |json: &str| serde_json::from_str::<Rules>(json).map_err(|e| e.to_string());
        for (wrong, why) in [
            (
                r#"{"mirrors": ["https://m.example"]}"#,
                "`https://m.example` is no mirror",
            ),
            (r#"{"mirrors": [""]}"#, "`` is no mirror"),
            (
                r#"{"mirrors": ["m.example/a:b"]}"#,
                "`m.example/a:b` is no mirror",
            ),
            (
                r#"{"mirrors": ["m.example/../x"]}"#,
                "`m.example/../x` is no mirror",
            ),
            (r#"{"proxy": "socks5://x:1"}"#, "`socks5://x:1` is no proxy"),
            (r#"{"proxy": "proxy:3128"}"#, "`proxy:3128` is no proxy"),
            (r#"{"mirror": []}"#, "unknown field `mirror`"),
        ] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.contains(why), "{error}");
        }
        let new = |name: &str, rules: &str| {
            let rules = BTreeMap::from([(name.to_owned(), read(rules).expect("rules"))]);
            Registries::new(&rules, &[], PathBuf::new(), Vec::new()).map(drop)
        };
        assert!(new("https://x", "{}").is_err());
        assert!(new("a/b", "{}").is_err());
        assert!(new("registry", "{}").is_ok());
        assert!(new("*", r#"{"mirrors": ["m.example"]}"#).is_err());
    }
}
