//! Requests to a registry. A registry is whoever answers: of everything it sends there is a most,
//! and what is read is counted while it is read, never afterwards.
//!
//! | what | bound |
//! |---|---|
//! | head of an answer | `hyper`'s own: 100 fields, some 400 KiB; within [`HEAD_TIME`] |
//! | document | the caller's, within [`DOCUMENT_TIME`] |
//! | token, error | [`MAX_TOKEN`], [`MAX_ERROR`], within [`HEAD_TIME`]; the rest of an error is not read |
//! | silence | [`SILENCE`] |
//! | redirects | [`REDIRECTS`], never from `https` to `http` |
//!
//! A future that is dropped closes its connection: nothing goes on after the one who asked has
//! left.
//!
//! Access is anonymous until a registry asks who it is; then the credentials that this host has for it
//! are looked up. One that wants a token names who gives it (the distribution project's "Token
//! Authentication Specification"); `http-auth` reads that challenge. Tokens and passwords go to the
//! registry, and to whom it names for tokens, alone: `reqwest` takes them off a request that is
//! redirected to another host.
//!
//! A registry that is not of this host leads to nothing that is: where it redirects to, and whom it
//! names for tokens, is no loopback and no link-local address ([`Guard`]).

mod token;

use crate::{
    Error,
    credentials::{Credential, CredentialError, Credentials},
    guard::Guard,
    registries::{Endpoint, Proxy},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http_auth::ChallengeRef;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE},
    redirect::{Attempt, Policy},
};
use serde::Deserialize;
use std::{
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};
use tank_model::reference::DOCKER_HUB;
use token::TokenGiver;
use tokio::sync::OnceCell;

/// The longest time without a byte.
pub const SILENCE: Duration = Duration::from_secs(30);

/// The longest time until the head of an answer is there: with its redirects, a token for it, and
/// what an answer that is no success has to say. `reqwest` looks for silence alone, and a registry
/// that drips is never silent.
const HEAD_TIME: Duration = Duration::from_secs(60);

/// The longest time for one document, its head and a token for it included.
pub const DOCUMENT_TIME: Duration = Duration::from_secs(60);

const CONNECT_TIME: Duration = Duration::from_secs(10);

/// The most redirects of one request.
const REDIRECTS: usize = 5;

/// The most bytes of a token and what it comes with. A token is a signed text of a few KiB.
const MAX_TOKEN: u64 = 256 << 10;

/// The most bytes of an error that are read.
const MAX_ERROR: u64 = 64 << 10;

/// The longest text of a registry that is shown, in characters.
const MAX_SHOWN: usize = 300;

/// Why a request was not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The registry says that it does not have it (OCI distribution specification, "Error Codes").
    #[error("it does not have it")]
    Missing,
    /// The registry lets only users it knows have it: as whom it was asked, if not as nobody.
    #[error("it does not let {} have it", .0.as_deref().unwrap_or("anonymous users"))]
    Denied(Option<String>),
    /// As whom to ask can't be known.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// A registry names somebody for tokens whom it has no business with.
    #[error("it wants a token to be fetched from {0}, which is this host or its own link")]
    TokenFromHere(String),
    /// Nobody answers: the innermost cause, without what a terminal obeys.
    #[error("{0}")]
    NoAnswer(String),
    /// The head of an answer is not there after so many seconds.
    #[error("no answer within {0} s")]
    LateHead(u64),
    /// A document is not there after so many seconds.
    #[error("no document within {0} s")]
    LateDocument(u64),
    /// A document has more than so many bytes.
    #[error("it sends a document of more than {0} bytes")]
    LongDocument(u64),
    /// Who is named for it gives no token.
    #[error("it names a giver of tokens, which gives none")]
    NoToken,
    /// A token would go over the network for all to read.
    #[error("it wants a token to be fetched without TLS")]
    PlainToken,
    /// An answer that is no success, with the registry's reasons, without what a terminal obeys.
    #[error("it answers {0}{reasons}", reasons = after_colon(.1))]
    Refused(StatusCode, String),
    /// Everything else that goes wrong between here and there: the innermost cause, as above.
    #[error("{0}")]
    Transport(String),
}

impl HttpError {
    /// Whether who answers speaks no TLS.
    pub fn is_no_tls(&self) -> bool {
        let (Self::NoAnswer(cause) | Self::Transport(cause)) = self else {
            return false;
        };
        cause.contains("InvalidContentType")
    }
}

/// A text, set off from what is before it.
fn after_colon(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!(": {text}")
}

/// One repository of a registry.
pub struct Http {
    client: reqwest::Client,
    /// The same, which follows no redirect: for whom a password, or a token in its place, is sent to.
    strict: reqwest::Client,
    /// `https://HOST/v2/`
    base: String,
    host: String,
    /// Without one, the registry itself is asked.
    repository: Option<String>,
    known: Known,
    authorization: Mutex<Option<HeaderValue>>,
    /// [`HEAD_TIME`], but for tests.
    head_time: Duration,
}

/// As whom a registry is asked.
enum Known {
    /// As what these have, looked up when it asks.
    Files(Credentials, OnceCell<Option<Credential>>),
    /// As this one.
    Given(Credential),
}

