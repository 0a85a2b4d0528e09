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
//! Access is anonymous. A registry that wants a token names who gives it (the distribution
//! project's "Token Authentication Specification"); `http-auth` reads that challenge. The token
//! goes to the registry alone: `reqwest` takes it off a request that is redirected to another host.

use crate::Error;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, RANGE, WWW_AUTHENTICATE},
    redirect::{Attempt, Policy},
};
use serde::Deserialize;
use std::{
    sync::{Mutex, Once, PoisonError},
    time::Duration,
};

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
    /// The registry lets only users it knows have it.
    #[error("it does not let anonymous users have it")]
    Denied,
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
    /// `https://HOST/v2/REPOSITORY/`
    base: String,
    repository: String,
    token: Mutex<Option<HeaderValue>>,
    /// [`HEAD_TIME`], but for tests.
    head_time: Duration,
}

impl Http {
    /// `plain`: without TLS.
    pub fn new(registry: &str, repository: &str, plain: bool) -> Result<Self, Error> {
        static CRYPTO: Once = Once::new();
        // The provider is a choice of the program and not of a library (rustls, "Cryptography
        // providers").
        CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let client = reqwest::Client::builder()
            .user_agent(concat!("tank/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIME)
            .read_timeout(SILENCE)
            .redirect(Policy::custom(redirect))
            .build()
            .map_err(|error| Error::Client(registry.to_owned(), error))?;
        // The name that users know is not the registry's own.
        let host = if registry == "docker.io" {
            "index.docker.io"
        } else {
            registry
        };
        let scheme = if plain { "http" } else { "https" };
        let base = format!("{scheme}://{host}/v2/{repository}/");
        Ok(Self {
            client,
            base,
            repository: repository.to_owned(),
            token: Mutex::default(),
            head_time: HEAD_TIME,
        })
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
        let response = if response.status() == StatusCode::UNAUTHORIZED {
            // A token also ends while a large image is fetched.
            let challenge = response
                .headers()
                .get(WWW_AUTHENTICATE)
                .and_then(|value| value.to_str().ok());
            let token = self
                .fetch_token(challenge.ok_or(HttpError::Denied)?)
                .await?;
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
            self.send(path, accept, from).await?
        } else {
            response
        };
        match response.status() {
            status if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(HttpError::Denied),
            status => Err(refusal(status, &read(response, MAX_ERROR).await?.0)),
        }
    }

    async fn send(&self, path: &str, accept: &str, from: u64) -> Result<Response, HttpError> {
        let mut request = self
            .client
            .get(format!("{}{path}", self.base))
            .header(ACCEPT, accept);
        let token = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.send().await.map_err(|error| failed(&error))
    }

    /// Asks the one whom the challenge names for a token.
    async fn fetch_token(&self, challenge: &str) -> Result<HeaderValue, HttpError> {
        let url = token_url(challenge, &self.repository, self.base.starts_with("http:"))?;
        let response = self
            .client
            .get(url)
            .send()
            .await
            .map_err(|error| failed(&error))?;
        if !response.status().is_success() {
            return Err(HttpError::Denied);
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
        let mut header =
            HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| HttpError::NoToken)?;
        header.set_sensitive(true);
        Ok(header)
    }
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

fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        return attempt.error(format!("it redirects more than {REDIRECTS} times"));
    }
    let secure = attempt.previous().iter().any(|url| url.scheme() == "https");
    if secure && attempt.url().scheme() != "https" {
        return attempt.error("it redirects from https to http");
    }
    attempt.follow()
}

/// Where a challenge says that tokens are given.
fn token_url(challenge: &str, repository: &str, plain: bool) -> Result<Url, HttpError> {
    let challenges = http_auth::parse_challenges(challenge).map_err(|_| HttpError::Denied)?;
    let bearer = challenges
        .iter()
        .find(|one| one.scheme.eq_ignore_ascii_case("bearer"))
        .ok_or(HttpError::Denied)?;
    let param = |name: &str| {
        bearer
            .params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.to_unescaped())
    };
    let mut url = param("realm")
        .and_then(|realm| Url::parse(&realm).ok())
        .ok_or(HttpError::Denied)?;
    if url.scheme() != "https" && !(plain && url.scheme() == "http") {
        return Err(HttpError::PlainToken);
    }
    let scope = param("scope").unwrap_or_else(|| format!("repository:{repository}:pull"));
    url.query_pairs_mut().append_pair("scope", &scope);
    if let Some(service) = param("service") {
        url.query_pairs_mut().append_pair("service", &service);
    }
    Ok(url)
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
fn shown(text: &str) -> String {
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
