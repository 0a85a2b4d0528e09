//! Credentials for registries: what is kept of them, and what is no more.

use super::refusal::Refusal;
use crate::generations::Generations;
use tank_proto::varlink::{Error, LoginReply, LogoutReply};

/// Asks a registry whether it takes a user with a password, and keeps them where it does.
pub async fn login(
    generations: &Generations,
    (registry, user, password): (&str, &str, &str),
) -> Result<LoginReply, Refusal> {
    let registries = generations.registries();
    let kept = registries.login(registry, user, password).await;
    let kept = kept.map_err(|error| failed("log in", &error))?;
    Ok(LoginReply {
        registry: kept.registry,
        tried: kept.tried,
    })
}

/// Forgets what is kept for a registry.
pub async fn logout(generations: &Generations, registry: &str) -> Result<LogoutReply, Refusal> {
    let left = generations.registries().logout(registry).await;
    let left = left.map_err(|error| failed("log out", &error))?;
    Ok(LogoutReply {
        registry: left.registry,
        known: left.known,
        elsewhere: left.elsewhere.map(|file| file.display().to_string()),
    })
}

fn failed(what: &str, error: &tank_image::Error) -> Refusal {
    let why = match error.help() {
        Some(help) => format!("{}; {help}", error.message()),
        None => error.message(),
    };
    Refusal::Error(Error::failed(what, why))
}