impl Http {
    /// A repository, as whom the credentials of this host say.
    pub fn new(endpoint: &Endpoint, credentials: &Credentials) -> Result<Self, Error> {
        let known = Known::Files(credentials.clone(), OnceCell::new());
        Self::of(endpoint, Some(endpoint.repository.clone()), known)
    }

    /// The registry itself, as whoever this is.
    pub fn as_user(endpoint: &Endpoint, credential: Credential) -> Result<Self, Error> {
        Self::of(endpoint, None, Known::Given(credential))
    }

    fn of(endpoint: &Endpoint, repository: Option<String>, known: Known) -> Result<Self, Error> {
        static CRYPTO: Once = Once::new();
        // The provider is a choice of the program and not of a library (rustls, "Cryptography
        // providers").
        CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let name = endpoint.host.as_str();
        let failed = |error| Error::Client(name.to_owned(), error);
        // The name that users know is not the registry's own.
        let host = match name {
            DOCKER_HUB => "index.docker.io",
            other => other,
        };
        let guard = Guard::of_registry(host).behind(endpoint.proxy.as_ref());
        let client = |redirects: Policy| -> Result<reqwest::Client, Error> {
            let mut client = reqwest::Client::builder()
                .user_agent(concat!("tank/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIME)
                .read_timeout(SILENCE)
                .redirect(redirects)
                .dns_resolver(Arc::new(guard.clone()));
            match &endpoint.proxy {
                Some(Proxy::None) => client = client.no_proxy(),
                Some(Proxy::Url(url)) => {
                    let proxy = reqwest::Proxy::all(url.clone()).map_err(failed)?;
                    client = client.no_proxy().proxy(proxy);
                }
                None => {}
            }
            client.build().map_err(failed)
        };
        let scheme = if endpoint.plain { "http" } else { "https" };
        Ok(Self {
            client: client(redirects(guard.clone()))?,
            strict: client(Policy::none())?,
            base: format!("{scheme}://{host}/v2/"),
            host: name.to_owned(),
            repository,
            known,
            authorization: Mutex::default(),
            head_time: HEAD_TIME,
        })
    }

    /// Whether the registry takes whoever asks, within [`HEAD_TIME`]; false: it did not ask who that is.
    pub async fn check(&self) -> Result<bool, HttpError> {
        self.get("", "*/*", 0).await?;
        let authorization = self.authorization.lock();
        Ok(authorization
            .unwrap_or_else(PoisonError::into_inner)
            .is_some())
    }

    /// A document of at most `most` bytes.
    pub async fn document(
        &self,
        path: &str,
        accept: &str,
        most: u64,
    ) -> Result<Vec<u8>, HttpError> {
        let read = async {
            let response = self.success(path, accept, 0).await?;
            match read(response, most).await? {
                (bytes, true) => Ok(bytes),
                (_, false) => Err(HttpError::LongDocument(most)),
            }
        };
        tokio::time::timeout(DOCUMENT_TIME, read)
            .await
            .unwrap_or_else(|_| Err(HttpError::LateDocument(DOCUMENT_TIME.as_secs())))
    }

    /// The answer to a request, of which the body is not read: what is behind `from` bytes, or, by whoever
    /// can't give that, all of it, as its status says. It is there within [`HEAD_TIME`].
    pub async fn get(&self, path: &str, accept: &str, from: u64) -> Result<Response, HttpError> {
        tokio::time::timeout(self.head_time, self.success(path, accept, from))
            .await
            .unwrap_or_else(|_| Err(HttpError::LateHead(self.head_time.as_secs())))
    }

    async fn success(&self, path: &str, accept: &str, from: u64) -> Result<Response, HttpError> {
        let response = self.send(path, accept, from).await?;
        // Whom the registry sent to may not ask for what is the registry's.
        let asks = response.status() == StatusCode::UNAUTHORIZED && self.is_own(response.url());
        let response = if asks {
            // A token also ends while a large image is fetched.
            let authorization = self.authorize(response.headers()).await?;
            *self
                .authorization
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(authorization);
            self.send(path, accept, from).await?
        } else {
            response
        };
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied().await),
            status => Err(refusal(status, &read(response, MAX_ERROR).await?.0)),
        }
    }

