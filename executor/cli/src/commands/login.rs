//! `tank login` and `tank logout`: credentials for registries, kept by the daemon.

use crate::{client::Client, error::Error, output};
use console::Term;
use std::{
    io::{self, IsTerminal, Read},
    path::Path,
};
use tank_proto::varlink::{LoginReply, LogoutReply, Method, Password};

/// The most bytes of a password, or a user's name, that are read.
const MAX_SECRET: u64 = 64 << 10;

/// As whom to log in.
pub struct Who {
    pub user: Option<String>,
    /// The password is all of standard input.
    pub password_stdin: bool,
}

pub async fn login(socket: &Path, registry: String, who: Who, json: bool) -> Result<u8, Error> {
    let (user, password) = ask(&registry, who)?;
    let login = Method::Login {
        registry,
        user: user.clone(),
        password: Password(password),
    };
    let reply: LoginReply = Client::connect(socket).await?.call(login).await?;
    match json {
        true => output::json(&reply)?,
        false => output::line(&format!("{} takes `{user}`", reply.registry))?,
    }
    Ok(0)
}

pub async fn logout(socket: &Path, registry: String, json: bool) -> Result<u8, Error> {
    let logout = Method::Logout { registry };
    let reply: LogoutReply = Client::connect(socket).await?.call(logout).await?;
    if json {
        output::json(&reply)?;
        return Ok(0);
    }
    let LogoutReply {
        registry,
        known,
        elsewhere,
    } = reply;
    output::line(&match known {
        true => format!("the password for {registry} is forgotten"),
        false => format!("no password for {registry} was kept"),
    })?;
    if let Some(file) = elsewhere {
        let still = "of another tool still has credentials for it, which are used";
        output::error(&format!("{file} {still}\n"));
    }
    Ok(0)
}

/// Reads what was not given: from a terminal, or the password from standard input.
fn ask(registry: &str, who: Who) -> Result<(String, String), Error> {
    let terminal = io::stdin().is_terminal();
    let wrong = |why: &'static str| Err(Error::failed(format!("log in to {registry}"), why));
    let user = match who.user {
        Some(user) => user,
        None if who.password_stdin || !terminal => {
            return wrong("name the user with --user, and give the password with --password-stdin");
        }
        None => prompt(&format!("user for {registry}: "), true)?,
    };
    if !who.password_stdin && !terminal {
        return wrong(
            "standard input is no terminal to ask at: give the password with --password-stdin",
        );
    }
    let password = match who.password_stdin {
        true => {
            let mut text = String::new();
            let read = io::stdin().take(MAX_SECRET + 1).read_to_string(&mut text);
            read.map_err(|error| Error::failed("read the password", error))?;
            // The end of the line is the pipe's, and not the password's.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            text.strip_suffix('\r').unwrap_or(text).to_owned()
        }
        false => prompt(&format!("password of {user}: "), false)?,
    };
    Ok((user, password))
}

/// A line that is typed at the terminal, which shows it or does not.
fn prompt(text: &str, shown: bool) -> Result<String, Error> {
    output::error(text);
    let terminal = Term::stderr();
    let line = match shown {
        true => terminal.read_line(),
        false => terminal.read_secure_line(),
    };
    line.map_err(|error| Error::failed("ask at the terminal", error))
}
