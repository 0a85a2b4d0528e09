//! `tank login` and `tank logout`: credentials for registries, kept by the daemon.

use crate::{client::Client, error::Error, output};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
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
        false if reply.tried => output::line(&format!("{} takes `{user}`", reply.registry))?,
        false => output::line(&format!(
            "{} did not ask for a password: that of `{user}` is kept as it is",
            reply.registry
        ))?,
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

/// The character that Ctrl-C types.
const INTERRUPT: u8 = 3;

/// A line that is typed at the terminal, which shows it or does not.
fn prompt(text: &str, shown: bool) -> Result<String, Error> {
    let failed = |error: io::Error| Error::failed("ask at the terminal", error);
    // Before anything asks for it: what is typed at once is not shown either.
    let hidden = match shown {
        true => None,
        false => Some(Hidden::begin().map_err(|errno| failed(errno.into()))?),
    };
    output::error(text);
    let mut line = Vec::new();
    let mut stdin = io::stdin().lock().take(MAX_SECRET + 1);
    let read = loop {
        let mut byte = [0];
        match stdin.read(&mut byte) {
            Ok(0) => break Ok(()),
            Ok(_) if byte == [b'\n'] => break Ok(()),
            Ok(_) => line.extend(byte),
            Err(error) => break Err(error),
        }
        if hidden.is_some() && byte == [INTERRUPT] {
            break Err(io::ErrorKind::Interrupted.into());
        }
    };
    if hidden.is_some() {
        output::error("\n");
    }
    drop(hidden);
    read.map_err(failed)?;
    String::from_utf8(line)
        .map_err(|_| Error::failed("ask at the terminal", "what was typed is no UTF-8"))
}

/// What is typed is not shown for as long as this is there. Ctrl-C ends the line, and not this program: the
/// terminal is put back first.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> rustix::io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        hidden
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ISIG);
        hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        // What was typed already is kept.
        tcsetattr(io::stdin(), OptionalActions::Now, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that has gone shows nothing.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