    async fn send(&self, path: &str, accept: &str, from: u64) -> Result<Response, HttpError> {
        let path = match &self.repository {
            Some(repository) => format!("{repository}/{path}"),
            None => path.to_owned(),
        };
        let mut request = self
            .client
            .get(format!("{}{path}", self.base))
            .header(ACCEPT, accept);
        let authorization = self
            .authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| failed(&error))
    }

    /// Whether this is the registry itself, and not whom it redirects to.
    fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.base).is_ok_and(|base| base.origin() == url.origin())
    }

    /// As whom to ask, if not as nobody.
    async fn credential(&self) -> Result<Option<&Credential>, CredentialError> {
        match &self.known {
            Known::Given(credential) => Ok(Some(credential)),
            Known::Files(credentials, found) => {
                let repository = self.repository.as_deref().unwrap_or_default();
                let find = || credentials.find(&self.host, repository);
                Ok(found.get_or_try_init(find).await?.as_ref())
            }
        }
    }

    async fn denied(&self) -> HttpError {
        match self.credential().await {
            Ok(credential) => HttpError::Denied(credential.map(Credential::user)),
            Err(error) => error.into(),
        }
    }

    /// What to say to a registry that asks who it is.
    async fn authorize(&self, headers: &HeaderMap) -> Result<HeaderValue, HttpError> {
        let texts = headers.get_all(WWW_AUTHENTICATE).iter();
        let texts = texts.filter_map(|value| value.to_str().ok());
        let challenges: Vec<ChallengeRef<'_>> = texts
            .filter_map(|text| http_auth::parse_challenges(text).ok())
            .flatten()
            .collect();
        let credential = self.credential().await?;
        if let Some(Credential::Bearer(token)) = credential {
            return bearer(token);
        }
        let of = |scheme: &str| {
            let mut challenges = challenges.iter();
            challenges.find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme))
        };
        if let Some(challenge) = of("bearer") {
            return self.fetch_token(challenge, credential).await;
        }
        match credential {
            Some(Credential::Basic { user, password }) if of("basic").is_some() => {
                basic(user, password)
            }
            _ => Err(self.denied().await),
        }
    }

    /// Asks the one whom the challenge names for a token.
    async fn fetch_token(
        &self,
        challenge: &ChallengeRef<'_>,
        credential: Option<&Credential>,
    ) -> Result<HeaderValue, HttpError> {
        let plain = self.base.starts_with("http:");
        let giver = TokenGiver::new(challenge, self.repository.as_deref(), (&self.host, plain))?;
        let response = giver.request(&self.strict, credential)?.send().await;
        let response = response.map_err(|error| failed(&error))?;
        match response.status() {
            status if status.is_success() => {}
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(refusal(status, &read(response, MAX_ERROR).await?.0));
            }
            _ => return Err(self.denied().await),
        }
        let (bytes, whole) = read(response, MAX_TOKEN).await?;
        let given: Token = serde_json::from_slice(&bytes)
            .ok()
            .filter(|_| whole)
            .ok_or(HttpError::NoToken)?;
        let token = given
            .token
            .or(given.access_token)
            .ok_or(HttpError::NoToken)?;
        bearer(&token)
    }
}

fn bearer(token: &str) -> Result<HeaderValue, HttpError> {
    secret(format!("Bearer {token}"))
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, HttpError> {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    secret(format!("Basic {encoded}"))
}

fn secret(text: String) -> Result<HeaderValue, HttpError> {
    let mut header = HeaderValue::try_from(text).map_err(|_| HttpError::NoToken)?;
    header.set_sensitive(true);
    Ok(header)
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Refusal {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads a body up to `most` bytes; whether that was all of it.
async fn read(mut response: Response, most: u64) -> Result<(Vec<u8>, bool), HttpError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failed(&error))? {
        let left = usize::try_from(most).unwrap_or(usize::MAX) - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if chunk.len() > left {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

fn redirects(guard: Guard) -> Policy {
    Policy::custom(move |attempt| redirect(attempt, &guard))
}

fn redirect(attempt: Attempt<'_>, guard: &Guard) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        return attempt.error(format!("it redirects more than {REDIRECTS} times"));
    }
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    if secure && attempt.url().scheme() != "https" {
        return attempt.error("it redirects from https to http");
    }
    if !guard.lets(attempt.url()) {
        return attempt.error("it redirects to this host, or to its own link");
    }
    attempt.follow()
}

/// The error of an answer that is no success (OCI distribution specification, "Error Codes").
fn refusal(status: StatusCode, body: &[u8]) -> HttpError {
    let reasons = serde_json::from_slice::<Refusal>(body)
        .map(|refusal| refusal.errors)
        .unwrap_or_default();
    let missing = [
        "MANIFEST_UNKNOWN",
        "NAME_UNKNOWN",
        "NOT_FOUND",
        "BLOB_UNKNOWN",
    ];
    if status == StatusCode::NOT_FOUND
        || reasons
            .iter()
            .any(|reason| missing.contains(&reason.code.as_str()))
    {
        return HttpError::Missing;
    }
    let texts: Vec<String> = reasons
        .iter()
        .take(8)
        .map(|one| format!("{}: {}", one.code, one.message))
        .collect();
    HttpError::Refused(status, shown(&texts.join("; ")))
}

/// A text of somebody else's, as far as a terminal can do with it.
pub fn shown(text: &str) -> String {
    // Controls, and those that turn the direction of what follows (Unicode, "Bidirectional
    // Formatting Characters").
    let moves = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let plain = text.chars().map(|c| if moves(c) { ' ' } else { c });
    let mut shown: String = plain.take(MAX_SHOWN).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Why a request failed: the innermost cause, the outer ones repeat what was asked for.
pub fn failed(error: &reqwest::Error) -> HttpError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let cause = shown(&cause.to_string());
    if error.is_connect() || error.is_timeout() {
        HttpError::NoAnswer(cause)
    } else {
        HttpError::Transport(cause)
    }
}

#[cfg(test)]
mod tests;
