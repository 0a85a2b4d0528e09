//! Registries, through `oci-client`. Loopback registries are spoken to without TLS, as everywhere; others only where
//! `insecure_registries` says so.

use super::{ImageError, MAX_DOCUMENT, Origin};
use futures_util::StreamExt;
use oci_client::{
    Client, Reference as Name,
    client::{ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    manifest::{
        IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
        OciDescriptor,
    },
    secrets::RegistryAuth,
};
use oci_spec::image::Descriptor;
use std::{net::IpAddr, sync::Once, time::Duration};
use tank_model::{
    Digest,
    reference::{Reference, Source},
};
use tokio::io::AsyncWriteExt;

/// The longest silence of a registry.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest time one document may take.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(120);

/// The longest time one blob may take.
const BLOB_TIMEOUT: Duration = Duration::from_secs(3600);

const ACCEPTED: [&str; 4] =
    [OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];

pub struct Registry {
    client: Client,
    name: Name,
    repository: (String, String),
}

impl Registry {
    pub fn new(reference: &Reference, insecure: &[String]) -> Result<Self, ImageError> {
        static CRYPTO: Once = Once::new();
        // The provider is a choice of the program and not of a library (rustls, "Cryptography providers").
        CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let Source::Registry { registry, repository, tag, digest } = reference.source() else {
            return Err(ImageError::new("not an image of a registry"));
        };
        let host = registry.rsplit_once(':').map_or(registry.as_str(), |(host, _)| host);
        let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let plain = loopback || insecure.contains(registry);
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            read_timeout: Some(READ_TIMEOUT),
            connect_timeout: Some(CONNECT_TIMEOUT),
            user_agent: concat!("tank/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let client =
            Client::try_from(config).map_err(|e| ImageError::new(format!("can't speak to {registry}: {e}")))?;
        let name = match (digest, tag) {
            (Some(digest), _) => Name::with_digest(registry.clone(), repository.clone(), digest.to_string()),
            (None, tag) => {
                Name::with_tag(registry.clone(), repository.clone(), tag.clone().unwrap_or_else(|| "latest".to_owned()))
            }
        };
        Ok(Self { client, name, repository: (registry.clone(), repository.clone()) })
    }

    async fn manifest(&self, name: &Name) -> Result<Vec<u8>, ImageError> {
        let pull = self.client.pull_manifest_raw(name, &RegistryAuth::Anonymous, &ACCEPTED);
        let pulled = tokio::time::timeout(DOCUMENT_TIMEOUT, pull).await;
        let (bytes, _) = pulled.map_err(|_| self.silent())?.map_err(|error| self.explain(&error))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(ImageError::new(format!(
                "its manifest has {} bytes, the limit is {MAX_DOCUMENT}",
                bytes.len()
            )));
        }
        Ok(bytes.to_vec())
    }

    fn silent(&self) -> ImageError {
        ImageError::helped(format!("{} does not answer in time", self.repository.0), "try again later")
    }

    fn explain(&self, error: &OciDistributionError) -> ImageError {
        let (registry, repository) = &self.repository;
        match error {
            OciDistributionError::ImageManifestNotFoundError(_) => self.missing(),
            OciDistributionError::RegistryError { envelope, .. } => {
                let missing = |code: &OciErrorCode| {
                    matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound)
                };
                if envelope.errors.iter().any(|error| missing(&error.code)) {
                    return self.missing();
                }
                ImageError::new(format!("{registry} answers: {envelope}"))
            }
            OciDistributionError::ServerError { code: 404, .. } => self.missing(),
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                ImageError::new(format!("{registry} does not let anonymous users pull `{repository}`"))
            }
            OciDistributionError::RequestError(error) if error.is_connect() || error.is_timeout() => {
                let mut cause: &dyn std::error::Error = error;
                while let Some(source) = cause.source() {
                    cause = source;
                }
                let help = format!("is a registry running at `{registry}`, and can this host reach it?");
                ImageError::helped(format!("can't reach {registry}: {cause}"), help)
            }
            OciDistributionError::DigestError(error) => {
                let help = "it was changed on the way or in the registry; nothing of it was used";
                ImageError::helped(format!("what {registry} sent is not what was asked for: {error}"), help)
            }
            other => ImageError::new(format!("{registry}: {other}")),
        }
    }

    fn missing(&self) -> ImageError {
        let (registry, repository) = &self.repository;
        let named = match (self.name.digest(), self.name.tag()) {
            (Some(digest), _) => format!("digest `{digest}`"),
            (None, tag) => format!("tag `{}`", tag.unwrap_or("latest")),
        };
        let help = "look at the name and the tag: is it spelt right, and has it been pushed?";
        ImageError::helped(format!("{registry} has no {named} of `{repository}`"), help)
    }
}

impl Origin for Registry {
    async fn root(&self) -> Result<(Vec<u8>, Digest), ImageError> {
        let bytes = self.manifest(&self.name).await?;
        let digest = match self.name.digest() {
            // What was asked for by digest has to be that; the caller verifies.
            Some(digest) => digest.parse().map_err(|e| ImageError::new(format!("{e}")))?,
            None => Digest::of(&bytes),
        };
        Ok((bytes, digest))
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, ImageError> {
        let (registry, repository) = self.repository.clone();
        self.manifest(&Name::with_digest(registry, repository, digest.to_string())).await
    }

    async fn blob(&self, descriptor: &Descriptor, out: &mut tokio::fs::File) -> Result<(), ImageError> {
        let wanted = OciDescriptor {
            media_type: descriptor.media_type().to_string(),
            digest: descriptor.digest().to_string(),
            size: descriptor.size() as i64,
            ..OciDescriptor::default()
        };
        let copy = async {
            let mut stream =
                self.client.pull_blob_stream(&self.name, &wanted).await.map_err(|error| self.explain(&error))?;
            let mut left = descriptor.size();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|error| self.broken(descriptor, &error))?;
                left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
                    let (digest, size) = (descriptor.digest(), descriptor.size());
                    ImageError::new(format!("blob {digest} is longer than the {size} bytes its manifest says"))
                })?;
                out.write_all(&chunk).await.map_err(|e| ImageError::new(format!("can't write a blob: {e}")))?;
            }
            Ok(())
        };
        tokio::time::timeout(BLOB_TIMEOUT, copy).await.unwrap_or_else(|_| Err(self.silent()))
    }
}

impl Registry {
    fn broken(&self, descriptor: &Descriptor, error: &std::io::Error) -> ImageError {
        let help = "it was changed on the way or in the registry; nothing of it was used";
        ImageError::helped(format!("blob {} did not arrive whole: {error}", descriptor.digest()), help)
    }
}
