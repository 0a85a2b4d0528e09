//! Who gives tokens for a registry, and how they are asked.

use super::{HttpError, basic, shown};
use crate::{credentials::Credential, guard::Guard};
use http_auth::ChallengeRef;
use reqwest::{
    RequestBuilder, Url,
    header::{AUTHORIZATION, CONTENT_TYPE},
};

/// Who gives tokens, as a registry's challenge says.
pub struct TokenGiver {
    /// Where to ask, without a query of Tank's.
    realm: Url,
    /// `service` and `scope`, where there are any.
    query: Vec<(&'static str, String)>,
}

impl TokenGiver {
    /// Of a registry with this name, which is spoken to without TLS or with it.
    pub fn new(
        challenge: &ChallengeRef<'_>,
        repository: Option<&str>,
        (registry, plain): (&str, bool),
    ) -> Result<Self, HttpError> {
        let param = |name: &str| {
            let mut params = challenge.params.iter();
            let found = params.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let realm = param("realm").and_then(|realm| Url::parse(&realm).ok());
        let realm = realm.ok_or(HttpError::NoToken)?;
        if realm.scheme() != "https" && !(plain && realm.scheme() == "http") {
            return Err(HttpError::PlainToken);
        }
        if !Guard::of_registry(registry).lets(&realm) {
            let host = realm.host_str().unwrap_or_default();
            return Err(HttpError::TokenFromHere(shown(host)));
        }
        let asked = repository.map(|repository| format!("repository:{repository}:pull"));
        let scope = asked.map(|asked| param("scope").unwrap_or(asked));
        let query = [("scope", scope), ("service", param("service"))];
        let query = query
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)));
        Ok(Self {
            realm,
            query: query.collect(),
        })
    }

    pub fn url(&self) -> Url {
        let mut url = self.realm.clone();
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }

    /// With a password by its query, with an identity token as OAuth2 has it (the distribution project's
    /// "OAuth2 Token Authentication").
    pub fn request(
        &self,
        client: &reqwest::Client,
        credential: Option<&Credential>,
    ) -> Result<RequestBuilder, HttpError> {
        Ok(match credential {
            Some(Credential::Basic { user, password }) => {
                let authorization = basic(user, password)?;
                client.get(self.url()).header(AUTHORIZATION, authorization)
            }
            Some(Credential::Identity(token)) => {
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                form.extend_pairs([("grant_type", "refresh_token"), ("client_id", "tank")]);
                form.append_pair("refresh_token", token);
                form.extend_pairs(&self.query);
                let kind = "application/x-www-form-urlencoded";
                let request = client.post(self.realm.clone());
                request.header(CONTENT_TYPE, kind).body(form.finish())
            }
            Some(Credential::Bearer(_)) | None => client.get(self.url()),
        })
    }
}
