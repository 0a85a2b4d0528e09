//! Processes in running containers.

use super::{
    Floors,
    refusal::{Refusal, internal, of_shim},
};
use crate::{
    generations::Generations,
    pods::{Pods, Shim, unexpected},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tank_model::Name;
use tank_plan::target::user::Resolved;
use tank_proto::{
    shim::{self, ExecSpec, FailureKind, Reply, Request},
    varlink::{Error, ExecCall},
};

/// The container a command is about: the one named, or the only one; or that of a run by hand.
pub fn target(
    generations: &Generations,
    pod: &str,
    container: Option<&str>,
) -> Result<(Name, Name), Refusal> {
    let (_, graph) = generations.current()?;
    match generations.run_named(&graph, pod, container) {
        Some(named) => Ok((named.pod, named.container)),
        None => declared_target(generations, pod, container),
    }
}

/// The same of what is declared alone.
pub fn declared_target(
    generations: &Generations,
    pod: &str,
    container: Option<&str>,
) -> Result<(Name, Name), Refusal> {
    let (_, graph) = generations.current()?;
    let pod = generations.declared(&graph, pod)?;
    let known: Vec<Name> = graph
        .containers(&pod)
        .map(|(name, _, _)| name.clone())
        .collect();
    let inits: Vec<Name> = graph.init(&pod).map(|(name, ..)| name.clone()).collect();
    let found = match container {
        Some(wanted) => known
            .iter()
            .chain(&inits)
            .find(|name| name.as_str() == wanted),
        None if known.len() == 1 => known.first(),
        None => None,
    };
    let found = found.cloned().ok_or_else(|| Error::NoSuchContainer {
        pod: pod.to_string(),
        container: container.map(str::to_owned),
        known: known.iter().map(ToString::to_string).collect(),
    })?;
    Ok((pod, found))
}

/// What is wrong with a command, its working directory and its streams.
pub fn check_command(
    (argv, cwd): (&[String], Option<&str>),
    has_terminal: bool,
    streams: &[OwnedFd],
) -> Result<(), String> {
    if argv.first().is_none_or(String::is_empty) {
        return Err("no command is given".to_owned());
    }
    if !has_terminal && streams.len() != 3 {
        return Err("without a terminal, three streams have to come along".to_owned());
    }
    if let Some(cwd) = cwd.filter(|cwd| !cwd.starts_with('/')) {
        return Err(format!(
            "the working directory `{cwd}` is not absolute: name it from the container's `/`"
        ));
    }
    // Neither a client's terminal nor a directory of its is ever handed into a container.
    tank_proto::stream::check_all(streams.iter().map(AsFd::as_fd)).map_err(|why| why.to_string())
}

/// Starts a process in a running container; gives its pid and the descriptors of its control.
pub async fn exec(
    floors: &Floors,
    call: ExecCall,
    streams: Vec<OwnedFd>,
) -> Result<(i32, Vec<OwnedFd>), Refusal> {
    let (generations, pods) = (&floors.generations, &floors.pods);
    let (pod, container) = target(generations, &call.pod, call.container.as_deref())?;
    let of = (call.argv.as_slice(), call.cwd.as_deref());
    let checked = check_command(of, call.rows.is_some(), &streams);
    checked.map_err(|problem| Error::invalid(vec![problem]))?;
    let program = call.argv.first().cloned().unwrap_or_default();
    let terminal = call.rows.map(|rows| (rows, call.columns.unwrap_or(80)));
    let shim = shim(pods, &pod, &container)?;
    let user = match &call.user {
        Some(user) => Some(as_user(floors, (&pod, &container), user, &shim).await?),
        None => None,
    };
    let mut env: Vec<(String, String)> = call.env.into_iter().collect();
    if let Some(found) = &user
        && !env.iter().any(|(key, _)| key == "HOME")
    {
        env.push(("HOME".to_owned(), found.home.clone()));
    }
    let spec = ExecSpec {
        container: container.to_string(),
        argv: call.argv,
        env,
        cwd: call.cwd,
        terminal,
        user: user.map(|found| shim::User {
            uid: found.user.uid,
            gid: found.user.gid,
            groups: found.user.groups,
        }),
        kill_on_close: false,
        copy: None,
    };
    let text = serde_json::to_vec(&spec).map_err(|e| internal("write a specification", e))?;
    let sealed = tank_sys::packet::sealed("exec", &text)
        .map_err(|e| internal("write a specification", e))?;
    let fds: Vec<_> = std::iter::once(sealed.as_fd())
        .chain(streams.iter().map(AsFd::as_fd))
        .collect();
    let refused = match shim.request(&Request::Exec, &fds).await {
        Ok((Reply::Executed { pid }, fds)) => return Ok((pid, fds)),
        Ok((other, _)) => of_shim(&unexpected(other), pod.as_str(), container.as_str()),
        Err(error) => match error.kind() {
            FailureKind::NotFound => Error::NotFound { program },
            FailureKind::NotExecutable => Error::NotExecutable { program },
            _ => of_shim(&error, pod.as_str(), container.as_str()),
        },
    };
    Err(refused.into())
}

/// Who a second process is to be, by the names of its container's image.
async fn as_user(
    floors: &Floors,
    (pod, container): (&Name, &Name),
    user: &str,
    shim: &Shim,
) -> Result<Resolved, Refusal> {
    let what = format!("run a command as `{user}`");
    let failed = |why: String| Error::failed(what.clone(), why);
    let state = shim.state().await;
    let state = state.map_err(|e| of_shim(&e, pod.as_str(), container.as_str()))?;
    if state.version < shim::WITH_EXEC_USER {
        return Err(failed(format!(
            "the shim of pod `{pod}` is of a Tank before this and knows the main process's user alone: `tank delete {pod}` and \
             another switch to it make it anew"
        ))
        .into());
    }
    let (_, graph) = floors.generations.current()?;
    let generations = &floors.generations;
    let named = generations.run_named(&graph, pod.as_str(), Some(container.as_str()));
    let with_run = named.map(|named| generations.graph_with(&graph, &named));
    let with_run = with_run.transpose()?;
    let graph = with_run.as_ref().unwrap_or(&graph);
    let inputs = floors.reconciler.read_inputs(graph).await?;
    let resolved = inputs.target(graph, None).user_of(pod, container, user);
    Ok(resolved.map_err(|error| failed(error.to_string()))?)
}

/// The shim of a pod whose container is asked for.
pub fn shim(pods: &Pods, pod: &Name, container: &Name) -> Result<Arc<Shim>, Refusal> {
    pods.get(pod).ok_or_else(|| {
        let (pod, container) = (pod.to_string(), container.to_string());
        Error::NotRunning { pod, container }.into()
    })
}
