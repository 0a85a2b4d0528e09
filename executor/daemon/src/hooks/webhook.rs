//! A POST for an event: JSON, as `tank events --json` has it. No redirect is followed: what is said of this host goes to whom its
//! owner named, and to nobody else. What is answered is not read.

use crate::{
    events::Event,
    settings::hooks::{Webhook, is_here},
};
use reqwest::{Client, StatusCode, Url, redirect::Policy};
use std::{error::Error, time::Duration};

/// How long one try may take, and a connection.
const LIMIT: Duration = Duration::from_secs(10);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long after one that failed the next is tried; then it is given up.
const RETRY_AFTER: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];

/// Whom to call.
pub struct Poster {
    client: Client,
    url: Url,
}

impl Poster {
    /// # Errors
    /// A text that says what is wrong with TLS here.
    pub fn new(Webhook(url): &Webhook) -> Result<Self, String> {
        // The provider is a choice of the program (rustls, "Cryptography providers"); whoever is first makes it.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut client = Client::builder()
            .user_agent(concat!("tank/", env!("CARGO_PKG_VERSION")))
            .timeout(LIMIT)
            .connect_timeout(CONNECT_LIMIT)
            .redirect(Policy::none())
            .pool_max_idle_per_host(0);
        // What is of this host is behind no proxy.
        if is_here(url) {
            client = client.no_proxy();
        }
        let client = client.build();
        let client = client.map_err(|error| innermost(&error))?;
        let url = url.clone();
        Ok(Self { client, url })
    }

    /// # Errors
    /// A text that says why it was not taken, without the address, which may have a secret.
    pub async fn post(&self, event: &Event) -> Result<(), String> {
        let text = serde_json::to_string(event).map_err(|error| error.to_string())?;
        let mut waits = RETRY_AFTER.into_iter();
        loop {
            let why = match self.try_once(text.clone()).await {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) if status.is_redirection() => {
                    return Err(format!("it answers {status}, and no redirect is followed"));
                }
                Ok(status)
                    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS =>
                {
                    return Err(format!("it answers {status}"));
                }
                Ok(status) => format!("it answers {status}"),
                Err(why) => why,
            };
            match waits.next() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(why),
            }
        }
    }

    async fn try_once(&self, text: String) -> Result<StatusCode, String> {
        let request = self.client.post(self.url.clone());
        let request = request
            .header("content-type", "application/json")
            .body(text);
        let answer = request.send().await;
        answer
            .map(|answer| answer.status())
            .map_err(|error| innermost(&error.without_url()))
    }
}

fn innermost(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
